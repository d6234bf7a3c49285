"""`cogvid bench decode --run`: decodings side by side on the clips of a trained run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvid.bench.decode_cases import SEQUENTIAL
from cogvid.bench.ties import distance_from_tie
from cogvid.config.schema import ComponentConfig, GenerationType
from cogvid.errors import UserError
from cogvid.generation.clips import ClipGenerator, Part
from cogvid.generation.tokens import OnPass, generate_tokens
from cogvid.interfaces.decoding import Decoding, Rows
from cogvid.model.transformer import CogVideoTransformer
from cogvid.pipeline.generate import usable_test_clips
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import needed_stages, saved_run, trained_models

Say = Callable[[str], None]
# Of a model, the same in float64 on the CPU.
InFloat64 = Callable[[CogVideoTransformer], CogVideoTransformer]
PROTOCOL = (
    "passes of a clip are those with a row of it; acceptance is the share of the rows computed whose tokens were final "
    "in their pass; equal tokens are those of one slot a pass, all clips in one batch. In float32 each clip of an "
    "exact decoding that has another one is listed with the distance, in probability or in logits, of its first from "
    "a tie by the model in float64; in half precision, or with a bias of the text, equal tokens are counted alone. "
    "Seconds are of the timed clips, the decodings in turns in each round; the fastest round counts, and all are "
    "recorded."
)
# A difference of tokens is rounding where they are so near to a tie.
TIE = 1e-4
# Batches of each size that are timed, at most.
_BATCHES = 8


@dataclass
class Measured:
    """A part with a decoding in batches of one size; tensors over its F frames of N places.

    Attributes:
        clips: that were counted.
        passes: of each clip: those with a row of it, int64 (clips,).
        rows, kept: slots computed, and those of them that were final, int64 (F, N).
        equal: share of the tokens that are those of one slot a pass.
        ties: how far from a tie each clip with another token is, see `distance_from_tie`; None where nobody asks.
        timed: clips that were timed.
        tokens: of a clip.
        seconds: of each round, of the timed clips.
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
    ties: list[float] | None
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


@dataclass
class RunBench:
    """A generator's clips, made by several decodings.

    Attributes:
        generator: of the clips, one slot a pass.
        parts: what it makes of all clips.
        clips: how many.
        seed: see `ClipGenerator.pieces`.
        decodings: by name.
        in_float64: see `InFloat64`; None in half precision, where passes of other widths round so far apart that other
            tokens are no mistake, and where the text has a bias, which whole sequences have not.
    """

    generator: ClipGenerator
    parts: Sequence[Part]
    clips: int
    seed: int
    decodings: Mapping[str, Decoding]
    in_float64: InFloat64 | None

    @property
    def device(self) -> str:
        """Where the clips are made."""
        return self.generator.image_model.word_embeddings.weight.device.type

    @property
    def dtype(self) -> str:
        """Of the models that make them."""
        return str(self.generator.image_model.word_embeddings.weight.dtype).removeprefix("torch.")

    def measure(self, batches: Sequence[int], repeats: int, say: Say) -> list[Measured]:
        """Count and check each decoding on every part, then time all of them in turns.

        Raises:
            UserError: an exact decoding gives tokens that differ by more than rounding; nothing is timed.
        """
        # Fewer clips than the smallest batch are one batch.
        sizes = list(dict.fromkeys(min(size, self.clips) for size in batches))
        cells: list[tuple[Part, int, list[Measured]]] = []
        for part in self.parts:
            right = self._make(part, self.generator.decoding)
            for batch in sizes:
                say(f"{part.name}, batch {batch}: checking")
                cells.append((part, batch, [self._count(part, name, batch, right) for name in self.decodings]))
        for part, batch, here in cells:
            for number in range(repeats):
                for one in here:
                    say(f"{part.name}, batch {batch}: {one.decoding}, round {number + 1}")
                    start = time.perf_counter()
                    for first in range(0, one.timed, batch):
                        some = self._some(part, first, min(first + batch, one.timed))
                        self._make(some, self.decodings[one.decoding])
                    one.seconds.append(time.perf_counter() - start)
        return [one for _, _, here in cells for one in here]

    def _some(self, part: Part, start: int, stop: int) -> Part:
        """The sequences of some of the clips."""
        each = len(part.codes) // self.clips
        rows = slice(start * each, stop * each)

        def some(text: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return text[0][rows], text[1][rows]

        return replace(
            part,
            text=some(part.text),
            without=part.without and some(part.without),
            codes=part.codes[rows],
            samples=part.samples[rows],
            frame_ids=part.frame_ids[rows],
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

            made.append(self._make(self._some(part, first, first + len(counts)), decoding, on_pass))
            passes.append(counts)
        codes, generated = torch.cat(made), ~torch.tensor(part.known)
        ties = self._ties(part, right, codes) if decoding.exact else []
        if ties and max(ties) > TIE:
            raise UserError(f"Not timed, because the check failed: {part.name}: {name} gives other tokens.")
        equal = float((codes == right)[:, generated].double().mean())
        whole, timed = torch.cat(passes), min(self.clips, batch * _BATCHES)
        counted = rows_of.view(frames, n), kept_of.view(frames, n)
        tokens = each * part.known.count(False) * n
        return Measured(part.name, name, decoding.exact, batch, self.clips, whole, *counted, equal, ties, timed, tokens)

    def _make(self, part: Part, decoding: Decoding, on_pass: OnPass | None = None) -> Tensor:
        """Its sequences, int64 (S, F, N) on the CPU."""
        return generate_tokens(
            part.model,
            *part.text,
            part.codes,
            part.known,
            sampling=part.sampling,
            seed=self.seed,
            samples=part.samples,
            frame_ids=part.frame_ids,
            begin_of_image=self.generator.text.begin_of_image,
            decoding=decoding,
            unconditional=part.without,
            clusters=self.generator.clusters,
            compile=self.generator.config.compile,
            on_pass=on_pass,
        ).cpu()

    def _ties(self, part: Part, one: Tensor, other: Tensor) -> list[float] | None:
        """How far from a tie the sequences that differ are."""
        if self.in_float64 is None:
            return None
        differing = (one != other).flatten(1).any(1).nonzero()[:, 0].tolist()
        if not differing:
            return []
        exact = replace(part, model=self.in_float64(part.model))
        text = self.generator.text.begin_of_image, self.generator.clusters
        return [distance_from_tie(exact, row, one[row], other[row], self.seed, *text) for row in differing]


def run_bench(folder: Path, decodings: Sequence[str], clips: int, changes: Sequence[str] = ()) -> RunBench:
    """The clips of a trained run.

    Args:
        folder: of the run.
        decodings: names; their options are the defaults, but those of the run for its own.
        clips: how many, of the first test captions.
        changes: `key=value` in place of what the run was made with.

    Raises:
        UserError: the folder holds no trained run, or a decoding is unknown.
    """
    config, stages = saved_run(folder, changes)
    own, generation = config.generation.decoding, replace(config.generation, decoding=ComponentConfig(SEQUENTIAL))
    lab = Lab(replace(config, generation=generation))
    needed_stages(lab, stages, folder)
    if generation.given:
        raise UserError(f"{folder}: generation.given: clips that go on from real ones are not measured")
    said = [own if name == own.name else ComponentConfig(name) for name in decodings]
    built = {one.name: lab.plugins.create("decoding", one.name, one.options, "--decoding") for one in said}
    test = usable_test_clips(lab, stages["data"]).first(clips)
    if not test.clips:
        raise UserError(f"{folder}: its test split has no clip that the frame rates can show")
    generator = trained_models(lab, stages).generator
    # Layers that are to be compiled are not packed, so that they can be float64.
    plain = Lab(replace(config, generation=replace(generation, compile=True)))
    unpacked = cache(lambda: _models(trained_models(plain, stages).generator))

    def in_float64(model: CogVideoTransformer) -> CogVideoTransformer:
        return unpacked()[_models(generator).index(model)].double().cpu()

    parts: list[Part] = []
    made = test.prompts(generator.text.tokenizer), test.seconds, torch.arange(len(test.clips)), config.seed
    for _ in generator.pieces(*made, on_part=parts.append):
        pass
    judged = generation.dtype is GenerationType.float32 and not any(part.sampling.text_bias for part in parts)
    return RunBench(generator, parts, len(test.clips), config.seed, built, in_float64 if judged else None)


def _models(generator: ClipGenerator) -> list[CogVideoTransformer]:
    return [generator.image_model, *(model for model in generator.models.values() if model is not None)]
