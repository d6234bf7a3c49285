"""What `cogvid compare` promises about its tables and its report."""

from __future__ import annotations

import functools
import io
import json
import math
import re
import tempfile
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import typer
from omegaconf import OmegaConf
from rich.console import Console
from typer.testing import CliRunner

from cogvid.cli.compare import register
from cogvid.compare import Comparison, compare, find_runs, print_comparison, write_report
from cogvid.compare.export import to_json
from cogvid.compare.summary import Row
from cogvid.config.schema import ExperimentConfig
from cogvid.data.video import write_video
from cogvid.errors import UserError

CAPTIONS = ("a red square moves left", "a blue <circle> grows & shrinks", "a green ring waits")
FVD = {
    "extractor": "i3d",
    "sha256": "ab" * 32,
    "frames": 17,
    "resolution": 32,
    "samples": 128,
    "split": "test",
}
MISSING = ("config.yaml", "plugins.json", "environment.json", "metrics.json", "samples")


def make_run(
    root: Path,
    variant: str = "naive",
    seed: int = 0,
    *,
    experiment: str = "study",
    fvd: float | None = 100.0,
    accuracy: float = 0.5,
    protocol: Mapping[str, Any] = FVD,
    overrides: Mapping[str, Any] | None = None,
    cpu: str = "Xeon",
    shared: str = "",
    held_out: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    captions: tuple[str, ...] = CAPTIONS,
) -> Path:
    """A run folder as `cogvid run` leaves it; `shared` names an image base that several runs point to."""
    folder = root / experiment / variant / str(seed)
    folder.mkdir(parents=True)
    config = OmegaConf.structured(ExperimentConfig(name=experiment, variant=variant, seed=seed))
    for key, value in (overrides or {}).items():
        OmegaConf.update(config, key, value)
    oracle = {"accuracy": accuracy, "path_error": 1 - accuracy}
    sets = {
        "generated": {"fvd": {"fvd": fvd}, "shapes_oracle": oracle},
        "key_frames": {"fvd": {"fvd": None}, "shapes_oracle": oracle},
        "hold": {"fvd": {"fvd": 300.0}},
        "linear": {"fvd": {"fvd": 250.0}},
        "reconstruction": {"fvd": {"fvd": 30.0}},
        "real": {"fvd": {"fvd": 0.0}},
    }
    component = {"kind": "attention", "name": "naive", "plugin": "cogvid_plugins.attention.naive", "version": "0.1.0"}
    files = {
        "plugins.json": {"components": [component]},
        "environment.json": {
            "git_commit": "0123abc",
            "git_dirty": False,
            "python": "3.11.7",
            "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
            "hardware": {"cpu": cpu, "cores": 2, "memory_gib": 8.0 + seed, "gpu": None},
        },
        "metrics.json": {
            "sets": sets,
            "protocol": {"fvd": dict(protocol), "shapes_oracle": {"version": 1}},
            "speed": {"tokens_per_second": 3000.0},
        },
    }
    if "config.yaml" not in without:
        OmegaConf.save(config, folder / "config.yaml")
    for name, content in files.items():
        if name not in without:
            (folder / name).write_text(json.dumps(content))
    (folder / "stages").mkdir()
    _make_stage(folder / "stages" / "sequential", f"sequential-{variant}-{seed}", 1.0 + seed, held_out or {})
    if shared:
        place = root / "stages" / shared
        if not place.exists():
            _make_stage(place, shared, 2.0)
        (folder / "stages" / "image_base").symlink_to(Path("../../../../stages") / shared)
    if "samples" not in without:
        _make_samples(folder / "samples", captions)
    return folder


def _make_stage(folder: Path, key: str, loss: float, held_out: Mapping[str, Any] = MappingProxyType({})) -> None:
    folder.mkdir(parents=True)
    summary = {"name": folder.name, "key": key, "seconds": 90.0, "steps": 300}
    summary |= {"parameters": 2_000_000, "trainable_parameters": 500_000}
    (folder / "stage.json").write_text(json.dumps(summary | held_out))
    history = [{"step": step, "loss": loss + math.exp(-step / 50)} for step in range(0, 300, 10)]
    if held_out:
        history[-1]["held_out"] = held_out["held_out"]
    (folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))


def _make_samples(folder: Path, captions: tuple[str, ...]) -> None:
    lines = [{"index": index, "caption": caption, "rate": 1.0} for index, caption in enumerate(captions)]
    for name in ("real", "generated"):
        (folder / name).mkdir(parents=True)
        for line in lines:
            (folder / name / f"{line['index']}.mp4").write_bytes(_mp4())
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@functools.cache
def _mp4() -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, frames, 4, lossless=False)
        return path.read_bytes()


def rows_of(comparison: Comparison, title: str) -> list[Row]:
    return [row for row in comparison.rows if row.title == title]


def printed(comparison: Comparison, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    print_comparison(comparison, console)
    return console.export_text()


@pytest.fixture
def report(tmp_path: Path) -> str:
    for variant, accuracy in (("naive", 0.5), ("local3d", 0.6)):
        make_run(tmp_path, variant, accuracy=accuracy, shared="base", overrides={"model.layers": len(variant)})
    path = tmp_path / "report.html"
    write_report(compare(find_runs([tmp_path / "study"])), path)
    return path.read_text()


@pytest.mark.parametrize("depth", ["study/naive/0", "study/naive", "study"])
def test_runs_are_found_from_a_run_a_variant_and_an_experiment_folder(tmp_path: Path, depth: str) -> None:
    make_run(tmp_path)
    assert [run.folder for run in find_runs([tmp_path / depth])] == [tmp_path / "study/naive/0"]


def test_the_first_folder_given_is_the_baseline_and_no_run_counts_twice(tmp_path: Path) -> None:
    for variant in ("alpha", "default", "omega"):
        make_run(tmp_path, variant)
    study = tmp_path / "study"
    assert [run.variant for run in find_runs([study])] == ["default", "alpha", "omega"]
    assert [run.variant for run in find_runs([study / "omega", study])] == ["omega", "default", "alpha"]


def test_a_folder_without_runs_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        find_runs([tmp_path])
    with pytest.raises(UserError, match="nowhere"):
        find_runs([tmp_path / "nowhere"])


def test_seeds_are_averaged_with_their_spread(tmp_path: Path) -> None:
    for seed, fvd in enumerate((90.0, 100.0, 110.0)):
        make_run(tmp_path, seed=seed, fvd=fvd)
    comparison = compare(find_runs([tmp_path / "study"]))
    (value,) = rows_of(comparison, "generated fvd")[0].values
    assert value is not None
    assert (value.mean, value.spread, value.seeds) == (100.0, 10.0, 3)
    assert "100.0 ± 10.0" in printed(comparison)


def test_a_single_seed_has_no_spread(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert "±" not in printed(compare(find_runs([tmp_path / "study"])))


def test_differences_are_to_the_first_variant_and_judged_by_the_direction_of_the_metric(
    tmp_path: Path,
) -> None:
    make_run(tmp_path, "naive", fvd=100.0, accuracy=0.5)
    make_run(tmp_path, "worse", fvd=120.0, accuracy=0.4)
    comparison = compare(find_runs([tmp_path / "study"]))
    fvd, accuracy, error = (rows_of(comparison, f"generated {name}")[0] for name in ("fvd", "accuracy", "path error"))
    assert (fvd.better, accuracy.better, error.better) == ("lower", "higher", "lower")
    assert fvd.difference(0) is None
    assert fvd.difference(1) == 20.0
    assert {row.verdict(1) for row in (fvd, accuracy, error)} == {"worse"}


def test_a_difference_within_the_spread_is_not_called_better_or_worse(tmp_path: Path) -> None:
    for variant, values in (("naive", (90.0, 110.0)), ("other", (91.0, 121.0))):
        for seed, fvd in enumerate(values):
            make_run(tmp_path, variant, seed, fvd=fvd)
    row = rows_of(compare(find_runs([tmp_path / "study"])), "generated fvd")[0]
    assert row.difference(1) == 6.0
    assert row.verdict(1) is None


def test_values_of_different_protocols_never_share_a_row(tmp_path: Path) -> None:
    make_run(tmp_path, "naive", fvd=100.0)
    make_run(tmp_path, "other", fvd=50.0, protocol={**FVD, "samples": 2048, "sha256": "cd" * 32})
    comparison = compare(find_runs([tmp_path / "study"]))
    first, second = rows_of(comparison, "generated fvd")
    assert [value is None for value in first.values] == [False, True]
    assert [value is None for value in second.values] == [True, False]
    assert first.difference(1) is second.difference(1) is None
    text = printed(comparison)
    assert "generated fvd [A]" in text
    assert "generated fvd [B]" in text


def test_the_legend_names_exactly_the_protocol_keys_that_differ(tmp_path: Path) -> None:
    make_run(tmp_path, "naive")
    make_run(tmp_path, "other", protocol={**FVD, "samples": 2048, "stride": 2})
    (split,) = compare(find_runs([tmp_path / "study"])).splits
    assert split.metric == "fvd"
    assert split.keys == {"samples": ("128", "2048"), "stride": ("not recorded", "2")}


def test_seeds_measured_under_different_protocols_are_not_averaged(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0, fvd=100.0)
    make_run(tmp_path, seed=1, fvd=50.0, protocol={**FVD, "split": "train"})
    rows = rows_of(compare(find_runs([tmp_path / "study"])), "generated fvd")
    assert [row.values[0] and row.values[0].mean for row in rows] == [100.0, 50.0]


def held_out(loss: float, digest: str = "aa") -> dict[str, Any]:
    """What `stage.json` says of a stage's held-out loss, frame 2's being more than frame 1's by 0.5."""
    frames = {"1": loss - 0.25, "2": loss + 0.25}
    return {"held_out": loss, "held_out_frames": frames, "held_out_on": {"samples": 64, "digest": digest}}


def test_held_out_losses_on_the_same_samples_share_a_row_lower_is_better(tmp_path: Path) -> None:
    for seed, loss in enumerate((2.0, 2.001)):
        make_run(tmp_path, "naive", seed, held_out=held_out(loss))
        make_run(tmp_path, "worse", seed, held_out=held_out(loss + 0.01))
    comparison = compare(find_runs([tmp_path / "study"]))
    rows = comparison.group("held_out")
    titles = [f"sequential held out loss{frame}" for frame in ("", " frame 1", " frame 2")]
    assert [(row.title, row.unit, row.better, row.protocol) for row in rows] == [
        (t, "nats", "lower", "") for t in titles
    ]
    assert {row.verdict(1) for row in rows} == {"worse"}
    assert re.search(
        r"sequential held out loss \(nats\) ↓ +2\.0005 ± 0\.0007 +2\.0105 ± 0\.0007 +\+0\.0100", printed(comparison)
    )
    exported = [row for row in json.loads(to_json(comparison))["rows"] if row["group"] == "held_out"]
    assert exported[2]["unit"] == "nats"
    assert exported[2]["values"]["worse"]["mean"] == pytest.approx(2.2605)


def test_held_out_losses_on_other_samples_are_kept_apart(tmp_path: Path) -> None:
    make_run(tmp_path, "naive", held_out=held_out(2.0))
    make_run(tmp_path, "other", held_out=held_out(1.0, "bb"))
    make_run(tmp_path, "without")
    comparison = compare(find_runs([tmp_path / "study"]))
    values = [[value and value.mean for value in row.values] for row in comparison.group("held_out")[:2]]
    assert values == [[2.0, None, None], [None, 1.0, None]]
    (split,) = comparison.splits
    assert (split.metric, split.keys) == ("sequential held-out loss", {"digest": ("aa", "bb")})
    write_report(comparison, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Held-out loss</h2>" in page
    assert "sequential held out loss (nats) [B] ↓" in page


def test_a_frame_tokenizer_has_an_error_and_decibels(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    tokenizer = {**held_out(0.01), "held_out_frames": {}, "held_out_psnr": 20.0}
    _make_stage(run / "stages/tokenizer", "tokenizer-1", 1.0, tokenizer)
    rows = compare(find_runs([run])).group("held_out")
    assert [(row.title, row.unit, row.better) for row in rows] == [
        ("tokenizer held out error", "", "lower"),
        ("tokenizer held out psnr", "dB", "higher"),
    ]


def test_speeds_of_different_machines_never_share_a_row(tmp_path: Path) -> None:
    make_run(tmp_path, "naive", cpu="Xeon")
    make_run(tmp_path, "other", cpu="EPYC")
    comparison = compare(find_runs([tmp_path / "study"]))
    assert len(rows_of(comparison, "tokens per second")) == len(rows_of(comparison, "training time")) == 2
    assert [split.keys for split in comparison.splits] == [{"cpu": ("Xeon", "EPYC")}]


def test_the_time_of_an_interrupted_training_counts_as_unknown(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    stage = run / "stages/sequential/stage.json"
    stage.write_text(json.dumps(json.loads(stage.read_text()) | {"resumed": True}))
    comparison = compare(find_runs([run]))
    assert comparison.undetermined == ("key frames fvd", "training time")
    assert "resumed" in comparison.notes[0]


def test_floors_and_ceilings_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path)
    comparison = compare(find_runs([tmp_path / "study"]))
    quality = {row.title for row in comparison.group("quality")}
    bounds = [row.title for row in comparison.group("bounds")]
    assert bounds == ["real fvd", "reconstruction fvd", "hold fvd", "linear fvd"]
    assert not quality & set(bounds)


@pytest.mark.parametrize("name", MISSING)
def test_an_incomplete_run_is_listed_with_what_it_lacks(tmp_path: Path, name: str) -> None:
    make_run(tmp_path, "whole")
    make_run(tmp_path, "partial", without=(name,))
    comparison = compare(find_runs([tmp_path / "study"]))
    assert [(run.variant, run.lacks) for run in comparison.incomplete] == [("partial", (name,))]
    assert re.search(rf"study/partial/0 +{re.escape(name)}", printed(comparison))


def test_an_unfinished_stage_and_a_cut_off_file_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "stages/sequential/stage.json").unlink()
    with (run / "stages/sequential/history.jsonl").open("a") as file:
        file.write('{"step": 300, "lo')
    (run / "metrics.json").write_text('{"sets": {"gen')
    (found,) = find_runs([run])
    assert found.lacks == ("metrics.json (cut off)", "stage sequential (not finished)")
    assert len(found.stages["sequential"].losses) == 30


def test_damaged_files_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    history = run / "stages/sequential/history.jsonl"
    lines = history.read_text().splitlines()
    history.write_text("\n".join([lines[0], "[3]", '{"step": {}, "loss": 1}', *lines[1:]]) + "\n")
    (run / "metrics.json").write_text("[]")
    (found,) = find_runs([run])
    damaged = [f"line {number} of the history of stage sequential (damaged)" for number in (2, 3)]
    assert found.lacks == ("metrics.json (damaged)", *damaged)
    assert len(found.stages["sequential"].losses) == 30


def test_variants_of_two_experiments_are_told_apart(tmp_path: Path) -> None:
    for experiment in ("first", "second"):
        make_run(tmp_path, "naive", experiment=experiment)
    comparison = compare(find_runs([tmp_path / "first", tmp_path / "second"]))
    assert [variant.label for variant in comparison.variants] == ["first/naive", "second/naive"]


def test_only_the_configuration_keys_that_differ_are_shown(tmp_path: Path) -> None:
    make_run(tmp_path, "shallow", overrides={"model.layers": 2})
    make_run(tmp_path, "deep", overrides={"model.layers": 8})
    comparison = compare(find_runs([tmp_path / "study/shallow", tmp_path / "study"]))
    assert comparison.config == {"model.layers": ("2", "8")}
    assert comparison.environment == {}


def test_seeds_of_one_variant_with_different_configurations_are_pointed_out(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0, overrides={"model.layers": 2})
    make_run(tmp_path, seed=1, overrides={"model.layers": 8})
    (note,) = compare(find_runs([tmp_path / "study"])).notes
    assert "model.layers" in note


def test_many_variants_are_wrapped_into_tables_that_fit_the_terminal(tmp_path: Path) -> None:
    for index in range(9):
        make_run(tmp_path, f"variant-{index}", fvd=100.0 + index)
    make_run(tmp_path, "swept+" + "stages.sequential.steps-1000+" * 3, fvd=123.4)
    text = printed(compare(find_runs([tmp_path / "study"])), width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    for index in range(9):
        assert f"variant-{index}" in text
        assert f"{100.0 + index:.1f}" in text
    assert "123.4" in text


class _Page(HTMLParser):
    """Collects the attributes that make a browser fetch something, and the videos."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.videos: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fetched = {"src", "href", "srcset", "data", "poster", "action", "xlink:href"}
        self.addresses += [value or "" for name, value in attrs if name in fetched]
        if tag == "video":
            self.videos.append(dict(attrs))


def test_the_report_asks_for_nothing_outside_itself(report: str) -> None:
    page = _Page()
    page.feed(report)
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "@import" not in report
    assert all(address.startswith("#") for address in re.findall(r"url\(['\"]?([^)]*)\)", report))


def test_the_report_shows_each_caption_real_and_from_every_variant(report: str) -> None:
    page = _Page()
    page.feed(report)
    assert len(page.videos) == len(CAPTIONS) * 3
    assert all({"autoplay", "loop", "muted", "playsinline"} <= video.keys() for video in page.videos)


def test_the_report_escapes_what_captions_and_names_contain(report: str) -> None:
    assert "a blue &lt;circle&gt; grows &amp; shrinks" in report
    assert "<circle>" not in report


def test_variants_that_share_a_stage_share_its_loss_curve(report: str) -> None:
    base, sequential = (
        re.search(rf"<h3>{stage}</h3>(.*?)</svg>", report, re.DOTALL) for stage in ("image base", "sequential")
    )
    assert base is not None
    assert sequential is not None
    assert re.findall(r"all variants|naive|local3d", base[1]) == ["all variants"]
    assert sorted(set(re.findall(r"all variants|naive|local3d", sequential[1]))) == ["local3d", "naive"]


def test_a_report_on_large_videos_shows_fewer_of_them_and_stays_under_8_megabytes(tmp_path: Path) -> None:
    run = make_run(tmp_path, captions=tuple(f"caption {i}" for i in range(8)))
    for video in run.glob("samples/*/*.mp4"):
        video.write_bytes(video.read_bytes() + bytes(800_000))
    path = tmp_path / "report.html"
    write_report(compare(find_runs([run])), path)
    assert path.stat().st_size < 8_000_000
    assert "caption 0" in path.read_text()
    assert "caption 7" not in path.read_text()


def test_a_report_that_cannot_be_written_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html"):
        write_report(compare(find_runs([tmp_path / "study"])), tmp_path / "report.html")
    assert not list(tmp_path.glob(".*partial"))


def test_a_run_without_scores_still_gives_tables_and_a_report(tmp_path: Path) -> None:
    make_run(tmp_path, without=("metrics.json", "samples"))
    comparison = compare(find_runs([tmp_path / "study"]))
    assert "training steps" in printed(comparison)
    write_report(comparison, tmp_path / "new/report.html")
    assert "metrics.json, samples" in (tmp_path / "new/report.html").read_text()


def test_what_no_run_determined_is_named_instead_of_filling_a_row(tmp_path: Path) -> None:
    make_run(tmp_path)
    comparison = compare(find_runs([tmp_path / "study"]))
    assert comparison.undetermined == ("key frames fvd",)
    assert not rows_of(comparison, "key frames fvd")


def test_the_command_prints_json_with_null_for_what_was_not_determined(tmp_path: Path) -> None:
    make_run(tmp_path, "naive", fvd=None)
    make_run(tmp_path, "other", fvd=100.0)
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "study"), "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = {row["title"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows["generated fvd"]["values"]["naive"] is None
    assert rows["generated fvd"]["values"]["other"]["mean"] == 100.0
    assert out.is_file()
