"""How near to each other the two tokens are at which clips part."""

from __future__ import annotations

import torch
from torch import Tensor

from cogvid.generation.choose import choose, guided, uniforms
from cogvid.generation.clips import Part
from cogvid.model.transformer import frame_inputs

# Distances that are tried, rising; what is further is no tie of rounding.
_DISTANCES = [10.0**power for power in range(-9, 0)]


@torch.inference_mode()
def distance_from_tie(
    part: Part, row: int, one: Tensor, other: Tensor, seed: int, begin_of_image: int, clusters: Tensor | None = None
) -> float:
    """Where two clips first differ, the power of ten by which the random number, or the logits of both tokens against
    each other, have to change for both to be drawn; 1 where no smaller one is enough.

    All before that token is the same in both, so a difference there is rounding alone; those behind it may follow from
    it.

    Args:
        part: what was made, with its model in float64, whose distribution decides.
        row: which of its sequences.
        one, other: two results of that, int64 (F, N).
        seed, begin_of_image, clusters: as for `generate_tokens`.
    """
    slot = int((one != other).flatten().nonzero()[0])  # frames that are known are equal
    frame, place = divmod(slot, one.shape[1])
    assert not part.known[frame]
    frames, sampling = frame_inputs(one[None], begin_of_image), part.sampling
    logits, *without = (
        part.model.image_logits(torch.cat([text[0][row, None], frames], 1), text[1][row, None])[0, slot]
        for text in (part.text, part.without)
        if text is not None
    )
    if without:
        logits = guided(logits, without[0], sampling.guidance)
    key = part.samples[row], part.frame_ids[row, frame], torch.tensor(place)
    draws = [uniforms(seed, *key, draw) for draw in (0, 1)]
    wanted = int(one[frame, place]), int(other[frame, place])
    apart = torch.zeros_like(logits)
    apart[wanted[0]], apart[wanted[1]] = 1, -1
    for distance in _DISTANCES:
        drawn = {
            int(choose((logits + change * apart)[None], first[None], sampling, clusters, second[None])[0])
            for change in (-distance, 0, distance)
            for first in _around(draws[0], distance)
            for second in _around(draws[1], distance)
        }
        if drawn.issuperset(wanted):
            return distance
    return 1.0


def _around(uniform: Tensor, distance: float) -> list[Tensor]:
    return [(uniform + change).clamp(0, 1 - 1e-15) for change in (-distance, 0.0, distance)]
