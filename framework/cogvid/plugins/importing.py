"""Importing the module of a plugin, and telling where it comes from and why it cannot be imported."""

from __future__ import annotations

import importlib
import importlib.util
import json
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import Distribution, EntryPoint, distribution, packages_distributions
from io import StringIO
from pathlib import Path
from types import FrameType, ModuleType

from cogvid.config.options import first_line
from cogvid.errors import UserError
from cogvid.plugins.source import CORE, edited, forget, reached, source_files


@dataclass(frozen=True)
class Owner:
    """The installed distribution that holds a plugin, as far as its metadata says, which is slow to read.

    Attributes:
        editable: whether its code is a folder's that may be edited.
    """

    name: str
    version: str
    editable: bool

    @classmethod
    @lru_cache(maxsize=8)  # a distribution is asked about for each of its plugins
    def of(cls, installed: Distribution | None) -> Owner | None:
        """The owner that a distribution is; None for none."""
        if installed is None:
            return None
        about = installed.metadata
        direct_url = json.loads(installed.read_text("direct_url.json") or "{}")
        return cls(about["Name"], about["Version"], direct_url.get("dir_info", {}).get("editable", False))

    @property
    def built_in(self) -> bool:
        """Whether it is cogvid itself."""
        return self.name == CORE.name

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class PluginSource:
    """Where a plugin comes from.

    Attributes:
        name: of the entry point, module or file.
        origin: the distribution or file that holds it, in words.
        version: of its distribution; empty without one.
        file: its file, where no version tells one state of its code from another: a ./file.py, a package installed
            in editable mode, or cogvid's own.
    """

    name: str
    origin: str
    version: str = ""
    file: Path | None = None

    def __str__(self) -> str:
        return f"Plugin {self.name} ({self.origin})"


def import_entry_point(entry_point: EntryPoint) -> tuple[PluginSource, ModuleType]:
    """The plugin of an entry point.

    Raises:
        UserError: the import fails or prints; the message names the plugin, the line and the cause.
    """
    owner = Owner.of(entry_point.dist)
    _drop_edited(entry_point.value, owner)
    module = _import(entry_point.name, owner, entry_point.value, silent=True)
    return _source(entry_point.name, module, owner), module


def import_named(name: str, base: Path) -> tuple[PluginSource, ModuleType]:
    """The plugin that an experiment names: a module, or a ./file.py relative to `base`.

    Raises:
        UserError: the import fails; the message names the plugin, the line and the cause.
    """
    if name.endswith(".py"):
        path = (base / name).resolve()
        return PluginSource(path.name, str(path), file=path), _import_file(path)
    owners = packages_distributions().get(name.partition(".")[0])
    owner = Owner.of(distribution(owners[0])) if owners else None
    _drop_edited(name, owner)
    module = _import(name, owner, name, silent=False)
    return _source(name, module, owner), module


@contextmanager
def plugin_code(whose: str, verb: str, *, silent: bool) -> Iterator[None]:
    """Runs code of a plugin: it may fail, but it neither ends the command nor answers in its place.

    Args:
        whose: code it is, for messages.
        verb: what it does when it raises, for messages; also `sys.exit`, or KeyboardInterrupt without a Ctrl-C.
        silent: it must not print; else what it prints goes to stderr, since stdout belongs to the command.

    Raises:
        UserError: it raises, or prints where it must not.
    """
    printed = StringIO()
    with redirect_stdout(printed if silent else sys.stderr), _interrupts() as interrupts:
        try:
            yield
        except BaseException as error:
            if interrupts:
                raise KeyboardInterrupt from error
            raise UserError(f"{whose} {verb}: {cause_of(error)}") from error
    if printed.getvalue():
        raise UserError(
            f"{whose} prints {printed.getvalue()[:80]!r}: what stands on stdout is the command's. Log it, or print it "
            "to sys.stderr."
        )


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Notes every Ctrl-C of the user, so that one that a plugin raises by itself can be told from it."""
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def cause_of(error: BaseException) -> str:
    """`file:line: ExceptionType: message` of an exception out of a plugin's code, just caught.

    The line is the innermost one in the plugin's own file, whatever libraries it called.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}."
    # The first frames are those that caught it, and the import machinery's.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen")
        and frame.filename != importlib.__file__
        and Path(frame.filename).parent != Path(__file__).parent
    ]
    own = [f"{frame.filename}:{frame.lineno}: " for frame in frames if frame.filename == frames[0].filename]
    return f"{own[-1] if own else ''}{type(error).__name__}: {first_line(error)}."


def origin_of(owner: Owner | None) -> str:
    """What holds a plugin, in words."""
    return str(owner or "not of an installed package")


def _import(name: str, owner: Owner | None, module: str, *, silent: bool) -> ModuleType:
    before, origin = set(sys.modules), origin_of(owner)
    try:
        with plugin_code(f"Plugin {name} ({origin})", "cannot be imported", silent=silent):
            return importlib.import_module(module)
    except UserError as refused:
        # Whoever asks again in this process gets the same answer.
        package = module.partition(".")[0]
        for fresh in set(sys.modules) - before:
            if fresh.partition(".")[0] == package:
                del sys.modules[fresh]
        error = refused.__cause__
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"Plugin {name} ({origin}): there is no module {error.name}. Install the package that has "
                "it, or name a file as ./plugin.py."
            ) from error
        raise


def _import_file(path: Path) -> ModuleType:
    try:
        code = path.read_bytes()
    except OSError as error:
        raise UserError(f"Plugin {path.name}: cannot read {path}: {error.strerror}.") from error
    _drop_modules(path)
    # The module's name follows from its content and from that of all it reaches: an edited file is a new module, an
    # unchanged one loads once.
    content = f"{path} {source_files([path])}"
    module_name = f"cogvid_plugin_{path.stem}_{sha256(content.encode()).hexdigest()[:12]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look the module of a class up by its name.
    sys.modules[module_name] = module
    try:
        with plugin_code(f"Plugin {path.name} ({path})", "cannot be imported", silent=False):
            # Not through the loader, whose bytecode cache cannot tell two edits within a second.
            exec(compile(code, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _drop_edited(name: str, owner: Owner | None) -> None:
    loaded = sys.modules.get(name)
    if loaded and loaded.__file__ and not (owner and owner.built_in):
        _drop_modules(Path(loaded.__file__))


def _drop_modules(path: Path) -> None:
    """Where a file that a plugin reaches was edited since this process loaded it, let all of them be loaded anew.

    Else the code that runs and what is said of it would part.
    """
    files = [file for file in reached([path]) if not file.is_relative_to(CORE)]
    if any(map(edited, files)):
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "").resolve() in files:
                del sys.modules[name]
        for file in files:
            forget(file)
            # Bytecode cannot be told from that of another edit within the same second.
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)


def _source(name: str, module: ModuleType, owner: Owner | None) -> PluginSource:
    said_by_version = owner and not (owner.editable or owner.built_in)
    file = Path(module.__file__) if module.__file__ and not said_by_version else None
    return PluginSource(name, str(owner or module.__file__), version=owner.version if owner else "", file=file)
