"""Named protocols: which frames of which clips are scored, and by which metrics, said once for every experiment.

A protocol is a fragment like any other, in `configs/protocol/`: an experiment takes it among its `base`, and an
evaluation of any two folders reads it alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cogvid.config.check import checked, schema
from cogvid.config.options import first_line, nearest
from cogvid.config.ranges import check_ranges
from cogvid.config.schema import EvaluationConfig
from cogvid.config.sources import YAML_SUFFIXES, display, leaves, read_layer, shipped
from cogvid.errors import UserError

_ALLOWED = ("evaluation", "plugins")


@dataclass(frozen=True)
class NamedProtocol:
    """What a protocol's file says.

    Attributes:
        evaluation: frames, clips and metrics.
        plugins: modules, or absolute paths of files, that its metrics come from.
        sources: where each key got its value, for messages.
    """

    evaluation: EvaluationConfig
    plugins: list[str]
    sources: dict[str, str]


def protocol_names() -> list[str]:
    """Protocols that can be named without a path."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def load_protocol(name: str) -> NamedProtocol:
    """The protocol of a name in ./configs/protocol or among those shipped, or of a YAML file.

    Raises:
        UserError: there is none, or it says something that no protocol says; the message names the file.
    """
    path = Path(name)
    if path.suffix not in YAML_SUFFIXES:
        found = [folder / f"{name}.yaml" for folder in _folders()]
        path = next((file for file in found if file.is_file()), path)
    if path.suffix not in YAML_SUFFIXES or not path.is_file():
        raise UserError(f"There is no protocol {name!r}.{nearest(name, protocol_names())}")
    layer = read_layer(path)
    for key in layer.tree:
        if key not in _ALLOWED:
            raise UserError(
                f"{layer.place(key)}: {key} is none of a protocol's keys, which are {' and '.join(_ALLOWED)}."
            )
    tree = checked(layer)
    merged = OmegaConf.merge(schema(), tree)
    if missing := sorted(key for key in OmegaConf.missing_keys(merged) if key.startswith("evaluation.")):
        raise UserError(f"{display(path)}: no value for {', '.join(missing)}.")
    sources = {key: layer.place(key) for key, _ in leaves(tree)}
    try:
        evaluation = cast(EvaluationConfig, OmegaConf.to_object(merged.evaluation))
    except OmegaConfBaseException as error:
        raise UserError(f"{display(path)}: {first_line(error)}.") from error
    check_ranges(evaluation, "evaluation", sources)
    if not evaluation.metrics:
        raise UserError(f"{display(path)}: the protocol has no metric: name some under evaluation.metrics.")
    evaluation.protocol.name = evaluation.protocol.name or path.stem
    return NamedProtocol(evaluation, tree.get("plugins", []), sources)


def _folders() -> list[Path]:
    return [Path("configs/protocol"), shipped() / "configs/protocol"]
