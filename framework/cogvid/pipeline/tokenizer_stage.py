"""The frame tokenizer's stage: from frames to a codebook, and between frames and codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvid.config.ranges import said
from cogvid.data.frames import FrameSamples, read_frames_file, write_frames
from cogvid.errors import UserError
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.clips import decode_clips, held_out_clips, read_clips
from cogvid.pipeline.digests import file_digest
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import Info, StageResult, StageStore
from cogvid.pipeline.tensor_file import write_tensors
from cogvid.pipeline.weights import load_weights
from cogvid.training import job
from cogvid.training.checkpoint_files import CHECKPOINTS
from cogvid.training.clusters import cluster_codes
from cogvid.training.fit import HISTORY, fit
from cogvid.training.held_out import HELD_OUT, HeldOutSamples, held_out_info
from cogvid.training.modules import FrameTokenizerModule

# The frames that the stage trains on, while it does.
_FRAMES = "frames.npy"
_CLUSTERS = "clusters.safetensors"


def tokenizer_stage(lab: Lab, store: StageStore, data: StageResult) -> StageResult:
    """Trains the frame tokenizer on frames of the training clips, with a held-out error of a frame of each held-out
    clip, or takes the one that `stages.tokenizer.weights`
    names, and groups its codes in clusters."""
    config = lab.config
    settings = config.stages.tokenizer
    if settings.weights is not None:
        return _given(lab, store, Path(settings.weights))
    depends = {
        "data": data.key,
        "frame_tokenizer": lab.identity("frame_tokenizer", config.frame_tokenizer),
        "stage": settings,
        "frames": lab.frame_format,
        "precision": config.trainer.precision,
        "held_out": config.held_out,
        "seed": config.seed,
    }

    def work(folder: Path) -> Info:
        path = folder / _FRAMES
        clips = read_clips(data.folder, "train")
        random = np.random.default_rng((config.seed, 4))
        clips = clips.pick(clips.rows[np.sort(random.permutation(len(clips))[: settings.frames // 2])])
        each = max(2, min(16, settings.frames // len(clips)))
        count = len(clips) * each
        lengths = clips.column("frames").to_numpy()
        numbers = [random.integers(length, size=each) for length in lengths]
        tests = held_out_clips(lab, read_clips(data.folder, "test"))
        random = np.random.default_rng((config.data_seed, 6))
        numbers += [random.integers(length, size=1) for length in tests.column("frames").to_numpy()]
        both, total = clips.pick(np.concatenate([clips.rows, tests.rows])), count + len(tests)

        def write() -> None:
            if read_frames_file(path, total) is None:
                write_frames(path, total, decode_clips(both, numbers, lab.frame_format, "tokenizer: frames"))

        job.once(write)
        frames = read_frames_file(path, total)
        assert frames is not None
        samples = FrameSamples(frames[:count], settings.batch_size, config.seed)
        held_out = HeldOutSamples(torch.from_numpy(np.array(frames[count:]))) if len(tests) else None

        def names(numbers: Sequence[int]) -> list[str]:
            return [clips[samples.place(number) // each].clip.id for number in numbers]

        torch.manual_seed(config.seed)
        module = FrameTokenizerModule(lab.build_tokenizer(), settings)
        seed = config.seed
        steps = fit(
            module, samples, folder, config.trainer, title="tokenizer", seed=seed, names=names, held_out=held_out
        )
        tokenizer = module.network.eval().cpu()
        if job.leads():
            _write(lab, folder, tokenizer)
        return {
            "steps": steps,
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
            **(_held_out_info(folder, held_out) if job.leads() else {}),
        }

    return store.finish("tokenizer", depends, work, together=True, scratch=(_FRAMES, CHECKPOINTS))


def _held_out_info(folder: Path, samples: HeldOutSamples | None) -> Info:
    """See `held_out_info`; and the error in dB, of values up to 1."""
    info = held_out_info(folder / HISTORY, samples)
    if info:
        info["held_out_psnr"] = round(-10 * math.log10(max(info[HELD_OUT], 1e-12)), 2)
    return info


def _given(lab: Lab, store: StageStore, path: Path) -> StageResult:
    """The tokenizer in a file: its key depends on that and on no data."""
    tokenizer = given_tokenizer(lab, path)
    config = lab.config
    depends = {
        "frame_tokenizer": lab.identity("frame_tokenizer", config.frame_tokenizer),
        "weights": file_digest(path),
        "clusters": config.stages.tokenizer.clusters,
        "seed": config.seed,
    }

    def work(folder: Path) -> Info:
        _write(lab, folder, tokenizer)
        return {"steps": 0, "parameters": sum(p.numel() for p in tokenizer.parameters())}

    return store.finish("tokenizer", depends, work)


def given_tokenizer(lab: Lab, path: Path) -> FrameTokenizer:
    """The experiment's frame tokenizer with the weights in a file.

    Raises:
        UserError: the file holds others.
    """
    tokenizer = lab.build_tokenizer().eval()
    name = lab.config.frame_tokenizer.name
    where = said("stages.tokenizer.weights", lab.sources)
    train = ", or set it to null to train one" if tokenizer.trainable else ""
    advice = (
        f"Name the model.safetensors of a finished tokenizer stage of {name} with the same frame_tokenizer.options"
        f"{train}."
    )
    try:
        load_weights(tokenizer, path, "another frame tokenizer's weights", advice)
    except UserError as error:
        raise UserError(f"{where}stages.tokenizer.weights: {error}") from error
    return tokenizer


def _write(lab: Lab, folder: Path, tokenizer: FrameTokenizer) -> None:
    write_tensors(folder / "model.safetensors", tokenizer.state_dict())
    codebook = tokenizer.codebook()
    if codebook is not None:
        clusters = cluster_codes(codebook, lab.config.stages.tokenizer.clusters, lab.config.seed)
        write_tensors(folder / _CLUSTERS, {"clusters": clusters})


def load_tokenizer(lab: Lab, stage: StageResult) -> FrameTokenizer:
    """The trained frame tokenizer, frozen."""
    tokenizer = lab.build_tokenizer()
    tokenizer.load_state_dict(load_file(stage.folder / "model.safetensors"))
    return tokenizer.eval().requires_grad_(False).to(lab.device)


def load_clusters(stage: StageResult) -> Tensor | None:
    """The cluster of each code, int64 (codes,) on the CPU; None if the stage's tokenizer has no codebook."""
    path = stage.folder / _CLUSTERS
    return load_file(path)["clusters"] if path.exists() else None


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
