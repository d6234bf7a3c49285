"""Frames that are no squares, the whole way: rows and columns are never taken for each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.data.frame_format import FrameFormat
from cogvid.data.reading import probe, read_frames
from cogvid.data.video import write_video

PROMPT = "a small red circle moves left"
WINDOWS = "{name: swin_ar, options: {window: [2, 3]}}"
ATTENTIONS = {
    "local3d": "{name: local3d, options: {extent: [2, 2, 3], bias: true}}",
    "naive": "naive",
    "swin_ar": WINDOWS,
    "auto": f"{{name: auto, options: {{pattern: {WINDOWS}}}}}",
    "triton": f"{{name: triton, options: {{pattern: {WINDOWS}}}}}",
}
TRANSFORMERS = ("image_base", "sequential", "interpolation")
FEW = [f"stages.{stage}.steps=1" for stage in ("tokenizer", *TRANSFORMERS)]

# A tokenizer that has nothing to learn: a token is the colour of its square of pixels, one of eight.
COLOURS = """
import torch
from torch import nn
from torch.nn import functional as F
import cogvid
class Colours(cogvid.FrameTokenizer):
    codebook_size, downsampling = 8, 8
    def __init__(self, config=None):
        super().__init__(config)
        self.nothing = nn.Parameter(torch.ones(()))
    def encode(self, frames):
        red, green, blue = (F.avg_pool2d(frames, 8) > 0.5).long().unbind(1)
        return 4 * red + 2 * green + blue
    def decode(self, codes):
        cells = torch.stack([codes // 4, codes // 2 % 2, codes % 2], 1).float()
        return cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    def training_loss(self, frames):
        return self.nothing.square(), {"reconstruction": self.nothing.detach(), "codes_used": self.nothing.detach()}
@cogvid.hookimpl
def register_frame_tokenizers():
    return {"colours": Colours}
"""
# Two rows, three columns; transposed, or read in another order, none is another or itself.
FLAGS = {
    "first": [[4, 2, 1], [6, 0, 7]],
    "second": [[7, 4, 3], [1, 5, 2]],
    "third": [[0, 6, 2], [4, 1, 5]],
}
MEMORY = """
base: [model/small, attention/local3d, interpolation/recursive, trainer/cpu]
plugins: [./colours.py]
data: {name: folder, options: {path: FOLDER}}
frame_tokenizer: colours
frame_rate: {name: fixed, options: {rate: 4}}
video: {size: [16, 24], frames: 3}
text: {length: 16}
text_tokenizer: {name: bpe, options: {vocabulary: 260}}
model: {layers: 2, width: 32, heads: 2}
stages:
  tokenizer: {steps: 1, batch_size: 1}
  image_base: &stage {steps: 60, batch_size: 6, adam_lr: 3.0e-3, muon_lr: 0.02, clip_norm: 0}
  sequential: *stage
  interpolation: *stage
generation:
  samples: 3
  frames: 5
  first_frame: &greedy {temperature: 0}
  sequential: *greedy
  interpolation: *greedy
"""


def cogvid(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def frames_of(path: Path) -> Tensor:
    return read_frames(path, range(len(probe(path).times)))


def flag(caption: str) -> Tensor:
    """The picture of a caption, uint8 (3, 16, 24)."""
    codes = torch.tensor(FLAGS[caption])
    cells = 255 * torch.stack([codes // 4, codes // 2 % 2, codes % 2])
    return cells.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of models that learned three pictures of 2x3 cells by heart."""
    folder = tmp_path_factory.mktemp("memory")
    rows = []
    for caption in FLAGS:
        for split in ("train", "test"):
            rows.append({"file": f"{caption}-{split}.mp4", "caption": caption, "split": split})
            # Stored twice as large: they are resized.
            picture = flag(caption).repeat_interleave(2, 1).repeat_interleave(2, 2)
            write_video(folder / rows[-1]["file"], picture.expand(9, -1, -1, -1), fps=8)
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "colours.py").write_text(COLOURS)
    (folder / "memory.yaml").write_text(MEMORY.replace("FOLDER", str(folder)))
    cogvid("run", folder / "memory.yaml", "--runs", folder / "runs")
    return folder / "runs" / "memory" / "default" / "0"


def test_tokens_of_real_files_are_the_cells_of_their_frames(memory: Path) -> None:
    codes = load_file(memory / "samples" / "tokens.safetensors")["real"]
    assert codes.unflatten(2, (2, 3))[:, 0].tolist() == list(FLAGS.values())
    videos = load_file(memory / "samples" / "videos.safetensors")
    assert torch.equal(videos["reconstruction"][:, 0], torch.stack([flag(caption) for caption in FLAGS]))


def test_what_models_of_2x3_cells_learned_is_what_they_generate(memory: Path) -> None:
    videos = load_file(memory / "samples" / "videos.safetensors")
    wanted = torch.stack([flag(caption) for caption in FLAGS])
    assert torch.equal(videos["generated"], wanted[:, None].expand(-1, 5, -1, -1, -1))
    for number, caption in enumerate(FLAGS):
        shown = frames_of(memory / "samples" / "generated" / f"{number:04d}.mp4")
        # Small videos are shown enlarged, by a whole factor.
        assert shown.shape == (5, 3, 5 * 16, 5 * 24)
        assert (shown[:, :, 20::40, 20::40].float() - flag(caption)[:, 4::8, 4::8]).abs().max() < 40


def test_samples_of_2x3_cells_show_what_was_learned(memory: Path, tmp_path: Path) -> None:
    cogvid("sample", memory, "second", "--frames", 9, "--gif", "--out", tmp_path)
    (video,), (tokens,) = tmp_path.glob("*.mp4"), tmp_path.glob("*.safetensors")
    assert load_file(tokens)["codes"].unflatten(1, (2, 3)).tolist() == [FLAGS["second"]] * 9
    with Image.open(next(tmp_path.glob("*.gif"))) as gif:
        assert gif.size == (120, 80)
    shown = frames_of(video)
    assert shown.shape == (9, 3, 80, 120)
    assert (shown[:, :, 20::40, 20::40].float() - flag("second")[:, 4::8, 4::8]).abs().max() < 40


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """An experiment file of frames of 32x48 pixels; all that is run of it shares the stages before the attention."""
    path = tmp_path_factory.mktemp("wide") / "wide.yaml"
    path.write_text(tiny_text + "video: {size: [32, 48]}\nname: wide\n")
    return path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "triton" else []) for name in ATTENTIONS]
)
def test_every_attention_runs_the_whole_way_on_rectangles(wide: Path, name: str, tmp_path: Path) -> None:
    runs = wide.parent / "runs"
    changes = [f"attention={ATTENTIONS[name]}", f"name={name}", "generation.samples=2", *FEW]
    run = ["run", wide, "--runs", runs, *changes]
    if name == "triton":
        # Its interpreter has to be switched on before anything imports Triton, and takes seconds for a sequence.
        pytest.importorskip("triton")
        run += [f"stages.{stage}.batch_size=1" for stage in ("sequential", "interpolation")]
        run += ["model.layers=1", "model.heads=1", "text.length=32"]
        run += ["generation.samples=1", f"trainer.sample_prompts=[{PROMPT}]"]
        command = [sys.executable, "-m", "cogvid", *map(str, run)]
        subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True, timeout=250)
    else:
        cogvid(*run)
    cogvid("sample", runs / name / "default" / "0", PROMPT, "--out", tmp_path)
    folder = runs / name / "default" / "0"
    metrics = json.loads((folder / "metrics.json").read_text())
    # The oracle reads rectangles as what they show.
    values = metrics["sets"]["real"]["oracle"]["values"]
    assert [values[score] for score in ("colour", "shape", "size", "motion")] == [1] * 4
    protocol = metrics["protocols"][metrics["sets"]["generated"]["oracle"]["protocol"]]
    assert (protocol["height"], protocol["width"], protocol["fit"]) == (32, 48, "crop")
    assert load_file(folder / "samples" / "tokens.safetensors")["generated"].shape[1:] == (9, 4 * 6)
    for path in (folder / "samples" / "generated" / "0000.mp4", *tmp_path.glob("*.mp4")):
        assert frames_of(path).shape == (9, 3, 64, 96)


@pytest.mark.parametrize("name", [*ATTENTIONS, "flex"])
def test_every_attention_is_inspected_on_the_grid_of_rectangles(
    wide: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    attention = ATTENTIONS.get(name, f"{{name: {name}, options: {{pattern: {WINDOWS}}}}}")
    for words in (["inspect"], ["inspect", "schedule"]):
        assert "5x4x6" in cogvid(*words, wide, f"attention={attention}")


REAL = """
base: [model/small, attention/swin_ar, frame_rate/lowest_fit, interpolation/recursive, trainer/cpu]
data: {name: folder, options: {path: FOLDER}}
frame_rate: {options: {rates: [4, 8]}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 16, codes: 32, code_size: 8, crop: 0}}
video: {size: [16, 24], fit: FIT}
text: {length: 16}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
model: {layers: 1, width: 16, heads: 2}
stages: {tokenizer: &stage {steps: 2, batch_size: 2}, image_base: *stage, sequential: *stage, interpolation: *stage}
generation: {samples: 1, frames: 9}
"""


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_real_clips_train_2x3_cells_as_they_are_made_to_fit(clips: Path, tmp_path: Path, fit: str) -> None:
    names = {"short.mp4": "train", "part_0.mp4": "test"}
    rows = [{"file": name, "caption": name[:4], "split": split} for name, split in names.items()]
    for name in names:
        (tmp_path / name).symlink_to(clips / name)
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "real.yaml").write_text(REAL.replace("FOLDER", str(tmp_path)).replace("FIT", fit))
    cogvid("run", tmp_path / "real.yaml", "--runs", tmp_path / "runs")
    folder = tmp_path / "runs" / "real" / "default" / "0"
    videos = load_file(folder / "samples" / "videos.safetensors")
    assert {video.shape[2:] for video in videos.values()} == {(3, 16, 24)}
    real, file = videos["real"][0], clips / "part_0.mp4"
    every = read_frames(file, range(32), FrameFormat(16, 24, fit))  # type: ignore[arg-type]
    assert torch.equal(real[0], every[0])
    assert all((every == frame).flatten(1).all(1).any() for frame in real)
    # Its 340x256 pixels are shown as 455x256: fourteen rows of the frame.
    black = (real == 0).all(0).all(0).all(1)
    assert black.nonzero().flatten().tolist() == ([0, 15] if fit == "pad" else [])
