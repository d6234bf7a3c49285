"""Block-sparse flash attention of the frame slots: the kernels of `kernels.py`, launched and differentiable.

Shapes: B batch, H heads, T text slots, K channels of a head; tokens are the frame slots. Keys and values have the
text first. Any strides will do as long as channels are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import cogvid
from cogvid.attention.blocks import BlockMap, block_map
from cogvid.attention.compact import CompactMask, compact_mask
from cogvid.interfaces.mask import Visibility
from cogvid_plugins.attention.triton import kernels
from cogvid_plugins.attention.triton.table import Launch, Launches, launches

# Keys of a block: a row of a partial block is then one word.
KEY_BLOCK = 64
LARGEST_HEAD = 128
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Programs for the gradient of the text: some for each multiprocessor, so that none is left idle for long.
_TEXT_PROGRAMS = 512
# Whether the kernels run in Triton's interpreter, on any device; decided by TRITON_INTERPRET when they are imported.
INTERPRETED = not isinstance(kernels.forward, triton.JITFunction)


@dataclass(frozen=True)
class Inputs:
    """What all kernels read.

    Attributes:
        q: (B, H, tokens, K), queries of the frame slots.
        k, v: (B, H, T + tokens, K).
        text_mask: bool (B, T), contiguous.
        blocks: who sees whom among the frame slots, on the device of q.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    text_mask: Tensor
    blocks: BlockMap

    def sizes(self) -> tuple[int, int, float]:
        """Frame slots, text slots and the scale of the scores."""
        return self.q.shape[2], self.text_mask.shape[1], self.q.shape[3] ** -0.5

    def strides(self, *others: Tensor) -> list[int]:
        """Of batch, head and row in q, k, v and others."""
        return [stride for x in (self.q, self.k, self.v, *others) for stride in x.stride()[:3]]

    def options(self, launch: Launch) -> dict[str, Any]:
        """What is compiled into a kernel."""
        head = self.q.shape[3]
        limit = {} if launch.registers is None or INTERPRETED else {"maxnreg": launch.registers}
        return {
            **limit,
            "HEAD": head,
            "PADDED": 1 << (head - 1).bit_length(),
            "KEY_BLOCK": self.blocks.key_block,
            "ROWS": launch.rows,
            "EMULATED": INTERPRETED and self.q.dtype is torch.bfloat16,
            "num_warps": launch.warps,
            "num_stages": launch.stages,
        }


def forward(inputs: Inputs, launch: Launch) -> tuple[Tensor, Tensor]:
    """The output (B, H, tokens, K), and the softmax denominators, fp32 (B, H, tokens) in the order of the map."""
    q, blocks, (tokens, text, scale) = inputs.q, inputs.blocks, inputs.sizes()
    out, log_sum = _rows_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    rows = blocks.rows
    kernels.forward[triton.cdiv(tokens, launch.rows), q.shape[1], q.shape[0]](
        q, inputs.k, inputs.v, out, log_sum, inputs.text_mask,
        blocks.order, rows.starts, rows.fulls, rows.index, rows.pattern, blocks.bits,
        *inputs.strides(), tokens, text, scale,
        QUERY_BLOCK=blocks.query_block, **inputs.options(launch),
    )  # fmt: skip
    return out, log_sum


def query_gradient(inputs: Inputs, out: Tensor, log_sum: Tensor, grad: Tensor, launch: Launch) -> tuple[Tensor, Tensor]:
    """The gradient of the queries, and `delta`, which `key_gradients` needs, fp32 (B, H, tokens) in the map's order.

    Args:
        inputs, out, log_sum: of `forward`.
        grad: of the output.
    """
    q, blocks, (tokens, text, scale) = inputs.q, inputs.blocks, inputs.sizes()
    grad_q, delta = _rows_like(q), torch.empty_like(log_sum)
    rows = blocks.rows
    kernels.backward_queries[triton.cdiv(tokens, launch.rows), q.shape[1], q.shape[0]](
        q, inputs.k, inputs.v, out, grad, grad_q, log_sum, delta, inputs.text_mask,
        blocks.order, rows.starts, rows.fulls, rows.index, rows.pattern, blocks.bits,
        *inputs.strides(grad), tokens, text, scale,
        QUERY_BLOCK=blocks.query_block, CORRECTED=q.dtype is torch.float32, **inputs.options(launch),
    )  # fmt: skip
    return grad_q, delta


def key_gradients(
    inputs: Inputs, log_sum: Tensor, delta: Tensor, grad: Tensor, launch: Launch
) -> tuple[Tensor, Tensor]:
    """The gradients of keys and values, (B, H, T + tokens, K) each; see `query_gradient`."""
    q, k, v, blocks, (tokens, text, scale) = inputs.q, inputs.k, inputs.v, inputs.blocks, inputs.sizes()
    batch, heads = q.shape[:2]
    grad_k, grad_v = _rows_like(k), _rows_like(v)
    columns = blocks.columns
    kernels.backward_keys[len(columns.fulls), heads, batch](
        q, k, v, grad, grad_k, grad_v, log_sum, delta,
        blocks.order, columns.starts, columns.fulls, columns.index, columns.pattern, blocks.bits,
        *inputs.strides(grad), tokens, text, scale,
        QUERY_BLOCK=blocks.query_block, **inputs.options(launch),
    )  # fmt: skip
    if text:
        blocks_of_text = triton.cdiv(text, blocks.key_block)
        chunks = triton.cdiv(_TEXT_PROGRAMS, blocks_of_text * heads * batch)
        chunks = min(chunks, triton.cdiv(tokens, launch.rows))
        parts = q.new_empty((2, chunks, batch, text, heads, q.shape[3]), dtype=torch.float32)
        kernels.backward_text[blocks_of_text * chunks, heads, batch](
            q, k, v, grad, parts[0], parts[1], log_sum, delta, inputs.text_mask, blocks.order,
            *inputs.strides(grad), tokens, text, scale, chunks,
            **inputs.options(launch),
        )  # fmt: skip
        of_text = parts.sum(1).transpose(2, 3)
        grad_k[:, :, :text], grad_v[:, :, :text] = of_text[0], of_text[1]
    return grad_k, grad_v


def _rows_like(x: Tensor) -> Tensor:
    """An empty (B, H, rows, K) in the memory order (B, rows, H, K), in which heads are merged for free."""
    batch, heads, rows, head = x.shape
    return x.new_empty((batch, rows, heads, head)).transpose(1, 2)


def _channels_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


class _BlockSparseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, blocks: BlockMap, chosen: Launches
    ) -> Tensor:
        q, k, v = (_channels_contiguous(x) for x in (q, k, v))
        inputs = Inputs(q, k, v, text_mask.contiguous(), blocks)
        with torch.cuda.device_of(q):
            out, log_sum = forward(inputs, chosen.forward)
        ctx.save_for_backward(q, k, v, inputs.text_mask, out, log_sum)
        ctx.blocks, ctx.launches = blocks, chosen
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, text_mask, out, log_sum = ctx.saved_tensors
        inputs, grad = Inputs(q, k, v, text_mask, ctx.blocks), _channels_contiguous(grad)
        with torch.cuda.device_of(q):
            grad_q, delta = query_gradient(inputs, out, log_sum, grad, ctx.launches.queries)
            grad_k, grad_v = key_gradients(inputs, log_sum, delta, grad, ctx.launches.keys)
        return grad_q, grad_k, grad_v, None, None, None


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, blocks: BlockMap, chosen: Launches
) -> Tensor:
    """Softmax attention to the unpadded text and to the frame slots that a block map makes visible.

    Args:
        q: (B, H, tokens, K), fp16, bf16 or fp32, K at most 128.
        k, v: (B, H, T + tokens, K), the text first.
        text_mask: bool (B, T).
        blocks: who sees whom, on the device of q.
        chosen: of the kernels; its query block is the map's.

    Returns:
        (B, H, tokens, K); 0 where nothing is visible.
    """
    assert q.dtype is k.dtype is v.dtype, (q.dtype, k.dtype, v.dtype)
    assert chosen.query_block == blocks.query_block, (chosen, blocks.query_block)
    return _BlockSparseAttention.apply(q, k, v, text_mask, blocks, chosen)  # type: ignore[no-untyped-call]


class BlockSparseAttention:
    """Attention over the block map of a mask; see `cogvid.interfaces.attention.Attention`.

    Args:
        mask: who sees whom among the frame slots.
        device: where the queries will be.
    """

    def __init__(self, mask: Visibility, device: torch.device) -> None:
        self.mask, self.device = compact_mask(mask), device

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.interfaces.attention.Attention`.

        Raises:
            UserError: no kernel has this head size or dtype.
        """
        assert bias is None, "refused when the backend is built"
        if q.shape[-1] > LARGEST_HEAD or q.dtype not in DTYPES:
            raise cogvid.UserError(
                f"triton: its kernels compute heads of up to {LARGEST_HEAD} channels in fp16, bf16 or fp32, not "
                f"{q.shape[-1]} channels in {q.dtype}; use more heads, or another precision, or the pattern itself as "
                "the backend, without triton"
            )
        chosen = launches(q.device, q.shape[-1], q.dtype)
        blocks = _map_on(self.device, self.mask, chosen.query_block)
        return block_sparse_attention(q, k, v, text_mask, blocks, chosen)


@lru_cache(maxsize=64)
def _map_on(device: torch.device, mask: CompactMask, query_block: int) -> BlockMap:
    """The block map of a mask on a device, one for all layers whose masks are equal."""
    return block_map(mask, query_block, KEY_BLOCK).to(device)
