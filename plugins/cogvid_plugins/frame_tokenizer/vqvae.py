"""A small convolutional VQ-VAE for frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cogvid
from cogvid.config.ranges import at_least, one_of, option
from cogvid.interfaces.share import Share

_WHOLE = Share()


class VQVAE(cogvid.FrameTokenizer):
    """Convolutional autoencoder with one codebook, learned by moving averages (VQ-VAE, arXiv 1711.00937).

    It trains on square crops, drawn where there is detail: on mostly plain frames, whole frames teach it the
    background and little else.
    """

    @dataclass
    class Config:
        """`downsampling`: pixels a token stands for, along a side, a power of two; `channels`: width of the
        network; `codes`: size of the codebook; `code_size`: channels of a code; `crop`: pixels of a training
        crop, 0 for whole frames; `overlap`: let a token see its neighbours' pixels, too, which helps
        reconstruction; without, equal patches get equal tokens, which are easier to predict; `commitment`: weight
        of the commitment loss."""

        downsampling: int = option(4, one_of(2, 4, 8, 16, 32, 64))
        channels: int = option(64, at_least(1))
        codes: int = option(256, at_least(1))
        code_size: int = option(16, at_least(1))
        crop: int = option(16, at_least(0))
        overlap: bool = True
        commitment: float = option(0.25, at_least(0))

    def __init__(self, config: Any = None) -> None:
        # Who loads all plugins for the sake of another one need not wait for it.
        from vector_quantize_pytorch import VectorQuantize

        super().__init__(config)
        c = self.config
        if c.crop % c.downsampling:
            raise cogvid.UserError(f"vqvae: crop {c.crop} is not a multiple of downsampling {c.downsampling}")
        self.codebook_size, self.downsampling = c.codes, c.downsampling
        halvings = c.downsampling.bit_length() - 1
        widths = [max(c.channels >> (halvings - i - 1), 16) for i in range(halvings)]
        down: list[nn.Module] = []
        for before, after in zip([3, *widths], widths, strict=False):
            sampled = nn.Conv2d(before, after, 4, 2, padding=1) if c.overlap else nn.Conv2d(before, after, 2, 2)
            down += [sampled, nn.SiLU()]
        self.encoder = nn.Sequential(
            *down, Residual(widths[-1], 3 if c.overlap else 1), nn.Conv2d(widths[-1], c.code_size, 1)
        )
        up: list[nn.Module] = []
        for before, after in zip(widths[::-1], [*widths[-2::-1], 3], strict=True):
            up += [nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.decoder = nn.Sequential(nn.Conv2d(c.code_size, widths[-1], 3, padding=1), Residual(widths[-1], 3), *up)
        self.quantizer = VectorQuantize(
            dim=c.code_size,
            codebook_size=c.codes,
            decay=0.95,
            commitment_weight=c.commitment,
            kmeans_init=True,
            kmeans_iters=10,
            # A code that one batch in twenty uses is rare, not dead: it may be the only one for a fine detail.
            threshold_ema_dead_code=0.05,
            accept_image_fmap=True,
            # Every process learns from the whole batch: summed over them, all would count several times. Where their
            # arithmetic differs, codebooks stay one: before each step DDP gives all processes the leader's buffers.
            sync_codebook=False,
        )

    def check(self, height: int, width: int) -> None:
        """See `FrameTokenizer`."""
        if self.config.crop > min(height, width):
            raise cogvid.UserError(
                f"vqvae: crop {self.config.crop} is larger than the frames of {height}x{width} pixels "
                "(video.size): use a smaller one, or 0 for whole frames"
            )

    def encode(self, frames: Tensor) -> Tensor:
        """See `FrameTokenizer`."""
        features = self.encoder(2 * frames - 1).permute(0, 2, 3, 1)
        return torch.cdist(features.flatten(0, 2), self.quantizer.codebook).argmin(-1).view(features.shape[:3])

    def decode(self, codes: Tensor) -> Tensor:
        """See `FrameTokenizer`."""
        quantized = F.embedding(codes, self.quantizer.codebook).permute(0, 3, 1, 2)
        return ((self.decoder(quantized) + 1) / 2).clamp(0, 1)

    def codebook(self) -> Tensor:
        """See `FrameTokenizer`."""
        return self.quantizer.codebook.detach()

    def training_loss(self, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `FrameTokenizer`; crops the frames itself."""
        crops = detailed_crops(frames, self.config.crop, self.share) if self.config.crop else frames
        target = 2 * crops - 1
        # The first codes, the moving averages and the vectors that unused codes get are those of the whole batch.
        quantized, codes, commitment = self.quantizer(self.share.gather(self.encoder(target)))
        reconstruction = F.mse_loss(self.decoder(self.share.of(quantized)), target)
        used = codes.unique().numel() / self.codebook_size
        logs = {"reconstruction": reconstruction.detach(), "codes_used": torch.tensor(used)}
        return reconstruction + commitment.sum(), logs


class Residual(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, height, width), kept."""
        return x + self.layers(x)


def detailed_crops(frames: Tensor, side: int, share: Share = _WHOLE) -> Tensor:
    """One square crop a frame, at a place drawn in proportion to the squared edges inside it.

    Args:
        frames: (B, 3, height, width), no side shorter than `side`.
        side: pixels.
        share: of the step's batch that they are.

    Returns:
        (B, 3, side, side).
    """
    count, _, height, width = frames.shape
    edges = torch.zeros(count, 1, height, width, device=frames.device)
    edges[..., 1:, :] += frames.diff(dim=2).square().sum(1, keepdim=True)
    edges[..., :, 1:] += frames.diff(dim=3).square().sum(1, keepdim=True)
    detail = F.avg_pool2d(edges, side, stride=1).flatten(1)
    odds = detail + 0.05 * detail.mean(1, keepdim=True) + 1e-8
    # As torch.multinomial draws: of exponential variables that happen at these rates, the first.
    waits = odds.new_empty(share.whole(count), odds.shape[1]).exponential_()
    places = (odds / share.of(waits)).argmax(1)
    columns = width - side + 1
    rows = (places // columns)[:, None] + torch.arange(side, device=frames.device)
    cols = (places % columns)[:, None] + torch.arange(side, device=frames.device)
    return frames[torch.arange(count)[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


@cogvid.hookimpl
def register_frame_tokenizers() -> dict[str, type]:
    """The tokenizer `vqvae`."""
    return {"vqvae": VQVAE}
