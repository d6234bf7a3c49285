"""Who may import whom, read from the source without running it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import cogvid

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "framework"
SOURCES = [path for folder in ("framework", "plugins", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]

# What a configuration can be read, checked and printed without.
HEAVY = {
    "cogvid.attention",
    "cogvid.metrics",
    "cogvid.model",
    "cogvid.pipeline",
    "cogvid.training",
    "pytorch_lightning",
    "torch",
    "torchmetrics",
    "vector_quantize_pytorch",
}


def imported(source: str) -> set[str]:
    """Every module that a file imports, wherever in the file; `from a import b` counts as a and a.b."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def belongs(module: str, packages: set[str]) -> bool:
    """Whether a module is one of the packages, or inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def core_file(module: str) -> Path | None:
    """The file of a core module; `cogvid` itself is left out: its names come from where they are defined."""
    path = CORE / Path(*module.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in found if file.is_file() and module != "cogvid"), None)


def reachable(files: list[Path]) -> Iterator[tuple[Path, str]]:
    """(file, imported module) pairs of the files and of the core files they import in turn."""
    waiting, seen = list(files), set(files)
    while waiting:
        file = waiting.pop()
        for module in sorted(imported(file.read_text(encoding="utf-8"))):
            yield file, module
            found = core_file(module)
            if found is not None and found not in seen:
                seen.add(found)
                waiting.append(found)


def breaches(pairs: Iterator[tuple[Path, str]], forbidden: set[str]) -> list[str]:
    return [f"{file.relative_to(ROOT)}: {module}" for file, module in pairs if belongs(module, forbidden)]


def test_the_core_never_imports_plugins() -> None:
    assert not breaches(reachable(sorted((CORE / "cogvid").rglob("*.py"))), {"cogvid_plugins"})


def test_the_configuration_imports_no_model_and_no_training() -> None:
    assert not breaches(reachable(sorted((CORE / "cogvid/config").rglob("*.py"))), HEAVY)


def test_nobody_imports_the_source_root_as_a_package() -> None:
    assert SOURCES
    assert not breaches(((file, module) for file in SOURCES for module in imported(file.read_text())), {"framework"})
    assert not (CORE / "__init__.py").exists()


def test_no_page_tells_a_reader_to_import_the_source_root() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    lines = [f"{page.name}: {line}" for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    assert lines
    assert not [line for line in lines if "import framework" in line or "from framework" in line]


@pytest.mark.parametrize(
    "source",
    [
        "import cogvid_plugins",
        "from cogvid_plugins import naive",
        "def f():\n    import cogvid_plugins.attention.naive",
    ],
)
def test_an_import_is_seen_wherever_it_stands(source: str) -> None:
    assert any(belongs(module, {"cogvid_plugins"}) for module in imported(source))


def test_every_public_name_is_there_and_none_is_imported_before_it_is_used() -> None:
    tree = ast.parse((CORE / "cogvid" / "__init__.py").read_text())
    shown = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cogvid.")
        for alias in node.names
    }
    assert shown == cogvid._MODULES
    assert set(cogvid.__all__) == set(shown)
    assert all(getattr(cogvid, name) for name in cogvid.__all__)
    code = "import sys, cogvid.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_plugins_import_what_takes_long_where_they_use_it() -> None:
    code = (
        "import json, sys\nfrom cogvid.plugins.manager import create_plugin_manager\n"
        "create_plugin_manager().components()\nprint(json.dumps([*sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "cogvid_plugins.attention.flex" in loaded
    assert not loaded & {"torch._dynamo", "vector_quantize_pytorch", "pytorch_lightning", "tensorboard"}


# Of what cogvid requires, what its command line is made of.
_LIGHT = {"omegaconf", "pyyaml", "rich", "typer"}
_COMMANDS = (
    "--version",
    "--help",
    "run --help",
    "config quickstart model.layers=2",
    "list",
    "compare --help",
    "inspect --help",
    "bench --help",
    "data --help",
    "new-plugin --help",
    "new-plugin mine --kind nothing",
)
_RUN = """
import contextlib, io, json, sys
from cogvid.cli import main
loaded = {}
for command in json.loads(sys.argv[1]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(command.split())
    loaded[command] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(loaded))
"""


def test_commands_that_need_no_torch_import_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "runs/lab/a/0").mkdir(parents=True)
    (tmp_path / "runs/lab/a/0/config.yaml").write_text("name: lab\n")
    required = {re.split(r"[^\w-]", entry)[0].lower() for entry in requires("cogvid") or []}
    found = packages_distributions()
    heavy = {name for name, owners in found.items() if {owner.lower() for owner in owners} & (required - _LIGHT)}
    assert {"torch", "pytorch_lightning", "matplotlib", "numpy", "pyarrow", "av", "scipy", "PIL"} <= heavy
    command = [sys.executable, "-c", _RUN, json.dumps(_COMMANDS)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    loaded = json.loads(result.stdout)
    assert list(loaded) == list(_COMMANDS)
    assert not {each: names for each in loaded if (names := heavy & set(loaded[each]))}
