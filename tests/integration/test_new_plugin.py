"""A package of each kind, as `cogvid new-plugin` writes it: installed, listed, tested, typed, and trained with."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from cogvid.interfaces.component import KINDS
from cogvid.scaffold.package import named, write_package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = ("tokenizer", "image_base", "sequential", "interpolation")
TINY = [
    "data.options.clips=12",
    "data.options.test_clips=8",
    "model.layers=1",
    "model.width=32",
    "model.heads=2",
    "generation.samples=2",
    *(f"stages.{stage}.{what}=2" for stage in STAGES for what in ("steps", "batch_size")),
]
# One process for all commands: each takes seconds to import what it needs.
TRAIN = """
import json, sys
from typer.testing import CliRunner
from cogvid.cli import app

for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{words}: {result.output}"
"""


@pytest.fixture
def in_venv(venv: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs Python in an environment of its own, beside what this one has; gives what it says on stdout."""

    def run(*words: str, cwd: Path = tmp_path) -> str:
        command = [str(venv / "bin" / "python"), "-m", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"$ {' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    return run


def test_every_kind_installs_is_listed_passes_its_test_and_trains_untouched(
    in_venv: Callable[..., str], tmp_path: Path
) -> None:
    plugins = [named(f"new_{kind}", kind) for kind in KINDS]
    folders = [tmp_path / plugin.name for plugin in plugins]
    for plugin, folder in zip(plugins, folders, strict=True):
        write_package(plugin, folder)
    offline = ("pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    in_venv(*offline, *(word for folder in folders for word in ("-e", str(folder))))

    listed = json.loads(in_venv("cogvid", "plugins", "--json"))
    new = {item["kind"]: item for item in listed["components"] if item["name"].startswith("new_")}
    assert listed["broken"] == []
    assert {kind: item["origin"] for kind, item in new.items()} == {
        plugin.kind: f"{plugin.distribution} 0.1.0" for plugin in plugins
    }

    in_venv("pytest", "-q", "-p", "no:cacheprovider", *map(str, folders))
    if find_spec("mypy") is not None:
        code = [str(folder / f"{plugin.module}.py") for plugin, folder in zip(plugins, folders, strict=True)]
        in_venv("mypy", "--strict", "--no-incremental", *code)

    experiments = [str(folder / f"{plugin.experiment}.yaml") for plugin, folder in zip(plugins, folders, strict=True)]
    (tmp_path / "train.py").write_text(TRAIN)
    in_venv("train", json.dumps([["run", experiment, *TINY] for experiment in experiments]))
    for plugin in plugins:
        metrics = json.loads((tmp_path / "runs" / plugin.experiment / "default" / "0" / "metrics.json").read_text())
        assert metrics["sets"]["generated"]
