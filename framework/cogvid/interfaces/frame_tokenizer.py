"""Frame tokenizers: one frame to a grid of codes and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cogvid.errors import UserError
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.share import Share


class FrameTokenizer(nn.Module):
    """An autoencoder with a discrete code. Frames are float (B, 3, height, width) in [0, 1].

    In eval mode each frame is coded by itself, and coding changes nothing of the tokenizer:
    `cogvid.testing.frame_tokenizer_conformance` holds it to that. What it has learned is in its state.

    One that cannot be trained sets `trainable = False`: a run that needs it must name its weights
    (`stages.tokenizer.weights`), and its `training_loss` is never asked for.

    Attributes:
        codebook_size: how many codes there are.
        downsampling: pixels that a code stands for, along a side.
        trainable: see above.
        share: which frames of the step's batch `training_loss` has been given. Several processes train on a share each:
            what is drawn at random, or learnt from a batch as a whole, goes by the whole batch (`share.whole`,
            `share.of`, `share.gather`), or n processes learn another tokenizer than one.
    """

    @dataclass
    class Config:
        """No options."""

    codebook_size: int
    downsampling: int
    trainable: bool = True
    share: Share = Share()

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config: Any = self.Config() if config is None else config

    @abstractmethod
    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, height, width) to codes, int64 (B, height / downsampling, width / downsampling)."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, rows, columns) to frames (B, 3, rows * downsampling, columns * downsampling) in [0, 1]."""

    def codebook(self) -> Tensor | None:
        """What each code stands for, finite float (codebook_size, size): codes near each other may be sampled as a
        cluster.

        None, the default, if there is nothing of the kind; then `generation.*.clusters` is refused.
        """
        return None

    def check(self, height: int, width: int) -> None:
        """Refuse frames that this cannot be trained on; called before anything is made.

        Args:
            height: of a frame in pixels, a multiple of `downsampling`.
            width: the same.

        Raises:
            UserError: it cannot; the message names the option.
        """

    @classmethod
    def sizes_of(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """The options of a tokenizer that others have released, read from its weights.

        Args:
            weights: all tensors of its file, by the names that they have there, which are those of this module's state.

        Raises:
            UserError: they are not those of such a tokenizer; the message names the first tensor that is wrong.
        """
        raise UserError(f"{cls.__name__} is made from no file that others have released")

    @abstractmethod
    def training_loss(self, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one training step on whole frames, and scalars to log (`reconstruction`, `codes_used`).

        Where several processes train, each on its `share`, the step's loss and scalars are the means over them.
        """


def token_grid(tokenizer: FrameTokenizer, frames: int, height: int, width: int) -> Grid:
    """The tokens that a tokenizer makes of `frames` frames of `height` x `width` pixels.

    Raises:
        UserError: a side is not a whole number of tokens.
    """
    pixels = tokenizer.downsampling
    for name, side in (("height", height), ("width", width)):
        if side % pixels:
            raise UserError(
                f"the {name} of {side} pixels is not a multiple of the frame tokenizer's {pixels} pixels a token"
            )
    return Grid(frames, height // pixels, width // pixels)
