"""What `cogvid compare` prints and writes: in a terminal, and as CSV, LaTeX, Markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.compare import Comparison, compare, find_runs, print_comparison

MakeRun = Callable[..., Path]


def printed(comparison: Comparison, width: int = 200, everything: bool = False, styles: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    print_comparison(comparison, console, everything)
    return console.export_text(styles=styles)


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def study(make_run: MakeRun, tmp_path: Path) -> Path:
    """One variant better than the other in every seed, in FVD; undecided in accuracy."""
    for seed in range(3):
        make_run("naive", seed, fvd=100.0 + 10 * seed, accuracy=0.5)
        make_run("other", seed, fvd=50.0 + 10.1 * seed, accuracy=0.4 + 0.1 * seed)
    return tmp_path / "study"


def test_a_terminal_shows_the_headline_and_the_rest_on_demand(study: Path) -> None:
    text = printed(compare(find_runs([study])))
    assert re.search(r"naive +3 +110\.0 ± 24\.8 +0\.500 ", text)
    assert re.search(r"other +3 +60\.1 ± 25\.1 +0\.500 ± 0\.248 ", text)
    assert re.search(r"\n +-49\.9 ± 0\.2 better +\+0\.000 ± 0\.248 *\n", text)
    assert re.search(r"real +1\.0 .*\n.*reconstruction +30\.0 .*\n.*linear +250\.0 .*\n.*hold +300\.0 ", text)
    assert "path error" not in text
    assert "9 more columns with --all" not in printed(compare(find_runs([study])), everything=True)
    assert "path error" in printed(compare(find_runs([study])), everything=True)


def test_only_a_verdict_has_a_colour(study: Path) -> None:
    text = printed(compare(find_runs([study])), styles=True)
    green, red = "\x1b[32m", "\x1b[31m"
    assert re.findall(rf"{re.escape(green)}([^\x1b]*)", text) == ["-49.9 ± 0.2 better"]
    assert red not in text


def test_one_seed_is_said_and_has_its_own_error_and_no_interval(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("naive", fvd=100.0)
    make_run("other", fvd=10.0)
    text = printed(compare(find_runs([tmp_path / "study"])))
    assert "100.0 (se 2.5)" in text
    assert "One seed: no verdict." in text
    assert not re.search(r"-90\.0.*(±|better)", text)


def test_many_columns_are_wrapped_into_tables_that_fit_the_terminal(make_run: MakeRun, tmp_path: Path) -> None:
    for index in range(3):
        make_run(f"variant-{index}", fvd=100.0 + index)
    make_run("a-variant-with-a-name-that-is-longer-than-what-is-left-beside-it", fvd=123.4)
    text = printed(compare(find_runs([tmp_path / "study"])), 80, everything=True)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    for word in ("FVD (shapes3d)", "123.4", "training time", "(tokens/s)"):
        assert word in text


def test_runs_in_trouble_and_splits_are_printed(make_run: MakeRun, tmp_path: Path) -> None:
    protocol = {"metric": "fvd", "frames": 17}
    make_run("naive", protocol=protocol)
    make_run("other", protocol={**protocol, "frames": 33})
    make_run("partial", without=("metrics.json",))
    text = printed(compare(find_runs([tmp_path / "study"])))
    assert re.search(r"study/partial/0 +ended without a word.*lacks metrics\.json", text)
    assert re.search(r"fvd: values under different protocols.*\n +\[A\] +\[B\] *\nframes +17 +33", text)


def test_keys_of_a_sweep_are_columns(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("naive")
    for layers in (16, 2):
        make_run(f"default+model.layers-{layers}", overrides={"model.layers": layers})
    text = printed(compare(find_runs([tmp_path / "study"])))
    assert re.search(r"model\.layers +seeds", text)
    assert re.search(r"naive +1 .*\n( +2 +1 .*\n)( .*\n)?( +16 +1 .*\n)", text)


def test_csv_has_every_seed_the_means_and_the_differences(study: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(invoke(study, "--format", "csv"))))
    fvd = [line for line in lines if line["column"] == "generated.fvd.fvd" and line["row"] == "other"]
    assert [(line["what"], line["seed"]) for line in fvd] == [
        ("seed", "0"), ("seed", "1"), ("seed", "2"), ("mean", ""), ("difference", "")
    ]  # fmt: skip
    assert [float(line["value"]) for line in fvd[:3]] == pytest.approx([50.0, 60.1, 70.2])
    difference = fvd[-1]
    assert (difference["pairs"], difference["verdict"], difference["better"]) == ("3", "better", "lower")
    assert float(difference["low"]) < float(difference["value"]) < float(difference["high"]) < 0
    assert 0 < float(difference["p"]) <= float(difference["corrected_p"]) < 0.05
    assert {line["row"] for line in lines if line["kind"] == "bound"} == {"real", "reconstruction", "linear", "hold"}


def test_json_has_every_seed_and_null_for_what_was_not_determined(make_run: MakeRun, study: Path) -> None:
    make_run("without", fvd=None)
    content = json.loads(invoke(study, "--format", "json"))
    rows = {row["label"]: row for row in content["rows"]}
    assert rows["other"]["cells"]["generated.fvd.fvd"]["seeds"] == {"0": 50.0, "1": 60.1, "2": 70.2}
    assert rows["naive"]["cells"]["generated.fvd.fvd"]["difference"] is None
    assert "generated.fvd.fvd" not in rows["without"]["cells"]
    assert list(rows["other"]["runs"]) == ["0", "1", "2"]
    (column,) = (column for column in content["columns"] if column["key"] == "generated.fvd.fvd")
    assert content["protocols"][column["protocol"]]["extractor"] == "shapes3d"
    assert content["baseline"] == "naive"


def test_latex_is_booktabs_with_bold_for_the_judged_alone(study: Path) -> None:
    text = invoke(study, "--format", "latex")
    assert [line for line in text.splitlines() if line.startswith("\\") and "rule" in line] == [
        r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"
    ]  # fmt: skip
    assert re.findall(r"\\textbf\{(.*?)\}", text) == [r"60.1 $\pm$ 25.1"]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {3}
    assert r"FVD (shapes3d) $\downarrow$" in rows[0]
    assert rows[-1].startswith(r"\emph{hold} & 300.0 & -- & --")


def test_markdown_has_values_with_half_intervals_and_says_what_they_are(study: Path) -> None:
    lines = invoke(study, "--format", "markdown").splitlines()
    assert lines[0] == "|  | FVD (shapes3d) ↓ | accuracy ↑ | training time |"
    assert lines[2] == "| naive | 110.0 ± 24.8 | 0.500 | 1 min 30 s |"
    assert lines[3] == "| other | **60.1 ± 25.1** | 0.500 ± 0.248 | 1 min 30 s |"
    assert any("Bold: better than naive" in line for line in lines)


HOSTILE = r"50%_&#$ {x}~^|*`<b>[a]"


@pytest.mark.parametrize("form", ["table", "csv", "latex", "markdown", "json"])
def test_names_that_are_no_words_of_the_format_are_escaped(make_run: MakeRun, tmp_path: Path, form: str) -> None:
    make_run("naive")
    make_run(HOSTILE)
    text = invoke(tmp_path / "study", "--format", form)
    if form == "latex":
        assert r"{}50\%\_\&\#\$ \{x\}\textasciitilde{}\textasciicircum{}|*`<b>[a] & " in text
    elif form == "markdown":
        (line,) = (line for line in text.splitlines() if line.startswith("| 50%"))
        assert r"50%\_\&\#$ {x}\~^\|\*\`\<b\>\[a\]" in line
        assert len(re.findall(r"(?<!\\)\|", line)) == 5
    elif form == "csv":
        assert HOSTILE in {line["row"] for line in csv.DictReader(io.StringIO(text))}
    elif form == "json":
        assert HOSTILE in {row["label"] for row in json.loads(text)["rows"]}
    else:
        assert HOSTILE in text


@pytest.mark.parametrize(
    ("suffix", "start"), [(".csv", "row,kind"), (".tex", "% Means"), (".md", "|  | FVD"), (".json", "{")]
)
def test_the_suffix_of_the_file_says_what_is_written(study: Path, tmp_path: Path, suffix: str, start: str) -> None:
    out = tmp_path / f"new/table{suffix}"
    assert "naive" in invoke(study, "--out", out)
    assert out.read_text().startswith(start)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "table.xlsx"], r"--out table\.xlsx: the suffix .* \.html, \.csv, \.tex, \.md, \.json"),
        (["--format", "html"], r"--format html: .* --out report\.html"),
        (["--baseline", "naiv"], "Did you mean 'naive'"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["compare", str(study), *arguments])
    assert result.exit_code == 1
    assert re.search(message, " ".join(result.output.split()))
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(study: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    result = CliRunner().invoke(app, ["compare", str(study), "--out", str(tmp_path / "table.csv")])
    assert result.exit_code == 1
    assert "table.csv" in "".join(result.output.split())
    assert not list(tmp_path.glob(".*partial"))
