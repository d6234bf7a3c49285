"""`cogvid inspect attention`: its numbers against the dense mask, its picture, and its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cogvid import AttentionBackend, Grid
from cogvid.cli import app
from cogvid.inspect.mask import BLOCK, Subject, block_counts, mask_numbers
from cogvid.inspect.picture import Seen, default_token, letters, seen_by
from cogvid.interfaces.grid import Position
from cogvid.interfaces.mask import Stage, causal
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR

runner = CliRunner()
BACKENDS = [Naive(), Local3D(Local3D.Config(extent=[2, 2, 3])), SwinAR(SwinAR.Config(window=[4, 3]))]
every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: type(backend).__name__)
both_stages = pytest.mark.parametrize("stage", ["sequential", "interpolation"])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


@every_backend
@both_stages
def test_the_numbers_are_those_of_the_dense_mask(backend: AttentionBackend, stage: Stage) -> None:
    subject = Subject("it", backend, Grid(5, 7, 6), stage)
    masks = mask_numbers(subject, (0, 1))
    assert sorted(layer for mask in masks for layer in mask.layers) == [0, 1]
    for mask in masks:
        dense = mask.visibility.dense()
        assert mask.compact.pairs == int(dense.sum())
        assert torch.equal(mask.keys_per_query.flatten(), dense.sum(1))
        axes = subject.grid.positions()
        query, key = (Position(*(axis.unsqueeze(d) for axis in axes)) for d in (1, 0))
        assert mask.causal_pairs == int(causal(query, key, subject.grid.width, torch.tensor(subject.given)).sum())
        padded = torch.nn.functional.pad(dense, (0, -len(dense) % BLOCK) * 2)
        counts = padded.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)).sum((1, 3))
        expected = [(counts == BLOCK**2).sum(), ((counts > 0) & (counts < BLOCK**2)).sum(), (counts == 0).sum()]
        assert list(block_counts(mask.raster)) == [int(count) for count in expected]
        ways = mask.computed_pairs
        assert ways["visible pairs"] <= ways["tiles (plain PyTorch)"] <= ways["dense"]
        assert ways["visible pairs"] <= ways["blocks, chosen order"] <= ways["blocks, raster order"]


@every_backend
@both_stages
def test_the_picture_shows_the_row_of_the_mask(backend: AttentionBackend, stage: Stage) -> None:
    subject = Subject("it", backend, Grid(5, 4, 6), stage)
    token = default_token(subject)
    assert token == (4 if stage == "sequential" else 3, 2, 3)
    (mask, *_) = mask_numbers(subject, (1,))
    slot = token[0] * 24 + token[1] * 6 + token[2]
    seen = seen_by(mask, token).flatten()
    row = mask.visibility.rows(torch.tensor([slot]))[0]
    assert torch.equal(seen >= Seen.visible, row)
    assert (seen == Seen.itself).nonzero().tolist() == [[slot]]
    query = Position(*(torch.tensor(place) for place in token))
    allowed = causal(query, subject.grid.positions(), 6, torch.tensor(subject.given))
    assert torch.equal(seen > Seen.later, allowed)


def test_an_experiment_is_seen_on_the_grid_of_its_frames(folder: Path) -> None:
    words = ["inspect", "quickstart", "video.size=[32,48]"]
    result = runner.invoke(app, [*words, "--token", "4,7,11"])
    assert result.exit_code == 0, result.output
    assert "5x8x12" in result.output
    beyond = runner.invoke(app, [*words, "--token", "4,11,7"])
    assert beyond.exit_code == 1
    assert "4,7,11" in beyond.output
    uneven = runner.invoke(app, ["inspect", "quickstart", "video.size=[32,46]"])
    assert uneven.exit_code == 1
    assert "video.size: the width of 46 pixels is not a multiple" in uneven.output


def test_frames_in_letters_stand_side_by_side_where_they_fit() -> None:
    subject = Subject("it", Local3D(Local3D.Config(extent=[2, 2, 2])), Grid(3, 2, 4))
    seen = seen_by(mask_numbers(subject, (0,))[0], (2, 1, 1))
    assert letters(seen, 14).splitlines() == ["fram  fram", "███·  ███·", "███·  █◆  "]
    assert len(letters(seen, 8).splitlines()) == 7
    assert letters(seen, 3) == ""


def test_a_pattern_alone_is_printed_and_drawn() -> None:
    result = runner.invoke(app, ["inspect", "attention=swin_ar", "attention.options.window=[4,4]", "--grid", "3x8x8"])
    assert result.exit_code == 0, result.output
    # 4 windows of 16 tokens: 3 pairs of different frames, and the causal half of 3 frames.
    assert f"{4 * (3 * 256 + 3 * 136):,}" in result.output
    assert "layer 0" in result.output
    assert "layer 1" in result.output
    assert "Picture: attention-swin_ar.png" in result.output
    assert Path("attention-swin_ar.png").read_bytes().startswith(b"\x89PNG")


def test_an_experiment_brings_its_grid_and_its_attention_unless_another_is_named() -> None:
    own = runner.invoke(app, ["inspect", "quickstart", "--stage", "interpolation", "--out", "own.svg"])
    assert own.exit_code == 0, own.output
    assert "local3d on 5x8x8, interpolation" in own.output
    assert "layers 0, 1" in own.output
    assert "frame 4, given" in Path("own.svg").read_text()
    other = runner.invoke(app, ["inspect", "quickstart", "attention=naive", "video.frames=3", "--layer", "1"])
    assert "naive on 3x8x8, sequential" in other.output, other.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attention=swim_ar"], "Did you mean 'swin_ar'"),
        (["plugins=[]"], "no attention is given; write attention=NAME"),
        (["attention=local3d", "attention.options.extend=[1,1,1]"], "Did you mean 'extent'"),
        (["attention=local3d", "attention.options.extent=[0,1,1]"], "3 values, each at least 1"),
        (["attention=naive", "video.frames=3"], "video belongs to an experiment"),
        (["attention=naive", "--grid", "5x20"], "such as 5x20x20"),
        (["attention=naive", "--grid", "0x2x2"], "such as 5x20x20"),
        (["attention=naive", "--grid", "4x2x2", "--stage", "interpolation"], "odd number of frames"),
        (["attention=naive", "--grid", "3x2x2", "--token", "3,0,0"], "from 0,0,0 to 2,1,1"),
        (["attention=naive", "--grid", "3x2x2", "--token", "one"], "whole numbers"),
        (["attention=naive", "--grid", "3x2x2", "--out", "picture.txt"], "ends in .png"),
        (["attention=naive", "--grid", "3x2x2", "--out", "no/where.png"], "Cannot write the picture"),
        (["quickstar"], "Did you mean 'quickstart'"),
        (["attention=naive", "swin"], "is not key=value"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_is_one_paragraph(words: list[str], said: str) -> None:
    result = runner.invoke(app, ["inspect", *words])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert said in result.output
