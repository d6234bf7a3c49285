"""From a data source to tokens: the stages before the transformer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvid.data.clip_times import ClipTimes
from cogvid.data.reading import probe
from cogvid.data.sequences import Batches, TokenClips
from cogvid.data.text import TextTokenizer, known_characters, known_part, with_duration
from cogvid.errors import UserError
from cogvid.generation.clusters import cluster_codes
from cogvid.interfaces.data_source import Clip
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.clips import (
    TimedClip,
    decode_clips,
    drawn_frames,
    read_clips,
    usable_clips,
    warn_of_data,
    with_progress,
    write_clips,
)
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.stage import Info, StageResult, StageStore, write_tensors
from cogvid.progress import stage_progress
from cogvid.training.fit import LAST, fit
from cogvid.training.modules import FrameTokenizerModule

# Frames that the tokenizer trains on: more of them fit no better and take memory (3 bytes a pixel).
_POOL = 20_000
_CLUSTERS = "clusters.safetensors"


def data_stage(lab: Lab, store: StageStore) -> StageResult:
    """Makes or finds the clips, decodes each of them whole, and leaves those out that cannot be.

    Raises:
        UserError: there is nothing to train on, or a video is in both splits.
    """
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

        _check_splits(clips)
        paths = list(dict.fromkeys(clip.path for clip in clips))

        def read(index: int) -> ClipTimes | UserError:
            try:
                return probe(paths[index]).times
            except UserError as error:
                return error

        found = dict(zip(paths, with_progress(read, len(paths), "data: decode"), strict=True))
        for error in found.values():
            if isinstance(error, UserError):
                log.warning("data: left out: %s", error)
        timed = ((clip, found[clip.path]) for clip in clips)
        good = [TimedClip(clip, times) for clip, times in timed if isinstance(times, ClipTimes)]
        if not any(timed.clip.split == "train" for timed in good):
            raise UserError(f"data: none of the {len(clips)} clips can be read for training; see the warnings above")
        write_clips(folder, good)
        return {"clips": len(good), "broken": len(clips) - len(good)}

    result = store.finish("data", depends, work)
    warn_of_data(lab, result.folder)
    return result


def _check_splits(clips: Sequence[Clip]) -> None:
    splits: dict[Path, Clip] = {}
    for clip in clips:
        other = splits.setdefault(clip.path.resolve(), clip)
        if other.split != clip.split:
            raise UserError(
                f"data: the video {clip.path} is in both splits: clip {other.id} is of the split {other.split}, clip "
                f"{clip.id} of {clip.split}. A model is tested on videos that it was not trained on; give all clips of "
                "a video one split."
            )


def text_stage(lab: Lab, store: StageStore, data: StageResult) -> StageResult:
    """Trains the text tokenizer on the training captions with every duration they may have in front."""
    depends = {"data": data.key, "text": lab.config.text, "frames": lab.config.video.frames, **_rates(lab)}

    def work(folder: Path) -> Info:
        frames = lab.config.video.frames
        spans = {0.0, *(times[-1] - times[0] for times in (lab.key_frame_times, *lab.window_times))}
        known = known_characters(timed.clip.caption for timed in usable_clips(lab, data.folder, "train"))
        train, test = (
            [
                with_duration(known_part(timed.clip.caption, known), span / rate)
                for timed in usable_clips(lab, data.folder, split)
                for rate in lab.scheduler.training_rates(timed.duration, frames)
                for span in sorted(spans)
            ]
            for split in ("train", "test")
        )
        tokenizer = TextTokenizer.train(train, lab.config.text.vocabulary)
        tokenizer.encode(sorted({*train, *test}), lab.config.text.length)  # a caption that is too long ends here
        tokenizer.save(folder / "text.json")
        return {"vocabulary": tokenizer.vocabulary}

    return store.finish("text_tokenizer", depends, work)


def tokenizer_stage(lab: Lab, store: StageStore, data: StageResult) -> StageResult:
    """Trains the frame tokenizer on frames of the training clips, and groups its codes in clusters."""
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
        random = np.random.default_rng((config.seed, 4))
        clips = [clips[i] for i in np.sort(random.permutation(len(clips))[: _POOL // 2])]
        each = max(2, min(16, _POOL // len(clips)))
        numbers = [random.integers(len(clip.times), size=each) for clip in clips]
        pool = torch.cat([*decode_clips(clips, numbers, config.video.size, "tokenizer: frames")])

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
        clips = usable_clips(lab, data.folder, "train")
        numbers = [np.unique(np.concatenate([own.ravel() for own in drawn_frames(lab, clip)])) for clip in clips]
        network = load_tokenizer(lab, tokenizer)
        codes, squared, pixels = [], 0.0, 0
        for decoded in decode_clips(clips, numbers, lab.config.video.size, "tokens"):
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
    captions, times = [timed.clip.caption for timed in clips], [timed.times for timed in clips]
    return TokenClips.load(tokens.folder / "tokens.safetensors", captions, times)


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


def _rates(lab: Lab) -> Info:
    return {"frame_rate": lab.identity("frame_rate", lab.config.frame_rate), "windows": lab.window_times}
