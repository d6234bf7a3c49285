"""Which files a piece of work can reach: what makes a stage new, and what does not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from cogvid.pipeline.code import stage_code
from cogvid.plugins.source import CORE, source_files

TOKENS = ("tokens", "test_tokens")
STAGES = ("data", "text_tokenizer", "tokenizer", *TOKENS, "image_base", "sequential", "samples", "metrics")
TRAINED = ("tokenizer", "image_base", "sequential", "interpolation")


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    "line",
    [
        "import pack.b",
        "from pack import b",
        "from pack.b import x",
        "from . import b",
        "from .b import x",
        "def f():\n    from .b import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.b import x",
        "try:\n    import nowhere\nexcept ImportError:\n    import pack.b as c",
    ],
)
def test_an_import_is_followed_wherever_and_however_it_is_written(tmp_path: Path, line: str) -> None:
    write(tmp_path, {"pack/__init__.py": "", "pack/a.py": line, "pack/b.py": "from .c import y", "pack/c.py": "y = 1"})
    write(tmp_path, {"pack/unused.py": ""})
    files = source_files([tmp_path / "pack" / "a.py"])
    assert set(files) == {"pack/__init__.py", "pack/a.py", "pack/b.py", "pack/c.py"}


@pytest.mark.parametrize(
    "line",
    [
        'Path(__file__).with_name("table.json")',
        'Path(__file__).parent / "table.json"',
        'open("beside/table.json")',
        'Path(__file__).parent.glob("*.json")',
        'f"{name}.json"',
    ],
)
def test_a_file_that_a_module_names_counts(tmp_path: Path, line: str) -> None:
    place = "beside/table.json" if "beside" in line else "table.json"
    write(tmp_path, {"one.py": line, place: "1", "other.txt": "", "runs/table.json": ""})
    assert set(source_files([tmp_path / "one.py"])) == {"one.py", place}


def test_installed_packages_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"one.py": "import json, torch, numpy.random\nfrom rich import print"})
    assert set(source_files([tmp_path / "one.py"])) == {"one.py"}


def test_of_cogvid_itself_a_plugin_reaches_the_names_that_it_uses(tmp_path: Path) -> None:
    write(tmp_path, {"one.py": "import cogvid\nclass A(cogvid.DataSource): pass"})
    files = source_files([tmp_path / "one.py"])
    assert "cogvid/interfaces/data_source.py" in files
    assert not any("model" in name or "attention" in name for name in files)


def test_a_file_that_is_no_python_is_an_end(tmp_path: Path) -> None:
    write(tmp_path, {"one.py": "import two", "two.py": "this is no python"})
    assert set(source_files([tmp_path / "one.py"])) == {"one.py", "two.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_an_edit_of_a_command_a_report_or_a_benchmark_makes_no_stage_new(stage: str) -> None:
    rooms = {name.split("/")[1] for name in stage_code(stage)}
    assert not rooms & {"cli", "compare", "inspect", "bench", "testing", "config"}


def test_an_edit_of_a_room_makes_new_what_it_decides_and_no_more() -> None:
    def made_new(name: str) -> set[str]:
        assert (CORE.parent / name).is_file()
        return {stage for stage in STAGES if name in stage_code(stage)}

    videos = {"data", "tokenizer", *TOKENS, "samples", "metrics"}
    assert made_new("cogvid/data/reading.py") == videos
    assert made_new("cogvid/model/transformer.py") == {"image_base", "sequential", "samples"}
    assert made_new("cogvid/attention/tiles.py") == {"image_base", "sequential", "samples"}
    assert made_new("cogvid/generation/tokens.py") == {"samples"}
    assert made_new("cogvid/training/held_out.py") == {"tokenizer", "image_base", "sequential"}
    assert made_new("cogvid/training/optimizer.py") == {"tokenizer", "image_base", "sequential"}
    assert made_new("cogvid/data/text.py") == {"text_tokenizer", "image_base", "sequential", "samples"}


def test_whatever_the_stages_work_imports_is_in_the_code_of_some_stage() -> None:
    known = {name for stage in STAGES for name in stage_code(stage)}
    aside = {"cogvid/errors.py", "cogvid/progress.py", "cogvid/plugins/manager.py"}
    stages = ("data_stage", "text_stage", "tokenizer_stage", "tokens_stage", "train", "generate", "evaluate")
    parts = ("look", "clips", "lab", "token_plan", "token_reuse", "token_shards")
    for work in (*stages, *parts):
        tree = ast.parse((CORE / "pipeline" / f"{work}.py").read_text())
        found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        modules = [[node.module, *(f"{node.module}.{alias.name}" for alias in node.names)] for node in found]
        names = {
            f"{name.replace('.', '/')}.py" for import_ in modules for name in import_ if name.startswith("cogvid.")
        }
        files = {name for name in names if (CORE.parent / name).is_file()}
        missing = {
            name for name in files - known - aside if not name.startswith(("cogvid/pipeline/", "cogvid/config/"))
        }
        assert not missing, work
