"""Whether an attention backend computes what its mask says, for training and for sampling."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, get_args

import torch
from torch import nn

from cogvid.attention.dense import DenseAttention
from cogvid.attention.pattern import Fail, check_bias, check_pattern, place
from cogvid.attention.prepare import prepare_attention
from cogvid.config.options import first_line
from cogvid.errors import UserError
from cogvid.interfaces.attention import Attention, AttentionBackend
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid.plugins.manager import create_component
from cogvid.testing.cache import cache_error
from cogvid.testing.report import Case, ConformanceError, Failure
from cogvid.testing.rounding import EagerAttention, Inputs, Measured, measure

# Sides that no block or window divides; one frame; a last one whose mask has full, partial and empty blocks of 64.
GRIDS = (Grid(3, 3, 5), Grid(5, 4, 3), Grid(1, 5, 7), Grid(3, 7, 4), Grid(3, 11, 7))
STAGES: tuple[Stage, ...] = get_args(Stage)
LAYERS = (0, 1, 2)
CHECKS = ("pattern", "self", "bias", "outputs", "gradients", "leak", "text", "blind", "unwritten", "cache")
# The checks that run once for each slot leave larger grids out.
_MOST_SLOTS = 100
# For each batch, which text is padding: rows of T slots, padding on the left.
_TEXTS = {True: ((0, 0, 1, 1, 1), (0, 1, 1, 1, 1)), False: ((1, 1, 1),)}


def attention_conformance(
    backend: AttentionBackend | str,
    options: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    device: torch.device | str = "cpu",
    dtypes: Sequence[torch.dtype] | None = None,
    heads: int = 2,
    head_size: int = 16,
    grids: Sequence[Grid] = GRIDS,
    gradients: bool = True,
) -> None:
    """Hold an attention backend to its interface, and to the dense computation that its own mask gives.

    The checks, by name:

    * `pattern`: is bool, a function of the two positions alone, and the same however these are laid out.
    * `self`: every token sees itself in every layer.
    * `bias`: is a module, and what it returns are floats that broadcast to heads, queries and keys.
    * `outputs`, `gradients`: those of the dense computation in float64, of queries, keys, values and bias, with at
      most twice the largest error of the plain computation in the same precision, and one rounding step.
    * `leak`: nothing that a query may not see, padded text included, changes one bit of its output.
    * `text`, `blind`: all unpadded text, and every visible frame token, changes it in every head.
    * `unwritten`: no output or gradient holds memory that nobody has written.
    * `cache`: what the model says in cached sampling is what it says of the whole sequence at once.

    A backend that fails `pattern`, `self` or `bias` has nothing to be held to: the other checks then do not run.

    Args:
        backend: the backend, or its registered name.
        options: values for the fields of its `Config`; goes with a name.
        plugins: modules or ./files.py to load beside the installed plugins; goes with a name.
        device: where to run it.
        dtypes: of queries, keys and values; float64 (on a CPU), float32 and bfloat16 by default.
        heads, head_size: of queries, keys and values.
        grids: to try it on; those with an odd number of frames, at least 3, in both stages.
        gradients: whether it has to have any; some can only infer.

    Raises:
        ConformanceError: a check fails; the message lists every failed check and its first case. Its cause is the
            first exception that the backend raised, if any.
        UserError: there is no such backend, or it cannot run there.
    """
    if isinstance(backend, str):
        backend = create_component("attention", backend, options, plugins)
    elif options is not None or plugins:
        raise ValueError("options and plugins go with the name of a backend, not with a backend")
    assert isinstance(backend, AttentionBackend)
    device = torch.device(device)
    if dtypes is None:
        dtypes = (torch.float64,) * (device.type == "cpu") + (torch.float32, torch.bfloat16)
    suite = _Suite(backend, device, tuple(dtypes), heads, head_size, tuple(grids), gradients)
    # Modules draw their first values from torch's own generator, whose state is the caller's.
    with torch.random.fork_rng(devices=[]):
        suite.run()
    if suite.failures:
        failures = {check: suite.failures[check] for check in CHECKS if check in suite.failures}
        raise ConformanceError(type(backend).__name__, failures) from suite.raised


@dataclass
class _Suite:
    backend: AttentionBackend
    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    heads: int
    head_size: int
    grids: tuple[Grid, ...]
    gradients: bool
    failures: dict[str, list[Failure]] = field(default_factory=lambda: defaultdict(list))
    measured: list[tuple[Case, Measured]] = field(default_factory=list)
    raised: Exception | None = None

    def run(self) -> None:
        for grid, layer in product(self.grids, LAYERS):
            with self._case("pattern", Case(grid, layer=layer)) as fail:
                check_pattern(self.backend, grid, layer, self.device, fail)
        for grid in self.grids:
            with self._case("bias", Case(grid)) as fail:
                check_bias(self.backend, self.heads, grid, self.device, fail)
        if self.failures:
            return
        for grid, stage, layer in product(self.grids, STAGES, LAYERS):
            # Patterns take turns between two layers: that they go on after these shows on one grid.
            if (stage == "sequential" or _interpolates(grid)) and (layer < 2 or grid == self.grids[0]):
                self._check_attention(grid, stage, layer)
        self._check_values()
        self._check_cache()

    @contextmanager
    def _case(self, check: str, case: Case) -> Iterator[Fail]:
        """Ties failures to a case; what the backend raises is one of `check`."""
        try:
            yield lambda check, problem: self.failures[check].append(Failure(case, problem))
        except UserError:
            raise
        except Exception as error:
            self.failures[check].append(Failure(case, f"raises {type(error).__name__}: {first_line(error)}"))
            self.raised = self.raised or error

    def _check_attention(self, grid: Grid, stage: Stage, layer: int) -> None:
        mask = Visibility(self.backend.pattern, grid, given_frames(stage, grid.frames), layer)
        case = Case(grid, stage, layer)
        with self._case("outputs", case):
            attention = prepare_attention(self.backend, mask, self.device)
            self._measure(case, mask, attention)
            if grid.tokens > _MOST_SLOTS:
                return
            for dtype in self.dtypes:
                part = replace(case, padded=True, dtype=dtype)
                with self._case("leak", part) as fail:
                    self._check_dependence(mask, attention, dtype, fail)
                with self._case("unwritten", part) as fail:
                    self._check_unwritten(mask, dtype, fail)

    def _measure(self, case: Case, mask: Visibility, attention: Attention) -> None:
        dense, eager = DenseAttention(mask, self.device), EagerAttention(mask, self.device)
        for padded, (dtype, bias) in product(_TEXTS, self._precisions()):
            part = replace(case, padded=padded, dtype=dtype, bias=bias)
            with self._case("outputs", part) as fail:
                for result in measure(attention, dense, eager, self._inputs(mask.grid, padded), dtype, bias):
                    if isinstance(result, Measured):
                        self.measured.append((part, result))
                    else:
                        fail(*result)

    def _precisions(self) -> list[tuple[torch.dtype, torch.dtype | None]]:
        """Of queries, keys and values, and of the bias, which mixed-precision training leaves in float32."""
        if self.backend.bias(self.heads) is None:
            return [(dtype, None) for dtype in self.dtypes]
        narrow = [dtype for dtype in self.dtypes if dtype.itemsize < torch.float32.itemsize]
        return [*zip(self.dtypes, self.dtypes, strict=True), *((dtype, torch.float32) for dtype in narrow)]

    def _inputs(self, grid: Grid, padded: bool, spread: float = 1.0) -> Inputs:
        """Random ones in float64, the same each time; `spread`: of queries, keys and values."""
        generator = torch.Generator().manual_seed(0)
        text_mask = torch.tensor(_TEXTS[padded], dtype=torch.bool)
        batch, text = text_mask.shape
        sizes = (self.heads, self.head_size)
        packed = torch.randn(batch, text + grid.tokens, 3, *sizes, dtype=torch.float64, generator=generator)
        weights = torch.randn(batch, grid.tokens, *sizes, dtype=torch.float64, generator=generator)
        bias = self.backend.bias(self.heads)
        if bias is not None:
            bias = bias.double()
            for parameter in bias.parameters():
                nn.init.normal_(parameter, std=0.5, generator=generator)
            bias = bias.to(self.device)
        packed, weights, text_mask = (x.to(self.device) for x in (spread * packed, weights, text_mask))
        return Inputs(packed, weights, text_mask, bias, self.gradients)

    def _check_values(self) -> None:
        """Judge what has been measured, all of it at once: how far off a single case is, is partly luck."""
        plain: dict[tuple[object, ...], float] = defaultdict(float)
        for case, result in self.measured:
            kind = case.dtype, case.bias, result.name
            plain[kind] = max(plain[kind], result.plain)
        for case, result in self.measured:
            problem = result.problem(plain[case.dtype, case.bias, result.name])
            if problem:
                text = len(_TEXTS[bool(case.padded)][0]) if result.name in ("keys", "values") else 0
                where = "" if result.slot is None else f", at {place(result.slot, text, case.grid)}"
                self.failures[result.check].append(Failure(case, problem + where))

    def _check_dependence(self, mask: Visibility, attention: Attention, dtype: torch.dtype, fail: Fail) -> None:
        """Copy s of a batch changes the key and the value of slot s alone."""
        # Scores of about one size: then every visible key weighs more than rounding.
        inputs = self._inputs(mask.grid, padded=True, spread=0.5).to(dtype)
        slots = torch.arange(inputs.packed.shape[1], device=self.device)
        packed = inputs.packed[:1].repeat(len(slots), 1, 1, 1, 1)
        changed = packed.clone()
        changed[slots, slots, 1] = packed[slots, slots - 1, 1]
        changed[slots, slots, 2] = 1e4 * packed[slots, slots - 1, 2]
        text_mask = inputs.text_mask[:1].repeat(len(slots), 1)
        with torch.no_grad():
            before, after = (
                replace(inputs, packed=x, text_mask=text_mask).output(attention) for x in (packed, changed)
            )
        if before.shape != (len(slots), self.heads, mask.grid.tokens, self.head_size):
            return  # said by `outputs`
        depends = (before != after).any(-1)
        text = text_mask.shape[1]
        expected = torch.cat([text_mask[0, :, None].expand(-1, mask.grid.tokens), mask.dense(self.device).mT])
        missing = expected & ~depends.all(1)
        is_text = slots[:, None] < text
        for check, verb, wrong in (
            ("leak", "depends on", depends.any(1) & ~expected),
            ("text", "does not depend on", missing & is_text),
            ("blind", "does not depend on", missing & ~is_text),
        ):
            if wrong.any():
                key, query = wrong.nonzero()[0].tolist()
                places = f"{place(query, 0, mask.grid)} {verb} {place(key, text, mask.grid)}"
                fail(check, f"{places}; so in {int(wrong.sum())} pairs")

    def _check_unwritten(self, mask: Visibility, dtype: torch.dtype, fail: Fail) -> None:
        with _unwritten_memory_is_nan():
            attention = prepare_attention(self.backend, mask, self.device)
            results = self._inputs(mask.grid, padded=True).to(dtype).results(attention)
        for name, value in results.items():
            if value is not None and not value.isfinite().all():
                fail("unwritten", f"{int((~value.isfinite()).sum())} of {value.numel()} numbers of {name}")

    def _check_cache(self) -> None:
        grid = min((grid for grid in self.grids if _interpolates(grid)), key=lambda grid: grid.tokens, default=None)
        if grid is None:
            return
        dtype = max(self.dtypes, key=lambda dtype: dtype.itemsize)
        for stage in STAGES:
            with self._case("cache", Case(grid, stage, dtype=dtype)) as fail:
                problem = cache_error(self.backend, grid, stage, self.heads, self.head_size, dtype, self.device)
                if problem:
                    fail("cache", problem)


def _interpolates(grid: Grid) -> bool:
    return grid.frames >= 3 and grid.frames % 2 == 1


@contextmanager
def _unwritten_memory_is_nan() -> Iterator[None]:
    """Torch fills new memory while its algorithms have to be deterministic; those that cannot be only warn."""
    memory: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")
    memory.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        memory.fill_uninitialized_memory = before[1]
