"""The ways to compute attention that are compared, each from the model's layout to the output.

Shapes: see `cases.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cogvid.attention.bias import bias_scores
from cogvid.attention.compact import compact_mask
from cogvid.attention.dense import masked_attention
from cogvid.attention.prepare import prepare_attention
from cogvid.attention.tiles import TiledAttention
from cogvid.bench.cases import AttentionCase, Problem
from cogvid.bench.measure import check_fits
from cogvid.config.options import first_line, nearest
from cogvid.errors import UserError
from cogvid.interfaces.attention import Attention, AttentionBackend, PatternRunner
from cogvid.interfaces.grid import Position
from cogvid.plugins.manager import PluginManager

# From packed queries, keys and values (B, L, 3, H, K) to outputs of the frame slots (B, H, tokens, K).
Compute = Callable[[Tensor], Tensor]

BASELINES = ("dense", "causal", "natten")
_OTHER_MASK = {
    "causal": "another mask: every earlier token, padded text too",
    "natten": "another mask: a box that the borders push inwards, no text",
}


@dataclass(frozen=True)
class Method:
    """A way to compute attention.

    Attributes:
        name: in the table.
        prepare: lays a problem out.
        other_mask: in words, the mask it computes instead; None if it claims to compute the problem's own.
    """

    name: str
    prepare: Callable[[Problem], Compute]
    other_mask: str | None = None


def default_names(device: str, rehearse: bool) -> list[str]:
    """The methods that are compared unless others are asked for.

    On a CPU Triton only has its interpreter, whose time means nothing; a rehearsal does not wait for a compiler.
    """
    if device == "cpu":
        return ["dense", "causal", "tiled"] + ["flex"] * (not rehearse)
    natten = ["natten"] * (importlib.util.find_spec("natten") is not None)
    return ["dense", "causal", "tiled", "triton", "flex", *natten]


def check_names(names: Sequence[str], manager: PluginManager) -> None:
    """Raises UserError for a name that is no method."""
    known = [*BASELINES, "tiled", *_runners(manager)]
    for name in names:
        if name not in known:
            raise UserError(f"--methods: there is no method {name!r}.{nearest(name, known)}")


def find_method(name: str, case: AttentionCase, manager: PluginManager) -> Method:
    """The method of a name, for a case.

    Raises:
        UserError: it cannot run here; the message says why.
    """
    if name in BASELINES:
        return Method(name, {"dense": _dense, "causal": _causal, "natten": _natten}[name], _OTHER_MASK.get(name))
    if name == "tiled":
        return Method(name, _tiled)
    backend = runner(name, case, manager)
    return Method(name, lambda problem: _unpacked(prepare_attention(backend, problem.mask, problem.device), problem))


def runner(name: str, case: AttentionCase, manager: PluginManager) -> AttentionBackend:
    """A backend that runs the pattern of a case in its own way: the case's own, or a registered one.

    Raises:
        UserError: there is none, or it cannot run the pattern.
    """
    component = case.component
    if name == component.name:
        backend: AttentionBackend = manager.create("attention", name, component.options, "attention")
        return backend
    if name not in _runners(manager):
        raise UserError(f"no installed plugin registers the backend {name}")
    pattern = {"name": component.name, "options": component.options}
    made: AttentionBackend = manager.create("attention", name, {"pattern": pattern}, "attention")
    return made


def own_name(case: AttentionCase, manager: PluginManager) -> list[str]:
    """The case's backend as a method, if it has a computation of its own."""
    cls = manager.get("attention", case.component.name, "attention").cls
    assert isinstance(cls, type)
    own = issubclass(cls, AttentionBackend) and cls.prepare is not AttentionBackend.prepare
    return [case.component.name] * own


def _runners(manager: PluginManager) -> list[str]:
    infos = [info for info in manager.components() if info.kind == "attention"]
    return [info.name for info in infos if isinstance(info.cls, type) and issubclass(info.cls, PatternRunner)]


def _split(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    return q, k, v


def _unpacked(attention: Attention, problem: Problem) -> Compute:
    text = problem.text_mask.shape[1]

    def run(packed: Tensor) -> Tensor:
        q, k, v = _split(packed)
        return attention(q[:, :, text:], k, v, problem.text_mask, problem.bias)

    return run


def _dense(problem: Problem) -> Compute:
    """Masked SDPA; the mask, text included, is there beforehand."""
    grid, text = problem.mask.grid, problem.settings.text
    size = problem.settings.batch * grid.tokens * (text + grid.tokens)
    # torch turns the mask into floats of the inputs' precision.
    check_fits(size * (1 + problem.dtype.itemsize), problem.device, "the mask")
    shape = (len(problem.text_mask), 1, grid.tokens, text + grid.tokens)
    visible = torch.empty(shape, dtype=torch.bool, device=problem.device)
    visible[..., :text] = problem.text_mask[:, None, None]
    for slots in torch.arange(grid.tokens, device=problem.device).split(grid.frame_tokens):
        visible[:, :, slots[0] : slots[-1] + 1, text:] = problem.mask.rows(slots)

    def run(packed: Tensor) -> Tensor:
        q, k, v = _split(packed)
        scores = None
        if problem.bias is not None:
            axes = grid.positions(q.device)
            query, key = (Position(*(axis.unsqueeze(d) for axis in axes)) for d in (1, 0))
            scores = F.pad(bias_scores(problem.bias, query, key, q.shape[1]), (text, 0))
        return masked_attention(q[:, :, text:], k, v, visible, scores)

    return run


def _tiled(problem: Problem) -> Compute:
    """What every backend does that has no `prepare` of its own."""
    return _unpacked(TiledAttention(compact_mask(problem.mask), problem.device), problem)


def _causal(problem: Problem) -> Compute:
    """SDPA's own causal mask over text and frames in one row."""
    text = problem.settings.text

    def run(packed: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*_split(packed), is_causal=True)[:, :, text:]

    return run


def _natten(problem: Problem) -> Compute:
    """Neighbourhood attention over the smallest box that holds what the middle of the last frame sees."""
    try:
        natten: Any = importlib.import_module("natten")
    except ImportError as error:
        raise UserError("natten is not installed") from error
    grid, text = problem.mask.grid, problem.settings.text
    sides = (grid.frames, grid.height, grid.width)
    middle = torch.tensor([(grid.frames - 1) * grid.frame_tokens + grid.height // 2 * grid.width + grid.width // 2])
    seen = problem.mask.rows(middle)[0].view(sides).nonzero()
    frames, rows, columns = (seen.max(0).values - seen.min(0).values + 1).tolist()
    # In space the box is centred, so its sides are odd.
    kernel = (frames, *(min(side | 1, (limit - 1) | 1) for side, limit in ((rows, grid.height), (columns, grid.width))))

    def run(packed: Tensor) -> Tensor:
        q, k, v = (packed[:, text:, i].unflatten(1, sides) for i in range(3))
        try:
            out: Tensor = natten.na3d(q, k, v, kernel_size=kernel, is_causal=(True, False, False))
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"natten: {first_line(error)}") from error
        return out.flatten(1, 3).transpose(1, 2)

    return run
