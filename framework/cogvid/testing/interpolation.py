"""Whether an interpolation strategy keeps the promises of its interface."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import torch

from cogvid.errors import UserError
from cogvid.interfaces.interpolation import InterpolationStrategy, Round, check_plan
from cogvid.testing.findings import Findings, maker

KEY_FRAMES = tuple(range(2, 10))
TARGETS = tuple(range(1, 50))
# Of the clips that are filled in: how many, and their pixels.
_CLIPS, _HEIGHT, _WIDTH = 2, 3, 5
CHECKS = ("reaches", "refuses", "places", "plan", "windows", "rates", "fill", "kept", "alone", "same")


def interpolation_conformance(
    strategy: InterpolationStrategy | str,
    options: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    key_frames: Sequence[int] = KEY_FRAMES,
    targets: Sequence[int] = TARGETS,
) -> None:
    """Hold an interpolation strategy to its interface, for every pair of a number of key frames and of final frames.

    The checks, by name:

    * `reaches`: more frames than there are key frames, for some pair.
    * `refuses`: what it cannot reach, by a `UserError` whose message has numbers.
    * `places`: those of the key frames are as many, and ascend from 0 to the final frames.
    * `plan`: the models can carry it out (`cogvid.interfaces.interpolation.check_plan`): it makes every frame once, out
      of frames that are made before, in windows like those of the training.
    * `windows`: their frames ascend.
    * `rates`: a round's rate is that of its windows, over that of the key frames.
    * `fill`: without a model, it gives uint8 frames, as many as wanted, of the key frames' size.
    * `kept`: where key frames stand evenly among the final ones, those are the key frames; the given ones stay.
    * `alone`: without a model, a clip is filled in in the same way whatever others there are.
    * `same`: a pair has one answer, whatever was asked before.

    Args:
        strategy: the strategy, or its registered name.
        options: values for the fields of its `Config`; goes with a name.
        plugins: modules or ./files.py to load beside the installed plugins; goes with a name.
        key_frames: numbers of key frames.
        targets: numbers of final frames.

    Raises:
        ConformanceError: a check fails; the message lists every failed check and its first pair. Its cause is the first
            exception that the strategy raised, if any.
        UserError: there is no such strategy.
    """
    make = maker("interpolation", strategy, options, plugins)
    found, one, other = Findings(CHECKS), make(), make()
    check, reached = (_check_plan if one.learned else _check_fill), False
    pairs = [*product(key_frames, targets)]
    first = {}
    for pair in pairs:
        count, target = pair
        with found.trying("plan" if one.learned else "fill", _named(pair)):
            try:
                first[pair] = check(one, count, target, found)
                reached |= target > count
            except UserError as error:
                if not re.search(r"\d", str(error)):
                    found.add("refuses", _named(pair), f"without a number that it can reach: {error}")
    for pair in reversed([*first]):
        with found.trying("same", _named(pair)):
            if not _equal(first[pair], _answer(other, *pair)):
                found.add("same", _named(pair), "another answer at another time")
    for pair in list(first)[:1]:
        with found.trying("same", _named(pair)):
            if not _equal(first[pair], _answer(one, *pair)):
                found.add("same", _named(pair), "another answer after all others")
    if not reached and not found:
        found.add("reaches", f"{min(key_frames)} to {max(key_frames)} key frames", "no more frames than there are")
    found.conclude(one)


def _named(pair: tuple[int, int]) -> str:
    return f"{pair[0]} key frames to {pair[1]}"


def _key_frames(count: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(count)
    return torch.randint(256, (_CLIPS, count, 3, _HEIGHT, _WIDTH), dtype=torch.uint8, generator=draw)


def _answer(strategy: InterpolationStrategy, count: int, target: int) -> Any:
    if strategy.learned:
        return [strategy.key_frame_places(count, target), strategy.plan(count, target)]
    return strategy.fill(_key_frames(count), target)


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def _check_places(places: Sequence[int], count: int, target: int, found: Findings) -> bool:
    ascending = all(before < after for before, after in pairwise(places))
    if len(places) != count or places[0] != 0 or not ascending or places[-1] >= target:
        found.add("places", _named((count, target)), f"{[*places]} do not ascend from 0 to less than {target}")
        return False
    return True


def _check_plan(strategy: InterpolationStrategy, count: int, target: int, found: Findings) -> Any:
    plan, places = strategy.plan(count, target), strategy.key_frame_places(count, target)
    case = _named((count, target))
    if _check_places(places, count, target, found):
        try:
            check_plan(type(strategy).__name__, places, plan, target)
        except UserError as error:
            found.add("plan", case, str(error).removeprefix("interpolation: "))
        else:
            for number, part in enumerate(plan):
                _check_round(part, f"{case}, round {number}", (places[-1] - places[0]) / max(count - 1, 1), found)
    return [places, plan]


def _check_round(part: Round, case: str, interval: float, found: Findings) -> None:
    """Args: interval: final frames from one key frame to the next, on average."""
    for window in part.windows:
        if not all(before < after for before, after in pairwise(window.frames)):
            found.add("windows", case, f"{window.frames} do not ascend")
            continue
        gaps = len(window.frames) - 1
        own = (window.frames[-1] - window.frames[0]) / gaps
        # Both ends of a window stand at whole frames, and may have been rounded to them.
        if abs(own - interval / part.rate_factor) >= 2 / gaps:
            problem = (
                f"{window.frames} have {interval / own:g} times the key frames' rate, and not {part.rate_factor:g}"
            )
            found.add("rates", case, problem)


def _check_fill(strategy: InterpolationStrategy, count: int, target: int, found: Findings) -> Any:
    case, frames = _named((count, target)), _key_frames(count)
    filled = strategy.fill(frames, target)
    wanted = (_CLIPS, target, *frames.shape[2:])
    if filled.dtype is not torch.uint8 or filled.shape != wanted:
        dtype = str(filled.dtype).removeprefix("torch.")
        found.add("fill", case, f"it gives {dtype} {tuple(filled.shape)}, not uint8 {wanted}")
        return filled
    if not torch.equal(frames, _key_frames(count)):
        found.add("kept", case, "the key frames that it is given are written over")
    places = strategy.key_frame_places(count, target)
    even = _check_places(places, count, target, found) and len({b - a for a, b in pairwise(places)}) == 1
    if even and places[-1] == target - 1 and not torch.equal(filled[:, places], _key_frames(count)):
        found.add("kept", case, f"the frames {places} are not the key frames")
    if not torch.equal(torch.cat([strategy.fill(clip[None], target) for clip in _key_frames(count)]), filled):
        found.add("alone", case, "a clip is another one beside others")
    return filled
