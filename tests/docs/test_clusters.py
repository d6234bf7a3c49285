"""The guide to several processes, its SLURM script too, with an srun that starts tasks here."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvid.cli import app
from helpers import results

pytestmark = pytest.mark.slow

GUIDE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
SRUN = """#!{python}
import os, subprocess, sys
job = {{"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}}
tasks = [
    subprocess.Popen(
        sys.argv[1:], env={{**os.environ, **job, "SLURM_PROCID": n, "SLURM_NODEID": n, "SLURM_LOCALID": "0"}}
    )
    for n in "01"
]
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.mark.timeout(280)
def test_the_guides_commands_run(read: Callable[..., list[str]], tmp_path: Path) -> None:
    ran = read(GUIDE)
    assert [line.split()[0] for line in ran] == ["cogvid", "torchrun", "cogvid", "cogvid", "cogvid"]
    assert len(list(tmp_path.glob("runs/quickstart/default/*/metrics.json"))) == 3


@pytest.mark.timeout(280)
def test_the_slurm_script_runs(read: Callable[..., list[str]], tmp_path: Path) -> None:
    read(GUIDE, commands=False)
    # As the script says it, on machines of one CPU each.
    script = (tmp_path / "train.sbatch").read_text()
    assert len(script.splitlines()) == 10
    assert re.findall(r"--nodes=(\d).*--ntasks-per-node=(\d)", script, re.DOTALL) == [("2", "4")]
    script = script.replace("devices=4", "devices=1").replace("accelerator=gpu", "accelerator=cpu")
    (tmp_path / "srun").write_text(SRUN.format(python=sys.executable))
    (tmp_path / "srun").chmod(0o755)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script.rstrip().replace("/shared/runs", "shared") + " seed=3"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "MASTER_PORT": port},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Finished") == 1
    assert (tmp_path / "shared" / "quickstart" / "default" / "3" / "metrics.json").exists()


@pytest.mark.timeout(500)
def test_the_launchers_commands_run(read: Callable[..., list[str]], tmp_path: Path) -> None:
    for package in ("ray", "submitit"):
        pytest.importorskip(package, reason=f"needs {package}, which cogvid[ray,slurm] installs")
    read(GUIDE, commands=False)
    # As the script says it, by submitit without SLURM, and by a Ray cluster of this machine.
    script = (tmp_path / "launchers.sh").read_text().replace("\\\n", "")
    commands = [line for line in script.splitlines() if line.startswith("cogvid ")]
    assert [line.split()[1] for line in commands] == ["ablate", "data"]
    here = {
        "partition=gpu,hours=8,gpus=1,cpus=8": "cluster=local,cpus=1",
        "options cpus=4": "options cpus=1,address=local",
    }
    for said, instead in (here | {"--parts 16": "--parts 2", "/shared/runs": "shared"}).items():
        assert any(said in line for line in commands)
        commands = [line.replace(said, instead) for line in commands]
    for line in commands:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    # What submitit starts gives the results of runs that are started here.
    for variant in ("local3d", "naive"):
        with contextlib.chdir(tmp_path):
            result = CliRunner().invoke(app, ["run", "ablation_attention", "--variant", variant, "--runs", "here"])
        assert result.exit_code == 0, result.output
    assert len(results(tmp_path / "here")) == 2
    assert results(tmp_path / "shared") == results(tmp_path / "here")
    assert len(list(tmp_path.glob("shared/stages/tokens-*/stage.json"))) >= 1
