"""`cogvid bench decode --run`: decodings side by side on the clips of a trained run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvid.bench.ties import distance_from_tie
from cogvid.config.schema import ComponentConfig, SamplingConfig
from cogvid.errors import UserError
from cogvid.generation.clips import ClipGenerator
from cogvid.generation.tokens import OnPass, generate_tokens
from cogvid.interfaces.decoding import Decoding, Rows
from cogvid.model.transformer import CogVideoTransformer
from cogvid.pipeline.generate import usable_test_clips
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import needed_stages, saved_run, trained_models

Say = Callable[[str], None]
PROTOCOL = (
    "passes of a clip are those with a row of it; acceptance is the share of the rows computed whose tokens were final "
    "in their pass; equal tokens are those of one slot a pass, and each clip of an exact decoding that has another one "
    "is listed with the distance, in probability, of its first from a tie by the model in float64. Seconds are of the "
    "timed clips, the decodings in turns in each round; the fastest round counts, and all are recorded."
)
# A difference of tokens is rounding where the random number is so near to what separates them.
TIE = 1e-4
# Batches of each size that are timed, at most.
_BATCHES = 8


@dataclass(frozen=True)
class Part:
    """What of the clips one model makes at once: first frames, later key frames, or a round.

    Attributes:
        name: for tables.
        model: that makes it.
        text: tokens and mask, (S, T) each; with guidance, then those without caption. S sequences, of which each clip
            has equally many in a row.
        codes, known, sampling, samples, frame_ids: as for `generate_tokens`.
    """

    name: str
    model: CogVideoTransformer
    text: list[tuple[Tensor, Tensor]]
    codes: Tensor
    known: tuple[bool, ...]
    sampling: SamplingConfig
    samples: Tensor
    frame_ids: Tensor

    @property
    def tokens(self) -> int:
        """That are made of each sequence."""
        return self.known.count(False) * self.codes.shape[2]

    def of(self, start: int, stop: int) -> Part:
        """Some of its sequences."""
        rows = slice(start, stop)
        return replace(
            self,
            text=[(tokens[rows], mask[rows]) for tokens, mask in self.text],
            codes=self.codes[rows],
            samples=self.samples[rows],
            frame_ids=self.frame_ids[rows],
        )


class _Recorder(ClipGenerator):
    """Keeps the parts that it makes clips of."""

    parts: list[Part]

    def _generate(
        self,
        model: CogVideoTransformer,
        sampling: SamplingConfig,
        batch: Any,
        codes: Tensor,
        known: tuple[bool, ...],
        frame_ids: Tensor,
    ) -> Tensor:
        rounds = sum(part.name.startswith("round") for part in self.parts)
        key = codes.shape[1] == len(self.places) and not any(part.name == "key frames" for part in self.parts)
        name = "first frame" if codes.shape[1] == 1 else "key frames" if key else f"round {rounds + 1}"
        text = [self.text.encode(batch.captions, batch.seconds)]
        if sampling.guidance != 1:
            text.append(self.text.encode([None] * len(codes), batch.seconds))
        self.parts.append(Part(name, model, text, codes.clone(), known, sampling, batch.samples, frame_ids))
        return super()._generate(model, sampling, batch, codes, known, frame_ids)


@dataclass
class Measured:
    """A part with a decoding in batches of one size; tensors over its F frames of N places.

    Attributes:
        clips: that were counted.
        passes: of each clip: those with a row of it, int64 (clips,).
        rows, kept: slots computed, and those of them that were final, int64 (F, N).
        equal: share of the tokens that are those of one slot a pass.
        ties: how far from a tie each clip with another token is, see `distance_from_tie`.
        seconds: of each round, of so many timed clips.
    """

    part: str
    decoding: str
    exact: bool
    batch: int
    clips: int
    passes: Tensor
    rows: Tensor
    kept: Tensor
    equal: float
    ties: list[float]
    timed: int
    tokens: int
    seconds: list[float] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As plain data."""
        best = min(self.seconds)
        made = self.rows.sum(1) > 0
        return {
            "part": self.part,
            "decoding": self.decoding,
            "exact": self.exact,
            "batch": self.batch,
            "clips": self.clips,
            "passes_mean": float(self.passes.double().mean()),
            "passes_most": int(self.passes.max()),
            "computed_for_each_kept": float(self.rows.sum() / self.kept.sum()),
            "acceptance_by_frame": (self.kept.sum(1)[made] / self.rows.sum(1)[made]).tolist(),
            "acceptance_by_place": (self.kept.sum(0) / self.rows.sum(0)).tolist(),
            "equal_tokens": self.equal,
            "distances_from_ties": self.ties,
            "timed_clips": self.timed,
            "seconds_of_rounds": self.seconds,
            "seconds": best,
            "tokens_per_second": self.timed * self.tokens / best,
        }


class RunBench:
    """A trained run's clips, made by several decodings.

    Args:
        folder: of the run.
        decodings: names; their options are the defaults, but those of the run for its own.
        clips: how many, of the first test captions.

    Raises:
        UserError: the folder holds no trained run, or a decoding is unknown.
    """

    def __init__(self, folder: Path, decodings: Sequence[str], clips: int) -> None:
        config, stages = saved_run(folder)
        self.lab = Lab(config)
        missing = [name for name in needed_stages(self.lab) if name not in stages]
        if missing:
            raise UserError(f"{folder} has not trained {', '.join(missing)} yet: run its `cogvid run` command again")
        if config.generation.given:
            raise UserError(f"{folder}: generation.given: clips that go on from real ones are not measured")
        own = config.generation.decoding
        said = [own if name == own.name else ComponentConfig(name) for name in decodings]
        self.decodings: dict[str, Decoding] = {
            each.name: self.lab.plugins.create("decoding", each.name, each.options, "--decoding") for each in said
        }
        test = usable_test_clips(self.lab, stages["data"]).first(clips)
        if not test.clips:
            raise UserError(f"{folder}: its test split has no clip that the frame rates can show")
        self.generator = generator = trained_models(self.lab, stages).generator
        # Layers that are to be compiled are not packed, so that they can be float64.
        plain = Lab(replace(config, generation=replace(config.generation, compile=True, batch_size=clips)))
        exact = trained_models(plain, stages).generator
        self.exact = {id(generator.image_model): exact.image_model}
        for stage, model in generator.models.items():
            if model is not None:
                self.exact[id(model)] = exact.models[stage]  # type: ignore[assignment]
        recorder = _Recorder(
            generator.image_model,
            generator.models["sequential"],
            generator.models["interpolation"],
            generator.text,
            replace(config.generation, batch_size=clips),
            self.lab.plugins.create("decoding", "sequential"),
            places=generator.places,
            plan=generator.plan,
            clusters=generator.clusters,
        )
        recorder.parts = []
        self.clips, self.seed = len(test.clips), config.seed
        recorder.clips(test.prompts(generator.text.tokenizer), test.seconds, torch.arange(self.clips), self.seed)
        self.parts = recorder.parts

    def measure(self, batches: Sequence[int], repeats: int, say: Say) -> list[Measured]:
        """Count and check each decoding on every part, then time all of them in turns.

        Raises:
            UserError: an exact decoding gives tokens that differ by more than rounding; nothing of that part is timed.
        """
        # Fewer clips than the smallest batch are one batch.
        sizes = list(dict.fromkeys(min(size, self.clips) for size in batches))
        found: list[Measured] = []
        for part in self.parts:
            right = self._make(part, self.lab.plugins.create("decoding", "sequential"), self.clips, self.clips)
            for batch in sizes:
                say(f"{part.name}, batch {batch}: checking")
                here = [self._count(part, name, batch, right) for name in self.decodings]
                for number in range(repeats):
                    for one in here:
                        say(f"{part.name}, batch {batch}: {one.decoding}, round {number + 1}")
                        start = time.perf_counter()
                        self._make(part, self.decodings[one.decoding], batch, one.timed)
                        one.seconds.append(time.perf_counter() - start)
                found += here
        return found

    def _make(self, part: Part, decoding: Decoding, batch: int, clips: int) -> Tensor:
        each = len(part.codes) // self.clips
        starts = range(0, clips, batch)
        return torch.cat(
            [self._one(part.of(start * each, min(start + batch, clips) * each), decoding) for start in starts]
        )

    def _count(self, part: Part, name: str, batch: int, right: Tensor) -> Measured:
        each, decoding = len(part.codes) // self.clips, self.decodings[name]
        frames, n = part.codes.shape[1:]
        rows_of, kept_of = torch.zeros(2, frames * n, dtype=torch.long)
        passes: list[Tensor] = []
        made = []
        for first in range(0, self.clips, batch):
            counts = torch.zeros(min(batch, self.clips - first), dtype=torch.long)

            def on_pass(rows: Rows, final: Tensor, counts: Tensor = counts) -> None:
                rows_of.index_add_(0, rows.slots, torch.ones_like(rows.slots))
                kept_of.index_add_(0, rows.slots, final.long())
                counts[(rows.samples // each).unique()] += 1

            some = part.of(first * each, (first + len(counts)) * each)
            made.append(self._one(some, decoding, on_pass))
            passes.append(counts)
        codes, generated = torch.cat(made), ~torch.tensor(part.known)
        ties = [self._distance(part, row, right, codes) for row in _differing(right, codes)] if decoding.exact else []
        if ties and max(ties) > TIE:
            raise UserError(f"Not timed, because the check failed: {part.name}: {name} gives other tokens.")
        equal = float((codes == right)[:, generated].double().mean())
        whole, timed = torch.cat(passes), min(self.clips, batch * _BATCHES)
        counted = rows_of.view(frames, n), kept_of.view(frames, n)
        tokens = part.tokens * each
        return Measured(part.name, name, decoding.exact, batch, self.clips, whole, *counted, equal, ties, timed, tokens)

    def _one(self, part: Part, decoding: Decoding, on_pass: OnPass | None = None) -> Tensor:
        text, *without = part.text
        return generate_tokens(
            part.model,
            *text,
            part.codes,
            part.known,
            sampling=part.sampling,
            seed=self.seed,
            samples=part.samples,
            frame_ids=part.frame_ids,
            begin_of_image=self.generator.text.begin_of_image,
            decoding=decoding,
            unconditional=without[0] if without else None,
            clusters=self.generator.clusters,
            on_pass=on_pass,
        ).cpu()

    def _distance(self, part: Part, row: int, one: Tensor, other: Tensor) -> float:
        return distance_from_tie(
            self.exact[id(part.model)].double().cpu(),
            [(tokens[row], mask[row]) for tokens, mask in part.text],
            one[row],
            other[row],
            part.known,
            part.sampling,
            self.seed,
            part.samples[row],
            part.frame_ids[row],
            self.generator.text.begin_of_image,
            self.generator.clusters,
        )


def _differing(one: Tensor, other: Tensor) -> list[int]:
    rows: list[int] = (one != other).flatten(1).any(1).nonzero()[:, 0].tolist()
    return rows
