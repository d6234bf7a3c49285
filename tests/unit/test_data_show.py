"""`cogvid data show`: samples as training draws them, on a page and a contact sheet."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.config.compose import load_experiment
from cogvid.data.frame_format import FrameFormat
from cogvid.data.reading import read_frames
from cogvid.data.video import write_video
from cogvid.inspect.data_page import write_samples
from cogvid.inspect.data_samples import Samples, draw_samples
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageStore
from cogvid.pipeline.tokenizer_stage import decode, encode, load_tokenizer, tokenizer_stage

EXPERIMENT = """
base: [model/small, attention/local3d, data/folder, interpolation/recursive, trainer/cpu]
data: {name: folder, options: {path: videos}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 8, codes: 16, code_size: 4, crop: 0}}
video: {size: 16, frames: 5}
text: {length: 60}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
stages:
  tokenizer: {steps: 1, batch_size: 1, clusters: 2}
  image_base: {steps: 1, batch_size: 1}
  sequential: {steps: 1, batch_size: 1}
  interpolation: {steps: 1, batch_size: 1}
generation: {frames: 9}
frame_rate: {name: uniform, options: {rates: [2, 4]}}
"""
# A source of parts of videos.
PARTS = """
from pathlib import Path
import cogvid


class Parts(cogvid.DataSource):
    def clips(self, folder, seed, progress):
        for split in ("train", "test"):
            yield cogvid.Clip(split, Path("videos/0.mp4" if split == "train" else "videos/1.mp4"), "a part", split,
                              captions=("one more",), span=(1.0, 4.0))


@cogvid.hookimpl
def register_data_sources():
    return {"parts": Parts}
"""


def gray(number: int) -> int:
    """What frame `number` of the videos shows: H.264 in RGB keeps it exactly."""
    return 5 * number


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three videos of 40 frames, 8 a second, each frame of its own gray, and an experiment on them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    pixels = np.full((40, 24, 32, 3), gray(np.arange(40))[:, None, None, None], dtype=np.uint8)  # type: ignore[arg-type, index]
    for number in range(3):
        write_video(tmp_path / f"videos/{number}.mp4", pixels, fps=8)
    write_captions("a cat", "a dog", "a bird")
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    return tmp_path


def write_captions(*captions: str) -> None:
    splits = ("train", "train", "test")
    rows = [{"file": f"{n}.mp4", "caption": c, "split": splits[n]} for n, c in enumerate(captions)]
    Path("videos/captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def lab(*changes: str) -> Lab:
    return Lab(load_experiment("mine.yaml", None, changes).config)


def store() -> StageStore:
    return StageStore(Path("runs/stages"))


def draw(count: int = 6, seed: int = 0, *changes: str) -> Samples:
    return draw_samples(lab(*changes), store(), count, seed)


class Page(HTMLParser):
    """The tags of a page, its text, and its images."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.images: list[bytes] = []
        self.elsewhere: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href"):
                kind, _, content = str(value).partition(";base64,")
                self.images.append(base64.b64decode(content))
                self.elsewhere += [] if kind in ("data:image/png", "data:image/gif") else [str(value)]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_frames_are_those_of_the_drawn_rate_from_the_training_split(home: Path) -> None:
    drawn = draw(12)
    assert drawn.clips == 2
    for number, sample in enumerate(drawn.samples):
        assert sample.clip.clip.split == "train"
        assert sample.stage == ("sequential", "interpolation")[number % 2]
        step = 8 / sample.drawn.rate / (1 if sample.stage == "sequential" else 2)
        assert np.diff(sample.numbers).tolist() == [step] * 4
        assert sample.frames.shape == (5, 3, 16, 16)
        assert (sample.frames[:, 0, 0, 0].tolist()) == [gray(number) for number in sample.numbers]
        assert sample.times == [number / 8 for number in sample.numbers]
        assert sample.text == f"{4 * step / 8:.3g} s: {sample.clip.clip.caption}"
        assert 4 < sample.tokens < 20
    assert {sample.drawn.rate for sample in drawn.samples} == {2.0, 4.0}
    assert {sample.clip.clip.id for sample in drawn.samples} == {"0.mp4", "1.mp4"}


def test_the_seed_decides_the_samples_and_another_draws_others(home: Path) -> None:
    numbers = [[(s.clip.clip.id, *s.numbers) for s in draw(6, seed).samples] for seed in (0, 0, 1)]
    assert numbers[0] == numbers[1] != numbers[2]


def test_only_what_must_be_is_made(home: Path) -> None:
    assert not draw().tokenized
    assert {path.name.rpartition("-")[0] for path in Path("runs/stages").iterdir()} == {"data", "text_tokenizer"}


def test_a_trained_tokenizer_gives_each_sample_its_reconstruction(home: Path) -> None:
    network = load_tokenizer(lab(), tokenizer_stage(lab(), store(), data_stage(lab(), store())))
    drawn = draw()
    assert drawn.tokenized
    for sample in drawn.samples:
        assert sample.reconstruction is not None
        assert torch.equal(sample.reconstruction, decode(network, encode(network, sample.frames)))
        error = np.square(sample.reconstruction.numpy().astype(float) - sample.frames.numpy()).mean()
        assert sample.psnr == pytest.approx(10 * np.log10(255**2 / error))
    page, sheet = write_samples(drawn, home / "out")
    assert Page(page.read_text()).text.count(" dB") == 6
    assert "not trained" not in page.read_text()
    assert Image.open(sheet).height == 12 * 150 + 4
    # One that would be another, trained longer, is not there.
    assert not draw(6, 0, "stages.tokenizer.steps=2").tokenized


def test_the_sheet_has_a_row_of_frames_for_each_sample(home: Path) -> None:
    drawn = draw(4)
    page, sheet = write_samples(drawn, home / "out")
    assert (page.name, sheet.name) == ("samples.html", "samples.png")
    picture = Image.open(sheet).convert("RGB")
    assert picture.size == (5 * 132 + 4, 4 * 150 + 4)
    for row, sample in enumerate(drawn.samples):
        middles = [picture.getpixel((132 * column + 68, 150 * row + 86)) for column in range(5)]
        assert middles == [(gray(number),) * 3 for number in sample.numbers]


def test_the_page_shows_every_frame_as_it_is_and_needs_nothing_else(home: Path) -> None:
    drawn = draw(3)
    page = Page(write_samples(drawn, home / "out")[0].read_text())
    assert not page.elsewhere
    images = [Image.open(io.BytesIO(content)) for content in page.images]
    for sample, row in zip(drawn.samples, (images[n : n + 6] for n in range(0, 18, 6)), strict=True):
        playing, *frames = row
        assert (playing.format, playing.n_frames) == ("GIF", 5)  # type: ignore[attr-defined]
        assert playing.info["duration"] == round(1000 * sample.drawn.seconds / 4, -1)
        shown = np.stack([np.asarray(frame) for frame in frames])
        assert np.array_equal(shown, sample.frames.permute(0, 2, 3, 1).numpy())
        for words in (sample.file, sample.text, f"frame {sample.numbers[2]}, {sample.times[2]:.2f} s"):
            assert words in page.text
        assert f"{sample.drawn.rate:g}/s, {sample.drawn.seconds:.3g} s in all" in page.text
    assert "size: 16, fit: crop, frames: 5" in page.text
    assert "is not trained yet" in page.text


def test_captions_and_names_are_text_on_the_page(home: Path) -> None:
    hostile = "<script>alert(1)</script> & <b>[red]"
    write_captions(hostile, hostile, "a bird")
    page = Page(write_samples(draw(2), home / "out")[0].read_text())
    assert not {"script", "b"} & set(page.tags)
    assert hostile in page.text


def test_what_is_cut_of_a_text_is_struck_out(home: Path) -> None:
    write_captions("a small cat sleeps", "a small cat sleeps", "a cat")
    whole = draw(1)
    length = whole.samples[0].tokens - 1
    cut = draw(1, 0, f"text.length={length}")
    (sample,) = cut.samples
    assert sample.drawn.caption == sample.kept + sample.cut
    assert sample.kept
    assert sample.cut
    assert sample.text.endswith(f" s: {sample.kept}")
    page = Page(write_samples(cut, home / "out")[0].read_text())
    assert "del" in page.tags
    assert {sample.text, sample.cut, sample.drawn.caption} <= {*page.texts}
    assert f"{sample.tokens} in {length} slots" in page.text
    assert "del" not in Page(write_samples(whole, home / "out")[0].read_text()).tags


def test_frames_of_a_part_of_a_video_have_the_numbers_of_the_file(home: Path) -> None:
    Path("parts.py").write_text(PARTS)
    (sample, *_) = draw(8, 0, "plugins=[./parts.py]", "data=parts").samples
    assert sample.clip.first == 8
    assert min(sample.numbers) >= 8
    assert torch.equal(sample.frames, read_frames(Path("videos/0.mp4"), sample.numbers, FrameFormat(16, 16)))
    assert sample.times == [(number - 8) / 8 for number in sample.numbers]
    page = write_samples(draw(8, 0, "plugins=[./parts.py]", "data=parts"), home / "out")[0].read_text()
    assert "one more (one of 2)" in page


@pytest.fixture
def run(home: Path) -> Callable[..., tuple[int, str]]:
    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["data", "show", *words])
        return result.exit_code, result.output

    return run


def test_the_command_writes_both_files_and_replaces_its_own(run: Callable[..., tuple[int, str]]) -> None:
    code, output = run("mine.yaml", "--count", "2")
    assert code == 0
    assert output.splitlines()[-3:] == [
        "The frame tokenizer is not trained yet: no reconstructions.",
        "data-mine/samples.html",
        "data-mine/samples.png",
    ]
    first = Path("data-mine/samples.html").read_text()
    assert run("mine.yaml", "frame_rate.options.rates=[4]", "--count", "1")[0] == 0
    assert Path("data-mine/samples.html").read_text() != first
    assert sorted(path.name for path in Path("data-mine").iterdir()) == ["samples.html", "samples.png"]


def test_mistakes_are_said_before_any_work(run: Callable[..., tuple[int, str]]) -> None:
    Path("file").write_text("x")
    for words, said in (
        (["mine.yaml", "--out", "file/below"], "--out"),
        (["mine.yaml", "video.size=17"], "video.size"),
        (["nowhere"], "no experiment 'nowhere'"),
    ):
        code, output = run(*words)
        assert code == 1
        assert said in output
    assert not Path("runs").exists()
