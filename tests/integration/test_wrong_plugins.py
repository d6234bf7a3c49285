"""A plugin as `cogvid new-plugin` writes it, made wrong: its own test says so, and `cogvid run` before any training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvid import Grid
from cogvid.cli import app
from cogvid.scaffold.package import named, write_package
from cogvid.testing import ConformanceError, attention_conformance

NEAR = "near: Tensor = (rows <= self.config.radius) & (columns <= self.config.radius)"
METHOD = "    def pattern("
PREPARE = """    def prepare(self, mask, device):
        from cogvid.attention.dense import DenseAttention
        dense = DenseAttention(mask, device)
        def attention(q, k, v, text_mask, bias):
            {}
        return attention

"""
BIAS = """    def bias(self, heads):
        import torch
        class Bias(torch.nn.Module):
            def forward(self, query, key):
                return torch.zeros(heads, 3, 4)
        return Bias()

"""
DENSE = "dense(q, k, v, text_mask, bias)"


def prepared(code: str) -> tuple[str, str]:
    return METHOD, PREPARE.format(code) + METHOD


# What is replaced by what; the check of its own test that fails, and what `cogvid run` says.
WRONG = {
    "sees the future": (
        prepared(f"dense.visible[0] = True; return {DENSE}"),
        "leak",
        "its outputs are not those that its pattern gives",
    ),
    "wrong gradient": (
        prepared("k = k.detach(); return " + DENSE),
        "gradients",
        "its gradients are not those that its pattern gives",
    ),
    "NaN": (prepared(f"return {DENSE}.log()"), "outputs", "its outputs are not those that its pattern gives"),
    "wrong shape": (prepared(f"return {DENSE}[:, :, 1:]"), "outputs", "its outputs have shape"),
    "crash": ((NEAR, "raise RuntimeError('out of ideas')"), "pattern", "RuntimeError: out of ideas"),
    "sees nothing": ((NEAR, "near = rows < 0"), "self", "does not see itself"),
    "wrong bias": ((METHOD, BIAS + METHOD), "bias", r"the bias returns shape \(4, 3, 4\) where"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_plugin_that_is_wrong_is_caught_by_its_test_and_before_its_training(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old, new), check, said = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    write_package(named("cone", "attention"), tmp_path)
    plugin, experiment = tmp_path / "cogvid_cone.py", tmp_path / "ablation_cone.yaml"
    source = plugin.read_text()
    assert old in source
    plugin.write_text(source.replace(old, new))
    experiment.write_text(experiment.read_text().replace("[cogvid_cone]", "[./cogvid_cone.py]"))

    with pytest.raises(ConformanceError, match=rf"(?m)^\W*{check}\b"):
        attention_conformance("cone", {"radius": 1}, plugins=["./cogvid_cone.py"], grids=[Grid(3, 3, 5)])
    result = CliRunner().invoke(app, ["run", "ablation_cone.yaml", "--variant", "cone"], env={"COLUMNS": "1000"})
    assert result.exit_code == 1
    assert re.search(rf"^Error: ablation_cone\.yaml:\d+: attention: .*{said}", result.output, re.MULTILINE)
    assert not (tmp_path / "runs").exists()
