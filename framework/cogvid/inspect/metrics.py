"""What a metric sees: its values for real videos made worse in known ways and degrees, beside real against real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cogvid.inspect.metric_clips import Clips
from cogvid.interfaces.metric import VideoMetric
from cogvid.metrics.corruptions import CORRUPTIONS, corrupt
from cogvid.metrics.extractors import ExtractorMetric
from cogvid.progress import stage_progress

BATCH = 64


@dataclass(frozen=True)
class Sight:
    """What a metric gives.

    Attributes:
        real: values by name, for real videos against other real ones.
        corrupted: by corruption and strength, the same for the first of them made worse.
        clips: on each side.
        protocol: of the metric.
    """

    real: dict[str, float]
    corrupted: dict[str, dict[int, dict[str, float]]]
    clips: int
    protocol: dict[str, Any]


def sight(metric: VideoMetric, clips: Clips, strengths: Sequence[int], seed: int) -> Sight:
    """Score one half of the clips, as they are and made worse, against the other half.

    A metric that compares clip by clip gets the same clips on both sides.

    Args:
        metric: any.
        clips: 2n of them.
        strengths: of each corruption, from 1 to 5.
        seed: of the corruptions.

    Raises:
        UserError: the metric does not read these clips.
    """
    count = len(clips.videos) // 2
    scored = slice(0, count)
    reference = scored if metric.paired else slice(count, 2 * count)
    metric.check(clips.videos.shape[1], *clips.videos.shape[3:])
    # The real videos are read once.
    batches = [*zip(clips.videos[reference].split(BATCH), _split(clips.captions[reference]), strict=True)]
    readings = [metric.extractor.read(videos) for videos, _ in batches] if isinstance(metric, ExtractorMetric) else []

    def score(worse: str = "", strength: int = 0) -> dict[str, float]:
        metric.reset()
        for number, (videos, captions) in enumerate(batches):
            if isinstance(metric, ExtractorMetric):
                metric.check_shape(videos)
                metric.add(readings[number], captions, True)
            else:
                metric.update(videos, captions, True)
        parts = zip(clips.videos[scored].split(BATCH), _split(clips.captions[scored]), strict=True)
        for number, (videos, captions) in enumerate(parts):
            shown = corrupt(worse, videos, strength, seed + number) if worse else videos
            metric.update(shown, captions, False)
        return {name: float(value) for name, value in metric.compute().items()}

    real = score()
    protocol = metric.protocol
    corrupted: dict[str, dict[int, dict[str, float]]] = {name: {} for name in CORRUPTIONS}
    cells = [(name, strength) for name in CORRUPTIONS for strength in strengths]
    with stage_progress() as bar:
        for name, strength in bar.track(cells, description="corruptions"):
            corrupted[name][strength] = score(name, strength)
    return Sight(real, corrupted, count, protocol)


def _split(captions: Sequence[str]) -> list[Sequence[str]]:
    return [captions[start : start + BATCH] for start in range(0, len(captions), BATCH)]


def rows(found: Sight, value: str) -> list[list[str]]:
    """A table of one value: a heading, real against real, then a row a corruption with its strengths across.

    The last column says what the strengths are, the one before it how many times real against real the last is.
    """
    strengths, plain = [*next(iter(found.corrupted.values()))], found.real[value]
    table = [["corruption", *map(str, strengths), "times", "what 1 to 5 are"]]
    table.append(["none", *([_number(plain)] * len(strengths)), "1", "real against real"])
    for name, values in found.corrupted.items():
        row = [values[strength][value] for strength in strengths]
        times = f"{row[-1] / plain:.3g}" if plain > 0 else ""
        table.append([name, *map(_number, row), times, CORRUPTIONS[name].text])
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    heading, *rest = table
    lines = [heading, ["---", *["---:"] * (len(heading) - 2), "---"], *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
