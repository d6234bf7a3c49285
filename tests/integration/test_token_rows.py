"""Runs on sequences that are tokens already, such as the release's training file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cogvid import UserError
from cogvid.cli import app
from cogvid.config.compose import load_experiment
from cogvid.data.rows import RowSamples
from cogvid.data.text import CaptionEncoder
from cogvid.pipeline.check import check_lab
from cogvid.pipeline.lab import Lab

sentencepiece = pytest.importorskip("sentencepiece")

CODES, TEXT, FRAMES, TOKENS = 32, 40, 3, 6
CAPTIONS = ["a red circle", "a blue square moves", "a cat on a table"]
EXPERIMENT = f"""
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, trainer/cpu]
video: {{size: [16, 24], frames: {FRAMES}}}
text: {{length: {TEXT}}}
text_tokenizer: {{name: sentencepiece, options: {{model: text.model}}}}
data: {{name: released_tokens, options: {{path: train.bin, text: {TEXT}, frames: {FRAMES}, frame_tokens: {TOKENS}, \
image_tokens: {CODES}, padding: PADDING}}}}
frame_tokenizer: {{name: vqvae, options: {{downsampling: 8, channels: 16, codes: {CODES}, code_size: 8, crop: 0}}}}
model: {{layers: 1, width: 32, heads: 2}}
stages:
  tokenizer: {{steps: 1, batch_size: 1}}
  image_base: {{steps: 30, batch_size: 6, adam_lr: 1.0e-2, clip_norm: 0}}
  sequential: {{steps: 4, batch_size: 2, caption_dropout: 0.5}}
  interpolation: {{steps: 4, batch_size: 2, caption_dropout: 0.5}}
generation: {{frames: 5, sequential: {{guidance: 2}}, interpolation: {{guidance: 2}}}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text model, rows made with it, whose first codes follow from the caption, and an experiment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("\n".join(CAPTIONS * 40))
    symbols = ["<n>", "<pad>", "视频", "秒", "高清摄影", *"0123456789."]
    sentencepiece.SentencePieceTrainer.train(
        input="words.txt", model_prefix="text", vocab_size=330, byte_fallback=True, user_defined_symbols=symbols,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    padding = CODES + sentencepiece.SentencePieceProcessor(model_file="text.model").piece_to_id("<pad>")
    (tmp_path / "rows.yaml").write_text(EXPERIMENT.replace("PADDING", str(padding)))
    (tmp_path / "train.bin").write_bytes(bytes(4 * (TEXT + FRAMES * TOKENS)))
    text, random, rows = lab(tmp_path).build_text_tokenizer(), np.random.default_rng(0), []
    for number in range(12):
        words = text.video(CAPTIONS[number % 3], 4.0)
        codes = random.integers(CODES, size=(FRAMES, TOKENS))
        codes[0] = number % 3
        rows.append([*[padding] * (TEXT - len(words)), *(CODES + word for word in words), *codes.ravel()])
    (tmp_path / "train.bin").write_bytes(np.array(rows, dtype="<i4").tobytes())
    return tmp_path


def lab(folder: Path, *changes: str) -> Lab:
    resolved = load_experiment(str(folder / "rows.yaml"), None, list(changes))
    return Lab(resolved.config, resolved.provenance)


def samples(parts: Lab, stills: float | None = None, dropout: float = 0.0) -> RowSamples:
    text = CaptionEncoder(parts.build_text_tokenizer(), TEXT, CODES)
    return RowSamples(parts.data, text, 5, stills, dropout)  # type: ignore[arg-type]


def test_every_stage_trains_on_rows_and_nothing_is_generated(home: Path) -> None:
    result = CliRunner().invoke(app, ["run", "rows.yaml"])
    assert result.exit_code == 0, result.output
    assert "nothing was generated" in " ".join(result.output.split())
    run = home / "runs/rows/default/0"
    names = ["data", "image_base", "interpolation", "sequential", "text_tokenizer"]
    assert sorted(path.name for path in (run / "stages").iterdir()) == names
    for name in names[1:4]:
        assert (run / f"stages/{name}/model.safetensors").exists()
    losses = [json.loads(line)["loss"] for line in (run / "stages/image_base/history.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * np.log(CODES)  # first frames are three patterns, told by their captions
    assert not (run / "metrics.json").exists()


def test_rows_that_are_held_out_are_what_a_loss_is_reported_on(home: Path) -> None:
    short = [f"stages.{stage}.steps=2" for stage in ("image_base", "sequential", "interpolation")]
    result = CliRunner().invoke(app, ["run", "rows.yaml", "data.options.held_out=3", "held_out.clips=2", *short])
    assert result.exit_code == 0, result.output
    found = json.loads((home / "runs/rows/default/0/metrics.json").read_text())["held_out"]
    assert {name: held_out["on"]["samples"] for name, held_out in found.items()} == dict.fromkeys(found, 2)
    assert list(found) == ["image_base", "sequential", "interpolation"]
    parts = lab(home, "data.options.held_out=3")
    drawn = replace(samples(parts), rows=parts.data.held_out)  # type: ignore[union-attr]
    assert {samples(parts).place(number) for number in range(18)} == set(range(9))
    assert {drawn.place(number) for number in range(3)} == {9, 10, 11}


def test_a_sample_is_the_rows_text_and_codes(home: Path) -> None:
    parts = lab(home)
    codes, text, mask = samples(parts)[3]
    words = parts.build_text_tokenizer().video(CAPTIONS[int(codes[0, 0])], 4.0)
    # Begin-of-image is a token of the text model's own, so text tokens come right behind the image tokens.
    assert text[mask].tolist() == [CODES + word for word in words]
    assert codes.shape == (FRAMES, TOKENS)
    epoch = [samples(parts).place(number) for number in range(12)]
    assert sorted(epoch) == list(range(12))


def test_a_dropped_caption_leaves_the_duration(home: Path) -> None:
    parts = lab(home)
    _, text, mask = samples(parts, dropout=1.0)[0]
    assert text[mask].tolist() == [CODES + word for word in parts.build_text_tokenizer().guidance(4.0)]


def test_stills_are_single_frames_and_first_frames_where_none_is_wanted(home: Path) -> None:
    parts = lab(home)
    first = [samples(parts, stills=0.0)[number][0] for number in range(12)]
    assert all(codes.shape == (1, TOKENS) and (codes == codes[0, 0]).all() for codes in first)
    anywhere = [samples(parts, stills=1.0)[number][0] for number in range(12)]
    assert not all((codes == codes[0, 0]).all() for codes in anywhere)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "text.length=30",
            r"text\.length: .* have 40 text slots, and the experiment has 30",
        ),
        ("video.size=[24,24]", r"video\.size: .* 6 tokens in a frame, and the experiment has 9"),
        ("frame_tokenizer.options.codes=40", r"frame_tokenizer: .* 32 image tokens, and the experiment has 40"),
        ("text_tokenizer={name: bpe}", "text_tokenizer: bpe learns from captions, and released_tokens has none"),
    ],
)
def test_an_experiment_that_the_rows_do_not_fit_is_refused(home: Path, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_lab(lab(home, change))


def test_rows_of_another_text_model_are_refused_with_the_row(home: Path) -> None:
    rows = np.fromfile("train.bin", dtype="<i4").reshape(12, -1)
    rows[:, TEXT - 1] = 5000
    rows.tofile("train.bin")
    with pytest.raises(UserError, match=r"row \d+ has the text token 4968, and the text tokenizer has"):
        samples(lab(home))[0]
