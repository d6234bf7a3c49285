"""Run folders as `cogvid run` leaves them, for what reads them, and projects of YAML files to compose."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import cogvid
from cogvid.ablation.jobs import Job
from cogvid.ablation.launcher import Launcher, Standing
from cogvid.config import Resolved, load_experiment
from cogvid.config.schema import ExperimentConfig
from cogvid.data.video import write_video

FVD = {"metric": "fvd", "extractor": "shapes3d", "frames": 17, "height": 32, "samples": 128, "reference": "aa"}
ORACLE = {"metric": "shapes_oracle", "version": 1, "frames": 17, "reference": "aa"}
MEANINGS = {
    "fvd": {
        "fvd": {
            "title": "FVD (shapes3d)",
            "text": "distance between features of real and generated videos",
            "better": "lower",
            "unit": "",
            "error": "fvd_se",
            "headline": True,
        },
        "kvd": {"title": "KVD (shapes3d)", "text": "without bias", "better": "lower"},
    },
    "shapes_oracle": {
        "accuracy": {
            "title": "accuracy",
            "text": "right in all",
            "better": "higher",
            "unit": "share",
            "headline": True,
        },
        "path_error": {"title": "path error", "text": "to the true path", "better": "lower", "unit": "pixels"},
    },
}
CAPTIONS = ("a red square moves left", "a blue <circle> grows & shrinks")


def make_run(
    root: Path,
    variant: str = "naive",
    seed: int = 0,
    *,
    experiment: str = "study",
    fvd: float | None = 100.0,
    accuracy: float = 0.5,
    protocol: Mapping[str, Any] = FVD,
    meanings: Mapping[str, Any] = MappingProxyType(MEANINGS),
    cautions: Mapping[str, str] = MappingProxyType({}),
    overrides: Mapping[str, Any] | None = None,
    cpu: str = "Xeon",
    shared: str = "",
    held_out: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
) -> Path:
    """A run folder; `shared` names an image base that several runs point to."""
    folder = root / experiment / variant / str(seed)
    folder.mkdir(parents=True)
    config = OmegaConf.structured(ExperimentConfig(name=experiment, variant=variant, seed=seed))
    for key, value in (overrides or {}).items():
        OmegaConf.update(config, key, value)
    component = {"kind": "attention", "name": "naive", "plugin": "cogvid_plugins.attention.naive", "version": "0.1.0"}
    files = {
        "plugins.json": {"components": [component]},
        "environment.json": {
            "git_commit": "0123abc",
            "git_dirty": False,
            "python": "3.11.7",
            "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
            "hardware": {"cpu": cpu, "cores": 2, "memory_gib": 8.0 + seed, "gpu": None},
        },
        "metrics.json": scores(fvd, accuracy, protocol, meanings, cautions),
    }
    if "config.yaml" not in without:
        OmegaConf.save(config, folder / "config.yaml")
    for name, content in files.items():
        if name not in without:
            (folder / name).write_text(json.dumps(content))
    (folder / "stages").mkdir()
    make_stage(folder / "stages" / "sequential", f"sequential-{variant}-{seed}", 1.0 + seed, held_out or {})
    if shared:
        place = root / "stages" / shared
        if not place.exists():
            make_stage(place, shared, 2.0)
        (folder / "stages" / "image_base").symlink_to(Path("../../../../stages") / shared)
    if "samples" not in without:
        _make_samples(folder / "samples")
    return folder


def scores(
    fvd: float | None,
    accuracy: float,
    protocol: Mapping[str, Any],
    meanings: Mapping[str, Any],
    cautions: Mapping[str, str],
) -> dict[str, Any]:
    """A `metrics.json` in format 2."""
    records = [dict(protocol), ORACLE, {**protocol, "frames": 5}]
    own, oracle, few = (
        hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16] for record in records
    )
    read = {"accuracy": accuracy, "path_error": 1 - accuracy}

    def distance(value: float | None) -> dict[str, Any]:
        return {
            "fvd": {"protocol": own, "values": {"fvd": value, "fvd_se": 2.5, "kvd": None}, "cautions": dict(cautions)}
        }

    return {
        "format": 2,
        "sets": {
            "hold": distance(300.0),
            "key_frames": {
                "fvd": {"protocol": few, "values": {"fvd": None, "kvd": None}},
                "shapes_oracle": {"protocol": oracle, "values": read},
            },
            "generated": {**distance(fvd), "shapes_oracle": {"protocol": oracle, "values": read}},
            "linear": distance(250.0),
            "reconstruction": distance(30.0),
            "real": distance(1.0),
        },
        "protocols": dict(zip((own, oracle, few), records, strict=True)),
        "meanings": dict(meanings),
        "speed": {"tokens_per_second": 3000.0},
    }


def make_stage(folder: Path, key: str, loss: float, held_out: Mapping[str, Any] = MappingProxyType({})) -> None:
    """A finished training stage."""
    folder.mkdir(parents=True)
    summary = {"name": folder.name, "key": key, "seconds": 90.0, "steps": 300}
    summary |= {"parameters": 2_000_000, "trainable_parameters": 500_000}
    (folder / "stage.json").write_text(json.dumps(summary | held_out))
    history = [{"step": step, "loss": loss + math.exp(-step / 50)} for step in range(0, 300, 10)]
    (folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))


def _make_samples(folder: Path) -> None:
    lines = [{"index": index, "caption": caption, "rate": 1.0} for index, caption in enumerate(CAPTIONS)]
    for name in ("real", "generated"):
        (folder / name).mkdir(parents=True)
        for line in lines:
            (folder / name / f"{line['index']}.mp4").write_bytes(_mp4())
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@functools.cache
def _mp4() -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, frames, 4, lossless=False)
        return path.read_bytes()


@pytest.fixture(name="make_run")
def _make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run` below `tmp_path`, with the same options."""
    return functools.partial(make_run, tmp_path)


@pytest.fixture(name="make_stage")
def _make_stage() -> Callable[..., None]:
    """`make_stage`."""
    return make_stage


# What the jobs of `make_job` do in place of `cogvid run`, so that they begin at once.
_COMMAND = r"""
import os, signal, sys, time
from pathlib import Path

words = sys.argv[1:]
variant = words[words.index("--variant") + 1]
seed = next(word for word in words if word.startswith("seed=")).removeprefix("seed=")
run = Path(words[words.index("--runs") + 1]) / "tiny" / variant / seed

def wait_for(name, seconds=20):
    end = time.monotonic() + seconds
    while not (run / name).exists() and time.monotonic() < end:
        time.sleep(0.01)

print(variant, os.environ["OMP_NUM_THREADS"])
print("beside", file=sys.stderr)
if variant == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif variant == "refused":
    print("\nError: tiny.yaml: no such key.", file=sys.stderr)
    raise SystemExit(1)
elif variant == "imports":
    import no_such_module
elif variant == "silent":
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(3)
elif variant == "says":
    with (run / "log.txt").open("a") as file:
        file.write("2026-01-01 10:00:00,000 INFO begun\n")
        file.write("2026-01-01 10:00:01,000 ERROR ended by ValueError: out of range.\n")
    raise SystemExit(1)
elif variant in ("waits", "deaf"):
    def end(*_):
        (run / "ended").touch()
        raise SystemExit(143)
    signal.signal(signal.SIGTERM, end if variant == "waits" else signal.SIG_IGN)
    (run / "pid").write_text(str(os.getpid()))
    wait_for("go")
"""


@pytest.fixture
def make_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Makes jobs whose process is named by the variant."""
    package = tmp_path / "path" / "cogvid"
    package.mkdir(parents=True)
    # All but the command itself is what it is.
    (package / "__init__.py").write_text(f"__path__.append({str(Path(cogvid.__file__).parent)!r})")
    (package / "__main__.py").write_text(_COMMAND)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))

    def make(variant: str, seed: int = 0) -> Job:
        runs = tmp_path / "runs"
        return Job("tiny", (), variant, seed, runs, runs / "tiny" / variant / str(seed))

    return make


@pytest.fixture
def until() -> Callable[..., Mapping[Any, Standing]]:
    """Looks at a launcher's jobs until something is so."""

    def look(launcher: Launcher, done: Callable[[Mapping[Any, Standing]], object]) -> Mapping[Any, Standing]:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            standings = launcher.poll()
            if done(standings):
                return standings
            time.sleep(0.01)
        raise AssertionError(f"not in time: {launcher.poll()}")

    return look


# An experiment that has all it needs.
_STAGE = {"steps": 10, "batch_size": 2}
_COMPLETE = {
    "data": "shapes",
    "frame_rate": "lowest_fit",
    "frame_tokenizer": "vqvae",
    "text_tokenizer": "bpe",
    "attention": {"name": "local3d", "options": {"extent": [3, 2, 2], "bias": True}},
    "interpolation": "recursive",
    "stages": dict.fromkeys(["tokenizer", "image_base", "sequential", "interpolation"], _STAGE),
}


@pytest.fixture
def write_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a YAML file into an empty project, which is the current folder; its fragment `complete` has all."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    write("configs/complete.yaml", json.dumps(_COMPLETE))
    return write


@pytest.fixture
def load_lab(write_yaml: Callable[..., Path]) -> Callable[..., Resolved]:
    """Loads the experiment `lab`, which has everything and says `text`."""

    def load(text: str, *overrides: str, variant: str | None = None) -> Resolved:
        write_yaml("experiments/lab.yaml", "base: [complete]\n" + dedent(text))
        return load_experiment("lab", variant, overrides)

    return load
