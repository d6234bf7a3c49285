"""Cached autoregressive sampling along a schedule. See `cogvid.model.transformer` for the shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask, layer_masks
from cogvid.config.schema import SamplingConfig
from cogvid.generation.cache import Cache, KnownSlots, StepContext
from cogvid.generation.choose import choose, guided, uniforms
from cogvid.generation.layout import CacheLayout
from cogvid.generation.rows import Rows
from cogvid.generation.schedule import sequential_schedule, shortest_schedule
from cogvid.generation.step import Step
from cogvid.generation.steps import Steps
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import given_frames
from cogvid.model.transformer import CogVideoTransformer


@torch.inference_mode()
def generate_tokens(
    model: CogVideoTransformer,
    text: Tensor,
    text_mask: Tensor,
    codes: Tensor,
    known: tuple[bool, ...],
    *,
    sampling: SamplingConfig,
    seed: int,
    samples: Tensor,
    frame_ids: Tensor,
    begin_of_image: int,
    schedule: Tensor | None = None,
    unconditional: tuple[Tensor, Tensor] | None = None,
    clusters: Tensor | None = None,
    compile: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Generate the frames of clips that are not known.

    The tokens depend on neither the other clips of the batch nor the schedule.

    Args:
        model: of any stage, or the image model.
        text: int64 (B, T), left-padded, in the model's vocabulary.
        text_mask: bool (B, T), False for padding.
        codes: int64 (B, F, N); only the known frames are read.
        known: which frames are known, (F,); they see no others.
        sampling: temperature, top-k, top-p, clusters, guidance, and the bias of the text.
        seed: all randomness follows from it, the samples and the frame ids.
        samples: int64 (B,), the number of each clip.
        frame_ids: int64 (B, F), the numbers of the frames on the clip's final timeline.
        begin_of_image: the token of a frame's slot 0.
        schedule: int64 (F, N), or (B, F, N) for one of each clip's own; the shortest one when None.
        unconditional: tokens and mask of the text without caption, (B, T) each; needed for guidance.
        clusters: int64 (V,), the cluster of each code; needed where `sampling` chooses clusters first.
        compile: compile the layers; worth its minutes for long work alone.
        on_step: called after each step with the number of tokens it generated.

    Returns:
        int64 (B, F, N) on the model's device, known frames as they were.

    Raises:
        ValueError: guidance without a text for it, or a known frame sees one that is not.
    """
    device, dtype = model.word_embeddings.weight.device, model.word_embeddings.weight.dtype
    text, text_mask, codes = text.to(device), text_mask.to(device).bool(), codes.to(device)
    batch, frames, n = codes.shape
    grid = Grid(frames, model.config.grid.height, model.config.grid.width)
    copies = 1
    if sampling.guidance != 1:
        if unconditional is None:
            raise ValueError(f"guidance {sampling.guidance} needs the text without caption")
        copies = 2
        text = torch.cat([text, unconditional[0].to(device)])
        text_mask = torch.cat([text_mask, unconditional[1].to(device).bool()])
    given = given_frames(model.stage, frames)
    masks = _masks(model.backend, grid, given, model.config.layers)
    if schedule is None:
        schedule = _shortest(masks, known) if masks else sequential_schedule(grid, known)

    # Every frame behind its begin-of-image token: slot i reads token i - 1 and writes token i. Idle rows write to
    # one more place.
    tape = torch.cat([torch.full_like(codes[..., :1], begin_of_image), codes], dim=-1).flatten(1)
    tape = torch.cat([tape, tape[:, :1]], dim=1)
    heads, layers = model.config.heads, model.config.layers
    head_size = model.config.width // heads
    layouts = [_layout(mask, known, text.shape[1]) for mask in masks]
    cache = Cache(layers, heads, head_size, len(text), text.shape[1], grid, layouts, dtype, device)
    before = KnownSlots(cache, masks, grid, given, known, text_mask)
    slots = torch.arange(grid.tokens, device=device)[torch.tensor(known, device=device).repeat_interleave(n)]
    tokens = torch.cat([text, tape[:, slots + slots // n].repeat(copies, 1)], dim=1)
    model.run(tokens, slots, text_mask, before)

    # The bias is for the text that is seen by what is generated; known frames are read as in training.
    text_scores = torch.full(text.shape, sampling.text_bias, dtype=dtype, device=device)
    text_scores.masked_fill_(~text_mask, -torch.inf)
    rows = Rows.of(schedule.cpu(), known, rounded=compile)
    biases = [block.bias for block in model.layers] if masks else []
    # Laid out as the tape is: the number of a slot stands where its token is read.
    keys = samples.to(device)[:, None, None], frame_ids.to(device)[..., None], torch.arange(n, device=device)
    draws = range(2 if sampling.clusters else 1)
    random = [nn.functional.pad(uniforms(seed, *keys, draw), (0, 1)).flatten(1) for draw in draws]
    compute = _compute
    if compile:
        compute = _compiled(device.type)
        for kept in (*cache.base, *cache.plus):
            torch._dynamo.mark_static_address(kept)  # or a captured graph could not write to it
    for step in Steps(rows, grid, known, masks, biases, cache, text_scores, fixed=compile):
        places = step.inputs.expand(batch, -1)
        logits = compute(model, tape.gather(1, places).repeat(copies, 1), text_mask, cache, step)
        if copies == 2:
            logits = guided(logits[:batch], logits[batch:], sampling.guidance)
        uniform, *second = (each.gather(1, places) for each in random)
        chosen = choose(logits, uniform, sampling, clusters, *second)
        tape.scatter_(1, step.outputs.expand(batch, -1), chosen)
        if on_step is not None:
            on_step(step.tokens * (batch // len(step.inputs)))
    return tape[:, :-1].view(batch, frames, n + 1)[..., 1:].contiguous()


def _compute(model: CogVideoTransformer, inputs: Tensor, text_mask: Tensor, cache: Cache, step: Step) -> Tensor:
    """Logits of the rows of a step, (B, S, image vocabulary)."""
    return model.project(model.run(inputs, step.slots, text_mask, StepContext(cache, step)))


@lru_cache(maxsize=2)
def _compiled(device: str) -> Callable[..., Tensor]:
    """On a GPU, the steps of each width are one graph that is captured once and replayed."""
    return torch.compile(_compute, mode="reduce-overhead" if device == "cuda" else None)


@lru_cache(maxsize=16)
def _masks(
    backend: AttentionBackend | None, grid: Grid, given: tuple[bool, ...], layers: int
) -> tuple[CompactMask, ...]:
    """Of the layers of the plus channel, if there is one."""
    return tuple(layer_masks(backend.pattern, grid, given, layers)) if backend else ()


_shortest = lru_cache(maxsize=16)(shortest_schedule)
_layout = lru_cache(maxsize=16)(CacheLayout.of)
