"""`cogvid bench data`: clips decoded and encoded, beside PyAV's own loop over the same frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from cogvid.bench.measure import Times, time_rounds
from cogvid.data.files import VideoFile
from cogvid.data.frame_format import FrameFormat
from cogvid.data.messages import in_messages
from cogvid.data.reading import probe, read_frames
from cogvid.data.video import VideoWriter
from cogvid.errors import UserError
from cogvid.interfaces.data_source import Clip, DataSource
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.tokenizer_stage import encode

Say = Callable[[str], None]
BARE, PLAIN, ENCODER = "PyAV", "PyAV, as its pages write it", "encoder"
_CPU = torch.device("cpu")
# Clips of a set that are encoded, too.
_ENCODED = 64
# Rows, columns and frames of the clips that are made beside those of the source `shapes`.
_LARGE = (240, 320, 250)


@dataclass(frozen=True)
class ClipSet:
    """Clips that are decoded one after the other.

    Attributes:
        name: for tables.
        files: the videos.
        frames: of each of them.
        form: of the frames; None leaves them as they are.
    """

    name: str
    files: Sequence[VideoFile]
    frames: Sequence[int]
    form: FrameFormat | None

    def read(self, place: int) -> Tensor:
        """All frames of a clip: uint8 (T, 3, height, width)."""
        return read_frames(self.files[place], range(self.frames[place]), self.form)

    def decoded(self, workers: int) -> Iterator[Tensor]:
        """The frames of all clips, as the stages of a run get them."""
        return in_messages(self.read, range(len(self.files)), self.bytes_each, workers)

    def pick(self, places: Sequence[int]) -> ClipSet:
        """These clips of the set."""
        return replace(self, files=[self.files[n] for n in places], frames=[self.frames[n] for n in places])

    @cached_property
    def bytes_each(self) -> int:
        """Of the first clip's frames."""
        return self.read(0).nbytes


@dataclass
class ClipsResult:
    """Of one set of clips.

    Attributes:
        left_out: clips that are no video, or that a bare loop does not show as a player does.
        shape: height and width of the frames, of the first clip.
        decoding: seconds of all clips, by way.
        encoded: the clips that are encoded, too, where the frames are the frame tokenizer's.
        encoding: seconds of decoding and encoding them, by workers.
        encoder: seconds in which the frame tokenizer alone encodes them.
    """

    clips: ClipSet
    left_out: int
    shape: tuple[int, int]
    decoding: dict[str, Times] = field(default_factory=dict)
    encoded: ClipSet | None = None
    encoding: dict[str, Times] = field(default_factory=dict)
    encoder: Times | None = None

    def ratio(self, way: str, other: str) -> float | None:
        """How many times as fast one way of decoding is as another."""
        if way not in self.decoding or other not in self.decoding:
            return None
        return self.decoding[other].median / self.decoding[way].median


def run_clips(clips: ClipSet, workers: Sequence[int], repeats: int, lab: Lab, say: Say) -> ClipsResult:
    """Check that all ways to decode agree, then time them in turns.

    Args:
        clips: what to decode.
        workers: numbers of processes, 0 for this one alone.
        repeats: rounds.
        lab: its frame tokenizer encodes what fits it.
        say: told what is done.

    Raises:
        UserError: a way gives other frames than the bare loop, or no clip is left.
    """
    say(f"{clips.name}: check")
    whole = len(clips.files)
    clips = _plain(clips)
    for number, way in enumerate(map(clips.decoded, workers)):
        for place, (file, frames) in enumerate(zip(clips.files, way, strict=True)):
            if not torch.equal(frames, bare_loop(file, clips.form)):
                raise UserError(
                    f"Not timed, because the check failed: {file}, decoded with {workers[number]} workers, has other "
                    f"frames than a bare PyAV loop gives (clip {place})."
                )
    height, width = clips.read(0).shape[2:]
    result = ClipsResult(clips, whole - len(clips.files), (height, width))

    say(f"{clips.name}: decoding")
    calls: dict[str, Callable[[], object]] = {
        PLAIN: lambda: _use_up(map(plain_loop, clips.files)),
        BARE: lambda: _use_up(bare_loop(file, clips.form) for file in clips.files),
        **{str(n): partial(_decode, clips, n) for n in workers},
    }
    result.decoding = time_rounds(calls, repeats, 0.0, _CPU)
    if result.shape == lab.config.video.sides:
        say(f"{clips.name}: encoding")
        part = result.encoded = clips.pick(range(min(len(clips.files), _ENCODED)))
        tokenizer = lab.build_tokenizer().eval()
        decoded = list(part.decoded(0))
        calls = {ENCODER: lambda: _use_up(encode(tokenizer, own) for own in decoded)}
        calls |= {str(n): partial(_decode, part, n, tokenizer) for n in workers}
        result.encoding = time_rounds(calls, repeats, 0.0, _CPU)
        result.encoder = result.encoding.pop(ENCODER)
    return result


def _decode(clips: ClipSet, workers: int, tokenizer: FrameTokenizer | None = None) -> None:
    decoded = clips.decoded(workers)
    _use_up(decoded if tokenizer is None else (encode(tokenizer, frames) for frames in decoded))


def _use_up(items: Iterable[object]) -> None:
    """Make them all, holding one at a time."""
    for _ in items:
        pass


def bare_loop(file: VideoFile, form: FrameFormat | None) -> Tensor:
    """All frames of a video as a short loop over PyAV makes them, one thread, one converter for all frames.

    Returns:
        uint8 (T, 3, height, width), laid out as `read_frames` lays them out.
    """
    images, converter = [], VideoReformatter()
    with av.open(file.address, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            image = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            images.append(image if form is None else form.of(image.astype(np.uint8, copy=False)))
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def plain_loop(file: VideoFile) -> list[np.ndarray]:
    """The loop that PyAV's documentation shows: FFmpeg chooses its threads, each frame sets up its own conversion."""
    with av.open(file.address, metadata_errors="replace") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _plain(clips: ClipSet) -> ClipSet:
    """Without the clips that are turned, mirrored or stretched to be shown: a bare loop knows nothing of that."""
    kept = [place for place, file in enumerate(clips.files) if not _placed(file)]
    if not kept:
        raise UserError(f"{clips.name}: no clip is left that a bare loop shows as a player does.")
    return clips.pick(kept)


def _placed(file: VideoFile) -> bool:
    with av.open(file.address, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        return bool(frame.side_data.get("DISPLAYMATRIX")) or stream.sample_aspect_ratio not in (None, 0, 1)


def clip_set(name: str, clips: Sequence[Clip], form: FrameFormat | None) -> tuple[ClipSet, int]:
    """A set of the videos of some clips that can be read, and how many cannot.

    Raises:
        UserError: none can.
    """
    files, frames = [], []
    found = list(dict.fromkeys(VideoFile.of(clip) for clip in clips))
    for file in found:
        try:
            frames.append(len(probe(file).times))
        except UserError as error:
            problem = error
            continue
        files.append(file)
    if not files:
        raise UserError(
            f"{name}: none of the {len(found)} clips can be read. {problem}" if found else f"{name}: empty."
        )
    return ClipSet(name, files, frames, form), len(found) - len(files)


def first_clips(lab: Lab, folder: Path, count: int) -> list[Clip]:
    """The first clips of the experiment's own source."""
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(lab.data, DataSource):
        raise UserError(f"data: {lab.config.data.name} gives tokens, and has no videos to decode.")
    return list(islice(lab.data.clips(folder, lab.config.data_seed, lambda done, total: None), count))


def large_clips(folder: Path, count: int, shape: tuple[int, int, int] = _LARGE) -> list[Clip]:
    """Made-up clips, H.264 as browsers play it: random tiles that move, each clip its own."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width, frames = shape
    clips = []
    for number in range(count):
        tiles = np.random.default_rng(number).integers(0, 256, (height // 8 + 16, width // 8 + 16, 3), dtype=np.uint8)
        picture = tiles.repeat(8, 0).repeat(8, 1)
        path = folder / f"large-{number:03d}.mp4"
        with VideoWriter(path, fps=25, lossless=False) as writer:
            for i in range(frames):
                top, left = i % 80, 2 * i % 80
                writer.add(picture[None, top : top + height, left : left + width])
        clips.append(Clip(path.stem, path, "tiles that move", "train"))
    return clips
