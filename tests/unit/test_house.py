"""The house: which rooms there are, who may import whom, and that no import goes in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Rooms of the core by floor, each with what it may import: rooms of lower floors, and what is named beside them.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "progress"),
    ("config",),
    ("interfaces",),
    ("plugins", "data", "attention", "metrics", "scaffold"),
    ("model",),
    ("training", "generation"),
    ("pipeline",),
    ("inspect", "testing"),
    ("compare",),
    ("bench", "ablation"),
    ("overview",),
    ("search",),
    ("cli",),
    ("__main__",),
)
# Tighter than by floor.
ONLY: dict[str, set[str]] = {
    "config": {"errors"},
    "interfaces": {"config", "errors"},
    "plugins": {"interfaces", "config", "errors"},
    "data": {"interfaces", "errors"},
    "attention": {"interfaces", "errors"},
    "metrics": {"interfaces", "config", "errors"},
    "scaffold": {"interfaces", "config", "errors"},
}
# Rooms of the built-in plugins: of the core they see what stands below a model, and of each other these alone.
PLUGIN_CORE = {"cogvid", "attention", "config", "data", "errors", "interfaces", "metrics", "progress"}
# A decoding may go along a schedule of its own.
PLUGIN_MORE = {"decoding": {"generation"}}
PLUGIN_ROOMS: dict[str, set[str]] = {
    "attention": set(),
    "data": set(),
    "decoding": set(),
    "frame_rate": set(),
    "frame_tokenizer": set(),
    "interpolation": set(),
    "metrics": {"shapes"},
    "shapes": set(),
    "text_tokenizer": set(),
}


def modules() -> dict[str, Path]:
    found = {}
    for root in ("framework", "plugins"):
        for path in (ROOT / root).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT / root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(source: str, known: Mapping[str, object]) -> Iterator[str]:
    """The modules among `known` that a file imports, wherever in the file, under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else str(node.module) for name in inside)


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(path.read_text(encoding="utf-8"), known)) - {name} for name, path in known.items()}


def room(module: str) -> tuple[str, str]:
    """Package and room; the room of a package's own names is the package."""
    package, _, inside = module.partition(".")
    return package, inside.partition(".")[0] or package


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """A chain from each module that reaches itself."""
    found = []
    for start in arrows:
        waiting, before = list(arrows[start]), dict.fromkeys(arrows[start], start)
        while waiting:
            here = waiting.pop()
            if here == start:
                chain = [start]
                while chain[-1] != start or len(chain) == 1:
                    chain.append(before[chain[-1]])
                found.append(chain[::-1])
                break
            for there in arrows[here] - before.keys():
                before[there] = here
                waiting.append(there)
    return found


def forbidden(arrows: Mapping[str, set[str]]) -> list[str]:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = []
    for module, targets in arrows.items():
        package, own = room(module)
        for target in targets:
            other_package, other = room(target)
            if (package, own) == (other_package, other) or own == "cogvid":
                continue
            if package == "cogvid":
                allowed = ONLY.get(own, {name for name in floor if floor[name] < floor[own]})
                ok = other_package == "cogvid" and other in allowed
            elif other_package == "cogvid":
                ok = other in PLUGIN_CORE | PLUGIN_MORE.get(own, set())
            else:
                ok = other in PLUGIN_ROOMS[own]
            if not ok:
                wrong.append(f"{module} -> {target}")
    return wrong


def test_every_room_has_its_floor() -> None:
    rooms = {room(name) for name in modules()}
    core = {name for package, name in rooms if package == "cogvid"} - {"cogvid"}
    assert core == {name for names in FLOORS for name in names}
    assert {name for package, name in rooms if package == "cogvid_plugins"} - {"cogvid_plugins"} == PLUGIN_ROOMS.keys()


def test_the_map_of_the_house_names_what_is_there() -> None:
    named = re.findall(r"`([\w/]+/)`", (ROOT / "docs" / "house.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    assert all((ROOT / name).is_dir() or (ROOT / "framework/cogvid" / name).is_dir() for name in named)


def test_no_import_goes_in_a_circle() -> None:
    assert not circles(graph())


def test_every_arrow_is_allowed() -> None:
    assert not forbidden(graph())


@pytest.mark.parametrize(
    ("arrow", "caught"),
    [
        (("cogvid.interfaces.attention", "cogvid.attention.compact"), True),
        (("cogvid.data.video", "cogvid.model.transformer"), True),
        (("cogvid.attention.mask", "cogvid.attention.compact"), False),
        (("cogvid_plugins.data.folder", "cogvid_plugins.shapes.world"), True),
        (("cogvid_plugins.attention.naive", "cogvid.pipeline.lab"), True),
        (("cogvid.pipeline.lab", "cogvid_plugins.shapes.world"), True),
    ],
)
def test_a_forbidden_arrow_is_seen(arrow: tuple[str, str], caught: bool) -> None:
    assert bool(forbidden({arrow[0]: {arrow[1]}})) == caught


def test_a_cluster_is_known_to_its_launcher_alone() -> None:
    launchers = {"ray": "cogvid.ablation.ray", "submitit": "cogvid.ablation.slurm"}
    known = dict.fromkeys((*launchers, "ray.exceptions", "submitit.helpers"))
    users = {name: set(imports(path.read_text(encoding="utf-8"), known)) for name, path in modules().items()}
    found = {(package.partition(".")[0], name) for name, packages in users.items() for package in packages}
    assert found == set(launchers.items())


def test_a_circle_is_seen_in_type_checking_imports_too() -> None:
    known = {"a": Path(), "b": Path()}
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from b import x"
    assert circles({"a": set(imports(source, known)), "b": set(imports("import a", known))})
    assert not circles({"a": {"b"}, "b": set()})
