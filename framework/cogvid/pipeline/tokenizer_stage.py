"""The frame tokenizer's stage: from frames to a codebook, and between frames and codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvid.data.sequences import Batches
from cogvid.generation.clusters import cluster_codes
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.clips import decode_clips, read_clips
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import Info, StageResult, StageStore, write_tensors
from cogvid.training.fit import LAST, fit
from cogvid.training.modules import FrameTokenizerModule

# Frames that the tokenizer trains on: more of them fit no better and take memory (3 bytes a pixel).
_POOL = 20_000
_CLUSTERS = "clusters.safetensors"


def tokenizer_stage(lab: Lab, store: StageStore, data: StageResult) -> StageResult:
    """Trains the frame tokenizer on frames of the training clips, and groups its codes in clusters."""
    config = lab.config
    settings = config.stages.tokenizer
    depends = {
        "data": data.key,
        "frame_tokenizer": lab.identity("frame_tokenizer", config.frame_tokenizer),
        "stage": settings,
        "frames": lab.frame_format,
        "precision": config.trainer.precision,
        "processes": config.trainer.devices,
        "seed": config.seed,
    }

    def work(folder: Path) -> Info:
        clips = read_clips(data.folder, "train")
        random = np.random.default_rng((config.seed, 4))
        clips = clips.pick(clips.rows[np.sort(random.permutation(len(clips))[: _POOL // 2])])
        each = max(2, min(16, _POOL // len(clips)))
        numbers = [random.integers(frames, size=each) for frames in clips.column("frames").to_pylist()]
        pool = torch.cat([*decode_clips(clips, numbers, lab.frame_format, "tokenizer: frames")])

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
