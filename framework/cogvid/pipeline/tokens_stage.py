"""The tokens' stage: the training clips as codes, at every rate that training may want."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cogvid.data.sequences import TokenClips
from cogvid.pipeline.clips import decode_clips, drawn_frames, rates_and_windows, usable_clips
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.stage import Info, StageResult, StageStore, write_tensors
from cogvid.pipeline.tokenizer_stage import decode, encode, load_tokenizer


def tokens_stage(lab: Lab, store: StageStore, data: StageResult, tokenizer: StageResult) -> StageResult:
    """Encodes the frames of the training clips at every rate that training may want."""
    depends = {"tokenizer": tokenizer.key, "frames": lab.config.video.frames, **rates_and_windows(lab)}

    def work(folder: Path) -> Info:
        clips = usable_clips(lab, data.folder, "train")
        numbers = [np.unique(np.concatenate([own.ravel() for own in drawn_frames(lab, clip.times)])) for clip in clips]
        network = load_tokenizer(lab, tokenizer)
        codes, squared, pixels = [], 0.0, 0
        for decoded in decode_clips(clips, numbers, lab.frame_format, "tokens"):
            encoded = encode(network, decoded)
            codes.append(encoded.int())
            if len(codes) <= 64:  # enough clips for the log; decoding all would double the time
                error = decode(network, encoded).float() - decoded.float()
                squared, pixels = squared + float(error.square().sum()), pixels + error.numel()
        offsets = torch.tensor([0, *np.cumsum([len(c) for c in codes])])
        frames = torch.from_numpy(np.concatenate(numbers))
        write_tensors(folder / "tokens.safetensors", TokenClips(torch.cat(codes), frames, offsets, [], []).tensors())
        psnr = 10 * np.log10(255**2 / max(squared / pixels, 1e-12))
        used = int(torch.cat(codes).unique().numel())
        log.info(
            "tokens: %d frames, reconstruction %.1f dB, %d of %d codes used",
            len(frames),
            psnr,
            used,
            lab.codes,
        )
        return {
            "frames": len(frames),
            "psnr": round(float(psnr), 2),
            "codes_used": used,
            "clips": len(clips),
        }

    return store.finish("tokens", depends, work)


def training_clips(lab: Lab, data: StageResult, tokens: StageResult) -> TokenClips:
    """The tokenised training clips."""
    clips = usable_clips(lab, data.folder, "train")
    captions, times = [timed.captions for timed in clips], [timed.times for timed in clips]
    return TokenClips.load(tokens.folder / "tokens.safetensors", captions, times)
