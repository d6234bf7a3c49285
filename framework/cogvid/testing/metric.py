"""Whether a metric keeps the promises of its interface."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.metric import Better, VideoMetric
from cogvid.metrics.protocol import protocol_hash
from cogvid.testing.findings import Findings, maker
from cogvid.testing.metric_clips import Clips, no_videos
from cogvid.testing.metric_ranks import join

Values = dict[str, float]
# Sums in another order round in another way.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-7
CHECKS = (
    "values",
    "meanings",
    "protocol",
    "cautions",
    "same",
    "order",
    "batches",
    "ranks",
    "reset",
    "few",
    "forms",
    "direction",
)


def metric_conformance(
    metric: VideoMetric | str,
    options: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    clips: int = 12,
    frames: int = 9,
    side: int = 32,
) -> None:
    """Hold a metric to its interface, on captioned squares that move; a paired one on noisy copies of them.

    The checks, by name:

    * `values`: scalar float64 tensors by name, none of them infinite; the videos stay as they are.
    * `meanings`: there are some, each of a value, with a title, a text and `higher`, `lower` or None as what is better;
      what has none is the standard error of one that has.
    * `protocol`: texts and finite numbers by name, the same ones for the same videos.
    * `cautions`: sentences, each of a value.
    * `same`: the same videos have the same values, whatever the state of random numbers.
    * `order`: so they have in another order, and where the scored ones come before the real ones.
    * `batches`: so they have one by one, in uneven batches, and where values are asked for in between.
    * `ranks`: so they have where two processes see a part each, or one of them none, and torchmetrics joins them.
    * `reset`: so they have after other videos and a reset.
    * `few`: without videos all values are NaN; of one and of two, there are the same values, none infinite. A
      `UserError` is as good.
    * `forms`: what is no video, such as floats, NaN or grey, is refused by a `UserError`.
    * `direction`: real clips scored against themselves are worse, as a meaning has it, than black ones or snow.

    Args:
        metric: the metric, or its registered name.
        options: values for the fields of its `Config`; goes with a name.
        plugins: modules or ./files.py to load beside the installed plugins; goes with a name.
        clips: how many of each set.
        frames: of a clip.
        side: of a frame, in pixels.

    Raises:
        ConformanceError: a check fails; the message lists every failed check and its first case. Its cause is the first
            exception that the metric raised, if any.
        UserError: there is no such metric, or it refuses such clips.
    """
    make, found = maker("metric", metric, options, plugins), Findings(CHECKS)
    one = make()
    one.check(frames, side, side)
    real, other = (Clips.squares(clips, frames, side, seed) for seed in (0, 1))
    scored = real.noisy(8) if one.paired else other
    # Values of no videos are asked for on purpose, and torchmetrics warns of it.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        with found.trying("values", "all clips"):
            before = scored.videos.clone()
            torch.manual_seed(0)
            values = _checked(_fed(one, real, scored), found)
            if not torch.equal(scored.videos, before):
                found.add("values", "all clips", "the videos are written over")
            if not found:
                _check_said(one, values, found)
        if not found:
            _Suite(make, real, scored, values, protocol_hash(one.protocol), found).run()
    found.conclude(one)


def _fed(metric: VideoMetric, real: Clips, scored: Clips, size: int = 5, real_first: bool = True) -> VideoMetric:
    """The metric after it has seen both sets, in batches of some size, one set after the other."""
    for clips, is_real in ((real, True), (scored, False)) if real_first else ((scored, False), (real, True)):
        for first in range(0, len(clips), size):
            batch = clips.part(first, first + size)
            metric.update(batch.videos, batch.captions, is_real)
    return metric


def _values(metric: VideoMetric) -> Values:
    return {name: float(value) for name, value in metric.compute().items()}


def _checked(metric: VideoMetric, found: Findings) -> Values:
    values = metric.compute()
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.ndim or value.dtype is not torch.float64:
            found.add("values", name, f"{value!r} is no scalar float64 tensor")
        elif value.isinf():
            found.add("values", name, "it is infinite")
    return _values(metric) if not found else {}


def _check_said(metric: VideoMetric, values: Values, found: Findings) -> None:
    meanings = metric.meanings
    errors = {meaning.error for meaning in meanings.values() if meaning.error}
    if not meanings:
        found.add("meanings", "all values", "there are none")
    for name in dict.fromkeys((*values, *meanings, *sorted(errors))):
        meaning = meanings.get(name)
        if name not in values:
            found.add("meanings", name, "there is no such value")
        elif meaning is None:
            if name not in errors:
                found.add("meanings", name, "it has none, and is the standard error of nothing")
        elif not meaning.title.strip() or not meaning.text.strip():
            found.add("meanings", name, "a title or a text is empty")
        elif meaning.better not in (*get_args(Better), None):
            found.add("meanings", name, f"{meaning.better!r} is better, not {' or '.join(get_args(Better))}")
    for key, value in metric.protocol.items():
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            found.add("protocol", key, f"{value!r} is no text and no finite number")
    for name, caution in metric.cautions().items():
        if name not in values or not isinstance(caution, str) or not caution.strip():
            found.add("cautions", name, f"{caution!r} is no sentence, or there is no such value")


class _Suite:
    """What one set of clips, and another that it is compared with, has to have in all ways of seeing them."""

    def __init__(
        self,
        make: Callable[[], VideoMetric],
        real: Clips,
        scored: Clips,
        values: Values,
        protocol: str,
        found: Findings,
    ) -> None:
        self.make, self.real, self.scored, self.found = make, real, scored, found
        self.values, self.protocol = values, protocol

    def run(self) -> None:
        """All checks but those of the first values."""
        real, scored, middle = self.real, self.scored, len(self.real) // 3
        mixed = torch.randperm(len(real), generator=torch.Generator().manual_seed(2)).tolist()
        torch.manual_seed(1)
        self._hold("same", "again", lambda: _fed(self.make(), real, scored))
        self._hold("order", "mixed", lambda: _fed(self.make(), real.pick(mixed), scored.pick(mixed)))
        self._hold("order", "the scored ones first", lambda: _fed(self.make(), real, scored, real_first=False))
        self._hold("batches", "one by one", lambda: _fed(self.make(), real, scored, size=1))
        self._hold("batches", "values in between", self._in_between)
        for case, at in (("a part each", middle), ("all and none", len(real))):
            self._hold("ranks", case, lambda at=at: self._on_two_ranks(at))  # type: ignore[misc]
        self._hold("reset", "after other videos", self._reset)
        for count in (0, 1, 2):
            self._check_few(count)
        for case, wrong in no_videos(scored).items():
            for is_real in (True, False):
                self._check_form(case, wrong, is_real)
        with self.found.trying("direction", "real clips"):
            self._check_direction()

    def _hold(self, check: str, case: str, seen: Callable[[], VideoMetric]) -> None:
        """A metric that has seen the same has the same values and protocol."""
        with self.found.trying(check, case):
            metric = seen()
            values = _values(metric)
            if values.keys() != self.values.keys():
                self.found.add(check, case, f"the values are {', '.join(values)}, and were {', '.join(self.values)}")
                return
            for name, value in values.items():
                if not _near(value, self.values[name]):
                    self.found.add(check, case, f"{name} is {value:.9g}, and was {self.values[name]:.9g}")
            # That of one rank is of what it has seen.
            if check != "ranks" and protocol_hash(metric.protocol) != self.protocol:
                self.found.add("protocol", f"{check}, {case}", f"it is another: {metric.protocol}")

    def _in_between(self) -> VideoMetric:
        metric, half = self.make(), len(self.real) // 2
        for first, last in ((0, half), (half, len(self.real))):
            _fed(metric, self.real.part(first, last), self.scored.part(first, last))
            metric.compute()
        return metric

    def _on_two_ranks(self, at: int) -> VideoMetric:
        mine, theirs = self.make(), self.make()
        _fed(mine, self.real.part(0, at), self.scored.part(0, at))
        _fed(theirs, self.real.part(at, len(self.real)), self.scored.part(at, len(self.scored)))
        return join(mine, theirs)

    def _reset(self) -> VideoMetric:
        metric = self.make()
        _fed(metric, self.scored.part(0, 3), self.real.part(0, 3))
        metric.compute()
        metric.reset()
        return _fed(metric, self.real, self.scored)

    def _check_few(self, count: int) -> None:
        case = f"{count} videos"
        with self.found.trying("few", case):
            try:
                values = _values(_fed(self.make(), self.real.part(0, count), self.scored.part(0, count)))
            except UserError:
                return
            if values.keys() != self.values.keys():
                self.found.add("few", case, f"the values are {', '.join(values)}, not {', '.join(self.values)}")
            for name, value in values.items():
                if math.isinf(value) or (not count and not math.isnan(value)):
                    self.found.add("few", case, f"{name} is {value:g}, and nothing determines it")

    def _check_form(self, case: str, wrong: Tensor, is_real: bool) -> None:
        with self.found.trying("forms", case):
            try:
                self.make().update(wrong, self.scored.captions[: len(wrong)], is_real)
            except UserError:
                return
            self.found.add("forms", case, f"are taken for {'real' if is_real else 'scored'} videos")

    def _check_direction(self) -> None:
        best = _values(_fed(self.make(), self.real, self.real))
        spoilt = [_values(_fed(self.make(), self.real, clips)) for clips in self.real.spoilt().values()]
        for name, meaning in self.make().meanings.items():
            sign = {"higher": 1, "lower": -1, None: 0}[meaning.better]
            others = [values[name] for values in spoilt]
            # One of both may be the best there is: nothing is smoother than black.
            if all(sign * best[name] < sign * other and not _near(best[name], other) for other in others):
                said = " and ".join(f"{other:g}" for other in others)
                problem = f"{name} is {best[name]:g}, of black ones and of snow {said}, and {meaning.better} is better"
                self.found.add("direction", "real clips", problem)


def _near(one: float, other: float) -> bool:
    both_nan = math.isnan(one) and math.isnan(other)
    return both_nan or math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
