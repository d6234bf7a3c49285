"""Cached autoregressive sampling along a schedule. See `cogvid.model.transformer` for the shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from cogvid.attention.backend import AttentionBackend
from cogvid.attention.mask import given_frames
from cogvid.config.schema import SamplingConfig
from cogvid.generation.sampling import choose, guided, uniforms
from cogvid.generation.schedule import Schedule, sequential_schedule
from cogvid.grid import Grid
from cogvid.model.context import Cache, CachedStep, StepPlan
from cogvid.model.transformer import CogVideoTransformer


@torch.inference_mode()
def generate(
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
    text_offset: int,
    schedule: Schedule | None = None,
    unconditional: tuple[Tensor, Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Generate the frames of clips that are not known.

    The tokens depend on neither the other clips of the batch nor the schedule.

    Args:
        model: of any stage, or the image model.
        text: int64 (B, T), left-padded.
        text_mask: bool (B, T), False for padding.
        codes: int64 (B, F, N); only the known frames are read.
        known: which frames are known, (F,).
        sampling: temperature, top-k, top-p and guidance.
        seed: all randomness follows from it, the samples and the frame ids.
        samples: int64 (B,), the number of each clip.
        frame_ids: int64 (B, F), the numbers of the frames on the clip's final timeline.
        text_offset: the text's first token in the model's vocabulary, behind begin-of-image.
        schedule: the steps; one slot at a time when None.
        unconditional: tokens and mask of the text without caption, (B, T) each; needed for guidance.
        on_step: called after each step with the number of tokens it generated.

    Returns:
        int64 (B, F, N) on the model's device, known frames as they were.
    """
    device = model.word_embeddings.weight.device
    text, text_mask, codes = text.to(device), text_mask.to(device).bool(), codes.to(device)
    batch, frames, n = codes.shape
    grid = Grid(frames, model.config.grid.height, model.config.grid.width)
    if schedule is None:
        schedule = sequential_schedule(grid, known)
    copies = 1
    if sampling.guidance != 1:
        if unconditional is None:
            raise ValueError(f"guidance {sampling.guidance} needs the text without caption")
        copies = 2
        text = torch.cat([text, unconditional[0].to(device)])
        text_mask = torch.cat([text_mask, unconditional[1].to(device).bool()])

    # Every frame behind its begin-of-image token: slot i reads token i - 1 and writes token i.
    tape = torch.cat([torch.full_like(codes[..., :1], text_offset - 1), codes], dim=-1).flatten(1)
    random = uniforms(
        seed,
        samples.to(device)[:, None, None],
        frame_ids.to(device)[..., None],
        torch.arange(n, device=device),
    ).flatten(1)
    head_size = model.config.width // model.config.heads
    cache = Cache(
        model.config.layers,
        model.config.heads,
        head_size,
        text_mask,
        grid,
        plus=model.backend is not None,
        dtype=model.word_embeddings.weight.dtype,
    )
    steps = tuple(tuple(sorted(step.tolist())) for step in schedule)
    given = given_frames(model.stage, frames)
    prefill, *plans = _plans(model.backend, grid, given, known, steps, model.config.layers, text.shape[1], device)

    def run(plan: StepPlan, *, with_text: bool) -> Tensor:
        tokens = tape[:, plan.slots + plan.slots // n].repeat(copies, 1)
        if with_text:
            tokens = torch.cat([text + text_offset, tokens], dim=1)
        return model.run(tokens, plan.slots, text_mask, CachedStep(cache, plan, text=with_text))

    run(prefill, with_text=True)
    for plan in plans:
        logits = model.project(run(plan, with_text=False))
        if copies == 2:
            logits = guided(logits[:batch], logits[batch:], sampling.guidance)
        tape[:, plan.slots + plan.slots // n + 1] = choose(logits, random[:, plan.slots], sampling)
        if on_step is not None:
            on_step(batch * len(plan.slots))
    return tape.view(batch, frames, n + 1)[..., 1:].contiguous()


@lru_cache(maxsize=8)
def _plans(
    backend: AttentionBackend | None,
    grid: Grid,
    given: tuple[bool, ...],
    known: tuple[bool, ...],
    steps: tuple[tuple[int, ...], ...],
    layers: int,
    text: int,
    device: torch.device,
) -> list[StepPlan]:
    """Plans of the known frames and of each step; they are the same for every batch and round."""
    slots = torch.arange(grid.tokens, device=device)
    first = slots[torch.tensor(known, device=device)[slots // grid.frame_tokens]]
    return [
        StepPlan(backend, grid, given, step, layers, text)
        for step in [first, *(torch.tensor(step, device=device) for step in steps)]
    ]
