"""Cached autoregressive sampling along a schedule. See `cogvid.model.transformer` for the shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask, layer_masks
from cogvid.config.schema import SamplingConfig
from cogvid.generation.cache import KnownSlots, PassContext
from cogvid.generation.choose import choose, guided, uniforms
from cogvid.generation.layout import CacheLayout
from cogvid.generation.passes import Cache, Pass, PassPlan
from cogvid.generation.schedule import Along, last_seen
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.decoding import Clips, Decoding, Dependencies, Rows
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import given_frames
from cogvid.model.transformer import CogVideoTransformer

# Called with the rows of a pass, and which of them have final tokens, bool (R,).
OnPass = Callable[[Rows, Tensor], None]


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
    decoding: Decoding | None = None,
    unconditional: tuple[Tensor, Tensor] | None = None,
    clusters: Tensor | None = None,
    compile: bool = False,
    on_pass: OnPass | None = None,
) -> Tensor:
    """Generate the frames of clips that are not known.

    The tokens depend neither on the other clips of the batch nor, if it is exact, on the decoding.

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
        decoding: what each pass computes; along the shortest schedule when None.
        unconditional: tokens and mask of the text without caption, (B, T) each; needed for guidance.
        clusters: int64 (V,), the cluster of each code; needed where `sampling` chooses clusters first.
        compile: compile the layers; worth its minutes for long work alone.
        on_pass: called after each pass with its rows, and which of them are final.

    Returns:
        int64 (B, F, N) on the model's device, known frames as they were.

    Raises:
        ValueError: guidance without a text for it, or a known frame sees one that is not.
    """
    device, dtype = model.word_embeddings.weight.device, model.word_embeddings.weight.dtype
    text, text_mask, codes = text.to(device), text_mask.to(device).bool(), codes.to(device)
    _, frames, n = codes.shape
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

    # Every frame behind its begin-of-image token: slot i reads place i and writes place i + 1.
    tape = torch.cat([torch.full_like(codes[..., :1], begin_of_image), codes], dim=-1)
    heads, layers = model.config.heads, model.config.layers
    layouts = [_layout(mask, known, text.shape[1]) for mask in masks]
    base = CacheLayout.of_frames(grid, known, text.shape[1])
    cache = Cache(layers, heads, model.config.width // heads, len(text), base, layouts, dtype, device)
    before = KnownSlots(cache, masks, grid, given, known, text_mask)
    there = tape[:, torch.tensor(known), :-1].flatten(1)
    model.run(torch.cat([text, there.repeat(copies, 1)], dim=1), before.slots.to(device), text_mask, before)

    # The bias is for the text that is seen by what is generated; known frames are read as in training.
    text_scores = torch.full(text.shape, sampling.text_bias, dtype=dtype, device=device)
    text_scores.masked_fill_(~text_mask, -torch.inf)
    biases = [block.bias for block in model.layers] if masks else []
    plan = PassPlan(cache, biases, text_scores, before.slots, fixed=compile)
    draws = range(2 if sampling.clusters else 1)
    keys = samples.to(device)[:, None, None], frame_ids.to(device)[..., None], torch.arange(n, device=device)
    random = [uniforms(seed, *keys, draw).flatten() for draw in draws]
    compute = _compute
    if compile:
        compute = _compiled(device.type)
        for kept in (*cache.base, *cache.plus):
            torch._dynamo.mark_static_address(kept)  # or a captured graph could not write to it
    clips = Clips(_needs(masks, grid, known), tape, _free_rows(device, model.config.width))
    decoder = (decoding or Along()).start(clips)
    while (rows := decoder.next_rows()) is not None:
        now = plan.lay_out(rows, copies)
        inputs = nn.functional.pad(clips.read(rows), (0, now.slots.numel() // copies - len(rows.slots)))
        logits = compute(model, inputs.repeat(copies)[None], text_mask[:1], cache, now)[0]
        if copies == 2:
            with_caption, without = logits.chunk(2)
            logits = guided(with_caption, without, sampling.guidance)
        uniform, *second = (each[(rows.samples * grid.tokens + rows.slots).to(device)] for each in random)
        clips.write(choose(logits[: len(rows.slots)], uniform, sampling, clusters, *second))
        final = decoder.final()
        if on_pass is not None:
            on_pass(rows, final)
    return tape[..., 1:].contiguous()


def _compute(model: CogVideoTransformer, inputs: Tensor, text_mask: Tensor, cache: Cache, now: Pass) -> Tensor:
    """Logits of the rows of a pass, (1, R, image vocabulary)."""
    return model.project(model.run(inputs, now.slots, text_mask, PassContext(cache, now)))


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


def _free_rows(device: torch.device, width: int) -> float:
    """Rows of a pass that cost as much as calling and reading the layers does, roughly."""
    # A core multiplies some six rows in the time that it reads a weight, and a call lasts as long as thousands of them.
    return 256 if device.type == "cuda" else 6 + 2**20 / width**2


@lru_cache(maxsize=16)
def _needs(masks: tuple[CompactMask, ...], grid: Grid, known: tuple[bool, ...]) -> Dependencies:
    # Without a plus channel, frames see nothing of each other.
    reach = last_seen(masks, known) if masks else torch.full((grid.frames, grid.frame_tokens, grid.frames), -1)
    return Dependencies(grid, known, reach)


_layout = lru_cache(maxsize=16)(CacheLayout.of)
