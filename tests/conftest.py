"""Small models, and the folders of material that only some checkouts have."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Small tensors on several threads wait for each other more than they compute, and for whatever else the machine does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from cogvid import AttentionBackend, Clip, Grid
from cogvid.cli import app
from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import Video
from cogvid.data.table import CLIPS, found_row, listed_row, write_table
from cogvid.data.tokens import TABLE, TOKENS, Shard, TokenClips, shard_path, write_shard
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
