"""The command line: `cogvid plugins`, `cogvid config`, and what a mistake looks like."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cogvid.cli import app, main
from cogvid.cli.errors import plain_errors
from cogvid.config import load_experiment
from cogvid.errors import UserError

PLUGIN = """
from dataclasses import dataclass
import cogvid
from omegaconf import MISSING

class Wide(cogvid.AttentionBackend):
    @dataclass
    class Config:
        width: int = MISSING
        sides: str = "[both]"

    def pattern(self, query, key, layer):
        return (query.column - key.column).abs() < self.config.width

@cogvid.hookimpl
def register_attention_backends():
    return {"wide": Wide}
"""
EXPERIMENT = """
plugins: [./wide.py]
attention: {name: wide, options: {width: 3}}
data: shapes
frame_rate: fixed
frame_tokenizer: vqvae
text_tokenizer: bpe
interpolation: hold
stages:
  tokenizer: &stage {steps: 1, batch_size: 1}
  image_base: *stage
  sequential: *stage
  interpolation: *stage
variants:
  fast: {frame_rate: {name: fixed, options: {rate: 8}}}
"""
runner = CliRunner()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one experiment and one plugin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COGVID_DEBUG", raising=False)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/lab.yaml").write_text(EXPERIMENT)
    (tmp_path / "experiments/wide.py").write_text(PLUGIN)
    return tmp_path


def plugins_json(*arguments: str) -> dict[tuple[str, str], dict[str, object]]:
    result = runner.invoke(app, ["plugins", "--json", *arguments])
    assert result.exit_code == 0, result.output
    return {(item["kind"], item["name"]): item for item in json.loads(result.stdout)["components"]}


def test_plugins_lists_components_with_origin_version_and_options() -> None:
    assert plugins_json()["frame_rate", "fixed"] == {
        "kind": "frame_rate",
        "name": "fixed",
        "plugin": "fixed",
        "version": "0.1.0",
        "origin": "cogvid 0.1.0",
        "options": {"rate": 4.0},
    }


def test_plugins_lists_those_of_an_experiment_and_those_named(project: Path) -> None:
    path = str(project / "experiments/wide.py")
    for arguments in (["lab"], ["--plugin", "./experiments/wide.py"]):
        item = plugins_json(*arguments)["attention", "wide"]
        assert (item["plugin"], item["version"], item["origin"]) == ("wide.py", "", path)
        assert item["options"] == {"width": "???", "sides": "[both]"}
    assert ("attention", "wide") not in plugins_json()


def test_plugins_lists_those_of_a_variant(project: Path) -> None:
    (project / "experiments/more.yaml").write_text("base: [lab]\nvariants: {wider: {plugins: [../wider.py]}}\n")
    (project / "wider.py").write_text(PLUGIN.replace('"wide"', '"wider"'))
    for arguments, names in ((["more"], {"wide"}), (["more", "--variant", "wider"], {"wide", "wider"})):
        assert {name for _, name in plugins_json(*arguments)} & {"wide", "wider"} == names
    result = runner.invoke(app, ["plugins", "--variant", "wider"])
    assert (result.exit_code, result.stderr) == (1, "Error: --variant wider: name the experiment that has it first.\n")


def test_the_table_shows_required_options_and_brackets_as_they_are() -> None:
    output = runner.invoke(app, ["plugins", "lab"], env={"COLUMNS": "200"}).stdout
    assert "width (required)" in output
    assert 'sides: "[both]"' in output
    assert "lowest_fit" in output


def test_plugins_says_what_is_broken_and_why(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = project / "site/lab-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cogvid]\nbroken_lab = broken_lab\n")
    (project / "site/broken_lab.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(project / "site")
    result = runner.invoke(app, ["plugins"])
    assert result.exit_code == 0
    assert "Broken: Plugin broken_lab (lab 1.0) cannot be imported: " in result.stdout
    assert "broken_lab.py:1: ZeroDivisionError" in result.stdout
    report = json.loads(runner.invoke(app, ["plugins", "--json"]).stdout)
    assert "broken_lab" in [item["name"] for item in report["broken"]]


@pytest.mark.parametrize("code", ["print('hello')\n", "raise SystemExit\n", "raise KeyboardInterrupt\n"])
def test_json_stays_json_whatever_an_installed_plugin_does(
    project: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    info = project / "site/lab-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cogvid]\nrude_lab = rude_lab\n")
    (project / "site/rude_lab.py").write_text(code)
    monkeypatch.syspath_prepend(project / "site")
    result = runner.invoke(app, ["plugins", "--json"])
    assert result.exit_code == 0
    assert "rude_lab" in [item["name"] for item in json.loads(result.stdout)["broken"]]


def test_config_shows_each_value_with_its_source() -> None:
    lines = runner.invoke(app, ["config", "lab", "seed=3", "--variant", "fast"]).stdout.splitlines()
    rows = {tuple(line.split(maxsplit=2)[:2]): line.split(maxsplit=2)[2:] for line in lines}
    assert rows["seed:", "3"] == ["command line"]
    assert rows["width:", "3"] == ["experiments/lab.yaml:3"]
    assert rows["rate:", "8"] == ["experiments/lab.yaml:15 (variant fast)"]
    assert rows["size:", "32"] == ["default"]
    assert lines[-1] == "variants: fast"


def test_config_prints_yaml_that_loads_back(project: Path) -> None:
    (project / "saved.yaml").write_text(runner.invoke(app, ["config", "lab", "seed=3", "--yaml"]).stdout)
    assert load_experiment("saved.yaml").config == load_experiment("lab", None, ["seed=3"]).config


def test_a_mistake_is_one_paragraph_on_stderr() -> None:
    result = runner.invoke(app, ["config", "lab", "model.layrs=[2]"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: command line: unknown key 'model.layrs'. Did you mean model.layers?")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("position", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(position: int) -> None:
    arguments = ["config", "lab", "layers=2"]
    arguments.insert(position, "--debug")
    with pytest.raises(UserError, match="unknown key 'layers'"):
        main(arguments)


def test_debug_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGVID_DEBUG", "1")
    with pytest.raises(UserError, match="unknown key 'layers'"):
        main(["config", "lab", "layers=2"])


def test_main_ends_with_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["config", "lab"], 0), (["config", "nope"], 1), (["config"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
    assert "There is no experiment 'nope'" in capsys.readouterr().err


def ended_with(error: BaseException) -> int:
    with pytest.raises(typer.Exit) as ended, plain_errors(debug=False):
        raise error
    return ended.value.exit_code


def test_an_interruption_ends_with_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_with(KeyboardInterrupt()) == 130
    assert "Interrupted by SIGINT." in capsys.readouterr().err


def test_a_full_disk_names_the_path_and_the_room_left(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "runs/lab/model.safetensors"
    assert ended_with(OSError(errno.ENOSPC, "No space left on device", str(path))) == 1
    message = capsys.readouterr().err
    assert f"No space left while writing {path}: " in message
    assert " MB are free there" in message


def test_a_full_disk_without_a_path_names_the_current_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_with(OSError(errno.ENOSPC, "No space left on device")) == 1
    assert str(project) in capsys.readouterr().err


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(FileNotFoundError), plain_errors(debug=False):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_help_does_not_load_lightning() -> None:
    code = "import sys, cogvid.cli; sys.exit('pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_fails_over_an_interruption_ends_as_the_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    def fail_over_an_interruption() -> None:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        raise RecursionError("over a module that an interrupted import left half made")

    with pytest.raises(typer.Exit) as ended, plain_errors(debug=False):
        fail_over_an_interruption()
    assert ended.value.exit_code == 143
    assert capsys.readouterr().err == "Error: Interrupted by SIGTERM.\n"


def test_plugins_says_which_decodings_are_approximate() -> None:
    found = json.loads(runner.invoke(app, ["plugins", "--json"]).stdout)["components"]
    exact = {item["name"]: item["exact"] for item in found if item["kind"] == "decoding"}
    assert exact == {name: name not in ("diagonal", "early_rows") for name in exact}
    assert len(exact) == 5
    assert not any("exact" in item for item in found if item["kind"] != "decoding")
    table = runner.invoke(app, ["plugins"], env={"COLUMNS": "200"}).stdout
    assert [line.split("│")[2].strip() for line in table.splitlines() if "(approximate)" in line] == [
        "diagonal (approximate)",
        "early_rows (approximate)",
    ]
