"""Clips for prompts, from a trained run; run again after an interruption, it goes on with the same clips."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from cogvid.config.schema import ExperimentConfig
from cogvid.errors import UserError
from cogvid.generation.clips import OnStep
from cogvid.pipeline.clip_files import ClipFiles, ClipWriter, Request, fill
from cogvid.pipeline.generate import to_videos, token_progress
from cogvid.pipeline.lab import LONG, Lab
from cogvid.pipeline.pictures import contact_sheet
from cogvid.pipeline.run import TrainedModels, needed_stages, trained_models
from cogvid.pipeline.stage import Info, StageResult, as_plain, write_whole
from cogvid.pipeline.text_stage import warn_of_prompts

# Frames of each clip on the contact sheet.
_ACROSS = 8
# Settings of the generation that do not decide a clip.
_ASIDE = ("samples", "batch_size", "frames", "compile")


def sample_clips(
    config: ExperimentConfig,
    stages: dict[str, StageResult],
    prompts: Sequence[str],
    out: Path,
    *,
    count: int = 1,
    duration: float | None = None,
    seed: int = 0,
    gif: bool = False,
    sheet: bool = True,
    wait: bool = True,
) -> list[Path]:
    """Generate clips for prompts, and write each as mp4, its tokens and what it is beside it.

    Clips that are finished already stay as they are.

    Args:
        config: of the run, with the wanted `generation.frames` and `generation.batch_size`.
        stages: the run's finished stages.
        prompts: texts; one that comes again gets another clip.
        out: folder for the files.
        count: clips of each prompt.
        duration: seconds from first to last frame; None for that of the scheduler's slowest rate for a long clip.
        seed: another one gives other clips.
        gif: write animated GIFs, too.
        sheet: write one picture with frames of all clips.
        wait: for another process that makes one of the clips.

    Returns:
        The mp4 files in the order of the prompts, then the contact sheet if there is one.

    Raises:
        UserError: a prompt is empty or cannot be read, a stage is not trained yet, no rate fits the duration, a file of
            the clips' names belongs to another clip, or the run's clips go on from real ones.
    """
    if given := config.generation.given:
        raise UserError(
            f"generation.given: the run's clips go on from {given} key frames of real ones, and a prompt has none. For "
            "clips of prompts, run the experiment with generation.given=0 and a name of its own: no model is trained "
            "again."
        )
    lab = Lab(config)
    settings = _settings(lab, stages)
    rates = _rates(lab, duration)
    shape = config.generation.frames, lab.clip_intervals / rates[0]
    clips = [ClipFiles(out, Request(*text, seed, *shape, settings), gif) for text in _numbered(prompts, count)]
    for clip in clips:
        clip.check()
    picture = _sheet_path(out, clips)
    if any(clip.missing for clip in clips) or (sheet and not picture.exists()):
        run = trained_models(lab, stages)
        seconds = [(config.video.frames - 1) / rate for rate in rates]
        warn_of_prompts(run.generator.text, prompts, [seconds] * len(prompts))
        _make_folder(out)
        _make_all(lab, run, clips, seconds, wait)
        if sheet and not picture.exists():
            rows = [(_title(clip.request), _frames_across(lab, run, clip)) for clip in clips]
            write_whole(picture, contact_sheet(rows))
    return [*(clip.path(".mp4") for clip in clips), *([picture] if sheet else [])]


def _make_all(lab: Lab, run: TrainedModels, clips: list[ClipFiles], seconds: list[float], wait: bool) -> None:
    fresh = sum(".safetensors" in clip.missing for clip in clips)
    size = lab.config.generation.batch_size
    with token_progress("sample", fresh * run.generator.clip_tokens) as on_step:
        # The batches are those of an uninterrupted command, whatever is finished already.
        for start in range(0, len(clips), size):
            with ExitStack() as stack:
                batch = [clip for clip in clips[start : start + size] if clip.missing]
                # In one order, whatever the prompts': two processes must not wait for each other.
                for clip in sorted(batch, key=lambda clip: clip.path(".json")):
                    stack.enter_context(clip.at_work(wait))
                _make_batch(lab, run, [clip for clip in batch if clip.missing], seconds, on_step)


def _make_batch(lab: Lab, run: TrainedModels, batch: list[ClipFiles], seconds: list[float], on_step: OnStep) -> None:
    fresh = [clip for clip in batch if ".safetensors" in clip.missing]
    for clip in batch:
        if clip not in fresh:
            with ClipWriter(lab, run.tokenizer, clip) as writer:
                writer.add(clip.codes())
                writer.finish()
    if not fresh:
        return
    prompts = [clip.request.prompt for clip in fresh]
    numbers = torch.tensor([clip.request.sample for clip in fresh])
    with ExitStack() as stack:
        writers = [stack.enter_context(ClipWriter(lab, run.tokenizer, clip)) for clip in fresh]
        for piece in run.generator.pieces(prompts, [seconds] * len(fresh), numbers, fresh[0].request.seed, on_step):
            for writer, codes in zip(writers, piece, strict=True):
                writer.add(codes)
        for writer in writers:
            writer.finish()


def _settings(lab: Lab, stages: dict[str, StageResult]) -> Info:
    """What decides the clips of a run, besides the prompts.

    Raises:
        UserError: a stage is missing.
    """
    return {
        "models": {name: stages[name].key for name in needed_stages(lab, stages)},
        "frame_rate": as_plain(lab.identity("frame_rate", lab.config.frame_rate)),
        "interpolation": as_plain(lab.identity("interpolation", lab.config.interpolation)),
        "generation": {key: value for key, value in lab.generation_settings().items() if key not in _ASIDE},
        "cogvid": version("cogvid"),
    }


def _rates(lab: Lab, duration: float | None) -> list[float]:
    """The rates (1/s) of the key frames and of each round."""
    if duration is not None and not 0 < duration < math.inf:
        raise UserError(f"--duration {duration}: a clip lasts more than 0 seconds")
    rates = lab.clip_rates(LONG if duration is None else duration)
    if not rates:
        frames = math.ceil(lab.clip_intervals) + 1
        raise UserError(f"--duration {duration}: the run's frame rates yield no {frames} frames in that time")
    return rates


def _numbered(prompts: Sequence[str], count: int) -> list[tuple[str, int]]:
    """Each prompt `count` times, with the number of its clips before."""
    seen: Counter[str] = Counter()
    clips = []
    for prompt in map(str.strip, prompts):
        if not prompt:
            raise UserError('a prompt is empty: say what the clip should show, for example "a red circle moves left"')
        clips += [(prompt, seen[prompt] + i) for i in range(count)]
        seen[prompt] += count
    return clips


def _sheet_path(out: Path, clips: list[ClipFiles]) -> Path:
    """A name for the sheet of these very clips."""
    whole = "".join(clip.request.to_json() for clip in clips)
    return out / f"sheet-{hashlib.sha256(whole.encode()).hexdigest()[:12]}.png"


def _title(request: Request) -> str:
    return f"{request.prompt} (seed {request.seed}, sample {request.sample})"


def _frames_across(lab: Lab, run: TrainedModels, clip: ClipFiles) -> Tensor:
    """Frames spread over a finished clip, uint8 (f, 3, height, width)."""
    frames = clip.request.frames
    chosen = torch.linspace(0, frames - 1, min(frames, _ACROSS)).round().long()
    codes = clip.codes()[None]
    if lab.strategy.learned:
        return to_videos(lab, run.tokenizer, codes[:, chosen])[0]
    return fill(lab, to_videos(lab, run.tokenizer, codes)[0])[chosen]


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: the folder cannot be made: {error.strerror}. Choose another.") from error
