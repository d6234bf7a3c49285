"""What can be known before anything is made is checked then, and said by its key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from cogvid.cli import app
from cogvid.config.compose import load_experiment
from cogvid.errors import UserError
from cogvid.pipeline.check import check_folder, check_lab
from cogvid.pipeline.lab import Lab

EXPERIMENT = """
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, data/shapes, trainer/cpu]
data: {name: shapes, options: {clips: 24, test_clips: 2, durations: [1, 2]}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8}}
text: {length: 40}
stages:
  tokenizer: &stage {steps: 1, batch_size: 1}
  image_base: *stage
  sequential: *stage
  interpolation: *stage
generation: {frames: 9, samples: 2}
variants:
  good: {seed: 1}
  bad: {}
"""
BACKEND = """
import torch
import cogvid
class Bias(torch.nn.Module):
    def forward(self, query, key):
        return {bias}
class Mine(cogvid.AttentionBackend):
    def pattern(self, query, key, layer):
        return {pattern}
    def bias(self, heads):
        return {module}
@cogvid.hookimpl
def register_attention_backends():
    return {{"mine": Mine}}
"""
NEAR = "(query.row - key.row).abs() + (query.frame - key.frame).abs() * (query.column - key.column).abs() < 9"
FILL = """
import cogvid
class Short(cogvid.InterpolationStrategy):
    learned = False
    def fill(self, frames, target):
        return frames{wrong}
@cogvid.hookimpl
def register_interpolation_strategies():
    return {{"short": Short}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(EXPERIMENT)
    return path


def checked(file: Path, *changes: str) -> None:
    resolved = load_experiment(file, None, list(changes))
    check_lab(Lab(resolved.config, resolved.provenance))


def plugin(file: Path, code: str, **parts: str) -> str:
    (file.parent / "mine.py").write_text(code.format(**parts))
    return f"plugins=[{file.parent}/mine.py]"


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_what_is_right_passes_and_draws_no_random_number(file: Path) -> None:
    lab = Lab(load_experiment(file).config)
    before = torch.get_rng_state()
    check_lab(lab)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("trainer.accelerator=warp", "trainer.accelerator: Lightning cannot train here with 'warp'"),
        ("attention=flex", "attention: .*no backward on a CPU"),
        ("stages.interpolation.attention=flex", "stages.interpolation.attention: .*no backward on a CPU"),
        ("frame_tokenizer.options.crop=64", "frame_tokenizer: vqvae: crop 64 is larger than the frames of 32x32"),
        ("evaluation.metrics.x={name: fvd, options: {extractor: i3d, path: gone.pt}}", "metrics.x.*'gone.pt' is none"),
        ("evaluation.metrics.x={name: fvd, options: {extractor: c3d, path: FILE}}", "metrics.x.*no TorchScript file"),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(file: Path, change: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"^(command line|.*lab\.yaml:\d+): .*{words}"):
        checked(file, change.replace("FILE", str(file)))


@pytest.mark.parametrize("change", ["model.layers=2147483647", "model.width=4194304", "text.length=2147483647"])
def test_a_model_larger_than_the_machine_is_refused(file: Path, change: str) -> None:
    with pytest.raises(UserError, match=r"model: the weights take [\d.]+ GB, and this machine has"):
        checked(file, change)


def test_an_extractor_that_needs_longer_clips_is_refused(file: Path) -> None:
    script = torch.jit.script(torch.nn.Identity())
    script.save(file.parent / "c3d.pt")
    change = f"evaluation.metrics.x={{name: inception_score, options: {{extractor: c3d, path: {file.parent}/c3d.pt}}}}"
    with pytest.raises(UserError, match=r"evaluation\.metrics\.x: .*at least 16 frames, and these have 9"):
        checked(file, change)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"pattern": "query.row < key.row"}, r"by the pattern, \(frame 0, row 0, column 0\) does not see itself"),
        ({"pattern": "(query.row - key.row).abs()"}, "the pattern is torch.int64, not bool"),
        ({"pattern": "torch.ones(7, 3, 2, dtype=torch.bool)"}, "the pattern has shape .7, 3, 2. where"),
        ({"pattern": "query.nothing"}, "AttributeError"),
        ({"bias": "torch.zeros(3, 4)", "module": "Bias()"}, r"the bias returns shape \(3, 4\) where"),
        ({"bias": "torch.zeros(())", "module": "Bias()"}, r"the bias returns shape \(\) where"),
        ({"bias": "(query.row - key.row)[None]", "module": "Bias()"}, "the bias returns torch.int64, not floats"),
        ({"bias": "0.5", "module": "Bias()"}, "the bias returns a float, not a tensor"),
        ({"module": "7"}, "the bias is a int, not a torch module"),
    ],
    ids=str,
)
def test_a_backend_with_a_wrong_pattern_or_bias_is_refused(file: Path, parts: dict[str, str], words: str) -> None:
    code = plugin(file, BACKEND, **{"pattern": NEAR, "bias": "None", "module": "None", **parts})
    with pytest.raises(UserError, match=rf"attention: Mine: .*{words}"):
        checked(file, code, "attention=mine")


@pytest.mark.parametrize("bias", ["key.row[None] * 0.1", "(key.frame - query.frame)[None] * 0.1"])
def test_a_backend_whose_bias_broadcasts_passes(file: Path, bias: str) -> None:
    checked(file, plugin(file, BACKEND, pattern=NEAR, bias=bias, module="Bias()"), "attention=mine")


@pytest.mark.parametrize("strategy", ["hold", "linear"])
def test_frames_that_a_strategy_without_a_model_cannot_reach_are_refused(file: Path, strategy: str) -> None:
    with pytest.raises(UserError, match=rf"command line: generation\.frames: {strategy}: 5 key frames do not fit"):
        checked(file, f"interpolation={strategy}", "generation.frames=4")


@pytest.mark.parametrize("wrong", ["", ".float()[:, :1].expand(-1, target, -1, -1, -1)"])
def test_a_strategy_that_fills_in_no_such_clip_is_refused(file: Path, wrong: str) -> None:
    with pytest.raises(UserError, match=r"generation\.frames: short fills in .* where uint8 \(1, 9, 3, 32, 32\)"):
        checked(file, plugin(file, FILL, wrong=wrong), "interpolation=short")


def test_a_strategy_that_cannot_reach_the_frames_is_no_floor(file: Path) -> None:
    code = plugin(file, FILL, wrong="")
    assert set(Lab(load_experiment(file, None, [code]).config).floors()) == {"hold", "linear"}


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_made(file: Path) -> None:
    result = run("run", str(file), "--runs", str(file / "runs"))
    assert result.exit_code == 1
    assert f"{file}/runs/lab/default/0: nothing can be written there: Not a directory" in result.output.replace(
        "\n", ""
    )
    check_folder(file.parent / "some" / "runs")
    assert not (file.parent / "some").exists()


def test_more_samples_than_test_clips_are_refused_before_any_training(file: Path, tmp_path: Path) -> None:
    result = run("run", str(file), "generation.samples=3", "--runs", str(tmp_path / "runs"))
    assert result.exit_code == 1
    assert "generation.samples: 3 clips are wanted, but the test split has 2 usable ones" in result.output
    assert [path.name.partition("-")[0] for path in (tmp_path / "runs" / "stages").iterdir()] == ["data"]


def test_a_prompt_that_the_model_cannot_read_is_refused_before_any_training(file: Path, tmp_path: Path) -> None:
    result = run("run", str(file), "trainer.sample_prompts=[ö]", "--runs", str(tmp_path / "runs"))
    assert result.exit_code == 1
    assert (
        "command line: trainer.sample_prompts: 'ö' has characters that the text tokenizer cannot read" in result.output
    )
    names = {path.name.partition("-")[0] for path in (tmp_path / "runs" / "stages").iterdir()}
    assert names == {"data", "text_tokenizer"}


@pytest.mark.parametrize("bad", ["{attention: flex}", "{generation: {frames: 11}}", "{model: {layers: 0}}"])
def test_all_variants_of_an_ablation_are_checked_before_the_first_runs(file: Path, tmp_path: Path, bad: str) -> None:
    file.write_text(EXPERIMENT.replace("bad: {}", f"bad: {bad}"))
    result = run("ablate", str(file), "--runs", str(tmp_path / "runs"))
    assert result.exit_code == 1
    assert "(variant bad)" in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seeds=[1,1]"], "would be that of several runs"),
        (["model.layers=1,2"], "an ablation has one value for each key"),
        (["--jobs", "2", "--no-wait"], "--no-wait: jobs side by side wait"),
    ],
    ids=str,
)
def test_what_an_ablation_cannot_do_is_refused_before_anything_runs(
    file: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    file.write_text(EXPERIMENT.replace("bad: {}", "other: {}"))
    result = run("ablate", str(file), *words, "--runs", str(tmp_path / "runs"))
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "runs").exists()


def test_all_values_of_a_sweep_are_checked_before_the_first_runs(file: Path, tmp_path: Path) -> None:
    result = run("run", str(file), "generation.frames=9,11", "--runs", str(tmp_path / "runs"))
    assert result.exit_code == 1
    assert "command line: generation.frames: recursive: 5 key frames do not double to 11 frames" in result.output
    assert not (tmp_path / "runs").exists()
