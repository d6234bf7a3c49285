"""Scores any videos against any real ones, under a named protocol: no experiment, no model, no run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cogvid.config.protocol import NamedProtocol, load_protocol
from cogvid.config.schema import Place, ProtocolConfig
from cogvid.config.sides import height_and_width
from cogvid.data.frame_format import RESIZE, FrameFormat
from cogvid.data.messages import in_messages
from cogvid.data.reading import DECODE, read_frames
from cogvid.errors import UserError
from cogvid.interfaces.frame_rate import frames_at
from cogvid.interfaces.metric import VideoMetric
from cogvid.pipeline.digests import check_published
from cogvid.pipeline.folder_videos import FolderVideo, look_at_videos
from cogvid.pipeline.frame_folders import frame_files, read_frame_files
from cogvid.pipeline.readings import Readings
from cogvid.pipeline.scoring import FORMAT, Scored, score
from cogvid.pipeline.stage import Info
from cogvid.pipeline.video_set import Shown, VideoSet, several, timing_facts
from cogvid.plugins.manager import create_plugin_manager


@dataclass(frozen=True)
class FolderEvaluation:
    """What an evaluation of two folders left.

    Attributes:
        record: format 2 of `metrics.json`, with the sets `generated` and, where there are real clips enough, `real`.
        reference: the real clips that were compared with.
    """

    record: Info
    reference: VideoSet


def evaluate_folders(
    real: Path, generated: Path, protocol: str, extractors: Sequence[str], features: Path, device: str = "cpu"
) -> FolderEvaluation:
    """Score the videos below a folder.

    Which of a folder's videos are scored, where there are more than the protocol wants, the SHA-256 of their bytes
    decides: whatever they are called. Real clips are scored as the set `real` where there are as many again as those
    that are compared with. Halves of these would be fewer samples, and so of another protocol: they are left out.

    Args:
        real: folder of the real videos.
        generated: folder of those that are scored.
        protocol: name or YAML file.
        extractors: files that take the place of the protocol's: `FILE`, or `name=FILE` where it has several.
        features: folder for what is read, so that it is read once.
        device: that extractors run on.

    Raises:
        UserError: the protocol cannot be followed with these videos and files; nothing was scored.
    """
    named = load_protocol(protocol)
    rules = named.evaluation.protocol
    _check_device(device)
    _put_extractors(named, extractors)
    _check_files(named)
    plugins = create_plugin_manager(named.plugins)
    metrics: dict[str, tuple[str, VideoMetric]] = {}
    for key, part in named.evaluation.metrics.items():
        metric = plugins.create("metric", part.name, part.options, f"evaluation.metrics.{key}", named.sources)
        if metric.paired:
            raise UserError(
                f"evaluation.metrics.{key}: {part.name} compares each video with the one that it shows again, and the "
                "videos of two folders are no such pairs. Leave it out of the protocol."
            )
        metrics[key] = part.name, metric
    looked = [
        look_at_videos(folder, option, features) for folder, option in ((real, "--real"), (generated, "--generated"))
    ]
    form = _format(looked, rules)
    frames = rules.frames or _most_frames([*looked[0], *looked[1]], rules)
    numbers = [[_numbers(video, rules, frames) for video in videos] for videos in looked]
    picked = [
        _pick(videos, rules.samples, option) for videos, option in zip(looked, ("--real", "--generated"), strict=True)
    ]
    real_set, generated_set = (
        _folder_set([videos[place] for place in places], [own[place] for place in places], frames, form)
        for videos, own, places in zip(looked, numbers, (picked[0].first, picked[1].first), strict=True)
    )
    sets = {"generated": generated_set}
    if picked[0].more:
        places = picked[0].more
        sets["real"] = _folder_set(
            [looked[0][place] for place in places], [numbers[0][place] for place in places], frames, form
        )
    for key, (_, metric) in metrics.items():
        try:
            metric.check(frames, form.height, form.width)
        except UserError as error:
            raise UserError(f"evaluation.metrics.{key}: {error}") from error
    batch = named.evaluation.batch_size
    scored = Scored(sets, real_set, None, frames, _facts(rules, real_set), batch)
    parts = score(metrics, scored, Readings(features, batch, device))
    return FolderEvaluation({"format": FORMAT, **parts}, real_set)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: there is no such device here. Use cpu.") from error


def _put_extractors(named: NamedProtocol, extractors: Sequence[str]) -> None:
    """Replace the files that the protocol's metrics name."""
    wanting: dict[str, list[dict[str, object]]] = {}
    for metric in named.evaluation.metrics.values():
        if "path" in metric.options:
            wanting.setdefault(str(metric.options.get("extractor", metric.name)), []).append(metric.options)
    for given in extractors:
        name, equals, path = given.partition("=")
        if not equals or Path(given).is_file():
            name, path = "", given
        if not name and len(wanting) != 1:
            known = f"the files of {' and '.join(sorted(wanting))}" if wanting else "no file"
            raise UserError(
                f"--extractor {given}: the protocol {named.evaluation.protocol.name} reads {known}. "
                + (f"Write {min(wanting)}=FILE." if wanting else "Leave it out.")
            )
        name = name or min(wanting)
        if name not in wanting:
            raise UserError(
                f"--extractor {given}: the protocol {named.evaluation.protocol.name} has no extractor {name!r} that is "
                f"read from a file. It has: {', '.join(sorted(wanting)) or 'none'}."
            )
        for options in wanting[name]:
            options["path"] = path


def _check_files(named: NamedProtocol) -> None:
    """Hold the files of extractors to what the protocol knows of them."""
    for key, metric in named.evaluation.metrics.items():
        if "path" not in metric.options:
            continue
        path, name = Path(str(metric.options["path"])), str(metric.options.get("extractor", ""))
        if not path.is_file():
            raise UserError(
                f"evaluation.metrics.{key}: there is no file {path}, which the extractor {name or metric.name} is read "
                "from. Name it with --extractor FILE."
            )
        check_published(path, name, named.evaluation.protocol)


def _format(looked: Sequence[Sequence[FolderVideo]], rules: ProtocolConfig) -> FrameFormat:
    """The frames that are scored.

    Raises:
        UserError: the protocol takes videos as they are, and they are of several sizes.
    """
    if rules.size:
        return FrameFormat(*height_and_width(rules.size), rules.fit.value)
    sizes: dict[tuple[int, int], FolderVideo] = {}
    for video in (video for videos in looked for video in videos):
        sizes.setdefault((video.look.height, video.look.width), video)
    if len(sizes) > 1:
        said = ", ".join(f"{video.path} {width}x{height}" for (height, width), video in list(sizes.items())[:3])
        raise UserError(
            f"The protocol {rules.name} scores videos as they are, and they are of several sizes: {said}. Bring them "
            "to one size, or write a protocol with evaluation.protocol.size."
        )
    ((height, width),) = sizes
    return FrameFormat(height, width, rules.fit.value)


def _numbers(video: FolderVideo, rules: ProtocolConfig, frames: int) -> NDArray[np.int64]:
    """The numbers of the frames that are scored, int64 (frames,).

    Raises:
        UserError: the video is too short, or its frames have no times.
    """
    if rules.rate and not video.look.timed:
        raise UserError(
            f"{video.path}: the protocol {rules.name} takes {rules.rate:g} frames a second, and frames in a folder "
            "have no times. Give video files."
        )
    had = _had(video, rules)
    needed = frames if rules.rate else (frames - 1) * rules.stride + 1
    if had < needed:
        at = f" at {rules.rate:g} a second" if rules.rate else f" of every {rules.stride}" if rules.stride > 1 else ""
        raise UserError(
            f"{video.path} is too short: the protocol {rules.name} scores {frames} frames{at}, for which a video needs "
            f"{needed}, and this one has {had}. Leave it out, or give a longer one."
        )
    room = had - needed
    start = {
        Place.start: 0,
        Place.middle: room // 2,
        Place.random: int(np.random.default_rng(int(video.look.content[:16], 16)).integers(room + 1)),
    }[rules.place]
    if rules.rate:
        return video.times.frames([start], range(frames), rules.rate)[0]
    return start + rules.stride * np.arange(frames)


def _had(video: FolderVideo, rules: ProtocolConfig) -> int:
    """Frames of a video that the protocol may choose from."""
    return frames_at(video.times.reach, rules.rate) if rules.rate else len(video.times)


def _most_frames(videos: Sequence[FolderVideo], rules: ProtocolConfig) -> int:
    """How many frames every video has, of those that the protocol takes."""
    fewest = min(_had(video, rules) for video in videos)
    return fewest if rules.rate else -(-fewest // rules.stride)


@dataclass(frozen=True)
class _Picked:
    """Places of the videos that are taken, and, where there are as many again, of those."""

    first: list[int]
    more: list[int]


def _pick(videos: Sequence[FolderVideo], samples: int, option: str) -> _Picked:
    if len(videos) < samples:
        raise UserError(
            f"{option}: the protocol is of {samples} videos, and there are {len(videos)}. Values of fewer compare with "
            "no other: give more, or write a protocol of your own with evaluation.protocol.samples."
        )
    if not samples:
        return _Picked([*range(len(videos))], [])
    drawn = sorted(range(len(videos)), key=lambda place: (videos[place].look.content, place))
    first, more = sorted(drawn[:samples]), sorted(drawn[samples : 2 * samples])
    return _Picked(first, more if len(more) == samples else [])


def _folder_set(
    videos: Sequence[FolderVideo], numbers: Sequence[NDArray[np.int64]], frames: int, form: FrameFormat
) -> VideoSet:
    shown, rates, lasting = [], [], []
    for video, own in zip(videos, numbers, strict=True):
        seconds = tuple(video.times.seconds[own].tolist()) if video.look.timed else ()
        shown.append(Shown(video.id, video.look.content, tuple(own.tolist()), seconds))
        if seconds:
            lasting.append(seconds[-1] - seconds[0])
            rates.append((frames - 1) / lasting[-1] if lasting[-1] else 0.0)
    files = {place: frame_files(video.path) for place, video in enumerate(videos) if video.path.is_dir()}
    keys = [f"{clip.content} {_short(clip.numbers)}" for clip in shown]
    facts = timing_facts(frames, rates, lasting) | {"scored": several([video.look.codec for video in videos])}
    # Pillow and FFmpeg read other pixels out of one file.
    pixels = {"decode": _decode(videos), "fit": form.fit, "resize": RESIZE}

    def read(places: Sequence[int]) -> Generator[Tensor, None, None]:
        def work(place: int) -> Tensor:
            wanted = shown[place].numbers
            if place in files:
                return read_frame_files([files[place][number] for number in wanted], form)
            return read_frames(videos[place].path, wanted, form)

        yield from in_messages(work, places, frames * 3 * form.height * form.width)

    shape = (frames, form.height, form.width)
    return VideoSet(keys, [""] * len(videos), shape, pixels, facts, read, shown)


def _decode(videos: Sequence[FolderVideo]) -> str:
    ways = {"Pillow, RGB" if video.path.is_dir() else DECODE for video in videos}
    return "; ".join(sorted(ways))


def _facts(rules: ProtocolConfig, reference: VideoSet) -> dict[str, str | int | float]:
    """What all values of the evaluation share: the rules, and how the real ones were read."""
    taken = f"{rules.rate:g} a second" if rules.rate else f"every {rules.stride}" if rules.stride > 1 else "as stored"
    return {
        "protocol": rules.name,
        "real_codec": str(reference.facts["scored"]),
        "real_rates": str(reference.facts["rates"]),
        "decode": str(reference.pixels["decode"]),
        "fit": rules.fit.value if rules.size else "none, as they are",
        "frames_resize": RESIZE if rules.size else "none",
        "frames_taken": taken,
        "place": rules.place.value,
        "split": "as given",
    }


def _short(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
