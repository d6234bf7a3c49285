"""How near a random number is to what separates the two tokens at which clips part."""

from __future__ import annotations

import torch
from torch import Tensor

from cogvid.config.schema import SamplingConfig
from cogvid.generation.choose import choose, guided, uniforms
from cogvid.model.transformer import CogVideoTransformer, frame_inputs

# Distances that are tried, rising; what is further is no tie of rounding.
_DISTANCES = [10.0**power for power in range(-9, 0)]


@torch.inference_mode()
def distance_from_tie(
    exact: CogVideoTransformer,
    text: list[tuple[Tensor, Tensor]],
    one: Tensor,
    other: Tensor,
    known: tuple[bool, ...],
    sampling: SamplingConfig,
    seed: int,
    sample: Tensor,
    frame_ids: Tensor,
    begin_of_image: int,
    clusters: Tensor | None = None,
) -> float:
    """The power of ten within which both tokens are drawn, where two clips first differ; 1 where none below it is.

    All before that token is the same in both, so a difference there is rounding alone; those behind it may follow from
    it.

    Args:
        exact: the model in float64, whose distribution decides.
        text: tokens and mask, (T,) each; with guidance, then those without caption.
        one, other: the clips, int64 (F, N).
        known, sampling, seed, begin_of_image, clusters: as for `generate_tokens`.
        sample, frame_ids: of the clip, int64 () and (F,).
    """
    n = one.shape[1]
    slot = int((one != other).flatten().nonzero()[0])  # frames that are known are equal
    frame, place = divmod(slot, n)
    assert not known[frame]
    frames = frame_inputs(one[None], begin_of_image)
    made = [exact.image_logits(torch.cat([tokens[None], frames], 1), mask[None])[0, slot] for tokens, mask in text]
    logits = guided(made[0], made[1], sampling.guidance) if len(made) == 2 else made[0]
    draws = [uniforms(seed, sample, frame_ids[frame], torch.tensor(place), draw) for draw in (0, 1)]
    wanted = {int(one[frame, place]), int(other[frame, place])}
    for distance in _DISTANCES:
        drawn = {
            int(choose(logits[None], first[None], sampling, clusters, second[None])[0])
            for first in _around(draws[0], distance)
            for second in _around(draws[1], distance)
        }
        if wanted <= drawn:
            return distance
    return 1.0


def _around(uniform: Tensor, distance: float) -> list[Tensor]:
    return [(uniform + change).clamp(0, 1 - 1e-15) for change in (-distance, 0.0, distance)]
