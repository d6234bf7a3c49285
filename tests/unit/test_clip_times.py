"""The one clock of a clip: which frames a rate has, in any container and however the rate is written."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from cogvid.data.clip_times import ClipTimes
from cogvid.data.reading import probe
from cogvid.data.sequences import sequences
from cogvid.interfaces.frame_rate import FrameRateScheduler, frames_at
from cogvid_plugins.frame_rate.fixed import Fixed
from cogvid_plugins.frame_rate.lowest_fit import LowestFit
from cogvid_plugins.frame_rate.uniform import Uniform

KEY_FRAMES = (0.0, 1.0, 2.0, 3.0, 4.0)
MILLISECOND = Fraction(1, 1000)


def regular(frames: int, rate: int | Fraction) -> ClipTimes:
    return ClipTimes.of(range(frames), 1 / Fraction(rate))


def drawn(times: ClipTimes, scheduler: FrameRateScheduler) -> dict[float, list[list[int]]]:
    """By rate, the frames of all sequences of five key frames."""
    rates = scheduler.training_rates(times.reach, 5)
    return {rate: sequences(times, rate, KEY_FRAMES, 5).tolist() for rate in rates}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("source", "written"),
    [
        (Fraction(30), 30.0),
        (Fraction(12), 12.0),
        (Fraction(25), 25.0),
        (Fraction(24000, 1001), 23.976),
        (Fraction(24000, 1001), 23.98),
        (Fraction(24000, 1001), 24000 / 1001),
        (Fraction(30000, 1001), 29.97),
        (Fraction(30000, 1001), 30000 / 1001),
    ],
    ids=str,
)
def test_five_frames_at_a_rate_are_one_sequence_of_that_rate(
    tmp_path: Path, suffix: str, source: Fraction, written: float
) -> None:
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=source)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    times = probe(path).times
    for scheduler in (Fixed(Fixed.Config(rate=written)), LowestFit(LowestFit.Config(rates=[written]))):
        assert drawn(times, scheduler) == {written: [[0, 1, 2, 3, 4]]}


@pytest.mark.parametrize("unit", [Fraction(1, 30), Fraction(1, 15360), MILLISECOND], ids=str)
def test_every_fourth_frame_is_drawn_at_a_quarter_of_the_rate(unit: Fraction) -> None:
    times = ClipTimes.of([round(number / 30 / unit) for number in range(17)], unit)
    assert drawn(times, LowestFit(LowestFit.Config(rates=[7.5, 15]))) == {7.5: [[0, 4, 8, 12, 16]]}
    both = drawn(times, Uniform(Uniform.Config(rates=[7.5, 15])))
    assert both[15] == [[start, start + 2, start + 4, start + 6, start + 8] for start in (0, 2, 4, 6, 8)]


def test_one_frame_less_is_too_short() -> None:
    assert drawn(regular(16, 30), LowestFit(LowestFit.Config(rates=[7.5]))) == {}
    assert drawn(regular(4, Fraction(24000, 1001)), Fixed(Fixed.Config(rate=23.976))) == {}


def test_a_rate_that_differs_by_a_thousandth_takes_no_frame_twice() -> None:
    phone = regular(300, Fraction(30000, 1001))
    assert set(np.diff(sequences(phone, 15.0, KEY_FRAMES, 5)[:100]).ravel().tolist()) == {2}


def test_a_rate_above_the_own_one_takes_frames_twice() -> None:
    (numbers,) = regular(3, 12).frames([0], KEY_FRAMES, 24.0)
    assert numbers.tolist() == [0, 1, 1, 2, 2]


def test_windows_between_key_frames_fall_on_the_frames_of_the_finer_rate() -> None:
    times = regular(13, 12)
    thirds = (0.0, 1 / 3, 2 / 3, 1.0)
    assert times.frames([0, 1, 2], thirds, 4.0).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_times_outside_get_the_first_and_the_last_frame() -> None:
    assert regular(5, 10).frames([0], (-3.0, 0.0, 4.0, 9.0), 10.0).tolist() == [[0, 0, 4, 4]]


def test_a_clip_of_one_frame_has_that_frame_at_all_times() -> None:
    one = ClipTimes.of([77], MILLISECOND)
    assert (len(one), one.duration, one.reach) == (1, 0, 0)
    assert one.frames([0], KEY_FRAMES, 4.0).tolist() == [[0] * 5]
    assert frames_at(one.reach, 30.0) == 1


def test_a_frame_begins_half_a_usual_gap_early_and_one_odd_gap_changes_nothing() -> None:
    # A phone's: about 30 frames a second, one of them twice as long, one a millisecond short of its predecessor.
    times = ClipTimes.of([0, 33, 66, 67, 100, 166, 199], MILLISECOND)
    assert times.frames([0], (0, 16, 17, 49, 50, 51, 149, 150, 900), 1000.0).tolist() == [[0, 0, 1, 1, 2, 3, 4, 5, 6]]
    assert times.reach == pytest.approx(0.2155)


def test_times_are_ordered_whatever_order_they_come_in() -> None:
    assert ClipTimes.of([1, 4, 3, 5, 2], Fraction(1, 25)).ticks.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "times",
    [
        regular(1, 30),
        regular(301, Fraction(30000, 1001)),
        ClipTimes.of([0, 33, 67, 100, 3_000_000_000_000], MILLISECOND),
    ],
    ids=["one", "regular", "irregular"],
)
def test_times_are_kept_exactly(times: ClipTimes) -> None:
    kept = ClipTimes.from_json(json.loads(json.dumps(times.to_json())))
    assert (kept.ticks.tolist(), kept.unit) == (times.ticks.tolist(), times.unit)


@pytest.mark.parametrize(
    ("duration", "rate", "frames"), [(0.29, 100.0, 30), (0.7, 10.0, 8), (8.0, 0.5, 5), (7.99, 0.5, 4)]
)
def test_frames_are_counted_as_the_numbers_are_written(duration: float, rate: float, frames: int) -> None:
    assert frames_at(duration, rate) == frames


@pytest.mark.parametrize("times", [regular(100, 25), regular(100, Fraction(30000, 1001))], ids=["25", "29.97"])
def test_spans_that_meet_share_no_frame_and_leave_none_out(times: ClipTimes) -> None:
    cuts = [0, 0.5, 1, 1.04, 2.5, 9]
    spans = [times.between(start, end) for start, end in pairwise(cuts)]
    assert [number for first, stop in spans for number in range(first, stop)] == list(range(100))


def test_a_span_begins_with_the_frame_nearest_its_start_although_times_are_rounded() -> None:
    rounded = ClipTimes.of([0, 33, 67, 100, 133, 167, 200], MILLISECOND)
    assert rounded.between(1 / 15, 0.2) == (2, 6)
    assert regular(10, 2).between(1.2, 2.2) == (2, 4)
    assert regular(10, 2).between(1.3, 2.3) == (3, 5)
    first, stop = regular(10, 2).between(7, 9)
    assert first == stop
