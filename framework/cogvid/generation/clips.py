"""From captions to the tokens of whole clips: key frames, then the rounds of an interpolation strategy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cogvid.config.schema import GenerationConfig, SamplingConfig
from cogvid.data.text import CaptionEncoder
from cogvid.errors import UserError
from cogvid.generation.tokens import generate_tokens
from cogvid.interfaces.decoding import Decoding, Rows
from cogvid.interfaces.interpolation import Round
from cogvid.interfaces.mask import Stage
from cogvid.model.transformer import CogVideoTransformer

OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Part:
    """What one model makes at once of a batch of clips.

    Attributes:
        name: `first frame`, `key frames`, or `round` and its number, from 1.
        model: that makes it.
        text: tokens and mask, (S, T) each. S sequences, of which each clip has equally many in a row.
        without: the same without captions; None where there is no guidance.
        codes, known, sampling, samples, frame_ids: as for `generate_tokens`.
    """

    name: str
    model: CogVideoTransformer
    text: tuple[Tensor, Tensor]
    without: tuple[Tensor, Tensor] | None
    codes: Tensor
    known: tuple[bool, ...]
    sampling: SamplingConfig
    samples: Tensor
    frame_ids: Tensor


OnPart = Callable[[Part], None]


class ClipGenerator:
    """Generates clips as far as there are models for it: from the first frame alone to every frame of the plan.

    Args:
        image_model: generates the first frame, unless `config.image_model_first` leaves it to the sequential stage, or
            it is given; without plus channel, one frame.
        sequential: generates the other key frames; None for first frames alone, of which none is given, or where all
            key frames are given and there is a model to interpolate between them.
        interpolation: generates the frames of the interpolation rounds; None ends the plan before the first of them.
        text: encodes the captions.
        config: batch size, sampling of each model, and how many key frames are given.
        decoding: what each pass through a model computes.
        places: of the key frames on the final timeline, ascending.
        plan: the rounds that make the other frames.
        clusters: int64 (codes,), the cluster of each code, for sampling in two levels.

    Attributes:
        timeline: the frames that are made, by their numbers on the final timeline, ascending.
        given: how many of the key frames are not generated.
        clip_tokens: that are generated for a clip.
        tokens: generated so far.
        seconds: that they took.
        most_held: the most frames of a clip that were kept at a time.

    Raises:
        UserError: sampling in two levels is wanted, and there are no clusters; the message names the key.
    """

    def __init__(
        self,
        image_model: CogVideoTransformer,
        sequential: CogVideoTransformer | None,
        interpolation: CogVideoTransformer | None,
        text: CaptionEncoder,
        config: GenerationConfig,
        decoding: Decoding,
        *,
        places: Sequence[int],
        plan: Sequence[Round] = (),
        clusters: Tensor | None = None,
    ) -> None:
        self.image_model, self.text, self.config, self.decoding = image_model, text, config, decoding
        self.clusters = clusters
        self.models: dict[Stage, CogVideoTransformer | None] = {
            "sequential": sequential,
            "interpolation": interpolation,
        }
        whole = sequential is not None or (config.given == len(places) and interpolation is not None)
        self.given = config.given if whole else 0
        self.places = list(places if whole else places[:1])
        missing = (number for number, part in enumerate(plan) if self.models[part.stage] is None)
        self.plan = list(plan[: next(missing, len(plan))]) if whole else []
        self.timeline = sorted([*self.places, *(t for part in self.plan for t in _frames(part, given=False))])
        self.clip_tokens = (len(self.timeline) - self.given) * image_model.config.grid.frame_tokens
        self.tokens, self.seconds, self.most_held = 0, 0.0, 0
        self._check_clusters()

    def clips(
        self,
        captions: Sequence[str],
        seconds: Sequence[Sequence[float]],
        samples: Tensor,
        seed: int,
        on_step: OnStep | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """Whole clips, generated in batches of `config.batch_size`; the arguments are as for `pieces`.

        Returns:
            int64 (B, frames of the timeline, N) on the CPU.
        """
        parts = []
        for rows in torch.arange(len(captions)).split(self.config.batch_size):
            some = [captions[i] for i in rows.tolist()], [seconds[i] for i in rows.tolist()], samples[rows]
            opening = None if given is None else given[rows]
            parts.append(torch.cat([*self.pieces(*some, seed, on_step, opening)], dim=1))
        return torch.cat(parts)

    def pieces(
        self,
        captions: Sequence[str],
        seconds: Sequence[Sequence[float]],
        samples: Tensor,
        seed: int,
        on_step: OnStep | None = None,
        given: Tensor | None = None,
        on_part: OnPart | None = None,
    ) -> Iterator[Tensor]:
        """One batch of clips, piece by piece: the frames of the timeline in order, as soon as they are made.

        Frames that nothing later reads are forgotten, so the memory does not grow with the clips' length unless the
        plan itself needs it.

        Args:
            captions: B captions; may be empty strings.
            seconds: durations of each clip's sequences: of the key frames, then of each round of the plan.
            samples: int64 (B,), the number of each clip; with `seed` it decides all randomness.
            seed: see `samples`.
            on_step: called after each step with the number of tokens it generated.
            given: int64 (B, g, N), the first g key frames of each clip, which come out as they are; needed where there
                is a model to go on from them.
            on_part: called with each part before it is made.

        Yields:
            int64 (B, f, N) on the CPU, the next f frames.

        Raises:
            ValueError: `given` has another number of frames than `config.given`.
        """
        opening = torch.zeros(len(captions), 0, self.image_model.config.grid.frame_tokens, dtype=torch.long)
        if self.given:
            if given is None or given.shape[1] != self.given:
                raise ValueError(f"generation.given is {self.given}: so many key frames of each clip are needed")
            opening = given.cpu()

        def batch(number: int) -> _Batch:
            name, own = f"round {number}" if number else "key frames", [each[number] for each in seconds]
            return _Batch(name, list(captions), own, samples.cpu(), seed, on_step, on_part)

        last_read = {t: number for number, part in enumerate(self.plan, 1) for t in _frames(part, given=True)}
        kept = dict(zip(self.places, self._key_frames(batch(0), opening).unbind(1), strict=True))
        yielded = 0
        for number in range(len(self.plan) + 1):
            if number:
                kept.update(self._round(self.plan[number - 1], kept, batch(number)))
            self.most_held = max(self.most_held, len(kept))
            start = yielded
            while yielded < len(self.timeline) and self.timeline[yielded] in kept:
                yielded += 1
            done = self.timeline[start:yielded]
            if done:
                yield torch.stack([kept[t] for t in done], dim=1)
            pending = self.timeline[yielded] if yielded < len(self.timeline) else float("inf")
            kept = {t: codes for t, codes in kept.items() if t >= pending or last_read.get(t, 0) > number}

    def _key_frames(self, batch: _Batch, opening: Tensor) -> Tensor:
        """int64 (B, F, N), the frames of the opening and those that go on from it."""
        sequential, count = self.models["sequential"], len(self.places)
        codes = torch.cat([opening, opening.new_zeros(len(opening), count - self.given, opening.shape[2])], dim=1)
        frame_ids = torch.tensor(self.places).expand(len(codes), -1)
        if self._image_model_first:
            still = replace(batch, name="first frame", seconds=[0.0] * len(codes))
            first, sampling = (codes[:, :1], (False,), frame_ids[:, :1]), self.config.first_frame
            codes[:, :1] = self._generate(self.image_model, sampling, still, *first)
        there = int(self._image_model_first) or self.given
        if sequential is not None and there < count:
            known = (True,) * there + (False,) * (count - there)
            codes = self._generate(sequential, self.config.sequential, batch, codes, known, frame_ids)
        return codes

    def _round(self, part: Round, kept: dict[int, Tensor], batch: _Batch) -> dict[int, Tensor]:
        """The frames that a round makes, (B, N) each, by their number; all windows of all clips run in one batch."""
        model = self.models[part.stage]
        assert model is not None
        known, windows = part.windows[0].given, [window.frames for window in part.windows]
        blank = torch.zeros_like(next(iter(kept.values())))
        given = [
            torch.stack([kept[t] if given else blank for t, given in zip(frames, known, strict=True)], dim=1)
            for frames in windows
        ]
        # Clip after clip, and window after window in each.
        filled = self._generate(
            model,
            self.config.sequential if part.stage == "sequential" else self.config.interpolation,
            batch.repeated(len(windows)),
            torch.stack(given, dim=1).flatten(0, 1),
            known,
            torch.tensor(windows).repeat(len(batch.captions), 1),
        ).unflatten(0, (-1, len(windows)))
        return {
            t: filled[:, w, f]
            for w, frames in enumerate(windows)
            for f, (t, given) in enumerate(zip(frames, known, strict=True))
            if not given
        }

    def _generate(
        self,
        model: CogVideoTransformer,
        sampling: SamplingConfig,
        batch: _Batch,
        codes: Tensor,
        known: tuple[bool, ...],
        frame_ids: Tensor,
    ) -> Tensor:
        def tell(rows: Rows, final: Tensor) -> None:
            if batch.on_step is not None:
                batch.on_step(int(final.sum()))

        started = time.perf_counter()
        text = self.text.encode(batch.captions, batch.seconds)
        without = self.text.encode([None] * len(codes), batch.seconds) if sampling.guidance != 1 else None
        if batch.on_part is not None:
            batch.on_part(Part(batch.name, model, text, without, codes, known, sampling, batch.samples, frame_ids))
        filled = generate_tokens(
            model,
            *text,
            codes,
            known,
            sampling=sampling,
            seed=batch.seed,
            samples=batch.samples,
            frame_ids=frame_ids,
            begin_of_image=self.text.begin_of_image,
            unconditional=without,
            clusters=self.clusters,
            decoding=self.decoding,
            compile=self.config.compile,
            on_pass=tell,
        ).cpu()
        self.seconds += time.perf_counter() - started
        self.tokens += len(codes) * known.count(False) * codes.shape[2]
        return filled

    @property
    def _image_model_first(self) -> bool:
        return not self.given and (self.config.image_model_first or self.models["sequential"] is None)

    def _check_clusters(self) -> None:
        used = {part.stage for part in self.plan} | ({"sequential"} if self.models["sequential"] else set())
        if self._image_model_first:
            used.add("first_frame")
        for name in sorted(used):
            if getattr(self.config, name).clusters and self.clusters is None:
                raise UserError(
                    f"generation.{name}.clusters: the run's frame tokenizer has no clusters of its codes. Set it to "
                    "false, or train the tokenizer again with one that has a codebook."
                )


@dataclass(frozen=True)
class _Batch:
    """Sequences that are generated together: their captions, durations and numbers, and the seed."""

    name: str
    captions: list[str]
    seconds: list[float]
    samples: Tensor
    seed: int
    on_step: OnStep | None
    on_part: OnPart | None

    def repeated(self, times: int) -> _Batch:
        """Each `times` in a row."""
        rows = [row for row in range(len(self.captions)) for _ in range(times)]
        return replace(
            self,
            captions=[self.captions[row] for row in rows],
            seconds=[self.seconds[row] for row in rows],
            samples=self.samples[rows],
        )


def _frames(part: Round, given: bool) -> list[int]:
    """The frames that a round is given, or makes."""
    return [
        t
        for window in part.windows
        for t, is_given in zip(window.frames, window.given, strict=True)
        if is_given == given
    ]
