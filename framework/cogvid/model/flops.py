"""What a training step has to compute: the products of its layers, and attention by visible pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cogvid.attention.compact import layer_masks
from cogvid.interfaces.grid import Position
from cogvid.interfaces.mask import given_frames
from cogvid.model.transformer import CogVideoTransformer


@dataclass(frozen=True)
class Flops:
    """Floating-point operations; a multiplication and the addition behind it are two.

    Attributes:
        dense: of the projections, the feed-forward and the logits.
        attention: of scores and mixed values.
    """

    dense: int
    attention: int

    @property
    def total(self) -> int:
        """Of both."""
        return self.dense + self.attention


def training_flops(model: CogVideoTransformer, batch: int, predicted: int) -> Flops:
    """Of one step, forward and backward, without the optimiser's own.

    Counted is what the step needs: pairs that the mask shows (text slots are all text), no weight gradients of what is
    frozen, no gradients for inputs that nothing trained lies before. What is computed in vain (hidden pairs of a tile)
    or again (scores in the backward pass, recomputed activations) is not counted, nor are sums, norms and softmax.

    Args:
        model: on any device, the meta device too; `requires_grad` says what trains.
        batch: sequences.
        predicted: frames of a sequence that the loss asks for.
    """
    config = model.config
    grid, text, width = config.grid, config.text_length, config.width
    rows, frame_rows = batch * (text + grid.tokens), batch * grid.tokens
    given = given_frames(model.stage, grid.frames)
    (own,) = layer_masks(_same_frame, grid, given, 1)
    base_pairs = own.pairs + (grid.tokens + text) * text
    plus_pairs = [0] * config.layers
    if model.backend is not None:
        masks = layer_masks(model.backend.pattern, grid, given, config.layers)
        plus_pairs = [mask.pairs + grid.tokens * text for mask in masks]
    embeddings = (model.word_embeddings, model.position_embeddings, model.later_position_embeddings)
    # Whether anything before a layer trains: then its input has a gradient.
    learns = _trains(*embeddings)
    dense = attention = 0
    for block, pairs in zip(model.layers, plus_pairs, strict=True):
        learns |= _trains(block.attention_norm)
        mixed = learns
        for channel, seen, used in ((block.base, base_pairs, rows), (block.plus, pairs, frame_rows)):
            if channel is None:
                continue
            within = learns or _trains(channel.qkv)
            dense += _products(channel.qkv, rows, learns) + _products(channel.out, used, within)
            attention += 4 * width * batch * seen * (3 if within else 1)
            mixed |= _trains(channel)
        learns = mixed or _trains(block.mixed_norm, block.feed_norm) or (block.gate is not None and _needs(block.gate))
        expanded = learns or _trains(block.expand)
        dense += _products(block.expand, rows, learns) + _products(block.contract, rows, expanded)
        learns = expanded or _trains(block.contract, block.fed_norm)
    learns |= _trains(model.final_norm)
    times = 1 + learns + _trains(model.word_embeddings)
    dense += 2 * batch * predicted * grid.frame_tokens * width * config.image_vocabulary * times
    return Flops(dense, attention)


def _products(layer: nn.Linear, rows: int, input_learns: bool) -> int:
    times = 1 + input_learns + _needs(layer.weight)
    return 2 * rows * layer.in_features * layer.out_features * times


def _trains(*modules: nn.Module | None) -> bool:
    return any(_needs(p) for module in modules if module is not None for p in module.parameters())


def _needs(weight: Tensor) -> bool:
    return weight.requires_grad


def _same_frame(query: Position, key: Position, layer: int) -> Tensor:
    return query.frame == key.frame
