"""Block-sparse flash attention: the kernels, and nothing about how they are launched (see `launch.py`).

After FlashAttention-2 (arXiv 2307.08691): a softmax over blocks of keys with a running maximum, and probabilities
computed again in the backward pass. Which blocks, and which pairs in them, is FlexAttention's scheme (arXiv
2412.05496) on a `BlockMap`: full blocks without a mask, then partial ones with a word of bits for each query.

Shapes: R query rows and C keys that a program handles at a time (constexpr ROWS, KEY_BLOCK), K channels of a head
(HEAD; PADDED to a power of two). A place is an index into the map's order of the frame slots; `order` has the slot,
which is the row of q and, behind the text, of k and v. Grids are (blocks, H, B). Numbers that change with the grid of
tokens are never specialised. Row and head offsets are 64 bits wide. Inside, scores are in units of log2.

    out, grad_q: (B, tokens, H, K) contiguous; grad_k, grad_v: (B, T + tokens, H, K) contiguous
    log_sum, delta: fp32 (B, H, tokens), by place; log2 of the softmax denominator, 0 without a visible key, and
        sum over channels of output * gradient
"""

# Triton's own types; constants of a kernel are written in capitals.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803

from __future__ import annotations

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

_LOG2_E = tl.constexpr(1.4426950408889634)
# Where the running maximum starts. Finite: a row that has seen no key yet needs no special case against NaN.
_LOWEST = tl.constexpr(-1e30)

# What differs between grids and masks; of other integers and pointers Triton compiles in whether 16 divides them.
_UNSPECIALISED = ["tokens", "text", "chunks", "text_mask", "order", "starts", "fulls", "index", "pattern", "bits"]


@triton.jit
def _dot(a, b, total, EMULATED: tl.constexpr):
    """total + a @ b, in fp32; EMULATED for Triton's interpreter, which cannot multiply bf16."""
    if EMULATED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _pointers(base, rows, stride, PADDED: tl.constexpr):
    """To the channels of some rows, (rows, PADDED)."""
    return base + rows.to(tl.int64)[:, None] * stride + tl.arange(0, PADDED)[None, :]


@triton.jit
def _exists(valid, HEAD: tl.constexpr, PADDED: tl.constexpr):
    """Which channels of some rows exist; broadcasts to (rows, PADDED)."""
    inside = valid[:, None]
    if HEAD < PADDED:
        inside = inside & (tl.arange(0, PADDED) < HEAD)[None, :]
    return inside


@triton.jit
def _load(base, rows, stride, valid, HEAD: tl.constexpr, PADDED: tl.constexpr):
    """Rows of a head, 0 where they do not exist; all do if `valid` is None."""
    pointers = _pointers(base, rows, stride, PADDED)
    if valid is not None:
        values = tl.load(pointers, mask=_exists(valid, HEAD, PADDED), other=0.0)
    elif HEAD < PADDED:
        values = tl.load(pointers, mask=(tl.arange(0, PADDED) < HEAD)[None, :], other=0.0)
    else:
        values = tl.load(pointers)
    return values


@triton.jit
def _store(base, rows, stride, valid, values, HEAD: tl.constexpr, PADDED: tl.constexpr):
    """Write rows of a head."""
    pointers = _pointers(base, rows, stride, PADDED)
    tl.store(pointers, values.to(base.dtype.element_ty), mask=_exists(valid, HEAD, PADDED))


@triton.jit
def _head(base, stride_b, stride_h):
    """Where this program's head begins."""
    return base + tl.program_id(2).to(tl.int64) * stride_b + tl.program_id(1).to(tl.int64) * stride_h


@triton.jit
def _own_head(base, rows, HEAD: tl.constexpr):
    """Where this program's head begins in a contiguous (B, rows, H, K)."""
    return base + (tl.program_id(2).to(tl.int64) * rows * tl.num_programs(1) + tl.program_id(1)) * HEAD


@triton.jit
def _own_list(base, tokens):
    """Where this program's numbers begin in a contiguous (B, H, tokens)."""
    return base + (tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * tokens


@triton.jit
def _entry(numbers, entry, end):
    """A number of an entry of a block list; 0 behind the end of the list."""
    return tl.load(numbers + entry, mask=entry < end, other=0)


@triton.jit
def _slots(order, first, tokens, COUNT: tl.constexpr):
    """The slots at some places from `first` on; any slot at places behind the end."""
    places = first + tl.arange(0, COUNT)
    return tl.load(order + places, mask=places < tokens, other=0)


@triton.jit
def _attend(q, k, v, visible, total, weight, highest, scale, EMULATED: tl.constexpr):
    """One more block of keys for the running softmax; `visible` (R, C), or None for all."""
    scores = _dot(q, tl.trans(k), tl.zeros((q.shape[0], k.shape[0]), tl.float32), EMULATED)
    if visible is not None:
        scores = tl.where(visible, scores, float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, 1) * scale)
    share = tl.exp2(scores * scale - higher[:, None])
    fade = tl.exp2(highest - higher)
    weight = weight * fade + tl.sum(share, 1)
    total = _dot(share.to(v.dtype), v, total * fade[:, None], EMULATED)
    return total, weight, higher


@triton.jit(do_not_specialize=_UNSPECIALISED)
def forward(
    q, k, v, out, log_sum, text_mask, order, starts, fulls, index, pattern, bits,
    q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, tokens, text, scale,
    HEAD: tl.constexpr, PADDED: tl.constexpr, QUERY_BLOCK: tl.constexpr, KEY_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """Outputs and denominators of R queries: of the text, then of the row's full blocks, then of the partial ones."""
    # Later queries see more, and the longest work has to start first.
    step = tl.num_programs(0) - 1 - tl.program_id(0)
    block = step // (QUERY_BLOCK // ROWS)
    inside = step % (QUERY_BLOCK // ROWS) * ROWS + tl.arange(0, ROWS)
    places = block * QUERY_BLOCK + inside
    valid = places < tokens
    slots = tl.load(order + places, mask=valid, other=0)
    queries = _load(_head(q, q_b, q_h), slots, q_s, valid, HEAD, PADDED)
    keys, values = _head(k, k_b, k_h), _head(v, v_b, v_h)
    text_mask += tl.program_id(2) * text
    columns = tl.arange(0, KEY_BLOCK)
    log2_scale = scale * _LOG2_E

    total = tl.zeros((ROWS, PADDED), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    highest = tl.full((ROWS,), _LOWEST, tl.float32)
    for first in range(0, text, KEY_BLOCK):
        rows = first + columns
        seen = tl.load(text_mask + rows, mask=rows < text, other=0) != 0
        key = _load(keys, rows, k_s, seen, HEAD, PADDED)
        value = _load(values, rows, v_s, seen, HEAD, PADDED)
        total, weight, highest = _attend(
            queries, key, value, seen[None, :], total, weight, highest, log2_scale, EMULATED
        )
    begin, end = tl.load(starts + block), tl.load(starts + block + 1)
    partial = begin + tl.load(fulls + block)
    # The slots of the next block are read here, one step ahead: rows are copied several steps ahead only where their
    # addresses are known by then.
    next_slots = _slots(order, _entry(index, begin, partial) * KEY_BLOCK, tokens, KEY_BLOCK)
    for entry in range(begin, partial):
        key = _load(keys, text + next_slots, k_s, None, HEAD, PADDED)
        value = _load(values, text + next_slots, v_s, None, HEAD, PADDED)
        next_slots = _slots(order, _entry(index, entry + 1, partial) * KEY_BLOCK, tokens, KEY_BLOCK)
        total, weight, highest = _attend(queries, key, value, None, total, weight, highest, log2_scale, EMULATED)
    next_slots = _slots(order, _entry(index, partial, end) * KEY_BLOCK, tokens, KEY_BLOCK)
    next_pattern = _entry(pattern, partial, end)
    for entry in range(partial, end):
        key = _load(keys, text + next_slots, k_s, None, HEAD, PADDED)
        value = _load(values, text + next_slots, v_s, None, HEAD, PADDED)
        words = tl.load(bits + next_pattern * QUERY_BLOCK + inside)
        next_slots = _slots(order, _entry(index, entry + 1, end) * KEY_BLOCK, tokens, KEY_BLOCK)
        next_pattern = _entry(pattern, entry + 1, end)
        visible = ((words[:, None] >> columns[None, :]) & 1) != 0
        total, weight, highest = _attend(queries, key, value, visible, total, weight, highest, log2_scale, EMULATED)

    blind = weight == 0.0
    weight = tl.where(blind, 1.0, weight)
    out = _own_head(out, tokens, HEAD)
    _store(out, slots, tl.num_programs(1) * HEAD, valid, total / weight[:, None], HEAD, PADDED)
    # 0 for a row that sees nothing: the backward pass then needs no special case either.
    sums = tl.where(blind, 0.0, highest + tl.log2(weight))
    tl.store(_own_list(log_sum, tokens) + places, sums, mask=valid)


@triton.jit
def _query_gradient(
    q, k, v, grad, visible, sums, delta, total, rest, mean, scale, CORRECTED: tl.constexpr, EMULATED: tl.constexpr
):
    """The part of a block of keys in the gradient of the queries; CORRECTED: and in what corrects it."""
    empty = tl.zeros((q.shape[0], k.shape[0]), tl.float32)
    share = tl.exp2(_dot(q, tl.trans(k), empty, EMULATED) * scale - sums[:, None])
    if visible is not None:
        share = tl.where(visible, share, 0.0)
    scores = share * (_dot(grad, tl.trans(v), empty, EMULATED) - delta[:, None])
    if CORRECTED:
        rest += tl.sum(scores, 1)
        mean = _dot(share.to(k.dtype), k, mean, EMULATED)
    return _dot(scores.to(k.dtype), k, total, EMULATED), rest, mean


@triton.jit(do_not_specialize=_UNSPECIALISED)
def backward_queries(
    q, k, v, out, grad, grad_q, log_sum, delta, text_mask, order, starts, fulls, index, pattern, bits,
    q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, g_b, g_h, g_s, tokens, text, scale,
    HEAD: tl.constexpr, PADDED: tl.constexpr, QUERY_BLOCK: tl.constexpr, KEY_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, CORRECTED: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """Gradient of R queries, and their `delta`, which the kernels for the keys need.

    `delta` should be what the gradients of the probabilities average to; taken from the rounded output it is off by a
    few roundings. CORRECTED, for fp32, adds up what is left of the average, and takes it out of the gradient.
    """
    step = tl.num_programs(0) - 1 - tl.program_id(0)
    block = step // (QUERY_BLOCK // ROWS)
    inside = step % (QUERY_BLOCK // ROWS) * ROWS + tl.arange(0, ROWS)
    places = block * QUERY_BLOCK + inside
    valid = places < tokens
    slots = tl.load(order + places, mask=valid, other=0)
    stride = tl.num_programs(1) * HEAD
    grads = _load(_head(grad, g_b, g_h), slots, g_s, valid, HEAD, PADDED)
    outputs = _load(_own_head(out, tokens, HEAD), slots, stride, valid, HEAD, PADDED)
    deltas = tl.sum(outputs.to(tl.float32) * grads.to(tl.float32), 1)
    sums = tl.load(_own_list(log_sum, tokens) + places, mask=valid, other=0.0)
    queries = _load(_head(q, q_b, q_h), slots, q_s, valid, HEAD, PADDED)
    keys, values = _head(k, k_b, k_h), _head(v, v_b, v_h)
    text_mask += tl.program_id(2) * text
    columns = tl.arange(0, KEY_BLOCK)
    log2_scale = scale * _LOG2_E

    total = tl.zeros((ROWS, PADDED), tl.float32)
    mean = tl.zeros((ROWS, PADDED), tl.float32)
    rest = tl.zeros((ROWS,), tl.float32)
    for first in range(0, text, KEY_BLOCK):
        rows = first + columns
        seen = tl.load(text_mask + rows, mask=rows < text, other=0) != 0
        key = _load(keys, rows, k_s, seen, HEAD, PADDED)
        value = _load(values, rows, v_s, seen, HEAD, PADDED)
        total, rest, mean = _query_gradient(
            queries, key, value, grads, seen[None, :], sums, deltas, total, rest, mean, log2_scale, CORRECTED, EMULATED
        )
    begin, end = tl.load(starts + block), tl.load(starts + block + 1)
    partial = begin + tl.load(fulls + block)
    next_slots = _slots(order, _entry(index, begin, partial) * KEY_BLOCK, tokens, KEY_BLOCK)
    for entry in range(begin, partial):
        key = _load(keys, text + next_slots, k_s, None, HEAD, PADDED)
        value = _load(values, text + next_slots, v_s, None, HEAD, PADDED)
        next_slots = _slots(order, _entry(index, entry + 1, partial) * KEY_BLOCK, tokens, KEY_BLOCK)
        total, rest, mean = _query_gradient(
            queries, key, value, grads, None, sums, deltas, total, rest, mean, log2_scale, CORRECTED, EMULATED
        )
    next_slots = _slots(order, _entry(index, partial, end) * KEY_BLOCK, tokens, KEY_BLOCK)
    next_pattern = _entry(pattern, partial, end)
    for entry in range(partial, end):
        key = _load(keys, text + next_slots, k_s, None, HEAD, PADDED)
        value = _load(values, text + next_slots, v_s, None, HEAD, PADDED)
        words = tl.load(bits + next_pattern * QUERY_BLOCK + inside)
        next_slots = _slots(order, _entry(index, entry + 1, end) * KEY_BLOCK, tokens, KEY_BLOCK)
        next_pattern = _entry(pattern, entry + 1, end)
        visible = ((words[:, None] >> columns[None, :]) & 1) != 0
        total, rest, mean = _query_gradient(
            queries, key, value, grads, visible, sums, deltas, total, rest, mean, log2_scale, CORRECTED, EMULATED
        )
    if CORRECTED:
        total -= rest[:, None] * mean
        deltas += rest
    tl.store(_own_list(delta, tokens) + places, deltas, mask=valid)
    _store(_own_head(grad_q, tokens, HEAD), slots, stride, valid, total * scale, HEAD, PADDED)


@triton.jit
def _key_gradients(q, k, v, grad, visible, sums, delta, total_k, total_v, scale, EMULATED: tl.constexpr):
    """The part of some queries in the gradients of a block of keys; everything transposed, `visible` (C, R)."""
    empty = tl.zeros((k.shape[0], q.shape[0]), tl.float32)
    share = tl.exp2(_dot(k, tl.trans(q), empty, EMULATED) * scale - sums[None, :])
    if visible is not None:
        share = tl.where(visible, share, 0.0)
    total_v = _dot(share.to(grad.dtype), grad, total_v, EMULATED)
    scores = share * (_dot(v, tl.trans(grad), empty, EMULATED) - delta[None, :])
    return _dot(scores.to(q.dtype), q, total_k, EMULATED), total_v


@triton.jit(do_not_specialize=_UNSPECIALISED)
def backward_keys(
    q, k, v, grad, grad_k, grad_v, log_sum, delta, order, starts, fulls, index, pattern, bits,
    q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, g_b, g_h, g_s, tokens, text, scale,
    HEAD: tl.constexpr, PADDED: tl.constexpr, QUERY_BLOCK: tl.constexpr, KEY_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of frame keys and values, R queries of the column's blocks at a time."""
    parts: tl.constexpr = QUERY_BLOCK // ROWS
    block = tl.program_id(0)
    columns = tl.arange(0, KEY_BLOCK)
    own = block * KEY_BLOCK + columns
    valid = own < tokens
    rows = text + tl.load(order + own, mask=valid, other=0)
    key = _load(_head(k, k_b, k_h), rows, k_s, valid, HEAD, PADDED)
    value = _load(_head(v, v_b, v_h), rows, v_s, valid, HEAD, PADDED)
    queries, grads = _head(q, q_b, q_h), _head(grad, g_b, g_h)
    log_sum, delta = _own_list(log_sum, tokens), _own_list(delta, tokens)
    log2_scale = scale * _LOG2_E

    total_k = tl.zeros((KEY_BLOCK, PADDED), tl.float32)
    total_v = tl.zeros((KEY_BLOCK, PADDED), tl.float32)
    begin, end = tl.load(starts + block), tl.load(starts + block + 1)
    partial = begin + tl.load(fulls + block)
    inside = tl.arange(0, ROWS)
    # Loops that count from 0: where they do not, ptxas has been seen to run the products one after the other.
    next_first = _entry(index, begin, partial) * QUERY_BLOCK
    next_slots = _slots(order, next_first, tokens, ROWS)
    for step in range(0, (partial - begin) * parts):
        query = _load(queries, next_slots, q_s, None, HEAD, PADDED)
        row_grad = _load(grads, next_slots, g_s, None, HEAD, PADDED)
        sums, deltas = tl.load(log_sum + next_first + inside), tl.load(delta + next_first + inside)
        next_first = _entry(index, begin + (step + 1) // parts, partial) * QUERY_BLOCK + (step + 1) % parts * ROWS
        next_slots = _slots(order, next_first, tokens, ROWS)
        total_k, total_v = _key_gradients(
            query, key, value, row_grad, None, sums, deltas, total_k, total_v, log2_scale, EMULATED
        )
    next_first = _entry(index, partial, end) * QUERY_BLOCK
    next_slots = _slots(order, next_first, tokens, ROWS)
    next_word = _entry(pattern, partial, end) * QUERY_BLOCK
    for step in range(0, (end - partial) * parts):
        query = _load(queries, next_slots, q_s, None, HEAD, PADDED)
        row_grad = _load(grads, next_slots, g_s, None, HEAD, PADDED)
        sums = tl.load(log_sum + next_first + inside, mask=next_first + inside < tokens, other=0.0)
        deltas = tl.load(delta + next_first + inside, mask=next_first + inside < tokens, other=0.0)
        words = tl.load(bits + next_word + inside)
        next_first = _entry(index, partial + (step + 1) // parts, end) * QUERY_BLOCK + (step + 1) % parts * ROWS
        next_slots = _slots(order, next_first, tokens, ROWS)
        next_word = _entry(pattern, partial + (step + 1) // parts, end) * QUERY_BLOCK + (step + 1) % parts * ROWS
        visible = ((words[None, :] >> columns[:, None]) & 1) != 0
        total_k, total_v = _key_gradients(
            query, key, value, row_grad, visible, sums, deltas, total_k, total_v, log2_scale, EMULATED
        )
    stride = tl.num_programs(1) * HEAD
    _store(_own_head(grad_k, text + tokens, HEAD), rows, stride, valid, total_k * scale, HEAD, PADDED)
    _store(_own_head(grad_v, text + tokens, HEAD), rows, stride, valid, total_v, HEAD, PADDED)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def backward_text(
    q, k, v, grad, parts_k, parts_v, log_sum, delta, text_mask, order,
    q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, g_b, g_h, g_s, tokens, text, scale, chunks,
    HEAD: tl.constexpr, PADDED: tl.constexpr, KEY_BLOCK: tl.constexpr, ROWS: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """The part of one chunk of all queries in the gradients of a block of text keys: fp32 (chunks, B, T, H, K).

    Every query sees the text: a single program for a block of text would still be running when all else is done.
    """
    block, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    rows = block * KEY_BLOCK + tl.arange(0, KEY_BLOCK)
    seen = tl.load(text_mask + tl.program_id(2) * text + rows, mask=rows < text, other=0) != 0
    key = _load(_head(k, k_b, k_h), rows, k_s, seen, HEAD, PADDED)
    value = _load(_head(v, v_b, v_h), rows, v_s, seen, HEAD, PADDED)
    queries, grads = _head(q, q_b, q_h), _head(grad, g_b, g_h)
    log_sum, delta = _own_list(log_sum, tokens), _own_list(delta, tokens)
    log2_scale = scale * _LOG2_E

    total_k = tl.zeros((KEY_BLOCK, PADDED), tl.float32)
    total_v = tl.zeros((KEY_BLOCK, PADDED), tl.float32)
    steps = tl.cdiv(tl.cdiv(tokens, ROWS), chunks)
    next_slots = _slots(order, chunk * steps * ROWS, tokens, ROWS)
    for step in range(chunk * steps, tl.minimum((chunk + 1) * steps, tl.cdiv(tokens, ROWS))):
        places = step * ROWS + tl.arange(0, ROWS)
        valid = places < tokens
        query = _load(queries, next_slots, q_s, None, HEAD, PADDED)
        row_grad = _load(grads, next_slots, g_s, None, HEAD, PADDED)
        next_slots = _slots(order, (step + 1) * ROWS, tokens, ROWS)
        sums = tl.load(log_sum + places, mask=valid, other=0.0)
        deltas = tl.load(delta + places, mask=valid, other=0.0)
        visible = seen[:, None] & valid[None, :]
        total_k, total_v = _key_gradients(
            query, key, value, row_grad, visible, sums, deltas, total_k, total_v, log2_scale, EMULATED
        )
    stride = tl.num_programs(1) * HEAD
    skip = chunk.to(tl.int64) * tl.num_programs(2) * text * stride
    inside = rows < text
    _store(_own_head(parts_k + skip, text, HEAD), rows, stride, inside, total_k * scale, HEAD, PADDED)
    _store(_own_head(parts_v + skip, text, HEAD), rows, stride, inside, total_v, HEAD, PADDED)
