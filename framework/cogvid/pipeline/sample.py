"""Clips for prompts, from a trained run."""

from __future__ import annotations

from pathlib import Path

from cogvid.config.schema import ExperimentConfig
from cogvid.errors import UserError
from cogvid.pipeline.generate import enlarge, generate_codes, to_videos
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import trained_run
from cogvid.pipeline.stage import StageResult, write_tensors
from cogvid.video import write_video


def sample_clips(
    config: ExperimentConfig,
    stages: dict[str, StageResult],
    prompts: list[str],
    duration: float | None,
    seed: int,
    out: Path,
) -> list[Path]:
    """Generate a clip for each prompt and write it as mp4, its tokens beside it.

    Args:
        config: of the run, with the wanted `generation.frames`.
        stages: the run's finished stages.
        prompts: texts.
        duration: seconds from first to last frame; None for that of the scheduler's slowest rate for a long clip.
        seed: of the samples.
        out: folder for the files.

    Raises:
        UserError: a prompt is empty or unknown, a stage is not trained yet, or a file of that name exists.
    """
    config.seed = seed
    lab = Lab(config)
    needed = [
        "text_tokenizer",
        "tokenizer",
        "image_base",
        "sequential",
        *(["interpolation"] if lab.plan else []),
    ]
    missing = [name for name in needed if name not in stages]
    if missing:
        raise UserError(f"the run has not trained {', '.join(missing)} yet: run its `cogvid run` command again first")
    if not all(prompt.strip() for prompt in prompts):
        raise UserError('a prompt is empty: say what the clip should show, for example "a red circle moves left"')
    paths = [out / f"{_file_name(prompt)}-{seed}.mp4" for prompt in prompts]
    for path in paths:
        if path.exists():
            raise UserError(f"{path} exists already: choose another --out or --seed, or move it away")
    frames = lab.grid.frames
    rates = lab.scheduler.generation_rates(duration if duration is not None else 1e6, frames, 0)
    if not rates:
        raise UserError(f"--duration {duration}: the run's frame rates yield no {frames} frames in that time")
    seconds = [(frames - 1) / rates[0]] * len(prompts)
    run = trained_run(lab, stages)
    keys, clips = generate_codes(lab, run.generator, prompts, seconds, seed)
    codes = keys if clips is None else clips
    videos = to_videos(lab, run.tokenizer, codes)
    if clips is None:
        videos = lab.strategy.fill(videos, config.generation.frames)
    out.mkdir(parents=True, exist_ok=True)
    for path, video, own, length in zip(paths, videos, codes, seconds, strict=True):
        write_tensors(path.with_suffix(".safetensors"), {"codes": own.int()})
        write_video(path, enlarge(video), (len(video) - 1) / length, lossless=False)
    return paths


def _file_name(prompt: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in prompt).split())[:80]
