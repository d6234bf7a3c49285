"""Finding plugins, and building the components they register.

Plugins come in through the entry points of group `cogvid` and through the `plugins` an experiment names, as
modules or as ./files.py. A plugin that an experiment names must work; an installed one that does not is only
recorded as broken.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, get_args

import pluggy
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cogvid.config.options import checked_options, first_line, nearest
from cogvid.config.ranges import said
from cogvid.config.schema import ComponentConfig
from cogvid.errors import UserError
from cogvid.interfaces import hookspecs
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.component import KINDS, ComponentClass, Kind
from cogvid.interfaces.data_source import DataSource
from cogvid.interfaces.decoding import Decoding
from cogvid.interfaces.frame_rate import FrameRateScheduler
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.interfaces.interpolation import InterpolationStrategy
from cogvid.interfaces.metric import VideoMetric
from cogvid.interfaces.text_tokenizer import TextTokenizer
from cogvid.interfaces.token_source import TokenSource
from cogvid.plugins.importing import Owner, PluginSource, import_entry_point, import_named, origin_of, plugin_code
from cogvid.plugins.source import source_files

# What each hook registers: the kind, and the class, or one of the classes, that its components derive from.
HOOKS: dict[str, tuple[Kind, type | UnionType]] = {
    "register_attention_backends": ("attention", AttentionBackend),
    "register_frame_rate_schedulers": ("frame_rate", FrameRateScheduler),
    "register_interpolation_strategies": ("interpolation", InterpolationStrategy),
    "register_data_sources": ("data", DataSource | TokenSource),
    "register_frame_tokenizers": ("frame_tokenizer", FrameTokenizer),
    "register_text_tokenizers": ("text_tokenizer", TextTokenizer),
    "register_decodings": ("decoding", Decoding),
    "register_metrics": ("metric", VideoMetric),
}

_NO_DATACLASS = "is not a dataclass: put @dataclass above the Config"


@dataclass(frozen=True)
class ComponentInfo:
    """A registered component and where it comes from.

    Attributes:
        plugin: name of the entry point, module or file.
        version: of the installed distribution that holds the plugin; empty without one.
        origin: the distribution or file that holds the plugin, in words.
        file: the plugin's file, where no version tells one state of its code from another.
    """

    kind: Kind
    name: str
    cls: ComponentClass
    plugin: str
    version: str
    origin: str
    file: Path | None


@dataclass(frozen=True)
class BrokenPlugin:
    """An installed plugin that cannot be used, and why."""

    name: str
    origin: str
    cause: str


class PluginManager:
    """The components of all plugins, by kind and name. Made by `create_plugin_manager`."""

    def __init__(self) -> None:
        self.broken: list[BrokenPlugin] = []
        self._pluggy = pluggy.PluginManager("cogvid")
        self._pluggy.add_hookspecs(hookspecs)
        self._components: dict[tuple[Kind, str], list[ComponentInfo]] = {}

    def components(self) -> list[ComponentInfo]:
        """All usable components, sorted by kind and name."""
        usable = [claims[0] for claims in self._components.values() if len(claims) == 1]
        return sorted(usable, key=lambda info: (KINDS.index(info.kind), info.name))

    def get(self, kind: Kind, name: str, key: str = "", sources: Mapping[str, str] | None = None) -> ComponentInfo:
        """The component registered as `name`.

        Args:
            kind: one of `cogvid.interfaces.component.KINDS`.
            name: the registered name.
            key: the configuration key that holds the component, for messages.
            sources: where a configuration key got its value (`Resolved.provenance`), for messages.

        Raises:
            UserError: there is no such component, or several plugins claim the name.
        """
        if kind not in KINDS:
            raise UserError(f"There is no kind of component {kind!r}.{nearest(kind, KINDS)}")
        claims = self._components.get((kind, name), [])
        if len(claims) > 1:
            raise UserError(_clash(claims))
        if not claims:
            known = [info.name for info in self.components() if info.kind == kind]
            where = f"{said(f'{key}.name', sources)}{key}.name: there" if key else "There"
            broken = self._broken_hint(name)
            raise UserError(f"{where} is no {kind} component {name!r}.{nearest(name, known)}{broken}")
        return claims[0]

    def configure(
        self,
        kind: Kind,
        name: str,
        options: Mapping[str, Any] | None = None,
        key: str = "",
        sources: Mapping[str, str] | None = None,
    ) -> Any:
        """The component's `Config`, made from `options` after checking them.

        Args:
            kind, name, key, sources: as for `get`.
            options: values by option name; the rest keep their defaults.

        Raises:
            UserError: an option is unknown, of a wrong type or missing; the message names its full key.
        """
        component = self.get(kind, name, key, sources)
        return checked_options(component.cls.Config, options or {}, f"the {kind} component {name!r}", key, sources)

    def create(
        self,
        kind: Kind,
        name: str,
        options: Mapping[str, Any] | None = None,
        key: str = "",
        sources: Mapping[str, str] | None = None,
    ) -> Any:
        """Build a component from options checked against its `Config`; as `configure`.

        An option that is a component itself, a `ComponentConfig`, is of the same kind; it is built first, and stands
        in the `Config` in its place.
        """
        config = self.configure(kind, name, options, key, sources)
        for option, part in _parts(config):
            inner = f"{key}.options.{option}" if key else option
            setattr(config, option, self.create(kind, part.name, part.options, inner, sources))
        try:
            return self.get(kind, name, key).cls(config)
        except UserError as error:
            raise UserError(f"{said(key, sources)}{key}.options: {error}" if key else str(error)) from error

    def used(self, kind: Kind, name: str, options: Mapping[str, Any] | None = None) -> list[ComponentInfo]:
        """A component and those among its options, the outermost first; as `get`."""
        parts = _parts(self.configure(kind, name, options))
        inner = [info for _, part in parts for info in self.used(kind, part.name, part.options)]
        return [self.get(kind, name), *inner]

    def _broken_hint(self, component: str) -> str:
        if not self.broken:
            return ""
        names = ", ".join(plugin.name for plugin in self.broken)
        causes = "".join(f" {plugin.cause}" for plugin in self.broken if plugin.name == component)
        return f" Installed but broken: {names} (`cogvid plugins` says why).{causes}"

    def _load_installed(self, entry_point: EntryPoint) -> None:
        try:
            plugin, module = import_entry_point(entry_point)
            if not self._pluggy.is_registered(module):
                self._register(plugin, module, silent=True)
        except UserError as error:
            self.broken.append(BrokenPlugin(entry_point.name, origin_of(Owner.of(entry_point.dist)), str(error)))

    def _load_named(self, name: str, base: Path) -> None:
        plugin, module = import_named(name, base)
        if self._pluggy.is_registered(module):
            raise UserError(f"{plugin} is named twice among the experiment's plugins; name it once.")
        self._register(plugin, module, silent=False)

    def _register(self, plugin: PluginSource, module: ModuleType, *, silent: bool) -> None:
        self._check_hooks(plugin, module)
        try:
            self._pluggy.register(module)
        except pluggy.PluginValidationError as error:
            raise UserError(f"{plugin}: {first_line(error)}.") from error
        taken = []
        for info in self._components_of(plugin, module, silent=silent):
            claims = self._components.setdefault((info.kind, info.name), [])
            claims.append(info)
            if len(claims) > 1:
                taken.append(_clash(claims))
        if taken:
            raise UserError(" ".join(taken))

    def _check_hooks(self, plugin: PluginSource, module: ModuleType) -> None:
        """pluggy takes a module without hooks in silence, and one whose hook is misspelt as well."""
        marked = [name for name in dir(module) if self._pluggy.parse_hookimpl_opts(module, name) is not None]
        for name in marked:
            if name not in HOOKS:
                raise UserError(f"{plugin} implements an unknown hook {name!r}.{nearest(name, HOOKS)}")
        if not marked:
            unmarked = [name for name in HOOKS if hasattr(module, name)]
            hint = f"define {' or '.join(HOOKS)} under @cogvid.hookimpl"
            if unmarked:
                hint = f"put @cogvid.hookimpl above {unmarked[0]}"
            raise UserError(f"{plugin} has no hook: {hint}.")

    def _components_of(self, plugin: PluginSource, module: ModuleType, *, silent: bool) -> list[ComponentInfo]:
        found = []
        for hook, (kind, base) in HOOKS.items():
            # pluggy's results do not say whose they are; its implementations do.
            for implementation in getattr(self._pluggy.hook, hook).get_hookimpls():
                if implementation.plugin is not module:
                    continue
                with plugin_code(f"{plugin}: {hook}", "failed", silent=silent):
                    classes = implementation.function()
                _check_classes(f"{plugin}: {hook}", classes, base)
                for name, cls in classes.items():
                    origin = (plugin.name, plugin.version, plugin.origin, plugin.file)
                    found.append(ComponentInfo(kind, name, cls, *origin))
        return found


def create_plugin_manager(plugins: Sequence[str] = (), base: Path | None = None) -> PluginManager:
    """Load the named plugins and every installed one.

    Args:
        plugins: modules, or ./files.py.
        base: folder that relative files stand in; the current folder by default.

    Raises:
        UserError: one of `plugins` cannot be loaded, is named twice, or registers a name that is taken.
    """
    manager = PluginManager()
    for entry_point in sorted(entry_points(group="cogvid"), key=lambda point: (point.name, point.value)):
        # A plugin that is both installed and named counts as named: it has to work.
        if entry_point.value not in plugins:
            manager._load_installed(entry_point)
    for name in plugins:
        manager._load_named(name, base or Path.cwd())
    return manager


def create_component(
    kind: Kind, name: str, options: Mapping[str, Any] | None = None, plugins: Sequence[str] = ()
) -> Any:
    """Build one component, without an experiment.

    Args:
        kind: one of `cogvid.interfaces.component.KINDS`.
        name: the component's registered name.
        options: values for the fields of its `Config`.
        plugins: modules or ./files.py to load beside the installed plugins.

    Raises:
        UserError: a plugin cannot be loaded, or the component or one of its options does not exist.
    """
    return create_plugin_manager(plugins).create(kind, name, options)


def plugin_sources(info: ComponentInfo) -> dict[str, str]:
    """The source files of a component, and all that they reach: SHA-256 by name, as `source_files` has them.

    Empty for a component of an installed package, whose version tells one state of its code from another. A ./file.py,
    a package installed in editable mode and cogvid itself change without a new version: their sources count.
    """
    if info.file is None:
        return {}
    module = getattr(sys.modules.get(info.cls.__module__), "__file__", None)
    return source_files([info.file, *([Path(module)] if module else [])])


def _parts(config: Any) -> list[tuple[str, ComponentConfig]]:
    """The options of a checked `Config` that are components themselves, by name."""
    values = [(option.name, getattr(config, option.name)) for option in fields(config)]
    return [(name, value) for name, value in values if isinstance(value, ComponentConfig)]


def _clash(claims: Sequence[ComponentInfo]) -> str:
    owners = " and ".join(f"{info.plugin} ({info.origin})" for info in claims)
    return (
        f"The {claims[0].kind} component {claims[0].name!r} is registered by more than one plugin: {owners}. "
        "Rename it in one of them."
    )


def _check_classes(hook: str, classes: Any, base: type | UnionType) -> None:
    if not isinstance(classes, Mapping):
        raise UserError(f"{hook} must return a mapping from name to class, not {type(classes).__name__}.")
    for name, cls in classes.items():
        if not isinstance(name, str) or not inspect.isclass(cls):
            raise UserError(f"{hook} must return a mapping from name to class; it has {name!r}: {cls!r}.")
        registers = f"{hook} registers {cls.__name__}"
        if not issubclass(cls, base):
            raise UserError(f"{registers}, which is no subclass of cogvid's {_names(base)}.")
        # `abc` guards only classes with its metaclass, and only when they are instantiated.
        missing = [member for member in dir(cls) if getattr(getattr(cls, member, None), "__isabstractmethod__", False)]
        if missing:
            raise UserError(f"{registers}, which does not define {', '.join(missing)}.")
        config = getattr(cls, "Config", None)
        # mypy takes a class to be hashed as its instances are.
        fault = _config_fault(config) if inspect.isclass(config) else _NO_DATACLASS  # type: ignore[arg-type]
        if fault:
            raise UserError(f"{registers}, whose Config {fault}.")


def _names(base: type | UnionType) -> str:
    return " or ".join(cls.__name__ for cls in get_args(base) or (base,))


@cache  # every manager has the same installed plugins
def _config_fault(config: type) -> str:
    """What keeps a class from being a `Config`; empty for nothing."""
    # A subclass of a dataclass passes `is_dataclass` undecorated, but its own fields do not count.
    if not is_dataclass(config) or "__dataclass_fields__" not in vars(config):
        return _NO_DATACLASS
    try:
        OmegaConf.structured(config)
    except (OmegaConfBaseException, TypeError, NameError) as error:
        return f"cannot be checked: {first_line(error)}"
    return ""
