"""Small models, and the folders of material that only some checkouts have."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

# Small tensors on several threads wait for each other more than they compute, and for whatever else the machine does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from cogvid import AttentionBackend, Clip, Grid
from cogvid.cli import app
from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import Video
from cogvid.data.table import CLIPS, found_row, listed_row, write_table
from cogvid.data.tokens import TABLE, TOKENS, Shard, TokenClips, shard_path, write_shard
from cogvid.data.video import write_video
from cogvid.interfaces.mask import Stage
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig

MakeModel = Callable[..., CogVideoTransformer]
MakeTokenClips = Callable[..., TokenClips]
MakeRelease = Callable[..., Path]

# The release's stages, by number: the reference that stands in for each, and the iteration that it is of.
_STAGES = {1: ("stage1_full", 27500), 2: ("stage2_window10", 38500)}
_LATER = "mixins.extra_position_embedding.position_embeddings.weight"
# Codes of the reference's image tokenizer.
_CODES = 60
# Tokens of its text tokenizer, those behind its file's pieces counted.
_TEXT = 423


# What commands import when they need it.
_WARM = ["cogvid.cli", "cogvid.pipeline.run", "cogvid.pipeline.launch", "cogvid.pipeline.sample", "pytest"]

# A plugin with a decoding that is not exact, all frames at once, and has an option.
_HASTY = """
from dataclasses import dataclass
import cogvid, torch
from cogvid.generation.schedule import Along
class Hasty(Along):
    exact = False
    @dataclass
    class Config:
        rows: int = 1
    def schedule(self, needs):
        return torch.where(torch.tensor(needs.known)[:, None], -1, torch.arange(needs.grid.frame_tokens))
@cogvid.hookimpl
def register_decodings():
    return {"hasty": Hasty}
"""


def pytest_collection_finish() -> None:
    # All that is imported stays: a look for what hangs on itself would take half a second, and tests train often.
    gc.freeze()


@pytest.fixture
def hasty(tmp_path: Path) -> Path:
    """The file of a plugin with an approximate decoding, `hasty`."""
    path = tmp_path / "hasty.py"
    path.write_text(_HASTY)
    return path


@pytest.fixture(scope="session")
def warm() -> ForkServerContext:
    """Starts processes from one that has imported what trains and samples: a new interpreter takes seconds for that."""
    context = get_context("forkserver")
    plugins = [entry.value for entry in entry_points(group="cogvid")]
    context.set_forkserver_preload([*_WARM, *plugins])
    return context


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment of its own to install packages into, beside what this one has."""
    if find_spec("hatchling") is None:
        pytest.skip("needs hatchling, which builds the packages")
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    own = sysconfig.get_path("purelib")
    (packages / "beside.pth").write_text(f"import site; site.addsitedir({own!r})\n")
    return folder


def shared(name: str) -> Path:
    folder = Path(__file__).resolve().parents[2] / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"needs ../shared/{name} beside the repository")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """Weights and logits of the 2022 release, at toy size."""
    return shared("reference")


@pytest.fixture(scope="session")
def clips() -> Path:
    """Real video files of several formats."""
    return shared("clips")


@pytest.fixture(scope="session")
def cases() -> Path:
    """Video files that people really have, reduced."""
    return shared("cases")


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Builds models of 11 image tokens, begin-of-image and 8 text tokens."""

    def make(
        backend: AttentionBackend | None = None,
        grid: Grid = Grid(3, 2, 3),
        stage: Stage = "sequential",
        *,
        layers: int = 2,
        text_length: int = 4,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        **sizes: object,
    ) -> CogVideoTransformer:
        torch.manual_seed(seed)
        defaults = {"width": 16, "heads": 2, "vocabulary": 20, "image_vocabulary": 11, "text_positions": 12}
        config = TransformerConfig(layers=layers, text_length=text_length, grid=grid, **{**defaults, **sizes})
        model = CogVideoTransformer(config, backend, stage)
        # Weights of order one: whatever reaches a logit is then far above rounding.
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        return model.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def make_token_clips(tmp_path_factory: pytest.TempPathFactory) -> MakeTokenClips:
    """Writes tokens, two shards of them, and a clip table, and opens both.

    It takes codes (all frames, rows, columns) and numbers (all frames,) of clips on end, offsets (clips + 1,), the
    clips' captions and their times.
    """

    def make(
        codes: Tensor,
        numbers: Tensor,
        offsets: Tensor,
        captions: Sequence[tuple[str, ...]],
        times: Sequence[ClipTimes],
    ) -> TokenClips:
        folder = tmp_path_factory.mktemp("tokens")
        clips = [Clip(str(n), Path(f"{n}.mp4"), own[0], "train", own[1:]) for n, own in enumerate(captions)]
        found = [found_row(clip, Video(own, 32, 32, "h264")) for clip, own in zip(clips, times, strict=True)]
        listed = [listed_row(clip, Path()) for clip in clips]
        write_table(folder / "clips.arrow", CLIPS, [a | b for a, b in zip(listed, found, strict=True)])
        rows = []
        for shard in (0, 1):
            first, own = 0, range(shard, len(clips), 2)
            frames = [range(int(offsets[clip]), int(offsets[clip + 1])) for clip in own]
            for clip, part in zip(own, frames, strict=True):
                place = {"row": clip, "shard": shard, "first": first, "count": len(part)}
                rows.append({"id": str(clip), "key": bytes(32), "error": 0, "rates": [1.0], **place})
                first += len(part)
            picked = [frame for part in frames for frame in part]
            kept, kept_numbers = codes[picked].numpy().astype(np.uint16), numbers[picked].numpy().astype(np.int32)
            write_shard(shard_path(folder, shard), Shard(kept, kept_numbers, np.zeros(len(own), np.int64)), "")
        write_table(folder / TABLE, TOKENS, sorted(rows, key=lambda row: row["row"]))
        return TokenClips(folder, folder / "clips.arrow")

    return make


@pytest.fixture(scope="session")
def make_release(reference: Path) -> MakeRelease:
    """Writes the files of the 2022 release, made up with the reference's small models."""

    def make(folder: Path, *, codes: int, half: bool = False, side: int = 20) -> Path:
        """All files of the release, as they are laid out there; `side` of a frame in tokens."""
        for number, (name, iteration) in _STAGES.items():
            place = folder / "models" / f"cogvideo-stage{number}"
            (place / str(iteration)).mkdir(parents=True)
            (place / "latest").write_text(f"{iteration}\n")
            state = _weights(reference / f"{name}.safetensors")
            words = "transformer.word_embeddings.weight"
            state[words] = torch.nn.functional.pad(state[words], (0, 0, 0, max(0, codes + _TEXT - len(state[words]))))
            state[_LATER] = state[_LATER][: 5 * side**2].clone()
            module = {key: tensor.half() if half else tensor for key, tensor in state.items()}
            # Its training leaves more than weights.
            states = {"random_rng_state": random.getstate(), "np_rng_state": np.random.get_state()}
            torch.save(
                {"module": module, "iteration": iteration, **states},
                place / str(iteration) / "mp_rank_00_model_states.pt",
            )
        image = _with_codes(_weights(reference / "frame_tokenizer.safetensors"), codes)
        torch.save({"module": image}, folder / "ice_image.pt")
        (folder / "ice_text.model").write_bytes((reference / "text_tokenizer.model").read_bytes())
        np.save(folder / "cluster_label2.npy", np.arange(codes) % 7)
        return folder

    return make


def _weights(path: Path) -> dict[str, Tensor]:
    """What a reference file has under the names of the release."""
    return {
        name.removeprefix("weights."): tensor for name, tensor in load_file(path).items() if name.startswith("weights.")
    }


def _with_codes(tokenizer: dict[str, Tensor], codes: int) -> dict[str, Tensor]:
    """More codes, so far away that none of them is the nearest to anything."""
    far = {"quantize.embed.weight": 1000.0, "quantize.embed_avg": 1000.0, "quantize.cluster_size": 0.0}
    more = {name: torch.full((codes - _CODES, *tokenizer[name].shape[1:]), value) for name, value in far.items()}
    return tokenizer | {name: torch.cat([tokenizer[name], rows.half()]) for name, rows in more.items()}


@pytest.fixture
def run_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, Any]]:
    """Rehearses a benchmark in an empty folder: its exit code, what it says, and its record, if there is one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[int, str, Any]:
        result = CliRunner().invoke(app, ["bench", *words, "--rehearse", "--out", "results/out.json"])
        file = Path("results/out.json")
        return result.exit_code, result.output, json.loads(file.read_text() or "{}") if file.exists() else {}

    return run


PROMPTS = (
    "a red square moves left, then right",
    "a blue circle <script>alert('x')</script> grows & shrinks",
    'a "green" ring waits',
)
_BOUNDS = ("real", "reconstruction", "linear", "hold")
# Key, group, title, unit, direction, whether a headline; the baseline's mean, the spread of seeds, what each further
# variant is off by; real, reconstruction, linear, hold.
_QUANTITIES = """
fvd        | quality  | FVD (shapes3d)               | -       | lower  | yes | 41.2 1.6 -6.5       | 0.4 12.1 77.0 93.5
kvd        | quality  | KVD (shapes3d)               | -       | lower  | yes | 2.31 0.2 -0.1       | 0.01 0.6 4.4 5.2
is         | quality  | IS (shapes3d)                | -       | higher | yes | 11.4 0.3 0.2        | 19.8 18.2 15 13.1
accuracy   | quality  | oracle accuracy              | share   | higher | yes | 0.61 0.02 0.07      | 1.0 0.97 0.92 0.90
path       | quality  | path error                   | pixels  | lower  | yes | 3.12 0.21 -0.02     | 0.0 0.31 1.4 2.2
recall     | quality  | recall                       | share   | higher | no  | 0.44 0.03 0.01      | 0.99 0.9 0.7 0.66
loss       | held_out | held-out loss, sequential    | nats    | lower  | yes | 2.1043 0.002 -0.011 |
loss-2     | held_out | held-out loss, interpolation | nats    | lower  | no  | 1.2043 0.002 0.001  |
parameters | cost     | parameters                   | count   | -      | no  | 1212112 0 0         |
time       | cost     | training time                | seconds | -      | no  | 412.0 9 40          |
"""


@pytest.fixture(scope="session")
def make_comparison(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A comparison of variants with runs on the disk, small videos and histories, for what shows comparisons."""

    def make(
        variants: Sequence[str] = ("local3d", "swin_ar", "naive"),
        seeds: Sequence[int] = (0, 1, 2),
        prompts: Sequence[str] = PROMPTS,
        side: int = 32,
        histories: bool = False,
        **changes: Any,
    ) -> Any:
        from cogvid.compare.comparison import Column, Comparison, Row, Trouble

        root = tmp_path_factory.mktemp("comparison")
        random = np.random.default_rng(0)
        columns = []
        cells: dict[str, dict[str, Any]] = {label: {} for label in (*variants, *_BOUNDS)}
        for line in _QUANTITIES.strip().splitlines():
            key, group, title, unit, better, headline, numbers, bounds = (part.strip() for part in line.split("|"))
            column = Column(
                key=key,
                group=group,
                title=title,
                text=f"What {title} says, in a line.",
                unit=unit.strip("-"),
                better=better.strip("-") or None,
                headline=headline == "yes",
                protocol="ab12cd34" if group == "quality" else "",
            )
            columns.append(column)
            mean, spread, off = map(float, numbers.split())
            values = [{s: mean + off * i + spread * random.normal() for s in seeds} for i in range(len(variants))]
            for label, found in zip(variants, values, strict=True):
                cells[label][key] = _cell(found, values[0], column)
            for label, value in zip(_BOUNDS, bounds.split(), strict=False):
                cells[label][key] = _cell({0: float(value)})
        rows = [
            Row(
                label,
                "variant",
                cells[label],
                tuple(_run(root, label, i, seed, prompts, side, histories) for seed in seeds),
                i,
            )
            for i, label in enumerate(variants)
        ]
        rows += [Row(label, "bound", cells[label]) for label in _BOUNDS]
        return Comparison(
            **{
                "columns": tuple(columns),
                "rows": tuple(rows),
                "baseline": variants[0],
                "protocols": {"ab12cd34": {"metric": "fvd", "extractor": "shapes3d", "frames": 17, "clips": 384}},
                "config": {"attention.name": tuple(variants), "attention.options.extent": ("[2, 2, 3]", "-", "-")},
                "environment": {"hardware.cores": tuple("2" for _ in variants)},
                "troubles": (Trouble("study/local3d/3", "failed: CUDA out of memory"),),
                "notes": ("Run from a checkout with uncommitted changes: naive.",),
            }
            | changes
        )

    return make


def _cell(seeds: dict[int, float], baseline: dict[int, float] | None = None, column: Any = None) -> Any:
    from cogvid.compare.comparison import Cell, Difference

    found = np.array(list(seeds.values()))
    mean, half = float(found.mean()), 0.0
    if len(found) > 1:
        half = 4.303 * float(found.std(ddof=1)) / len(found) ** 0.5
    interval = (mean - half, mean + half) if len(found) > 1 else None
    difference = None
    if baseline is not None and baseline is not seeds:
        pairs = found - np.array(list(baseline.values()))
        shift = float(pairs.mean())
        if len(pairs) == 1:
            difference = Difference(shift, None, 1, None, None, "one seed")
        else:
            wide = 4.303 * float(pairs.std(ddof=1)) / len(pairs) ** 0.5
            sure = abs(shift) > wide > 0 and column.better is not None
            good = (shift > 0) == (column.better == "higher")
            verdict = ("better" if good else "worse") if sure else "undecided"
            p = 0.01 if sure else 0.4
            difference = Difference(shift, (shift - wide, shift + wide), len(pairs), p, p, verdict)
    return Cell(dict(seeds), mean, interval, 0.8 if len(found) == 1 and baseline else None, difference)


def _run(root: Path, variant: str, place: int, seed: int, prompts: Sequence[str], side: int, histories: bool) -> Any:
    from cogvid.compare.read import RunRecord, Stage

    random = np.random.default_rng((place, seed))
    stages = {}
    for number, name in enumerate(("tokenizer", "image_base", "sequential", "interpolation")):
        shared_stage = number < 2
        steps = range(1, 601, 2)
        noise = np.random.default_rng(seed) if shared_stage else random
        level = 2 + number / 5 - (0 if shared_stage else 0.05 * place)
        losses = tuple((s, float(level + 3 * np.exp(-s / 90) + 0.06 * noise.normal())) for s in steps)
        held_out = tuple(
            (s, float(level + 0.1 + 3 * np.exp(-s / 90) + 0.01 * noise.normal())) for s in range(100, 601, 100)
        )
        identity = f"{name}-{seed}" + ("" if shared_stage else f"-{variant}")
        summary = {"seconds": 90.0 + 12 * place + seed, "steps": 600, "parameters": 1_212_112, "resumed": False}
        if histories:
            stages[name] = Stage(name, identity, True, summary, losses, held_out)
    options = {"local3d": {"extent": [2, 2, 3]}}.get(variant, {})
    videos: dict[str, dict[tuple[str, float], Path]] = {"real": {}, "generated": {}}
    for number, prompt in enumerate(prompts):
        for name in videos:
            path = root / "runs" / variant / str(seed) / f"{name}-{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, _clip(number, 0 if name == "real" else 0.5 + place, seed, side), 8.0, lossless=False)
            videos[name][prompt, 2.0] = path
    # A reader of an older format has this without a default.
    older: dict[str, Any] = {"protocol": {}} if "protocol" in RunRecord.__dataclass_fields__ else {}
    return RunRecord(
        **older,
        folder=root / "runs" / variant / str(seed),
        experiment="study",
        variant=variant,
        seed=seed,
        config={
            "attention.name": variant,
            **{f"attention.options.{key}": value for key, value in options.items()},
            "frame_tokenizer.name": "vqvae",
            "frame_tokenizer.options.downsampling": 4,
            "video.frames": 5,
            "video.size": 32,
            **{f"stages.{name}.batch_size": 8 for name in stages},
        },
        environment={"git_commit": "0123abcdef", "python": "3.11.7", "hardware.cpu": "Xeon", "hardware.cores": 2},
        stages=stages,
        sets={},
        speed={},
        videos=videos,
        lacks=(),
    )


def _clip(number: int, blur: float, seed: int, side: int) -> NDArray[np.uint8]:
    """A square that crosses 17 frames; of a model it wavers."""
    random = np.random.default_rng((number, seed))
    frames = np.full((17, side, side, 3), 24 + 8 * number, dtype=np.uint8)
    colour = np.eye(3, dtype=np.uint8)[number % 3] * 190 + 40
    size = side // 4
    for t, frame in enumerate(frames):
        x = round(t / 16 * (side - size))
        wavering = random.normal(size=2) * blur * side / 40 if blur else (0, 0)
        y = min(max(side // 3 + round(wavering[0]), 0), side - size)
        x = min(max(x + round(wavering[1]), 0), side - size)
        frame[y : y + size, x : x + size] = colour
    return frames
