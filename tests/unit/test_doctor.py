"""`cogvid doctor`: what it says of a run is what a run then has, and it says so before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import cogvid
from cogvid import AttentionBackend, Grid, UserError
from cogvid.attention.dense import DenseAttention
from cogvid.cli import app
from cogvid.config.compose import load_experiment
from cogvid.config.schema import StageConfig, TrainerConfig
from cogvid.inspect.doctor_flops import attention_flops, attention_pairs
from cogvid.inspect.doctor_hardware import hardware, hardware_names
from cogvid.inspect.doctor_memory import DDP, FSDP2, ONE, Sizes, memory
from cogvid.inspect.doctor_step import GRADIENTS, WEIGHTS, Step, transformer_step
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.pipeline.lab import Lab

# The paper's model, on data that is not there.
FULL = """
base: [model/cogvideo, attention/naive, frame_rate/lowest_fit, interpolation/recursive, data/folder, evaluation/none,
  trainer/gpu]
data: {name: folder, options: {path: nowhere/videos}}
video: {size: 160, frames: 5}
text: {length: 64, positions: 512}
text_tokenizer: {name: bpe, options: {vocabulary: 130009}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 256, codes: 20000, code_size: 256, crop: 0}}
trainer: {strategy: fsdp2}
generation: {frames: 33}
stages:
  tokenizer: {steps: 1, batch_size: 64, weights: nowhere/tokenizer.safetensors}
  image_base: {steps: 100, batch_size: 64}
  sequential: {steps: 100, batch_size: 96}
  interpolation: {steps: 100, batch_size: 64, attention: {name: swin_ar, options: {window: [10, 10]}}}
"""
CONFIG = TransformerConfig(
    layers=4,
    width=96,
    heads=3,
    vocabulary=300,
    image_vocabulary=64,
    text_length=8,
    text_positions=8,
    grid=Grid(3, 6, 6),
)
SETTINGS = StageConfig(steps=10, batch_size=4)


class Dense(AttentionBackend):
    """All earlier tokens, by torch's own attention over the whole mask."""

    def pattern(self, query: Any, key: Any, layer: int) -> torch.Tensor:
        return key.frame <= query.frame

    def prepare(self, mask: Any, device: torch.device) -> Any:
        return DenseAttention(mask, device)


def doctor(*words: str) -> tuple[int, Any]:
    result = CliRunner().invoke(app, ["doctor", *words, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.exit_code == 0 else result.output


@pytest.fixture
def full(tmp_path: Path) -> Path:
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    return path


def stages(found: Any) -> dict[str, Any]:
    return {stage["name"]: stage for stage in found["stages"]}


@pytest.mark.slow
def test_the_papers_sizes_by_another_process_in_little_memory(full: Path) -> None:
    code = (
        "import resource, sys\n"
        "from cogvid.cli import main\n"
        "from cogvid.pipeline.run import Run\n"
        "import cogvid.inspect.doctor\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "imported = peak()\n"
        "try:\n    main(['doctor', sys.argv[1], '--gpus', '64', '--json'])\n"
        "finally:\n    print(peak() - imported, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(full)], capture_output=True, text=True, timeout=300, check=True, env=os.environ
    )
    assert int(done.stderr.split()[-1]) * 1024 < 1e9
    found = json.loads(done.stdout)
    by_name = stages(found)
    # As FACTS has them: 7.7 billion a stage, 5.9 of them frozen and 1.81 trained; both stages together 9.5.
    for name in ("sequential", "interpolation"):
        parameters = by_name[name]["parameters"]
        assert round(parameters["all"] / 1e9, 1) == 7.7
        assert round(parameters["frozen"] / 1e9, 1) == 5.9
        assert parameters["frozen"] == by_name["image_base"]["parameters"]["all"]
        # Four projections of 3072 with their biases, a gate, and 1600 later positions.
        assert parameters["trained"] == 48 * (4 * 3072 * (3072 + 1) + 3072) + 1600 * 3072 == 1_817_591_808
    assert round(found["parameters"] / 1e9, 1) == 9.5
    assert found["vocabulary"]["tokens"] == 150_010
    assert by_name["sequential"]["tokens"] == {"sequence": 2064, "step": 96 * 2064}
    assert by_name["tokenizer"]["steps"] == 0
    missing = {each["key"]: each["path"] for each in found["missing"]}
    assert missing == {
        "data.options.path": "nowhere/videos",
        "stages.tokenizer.weights": "nowhere/tokenizer.safetensors",
    }
    assert any("stages.sequential.batch_size: 96 does not divide among 64" in each for each in found["findings"])
    ddp, fsdp2 = by_name["interpolation"]["memory"]
    assert (ddp["strategy"], fsdp2["strategy"], ddp["processes"]) == (DDP, FSDP2, 64)
    assert fsdp2["bytes"][WEIGHTS] * 64 == ddp["bytes"][WEIGHTS] == 4 * by_name["interpolation"]["parameters"]["all"]
    assert fsdp2["fits"]


def test_parameters_are_those_of_the_real_model(tiny_experiment: Path) -> None:
    code, found = doctor(str(tiny_experiment))
    assert code == 0, found
    lab = Lab(load_experiment(str(tiny_experiment), None, []).config)
    vocabulary = found["vocabulary"]["tokens"]
    assert vocabulary == 32 + 1 + 300
    assert "the most" in found["vocabulary"]["source"]
    network = lab.video_model("sequential", vocabulary)
    network.freeze()
    about = stages(found)["sequential"]["parameters"]
    assert about["all"] == sum(p.numel() for p in network.parameters())
    assert about["trained"] == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert stages(found)["tokenizer"]["parameters"]["all"] == sum(p.numel() for p in lab.build_tokenizer().parameters())
    for stage in found["stages"]:
        assert stage["flops"]["step"] > 0
        assert stage["seconds"] > 0
        (one,) = stage["memory"]
        assert one["strategy"] == ONE
        assert one["total"] == pytest.approx(sum(one["bytes"].values()))
        assert one["bytes"]["process"] > 50e6
    assert found["missing"] == []
    assert found["findings"] == []


def test_flops_are_what_torch_counts_of_a_real_dense_step() -> None:
    torch.manual_seed(0)
    backend = Dense()
    network = CogVideoTransformer(CONFIG, backend, "sequential")
    network.freeze()
    codes, text = torch.zeros(2, 3, 36, dtype=torch.long), torch.zeros(2, 8, dtype=torch.long)
    inputs = torch.cat([text, codes.flatten(1)], dim=1)
    with FlopCounterMode(display=False) as counter:
        hidden = network.hidden(inputs, torch.ones_like(text))[:, 8:].unflatten(1, (3, -1))
        network.project(hidden[:, torch.tensor([False, True, True])]).sum().backward()
    counted = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    dense = sum(flops for op, flops in counted.items() if op.split(".")[-1] in ("mm", "addmm"))
    step = transformer_step(CONFIG, backend, "sequential", SETTINGS, frames=3, batch=2)
    assert step.dense_flops == dense
    # The dense backend computes every pair; what is counted is those that see each other.
    base, plus = attention_pairs(CONFIG, backend, "sequential", 3)
    visible = sum(q // 36 > k // 36 or (q // 36 == k // 36 and k <= q) for q in range(108) for k in range(108))
    assert plus == 4 * (visible + 108 * 8)
    assert base == 4 * (64 + 108 * 8 + 3 * 36 * 37 // 2)
    # Of a pair and channel: two products forward, four backward, and the score once more.
    q, k, v = (torch.rand(6, 5, 32, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as attention:
        (torch.bmm(q, k.mT).softmax(-1) @ v).sum().backward()
    assert attention_flops(CONFIG, 25, 2) == attention.get_total_flops() + 2 * 96 * 25 * 2


def test_frozen_weights_have_no_product_of_their_own() -> None:
    frozen = transformer_step(
        CONFIG, cogvid.create_component("attention", "naive"), "sequential", SETTINGS, frames=3, batch=1
    )
    slots, image = 8 + 108, 64
    width = CONFIG.width
    forward = 2 * slots * 4 * width * (2 * 4 * width + 8 * width)
    head = 2 * 72 * width * image
    # Each product forward, once more for its input, and the plus channel's a third time for its weights.
    plus = 2 * slots * 4 * width * 4 * width
    assert frozen.dense_flops == pytest.approx(2 * forward + plus + 2 * head, rel=0.02)


@pytest.mark.parametrize("changes", [{}, {"checkpoint_activations": True}])
def test_more_blocks_go_on_as_a_few_have_begun(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, layers=9, **changes)
    backend = cogvid.create_component("attention", "swin_ar", {"window": [2, 2]})

    def step() -> Step:
        return transformer_step(config, backend, "sequential", SETTINGS, frames=3, batch=2)

    shortened = step()
    monkeypatch.setattr("cogvid.inspect.doctor_step._FEW", 9)
    whole = step()
    assert shortened.dense_flops == whole.dense_flops
    assert sum(shortened.peak.values()) == pytest.approx(sum(whole.peak.values()), rel=0.02)


def test_parts_and_recomputing_and_half_precision_take_less() -> None:
    backend = cogvid.create_component("attention", "naive")

    def activations(**options: Any) -> float:
        config = replace(CONFIG, checkpoint_activations=options.pop("again", False))
        step = transformer_step(
            config, backend, "sequential", SETTINGS, frames=3, batch=options.pop("batch", 8), **options
        )
        return step.peak["activations"]

    whole = activations()
    assert activations(batch=2, parts=4) < 0.4 * whole
    assert activations(again=True) < 0.5 * whole
    assert 0.4 * whole < activations(half=torch.bfloat16) < 0.9 * whole


def test_shards_are_a_share_and_gathered_blocks_are_whole() -> None:
    step = Step({"forward": {"weights": 800.0, "gradients": 400.0, "optimiser": 800.0, "activations": 50.0}}, 0)
    sizes = Sizes(200, 100, 10, 5, 20, 0)

    def take(strategy: str, processes: int, ema: bool = False) -> dict[str, float]:
        return memory(step, sizes, strategy, processes, reshard=True, ema=ema, kept=0, process=7, host=False).bytes

    one, ddp, fsdp2 = take(ONE, 1), take(DDP, 4), take(FSDP2, 4, ema=True)
    assert one == ddp
    assert {kind: fsdp2[kind] for kind in ("weights", GRADIENTS, "optimiser", "activations", "average", "process")} == {
        "weights": 200,
        "gradients": 100,
        "optimiser": 200,
        "activations": 50,
        "average": 100,
        "process": 7,
    }
    assert fsdp2["gathered"] == 4 * (3 * 10 + 20)


def test_a_checkpoint_is_put_together_in_memory_by_each_process_its_part() -> None:
    step = Step({"forward": {"weights": 800.0, "gradients": 400.0, "optimiser": 800.0, "activations": 50.0}}, 0)
    sizes = Sizes(200, 100)
    for strategy, processes in ((ONE, 1), (DDP, 4), (FSDP2, 4)):
        found = memory(step, sizes, strategy, processes, reshard=True, ema=True, kept=0, process=7, host=True)
        assert found.moment == "checkpoint"
        whole = 800 + 400 + 800 + 400
        assert found.total == whole / (4 if strategy == FSDP2 else 1) + 2 * (400 + 800 + 400) / processes + 7


@pytest.mark.slow
def test_a_real_training_takes_the_memory_that_was_predicted(tmp_path: Path) -> None:
    from cogvid.bench.training_memory import Size, compare

    found = compare(Size("small", 2, 128, 2, 12, 8), ONE, tmp_path, 2)
    assert abs(found.error) < 0.15, found


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--gpu", "abacus"], "--gpu abacus: known are h100, h200, a100, 4090, cpu."),
        (["attention=nave"], "nave"),
        (["--variant", "loca"], "loca"),
    ],
)
def test_bad_input_is_one_plain_error(tiny_experiment: Path, words: list[str], problem: str) -> None:
    code, output = doctor(str(tiny_experiment), *words)
    assert code == 1
    assert problem in output
    assert "Traceback" not in output


def test_what_does_not_fit_is_a_finding_with_advice(tiny_experiment: Path) -> None:
    words = ["model.layers=400", "model.width=512", "stages.sequential.batch_size=64", "--gpu", "4090"]
    code, found = doctor(str(tiny_experiment), *words)
    assert code == 0, found
    (finding,) = [each for each in found["findings"] if each.startswith("stages.sequential")]
    assert "NVIDIA GeForce RTX 4090 has 24.0 GB" in finding
    assert "model.checkpoint_activations=true; or trainer.accumulate=2; or trainer.precision=bf16-mixed" in finding
    assert not stages(found)["sequential"]["memory"][0]["fits"]


def test_the_table_names_stages_strategies_and_assumptions(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["doctor", str(tiny_experiment), "--gpus", "2", "--mfu", "0.5"])
    assert result.exit_code == 0, result.output
    for words in ("sequential", "ddp x 2 *", "fsdp2 x 2", "50% of that (--mfu)", "as its maker says", "TFLOP a step"):
        assert words in result.output, words


def test_hardware_is_known_or_measured() -> None:
    for name in hardware_names():
        half, full = (hardware(name, TrainerConfig(precision=each)) for each in ("bf16-mixed", "32-true"))
        assert full.memory > 1e9
        assert full.measured == (name == "cpu")
        assert name == "cpu" or half.flops > full.flops > 1e12
    with pytest.raises(UserError, match="abacus"):
        hardware("abacus", TrainerConfig())


@pytest.fixture
def tiny_experiment(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        """
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, data/shapes, trainer/cpu]
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 16, codes: 32, code_size: 8, crop: 16}}
model: {layers: 2, width: 32, heads: 2}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
stages:
  tokenizer: {steps: 6, batch_size: 8}
  image_base: {steps: 6, batch_size: 4}
  sequential: {steps: 6, batch_size: 2}
  interpolation: {steps: 6, batch_size: 2}
generation: {frames: 9}
variants:
  local: {}
"""
    )
    return path
