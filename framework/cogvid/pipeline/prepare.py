"""From a data source to tokens: the stages before the transformer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvid.data.sequences import Batches, TokenClips, frame_times
from cogvid.data.text import TextTokenizer, with_duration
from cogvid.data.video import probe
from cogvid.errors import UserError
from cogvid.generation.clusters import cluster_codes
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.lab import Lab, TimedClip, decode_clips, log, read_clips, with_progress
from cogvid.pipeline.stage import Info, StageResult, StageStore, write_tensors
from cogvid.progress import stage_progress
from cogvid.training.fit import LAST, fit
from cogvid.training.modules import FrameTokenizerModule

# Frames that the tokenizer trains on: more of them fit no better and take memory (3 bytes a pixel).
_POOL = 20_000
_CLUSTERS = "clusters.safetensors"


def data_stage(lab: Lab, store: StageStore) -> StageResult:
    """Makes or finds the clips, and leaves the unreadable ones out."""
    source = lab.identity("data", lab.config.data)
    depends = {"data": source, "fingerprint": lab.data.fingerprint(), "seed": lab.config.data_seed}

    def work(folder: Path) -> Info:
        with stage_progress() as bar:
            task = bar.add_task("data: clips", total=None)
            clips = lab.data.clips(
                folder,
                lab.config.data_seed,
                lambda done, total: bar.update(task, completed=done, total=total),
            )

        def duration(index: int) -> float | UserError:
            try:
                return float(probe(clips[index].path).timestamps[-1])
            except UserError as error:
                return error

        durations = list(with_progress(duration, len(clips), "data: check"))
        rows = []
        for clip, seconds in zip(clips, durations, strict=True):
            if isinstance(seconds, UserError):
                log.warning("clip %s is left out: %s", clip.id, seconds)
                continue
            inside = clip.path.is_relative_to(folder)
            path = clip.path.relative_to(folder) if inside else clip.path.resolve()
            rows.append(
                {
                    "id": clip.id,
                    "path": str(path),
                    "caption": clip.caption,
                    "split": clip.split,
                    "duration": seconds,
                }
            )
        if not any(row["split"] == "train" for row in rows):
            raise UserError(f"data: none of the {len(clips)} clips can be read for training; see the warnings above")
        (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"clips": len(rows), "broken": len(clips) - len(rows)}

    return store.finish("data", depends, work)


def text_stage(lab: Lab, store: StageStore, data: StageResult) -> StageResult:
    """Trains the text tokenizer on the training captions with every duration they may have in front."""
    depends = {"data": data.key, "text": lab.config.text, "frames": lab.config.video.frames, **_rates(lab)}

    def work(folder: Path) -> Info:
        frames = lab.config.video.frames
        spans = {0.0, *(times[-1] - times[0] for times in (lab.key_frame_times, *lab.window_times))}
        train, test = (
            [
                with_duration(timed.clip.caption, span / rate)
                for timed in _usable(lab, data, split)
                for rate in lab.scheduler.training_rates(timed.duration, frames)
                for span in sorted(spans)
            ]
            for split in ("train", "test")
        )
        # A small data set's test captions may hold a letter of their own: that is no reason to end the run.
        tokenizer = TextTokenizer.train(train, lab.config.text.vocabulary, allowed=test)
        tokenizer.encode(sorted({*train, *test}), lab.config.text.length)  # a caption that is too long ends here
        tokenizer.save(folder / "text.json")
        return {"vocabulary": tokenizer.vocabulary}

    return store.finish("text_tokenizer", depends, work)


def tokenizer_stage(lab: Lab, store: StageStore, data: StageResult) -> StageResult:
    """Trains the frame tokenizer on frames of the training clips, and groups its codes in clusters.

    Raises:
        UserError: clusters are wanted of a tokenizer without a codebook, or fewer than one; before any training.
    """
    _check_clusters(lab)
    config = lab.config
    settings = config.stages.tokenizer
    depends = {
        "data": data.key,
        "frame_tokenizer": lab.identity("frame_tokenizer", config.frame_tokenizer),
        "stage": settings,
        "size": config.video.size,
        "precision": config.trainer.precision,
        "processes": config.trainer.devices,
        "seed": config.seed,
    }

    def work(folder: Path) -> Info:
        clips = read_clips(data.folder, "train")
        each = max(2, min(16, _POOL // len(clips)))
        times = [np.random.default_rng((config.seed, i)).uniform(0, c.duration, each) for i, c in enumerate(clips)]
        pool = torch.cat([*decode_clips(clips, times, config.video.size, "tokenizer: frames")])

        def draw(numbers: Sequence[int]) -> np.ndarray:
            return np.random.default_rng((config.seed, numbers[0])).integers(len(pool), size=len(numbers))

        def batch(numbers: Sequence[int]) -> Tensor:
            return pool[torch.from_numpy(draw(numbers))]

        def names(numbers: Sequence[int]) -> list[str]:
            return [clips[frame // each].clip.id for frame in draw(numbers)]

        torch.manual_seed(config.seed)
        module = FrameTokenizerModule(lab.build_tokenizer(), settings)
        batches = Batches(batch, settings.batch_size)
        fit(module, batches, folder, config.trainer, title="tokenizer", seed=config.seed, names=names)
        tokenizer = module.network.eval().cpu()
        write_tensors(folder / "model.safetensors", tokenizer.state_dict())
        codebook = tokenizer.codebook()
        if codebook is not None:
            clusters = cluster_codes(codebook, settings.clusters, config.seed)
            write_tensors(folder / _CLUSTERS, {"clusters": clusters})
        (folder / LAST).unlink(missing_ok=True)
        return {"steps": settings.steps, "parameters": sum(p.numel() for p in tokenizer.parameters())}

    return store.finish("tokenizer", depends, work)


def load_tokenizer(lab: Lab, stage: StageResult) -> FrameTokenizer:
    """The trained frame tokenizer, frozen."""
    tokenizer = lab.build_tokenizer()
    tokenizer.load_state_dict(load_file(stage.folder / "model.safetensors"))
    return tokenizer.eval().requires_grad_(False).to(lab.device)


def load_clusters(stage: StageResult) -> Tensor | None:
    """The cluster of each code, int64 (codes,) on the CPU; None if the stage's tokenizer has no codebook."""
    path = stage.folder / _CLUSTERS
    return load_file(path)["clusters"] if path.exists() else None


def tokens_stage(lab: Lab, store: StageStore, data: StageResult, tokenizer: StageResult) -> StageResult:
    """Encodes the frames of the training clips at every rate that training may want."""
    depends = {"tokenizer": tokenizer.key, "frames": lab.config.video.frames, **_rates(lab)}

    def work(folder: Path) -> Info:
        clips = _usable(lab, data, "train")
        frames = lab.config.video.frames
        rates = [lab.scheduler.training_rates(clip.duration, frames) for clip in clips]
        windows = [lab.key_frame_times, *lab.window_times]
        times = [frame_times(c.duration, rate, windows, frames) for c, rate in zip(clips, rates, strict=True)]
        network = load_tokenizer(lab, tokenizer)
        codes, squared, pixels = [], 0.0, 0
        for decoded in decode_clips(clips, times, lab.config.video.size, "tokens"):
            encoded = encode(network, decoded)
            codes.append(encoded.int())
            if len(codes) <= 64:  # enough clips for the log; decoding all would double the time
                error = decode(network, encoded).float() - decoded.float()
                squared, pixels = squared + float(error.square().sum()), pixels + error.numel()
        offsets = torch.tensor([0, *np.cumsum([len(c) for c in codes])])
        seconds = torch.from_numpy(np.concatenate(times))
        write_tensors(folder / "tokens.safetensors", TokenClips(torch.cat(codes), seconds, offsets, []).tensors())
        psnr = 10 * np.log10(255**2 / max(squared / pixels, 1e-12))
        used = int(torch.cat(codes).unique().numel())
        log.info(
            "tokens: %d frames, reconstruction %.1f dB, %d of %d codes used",
            len(seconds),
            psnr,
            used,
            lab.codes,
        )
        return {
            "frames": len(seconds),
            "psnr": round(float(psnr), 2),
            "codes_used": used,
            "clips": len(clips),
        }

    return store.finish("tokens", depends, work)


def training_clips(lab: Lab, data: StageResult, tokens: StageResult) -> TokenClips:
    """The tokenised training clips."""
    captions = [timed.clip.caption for timed in _usable(lab, data, "train")]
    return TokenClips.load(tokens.folder / "tokens.safetensors", captions)


def encode(tokenizer: FrameTokenizer, frames: Tensor) -> Tensor:
    """Frames uint8 (T, 3, height, width) to codes int64 (T, rows, columns), on the CPU."""
    device = next(tokenizer.parameters()).device
    with torch.inference_mode():
        return torch.cat([tokenizer.encode(part.to(device).float() / 255).cpu() for part in frames.split(256)])


def decode(tokenizer: FrameTokenizer, codes: Tensor) -> Tensor:
    """Codes (T, rows, columns) to frames uint8 (T, 3, height, width), on the CPU."""
    device = next(tokenizer.parameters()).device
    with torch.inference_mode():
        parts = [tokenizer.decode(part.to(device)).mul(255).round().to(torch.uint8).cpu() for part in codes.split(256)]
    return torch.cat(parts)


def _check_clusters(lab: Lab) -> None:
    generation, clusters = lab.config.generation, lab.config.stages.tokenizer.clusters
    if clusters < 1:
        raise UserError(f"stages.tokenizer.clusters: at least one is needed, got {clusters}")
    for part in ("first_frame", "sequential", "interpolation"):
        if getattr(generation, part).clusters and lab.build_tokenizer().codebook() is None:
            raise UserError(
                f"generation.{part}.clusters: the frame tokenizer {lab.config.frame_tokenizer.name} has no codebook "
                "whose codes could be clustered. Set it to false, or use another tokenizer."
            )


def _usable(lab: Lab, data: StageResult, split: str) -> list[TimedClip]:
    """The clips that the scheduler shows at some rate."""
    clips = read_clips(data.folder, split)
    frames = lab.config.video.frames
    usable = [c for c in clips if lab.scheduler.training_rates(c.duration, frames)]
    if split == "train" and not usable:
        longest = max(c.duration for c in clips)
        raise UserError(
            f"frame_rate: {lab.config.frame_rate.name} finds no rate at which any clip yields {frames} frames; "
            f"the longest clip lasts {longest:.2f} s. Add a higher rate to frame_rate.options."
        )
    return usable


def _rates(lab: Lab) -> Info:
    return {"frame_rate": lab.identity("frame_rate", lab.config.frame_rate), "windows": lab.window_times}
