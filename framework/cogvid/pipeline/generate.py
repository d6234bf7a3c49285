"""Generates the clips of the test captions, and the floors and ceilings they are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import ProgressColumn, Task
from rich.text import Text
from safetensors.torch import load_file
from torch import Tensor

from cogvid.config.schema import ComponentConfig
from cogvid.data.files import VideoFile
from cogvid.data.table import TimedClip
from cogvid.data.video import write_video
from cogvid.generation.clips import ClipGenerator, OnStep
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.interfaces.interpolation import InterpolationStrategy
from cogvid.interfaces.text_tokenizer import TextTokenizer
from cogvid.pipeline.clips import decode_clips, read_clips
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.pictures import enlarge
from cogvid.pipeline.stage import Info, StageResult, StageStore, as_plain
from cogvid.pipeline.tensor_file import write_tensors
from cogvid.pipeline.tokenizer_stage import decode, encode
from cogvid.progress import stage_progress

# Videos of each set besides `generated` that are written as files.
_SHOWN = 16


@dataclass(frozen=True)
class TestClips:
    """Test clips that the scheduler can show, with the rates to generate each at.

    Attributes:
        clips: what to imitate.
        rates: of the key frames and of each round (1/s), for each clip.
        key_frames: how many there are.
        intervals: between key frames, that a whole clip lasts.
    """

    clips: list[TimedClip]
    rates: list[list[float]]
    key_frames: int
    intervals: float

    @property
    def captions(self) -> list[str]:
        """What the clips show."""
        return [timed.clip.caption for timed in self.clips]

    def prompts(self, tokenizer: TextTokenizer) -> list[str]:
        """What is generated: the captions without characters that the tokenizer cannot read."""
        return [tokenizer.readable(caption) for caption in self.captions]

    @property
    def seconds(self) -> list[list[float]]:
        """Durations of the sequences of the key frames and of each round, for each clip."""
        return [[(self.key_frames - 1) / rate for rate in own] for own in self.rates]

    @property
    def durations(self) -> list[float]:
        """Seconds from first to last frame of the finished clips."""
        return [self.intervals / own[0] for own in self.rates]

    def numbers(self, frames: int) -> list[NDArray[np.int64]]:
        """The numbers of `frames` frames spread over each clip as finished clips have them, both ends included."""
        window = [Fraction(self.intervals) * place / max(frames - 1, 1) for place in range(frames)]
        return [timed.times.frames([0], window, own[0])[0] for timed, own in zip(self.clips, self.rates, strict=True)]

    def first(self, count: int) -> TestClips:
        """The first `count` of them."""
        return self._pick(range(min(count, len(self.clips))))

    def beside(self, others: TestClips, count: int) -> TestClips:
        """The first `count` videos of which `others` has no clip, each with its first caption."""
        seen = {VideoFile.of(timed.clip) for timed in others.clips}
        places: dict[VideoFile, int] = {}
        for place, timed in enumerate(self.clips):
            if (video := VideoFile.of(timed.clip)) not in seen:
                places.setdefault(video, place)
        return self._pick(list(places.values())[:count])

    def _pick(self, places: Iterable[int]) -> TestClips:
        places = list(places)
        return replace(self, clips=[self.clips[i] for i in places], rates=[self.rates[i] for i in places])


def usable_test_clips(lab: Lab, data: StageResult) -> TestClips:
    """The test clips at the rates that the scheduler would generate them through."""
    clips = read_clips(data.folder, "test")
    rates = [lab.clip_rates(clip.duration) for clip in clips]
    usable = [(clip, own) for clip, own in zip(clips, rates, strict=True) if own]
    return TestClips([c for c, _ in usable], [r for _, r in usable], lab.config.video.frames, lab.clip_intervals)


def generation_stage(
    lab: Lab,
    store: StageStore,
    data: StageResult,
    tokenizer: tuple[StageResult, FrameTokenizer],
    models: dict[str, StageResult],
    generator: ClipGenerator,
) -> StageResult:
    """Generates, and writes tokens and videos of every set.

    Where key frames are given (`generation.given`), every generated clip begins with them as the frame tokenizer shows
    them, and metrics take the clip as a whole, as the published protocols of frame prediction do.
    """
    config = lab.config
    depends = {
        "data": data.key,
        "models": {name: stage.key for name, stage in models.items()},
        "tokenizer": tokenizer[0].key,
        "frame_rate": lab.identity("frame_rate", config.frame_rate),
        "interpolation": lab.identity("interpolation", config.interpolation),
        "floors": {name: lab.identity("interpolation", ComponentConfig(name)) for name in lab.floors()},
        "generation": lab.generation_settings(),
        "seed": config.seed,
    }

    def work(folder: Path) -> Info:
        chosen = usable_test_clips(lab, data).first(config.generation.samples)
        network, target = tokenizer[1], config.generation.frames
        decoded = decode_clips(chosen.clips, chosen.numbers(target), lab.frame_format, "generate: real clips")
        real = torch.stack([*decoded])
        codes = {"real": _codes(network, real)}
        clips = _generate(generator, chosen, config.seed, codes["real"][:, _given_places(lab)])
        if lab.strategy.learned:
            codes["generated"] = clips
            # As many frames as there are key frames, spread over the clip: for most strategies the key frames.
            codes["key_frames"] = clips[:, InterpolationStrategy().key_frame_places(config.video.frames, target)]
        else:
            codes["key_frames"] = clips
        videos = {name: to_videos(lab, network, own) for name, own in codes.items() if name != "real"}
        if not lab.strategy.learned:
            videos["generated"] = lab.strategy.fill(videos["key_frames"], target)
        for name, strategy in lab.floors().items():
            videos[name] = strategy.fill(videos["key_frames"], target)
        videos["reconstruction"] = to_videos(lab, network, codes["real"])
        videos["real"] = real
        write_tensors(folder / "tokens.safetensors", {name: value.int() for name, value in codes.items()})
        write_tensors(folder / "videos.safetensors", videos)
        _write_videos(folder, videos, chosen)
        return {"clips": len(clips), **_measured(lab, generator)}

    return store.finish("samples", depends, work)


def speed_stage(
    lab: Lab, store: StageStore, data: StageResult, samples: StageResult, generator: ClipGenerator
) -> StageResult:
    """What says how fast the run's decoding is: the samples if it made them; else one batch of them is made again."""
    if samples.info.get("decoding", _decoding(lab)) == _decoding(lab):
        return samples
    depends = {"samples": samples.key, "decoding": lab.identity("decoding", lab.config.generation.decoding)}

    def work(folder: Path) -> Info:
        chosen = usable_test_clips(lab, data).first(
            min(lab.config.generation.samples, lab.config.generation.batch_size)
        )
        made = load_file(samples.folder / "tokens.safetensors")
        real = made["real"][: len(chosen.clips)].long()
        clips = _generate(generator, chosen, lab.config.seed, real[:, _given_places(lab)])
        kept = made["generated" if lab.strategy.learned else "key_frames"][: len(clips)]
        equal = round((clips == kept).double().mean().item(), 6)
        if equal < 1:
            log.info("speed: %s of the tokens are those of %s", equal, samples.info["decoding"]["name"])
        return {"clips": len(clips), "equal_tokens": equal, **_measured(lab, generator)}

    return store.finish("speed", depends, work)


def _measured(lab: Lab, generator: ClipGenerator) -> Info:
    return {"tokens_per_second": round(generator.tokens / generator.seconds, 1), "decoding": _decoding(lab)}


def _decoding(lab: Lab) -> Info:
    return {**as_plain(lab.config.generation.decoding), "exact": lab.decoding.exact}


def load_videos(stage: StageResult) -> dict[str, Tensor]:
    """Videos uint8 (samples, frames, 3, height, width) by set."""
    return load_file(stage.folder / "videos.safetensors")


@contextmanager
def token_progress(title: str, total: int) -> Iterator[OnStep]:
    """A progress bar of generated tokens, their speed and the time left; what it gives is called with each step's."""
    with stage_progress(_Speed()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda tokens: bar.advance(task, tokens)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} tokens/s" if task.speed else "")


def given_key_frames(lab: Lab, tokenizer: FrameTokenizer, chosen: TestClips) -> Tensor | None:
    """Codes of the key frames that the clips go on from, int64 (B, generation.given, N); None where none is given."""
    places = _given_places(lab)
    if not places:
        return None
    numbers = [frames[places] for frames in chosen.numbers(lab.config.generation.frames)]
    decoded = decode_clips(chosen.clips, numbers, lab.frame_format, "previews: given frames")
    return _codes(tokenizer, torch.stack([*decoded]))


def _given_places(lab: Lab) -> list[int]:
    return lab.places[: lab.config.generation.given]


def _codes(tokenizer: FrameTokenizer, videos: Tensor) -> Tensor:
    """Videos uint8 (B, F, 3, height, width) to codes int64 (B, F, N)."""
    return encode(tokenizer, videos.flatten(0, 1)).flatten(1).unflatten(0, videos.shape[:2])


def _generate(generator: ClipGenerator, chosen: TestClips, seed: int, given: Tensor) -> Tensor:
    """Codes of all chosen clips, int64 (B, frames of the generator's timeline, N)."""
    count = len(chosen.clips)
    with token_progress("generate", count * generator.clip_tokens) as on_step:
        return generator.clips(
            chosen.prompts(generator.text.tokenizer), chosen.seconds, torch.arange(count), seed, on_step, given
        )


def to_videos(lab: Lab, tokenizer: FrameTokenizer, codes: Tensor) -> Tensor:
    """Codes (B, F, N) to videos uint8 (B, F, 3, height, width)."""
    grid = codes.flatten(0, 1).unflatten(-1, (lab.grid.height, lab.grid.width))
    return decode(tokenizer, grid).unflatten(0, codes.shape[:2])


def _write_videos(folder: Path, videos: dict[str, Tensor], chosen: TestClips) -> None:
    rows = [
        {"index": i, "caption": caption, "rate": own[0]}
        for i, (caption, own) in enumerate(zip(chosen.captions, chosen.rates, strict=True))
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, clips in videos.items():
        (folder / name).mkdir(exist_ok=True)
        for i, video in enumerate(clips if name == "generated" else clips[:_SHOWN]):
            rate = (len(video) - 1) / chosen.durations[i]
            write_video(folder / name / f"{i:04d}.mp4", enlarge(video), rate, lossless=False)
