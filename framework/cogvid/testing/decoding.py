"""Whether a decoding ends, computes what is asked of it once, and gives the tokens of one slot at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cogvid.config.options import first_line
from cogvid.errors import UserError
from cogvid.interfaces.decoding import Clips, Decoder, Decoding, Rows
from cogvid.plugins.manager import create_component
from cogvid.testing.cache import OneAtATime
from cogvid.testing.decoding_cases import DecodingCase
from cogvid.testing.report import ConformanceError, Failure

CHECKS = ("rows", "once", "kept", "ends", "tokens")


def decoding_conformance(
    decoding: Decoding | str,
    options: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    device: torch.device | str = "cpu",
    cases: int = 24,
) -> None:
    """Hold a decoding to its interface, on small models with random weights, patterns, clips and ways of sampling.

    The checks, by name:

    * `rows`: a pass has rows; each is a slot of a frame that is generated, and none comes twice.
    * `once`: what is final is not computed again.
    * `kept`: begin-of-image tokens, known frames and final tokens stay on the tape as they are.
    * `ends`: after at most two passes for each token of the batch, with every token final.
    * `tokens`: an exact decoding gives the tokens of one slot at a time, in float64.

    Args:
        decoding: the decoding, or its registered name.
        options: values for the fields of its `Config`; goes with a name.
        plugins: modules or ./files.py to load beside the installed plugins; goes with a name.
        device: where to run it; one that has float64.
        cases: how many are drawn, always the same ones.

    Raises:
        ConformanceError: a check fails; the message lists every failed check and its first case. Its cause is the
            first exception that the decoding raised, if any.
        UserError: there is no such decoding, or it cannot run there.
    """
    if isinstance(decoding, str):
        decoding = create_component("decoding", decoding, options, plugins)
    elif options is not None or plugins:
        raise ValueError("options and plugins go with the name of a decoding, not with a decoding")
    assert isinstance(decoding, Decoding)
    failures: dict[str, list[Failure]] = defaultdict(list)
    raised: Exception | None = None
    for case in map(DecodingCase.draw, range(cases)):
        try:
            tokens = case.tokens(_Watched(decoding), torch.device(device)).cpu()
            if decoding.exact:
                _compare(tokens, _one_at_a_time(case))
        except UserError:
            raise
        except _Broken as broken:
            failures[broken.check].append(Failure(str(case), broken.problem))
        except Exception as error:
            failures["ends"].append(Failure(str(case), f"raises {type(error).__name__}: {first_line(error)}"))
            raised = raised or error
    if failures:
        raise ConformanceError(type(decoding).__name__, {x: failures[x] for x in CHECKS if x in failures}) from raised


class _Broken(Exception):
    def __init__(self, check: str, problem: str) -> None:
        super().__init__(problem)
        self.check, self.problem = check, problem


@lru_cache(maxsize=64)
def _one_at_a_time(case: DecodingCase) -> Tensor:
    return case.tokens(OneAtATime(), torch.device("cpu"))


def _compare(tokens: Tensor, expected: Tensor) -> None:
    wrong = (tokens != expected).nonzero()
    if len(wrong):
        sample, frame, place = wrong[0].tolist()
        got, right = int(tokens[sample, frame, place]), int(expected[sample, frame, place])
        where = f"clip {sample}, frame {frame}, token {place}"
        raise _Broken("tokens", f"{where} is {got} and should be {right}; so are {len(wrong)} of {tokens.numel()}")


class _Watched(Decoding):
    """Another decoding, looked at before and after each pass."""

    def __init__(self, decoding: Decoding) -> None:
        super().__init__()
        self.decoding = decoding

    def start(self, clips: Clips) -> Decoder:
        """See `Decoding`."""
        return _Watcher(self.decoding, clips)


class _Watcher(Decoder):
    """Raises `_Broken` as soon as something is.

    Attributes:
        fixed: which places of the tape have to stay as they are, bool (B, F, N + 1).
        value: what stands there.
    """

    def __init__(self, decoding: Decoding, clips: Clips) -> None:
        self.clips, self.passes = clips, 0
        self.fixed = torch.zeros(clips.tape.shape, dtype=torch.bool)
        self.fixed[:, :, 0] = True
        self.fixed[:, torch.tensor(clips.needs.known)] = True
        self.value = clips.tape.cpu().clone()
        self.most = 2 * int((~self.fixed).sum())
        self.rows = Rows(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long))
        self.decoder = decoding.start(clips)

    def next_rows(self) -> Rows | None:
        """See `Decoder`."""
        rows = self.decoder.next_rows()
        self._check_kept("before" if rows is not None else "after the last of", self.passes)
        if rows is None:
            if not self.fixed.all():
                raise _Broken("ends", f"{self._place(~self.fixed)} is not final after the last pass")
            return None
        if self.passes == self.most:
            raise _Broken("ends", f"does not end: {self.most} passes, and {self._place(~self.fixed)} is not final")
        self._check_rows(rows)
        self.rows, self.passes = rows, self.passes + 1
        return rows

    def final(self) -> Tensor:
        """See `Decoder`."""
        final = self.decoder.final()
        shape = self.rows.slots.shape
        if final.dtype is not torch.bool or final.shape != shape or final.device.type != "cpu":
            raise _Broken("rows", f"what is final is {_said(final)}, not bool {tuple(shape)} on the CPU")
        places = self._places(self.rows)
        self.fixed.view(-1)[places[final]] = True
        self.value.view(-1)[places[final]] = self.clips.tape.view(-1).cpu()[places[final]]
        return final

    def _check_rows(self, rows: Rows) -> None:
        grid = self.clips.needs.grid
        for name, axis, size in (("samples", rows.samples, len(self.fixed)), ("slots", rows.slots, grid.tokens)):
            if axis.dtype is not torch.long or axis.ndim != 1 or axis.device.type != "cpu":
                raise _Broken("rows", f"{name} are {_said(axis)}, not int64 (R,) on the CPU")
            if len(axis) and not 0 <= int(axis.min()) <= int(axis.max()) < size:
                raise _Broken("rows", f"{name} are between {int(axis.min())} and {int(axis.max())}, not below {size}")
        if len(rows.samples) != len(rows.slots):
            raise _Broken("rows", f"there are {len(rows.samples)} samples of {len(rows.slots)} slots")
        if not len(rows.slots):
            raise _Broken("rows", f"pass {self.passes} has none")
        places = self._places(rows)
        known = torch.tensor(self.clips.needs.known)[rows.slots // grid.frame_tokens]
        many = torch.bincount(places, minlength=self.fixed.numel()).view(self.fixed.shape) > 1
        if known.any():
            frame = int(rows.slots[known][0]) // grid.frame_tokens
            raise _Broken("rows", f"pass {self.passes} computes frame {frame}, which is known")
        if many.any():
            raise _Broken("rows", f"pass {self.passes} computes {self._place(many)} twice")
        again = self.fixed.view(-1)[places]
        if again.any():
            twice = torch.zeros_like(self.fixed)
            twice.view(-1)[places[again]] = True
            raise _Broken("once", f"pass {self.passes} computes {self._place(twice)}, which is final")

    def _check_kept(self, when: str, number: int) -> None:
        changed = self.fixed & (self.clips.tape.cpu() != self.value)
        if changed.any():
            raise _Broken("kept", f"{self._place(changed)} is overwritten {when} pass {number}")

    def _places(self, rows: Rows) -> Tensor:
        """Where the tokens of rows stand on the flat tape."""
        grid = self.clips.needs.grid
        frame, place = rows.slots // grid.frame_tokens, rows.slots % grid.frame_tokens
        return (rows.samples * grid.frames + frame) * (grid.frame_tokens + 1) + place + 1

    def _place(self, places: Tensor) -> str:
        """The first of some places (B, F, N + 1) in words."""
        sample, frame, place = places.nonzero()[0].tolist()
        what = f"token {place - 1}" if place else "begin-of-image token"
        return f"clip {sample}, frame {frame}, {what}"


def _said(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} on {x.device}"
