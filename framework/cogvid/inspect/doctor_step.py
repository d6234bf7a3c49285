"""One training step without memory: what PyTorch keeps and computes in it, found out on the meta device.

A step of the stage's own module runs, forward, backward and optimiser, on tensors that have sizes and no values. What
is alive at each moment, any plugin's and any option's, is then known, and nothing was allocated.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import flop_registry

from cogvid.config.schema import StageConfig
from cogvid.interfaces.attention import Attention, AttentionBackend, PatternRunner
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.interfaces.mask import Stage, Visibility
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.training.modules import FrameTokenizerModule
from cogvid.training.next_token import TransformerModule

KINDS = WEIGHTS, GRADIENTS, OPTIMISER, ACTIVATIONS = "weights", "gradients", "optimiser", "activations"
# Parts of a step. In each, what is alive grows or shrinks block by block, so that its peak is linear in the blocks.
FORWARD, LATER, EARLIER, UPDATE = "forward", "backward, later blocks", "backward, earlier blocks", "update"
_FEW, _TURN = 4, 2  # blocks that show how many more go on; patterns take turns from layer to layer
_aten = torch.ops.aten
# Products with weights, and convolutions: what a pattern has no say in.
_DENSE = {_aten.mm, _aten.addmm, _aten.convolution, _aten.convolution_backward}
_WITH_INDICES = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
# What autocast computes in half precision, and what in float32 whatever it is given.
_HALF = {
    F.linear,
    torch.bmm,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    F.conv2d,
    F.conv_transpose2d,
    F.scaled_dot_product_attention,
}
_FULL = {F.layer_norm, F.cross_entropy, F.softmax, torch.softmax, Tensor.softmax}


@dataclass(frozen=True)
class Step:
    """What one step of one process takes.

    Attributes:
        peaks: for each part of a step (forward pass, backward pass through later blocks and through earlier ones,
            optimiser), bytes alive at the moment when most were: weights, gradients, optimiser (its state),
            activations (all else, such as what the backward pass needs, and workspace).
        dense_flops: of products with weights and of convolutions, forward and backward; what is computed twice for
            `checkpoint_activations` counts twice.
    """

    peaks: dict[str, dict[str, float]]
    dense_flops: float

    @property
    def peak(self) -> dict[str, float]:
        """The largest of them."""
        return max(self.peaks.values(), key=lambda kinds: sum(kinds.values()))

    def toward(self, other: Step, times: float) -> Step:
        """On the line from here to another step, so many times as far: blocks are equal, and each takes the same."""

        def on(here: float, there: float) -> float:
            return here + times * (there - here)

        peaks = {
            part: {kind: on(here[kind], other.peaks[part][kind]) for kind in KINDS} for part, here in self.peaks.items()
        }
        return Step(peaks, on(self.dense_flops, other.dense_flops))


class Alive(TorchDispatchMode):
    """Follows the bytes of all tensors from when they are made to when they are freed, and counts dense products.

    What is computed of numbers alone, such as positions and masks of the text, is computed; where weights come in,
    only sizes go on.

    Attributes:
        part: of the step that is running.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part = FORWARD
        self.bytes = dict.fromkeys(KINDS, 0)
        self.peaks: dict[str, dict[str, float]] = {}
        self.dense_flops = 0
        self._kinds: dict[int, str] = {}  # by storage
        self._most: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        sizes = sum(x.is_meta for x in tensors)
        if sizes and sizes < len(tensors):
            if func in _WITH_INDICES:
                args = (args[0], _numbers(args[1]), *args[2:])
            args, kwargs = tree_map_only(Tensor, _sizes, (args, kwargs))
        out = func(*args, **kwargs)
        if func.overloadpacket in _DENSE:
            self.dense_flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        for tensor in (out,) if isinstance(out, Tensor) else tree_iter(out):
            if isinstance(tensor, Tensor):
                self.tag(tensor, ACTIVATIONS, new=True)
        return out

    def tag(self, tensor: Tensor, kind: str, new: bool = False) -> None:
        """Say what a tensor is kept as; `new`: only where nothing was said of it."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._kinds.get(key)
        if known is None:
            weakref.finalize(storage, self._freed, key, size)
        elif new or known == kind:
            return
        else:
            self.bytes[known] -= size
        self._kinds[key] = kind
        self.bytes[kind] += size
        total = sum(self.bytes.values())
        if total > self._most.get(self.part, 0):
            self._most[self.part], self.peaks[self.part] = total, dict(self.bytes)

    def start(self) -> None:
        """Forget peaks so far; what is alive stays known."""
        self._most, self.peaks = {}, {}

    def _freed(self, key: int, size: int) -> None:
        self.bytes[self._kinds.pop(key)] -= size


def _sizes(x: Tensor) -> Tensor:
    # A number, such as a factor, goes with any device.
    return x if x.is_meta or not x.ndim else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _numbers(indices: Any) -> list[Any]:
    """Masks among indices as the numbers they pick, whose count is a size."""
    found: list[Any] = []
    for index in indices:
        if index is not None and index.dtype is torch.bool and not index.is_meta:
            found += index.nonzero().unbind(1)
        else:
            found.append(index)
    return found


class _Autocast(TorchFunctionMode):
    """torch.autocast, which passes the meta device over."""

    def __init__(self, half: torch.dtype, network: nn.Module) -> None:
        super().__init__()
        self.half, self.remembers = half, False
        self._casts: dict[int, Tensor] = {}
        # What a backward pass computes again, it computes without the modes of the forward pass.
        for block in getattr(network, "layers", ()):
            block.forward = self._around(block.forward)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _HALF or func in _FULL:
            cast_one = self._to_half if func in _HALF else _to_full
            args, kwargs = tree_map_only(Tensor, cast_one, (args, kwargs))
        return func(*args, **kwargs)

    def _to_half(self, x: Tensor) -> Tensor:
        if x.dtype is not torch.float32:
            return x
        if not (self.remembers and x.is_leaf and x.requires_grad):
            return x.to(self.half)
        # As autocast does: a trained weight is cast once a forward pass.
        if id(x) not in self._casts:
            self._casts[id(x)] = x.to(self.half)
        return self._casts[id(x)]

    def _around(self, work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def around(*args: Any) -> Tensor:
            with self:
                return work(*args)

        return around

    @contextmanager
    def forward(self) -> Iterator[None]:
        """A forward pass; what a backward pass computes again is cast again."""
        self.remembers = True
        with self:
            yield
        self.remembers = False
        self._casts.clear()


def _to_full(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


class _Silent(TransformerModule):
    """A transformer's module whose losses have no values to tell."""

    def report(self, loss: Tensor, **values: Tensor) -> Tensor:
        return loss


class _SilentTokenizer(FrameTokenizerModule):
    """The frame tokenizer's, likewise."""

    def report(self, loss: Tensor, **values: Tensor) -> Tensor:
        return loss


class _AnyDevice(AttentionBackend):
    """A backend without kernels that want a device of their own: like them, tiles keep queries, keys and values."""

    def __init__(self, backend: AttentionBackend) -> None:
        super().__init__(None)
        self.inner = backend

    def pattern(self, query: Any, key: Any, layer: int) -> Tensor:
        return self.inner.pattern(query, key, layer)

    def bias(self, heads: int) -> nn.Module | None:
        return self.inner.bias(heads)

    def prepare(self, mask: Visibility, device: torch.device) -> Attention | None:
        backend = self.inner
        while isinstance(backend, PatternRunner):
            backend = backend.inner
        # Tables are numbers: a backend of one's own makes them where numbers are.
        return backend.prepare(mask, torch.device("cpu"))


def transformer_step(
    config: TransformerConfig,
    backend: AttentionBackend | None,
    stage: Stage,
    settings: StageConfig,
    *,
    frames: int,
    batch: int,
    parts: int = 1,
    half: torch.dtype | None = None,
    image_model_first: bool = True,
    foreach: bool = False,
) -> Step:
    """One step of a transformer's stage in one process.

    Args:
        config: of the network.
        backend: of the plus channel; None for the image model.
        stage: whose mask.
        settings: of the stage.
        frames: of a sequence.
        batch: sequences of the process in one part of a step.
        parts: of a step, one after the other.
        half: what autocast computes in, if it does.
        image_model_first: whether the image model generates the first frame.
        foreach: whether the optimiser takes all tensors at once, as it does on a GPU.
    """

    def step(layers: int) -> Step:
        sizes = replace(config, layers=layers)
        network = meta_network(sizes, _AnyDevice(backend) if backend else None, stage)
        # Outside: numbers of the module are numbers.
        module = _Silent(network, settings, 0, image_model_first=image_model_first, parts=parts)
        codes = torch.zeros(batch, frames, config.grid.frame_tokens, dtype=torch.long)
        text = torch.zeros(batch, config.text_length, dtype=torch.long)
        inputs = (codes, text, torch.ones_like(text, dtype=torch.bool))
        return _measured(module, inputs, parts, half, foreach)

    if config.layers <= _FEW + _TURN:
        return step(config.layers)
    return step(_FEW).toward(step(_FEW + _TURN), (config.layers - _FEW) / _TURN)


def tokenizer_step(
    build: Callable[[], FrameTokenizer], settings: StageConfig, sides: tuple[int, int], batch: int, foreach: bool
) -> Step:
    """One step of the frame tokenizer's stage in one process.

    A tokenizer may look at values, such as which codes are in use: this one runs, on two frames and on four.

    Args:
        build: gives the tokenizer.
        settings: of the stage.
        sides: of a frame, in pixels.
        batch: frames of the process in a step.
        foreach: whether the optimiser takes all tensors at once.
    """

    def step(frames: int) -> Step:
        pixels = torch.randint(256, (frames, 3, *sides), dtype=torch.uint8)
        return _measured(_SilentTokenizer(build(), settings), pixels, 1, None, foreach)

    with torch.random.fork_rng(devices=[]):
        return step(2).toward(step(4), (batch - 2) / 2)


def meta_network(config: TransformerConfig, backend: AttentionBackend | None, stage: Stage) -> CogVideoTransformer:
    """The network of a stage without memory, what does not train in it frozen."""
    with torch.device("meta"):
        network = CogVideoTransformer(config, backend, stage)
    if backend is not None:
        network.freeze()
    return network


def _measured(
    module: _Silent | _SilentTokenizer, batch: Any, parts: int, half: torch.dtype | None, foreach: bool
) -> Step:
    network, settings, alive = module.network, module.stage_config, Alive()
    blocks: list[nn.Module] = getattr(network, "layers", [])
    trained = [p for p in network.parameters() if p.requires_grad]
    for tensor in (*network.parameters(), *network.buffers()):
        alive.tag(tensor, WEIGHTS)
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["foreach"] = foreach
    last_of_later = {id(p) for block in blocks[_TURN : _TURN + 1] for p in block.parameters()}

    def arrived(parameter: Tensor) -> None:
        assert parameter.grad is not None
        alive.tag(parameter.grad, GRADIENTS)
        if id(parameter) in last_of_later:
            alive.part = EARLIER

    forward = _Autocast(half, network).forward if half else nullcontext
    with alive:
        # As a step before has left it: the optimiser's state, and gradients where the optimiser keeps them.
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
            alive.tag(parameter.grad, GRADIENTS)
            parameter.register_post_accumulate_grad_hook(arrived)
        optimizer.step()
        for state in optimizer.state.values():
            for value in state.values():
                alive.tag(value, OPTIMISER)
        alive.start()
        # In Lightning's order: gradients of the step before are there until this one's forward pass is done.
        for part in range(parts):
            alive.part = FORWARD
            with forward():
                loss = module.training_step(batch, part)
            alive.part = LATER
            if not part:
                optimizer.zero_grad()
            (loss / parts).backward()
        alive.part = UPDATE
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimizer.step()
    return Step(alive.peaks, alive.dense_flops)
