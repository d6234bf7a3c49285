"""Whether cached sampling and a whole sequence at once are the same model."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from cogvid.attention.dense import DenseAttention
from cogvid.config.schema import SamplingConfig
from cogvid.generation.schedule import Along, sequential_schedule
from cogvid.generation.tokens import generate_tokens
from cogvid.interfaces.attention import Attention, AttentionBackend, PatternRunner
from cogvid.interfaces.decoding import Decoding, Dependencies, Rows
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig, frame_inputs
from cogvid.testing.rounding import allowed_steps, measured_in, steps_off

_IMAGE, _TEXT = 11, 8


class OneAtATime(Along):
    """One slot a pass, frame after frame: what others are held to."""

    def schedule(self, needs: Dependencies) -> Tensor:
        """See `Along`."""
        return sequential_schedule(needs.grid, needs.known)


class _Dense(PatternRunner):
    """A backend's pattern and bias, computed by the reference."""

    def prepare(self, mask: Visibility, device: torch.device) -> Attention:
        """See `AttentionBackend`."""
        return DenseAttention(mask, device)


class _Recorder(CogVideoTransformer):
    """A model that keeps the logits it is asked for, in order."""

    logits: list[Tensor]

    def project(self, hidden: Tensor) -> Tensor:
        """See `CogVideoTransformer`."""
        logits = super().project(hidden)
        self.logits.append(logits)
        return logits


def cache_error(
    backend: AttentionBackend,
    grid: Grid,
    stage: Stage,
    heads: int,
    head_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> str | None:
    """Sample clips with a small model, and say how far its logits are from those of the finished sequence, if too far.

    Args:
        backend: of the plus channel.
        grid: of the clips.
        stage: of the model; interpolation samples every other frame.
        heads, head_size, dtype, device: of the model.
    """
    model = _model(backend, grid, stage, heads, head_size).to(device, measured_in(dtype))
    plain = deepcopy(model)
    plain.backend = _Dense(SimpleNamespace(pattern=backend))
    exact = deepcopy(plain).double()
    model = model.to(dtype)

    given = given_frames(stage, grid.frames)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(_IMAGE, (2, grid.frames, grid.frame_tokens), generator=generator)
    text = torch.randint(_TEXT, (2, 4), generator=generator) + _IMAGE + 1
    text_mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    decodings: dict[str, Decoding] = {
        "one slot at a time": OneAtATime(),
        "the shortest schedule": Along(),
    }
    for name, decoding in decodings.items():
        model.logits = []
        passes: list[Rows] = []
        generated = generate_tokens(
            model,
            text,
            text_mask,
            codes,
            given,
            sampling=SamplingConfig(),
            seed=0,
            samples=torch.arange(2),
            frame_ids=torch.arange(grid.frames).expand(2, -1),
            begin_of_image=_IMAGE,
            decoding=decoding,
            on_pass=partial(_keep, passes),
        )
        cached = torch.cat(model.logits, dim=1)[0]
        samples = torch.cat([rows.samples for rows in passes]).to(device)
        slots = torch.cat([rows.slots for rows in passes]).to(device)
        tokens = torch.cat([text.to(device), frame_inputs(generated, _IMAGE)], dim=1)
        with torch.no_grad():
            whole, rounded, true = (
                m.image_logits(tokens, text_mask.to(device))[samples, slots] for m in (model, plain, exact)
            )
        steps = allowed_steps(steps_off(rounded, true, measured_in(dtype)), dtype)
        # Each of the two may be off by as much.
        allowed = 2 * steps * torch.finfo(dtype).eps * float(true.abs().max())
        difference = float((cached.double() - whole.double()).abs().max())
        if difference > allowed:
            return (
                f"logits of cached sampling off by {difference:.2g} from those of the whole sequence, "
                f"allowed {allowed:.2g} ({name})"
            )
    return None


def _keep(passes: list[Rows], rows: Rows, final: Tensor) -> None:
    passes.append(rows)


def _model(backend: AttentionBackend, grid: Grid, stage: Stage, heads: int, head_size: int) -> _Recorder:
    config = TransformerConfig(
        layers=2,
        width=heads * head_size,
        heads=heads,
        vocabulary=_IMAGE + 1 + _TEXT,
        image_vocabulary=_IMAGE,
        text_length=4,
        text_positions=4,
        grid=grid,
    )
    model = _Recorder(config, backend, stage)
    model.logits = []
    generator = torch.Generator().manual_seed(0)
    # Weights of order one: whatever reaches a logit is then far above rounding.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model.eval()
