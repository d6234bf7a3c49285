"""Clips for decodings to be held to: small models with random weights, patterns, conditions and ways of sampling."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn

from cogvid.config.schema import Positions, SamplingConfig
from cogvid.generation.tokens import generate_tokens
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.decoding import Decoding
from cogvid.interfaces.grid import Grid, Position
from cogvid.interfaces.mask import Stage, given_frames
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig

_TEXT, _WORDS = 3, 5
_SAMPLING = {
    "temperature 1": SamplingConfig(),
    "temperature 0": SamplingConfig(temperature=0.0),
    "guidance 2.5, top-k 2": SamplingConfig(top_k=2, guidance=2.5),
    "top-p 0.8": SamplingConfig(top_p=0.8),
    "clusters": SamplingConfig(clusters=True, code_temperature=1.5),
    "guidance 1.5, clusters, text bias": SamplingConfig(guidance=1.5, clusters=True, text_bias=0.7),
}


@dataclass(frozen=True)
class RandomOptions:
    """Options of a predicate that is as good as random.

    Attributes:
        seed: of the hash.
        share: of the pairs that are near, in percent; 0 for none and 100 for all.
        parts: into how many random parts each frame is divided that see only themselves; 0 for `share` instead.
        bias: whether the scores of frame keys have one.
    """

    seed: int
    share: int
    parts: int
    bias: bool


class RandomPattern(AttentionBackend):
    """A predicate by a hash of two places, the layer and a seed."""

    def __init__(self, options: RandomOptions) -> None:
        super().__init__(options)

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        """See `AttentionBackend`."""
        if self.config.parts:
            own, other = (self._mixed(layer, x.row, x.column) % self.config.parts for x in (query, key))
            return own == other
        return self._mixed(layer, *query, *key) % 100 < self.config.share

    def bias(self, heads: int) -> nn.Module | None:
        """See `AttentionBackend`."""
        return _Bias(heads) if self.config.bias else None

    def _mixed(self, layer: int, *axes: Tensor) -> Tensor:
        mixed = torch.tensor(self.config.seed * 7919 + layer * 104729, device=axes[0].device)
        for number, axis in enumerate(axes):
            mixed = (mixed * 31 + axis * (2 * number + 3)) % 10007
        return mixed * mixed + mixed


class _Bias(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, 7))

    def forward(self, query: Position, key: Position) -> Tensor:
        """Of the distance of two positions."""
        apart = (2 * (query.frame - key.frame) + 3 * (query.row - key.row) + query.column - key.column) % 7
        return self.table[:, apart]


@dataclass(frozen=True)
class DecodingCase:
    """Clips to decode, and with what.

    Attributes:
        seed: of the weights and the conditions.
        stage: of the model.
        grid: of the clips.
        known: how many first frames are known, in the sequential stage.
        batch: clips.
        codes: size of the image vocabulary: of few codes, guesses are often right.
        layers: of the model.
        pattern: of the plus channel; None for the image model, which has none.
        sampling: key of a way to sample.
        rotary: whether positions are.
    """

    seed: int
    stage: Stage
    grid: Grid
    known: int
    batch: int
    codes: int
    layers: int
    pattern: RandomOptions | None
    sampling: str
    rotary: bool

    @classmethod
    def draw(cls, seed: int) -> DecodingCase:
        """The case with a number."""
        draw = Random(seed)
        stage: Stage = "interpolation" if seed % 3 == 2 else "sequential"
        # Few have a single frame or a single place, where there is little to go wrong.
        frames = draw.choice((3, 5, 5)) if stage == "interpolation" else draw.choice((1, 2, 3, 3, 4))
        pattern = RandomOptions(
            seed, draw.choice((0, 10, 30, 50, 70, 100)), draw.choice((0, 0, 1, 2)), draw.random() < 0.3
        )
        return cls(
            seed=seed,
            stage=stage,
            grid=Grid(frames, draw.choice((1, 2, 3, 3)), draw.choice((2, 3, 3))),
            known=max(0, draw.randint(-1, frames - 2)) if stage == "sequential" else 0,
            batch=draw.choice((1, 2, 4)),
            codes=draw.choice((2, 4, 11)),
            layers=draw.choice((1, 2, 3)),
            pattern=None if stage == "sequential" and seed % 8 == 7 else pattern,
            sampling=list(_SAMPLING)[seed % len(_SAMPLING)],
            rotary=draw.random() < 0.3,
        )

    def __str__(self) -> str:
        parts = [self.stage, f"grid {self.grid.frames}x{self.grid.height}x{self.grid.width}", f"case {self.seed}"]
        parts += [f"known frames {self.known}"] if self.known else []
        parts += [f"batch {self.batch}", f"{self.codes} codes", f"layers {self.layers}"]
        if self.pattern is None:
            parts += ["no plus channel"]
        else:
            parts += [f"{self.pattern.parts} parts" if self.pattern.parts else f"{self.pattern.share}% of pairs"]
            parts += ["bias"] if self.pattern.bias else []
        return ", ".join([*parts, self.sampling, *(["rotary positions"] if self.rotary else [])])

    @property
    def is_known(self) -> tuple[bool, ...]:
        """Of each frame, (F,)."""
        if self.stage == "interpolation":
            return given_frames(self.stage, self.grid.frames)
        return tuple(frame < self.known for frame in range(self.grid.frames))

    def tokens(self, decoding: Decoding, device: torch.device) -> Tensor:
        """Decoded tokens, int64 (B, F, N)."""
        draw = torch.Generator().manual_seed(self.seed)
        frames, sampling = self.grid.frames, _SAMPLING[self.sampling]
        text = torch.randint(_WORDS, (2, self.batch, _TEXT), generator=draw) + self.codes + 1
        text_mask = torch.arange(_TEXT) >= _TEXT - torch.randint(1, _TEXT + 1, (2, self.batch, 1), generator=draw)
        return generate_tokens(
            self._model(draw).to(device),
            text[0],
            text_mask[0],
            torch.randint(self.codes, (self.batch, frames, self.grid.frame_tokens), generator=draw),
            self.is_known,
            sampling=sampling,
            seed=self.seed,
            samples=torch.arange(self.batch) + 3,
            frame_ids=torch.arange(frames).expand(self.batch, -1) * 4,
            begin_of_image=self.codes,
            decoding=decoding,
            unconditional=(text[1], text_mask[1]) if sampling.guidance != 1 else None,
            clusters=torch.randint(self.codes, (self.codes,), generator=draw).to(device) if sampling.clusters else None,
        )

    def _model(self, draw: torch.Generator) -> CogVideoTransformer:
        config = TransformerConfig(
            layers=self.layers,
            width=16,
            heads=2,
            vocabulary=self.codes + 1 + _WORDS,
            image_vocabulary=self.codes,
            text_length=_TEXT,
            text_positions=_TEXT,
            grid=self.grid,
            positions=Positions.rotary if self.rotary else Positions.learned,
        )
        backend = None if self.pattern is None else RandomPattern(self.pattern)
        # Modules draw their first values from torch's own generator, whose state is the caller's.
        with torch.random.fork_rng(devices=[]):
            model = CogVideoTransformer(config, backend, self.stage).double()
        # Far from the start of training, where tokens hardly depend on what a slot sees.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.4, generator=draw)
        return model.eval()
