"""The packages that `cogvid new-plugin` writes: whole or not at all, tidy, and of components that work."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.config.compose import load_experiment
from cogvid.errors import UserError
from cogvid.interfaces.component import KINDS, Kind
from cogvid.pipeline import lab
from cogvid.plugins.manager import HOOKS, create_component, create_plugin_manager
from cogvid.scaffold.kinds import TEMPLATES
from cogvid.scaffold.package import LONGEST, NewPlugin, named, write_package

FILES = {"pyproject.toml", "README.md", ".gitignore"}


def new(kind: Kind, folder: Path, name: str = "") -> NewPlugin:
    plugin = named(name or f"new_{kind}", kind)
    write_package(plugin, folder)
    return plugin


def refused(*words: str) -> str:
    result = CliRunner().invoke(app, ["new-plugin", *words])
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def test_every_kind_has_its_hook_in_its_template(kind: Kind, tmp_path: Path) -> None:
    plugin = new(kind, tmp_path / "new")
    code = (tmp_path / "new" / f"{plugin.module}.py").read_text()
    assert [hook for hook in HOOKS if f"def {hook}(" in code] == [hook for hook in HOOKS if HOOKS[hook][0] == kind]
    assert TEMPLATES.keys() == set(KINDS)


@pytest.mark.parametrize("name", ["x", "a" * LONGEST, "word_by_word_up_to_30_letters2"])
def test_the_code_is_as_ruff_wants_it_whatever_the_name(kind: Kind, name: str, tmp_path: Path) -> None:
    plugin = new(kind, tmp_path / "new", name)
    files = {file.name for file in (tmp_path / "new").iterdir()}
    code = {f"{plugin.module}.py", f"test_{name}.py"}
    assert files == {*FILES, *code, f"{plugin.experiment}.yaml"}
    for file in code:
        compile((tmp_path / "new" / file).read_text(), file, "exec")
    if find_spec("ruff") is None:
        pytest.skip("needs ruff")
    rules = "E,F,I,B,UP,SIM,PT,C4,N"
    for words in (
        ["check", "--isolated", "--no-cache", "--select", rules],
        ["format", "--isolated", "--no-cache", "--diff"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, str(tmp_path / "new")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_component_is_built_with_all_options_of_its_test(kind: Kind, tmp_path: Path) -> None:
    plugin = new(kind, tmp_path)
    file = str(tmp_path / f"{plugin.module}.py")
    for options in TEMPLATES[kind].trials:
        create_component(kind, plugin.name, options, [file])


def test_its_experiment_names_it_and_every_variant_is_built(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = new(kind, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / f"{plugin.experiment}.yaml"
    override = TEMPLATES[kind].override.replace("*", plugin.name)
    default = load_experiment(path)
    variants = default.variants
    assert len(variants) > 1
    assert (plugin.name in variants) == (kind != "metric")
    chosen = [load_experiment(path, variant) for variant in variants]
    found = [default, *chosen, load_experiment(path, None, [override])]
    # All of them name the same plugins, which take longer to find than all else takes to build.
    plugins = create_plugin_manager(default.config.plugins)
    monkeypatch.setattr(lab, "create_plugin_manager", lambda _: plugins)
    for resolved in found:
        assert resolved.config.plugins == default.config.plugins
        with torch.device("meta"):
            lab.Lab(resolved.config, resolved.provenance)
    own = [resolved for resolved in found if resolved.config.variant in ("default", plugin.name)]
    key = override.partition(".options")[0]
    assert all(_at(resolved.config, key).name == plugin.name for resolved in own)
    assert found[0].config.seeds == [0, 1]


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


def test_its_package_names_the_module_as_an_entry_point(kind: Kind, tmp_path: Path) -> None:
    new(kind, tmp_path, "my_window_2")
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    assert project["project"]["name"] == "cogvid-my-window-2"
    assert project["project"]["entry-points"]["cogvid"] == {"my_window_2": "cogvid_my_window_2"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"] == ["cogvid_my_window_2.py"]


def test_the_command_says_what_it_wrote_and_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["new-plugin", "window", "--kind", "attention"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1:] == [
        "  cd window",
        "  pip install -e .",
        "  python -m pytest -q",
        "  cogvid ablate ablation_window.yaml",
        "  cogvid compare runs/ablation_window --out report.html",
    ]
    assert all(file.name in result.stdout for file in (tmp_path / "window").iterdir())
    assert "window" in [info.name for info in create_plugin_manager(["./window/cogvid_window.py"]).components()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("window", "--kind", "atention"), "Did you mean 'attention'?"),
        (("2d", "--kind", "attention"), "lower-case letters"),
        (("my-window", "--kind", "attention"), "lower-case letters"),
        (("Window", "--kind", "attention"), "lower-case letters"),
        (("größe", "--kind", "attention"), "lower-case letters"),
        (("../window", "--kind", "attention"), "lower-case letters"),
        (("class", "--kind", "attention"), "lower-case letters"),
        (("a" * (LONGEST + 1), "--kind", "attention"), f"use {LONGEST} at most"),
        (("null", "--kind", "attention"), "YAML"),
        (("default", "--kind", "attention"), "YAML"),
        (("plugins", "--kind", "attention"), "cogvid_plugins"),
        (("early_rows", "--kind", "decoding"), "already, of cogvid 0.1.0"),
    ],
)
def test_a_bad_input_is_one_paragraph_and_nothing_is_written(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(*words)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("1")
    for folder, said in ((tmp_path, "is not empty"), (tmp_path / "mine", "is no folder")):
        assert said in refused("window", "--kind", "attention", "--folder", str(folder))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("broken", ["write_text", "rename"])
def test_a_package_is_written_whole_or_not_at_all(
    there: bool, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    if there:
        folder.mkdir()
    works = getattr(Path, broken)

    def fails(path: Path, *rest: Any, **more: Any) -> Any:
        if path.name == "README.md" or path.name.endswith(".partial"):
            raise OSError(13, "Permission denied")
        return works(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, broken, fails)
        with pytest.raises(UserError, match="cannot be made: Permission denied"):
            new("attention", folder, "half_written")
    assert [path.name for path in tmp_path.rglob("*")] == (["new"] if there else [])
    new("attention", folder, "half_written")
    assert len(list(folder.iterdir())) == 6


def test_a_mistake_is_said_without_waiting_for_torch() -> None:
    code = (
        "import sys\nfrom cogvid.cli import main\n"
        "try:\n    main(['new-plugin', '2d', '--kind', 'attention'])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 False\n", done.stderr
