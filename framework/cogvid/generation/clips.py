"""From captions to the tokens of whole clips: image model, sequential stage, interpolation rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cogvid.config.schema import GenerationConfig, SamplingConfig
from cogvid.generation.sampler import generate
from cogvid.interpolation import Round
from cogvid.model.transformer import CogVideoTransformer
from cogvid.text import TextTokenizer, with_duration

Progress = Callable[[int, int], None]


class ClipGenerator:
    """Generates clips in batches.

    Args:
        image_model: generates the first frame; without plus channel, one frame.
        sequential: generates the other key frames; its grid says how many. None for first frames alone.
        interpolation: generates the frames between them; None for key frames alone.
        text: tokenizer of the captions.
        config: batch size, frames of a finished clip, and sampling of each model.
        text_length: T, text slots of a sequence.

    Attributes:
        tokens: generated so far.
        seconds: that they took.
    """

    def __init__(
        self,
        image_model: CogVideoTransformer,
        sequential: CogVideoTransformer | None,
        interpolation: CogVideoTransformer | None,
        text: TextTokenizer,
        config: GenerationConfig,
        text_length: int,
    ) -> None:
        self.image_model, self.sequential, self.interpolation = image_model, sequential, interpolation
        self.text, self.config, self.text_length = text, config, text_length
        self.tokens, self.seconds = 0, 0.0

    def key_frames(
        self,
        captions: Sequence[str],
        seconds: Sequence[float],
        samples: Tensor,
        seed: int,
        progress: Progress | None = None,
    ) -> Tensor:
        """Key frames: the first by the image model alone, the others by the sequential stage if there is one.

        Args:
            captions: B captions; may be empty strings.
            seconds: durations of the key-frame sequences.
            samples: int64 (B,), the number of each clip; with `seed` it decides all randomness.
            seed: see `samples`.
            progress: called with (tokens done, tokens in all) after each step.

        Returns:
            int64 (B, F, N).
        """
        grid = self.image_model.config.grid if self.sequential is None else self.sequential.config.grid
        places = key_frame_places(grid.frames, self.config.frames)
        count = _Counter(len(captions) * grid.tokens, progress)
        clips = []
        for rows in torch.split(torch.arange(len(captions)), self.config.batch_size):
            chosen = rows.tolist()
            prompts = [captions[i] for i in chosen]
            codes = torch.zeros(len(rows), grid.frames, grid.frame_tokens, dtype=torch.long)
            frame_ids = torch.tensor(places).expand(len(rows), -1)
            codes[:, :1] = self._generate(
                self.image_model,
                prompts,
                [0.0] * len(chosen),
                codes[:, :1],
                (False,),
                self.config.first_frame,
                seed,
                samples[rows],
                frame_ids[:, :1],
                count,
            )
            if self.sequential is not None:
                codes = self._generate(
                    self.sequential,
                    prompts,
                    [seconds[i] for i in chosen],
                    codes,
                    (True,) + (False,) * (grid.frames - 1),
                    self.config.sequential,
                    seed,
                    samples[rows],
                    frame_ids,
                    count,
                )
            clips.append(codes)
        return torch.cat(clips)

    def interpolate(
        self,
        codes: Tensor,
        captions: Sequence[str],
        seconds: Sequence[float],
        plan: Sequence[Round],
        target: int,
        samples: Tensor,
        seed: int,
        progress: Progress | None = None,
    ) -> Tensor:
        """Fill in the frames between key frames, round by round; the windows of a round run in one batch.

        Args:
            codes: key frames, int64 (B, F, N).
            captions, seconds, samples, seed, progress: as for `key_frames`.
            plan: rounds of an interpolation strategy.
            target: frames of the finished clips.

        Returns:
            int64 (B, target, N).
        """
        assert self.interpolation is not None
        to_generate = sum(w.given.count(False) for r in plan for w in r.windows) * codes.shape[2]
        count = _Counter(len(captions) * to_generate, progress)
        places = key_frame_places(codes.shape[1], target)
        clips = torch.zeros(len(captions), target, codes.shape[2], dtype=torch.long)
        clips[:, places] = codes.cpu()
        for rows in torch.split(torch.arange(len(captions)), self.config.batch_size):
            for part in plan:
                windows = torch.tensor([window.frames for window in part.windows])
                (known,) = {window.given for window in part.windows}
                # Clip after clip, and window after window in each.
                clip = rows.repeat_interleave(len(windows))
                frame_ids = windows.repeat(len(rows), 1)
                filled = self._generate(
                    self.interpolation,
                    [captions[i] for i in clip.tolist()],
                    [seconds[i] / part.rate_factor for i in clip.tolist()],
                    clips[clip[:, None], frame_ids],
                    known,
                    self.config.interpolation,
                    seed,
                    samples.cpu()[clip],
                    frame_ids,
                    count,
                )
                new = ~torch.tensor(known)
                clips[clip[:, None], frame_ids[:, new]] = filled[:, new]
        return clips

    def _generate(
        self,
        model: CogVideoTransformer,
        captions: Sequence[str],
        seconds: Sequence[float],
        codes: Tensor,
        known: tuple[bool, ...],
        sampling: SamplingConfig,
        seed: int,
        samples: Tensor,
        frame_ids: Tensor,
        count: _Counter,
    ) -> Tensor:
        started, before = time.perf_counter(), count.done
        text, text_mask = self._encode(captions, seconds)
        filled = generate(
            model,
            text,
            text_mask,
            codes,
            known,
            sampling=sampling,
            seed=seed,
            samples=samples,
            frame_ids=frame_ids,
            text_offset=model.config.image_vocabulary + 1,
            unconditional=self._encode([""] * len(seconds), seconds) if sampling.guidance != 1 else None,
            on_step=count,
        ).cpu()
        self.seconds += time.perf_counter() - started
        self.tokens += count.done - before
        return filled

    def _encode(self, captions: Sequence[str], seconds: Sequence[float]) -> tuple[Tensor, Tensor]:
        texts = [with_duration(c, s) for c, s in zip(captions, seconds, strict=True)]
        return self.text.encode(texts, self.text_length)


def key_frame_places(key_frames: int, target: int) -> list[int]:
    """Where key frames stand on a timeline of `target` frames, rounded down to whole frames."""
    return [i * (target - 1) // max(key_frames - 1, 1) for i in range(key_frames)]


class _Counter:
    """Adds up tokens for a progress bar."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, tokens: int) -> None:
        self.done += tokens
        if self.progress is not None:
            self.progress(self.done, self.total)
