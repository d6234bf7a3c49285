"""What configuration is read from: YAML files, and where they are found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from cogvid.config.options import nearest
from cogvid.errors import UserError

YAML_SUFFIXES = (".yaml", ".yml")
# Below it full keys are names, as on the command line.
_FULL_KEYS = "search.space."


@dataclass
class Layer:
    """What one source says.

    Attributes:
        tree: nested mappings of its keys.
        places: where the source says a full key (`model.layers`), in words; "" is the source as a whole.
        folder: relative plugin files stand in it.
    """

    tree: dict[str, Any]
    places: dict[str, str]
    folder: Path

    def place(self, key: str) -> str:
        """Where `key` is said, or the nearest key above it."""
        while key not in self.places:
            key = key.rpartition(".")[0]
        return self.places[key]

    def part(self, key: str, label: str = "") -> Layer:
        """The layer below `key`, `label` added to its places; empty where the key has no value.

        Raises:
            UserError: the value is not a mapping.
        """
        tree: Any = self.tree
        for name in key.split("."):
            tree = tree.get(name) or {}
            if not isinstance(tree, dict):
                raise UserError(f"{self.place(key)}: {key} must be a mapping of keys to values, got {tree!r}.")
        places = {
            place.removeprefix(key).removeprefix("."): f"{where} ({label})"
            for place, where in self.places.items()
            if f"{place}.".startswith(f"{key}.")
        }
        return Layer(tree, {"": self.place(key), **places}, self.folder)


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full keys and values of nested mappings; lists and empty mappings are values."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def display(path: Path) -> str:
    """A path for messages: relative inside the current folder."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.2 scalars: `on` and `12:30` are text, `2e-4` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the base class's table, not shared with it


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same by libyaml, where PyYAML has it; of a mistake it says less well what it is, and where."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
}
for _name, (_pattern, _first) in _SCALARS.items():
    for _loader in (_Loader, _FastLoader):
        _loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), _first)


def parse_yaml(text: str, source: str) -> tuple[Any, dict[str, str]]:
    """Values of a YAML document, and the place `source:line` of each full key.

    Raises:
        UserError: the text is not YAML, or a mapping has a key twice or a key that is not text.
    """
    with suppress(UserError):
        return _parsed(text, source, _FastLoader)
    return _parsed(text, source, _Loader)


def _parsed(text: str, source: str, loader_class: type[_Loader | _FastLoader]) -> tuple[Any, dict[str, str]]:
    places: dict[str, str] = {}

    def plain(node: yaml.Node, prefix: str) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [plain(item, f"{prefix}[{index}].") for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node)
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = f"{source}:{key_node.start_mark.line + 1}"
            name = plain(key_node, prefix)
            if not isinstance(name, str):
                raise UserError(f"{place}: the key {name!r} must be text; put it in quotes.")
            *above, last = name.split(".")
            if above and not prefix.endswith(_FULL_KEYS):
                raise UserError(f"{place}: the key {name!r} has a dot; write one mapping inside the other.")
            inner: Any = mapping
            for part in above:
                inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner
            if not isinstance(inner, dict) or last in inner:
                parts = (known for known in places if f"{known}.".startswith(f"{prefix}{above[0] if above else name}."))
                first = places[next(parts)]
                raise UserError(f"{place}: the key {prefix}{name} is given twice; the first is at {first}.")
            places[prefix + name] = place
            inner[last] = plain(value_node, f"{prefix}{name}.")
        return mapping

    try:
        loader = loader_class(text)
        node = loader.get_single_node()
        return (None if node is None else plain(node, "")), places
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}.") from error


def read_layer(path: Path) -> Layer:
    """A YAML file as a layer.

    Raises:
        UserError: it cannot be read, is not YAML, is empty, or is not a mapping.
    """
    shown = display(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown}: cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    tree, places = parse_yaml(text, shown)
    if tree is None:
        raise UserError(f"{shown}: the file is empty; it must set at least one key.")
    if not isinstance(tree, dict):
        raise UserError(f"{shown}: the file must be a mapping of keys to values, not a {type(tree).__name__}.")
    return Layer(tree, {"": shown, **places}, path.parent)


def shipped() -> Path:
    """The folder of the `configs/` and `experiments/` of cogvid itself, in the package or the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_files"
    return installed if installed.is_dir() else package.parents[1]


def experiment_files() -> dict[str, Path]:
    """Experiments that can be named without a path, by name: those in the current folder itself, those in
    ./experiments or below it, and those shipped; of a name that several have, the file that it stands for."""
    here = {path.stem: path for path in sorted(Path().glob("[!.]*.yaml")) if _may_be_an_experiment(path)}
    return dict(sorted({**_files(_experiment_folders()), **here}.items()))


def experiment_names() -> list[str]:
    """Experiments that can be named without a path."""
    return list(experiment_files())


def fragment_files() -> dict[str, Path]:
    """Fragments that every experiment of the current folder may name, by name: those below ./configs, and those
    shipped."""
    return _files([Path("configs"), shipped() / "configs"])


def find_experiment(name: str) -> Path:
    """The file of an experiment: a path, or a name in ./experiments or among those shipped.

    Raises:
        UserError: there is none; the message lists the names.
    """
    found = _first_file([Path(name), *_candidates(name, [Path(), *_experiment_folders()])])
    if found is None:
        raise UserError(f"There is no experiment {name!r}.{nearest(name, experiment_names())}")
    return found


def find_fragment(name: str, said_in: Path, experiment: Path, place: str) -> Path:
    """The file of a name under `base`.

    Looked for beside the file that says it, beside the experiment and in a `configs` folder there or one
    above, in ./configs and among those shipped, and last among the experiments.

    Args:
        name: such as `attention/local3d`, or a path ending in .yaml.
        said_in: the file that says it.
        experiment: the experiment's file.
        place: where it is said, for messages.

    Raises:
        UserError: there is none; the message lists the names.
    """
    home = experiment.resolve().parent
    configs = [home / "configs", home.parent / "configs", Path("configs"), shipped() / "configs"]
    folders = [said_in.parent, home, *configs, *_experiment_folders()]
    found = _first_file(_candidates(name, folders))
    if found is None:
        raise UserError(f"{place}: there is no fragment {name!r}.{nearest(name, _files(configs))}")
    return found


def _experiment_folders() -> list[Path]:
    return [Path("experiments"), shipped() / "experiments"]


def _candidates(name: str, folders: Sequence[Path]) -> list[Path]:
    file = name if name.endswith(YAML_SUFFIXES) else f"{name}.yaml"
    return [folder / file for folder in folders]


def _first_file(candidates: Sequence[Path]) -> Path | None:
    return next((path for path in candidates if path.suffix in YAML_SUFFIXES and path.is_file()), None)


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    """The YAML files below folders, by name; of two with one name, that of the earlier folder."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return dict(sorted(found.items()))


# Every experiment says one of them; of the other YAML files that a folder may hold hardly any does.
_OF_EXPERIMENTS = re.compile(r"""^[{"']*(base|stages)["']?\s*:""", re.MULTILINE)


def _may_be_an_experiment(path: Path) -> bool:
    """Told from the text alone: one with a slip in it is still an experiment."""
    try:
        return bool(_OF_EXPERIMENTS.search(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False
