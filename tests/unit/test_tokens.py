"""Cached generation gives the tokens that the whole model gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cogvid import AttentionBackend, Grid
from cogvid.config.schema import Positions, SamplingConfig
from cogvid.generation.choose import choose, guided, uniforms
from cogvid.generation.tokens import generate_tokens
from cogvid.interfaces.mask import Stage, given_frames
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig, frame_inputs
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR

GRID = Grid(3, 3, 4)
N = GRID.frame_tokens
TEXT, IMAGE_VOCABULARY = 5, 13
OFFSET = IMAGE_VOCABULARY + 1
SAMPLING = SamplingConfig(temperature=0.9, top_k=9, top_p=0.95)
GUIDED = SamplingConfig(temperature=0.9, guidance=2.5)

BACKENDS: dict[str, AttentionBackend] = {
    "naive": Naive(),
    "local3d": Local3D(Local3D.Config(extent=[3, 2, 3], bias=True)),
    "swin_ar": SwinAR(SwinAR.Config(window=[2, 3])),
}


def tiny_model(
    backend: AttentionBackend | None,
    stage: Stage = "sequential",
    positions: Positions = Positions.learned,
    *,
    grid: Grid = GRID,
) -> CogVideoTransformer:
    config = TransformerConfig(
        layers=2,
        width=16,
        heads=2,
        vocabulary=24,
        image_vocabulary=IMAGE_VOCABULARY,
        text_length=TEXT,
        text_positions=TEXT,
        grid=grid,
        positions=positions,
    )
    model = CogVideoTransformer(config, backend, stage)
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            # Far from the start of training, where logits hardly depend on what was attended to.
            torch.nn.init.normal_(parameter, std=0.4, generator=draw)
    return model.eval()


def batch(samples: int = 3, frames: int = GRID.frames) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.arange(samples) % TEXT + 1
    return {
        "text": torch.randint(0, 9, (samples, TEXT), generator=draw) + OFFSET,
        "text_mask": torch.arange(TEXT) >= TEXT - lengths[:, None],
        "codes": torch.randint(0, IMAGE_VOCABULARY, (samples, frames, N), generator=draw),
        "samples": torch.arange(samples) + 7,
        "frame_ids": torch.tensor([0, 8, 16][:frames]).repeat(samples, 1),
    }


def unconditional(samples: int = 3) -> tuple[Tensor, Tensor]:
    return torch.full((samples, TEXT), 3 + OFFSET), (torch.arange(TEXT) >= TEXT - 2).repeat(samples, 1)


def generate_uncached(
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
    unconditional: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The whole sequence again for every token."""
    codes = codes.clone()
    random = uniforms(seed, samples[:, None, None], frame_ids[..., None], torch.arange(N))
    texts = [(text, text_mask), *([unconditional] if unconditional else [])]
    for frame in (t for t, is_known in enumerate(known) if not is_known):
        for i in range(N):
            logits = []
            for tokens, mask in texts:
                inputs = torch.cat([tokens, frame_inputs(codes, IMAGE_VOCABULARY)], dim=1)
                with torch.no_grad():
                    logits.append(model.image_logits(inputs, mask)[:, frame * N + i])
            chosen = guided(*logits, sampling.guidance) if unconditional else logits[0]
            codes[:, frame, i] = choose(chosen, random[:, frame, i], sampling)
    return codes


def known_frames(stage: Stage) -> tuple[bool, ...]:
    return (True, False, False) if stage == "sequential" else given_frames(stage, GRID.frames)


@pytest.mark.parametrize("sampling", [SAMPLING, GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("positions", list(Positions), ids=lambda p: p.value)
@pytest.mark.parametrize("stage", ["sequential", "interpolation"])
@pytest.mark.parametrize("name", list(BACKENDS))
def test_cached_generation_gives_the_tokens_of_recomputation(
    name: str, stage: Stage, positions: Positions, sampling: SamplingConfig
) -> None:
    model, clips, known = tiny_model(BACKENDS[name], stage, positions), batch(), known_frames(stage)
    without = unconditional() if sampling.guidance != 1 else None
    expected = generate_uncached(model, known=known, sampling=sampling, seed=5, unconditional=without, **clips)
    # What stands in the frames to generate is never read.
    clips["codes"][:, ~torch.tensor(known)] = 0
    codes = generate_tokens(
        model, known=known, sampling=sampling, seed=5, unconditional=without, begin_of_image=IMAGE_VOCABULARY, **clips
    )
    assert torch.equal(codes, expected)
    assert len(codes[:, ~torch.tensor(known)].unique()) > 3


def test_the_image_model_generates_a_frame_from_text_alone() -> None:
    model, clips = tiny_model(None, grid=Grid(1, 3, 4)), batch(frames=1)
    expected = generate_uncached(model, known=(False,), sampling=SAMPLING, seed=5, **clips)
    codes = generate_tokens(model, known=(False,), sampling=SAMPLING, seed=5, begin_of_image=IMAGE_VOCABULARY, **clips)
    assert torch.equal(codes, expected)


def test_a_sequence_without_known_frames_starts_from_text_alone() -> None:
    model, clips = tiny_model(BACKENDS["local3d"]), batch()
    known = (False,) * GRID.frames
    expected = generate_uncached(model, known=known, sampling=SAMPLING, seed=5, **clips)
    codes = generate_tokens(model, known=known, sampling=SAMPLING, seed=5, begin_of_image=IMAGE_VOCABULARY, **clips)
    assert torch.equal(codes, expected)


def test_another_split_into_batches_gives_the_same_tokens() -> None:
    model, clips = tiny_model(BACKENDS["swin_ar"]), batch(4)

    def run(part: slice) -> Tensor:
        some = {name: tensor[part] for name, tensor in clips.items()}
        without = tuple(tensor[part] for tensor in unconditional(4))
        return generate_tokens(
            model,
            known=known_frames("sequential"),
            sampling=GUIDED,
            seed=5,
            begin_of_image=IMAGE_VOCABULARY,
            unconditional=(without[0], without[1]),
            **some,
        )

    whole = run(slice(0, 4))
    assert torch.equal(torch.cat([run(slice(0, 1)), run(slice(1, 4))]), whole)


def test_guidance_without_an_unconditional_text_is_refused() -> None:
    with pytest.raises(ValueError, match="without caption"):
        generate_tokens(
            tiny_model(BACKENDS["naive"]),
            known=known_frames("sequential"),
            sampling=GUIDED,
            seed=5,
            begin_of_image=IMAGE_VOCABULARY,
            **batch(),
        )
