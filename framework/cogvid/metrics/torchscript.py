"""Extractors from TorchScript files: the two networks of the literature, by their published files.

`torch.jit.load` executes what a file contains, and these networks exist in no other format: load only a file whose
origin you trust; its SHA-256 tells which one it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from cogvid.errors import UserError
from cogvid.metrics.extractors import VideoExtractor

# Published files by their SHA-256; a table names others by theirs. Extend it by files that you know.
KNOWN: dict[str, str] = {
    # i3d_torchscript.pt of StyleGAN-V, 51235320 bytes.
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2": "i3d",
}


def open_torchscript(path: Path, what: str) -> nn.Module:
    """The network of a TorchScript file, on the CPU; this executes what is in the file.

    Args:
        path: the file.
        what: it should be, for messages.

    Raises:
        UserError: the file is missing, or is not TorchScript.
    """
    if not path.is_file():
        raise UserError(f"An extractor is read from a file, and {str(path)!r} is none. Give the path of {what}.")
    try:
        network: nn.Module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} is no TorchScript file. Give the path of {what}.") from error
    return network


class TorchScriptExtractor(VideoExtractor):
    """One of the two networks of the literature, from the TorchScript file that StyleGAN-V published.

    Both files resize and normalise.

    * `i3d`, trained on Kinetics-400: features and logits are its 400 values before the softmax. Clips of 10
      frames or more.
    * `c3d`, fine-tuned on UCF-101: reads the first 16 frames of a clip. The file turns them to BGR and
      112x112, subtracts the mean (the protocol of TGANv2) and gives 101 probabilities; features are their
      logarithms.

    Tables call a file that is not the published one by its hash, too: `i3d 1a2b3c4d`.

    Args:
        path: the TorchScript file.
        kind: which of the two it is.

    Raises:
        UserError: the file is missing, is not TorchScript, is known as that of the other network, or does not answer
            as that network does.
    """

    resize = "by the extractor file"

    def __init__(self, path: str | Path, kind: Literal["i3d", "c3d"]) -> None:
        self.name = kind
        self.feature_size = self.classes = {"i3d": 400, "c3d": 101}[kind]
        self.min_frames = {"i3d": 10, "c3d": 16}[kind]
        self.scores = "logits" if kind == "i3d" else "probabilities"
        self.path = Path(path)
        published = f"the {kind.upper()} TorchScript file that StyleGAN-V published"
        super().__init__(open_torchscript(self.path, published), self.path)
        known = KNOWN.get(self.sha256, kind)
        if known != kind:
            raise UserError(f"{path} is known as the file of {known}: set the extractor to {known}, not {kind}.")

    @property
    def label(self) -> str:
        """The name, of a file that is not known with the beginning of its hash."""
        return self.name if self.sha256 in KNOWN else f"{self.name} {self.sha256[:8]}"

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        try:
            if self.name == "i3d":
                scores: Tensor = network(pixels, rescale=True, resize=True, return_features=True)
            else:
                scores = network(pixels[:, :, :16])
        except RuntimeError as error:
            cause = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{self.path} does not run as the extractor {self.name} ({cause}). Give the file that "
                f"belongs to {self.name}, or the extractor that belongs to this file."
            ) from error
        if scores.shape[1:] != (self.classes,):
            raise UserError(
                f"{self.path} gives {tuple(scores.shape[1:])} values a clip where {self.name} gives "
                f"{self.classes}: it is the file of another network."
            )
        return (scores if self.name == "i3d" else self._logits(scores)), scores
