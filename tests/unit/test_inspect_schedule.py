"""`cogvid inspect schedule`: its numbers, its critical path, its pictures, and its mistakes."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from cogvid import AttentionBackend, Grid, Position, decode_schedule
from cogvid.cli import app
from cogvid.inspect.mask import Subject
from cogvid.inspect.schedule import ScheduleNumbers, schedule_numbers
from cogvid.inspect.schedule_animation import PICTURES, State, pictured_steps, states
from cogvid.interfaces.mask import Stage, Visibility
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR

runner = CliRunner()
SMALL = ["attention=local3d", "attention.options.extent=[2,2,2]", "--grid", "3x4x4"]


class ByLayer(AttentionBackend):
    """A frame sees others only in one layer, and there only their last slot."""

    def pattern(self, query: Position, key: Position, layer: int) -> torch.Tensor:
        last = (key.row == 1) & (key.column == 1) & (query.row == 1) & (query.column == 0)
        return (query.frame == key.frame) | (last & (layer == 2 * query.frame))


BACKENDS = [
    Naive(),
    Local3D(Local3D.Config(extent=[2, 2, 3])),
    Local3D(Local3D.Config(extent=[1, 3, 3])),
    SwinAR(SwinAR.Config(window=[2, 3])),
    SwinAR(SwinAR.Config(window=[3, 2], frames=2)),
    ByLayer(),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def rows(output: str) -> dict[str, str]:
    """The printed table."""
    return dict(re.findall(r"│ +(\S.*?) +│ +(\S.*?) +│", output))


def numbers_of(backend: AttentionBackend, grid: Grid, stage: Stage = "sequential", layers: int = 6) -> ScheduleNumbers:
    return schedule_numbers(Subject("it", backend, grid, stage, layers=layers))


def test_the_numbers_of_a_pattern_are_printed_and_drawn() -> None:
    result = runner.invoke(app, ["inspect", "schedule", "attention=local3d", "attention.options.extent=[3,3,3]"])
    assert result.exit_code == 0, result.output
    assert rows(result.output) == {
        "layers looked at": "48",
        "slots generated": "2,000",
        "steps": "568",
        "sequential steps": "2,000",
        "speed-up": "3.52 x",
        "slots in a step": "mean 3.52, widest 5",
        **{f"frame {frame}": f"steps {42 * frame} to {42 * frame + 399}" for frame in range(5)},
    }
    assert "frame 0: slots 0-42, steps 0-42\n" in result.output
    seen = "slot 0 (row 0, column 0) sees slot 42 (row 2, column 2) of frame 3 in layer 0"
    assert f"frame 4: slots 0-399, steps 168-567; {seen}\n" in result.output
    assert "Picture: schedule-local3d.png" in result.output
    assert Path("schedule-local3d.png").read_bytes().startswith(b"\x89PNG")


def test_an_experiment_brings_its_grid_and_its_layers() -> None:
    result = runner.invoke(
        app, ["inspect", "schedule", "quickstart", "model.layers=3", "--stage", "interpolation", "--out", "it.svg"]
    )
    assert result.exit_code == 0, result.output
    assert "local3d on 5x8x8, interpolation" in result.output
    table = rows(result.output)
    assert table["layers looked at"] == "3"
    assert table["slots generated"] == "128"
    assert [table[f"frame {frame}"] == "given" for frame in range(5)] == [True, False, True, False, True]
    assert "frame 4, given" in Path("it.svg").read_text()


def test_of_many_frames_some_are_printed() -> None:
    result = runner.invoke(app, ["inspect", "schedule", "attention=naive", "--grid", "33x2x2"])
    frames = [name for name in rows(result.output) if name.startswith("frame")]
    assert frames == [f"frame {frame}" for frame in (*range(9), 31, 32)]


@settings(max_examples=60, deadline=None)
@given(
    backend=st.sampled_from(BACKENDS),
    sides=st.tuples(st.sampled_from([1, 3, 5]), st.integers(2, 6), st.integers(2, 6)),
    stage=st.sampled_from(["sequential", "interpolation"]),
)
def test_the_critical_path_is_a_chain_of_waits_with_a_slot_in_every_step(
    backend: AttentionBackend, sides: tuple[int, int, int], stage: Stage
) -> None:
    grid, stage = Grid(*sides), stage if sides[0] > 1 else "sequential"
    numbers = numbers_of(backend, grid, stage)
    schedule, n = numbers.schedule, grid.frame_tokens
    assert torch.equal(schedule, decode_schedule(backend, grid, stage, layers=6))
    chain = [(run.frame, place) for run in numbers.path for place in range(run.first, run.last + 1)]
    layers = {(run.frame, run.first): run.layer for run in numbers.path[1:]}
    assert numbers.path[0].layer is None
    assert not any(numbers.subject.given[frame] for frame, _ in chain)
    steps = [int(schedule[slot]) for slot in chain]
    assert sorted(set(steps)) == list(range(numbers.steps)), "a slot in every step, from 0 to the last"
    assert (steps[0], steps[-1]) == (0, numbers.steps - 1)
    for before, after in pairwise(chain):
        if after in layers:
            assert after[0] != before[0]
            assert schedule[before] == schedule[after]
            visible = Visibility(backend.pattern, grid, numbers.subject.given, int(layers[after] or 0)).dense()
            assert visible[after[0] * n + after[1], before[0] * n + before[1]]
        else:
            assert after == (before[0], before[1] + 1)
            assert schedule[after] == schedule[before] + 1
    for run in numbers.path:
        assert (schedule[run.frame, run.first], schedule[run.frame, run.last]) == (run.start, run.stop)


def test_the_layer_whose_mask_makes_a_frame_wait_is_named() -> None:
    waits = [(0, 0, 3, None), (1, 2, 3, 2), (2, 2, 3, 4)]
    for layers, expected in {5: waits, 4: waits[:2], 2: waits[:1]}.items():
        path = numbers_of(ByLayer(), Grid(3, 2, 2), layers=layers).path
        assert [(run.frame, run.first, run.last, run.layer) for run in path] == expected


def test_an_animation_has_a_picture_of_every_step_of_a_short_schedule() -> None:
    result = runner.invoke(app, ["inspect", "schedule", *SMALL, "--out", "it.gif"])
    assert result.exit_code == 0, result.output
    with Image.open("it.gif") as animation:
        assert animation.n_frames == int(rows(result.output)["steps"]) == 26


def test_an_animation_of_a_long_schedule_is_bounded_and_shows_its_end() -> None:
    result = runner.invoke(app, ["inspect", "schedule", "attention=naive", "--grid", "2x12x12", "--out", "it.gif"])
    assert result.exit_code == 0, result.output
    with Image.open("it.gif") as animation:
        assert animation.n_frames == PICTURES
        animation.seek(PICTURES - 1)
        last = animation.convert("RGB")
    orange = (0xE4, 0x75, 0x3B)
    running = sum(count for count, colour in last.getcolors() or [] if colour == orange)
    assert running > 2 * 10 * 10, "besides the key: the last slots"


@pytest.mark.parametrize("steps", [1, 5, PICTURES, PICTURES + 1, 13_360])
def test_every_step_is_in_one_picture(steps: int) -> None:
    parts = pictured_steps(steps)
    assert len(parts) == min(steps, PICTURES)
    assert [step for part in parts for step in part] == list(range(steps))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_picture_shows_what_is_done_runs_and_waits() -> None:
    schedule = torch.tensor([[-1, -1, -1, -1], [0, 1, 2, 3]])
    given, waiting, done, running = State.given, State.waiting, State.done, State.running
    assert states(schedule, range(1, 3)).tolist() == [[given] * 4, [done, running, running, waiting]]


def test_the_mask_is_shown_with_and_without_its_name() -> None:
    results = [runner.invoke(app, ["inspect", *name, *SMALL]) for name in ([], ["mask"])]
    assert [result.exit_code for result in results] == [0, 0]
    assert "visible pairs" in results[0].output
    assert results[0].output == results[1].output
    options_first = runner.invoke(app, ["inspect", *SMALL[2:], *SMALL[:2]])
    assert options_first.output == results[0].output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "mask may be left out"),
        (["schedule", "--help"], "--grid"),
        (["mask", "--help"], "--token"),
        (["attention=naive", "--help"], "--token"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_each_command_has_its_help(words: list[str], said: str) -> None:
    result = runner.invoke(app, ["inspect", *words])
    assert result.exit_code == 0
    assert said in result.output.replace("`", "")
    assert ("--token" in result.output) == (said == "--token")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attention=swim_ar"], "Did you mean 'swin_ar'"),
        (["quickstar"], "Did you mean 'quickstart'"),
        (["attention=naive", "--grid", "5x20"], "such as 5x20x20"),
        (["attention=naive", "--grid", "4x2x2", "--stage", "interpolation"], "odd number of frames"),
        (["attention=naive", "--grid", "3x2x2", "--out", "it.mp4"], "ends in .png, .svg, .pdf, .gif"),
        (["attention=naive", "--grid", "3x2x2", "--out", "no/where.png"], "Cannot write the picture"),
        (["attention=naive", "--grid", "3x2x2", "--out", "no/where.gif"], "Cannot write the picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_is_one_paragraph(words: list[str], said: str) -> None:
    result = runner.invoke(app, ["inspect", "schedule", *words])
    assert result.exit_code == 1
    assert "Error: " in result.output
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_long_clip_has_all_its_numbers_without_its_square() -> None:
    numbers = numbers_of(SwinAR(), Grid(33, 60, 60), layers=2)
    assert numbers.slots == 118_800
    assert numbers.steps == 21_168
    assert len(numbers.path) == 33
