"""The plugins of an experiment: those of its bases, its file, the variant and the command line add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cogvid.config import Resolved, load_experiment

Write = Callable[..., Path]
Load = Callable[..., Resolved]


def test_plugin_files_are_relative_to_the_file_that_names_them(load_lab: Load, tmp_path: Path) -> None:
    resolved = load_lab("plugins: [./mine.py, a.module]")
    assert resolved.config.plugins == [str(tmp_path / "experiments/mine.py"), "a.module"]
    assert resolved.provenance["plugins"] == "experiments/lab.yaml:2 (./mine.py, a.module)"
    assert load_lab("", "plugins=[mine.py]").config.plugins == [str(tmp_path / "mine.py")]


def test_plugins_of_bases_the_file_a_variant_and_the_command_line_add_up(write_yaml: Write, tmp_path: Path) -> None:
    write_yaml("configs/attention/wide.yaml", "plugins: [./wide.py, shared]\n")
    write_yaml("configs/metric.yaml", "plugins: [some.metric]\n")
    text = """
    base: [complete, attention/wide, metric]
    plugins: [./own.py, shared, own.module, own.module]
    variants:
      deep: {plugins: [./deep.py, some.metric]}
      odd: {base: [metric]}
    """
    write_yaml("experiments/lab.yaml", text)
    own = [
        str(tmp_path / "configs/attention/wide.py"),
        "shared",
        "some.metric",
        str(tmp_path / "experiments/own.py"),
        "own.module",
    ]
    places = [
        "configs/attention/wide.yaml:1 (./wide.py, shared)",
        "configs/metric.yaml:1 (some.metric)",
        "experiments/lab.yaml:3 (./own.py, shared, own.module, own.module)",
    ]
    deep, here = str(tmp_path / "experiments/deep.py"), str(tmp_path / "here.py")
    in_variant = "experiments/lab.yaml:5 (variant deep) (./deep.py, some.metric)"
    for variant, changes, names, said in (
        (None, [], own, places),
        ("odd", [], own, places),
        ("deep", [], [*own, deep], [*places, in_variant]),
        ("deep", ["plugins=[here.py]"], [*own, deep, here], [*places, in_variant, "command line (here.py)"]),
    ):
        resolved = load_experiment("lab", variant, changes)
        assert resolved.config.plugins == names
        assert resolved.provenance["plugins"] == ", ".join(said)
        assert load_experiment(write_yaml("runs/config.yaml", resolved.to_yaml())).config == resolved.config


def test_an_empty_list_of_plugins_empties_what_was_named_before(load_lab: Load, tmp_path: Path) -> None:
    resolved = load_lab("plugins: [a.module]", "plugins=[]", "plugins=[./b.py]")
    assert resolved.config.plugins == [str(tmp_path / "b.py")]
    assert resolved.provenance["plugins"] == "command line (./b.py)"
    assert load_lab("plugins: [a.module]", "plugins=[]").provenance["plugins"] == "command line"
