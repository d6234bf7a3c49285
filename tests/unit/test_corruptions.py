"""Known ways to make videos worse: each does what it says, more with its strength, and the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cogvid import UserError
from cogvid.metrics.corruptions import CORRUPTIONS, STEPS, STRENGTHS, corrupt

FRAMES = 17
# Each frame is one grey that tells its number; clip 1 is darker than clip 0.
NUMBERED = (torch.arange(FRAMES) * 8 + 100 - torch.tensor([[0], [60]])).clamp(0, 255).to(torch.uint8)
NUMBERED = NUMBERED[:, :, None, None, None].expand(-1, -1, 3, 8, 12).contiguous()


@pytest.fixture(scope="module")
def videos() -> Tensor:
    """A bright square that moves over a coloured background."""
    clips = torch.full((20, FRAMES, 3, 32, 48), 60, dtype=torch.uint8)
    clips[:, :, 1] = 150
    for clip in range(20):
        for frame in range(FRAMES):
            clips[clip, frame, 0, clip % 4 + frame : clip % 4 + frame + 8, frame : frame + 10] = 220
    return clips


def numbers(videos: Tensor) -> Tensor:
    return (videos[0, :, 0, 0, 0].long() - 100) // 8


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_is_a_pure_function_that_does_more_with_its_strength(name: str, videos: Tensor) -> None:
    before = videos.clone()
    results = [corrupt(name, videos, strength, seed=3) for strength in STRENGTHS]
    assert torch.equal(videos, before)
    assert all(result.shape == videos.shape and result.dtype is torch.uint8 for result in results)
    assert torch.equal(results[2], corrupt(name, videos, 3, seed=3))
    changes = [float((result.float() - videos.float()).square().mean()) for result in results]
    assert 0 < changes[0] < changes[2] < changes[4]


@pytest.mark.parametrize("name", ["noise", "shuffled", "jittered", "reversed"])
def test_another_seed_gives_another_result(name: str, videos: Tensor) -> None:
    assert not torch.equal(corrupt(name, videos, 3, seed=0), corrupt(name, videos, 3, seed=1))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_held_and_cross_faded_clips_keep_every_nth_frame(strength: int) -> None:
    step = STEPS[strength - 1]
    assert numbers(corrupt("held", NUMBERED, strength)).tolist() == [n // step * step for n in range(FRAMES)]
    # Greys that grow evenly are mixed to themselves.
    assert torch.equal(corrupt("cross-faded", NUMBERED, strength), NUMBERED)


def test_a_cross_fade_shows_both_frames_at_once() -> None:
    clip = torch.zeros(1, 5, 3, 8, 8, dtype=torch.uint8)
    clip[0, 2] = 200
    assert corrupt("cross-faded", clip, 1)[0, :, 0, 0, 0].tolist() == [0, 100, 200, 100, 0]


def test_the_last_frames_freeze_and_slow_clips_do_not_come_to_their_end() -> None:
    assert numbers(corrupt("frozen", NUMBERED, 5)).tolist() == [0] * FRAMES
    assert numbers(corrupt("frozen", NUMBERED, 1)).tolist() == [*range(14), 13, 13, 13]
    assert numbers(corrupt("slowed", NUMBERED, 5)).tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8, 8]


def test_shuffled_frames_are_the_same_frames_and_jittered_ones_lie_near() -> None:
    for strength in STRENGTHS:
        shuffled = numbers(corrupt("shuffled", NUMBERED, strength))
        assert sorted(shuffled.tolist()) == [*range(FRAMES)]
        assert (shuffled != torch.arange(FRAMES)).sum() <= round(FRAMES * strength / 5)
        assert (numbers(corrupt("jittered", NUMBERED, strength)) - torch.arange(FRAMES)).abs().max() <= strength


@pytest.mark.parametrize(("strength", "turned"), [(1, 4), (5, 20)])
def test_a_share_of_the_clips_is_reversed(strength: int, turned: int, videos: Tensor) -> None:
    result = corrupt("reversed", videos, strength)
    assert sum(torch.equal(clip, before.flip(0)) for clip, before in zip(result, videos, strict=True)) == turned


def test_noise_has_its_deviation_and_blur_keeps_the_mean(videos: Tensor) -> None:
    grey = torch.full((1, 4, 3, 64, 64), 128, dtype=torch.uint8)
    deviations = [float(corrupt("noise", grey, strength).float().std()) for strength in (1, 2, 3)]
    assert deviations == pytest.approx([4, 8, 16], rel=0.03)
    assert torch.equal(corrupt("blur", grey, 5), grey)
    assert corrupt("blur", videos, 3).float().mean() == pytest.approx(float(videos.float().mean()), rel=0.02)
    assert corrupt("blur", grey[..., :2, :2], 5).shape == (1, 4, 3, 2, 2)


def test_one_frame_and_one_clip_pass_through() -> None:
    still = torch.randint(0, 255, (1, 1, 3, 16, 16), dtype=torch.uint8)
    for name, corruption in CORRUPTIONS.items():
        result = corrupt(name, still, 3)
        assert result.shape == still.shape
        assert corruption.of == "space" or torch.equal(result, still)


@pytest.mark.parametrize(
    ("name", "strength", "videos", "message"),
    [
        ("fog", 1, NUMBERED, "no corruption 'fog'"),
        ("held", 0, NUMBERED, "1 to 5, not 0"),
        ("held", 6, NUMBERED, "1 to 5, not 6"),
        ("held", 1, NUMBERED.float(), "uint8"),
    ],
)
def test_what_it_cannot_do_is_said(name: str, strength: int, videos: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        corrupt(name, videos, strength)
