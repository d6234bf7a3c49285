"""What attention costs in a training step, counted by the pairs that see each other, however it is computed."""

from __future__ import annotations

from cogvid.attention.compact import layer_masks
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage, given_frames
from cogvid.model.transformer import TransformerConfig

# Products of a pair and channel, two operations each. Forward: score and output. Backward: gradients of query, key,
# value and of the softmax, and the score again, which no good kernel keeps.
_FORWARD, _BACKWARD = 2 * 2, 2 * 5


def attention_pairs(
    config: TransformerConfig, backend: AttentionBackend | None, stage: Stage, frames: int
) -> tuple[int, int]:
    """Pairs of a query and a key it sees, in one sequence and all layers.

    Returns:
        of the base channel, the text's among them, and of the plus channel.
    """
    given, text, n = given_frames(stage, frames), config.text_length, config.grid.frame_tokens
    slots = frames * n
    own = sum(n * n if each else n * (n + 1) // 2 for each in given)
    base = config.layers * (text * text + slots * text + own)
    if backend is None:
        return base, 0
    grid = Grid(frames, config.grid.height, config.grid.width)
    masks = layer_masks(backend.pattern, grid, given, config.layers)
    counted = {id(mask): mask.pairs for mask in {id(mask): mask for mask in masks}.values()}
    return base, sum(counted[id(mask)] + slots * text for mask in masks)


def attention_flops(config: TransformerConfig, pairs: int, sequences: int) -> int:
    """Forward and backward; `checkpoint_activations` computes the forward pass twice."""
    forward = _FORWARD * (2 if config.checkpoint_activations else 1)
    return (forward + _BACKWARD) * config.width * pairs * sequences
