"""Any pattern on FlexAttention (arXiv 2412.05496): torch compiles the predicate itself into its kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

import cogvid
from cogvid.attention.blocks import raster_counts
from cogvid.attention.compact import CompactMask, compact_mask
from cogvid.config.schema import ComponentConfig
from cogvid.interfaces.attention import Attention, PatternRunner
from cogvid.interfaces.mask import Visibility
from cogvid_plugins.attention.naive import all_earlier

if TYPE_CHECKING:
    # It brings torch's compiler, which takes longer to import than all of cogvid: imported where it computes.
    from torch.nn.attention.flex_attention import BlockMask

# Queries and keys of a block of FlexAttention's mask.
_BLOCK = 128
_NO_LIMIT = 1 << 30


class Flex(PatternRunner):
    """The pattern of another backend; on a CPU for inference alone, since FlexAttention has no backward there."""

    carries_bias = False

    @dataclass
    class Config(PatternRunner.Config):
        """`pattern`: whose; `compile`: compile the kernels; without, it is a slow way to try the mask."""

        pattern: ComponentConfig = field(default_factory=all_earlier)
        compile: bool = True

    def __init__(self, config: Any) -> None:
        """See `PatternRunner`."""
        super().__init__(config)
        self._prepared: dict[tuple[CompactMask, torch.device], Attention] = {}

    def prepare(self, mask: Visibility, device: torch.device) -> Attention:
        """See `cogvid.interfaces.attention.AttentionBackend`."""
        from torch.nn.attention.flex_attention import flex_attention

        # The number of the layer is compiled in: layers with equal masks share the first one's.
        key = compact_mask(mask), device
        if key not in self._prepared:
            compute = _compiled if self.config.compile else flex_attention
            self._prepared[key] = FlexAttention(mask, device, cast(Callable[..., Any], compute))
        return self._prepared[key]


def _compiled(*args: Any, **kwargs: Any) -> Any:
    """Each mask is compiled when it is first computed."""
    from torch._dynamo import config as dynamo

    # Beyond a limit, torch would go on without compiling, a hundred times slower: there is no limit, and no going on.
    with dynamo.patch(recompile_limit=_NO_LIMIT, accumulated_recompile_limit=_NO_LIMIT):
        return _compile()(*args, **kwargs)


@lru_cache(maxsize=1)
def _compile() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    return compiled


class FlexAttention:
    """FlexAttention over a mask; see `cogvid.interfaces.attention.Attention`.

    Args:
        mask: who sees whom among the frame slots.
        device: where the queries will be.
        compute: `flex_attention`, compiled or not.
    """

    def __init__(self, mask: Visibility, device: torch.device, compute: Callable[..., Any]) -> None:
        self.mask, self.compute = mask, compute
        self.visible = mask.on(device)
        self._blocks: dict[int, tuple[tuple[Tensor, Tensor], ...]] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.interfaces.attention.Attention`.

        Raises:
            UserError: it needs a gradient on a CPU.
        """
        if q.device.type == "cpu":
            if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
                raise cogvid.UserError(
                    "flex: FlexAttention has no backward on a CPU; train there with the pattern itself as the "
                    "attention backend, and use flex for inference or on a GPU"
                )
            # Inputs that could have a gradient it refuses even where none is asked for.
            q, k, v = q.detach(), k.detach(), v.detach()
        output: Tensor = self.compute(q, k, v, block_mask=self._block_mask(q, text_mask))
        return output

    def _block_mask(self, q: Tensor, text_mask: Tensor) -> BlockMask:
        from torch.nn.attention.flex_attention import BlockMask

        text, tokens = text_mask.shape[1], self.mask.grid.tokens
        grid, in_frames = self.mask.grid, self.visible

        def visible(batch: Tensor, head: Tensor, query_slot: Tensor, key_slot: Tensor) -> Tensor:
            query, key = grid.position(query_slot), grid.position((key_slot - text).clamp(min=0))
            frame = in_frames(query, key)
            if not text:
                return frame
            return torch.where(key_slot < text, text_mask[batch, key_slot.clamp(max=text - 1)], frame)

        if text not in self._blocks:
            counts = raster_counts(compact_mask(self.mask), _BLOCK, offset=text)
            # Which text is padding is known only when the mask is computed, in each block.
            holds_text = torch.arange(counts.shape[1]) * _BLOCK < text
            full = (counts == _BLOCK**2) & ~holds_text
            partial = ((counts > 0) | holds_text) & ~full
            self._blocks[text] = tuple(_indices(blocks.to(q.device)) for blocks in (partial, full))
        (partials, partial_index), (fulls, full_index) = self._blocks[text]
        return BlockMask.from_kv_blocks(
            partials,
            partial_index,
            fulls,
            full_index,
            BLOCK_SIZE=_BLOCK,
            mask_mod=visible,
            seq_lengths=(tokens, text + tokens),
        )


def _indices(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of bool (query blocks, key blocks): how many in each row, and which, those first; as FlexAttention wants them."""
    order = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1).int()[None, None], order.int()[None, None]


@cogvid.hookimpl
def register_attention_backends() -> dict[str, type]:
    """The backend `flex`."""
    return {"flex": Flex}
