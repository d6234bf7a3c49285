"""Whether a frame-rate scheduler keeps the promises of its interface."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from cogvid.interfaces.frame_rate import FrameRateScheduler, frames_at
from cogvid.testing.findings import Findings, maker

# Seconds: none, one frame, products that floats miss, rates of films, an hour.
DURATIONS = (0.0, 0.04, 0.29, 1.0, 1.001, 2.5, 4.0, 7.9, 10.01, 61.3, 600.0, 3600.0)
FRAMES = (2, 5, 17)
ROUNDS = (0, 2)
CHECKS = ("rates", "fits", "starved", "same", "generation")


def frame_rate_conformance(
    scheduler: FrameRateScheduler | str,
    options: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    durations: Sequence[float] = DURATIONS,
    frames: Sequence[int] = FRAMES,
) -> None:
    """Hold a frame-rate scheduler to its interface, also on clips that are just long enough for its rates.

    The checks, by name:

    * `rates`: those of training are a list of finite numbers above 0.
    * `fits`: a clip has the wanted frames at each of them.
    * `starved`: no clip is left out that has the wanted frames at a rate which others are shown at; some are shown.
    * `same`: a duration has one answer, whatever was asked before.
    * `generation`: has the key frames' rate, at which a clip has the wanted frames, and one for each round, finite and
      above 0, for the clips that training shows, and none for the others.

    Args:
        scheduler: the scheduler, or its registered name.
        options: values for the fields of its `Config`; goes with a name.
        plugins: modules or ./files.py to load beside the installed plugins; goes with a name.
        durations: of clips, in seconds.
        frames: of sequences.

    Raises:
        ConformanceError: a check fails; the message lists every failed check and its first clip. Its cause is the first
            exception that the scheduler raised, if any.
        UserError: there is no such scheduler.
    """
    make = maker("frame_rate", scheduler, options, plugins)
    found, one, other = Findings(CHECKS), make(), make()
    answers: dict[_Clip, list[float]] = {}
    for count in frames:
        answers |= _training(one, [_Clip(count, seconds) for seconds in durations], found)
        shown = sorted({rate for clip, rates in answers.items() if clip.frames == count for rate in rates})
        if not shown:
            found.add("starved", f"{count} frames", f"no clip of {min(durations):g} to {max(durations):g} s is shown")
        ends = [(count - 1) / rate for rate in shown]
        answers |= _training(one, [_Clip(count, end * part) for end in ends for part in (0.999, 1.0, 1.001)], found)
        for clip in (clip for clip, rates in answers.items() if clip.frames == count and not rates):
            fitting = [rate for rate in shown if clip.had(rate) >= count]
            if fitting:
                problem = f"is left out, though it has {clip.had(fitting[0])} at {fitting[0]:g} a second"
                found.add("starved", str(clip), problem)
    again = _training(other, [*answers][::-1], found)
    for clip, rates in answers.items():
        if again.get(clip) != rates:
            found.add(
                "same", str(clip), f"{rates} a second when it is asked for, and {again.get(clip)} at another time"
            )
        _check_generation(one, clip, bool(rates), found)
    found.conclude(one)


class _Clip(NamedTuple):
    """What a scheduler is asked about: frames of a sequence, seconds of a clip."""

    frames: int
    duration: float

    def __str__(self) -> str:
        return f"{self.frames} frames of {self.duration:g} s"

    def had(self, rate: float) -> int:
        """Frames of the clip at a rate."""
        return frames_at(self.duration, rate)


def _training(scheduler: FrameRateScheduler, clips: Sequence[_Clip], found: Findings) -> dict[_Clip, list[float]]:
    """The answers for clips that are rates; what is wrong with others is found."""
    answers = {}
    for clip in clips:
        with found.trying("rates", str(clip)):
            # A list that the scheduler changes later is no answer.
            rates = deepcopy(scheduler.training_rates(clip.duration, clip.frames))
            if not isinstance(rates, list) or not all(map(_is_rate, rates)):
                found.add("rates", str(clip), f"{rates!r} is no list of finite numbers above 0")
                continue
            answers[clip] = rates
            short = [rate for rate in rates if clip.had(rate) < clip.frames]
            if short:
                found.add("fits", str(clip), f"it has {clip.had(short[0])} at {short[0]:g} a second")
    return answers


def _check_generation(scheduler: FrameRateScheduler, clip: _Clip, shown: bool, found: Findings) -> None:
    for rounds in ROUNDS:
        with found.trying("generation", str(clip)):
            rates = scheduler.generation_rates(clip.duration, clip.frames, rounds)
            if len(rates) != (rounds + 1 if shown else 0) or not all(map(_is_rate, rates)):
                wanted = f"{rounds + 1} finite numbers above 0" if shown else "none, as in training"
                found.add("generation", str(clip), f"{rates!r} for {rounds} rounds, where {wanted} are wanted")
            elif rates and clip.had(rates[0]) < clip.frames:
                found.add(
                    "generation", str(clip), f"it has {clip.had(rates[0])} at the key frames' {rates[0]:g} a second"
                )


def _is_rate(rate: object) -> bool:
    return isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < math.inf
