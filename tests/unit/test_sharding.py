"""Weights in shards: what each process has of them, and what a stage starts with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cogvid import Grid
from cogvid.config.schema import PlusInit
from cogvid.errors import UserError
from cogvid.model.transformer import CogVideoTransformer
from cogvid.training.sharding import check_shardable
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive

MakeModel = Callable[..., CogVideoTransformer]

# A training of two steps by two processes; each says what it has at the end.
TRAINING = """
import json, sys
from pathlib import Path
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from cogvid import Grid, create_component
from cogvid.config.schema import FSDP2Config, StageConfig, TrainerConfig
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.pipeline.launch import joined
from cogvid.pipeline.weights import save_weights
from cogvid.training import job
from cogvid.training.fit import fit
from cogvid.training.next_token import TransformerModule
from cogvid.training.sharding import Sharding, local, whole

folder, grid = Path(sys.argv[1]), Grid(3, 2, 3)
class Samples(torch.utils.data.Dataset):
    def __getitem__(self, number):
        generator = torch.Generator().manual_seed(number)
        codes = torch.randint(50, (3, 6), generator=generator)
        return codes, torch.randint(50, 60, (4,), generator=generator), torch.ones(4)

class Look(pl.Callback):
    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.before = norm(module)
    def on_train_end(self, trainer, module):
        optimizer, parameters = trainer.optimizers[0], dict(module.network.named_parameters())
        state = {name: optimizer.state[p] for name, p in parameters.items() if p in optimizer.state}
        found = {
            "parameters": {n: [local(p).nbytes, p.numel() * p.itemsize] for n, p in parameters.items()},
            "frozen": [n for n, p in parameters.items() if not p.requires_grad],
            "state": {n: [local(v).nbytes for v in own.values() if v.ndim] for n, own in state.items()},
            "with gradients": [n for n, p in parameters.items() if p.grad is not None],
            "norms": [self.before, norm(module)],
        }
        (folder / f"{job.rank()}.json").write_text(json.dumps(found))

def norm(module):
    norms = [float(whole(p.grad).norm()) for p in module.network.parameters() if p.grad is not None]
    return sum(n * n for n in norms) ** 0.5

trainer = TrainerConfig(accelerator="cpu", devices=2, strategy="fsdp2", log_every=1)
with joined(trainer):
    config = TransformerConfig(3, 32, 2, 60, 50, 4, 4, grid)
    with torch.device("meta"):
        network = CogVideoTransformer(config, create_component("attention", "naive"))
    network.freeze()
    torch.manual_seed(0)
    start = {name: 0.3 * torch.randn(tensor.shape) for name, tensor in network.state_dict().items()}
    stage = StageConfig(steps=2, batch_size=4, clip_norm=1e-3)
    module = TransformerModule(network, stage, 51, sharding=Sharding(FSDP2Config(), start))
    fit(module, Samples(), folder, trainer, title="tiny", seed=0, names=lambda numbers: [], callbacks=[Look()])
    save_weights(network, folder / "model.safetensors")
    if job.leads():
        saved = load_file(folder / "model.safetensors")
        same = {name: torch.equal(saved[name], w) for name, w in start.items()}
        (folder / "same.json").write_text(json.dumps(same))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `TRAINING` leaves."""
    folder = tmp_path_factory.mktemp("sharded")
    script = folder / "training.py"
    script.write_text(TRAINING)
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(
    params=[pytest.param(rank, id=name, marks=pytest.mark.slow) for rank, name in enumerate(("leader", "other"))]
)
def found(request: pytest.FixtureRequest, trained: Path) -> dict[str, Any]:
    """What one of the processes says."""
    content: dict[str, Any] = json.loads((trained / f"{request.param}.json").read_text())
    return content


def test_each_process_has_its_half_of_every_weight_and_of_the_optimisers_state(found: dict[str, Any]) -> None:
    for own, total in found["parameters"].values():
        assert own == total / 2
    for name, sizes in found["state"].items():
        assert sizes == [found["parameters"][name][0]] * 2  # Adam's two averages


def test_what_is_frozen_has_neither_gradients_nor_state(found: dict[str, Any]) -> None:
    frozen, trained = set(found["frozen"]), set(found["with gradients"])
    assert {"word_embeddings.weight", "blocks.0.base.qkv.weight"} < frozen
    assert {"later_position_embeddings.weight", "blocks.2.plus.qkv.weight", "blocks.1.gate"} < trained
    assert frozen | trained == found["parameters"].keys()
    assert found["state"].keys() == trained


def test_gradients_are_clipped_by_the_norm_over_all_processes(found: dict[str, Any]) -> None:
    before, after = found["norms"]
    assert before > 2e-3
    assert after == pytest.approx(1e-3, rel=1e-3)


def test_the_file_has_the_frozen_weights_that_the_training_began_with(trained: Path, found: dict[str, Any]) -> None:
    same = json.loads((trained / "same.json").read_text())
    assert {name for name, equal in same.items() if equal} == set(found["frozen"])


def test_a_video_stage_starts_from_the_memory_of_its_bases_file(make_model: MakeModel, tmp_path: Path) -> None:
    save_file(make_model(None, Grid(1, 2, 3), seed=1).state_dict(), tmp_path / "base.safetensors")
    base = load_file(tmp_path / "base.safetensors")
    with torch.device("meta"):
        model = make_model(Naive(), plus_init=PlusInit.copy)
    start = model.start(base)
    assert start.keys() == model.state_dict().keys()
    mapped = {tensor.data_ptr() for tensor in base.values()}
    own = {name for name, tensor in start.items() if tensor.data_ptr() not in mapped}
    assert own == {"blocks.0.gate", "blocks.1.gate", "later_position_embeddings.weight"}


class Single(nn.Module):
    def __init__(self, parameter: bool) -> None:
        super().__init__()
        if parameter:
            self.slope = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("table", torch.zeros(2), persistent=False)


@pytest.mark.parametrize(("parameter", "named"), [(True, "blocks.0.bias.slope"), (False, "blocks.0.bias.table")])
def test_a_bias_that_cannot_be_shared_out_is_refused_by_name(
    make_model: MakeModel, parameter: bool, named: str
) -> None:
    class Biased(Local3D):
        def bias(self, heads: int) -> nn.Module:
            return Single(parameter)

    model: CogVideoTransformer = make_model(Local3D(Local3D.Config(bias=True)))
    check_shardable(model)
    with pytest.raises(UserError, match=named):
        check_shardable(make_model(Biased(Local3D.Config())))
