"""Whether a frame tokenizer keeps the promises of its interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.tensor_file import write_tensors
from cogvid.testing.findings import Findings, maker

# Sides of frames, in tokens.
SIDES = ((4, 6), (5, 4))
_FRAMES = 5
# Steps of training, before what it has become is saved.
_STEPS = 2
CHECKS = ("learns", "codes", "frames", "same", "alone", "state", "codebook", "saved", "clipped")


def frame_tokenizer_conformance(
    tokenizer: FrameTokenizer | str,
    options: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    device: torch.device | str = "cpu",
    sides: Sequence[tuple[int, int]] = SIDES,
) -> None:
    """Hold a frame tokenizer to its interface, on smooth random frames; one that is trainable after steps of training.

    The checks, by name:

    * `learns`: the training loss is one finite number, its logs are numbers by name; a weight gets a gradient, and all
      gradients are finite.
    * `codes`: of frames (B, 3, height, width), int64 (B, height / downsampling, width / downsampling) from 0 to
      `codebook_size`.
    * `frames`: of any codes, float frames of their size in [0, 1].
    * `same`: of the same frames or codes, whatever came before.
    * `alone`: a frame has the codes, and codes have the frame, that they have beside others; frames within rounding.
    * `state`: coding changes no tensor of it.
    * `codebook`: is None, or a row of finite floats for each code.
    * `saved`: with the tensors of a file, another one gives the same codes and frames.
    * `clipped`: frames are in [0, 1] also where the weights are ten times as large.

    Several processes learning what one learns (`FrameTokenizer.share`) is not tried.

    Args:
        tokenizer: the tokenizer, or its registered name.
        options: values for the fields of its `Config`; goes with a name.
        plugins: modules or ./files.py to load beside the installed plugins; goes with a name.
        device: where to run it.
        sides: of frames, height and width in tokens.

    Raises:
        ConformanceError: a check fails; the message lists every failed check and its first case. Its cause is the first
            exception that the tokenizer raised, if any.
        UserError: there is no such tokenizer, or it refuses such frames.
    """
    make, found = maker("frame_tokenizer", tokenizer, options, plugins), Findings(CHECKS)
    # Modules draw their first values from torch's own generator, whose state is the caller's.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one = make().to(device)
        for rows, columns in sides:
            one.check(rows * one.downsampling, columns * one.downsampling)
        if one.trainable:
            with found.trying("learns", "training"):
                _learn(one, *sides[0], found)
        one.eval()
        with torch.inference_mode():
            for rows, columns in sides:
                _check_coding(one, rows, columns, found)
            if not found:
                _check_codebook(one, found)
                with found.trying("saved", "the tokenizer"):
                    torch.manual_seed(1)
                    _check_saved(one, make().to(device), *sides[0], found)
                with found.trying("clipped", "the tokenizer"):
                    _check_clipped(one, *sides[0], found)
    found.conclude(one)


def _smooth(tokenizer: FrameTokenizer, rows: int, columns: int, seed: int = 0) -> Tensor:
    """A black frame, a white one, and frames of which each has colours of its own, (B, 3, height, width)."""
    coarse = torch.rand(_FRAMES, 3, rows, columns, generator=torch.Generator().manual_seed(seed))
    coarse[0], coarse[1] = 0, 1
    fine = torch.nn.functional.interpolate(coarse, scale_factor=tokenizer.downsampling, mode="bilinear")
    return fine.to(_device(tokenizer))


def _device(tokenizer: FrameTokenizer) -> torch.device:
    return next((tensor.device for tensor in tokenizer.state_dict().values()), torch.device("cpu"))


def _learn(tokenizer: FrameTokenizer, rows: int, columns: int, found: Findings) -> None:
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-3)
    for step in range(_STEPS):
        case = f"step {step}"
        loss, logs = tokenizer.training_loss(_smooth(tokenizer, rows, columns, seed=step))
        if loss.ndim or not loss.isfinite():
            found.add("learns", case, f"the loss is {loss.detach()}")
            return
        wrong = [name for name, value in logs.items() if torch.as_tensor(value).numel() != 1]
        if wrong:
            found.add("learns", case, f"the log {wrong[0]} is no number")
        optimizer.zero_grad()
        loss.backward()
        gradients = {name: p.grad for name, p in tokenizer.named_parameters() if p.grad is not None}
        if not any(gradient.any() for gradient in gradients.values()):
            found.add("learns", case, "no weight has a gradient")
        infinite = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        if infinite:
            found.add("learns", case, f"the gradient of {infinite[0]} is not finite")
            return
        optimizer.step()


def _check_coding(tokenizer: FrameTokenizer, rows: int, columns: int, found: Findings) -> None:
    case, before = f"{rows}x{columns} tokens", {key: value.clone() for key, value in tokenizer.state_dict().items()}
    frames = _smooth(tokenizer, rows, columns)
    with found.trying("codes", case):
        codes = tokenizer.encode(frames)
        if codes.dtype is not torch.long or codes.shape != (_FRAMES, rows, columns):
            found.add("codes", case, f"they are {_said(codes)}, not int64 {(_FRAMES, rows, columns)}")
        elif codes.min() < 0 or codes.max() >= tokenizer.codebook_size:
            found.add("codes", case, f"they are from {codes.min()} to {codes.max()}, of {tokenizer.codebook_size}")
        else:
            _check_repeats(
                tokenizer.encode, frames, _smooth(tokenizer, rows, columns, seed=1), torch.equal, case, found
            )
    every = torch.arange(_FRAMES * rows * columns, device=frames.device).remainder(tokenizer.codebook_size)
    codes = every.view(_FRAMES, rows, columns)
    with found.trying("frames", case):
        decoded = tokenizer.decode(codes)
        if not decoded.is_floating_point() or decoded.shape != frames.shape:
            found.add("frames", case, f"they are {_said(decoded)}, not float {tuple(frames.shape)}")
        elif not _in_range(decoded):
            found.add("frames", case, f"they are from {decoded.min():g} to {decoded.max():g}")
        else:
            _check_repeats(tokenizer.decode, codes, codes.flip(0), _near, case, found)
    changed = [key for key, value in tokenizer.state_dict().items() if not torch.equal(value, before[key])]
    if changed:
        found.add("state", case, f"{changed[0]} is another")


def _check_repeats(
    code: Callable[[Tensor], Tensor],
    x: Tensor,
    others: Tensor,
    equal: Callable[[Tensor, Tensor], bool],
    case: str,
    found: Findings,
) -> None:
    once = code(x).clone()
    code(others)
    if not torch.equal(code(x), once):
        found.add("same", case, f"{code.__name__} gives others the next time")
    if not equal(torch.cat([code(each[None]) for each in x]), once):
        found.add("alone", case, f"{code.__name__} gives others to each by itself")


def _check_codebook(tokenizer: FrameTokenizer, found: Findings) -> None:
    with found.trying("codebook", "the codebook"):
        codebook, size = tokenizer.codebook(), tokenizer.codebook_size
        if codebook is None:
            return
        if not codebook.is_floating_point() or codebook.ndim != 2 or len(codebook) != size:
            found.add(
                "codebook", "the codebook", f"it is {_said(codebook)}, not a row of floats for each code ({size})"
            )
        elif not codebook.isfinite().all():
            found.add("codebook", "the codebook", "it is not finite")


def _check_saved(one: FrameTokenizer, other: FrameTokenizer, rows: int, columns: int, found: Findings) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_tensors(path, one.state_dict())
        other.load_state_dict(load_file(path))
    other.eval()
    frames = _smooth(one, rows, columns)
    codes = one.encode(frames)
    if not torch.equal(other.encode(frames), codes):
        found.add("saved", "frames", "they have other codes")
    if not _near(other.decode(codes), one.decode(codes)):
        found.add("saved", "codes", "they have other frames")


def _check_clipped(tokenizer: FrameTokenizer, rows: int, columns: int, found: Findings) -> None:
    """The last check: the tokenizer is another after it."""
    for parameter in tokenizer.parameters():
        parameter.mul_(10)
    decoded = tokenizer.decode(torch.zeros(1, rows, columns, dtype=torch.long, device=_device(tokenizer)))
    if not _in_range(decoded):
        found.add("clipped", "code 0", f"frames are from {decoded.min():g} to {decoded.max():g}")


def _in_range(frames: Tensor) -> bool:
    return bool(((frames >= 0) & (frames <= 1)).all())


def _near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.float(), other.float(), rtol=0, atol=1e-5)


def _said(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
