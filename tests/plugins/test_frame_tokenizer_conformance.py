"""The frame tokenizers conform, and their suite catches those that do not, by the name of the check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogvid import FrameTokenizer, UserError
from cogvid.testing import ConformanceError, frame_tokenizer_conformance


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vqvae", {"channels": 16, "codes": 32, "code_size": 8}),
        ("vqvae", {"channels": 16, "codes": 32, "code_size": 8, "crop": 0, "overlap": False, "downsampling": 8}),
        ("released_vqvae", {"channels": 32, "features": 24, "codes": 40, "code_size": 16}),
    ],
    ids=str,
)
def test_a_built_in_frame_tokenizer_conforms(name: str, options: dict[str, Any]) -> None:
    frame_tokenizer_conformance(name, options)


class Grey(FrameTokenizer):
    """Codes are the mean brightness of 2x2 pixels in eight steps; what a code looks like is learned."""

    codebook_size, downsampling = 8, 2

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.levels = nn.Parameter(torch.rand(8, 1))
        self.register_buffer("used", torch.zeros(8, dtype=torch.long))

    def encode(self, frames: Tensor) -> Tensor:
        grey = nn.functional.avg_pool2d(frames.mean(1, keepdim=True), self.downsampling)[:, 0]
        return (grey * 8).long().clamp(0, 7)

    def decode(self, codes: Tensor) -> Tensor:
        return self.shown(codes).clamp(0, 1)

    def shown(self, codes: Tensor) -> Tensor:
        pixels = self.levels[codes, 0].repeat_interleave(2, 1).repeat_interleave(2, 2)
        return pixels[:, None].expand(-1, 3, -1, -1)

    def codebook(self) -> Tensor | None:
        return self.levels.detach()

    def training_loss(self, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.shown(self.encode(frames)) - frames).square().mean()
        return loss, {"reconstruction": loss.detach()}


def test_one_that_keeps_all_promises_passes() -> None:
    frame_tokenizer_conformance(Grey())


def test_one_that_refuses_such_frames_says_so() -> None:
    class Square(Grey):
        def check(self, height: int, width: int) -> None:
            if height != width:
                raise UserError("square frames only")

    with pytest.raises(UserError, match="square frames only"):
        frame_tokenizer_conformance(Square())
    frame_tokenizer_conformance(Square(), sides=[(3, 3)])


def broken(**methods: Callable[..., Any]) -> FrameTokenizer:
    """A tokenizer with other methods; each is given what the right one would be."""
    made = {
        name: lambda self, *x, new=new, name=name: new(self, getattr(Grey, name), *x) for name, new in methods.items()
    }
    for name, method in made.items():
        method.__name__ = name
    return type("Broken", (Grey,), made)()


def counted(self: Any, encode: Any, frames: Tensor) -> Tensor:
    codes = encode(self, frames)
    self.used += codes.flatten().bincount(minlength=8)
    return codes


def moving(self: Any, encode: Any, frames: Tensor) -> Tensor:
    self.mean = 0.5 * getattr(self, "mean", 0.0) + 0.5 * frames.mean()
    return encode(self, (frames - self.mean + 0.5).clamp(0, 1))


def lost(self: Any, get_state: Any, *args: Any, **others: Any) -> Any:
    return {key: value for key, value in get_state(self).items() if key != "levels"}


class Unsaved(Grey):
    """What it has learned is no part of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.rand(8)

    def shown(self, codes: Tensor) -> Tensor:
        return super().shown(codes) / 100 + self.own[codes].repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]

    def __deepcopy__(self, memo: Any) -> Unsaved:
        return Unsaved()


@pytest.mark.parametrize(
    ("tokenizer", "caught"),
    [
        (broken(training_loss=lambda self, loss, frames: (frames.mean(), {})), "learns"),
        (broken(training_loss=lambda self, loss, frames: (loss(self, frames)[0] / 0, {})), "learns"),
        (broken(training_loss=lambda self, loss, frames: ((self.levels * frames.mean()).flatten(), {})), "learns"),
        (broken(training_loss=lambda self, loss, frames: ((self.levels * 0).sqrt().sum() + 1, {})), "learns"),
        (broken(training_loss=lambda self, loss, frames: (loss(self, frames)[0], {"all": frames})), "learns"),
        (broken(training_loss=lambda self, loss, frames: loss(self, frames)[0]), "learns"),
        (broken(encode=lambda self, encode, frames: encode(self, frames).int()), "codes"),
        (broken(encode=lambda self, encode, frames: encode(self, frames).mT), "codes"),
        (broken(encode=lambda self, encode, frames: encode(self, frames) + 1), "codes"),
        (broken(encode=lambda self, encode, frames: encode(self, frames) - 1), "codes"),
        (broken(decode=lambda self, decode, codes: self.shown(codes) * 2 - 1), "frames"),
        (broken(decode=lambda self, decode, codes: (decode(self, codes) * 255).to(torch.uint8)), "frames"),
        (broken(decode=lambda self, decode, codes: decode(self, codes)[:, :1]), "frames"),
        (broken(decode=lambda self, decode, codes: decode(self, codes % 7) / (codes.max() != 7)), "frames"),
        (broken(encode=lambda self, encode, frames: encode(self, frames + torch.rand(1))), "same"),
        (broken(encode=moving), "same"),
        (broken(decode=lambda self, decode, codes: decode(self, codes) * torch.rand(1)), "same"),
        (broken(encode=lambda self, encode, frames: encode(self, frames - frames.mean() + 0.5)), "alone"),
        (broken(decode=lambda self, decode, codes: decode(self, codes) / (1 + len(codes))), "alone"),
        (broken(encode=counted), "state"),
        (broken(codebook=lambda self, codebook: codebook(self)[:7]), "codebook"),
        (broken(codebook=lambda self, codebook: codebook(self)[:, 0]), "codebook"),
        (broken(codebook=lambda self, codebook: codebook(self) / 0), "codebook"),
        (Unsaved(), "saved"),
        (broken(state_dict=lost), "saved"),
        (broken(decode=lambda self, decode, codes: self.shown(codes)), "clipped"),
    ],
)
def test_a_broken_promise_is_named(tokenizer: FrameTokenizer, caught: str) -> None:
    with pytest.raises(ConformanceError, match="does not conform") as error:
        frame_tokenizer_conformance(tokenizer)
    assert caught in error.value.failures
