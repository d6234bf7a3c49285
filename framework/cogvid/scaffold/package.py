"""A plugin's package: what is in it, and how it is written, whole or not at all."""

from __future__ import annotations

import json
import keyword
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from cogvid.config.options import nearest
from cogvid.errors import UserError
from cogvid.interfaces.component import KINDS, Kind
from cogvid.scaffold.kinds import TEMPLATES

# So that no line of the templates grows longer than ruff has it.
LONGEST = 30
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class NewPlugin:
    """A plugin that is to be written, and what its parts are called.

    Attributes:
        name: that it registers.
        kind: of its component.
    """

    name: str
    kind: Kind

    @property
    def module(self) -> str:
        """Of its code; its prefix keeps it apart from everybody else's modules."""
        return f"cogvid_{self.name}"

    @property
    def distribution(self) -> str:
        """What pip calls its package."""
        return f"cogvid-{self.name.replace('_', '-')}"

    @property
    def class_name(self) -> str:
        """Of its component."""
        return "".join(word.capitalize() for word in self.name.split("_")) + TEMPLATES[self.kind].suffix

    @property
    def experiment(self) -> str:
        """That ablates it."""
        return f"ablation_{self.name}"


def named(name: str, kind: str) -> NewPlugin:
    """A plugin of a name and a kind, both checked as far as nothing has to be imported for it.

    Raises:
        UserError: there is no such kind, or the name does not do as one of a module, of a package, of a variant and in
            YAML, all at once.
    """
    if kind not in KINDS:
        raise UserError(f"--kind {kind}: there is no such kind of component.{nearest(kind, KINDS)}")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} names a Python module and a package: use lower-case letters, digits and single underscores, a "
            "letter first, and no word of Python's own, such as my_window."
        )
    if len(name) > LONGEST:
        raise UserError(f"{name!r} has {len(name)} letters: use {LONGEST} at most.")
    if name == "default" or yaml.safe_load(name) != name:
        raise UserError(f"{name!r} means something else in the YAML of an experiment; choose another name.")
    plugin = NewPlugin(name, kind)
    if find_spec(plugin.module) is not None:
        raise UserError(f"A module {plugin.module} is installed already, or lies here; choose another name.")
    return plugin


def rendered(plugin: NewPlugin) -> dict[str, str]:
    """The files of a plugin's package: contents by name."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cogvid.scaffold"),
        autoescape=False,  # Python, YAML, TOML and Markdown, and a name that was checked
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = TEMPLATES[plugin.kind]
    values = {
        "plugin": plugin,
        "name": plugin.name,
        "kind": plugin.kind,
        "words": plugin.kind.replace("_", " "),
        "override": shlex.quote(template.override.replace("*", plugin.name)),
        "trials": [json.dumps(options) for options in template.trials],
    }
    sources = {
        f"{plugin.module}.py": f"{plugin.kind}.py.j2",
        f"test_{plugin.name}.py": "test.py.j2",
        f"{plugin.experiment}.yaml": f"{plugin.kind}.yaml.j2",
        "pyproject.toml": "pyproject.toml.j2",
        "README.md": "README.md.j2",
        ".gitignore": "gitignore.j2",
    }
    return {file: environment.get_template(source).render(values) for file, source in sources.items()}


def check_folder(folder: Path) -> None:
    """Refuse a folder that a package would mix with something else.

    Raises:
        UserError: it is there and not empty, or is no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is no folder"
        raise UserError(f"{folder} exists and {what}; name another with --folder. Nothing in it was touched.")


def write_package(plugin: NewPlugin, folder: Path) -> list[str]:
    """Write a plugin's package into a folder that is not there, or empty.

    Args:
        plugin: what to write.
        folder: of the package; what is above it is made where it is missing.

    Returns:
        The names of the files.

    Raises:
        UserError: the folder is not empty, or cannot be made; nothing of it was touched.
    """
    folder = folder.absolute()
    check_folder(folder)
    files = rendered(plugin)
    # Into a folder that is there already, perhaps the one that a shell stands in, files move one by one.
    there = folder.is_dir()
    partial = (folder if there else folder.parent) / f".{plugin.name}.{os.getpid()}.partial"
    moved: list[Path] = []
    try:
        partial.mkdir(parents=True)
        for name, content in files.items():
            (partial / name).write_text(content, encoding="utf-8")
        if there:
            for name in files:
                moved.append((partial / name).rename(folder / name))
            partial.rmdir()
        else:
            partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        for path in moved:
            path.unlink()
        if isinstance(error, OSError):
            raise UserError(f"{folder} cannot be made: {error.strerror}. Name another with --folder.") from error
        raise
    return list(files)
