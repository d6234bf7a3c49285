"""Videos that are folders of frames: PNG or JPEG files, in natural order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cogvid.data.frame_format import FrameFormat
from cogvid.errors import UserError

FRAME_SUFFIXES = {".jpeg", ".jpg", ".png"}
_PNG = b"\x89PNG\r\n\x1a\n"
# Modes of Pillow whose values are 0 to 255 and whose colours it can tell.
_EIGHT_BITS = {"1", "L", "LA", "P", "RGB", "RGBA"}


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts `frame2` before `frame10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def frame_files(folder: Path) -> list[Path]:
    """The frames directly in a folder, in natural order."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES and path.name[0] != "."]
    return sorted(files, key=lambda path: natural(path.name))


def frames_state(files: Sequence[Path]) -> str:
    """Names, sizes and times of the files: while it stays, what was read of them holds."""
    stats = [(path.name, path.stat()) for path in files]
    lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_frame(path: Path) -> tuple[int, int]:
    """Height and width of a frame, of which the header alone is read.

    Raises:
        UserError: it is no picture, or its values are not 0 to 255.
    """
    try:
        with path.open("rb") as file:
            header = file.read(25)
        # Pillow makes 8 bits of some pictures of 16 without a word.
        bits = header[24] if header.startswith(_PNG) and len(header) == 25 else 8
        with Image.open(path) as image:
            size, mode = (image.height, image.width), image.mode
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise UserError(f"The frame {path} cannot be read: {error}. Replace it, or remove its folder.") from error
    if bits > 8 or mode not in _EIGHT_BITS:
        kind = f"{bits} bits a value" if bits > 8 else f"values of the kind {mode}"
        raise UserError(
            f"The frame {path} has {kind}: frames to score have 8 bits a value, 0 to 255. Convert it, and the others "
            "of its set in the same way."
        )
    return size


def read_frame_files(files: Sequence[Path], form: FrameFormat) -> Tensor:
    """Frames uint8 (len(files), 3, height, width).

    Raises:
        UserError: one of them cannot be read.
    """
    frames = []
    for path in files:
        try:
            with Image.open(path) as image:
                picture = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
                array = picture.view(image.height, image.width, 3).numpy()
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"The frame {path} cannot be read: {error}. Replace it, or remove its folder.") from error
        frames.append(torch.from_numpy(form.of(array).copy()).permute(2, 0, 1))
    return torch.stack(frames)
