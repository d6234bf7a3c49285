"""An extractor from any TorchScript file, described by a small YAML file: what it is called with, and what it answers.

    name: videomae                # heads its columns
    file: videomae.pt             # TorchScript, beside this file
    sha256: 0f3a...               # of that file; a wrong one is answered with the right one
    call: {return_features: true} # keyword arguments beside the pixels
    range: [0, 1]                 # what 0 and 255 become
    mean: [0.485, 0.456, 0.406]   # subtracted from the channels then,
    std: [0.229, 0.224, 0.225]    # and divided by
    channels: RGB                 # or BGR
    layout: BCTHW                 # or BTCHW, BTHWC; BCHW reads each frame for itself
    frames: 16                    # least of a clip
    first_frames: true            # read that many from the start of a clip; false: all of it
    resize: [224, 224]            # bilinear, antialiased; left out, frames go in as they are
    features: pooled              # which output: a key, a number in a tuple, `all` of a single tensor; left out, none
    logits: scores                # the same
    scores: logits                # or probabilities
    text: {method: encode_text, tokenizer: tokenizer.json, length: 77}  # of a network like CLIP that reads captions

`torch.jit.load` executes what a file contains: load only a file whose origin you trust.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cogvid.config.options import checked_options
from cogvid.config.ranges import at_least, each, file_name, not_blank, one_of, option
from cogvid.config.sources import read_layer
from cogvid.errors import UserError
from cogvid.metrics.extractors import VideoExtractor
from cogvid.metrics.torchscript import open_torchscript

# The order of (batch, channel, frame, height, width) in what each layout is called with.
LAYOUTS = {"BCTHW": (0, 1, 2, 3, 4), "BTCHW": (0, 2, 1, 3, 4), "BTHWC": (0, 2, 3, 4, 1), "BCHW": (0, 2, 1, 3, 4)}
# Their bare names stand in titles for themselves.
RESERVED = ("i3d", "c3d", "shapes3d")
# Side of the frames that a network without `resize` is tried on.
TRIAL_SIDE = 64


@dataclass
class TextDescription:
    """How captions are read.

    Attributes:
        method: of the network, called with token ids int64 (B, length); it answers (B, t).
        tokenizer: a file of the tokenizers library, beside the YAML file.
        length: tokens a caption is padded and cut to.
        pad: the id that pads.
    """

    method: str = option("encode_text", not_blank())
    tokenizer: str = option("tokenizer.json", file_name())
    length: int = option(77, at_least(1))
    pad: int = option(0, at_least(0))


@dataclass
class Description:
    """The keys of the file."""

    name: str = option("???", not_blank())
    file: str = option("???", file_name())
    sha256: str = option("???", not_blank())
    method: str = option("forward", not_blank())
    call: dict[str, Any] = field(default_factory=dict)
    range: list[float] = option([0.0, 1.0], each(at_least(-(2**31)), count=2))
    mean: list[float] = option([0.0, 0.0, 0.0], each(at_least(-(2**31)), count=3))
    std: list[float] = option([1.0, 1.0, 1.0], each(at_least(1e-6), count=3))
    channels: str = option("RGB", one_of("RGB", "BGR"))
    layout: str = option("BCTHW", one_of(*LAYOUTS))
    frames: int = option(1, at_least(1))
    first_frames: bool = False
    resize: list[int] = option([], each(at_least(1), least=0))
    features: str = ""
    logits: str = ""
    scores: str = option("logits", one_of("logits", "probabilities"))
    text: TextDescription | None = None


class DescribedExtractor(VideoExtractor):
    """The extractor that a YAML file describes; it is tried on a black clip when it is opened.

    Args:
        path: the YAML file, as above.

    Raises:
        UserError: a key of the file is wrong, a file is missing or another than its hash says, or the network does not
            answer as described. The message names the file and the key.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.description = description = read_description(self.path)
        weights = self.path.parent / description.file
        self.name, self.min_frames = description.name, description.frames
        self.scores = cast(Literal["logits", "probabilities"], description.scores)
        self.per_frame = description.layout == "BCHW"
        size = "x".join(map(str, description.resize))
        self.resize = f"{size}, bilinear, antialiased" if size else "none"
        network = open_torchscript(weights, f"the TorchScript file that {self.path} describes")
        super().__init__(network, weights)
        if description.sha256.lower() != self.sha256:
            raise UserError(
                f"{self.path}: sha256: {weights} is another file than the one described; its SHA-256 is {self.sha256}."
            )
        self._tokenizer = self._open_tokenizer()
        self.feature_size = self.classes = 0
        side = description.resize or [TRIAL_SIDE, TRIAL_SIDE]
        with torch.no_grad():
            features, logits = self._read(network, torch.zeros(1, 3, description.frames, *side))
        self.feature_size = features.shape[-1] if description.features else 0
        self.classes = logits.shape[-1] if description.logits else 0
        self._text_size = 0
        if description.text:
            self._text_size = self._texts([""]).shape[1]

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """See `VideoExtractor`; all that the file describes counts, under its hash."""
        described = json.dumps(asdict(self.description) | {"file": "", "sha256": ""}, sort_keys=True)
        digest = sha256(described.encode())
        if self.description.text:
            digest.update((self.path.parent / self.description.text.tokenizer).read_bytes())
        return super().protocol | {"extractor_settings": digest.hexdigest()[:16]}

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        description = self.description
        batch = len(pixels)
        answer = self._call(network, description.method, self._input(pixels), **description.call)
        features, logits = (self._output(answer, key, pixels) for key in ("features", "logits"))
        if self.per_frame and description.features:
            features = features.unflatten(0, (batch, -1))
        return features, logits

    def _input(self, pixels: Tensor) -> Tensor:
        """What the network is called with, of pixels (B, 3, F, height, width) in 0..255."""
        description = self.description
        if description.first_frames:
            pixels = pixels[:, :, : description.frames]
        if description.resize and list(pixels.shape[3:]) != description.resize:
            frames = pixels.transpose(1, 2).flatten(0, 1)
            frames = F.interpolate(frames, description.resize, mode="bilinear", antialias=True)
            pixels = frames.unflatten(0, (len(pixels), -1)).transpose(1, 2)
        if description.channels == "BGR":
            pixels = pixels.flip(1)
        low, high = description.range
        mean, std = (pixels.new_tensor(values)[:, None, None, None] for values in (description.mean, description.std))
        values = ((pixels / 255 * (high - low) + low - mean) / std).permute(LAYOUTS[description.layout])
        return values.flatten(0, 1) if self.per_frame else values.contiguous()

    def _call(self, network: nn.Module, method: str, *arguments: Tensor, **keywords: Any) -> Any:
        called = getattr(network, method, None)
        if called is None:
            raise UserError(f"{self.path}: method: the network has no method {method!r}.")
        try:
            return called(*arguments, **keywords)
        except (RuntimeError, TypeError, ValueError) as error:
            cause = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            shapes = ", ".join(str(tuple(argument.shape)) for argument in arguments)
            raise UserError(
                f"{self.path}: the network does not run on {shapes} as {method}({', '.join(keywords)}): {cause}. "
                "Correct layout, frames, resize, method or call."
            ) from error

    def _output(self, answer: Any, key: str, pixels: Tensor) -> Tensor:
        """One of the network's outputs: (B, size), of single frames (B F, size)."""
        which = getattr(self.description, key)
        if not which:
            return pixels.new_zeros(len(pixels), 0)
        known: Mapping[str, Any]
        if isinstance(answer, Tensor):
            known = {"all": answer}
        elif isinstance(answer, Mapping):
            known = answer
        else:
            known = {str(number): value for number, value in enumerate(answer)}
        value = known.get(which)
        if not isinstance(value, Tensor):
            raise UserError(f"{self.path}: {key}: the network gives no {which!r}; it gives {', '.join(known)}.")
        rows = len(pixels) * (pixels.shape[2] if self.per_frame else 1)
        if value.ndim != 2 or len(value) != rows:
            raise UserError(
                f"{self.path}: {key}: output {which!r} is {tuple(value.shape)} for {rows} "
                f"{'frames' if self.per_frame else 'clips'}, and must be one row of numbers for each."
            )
        return value.float()

    def _open_tokenizer(self) -> Any:
        if not self.description.text:
            return None
        from tokenizers import Tokenizer

        file = self.path.parent / self.description.text.tokenizer
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"{self.path}: text.tokenizer: {file} is no file of the tokenizers library: {error}"
            ) from error
        tokenizer.enable_truncation(self.description.text.length)
        tokenizer.enable_padding(length=self.description.text.length, pad_id=self.description.text.pad)
        return tokenizer

    def texts(self, captions: Sequence[str]) -> Tensor | None:
        """See `VideoExtractor`."""
        if self._tokenizer is None:
            return None
        return self._texts(captions) if captions else torch.zeros(0, self._text_size)

    def _texts(self, captions: Sequence[str]) -> Tensor:
        assert self.description.text is not None
        ids = torch.tensor([encoded.ids for encoded in self._tokenizer.encode_batch(list(captions))])
        device = next(iter(self._network.parameters()), ids).device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            values = self._call(self._network, self.description.text.method, ids.to(device))
        if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != len(captions):
            raise UserError(f"{self.path}: text.method: it must answer one row of numbers for each caption.")
        return values.float().cpu()


def read_description(path: Path) -> Description:
    """The keys of an extractor's YAML file.

    Raises:
        UserError: the file is missing, or a key of it is wrong; the message names both.
    """
    layer = read_layer(path)
    try:
        description = cast(Description, checked_options(Description, layer.tree, "an extractor"))
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('options.')}") from error
    wrong = ""
    if description.name.lower() in RESERVED:
        wrong = f"name: {description.name!r} is the name of a built-in extractor; choose another."
    elif not (description.features or description.logits):
        wrong = "features, logits: say which output is at least one of them; `all` where the network gives one tensor."
    elif len(description.resize) not in (0, 2):
        wrong = f"resize: it must be [height, width], got {description.resize}."
    elif description.range[0] >= description.range[1]:
        wrong = f"range: what 0 becomes must lie below what 255 becomes, got {description.range}."
    elif description.layout == "BCHW" and (description.logits or description.first_frames or description.frames > 1):
        wrong = "layout: BCHW reads all frames, each for itself, so logits, frames and first_frames have no place."
    if wrong:
        raise UserError(f"{path}: {wrong}")
    return description
