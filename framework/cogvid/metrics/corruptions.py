"""Videos made worse in known ways and degrees: what a metric of videos has to see.

Dodge and Karam (2016) and Hendrycks and Dietterich (2019) measure networks on pictures like this; for video
distances Unterthiner et al. (2018) distort space and time, and Ge et al. (2024) show that FVD may miss time.

Shapes: B videos of F frames, uint8 (B, F, 3, height, width). Every function is pure: the same videos, strength and
seed give the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.metric import check_videos

STRENGTHS = (1, 2, 3, 4, 5)
# Frames from one that is kept to the next, by strength.
STEPS = (2, 3, 4, 6, 8)


class Corruption(NamedTuple):
    """A way to make videos worse.

    Attributes:
        of: what suffers.
        text: what strengths 1 to 5 do, in one line.
        apply: from videos, strength and randomness to videos of the same shape.
    """

    of: Literal["space", "time"]
    text: str
    apply: Callable[[Tensor, int, torch.Generator], Tensor]


def corrupt(name: str, videos: Tensor, strength: int, seed: int = 0) -> Tensor:
    """Videos uint8 (B, F, 3, height, width), made worse.

    Args:
        name: one of `CORRUPTIONS`.
        videos: uint8 (B, F, 3, height, width).
        strength: 1 to 5.
        seed: all randomness follows from it.

    Raises:
        UserError: there is no such corruption or strength, or these are no such videos.
    """
    check_videos(videos)
    if name not in CORRUPTIONS:
        raise UserError(f"There is no corruption {name!r}. There are: {', '.join(CORRUPTIONS)}.")
    if strength not in STRENGTHS:
        raise UserError(f"The strength of a corruption is 1 to 5, not {strength!r}.")
    return CORRUPTIONS[name].apply(videos, strength, torch.Generator().manual_seed(seed))


def noise(videos: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise on every value of every frame, standard deviation 4, 8, 16, 32, 64 of 255."""
    return _whole(videos + 2.0 ** (strength + 1) * torch.randn(videos.shape, generator=generator))


def blur(videos: Tensor, strength: int, _: torch.Generator) -> Tensor:
    """A Gaussian blur of each frame, standard deviation 1 to 5 pixels of 64 on the shorter side."""
    height, width = videos.shape[-2:]
    deviation = strength * min(height, width) / 64
    # Reflected edges need a border below the side.
    reach = min(int(3 * deviation) + 1, min(height, width) - 1)
    places = torch.arange(-reach, reach + 1) / deviation
    kernel = torch.softmax(-places.square() / 2, 0)
    flat = F.pad(videos.flatten(0, 2).float()[:, None], [reach] * 4, mode="reflect")
    flat = F.conv2d(F.conv2d(flat, kernel[None, None, None]), kernel[None, None, :, None])
    return _whole(flat.view(videos.shape))


def colours(videos: Tensor, strength: int, _: torch.Generator) -> Tensor:
    """Each channel takes 10 to 50 percent of the next one: hues turn and fade."""
    return _whole(torch.lerp(videos.float(), videos.roll(1, 2).float(), strength / 10))


def shuffled(videos: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """A fifth to all of the frames, chosen at random, change places with one another."""
    count, frames = videos.shape[:2]
    moved = max(round(frames * strength / 5), min(frames, 2))
    order = torch.arange(frames).repeat(count, 1)
    for clip in order:
        chosen = torch.randperm(frames, generator=generator)[:moved]
        clip[chosen] = chosen[torch.randperm(moved, generator=generator)]
    return _at(videos, order)


def frozen(videos: Tensor, strength: int, _: torch.Generator) -> Tensor:
    """The last fifth to all of the clip stands still."""
    last = videos.shape[1] - 1
    return _at(videos, torch.arange(last + 1).clamp_max(round(last * (1 - strength / 5))))


def held(videos: Tensor, strength: int, _: torch.Generator) -> Tensor:
    """Every 2nd, 3rd, 4th, 6th or 8th frame is held until the next of them."""
    step = STEPS[strength - 1]
    return _at(videos, torch.arange(videos.shape[1]) // step * step)


def crossfaded(videos: Tensor, strength: int, _: torch.Generator) -> Tensor:
    """Between every 2nd, 3rd, 4th, 6th or 8th frame, and the last, the frames are mixed from the two around them."""
    step, times = STEPS[strength - 1], torch.arange(videos.shape[1])
    before = times // step * step
    after = (before + step).clamp_max(len(times) - 1)
    share = (times - before) / (after - before).clamp_min(1)
    return _whole(torch.lerp(_at(videos, before).float(), _at(videos, after).float(), share[:, None, None, None]))


def jittered(videos: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """Each frame is one of those up to 1 to 5 frames away."""
    count, frames = videos.shape[:2]
    away = torch.randint(-strength, strength + 1, (count, frames), generator=generator)
    return _at(videos, (torch.arange(frames) + away).clamp(0, frames - 1))


def slowed(videos: Tensor, strength: int, _: torch.Generator) -> Tensor:
    """Played from the start at 90 to 50 percent of the speed, the nearest frame at each time, and not to the end."""
    times = torch.arange(videos.shape[1])
    return _at(videos, (times * (1 - strength / 10)).round().long())


def reversed_(videos: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """A fifth to all of the clips run backwards."""
    count = len(videos)
    chosen = torch.randperm(count, generator=generator)[: round(count * strength / 5)]
    turned = videos.clone()
    turned[chosen] = videos[chosen].flip(1)
    return turned


CORRUPTIONS = {
    "noise": Corruption("space", "Gaussian, deviation 4, 8, 16, 32, 64 of 255", noise),
    "blur": Corruption("space", "Gaussian, deviation 1 to 5 sixty-fourths of the shorter side", blur),
    "colours": Corruption("space", "each channel takes 10 to 50% of the next", colours),
    "shuffled": Corruption("time", "20 to 100% of the frames change places", shuffled),
    "frozen": Corruption("time", "the last 20 to 100% stands still", frozen),
    "held": Corruption("time", "every 2nd, 3rd, 4th, 6th, 8th frame, held", held),
    "cross-faded": Corruption("time", "every 2nd, 3rd, 4th, 6th, 8th frame, mixed between", crossfaded),
    "jittered": Corruption("time", "frames from up to 1 to 5 away", jittered),
    "slowed": Corruption("time", "at 90 to 50% of the speed", slowed),
    "reversed": Corruption("time", "20 to 100% of the clips run backwards", reversed_),
}


def _at(videos: Tensor, frames: Tensor) -> Tensor:
    """The frames at indices (F,), the same for all videos, or (B, F)."""
    return videos[:, frames] if frames.ndim == 1 else videos[torch.arange(len(videos))[:, None], frames]


def _whole(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
