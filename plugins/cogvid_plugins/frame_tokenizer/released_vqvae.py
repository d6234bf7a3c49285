"""The image tokenizer of the 2022 release: a hierarchical VQ-VAE, of which CogVideo uses the middle level."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cogvid
from cogvid.config.ranges import at_least, each, option

# Of the red, green and blue of the frames that it was trained on.
_MEAN = 0.79093, 0.76271, 0.75340
_DEVIATION = 0.30379, 0.32279, 0.32800
# Groups of a normalisation, which divide every width.
_GROUPS = 32
# Pixels that are worked on at a time: the widest layer holds `channels` numbers for each.
_AT_ONCE = 1 << 18

Weights = Mapping[str, Tensor]


class ReleasedVQVAE(cogvid.FrameTokenizer):
    """The encoder, the first down-sampler, the codebook and the decoder of the middle level, 8 pixels a token.

    Parameters have the names that they have in the released file. The network was trained with perceptual and
    adversarial losses that are not rebuilt here, so it is used with weights alone (`stages.tokenizer.weights`).
    """

    trainable = False

    @dataclass
    class Config:
        """`channels`: width of the network at full resolution, a multiple of 32; `encoder`, `decoder`: how many times
        as wide each level is, from the finest to the coarsest; `blocks`: residual blocks of an encoder's level;
        `features`: channels that the encoder ends with; `codes`: size of the codebook; `code_size`: channels of a code.
        The defaults are the release's sizes."""

        channels: int = option(128, at_least(1))
        encoder: list[int] = option([1, 2, 4], each(at_least(1)))
        decoder: list[int] = option([1, 1, 2, 4], each(at_least(1)))
        blocks: int = option(2, at_least(1))
        features: int = option(256, at_least(1))
        codes: int = option(20000, at_least(1))
        code_size: int = option(256, at_least(1))

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        c = self.config
        if c.channels % _GROUPS:
            raise cogvid.UserError(f"released_vqvae: channels {c.channels} is not a multiple of {_GROUPS}")
        # The encoder halves between its levels, and the down-sampler once more; the decoder doubles between its own.
        if len(c.decoder) != len(c.encoder) + 1:
            raise cogvid.UserError(
                f"released_vqvae: decoder has {len(c.decoder)} levels and must have one more than encoder, which has "
                f"{len(c.encoder)}"
            )
        self.codebook_size, self.downsampling = c.codes, 2 ** len(c.encoder)
        self.enc = encoder([c.channels * times for times in c.encoder], c.channels, c.blocks, c.features)
        self.down_samplers = nn.ModuleList([DownSampler(c.features)])
        self.quantize = Quantizer(c.features, c.codes, c.code_size)
        self.decs = nn.ModuleDict({"1": decoder(c.code_size, [c.channels * times for times in c.decoder])})
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(3, 1, 1), persistent=False)

    @classmethod
    def from_released(cls, weights: Weights) -> ReleasedVQVAE:
        """The tokenizer of a released file, whatever its sizes.

        Args:
            weights: tensors by the names that the file has under its key `module`; those of the other levels and of
                the training of the codebook are left aside.

        Returns:
            float32, in eval mode; its `config` has the sizes.

        Raises:
            UserError: the weights are not those of such a tokenizer; the message names the first tensor that is wrong.
        """
        tokenizer = cls(cls.Config(**cls.sizes_of(weights)))
        own = tokenizer.state_dict()
        for name, wanted in own.items():
            if (found := _needed(weights, name)).shape != wanted.shape:
                raise cogvid.UserError(
                    f"released_vqvae: {name} is {tuple(found.shape)} in the weights, and {tuple(wanted.shape)} would "
                    "fit the others: this is not the image tokenizer of the 2022 release"
                )
        tokenizer.load_state_dict({name: weights[name] for name in own})
        return tokenizer.eval()

    @classmethod
    def sizes_of(cls, weights: Weights) -> dict[str, Any]:
        """The options that tensors, by their names in a released file, were made with.

        Raises:
            UserError: a tensor that says a size is missing.
        """
        channels = _needed(weights, "enc.conv_in.weight").shape[0]
        codes, code_size = _needed(weights, "quantize.embed.weight").shape

        def multipliers(levels: str) -> list[int]:
            count = _count(weights, levels, "block.0.conv1.weight")
            return [weights[f"{levels}.{i}.block.0.conv1.weight"].shape[0] // channels for i in range(count)]

        return {
            "channels": channels,
            "encoder": multipliers("enc.down"),
            "decoder": multipliers("decs.1.up"),
            "blocks": _count(weights, "enc.down.0.block", "conv1.weight"),
            "features": _needed(weights, "enc.conv_out.weight").shape[0],
            "codes": codes,
            "code_size": code_size,
        }

    def encode(self, frames: Tensor) -> Tensor:
        """See `FrameTokenizer`."""
        parts = frames.split(self._at_once(frames.shape[2] * frames.shape[3]))
        features = (self.enc((part - self.mean) / self.deviation) for part in parts)
        return torch.cat([self.quantize(self.down_samplers[0](part)) for part in features])

    def decode(self, codes: Tensor) -> Tensor:
        """See `FrameTokenizer`."""
        pixels = codes.shape[1] * codes.shape[2] * self.downsampling**2
        return torch.cat([self.unclipped(part).clamp(0, 1) for part in codes.split(self._at_once(pixels))])

    def unclipped(self, codes: Tensor) -> Tensor:
        """Codes (B, rows, columns) to frames (B, 3, height, width), some of them darker than black or lighter than
        white."""
        return self.decs["1"](self.quantize.embed(codes).movedim(-1, 1)) * self.deviation + self.mean

    def codebook(self) -> Tensor:
        """See `FrameTokenizer`."""
        return self.quantize.embed.weight.detach()

    def training_loss(self, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `FrameTokenizer`; there is none."""
        raise cogvid.UserError("released_vqvae cannot be trained: name its weights in stages.tokenizer.weights")

    @staticmethod
    def _at_once(pixels: int) -> int:
        return max(1, _AT_ONCE // pixels)


def encoder(widths: list[int], start: int, blocks: int, features: int) -> nn.Sequential:
    """Frames (B, 3, height, width) to (B, features, height / s, width / s), s halving between the levels."""
    levels = nn.Sequential()
    for number, (before, width) in enumerate(zip([start, *widths], widths, strict=False)):
        inputs = [before, *[width] * (blocks - 1)]
        parts = named(block=nn.Sequential(*(Residual(own, width) for own in inputs)))
        if number < len(widths) - 1:
            parts.add_module("downsample", halving(width))
        levels.append(parts)
    return named(
        conv_in=conv(3, start),
        down=levels,
        mid=middle(widths[-1]),
        norm_out=norm(widths[-1]),
        swish=nn.SiLU(),
        conv_out=conv(widths[-1], features),
    )


def decoder(code_size: int, widths: list[int]) -> nn.Sequential:
    """Vectors of codes (B, code_size, rows, columns) to frames (B, 3, s * rows, s * columns), s doubling between the
    levels; `widths` from the finest level to the coarsest."""
    levels = FromLast()
    for number, (width, before) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
        parts = named(block=nn.Sequential(Residual(before, width)))
        if number:
            parts.add_module("upsample", named(doubled=nn.Upsample(scale_factor=2), conv=conv(width, width)))
        levels.append(parts)
    return named(
        conv_in=conv(code_size, widths[-1]),
        mid=middle(widths[-1]),
        up=levels,
        norm_out=norm(widths[0]),
        swish=nn.SiLU(),
        conv_out=conv(widths[0], 3),
    )


def named(**modules: nn.Module) -> nn.Sequential:
    """One after the other, by their names."""
    return nn.Sequential(OrderedDict(modules))


def conv(before: int, after: int) -> nn.Conv2d:
    """Keeps height and width."""
    return nn.Conv2d(before, after, 3, padding=1)


def norm(width: int) -> nn.GroupNorm:
    """Over groups of channels and all places."""
    return nn.GroupNorm(_GROUPS, width, eps=1e-6)


def halving(width: int) -> nn.Sequential:
    """Half of height and width; padded on the right and below alone."""
    return named(padded=nn.ZeroPad2d((0, 1, 0, 1)), conv=nn.Conv2d(width, width, 3, stride=2))


def middle(width: int) -> nn.Sequential:
    """Of the coarsest level, where every place sees all others."""
    return named(block_1=Residual(width, width), attn_1=SelfAttention(width), block_2=Residual(width, width))


class FromLast(nn.Sequential):
    """The last module first."""

    def forward(self, x: Tensor) -> Tensor:
        """What the modules take, and what they make of it."""
        for module in reversed(self):
            x = module(x)
        return x


class Residual(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(before), conv(before, after)
        self.norm2, self.conv2 = norm(after), conv(after, after)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, height, width) to (B, after, height, width)."""
        changed = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return changed + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class SelfAttention(nn.Module):
    """One head over all places of a frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, rows, columns), kept."""
        normed = self.norm(x)
        q, k, v = (project(normed).flatten(2).mT[:, None] for project in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].mT
        return x + self.proj_out(seen.unflatten(2, x.shape[2:]))


class DownSampler(nn.Module):
    """From one level of the hierarchy to the next: the mean of four places, and a convolution's correction."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_down_sampler = halving(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, rows, columns) to half of the rows and columns."""
        corrected: Tensor = self.conv_down_sampler(x)
        return F.avg_pool2d(x, 2) + corrected


class Quantizer(nn.Module):
    """The nearest codes."""

    def __init__(self, features: int, codes: int, code_size: int) -> None:
        super().__init__()
        self.proj, self.embed = nn.Conv2d(features, code_size, 1), nn.Embedding(codes, code_size)

    def forward(self, features: Tensor) -> Tensor:
        """(B, features, rows, columns) to codes int64 (B, rows, columns)."""
        vectors, codebook = self.proj(features).movedim(1, -1), self.embed.weight
        # Squared distances, less what is the same for all codes.
        return (codebook.square().sum(1) - 2 * vectors.flatten(0, 2) @ codebook.T).argmin(1).view(vectors.shape[:3])


def _needed(weights: Weights, name: str) -> Tensor:
    if name not in weights:
        raise cogvid.UserError(
            f"released_vqvae: the weights have no {name}: this is not the image tokenizer of the 2022 release"
        )
    return weights[name]


def _count(weights: Weights, prefix: str, suffix: str) -> int:
    """How many of a module's numbered parts there are, from 0 without a gap; at least 1."""
    _needed(weights, f"{prefix}.0.{suffix}")
    count = 1
    while f"{prefix}.{count}.{suffix}" in weights:
        count += 1
    return count


@cogvid.hookimpl
def register_frame_tokenizers() -> dict[str, type]:
    """The tokenizer `released_vqvae`."""
    return {"released_vqvae": ReleasedVQVAE}
