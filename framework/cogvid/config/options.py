"""Checking the options of a component, and answering a misspelt name with the nearest one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from cogvid.config.ranges import check_ranges, said
from cogvid.config.schema import ComponentConfig
from cogvid.errors import UserError


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence for a message: the known name most like `word` if one is, and all that are known."""
    known = sorted(known)
    guess = get_close_matches(word, known, n=1)
    return (f" Did you mean {guess[0]!r}?" if guess else "") + f" Known: {', '.join(known) or 'none'}."


def first_line(error: BaseException) -> str:
    """What an exception says, without the details on later lines."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def checked_options(
    config_class: type,
    options: Mapping[str, Any],
    component: str,
    key: str = "",
    sources: Mapping[str, str] | None = None,
) -> Any:
    """An instance of `config_class` made from options.

    Args:
        config_class: a dataclass.
        options: values by field name; the rest keep their defaults.
        component: whose options they are, in words, for messages.
        key: the configuration key of the component, for messages.
        sources: where each configuration key got its value, for messages.

    Raises:
        UserError: an option is unknown, of a wrong type, out of its range or missing; the message names its full key.
    """
    prefix = f"{key}.options" if key else "options"
    if not isinstance(options, Mapping | DictConfig):
        raise UserError(f"{prefix}: expected a mapping of options for {component}, got {options!r}.")
    schema: DictConfig = OmegaConf.structured(config_class)
    types = get_type_hints(config_class)
    # As everywhere: a component may be given by its name alone.
    spelt_out = {
        name: {"name": value} if isinstance(value, str) and types.get(name) is ComponentConfig else value
        for name, value in options.items()
    }
    try:
        config = OmegaConf.to_object(OmegaConf.merge(schema, spelt_out))
    except (OmegaConfBaseException, TypeError) as error:
        option = str(getattr(error, "full_key", None) or "")
        full_key = f"{prefix}.{option}" if option else prefix
        where = said(full_key.partition("[")[0], sources) + full_key
        if isinstance(error, ConfigKeyError):
            known = nearest(option, map(str, schema))
            raise UserError(f"{where}: {component} has no such option.{known}") from error
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{where}: {component} needs a value for this option.") from error
        raise UserError(f"{where}: wrong value for {component}: {first_line(error)}.") from error
    check_ranges(config, prefix, sources or {}, f"this option of {component}")
    return config
