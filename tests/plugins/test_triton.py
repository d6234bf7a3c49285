"""Block-sparse attention in Triton is the dense computation, compiled on a GPU or in Triton's interpreter.

The interpreter has to be switched on before anything imports Triton: without a GPU, one test runs the others in a
process of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogvid import AttentionBackend, Grid, Position, UserError
from cogvid.attention.blocks import BlockLists, BlockMap, block_map
from cogvid.attention.compact import compact_mask
from cogvid.attention.dense import DenseAttention
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid.testing import attention_conformance
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR
from cogvid_plugins.attention.triton import table as launch_table
from cogvid_plugins.attention.triton.backend import Triton
from cogvid_plugins.attention.triton.table import Launch, Launches

pytest.importorskip("triton")

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if CUDA and not INTERPRETED else "cpu")
runs = pytest.mark.skipif(not CUDA and not INTERPRETED, reason="runs in the interpreter, in a process of its own")
once = pytest.mark.skipif(INTERPRETED, reason="does not run kernels")
needs_gpu = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


class Scattered(AttentionBackend):
    """Neighbours by a hash of the two places."""

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        mixed = sum(axis * factor for axis, factor in zip((*query, *key), (7, 13, 29, 31, 37, 41), strict=True))
        same = (query.frame == key.frame) & (query.row == key.row) & (query.column == key.column)
        return same | ((mixed + layer) % 3 == 0)


NAIVE, SCATTERED = Naive(), Scattered()
LOCAL, SWIN = Local3D(Local3D.Config(extent=[2, 2, 3])), SwinAR(SwinAR.Config(window=[3, 4]))


def visibility(backend: AttentionBackend, grid: Grid, stage: Stage = "sequential", layer: int = 1) -> Visibility:
    return Visibility(backend.pattern, grid, given_frames(stage, grid.frames), layer)


def launches(query_block: int, rows: int) -> Launches:
    launch = Launch(rows, warps=4, stages=2)
    return Launches(query_block, launch, launch, launch)


def example(
    tokens: int, head_size: int, dtype: torch.dtype, *, batch: int = 2, heads: int = 2, text: int = 5
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Queries, keys and values as the model has them, views of one projection; text mask; gradient of the output."""
    generator = torch.Generator().manual_seed(tokens)
    packed = torch.randn(batch, text + tokens, 3, heads, head_size, generator=generator, dtype=torch.float64)
    grad = torch.randn(batch, tokens, heads, head_size, generator=generator, dtype=torch.float64).transpose(1, 2)
    text_mask = torch.arange(text).expand(batch, -1) >= torch.arange(batch)[:, None]
    if batch > 1 and text > 2:
        text_mask[-1, 2] = False
    q, k, v = packed.to(DEVICE, dtype).permute(2, 0, 3, 1, 4)
    return [q[:, :, text:], k, v], text_mask.to(DEVICE), grad.to(DEVICE, dtype)


def derived(output: Tensor, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def sparse(inputs: list[Tensor], text_mask: Tensor, grad: Tensor, blocks: BlockMap, settings: Launches) -> list[Tensor]:
    """Output and gradients of the kernels."""
    from cogvid_plugins.attention.triton.launch import block_sparse_attention

    inputs = [x.detach().requires_grad_() for x in inputs]
    return derived(block_sparse_attention(*inputs, text_mask, blocks.to(DEVICE), settings), inputs, grad)


def dense(inputs: list[Tensor], text_mask: Tensor, grad: Tensor, mask: Visibility, dtype: torch.dtype) -> list[Tensor]:
    """Those of the dense reference in float64, or of the plain computation in another precision."""
    inputs = [x.detach().to(dtype).requires_grad_() for x in inputs]
    reference = DenseAttention(mask, DEVICE)
    if dtype is torch.float64:
        return derived(reference(*inputs, text_mask, None), inputs, grad.to(dtype))
    q, k, v = inputs
    text = text_mask[:, None, None].expand(-1, -1, mask.grid.tokens, -1)
    visible = torch.cat([text, reference.visible.expand(len(q), 1, -1, -1)], dim=-1)
    weights = ((q * q.shape[-1] ** -0.5) @ k.mT).masked_fill(~visible, float("-inf")).softmax(-1)
    return derived(weights @ v, inputs, grad)


def assert_as_exact(found: list[Tensor], eager: list[Tensor], exact: list[Tensor]) -> None:
    """At most twice the error of the plain computation in the same precision, and one rounding step."""
    for name, x, plain, reference in zip(("output", "dq", "dk", "dv"), found, eager, exact, strict=True):
        step = torch.finfo(x.dtype).eps * float(reference.abs().max())
        limit = 2 * float((plain.double() - reference).abs().max()) + step
        assert x.shape == reference.shape
        assert float((x.double() - reference).abs().max()) <= limit, name  # NaN is not


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """Memory that nobody has written is NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@once
@pytest.mark.slow
@pytest.mark.skipif(CUDA, reason="the kernels run compiled")
def test_the_kernels_are_right_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    process = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
    assert " passed" in process.stdout


@runs
@pytest.mark.usefixtures("_poisoned")
@pytest.mark.parametrize(
    ("backend", "grid", "stage", "dtype", "head_size", "query_block", "key_block", "rows"),
    [
        pytest.param(NAIVE, Grid(3, 5, 7), "sequential", FP32, 32, 32, 16, 16, id="naive-3x5x7-fp32-K32"),
        pytest.param(NAIVE, Grid(5, 6, 6), "interpolation", FP16, 64, 128, 64, 64, id="naive-5x6x6-given-fp16-K64"),
        pytest.param(NAIVE, Grid(1, 1, 3), "sequential", BF16, 40, 32, 16, 16, id="naive-1x1x3-bf16-K40"),
        pytest.param(LOCAL, Grid(3, 5, 7), "sequential", BF16, 48, 32, 16, 32, id="local3d-3x5x7-bf16-K48"),
        pytest.param(LOCAL, Grid(5, 3, 5), "interpolation", FP32, 64, 32, 32, 32, id="local3d-5x3x5-given-fp32-K64"),
        pytest.param(SWIN, Grid(3, 7, 11), "sequential", FP16, 128, 64, 64, 32, id="swin_ar-3x7x11-fp16-K128"),
        pytest.param(SWIN, Grid(5, 6, 6), "sequential", FP32, 48, 64, 16, 64, id="swin_ar-5x6x6-fp32-K48"),
        pytest.param(SWIN, Grid(3, 5, 7), "interpolation", BF16, 128, 128, 64, 128, id="swin_ar-3x5x7-given-bf16-K128"),
        pytest.param(SCATTERED, Grid(3, 5, 7), "sequential", FP32, 128, 64, 64, 64, id="scattered-3x5x7-fp32-K128"),
        pytest.param(SCATTERED, Grid(3, 5, 7), "interpolation", FP16, 32, 64, 32, 32, id="scattered-3x5x7-given-K32"),
    ],
)
def test_outputs_and_gradients_are_those_of_the_dense_computation(
    backend: AttentionBackend,
    grid: Grid,
    stage: Stage,
    dtype: torch.dtype,
    head_size: int,
    query_block: int,
    key_block: int,
    rows: int,
) -> None:
    mask = visibility(backend, grid, stage if grid.frames > 1 else "sequential")
    inputs = example(grid.tokens, head_size, dtype, heads=2 if head_size < 64 else 1)
    blocks = block_map(compact_mask(mask), query_block, key_block)
    found = sparse(*inputs, blocks, launches(query_block, rows))
    assert_as_exact(found, dense(*inputs, mask, dtype), dense(*inputs, mask, torch.float64))
    assert all(x.dtype is dtype for x in found)


@runs
@pytest.mark.usefixtures("_poisoned")
@pytest.mark.parametrize("text", [0, 21])
def test_no_text_and_several_blocks_of_it_for_chunks_of_queries(text: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two chunks for three blocks of queries.
    monkeypatch.setattr("cogvid_plugins.attention.triton.launch._TEXT_PROGRAMS", 12)
    mask = visibility(SWIN, Grid(3, 3, 5))
    inputs = example(45, 32, FP32, text=text)
    found = sparse(*inputs, block_map(compact_mask(mask), 32, 16), launches(32, 16))
    assert_as_exact(found, dense(*inputs, mask, FP32), dense(*inputs, mask, torch.float64))


@runs
def test_the_backend_computes_the_pattern_with_the_settings_of_the_table() -> None:
    backend = Triton(Triton.Config(pattern=LOCAL))  # type: ignore[arg-type]
    mask = visibility(backend, Grid(3, 5, 7))
    (q, k, v), text_mask, grad = example(105, 32, FP32, batch=1)
    attention = backend.prepare(mask, DEVICE)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    found = derived(attention(q, k, v, text_mask, None), inputs, grad)
    exact, eager = (dense([q, k, v], text_mask, grad, mask, dtype) for dtype in (torch.float64, FP32))
    assert_as_exact(found, eager, exact)


@runs
def test_a_query_that_sees_nothing_has_a_zero_and_gives_no_gradient() -> None:
    lists = BlockLists(*(torch.tensor(x, dtype=torch.int32) for x in ([0, 1, 1], [0, 0], [0], [0])))
    # Of 20 places in two blocks of 16, place 3 sees place 5, and nobody else anything.
    bits = torch.zeros(1, 16, dtype=torch.int64)
    bits[0, 3] = 1 << 5
    blocks = BlockMap(torch.arange(20, dtype=torch.int32), 16, 16, lists, lists, bits)
    inputs, text_mask, grad = example(20, 32, FP32, batch=1, text=2)
    output, dq, dk, dv = sparse(inputs, torch.zeros_like(text_mask), grad, blocks, launches(16, 16))
    assert torch.equal(output[:, :, 3], inputs[2][:, :, 2 + 5])
    assert torch.equal(dv[:, :, 2 + 5], grad[:, :, 3])
    output[:, :, 3], dv[:, :, 2 + 5] = 0, 0
    assert not any(x.any() for x in (output, dv))
    # One key has all the weight, whatever the scores: what is left of their gradients is rounding.
    assert float(max(dq.abs().max(), dk.abs().max())) < 1e-5


@runs
def test_the_backward_pass_is_deterministic_and_strides_do_not_matter() -> None:
    mask = visibility(SCATTERED, Grid(2, 3, 5))
    inputs, text_mask, _ = example(30, 32, FP32, batch=1)
    grad = torch.ones(1, device=DEVICE).expand(1, 2, 30, 32)
    blocks, settings = block_map(compact_mask(mask), 32, 16), launches(32, 16)
    first = sparse(inputs, text_mask, grad, blocks, settings)
    again = sparse(inputs, text_mask, grad, blocks, settings)
    copied = sparse([x.contiguous() for x in inputs], text_mask, grad.contiguous(), blocks, settings)
    transposed = sparse([x.mT.contiguous().mT for x in inputs], text_mask, grad, blocks, settings)
    for others in (again, copied, transposed):
        assert all(torch.equal(x, y) for x, y in zip(first, others, strict=True))


@runs
def test_the_backend_conforms() -> None:
    backend = Triton(Triton.Config(pattern=SWIN))  # type: ignore[arg-type]
    attention_conformance(backend, device=DEVICE, dtypes=(FP32,), heads=1, grids=(Grid(3, 3, 5),))


# Compiles what would be launched, for a GPU that need not be there.
CROSS_COMPILE = """
import json, re, subprocess, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

class Hopper:
    get_current_device = get_current_stream = lambda *_: 0
    get_current_target = lambda _: GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Hopper())
from cogvid import Grid
from cogvid.attention.blocks import block_map
from cogvid.attention.compact import compact_mask
from cogvid.interfaces.mask import Visibility
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.triton.launch import block_sparse_attention
from cogvid_plugins.attention.triton.table import TABLE, Launch, Launches

compiled, launched = {}, JITFunction.run

def compile_only(kernel, *args, grid, warmup, **options):
    result = launched(kernel, *args, grid=grid, warmup=True, **options)
    compiled.setdefault(kernel.fn.__name__, {})[result.hash] = result

JITFunction.run = compile_only
found = []
for head_size, dtype in ((64, "bfloat16"), (128, "bfloat16"), (32, "float32")):
    compiled.clear()
    dtype = getattr(torch, dtype)
    entry = json.loads(TABLE.read_text())["9.0"][str(head_size)][str(8 * dtype.itemsize)]
    settings = Launches(entry["query_block"], *(Launch(**entry[name]) for name in ("forward", "queries", "keys")))
    for batch, text, grid in ((2, 1, Grid(3, 5, 7)), (1, 64, Grid(2, 8, 8)), (3, 30, Grid(1, 1, 1))):
        mask = compact_mask(Visibility(Naive().pattern, grid, (False,) * grid.frames, 0))
        blocks = block_map(mask, settings.query_block)
        packed = torch.zeros(batch, text + grid.tokens, 3, 2, head_size, dtype=dtype, requires_grad=True)
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        text_mask = torch.ones(batch, text, dtype=torch.bool)
        block_sparse_attention(q[:, :, text:], k, v, text_mask, blocks, settings).sum().backward()
    for name, versions in compiled.items():
        kernel = list(versions.values())[0]
        open(sys.argv[1], "w").write(kernel.asm["ptx"])
        command = [triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", sys.argv[1], "-o", sys.argv[1] + ".o"]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        found.append({
            "kernel": name, "dtype": str(dtype), "versions": len(versions), "shared": kernel.metadata.shared,
            "wgmma": kernel.asm["ptx"].count("wgmma.mma_async"), "serialized": "serialized" in log,
        })
print(json.dumps(found))
"""


@pytest.mark.slow
@once
def test_the_kernels_compile_for_hopper_once_for_all_grids_and_keep_its_tensor_cores_busy(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", CROSS_COMPILE, str(tmp_path / "kernel.ptx")]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    names = {"forward", "backward_queries", "backward_keys", "backward_text"}
    assert len(found) == 12
    assert {kernel["kernel"] for kernel in found} == names
    for kernel in found:
        assert kernel["versions"] == 1, kernel
        assert kernel["shared"] <= 227 * 1024, kernel
        # ptxas of Triton 3.6 has the products of two kernels wait for each other.
        older = version("triton").startswith("3.6.") and kernel["kernel"] in ("backward_queries", "backward_text")
        assert older or not kernel["serialized"], kernel
        assert kernel["wgmma"] > 0 or kernel["dtype"] == "torch.float32", kernel


@once
def test_the_table_has_settings_that_fit_its_query_blocks_for_every_head_size_and_width() -> None:
    table = json.loads(launch_table.TABLE.read_text())
    assert {"default", "9.0"} <= set(table)
    for sizes in table.values():
        for entry in sizes.values():
            for settings in entry.values():
                assert all(settings["query_block"] % settings[x]["rows"] == 0 for x in ("forward", "queries", "keys"))
    for head_size in (1, 32, 33, 64, 128):
        for dtype in (FP32, FP16, BF16):
            assert launch_table.launches(torch.device("cpu"), head_size, dtype).query_block in (64, 128)


@once
def test_a_tuned_entry_is_added_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.json"
    table.write_text(launch_table.TABLE.read_text())
    before = json.loads(table.read_text())
    monkeypatch.setattr(launch_table, "TABLE", table)
    launch_table.write_table("12.3", "64", "16", launches(64, 32))
    after = json.loads(table.read_text())
    assert after.pop("12.3")["64"]["16"]["keys"] == {"rows": 32, "warps": 4, "stages": 2, "registers": None}
    assert after == before
    assert list(tmp_path.iterdir()) == [table]


@once
def test_a_pattern_with_a_bias_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"Triton cannot add the bias of the pattern SwinAR.*switch"):
        Triton(Triton.Config(pattern=SwinAR(SwinAR.Config(bias=True))))  # type: ignore[arg-type]


@once
def test_a_device_without_the_kernels_is_refused() -> None:
    with pytest.raises(UserError, match=r"triton: .*Local3D .*on the device cpu.*TRITON_INTERPRET"):
        Triton(Triton.Config(pattern=LOCAL)).prepare(visibility(LOCAL, Grid(3, 2, 2)), torch.device("cpu"))  # type: ignore[arg-type]


@once
def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "cogvid_plugins.attention.triton.backend.find_spec", lambda name: None if name == "triton" else find_spec(name)
    )
    with pytest.raises(UserError, match=r"triton: .*Naive.*not installed.*install"):
        Triton(Triton.Config(pattern=NAIVE)).prepare(visibility(NAIVE, Grid(3, 2, 2)), torch.device("cuda"))  # type: ignore[arg-type]


@once
def test_the_plugin_does_not_need_triton_to_be_loaded() -> None:
    code = "import sys; sys.modules['triton'] = None; import cogvid_plugins.attention.triton.backend"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("head_size", "dtype"), [(160, FP32), (64, torch.float64)], ids=str)
def test_heads_that_no_kernel_computes_are_refused(head_size: int, dtype: torch.dtype) -> None:
    from cogvid_plugins.attention.triton.launch import BlockSparseAttention

    (q, k, v), text_mask, _ = example(12, head_size, dtype)
    attention = BlockSparseAttention(visibility(NAIVE, Grid(3, 2, 2)), DEVICE)
    with pytest.raises(UserError, match=rf"triton: .*128 channels.*{head_size} channels in {dtype}"):
        attention(q, k, v, text_mask, None)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=str)
@pytest.mark.parametrize("backend", [NAIVE, LOCAL, SwinAR()], ids=["naive", "local3d", "swin_ar"])
@pytest.mark.parametrize("head_size", [64, 128])
def test_the_compiled_kernels_agree_on_a_training_grid(
    backend: AttentionBackend, dtype: torch.dtype, head_size: int
) -> None:
    mask = visibility(backend, Grid(5, 20, 20))
    (q, k, v), text_mask, grad = example(2000, head_size, dtype, text=64)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    attention = Triton(Triton.Config(pattern=backend)).prepare(mask, DEVICE)
    found = derived(attention(q, k, v, text_mask, None), inputs, grad)
    eager, exact = (dense([q, k, v], text_mask, grad, mask, x) for x in (dtype, torch.float64))
    assert_as_exact(found, eager, exact)
