"""The results of `cogvid bench data` as JSON and in words, beside what is aimed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cogvid.bench.data import BARE, PLAIN, ClipSet, ClipsResult
from cogvid.bench.data_loading import LoadingResult
from cogvid.bench.data_table import TableResult
from cogvid.bench.measure import Times

_MB = 1_000_000


@dataclass(frozen=True)
class Target:
    """What is aimed at.

    Attributes:
        what: in words.
        value: what was measured.
        limit: at least, or less than `limit`.
        at_least: which of the two.
    """

    what: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.value >= self.limit if self.at_least else self.value < self.limit

    def line(self) -> str:
        """In words."""
        wanted = f"{'at least' if self.at_least else 'under'} {self.limit:g}"
        return f"  {'reached' if self.reached else 'MISSED':7}  {self.what}: {self.value:.3g} ({wanted})"


def targets(sets: Sequence[ClipsResult], loading: LoadingResult | None, table: TableResult | None) -> list[Target]:
    """All that has a limit and was measured."""
    found = []
    for one in sets:
        name, bare, two = one.clips.name, one.ratio("0", BARE), one.ratio("2", "0")
        if bare is not None:
            found.append(Target(f"{name}: decoding in one process, times as fast as a bare PyAV loop", bare, 0.8))
        if two is not None:
            found.append(Target(f"{name}: decoding in two processes, times as fast as in one", two, 1.7))
    if loading is not None:
        found.append(Target("sequences loaded in one process while a training step consumes one", loading.ratio, 50))
    if table is not None:
        found.append(Target(f"a table of {table.rows:,} clips: seconds to open it", table.open_s, 2, at_least=False))
        for what, size in (("MB more at most while it opens", table.peak), ("MB of its own after draws", table.own)):
            if size is not None:
                found.append(Target(f"a process with it: {what}", size / _MB, 300, at_least=False))
        found.append(Target("milliseconds to draw the next sample", table.draw_s * 1e3, 1, at_least=False))
    return found


def clips_json(one: ClipsResult) -> dict[str, Any]:
    """Seconds, clips and frames a second of each way, and ratios."""
    ways = [way for way in one.decoding if way.isdecimal()]
    whole = {
        "name": one.clips.name,
        "clips": len(one.clips.files),
        "left_out": one.left_out,
        "frames": sum(one.clips.frames),
        "size": one.shape,
        "decoding": {way: _speeds(one.clips, times) for way, times in one.decoding.items()},
        "ratio_to_bare_loop": {way: one.ratio(way, BARE) for way in ways},
        "ratio_to_one_process": {way: one.ratio(way, "0") for way in ways},
    }
    if one.encoded and one.encoder:
        whole["encoder"] = _speeds(one.encoded, one.encoder)
        whole["decoding_and_encoding"] = {way: _speeds(one.encoded, times) for way, times in one.encoding.items()}
    return whole


def _speeds(clips: ClipSet, times: Times) -> dict[str, float]:
    """Seconds of all clips, and how many a second."""
    return {
        **asdict(times),
        "clips_per_s": len(clips.files) / times.median,
        "frames_per_s": sum(clips.frames) / times.median,
    }


def clips_lines(one: ClipsResult) -> list[str]:
    """One set of clips in words; the first line is its name."""
    height, width = one.shape
    left = f", {one.left_out} left out" if one.left_out else ""
    frames = sum(one.clips.frames)
    lines = [f"{one.clips.name}: {len(one.clips.files)} clips, {frames:,} frames of {width}x{height}{left}"]

    def line(what: str, clips: ClipSet, times: Times, more: str = "") -> None:
        speeds = _speeds(clips, times)
        speed = f"{speeds['clips_per_s']:8,.1f} clips, {speeds['frames_per_s']:8,.0f} frames a second"
        lines.append(f"  {what:39} {speed}{more}")

    for way, times in one.decoding.items():
        named = way in (BARE, PLAIN)
        ratio = "" if named else f", {one.ratio(way, BARE):.2f} times PyAV"
        line(f"decoding, {way if named else _workers(way)}", one.clips, times, ratio)
    if one.encoded and one.encoder:
        line("encoding alone", one.encoded, one.encoder)
        for way, times in one.encoding.items():
            line(f"decoding and encoding, {_workers(way)}", one.encoded, times)
    return lines


def _workers(count: str) -> str:
    return {"0": "in this process", "1": "1 worker"}.get(count, f"{count} workers")


def loading_json(one: LoadingResult) -> dict[str, Any]:
    """Seconds of a batch, sequences a second of both, and the ratio."""
    return {
        "batch_size": one.batch_size,
        "loading": {**asdict(one.loading), "sequences_per_s": one.batch_size / one.loading.median},
        "training_step": {**asdict(one.step), "sequences_per_s": one.batch_size / one.step.median},
        "loaded_over_consumed": one.ratio,
    }


def loading_lines(one: LoadingResult) -> list[str]:
    """In words."""
    loaded, used = (one.batch_size / times.median for times in (one.loading, one.step))
    return [
        f"sequences of tokens, {one.batch_size} a step",
        f"  loaded in one process {loaded:,.0f} a second, consumed by the training {used:,.1f}: {one.ratio:.0f} times",
    ]


def table_json(one: TableResult) -> dict[str, Any]:
    """Seconds and bytes."""
    return {
        "rows": one.rows,
        "bytes": one.bytes,
        "usable_training_clips": one.clips,
        "open_s": one.open_s,
        "warnings_s": one.warn_s,
        "first_draw_of_an_epoch_s": one.permutation_s,
        "draw_s": {"median": one.draw_s, "max": max(one.draws_s)},
        "peak_bytes_of_opening": one.peak,
        "own_bytes_after_draws": one.own,
    }


def table_lines(one: TableResult) -> list[str]:
    """In words."""
    memory = "" if one.peak is None else f", {one.peak / _MB:,.0f} MB more at most, pages of the file among them"
    own = "" if one.own is None else f"; {one.own / _MB:,.0f} MB of the process's own after them"
    return [
        f"a clip table of {one.rows:,} clips, {one.bytes / _MB:,.0f} MB",
        f"  opened and {one.clips:,} clips found to train on in {one.open_s:.2f} s{memory}",
        f"  a draw {one.draw_s * 1e3:.3f} ms, the slowest {max(one.draws_s) * 1e3:.2f} ms, the first of an epoch "
        f"{one.permutation_s * 1e3:.0f} ms{own}",
        f"  what a run says of its data at its start: {one.warn_s:.1f} s",
    ]
