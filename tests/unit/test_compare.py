"""What `cogvid compare` promises about what it reads, orders and keeps apart."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.compare import Comparison, compare, find_runs
from cogvid.compare.comparison import Column, Row
from cogvid.errors import UserError
from cogvid.metrics.protocol import protocol_hash
from cogvid.pipeline.listing import read_listing, write_listing

MakeRun = Callable[..., Path]
MISSING = ("config.yaml", "plugins.json", "environment.json", "metrics.json", "samples")
FVD = {"metric": "fvd", "frames": 17, "frame_rate": "4", "data": "shapes", "real_codec": "h264", "reference": "aa"}


def columns_of(comparison: Comparison, start: str) -> list[Column]:
    return [column for column in comparison.columns if column.title.startswith(start)]


def means(comparison: Comparison, column: Column) -> list[float | None]:
    return [row.cells[column.key].mean if column.key in row.cells else None for row in comparison.variants]


def row_of(comparison: Comparison, label: str) -> Row:
    (row,) = (row for row in comparison.rows if row.label == label)
    return row


def lacking(comparison: Comparison) -> dict[str, str]:
    return {trouble.run: trouble.cause for trouble in comparison.troubles}


@pytest.mark.parametrize("depth", ["study/naive/0", "study/naive", "study"])
def test_runs_are_found_from_a_run_a_variant_and_an_experiment_folder(
    make_run: MakeRun, tmp_path: Path, depth: str
) -> None:
    make_run()
    assert [run.folder for run in find_runs([tmp_path / depth])] == [tmp_path / "study/naive/0"]


def test_a_folder_without_runs_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        find_runs([tmp_path])
    with pytest.raises(UserError, match="nowhere"):
        find_runs([tmp_path / "nowhere"])


def test_variants_come_in_the_order_of_the_experiment_file_and_the_first_is_the_baseline(
    make_run: MakeRun, tmp_path: Path
) -> None:
    for variant in ("alpha", "default", "omega", "beta"):
        make_run(variant)
    write_listing(tmp_path / "study", ["omega", "beta"], [0])
    comparison = compare(find_runs([tmp_path / "study"]))
    assert [row.label for row in comparison.variants] == ["omega", "beta", "default", "alpha"]
    assert comparison.baseline == "omega"
    given = compare(find_runs([tmp_path / "study/alpha", tmp_path / "study"]))
    assert [row.label for row in given.variants] == ["alpha", "omega", "beta", "default"]


def test_a_first_variant_without_scores_is_no_baseline(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("first", without=("metrics.json",))
    make_run("second")
    comparison = compare(find_runs([tmp_path / "study"]))
    assert comparison.baseline == "second"
    assert "first has no scores, so the others are compared with second." in comparison.notes


def test_another_baseline_moves_no_row(make_run: MakeRun, tmp_path: Path) -> None:
    for variant, fvd in (("one", 100.0), ("two", 90.0)):
        make_run(variant, fvd=fvd)
    comparison = compare(find_runs([tmp_path / "study"]), "two")
    first, second = (row.cells["generated.fvd.fvd"].difference for row in comparison.variants)
    assert [row.label for row in comparison.variants] == ["one", "two"]
    assert first is not None
    assert (first.mean, second) == (10.0, None)


def test_an_unknown_baseline_is_answered_with_the_nearest(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("local3d")
    with pytest.raises(UserError, match=r"'locl3d' here\. Did you mean 'local3d'"):
        compare(find_runs([tmp_path / "study"]), "locl3d")


def test_run_and_ablate_keep_what_an_experiment_consists_of(tmp_path: Path) -> None:
    write_listing(tmp_path / "study", ["b", "a"], [3, 1])
    write_listing(tmp_path / "study", ["b", "a", "c"])
    listing = read_listing(tmp_path / "study")
    assert (listing.variants, listing.seeds) == (("b", "a", "c"), (3, 1))
    (tmp_path / "study/experiment.json").write_text('{"varia')
    assert read_listing(tmp_path / "study").variants == ()


def test_what_the_experiment_lists_and_has_no_folder_is_missing(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("naive", 0)
    write_listing(tmp_path / "study", ["naive", "local3d"], [0, 1])
    cause = "missing: the experiment lists it, and it was not begun"
    comparison = compare(find_runs([tmp_path / "study"]))
    assert lacking(comparison) == {f"study/{run}": cause for run in ("naive/1", "local3d/0", "local3d/1")}
    assert [row.label for row in comparison.variants] == ["naive"]
    assert lacking(compare(find_runs([tmp_path / "study/naive"]))) == {"study/naive/1": cause}
    assert not compare(find_runs([tmp_path / "study/naive/0"])).troubles


@pytest.mark.parametrize("name", MISSING)
def test_an_incomplete_run_is_listed_with_what_it_lacks(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    make_run("whole")
    make_run("partial", without=(name,))
    found = lacking(compare(find_runs([tmp_path / "study"])))
    assert list(found) == ["study/partial/0"]
    assert found["study/partial/0"].endswith(f"lacks {name}")


def test_a_run_that_ended_before_its_time_is_listed_with_its_cause(make_run: MakeRun, tmp_path: Path) -> None:
    from cogvid.pipeline.lab import log
    from cogvid.pipeline.logs import log_to_file

    run = make_run(without=("metrics.json",))
    with log_to_file(run / "log.txt"):
        log.warning("a warning")
    with pytest.raises(RuntimeError), log_to_file(run / "log.txt"):
        raise RuntimeError("CUDA out of\nmemory")
    cause = lacking(compare(find_runs([run])))["study/naive/0"]
    assert cause == "ended by RuntimeError: CUDA out of memory; lacks metrics.json"
    with log_to_file(run / "log.txt"):
        log.warning("another attempt")
    assert "ended without a word" in lacking(compare(find_runs([run])))["study/naive/0"]
    with (run / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert lacking(compare(find_runs([run])))["study/naive/0"].startswith("still at work")


def test_an_unfinished_stage_and_a_cut_off_file_are_listed(make_run: MakeRun) -> None:
    run = make_run()
    (run / "stages/sequential/stage.json").unlink()
    with (run / "stages/sequential/history.jsonl").open("a") as file:
        file.write('{"step": 300, "lo')
    (run / "metrics.json").write_text('{"sets": {"gen')
    (found,) = find_runs([run])
    assert found.lacks == ("metrics.json (cut off)", "stage sequential (not finished)")
    assert len(found.stages["sequential"].losses) == 30


def test_damaged_files_are_listed(make_run: MakeRun) -> None:
    run = make_run()
    history = run / "stages/sequential/history.jsonl"
    lines = history.read_text().splitlines()
    history.write_text("\n".join([lines[0], "[3]", '{"step": {}, "loss": 1}', *lines[1:]]) + "\n")
    (run / "metrics.json").write_text("[]")
    (found,) = find_runs([run])
    damaged = [f"line {number} of the history of stage sequential (damaged)" for number in (2, 3)]
    assert found.lacks == ("metrics.json (damaged)", *damaged)
    assert len(found.stages["sequential"].losses) == 30


def test_a_run_on_tokens_has_held_out_losses_and_lacks_nothing(make_run: MakeRun) -> None:
    run = make_run(without=("samples",), held_out=held_out(2.0))
    (run / "metrics.json").write_text(json.dumps({"held_out": {"sequential": {"loss": 2.0}}}))
    comparison = compare(find_runs([run]))
    assert not comparison.troubles
    assert means(comparison, columns_of(comparison, "sequential held-out loss")[0]) == [2.0]


def test_scores_of_the_older_format_are_not_shown_and_how_to_renew_them_is_said(make_run: MakeRun) -> None:
    run = make_run()
    old = {"sets": {"generated": {"fvd": {"fvd": 1.0}}}, "protocol": {"fvd": {"frames": 17}}, "speed": {}}
    (run / "metrics.json").write_text(json.dumps(old))
    comparison = compare(find_runs([run]))
    assert f"cogvid evaluate {run}`" in lacking(comparison)["study/naive/0"]
    assert not [column for column in comparison.columns if column.group == "quality"]


def test_a_value_whose_protocol_is_not_in_the_file_is_not_shown(make_run: MakeRun) -> None:
    run = make_run()
    content = json.loads((run / "metrics.json").read_text())
    content["protocols"].pop(content["sets"]["generated"]["fvd"]["protocol"])
    (run / "metrics.json").write_text(json.dumps(content))
    comparison = compare(find_runs([run]))
    assert "protocol of fvd on generated" in lacking(comparison)["study/naive/0"]
    assert not columns_of(comparison, "FVD")


def test_titles_units_and_directions_are_those_that_the_metrics_gave(make_run: MakeRun) -> None:
    comparison = compare(find_runs([make_run()]))
    quality = [column for column in comparison.columns if column.group == "quality"]
    assert [(c.title, c.unit, c.better, c.headline) for c in quality] == [
        ("FVD (shapes3d)", "", "lower", True),
        ("accuracy", "share", "higher", True),
        ("path error", "pixels", "lower", False),
        ("key frames: accuracy", "share", "higher", False),
        ("key frames: path error", "pixels", "lower", False),
    ]
    assert quality[0].text == "distance between features of real and generated videos"
    assert comparison.undetermined == ("KVD (shapes3d)", "key frames: FVD (shapes3d)", "key frames: KVD (shapes3d)")
    assert row_of(comparison, "naive").cells[quality[0].key].error == 2.5


def test_a_standard_error_and_seeds_are_not_mixed(make_run: MakeRun, tmp_path: Path) -> None:
    for seed, fvd in enumerate((90.0, 100.0, 110.0)):
        make_run(seed=seed, fvd=fvd)
    cell = row_of(compare(find_runs([tmp_path / "study"])), "naive").cells["generated.fvd.fvd"]
    assert cell.seeds == {0: 90.0, 1: 100.0, 2: 110.0}
    assert (cell.mean, cell.error) == (100.0, None)
    assert cell.interval == pytest.approx((75.159, 124.841), abs=1e-3)


def test_floors_and_ceilings_are_rows_of_the_same_table_the_best_first(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("naive")
    run = make_run("hold")
    content = json.loads((run / "metrics.json").read_text())
    content["sets"]["real"]["fvd"]["values"]["fvd"] = 3.0
    content["sets"]["another"] = content["sets"]["linear"]
    (run / "metrics.json").write_text(json.dumps(content))
    comparison = compare(find_runs([tmp_path / "study"]))
    assert [(row.label, row.kind) for row in comparison.rows] == [
        ("hold", "variant"),
        ("naive", "variant"),
        ("real", "bound"),
        ("reconstruction", "bound"),
        ("linear", "bound"),
        ("another", "bound"),
        ("hold (bound)", "bound"),
    ]
    real = row_of(comparison, "real").cells["generated.fvd.fvd"]
    assert (real.mean, real.seeds, real.difference) == (2.0, {0: 2.0}, None)
    assert row_of(comparison, "hold (bound)").cells["generated.fvd.fvd"].mean == 300.0


DIFFERENT = [{"frame_rate": "8"}, {"data": "folder", "reference": "bb"}, {"real_codec": "mpeg4"}]


@pytest.mark.parametrize("change", DIFFERENT, ids=lambda change: next(iter(change)))
def test_values_of_different_protocols_have_no_difference_by_api_and_by_command(
    make_run: MakeRun, tmp_path: Path, change: Mapping[str, str]
) -> None:
    for seed in range(3):
        make_run("one", seed, fvd=100.0 + seed, protocol=FVD)
        make_run("other", seed, fvd=50.0 + 1.1 * seed, protocol={**FVD, **change})
    comparison = compare(find_runs([tmp_path / "study"]))
    first, second = columns_of(comparison, "FVD")
    assert (first.title, second.title) == ("FVD (shapes3d) [A]", "FVD (shapes3d) [B]")
    assert {first.protocol, second.protocol} == {protocol_hash(FVD), protocol_hash({**FVD, **change})}
    assert means(comparison, first) == [101.0, None]
    assert means(comparison, second) == [None, pytest.approx(51.1)]
    # A bound stands under each protocol by itself, too.
    assert set(row_of(comparison, "hold").cells) >= {first.key, second.key}
    assert all(
        row.cells[c.key].difference is None for c in (first, second) for row in comparison.rows if c.key in row.cells
    )
    assert comparison.splits["fvd"].keys == {key: (FVD[key], value) for key, value in change.items()}
    for baseline in ("one", "other"):
        result = CliRunner().invoke(
            app, ["compare", str(tmp_path / "study"), "--baseline", baseline, "--format", "json", "--all"]
        )
        assert result.exit_code == 0, result.output
        rows = {row["label"]: row["cells"] for row in json.loads(result.stdout)["rows"]}
        for label, key, other in (("one", first.key, second.key), ("other", second.key, first.key)):
            assert rows[label][key]["difference"] is None
            assert other not in rows[label]


def test_seeds_measured_under_different_protocols_are_not_averaged(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(seed=0, fvd=100.0, protocol=FVD)
    make_run(seed=1, fvd=50.0, protocol={**FVD, "split": "train"})
    comparison = compare(find_runs([tmp_path / "study"]))
    assert [means(comparison, column) for column in columns_of(comparison, "FVD")] == [[100.0], [50.0]]


def test_one_hash_for_two_protocols_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("one", protocol=FVD)
    run = make_run("other", protocol={**FVD, "data": "folder"})
    own, other = protocol_hash(FVD), protocol_hash({**FVD, "data": "folder"})
    (run / "metrics.json").write_text((run / "metrics.json").read_text().replace(other, own))
    with pytest.raises(UserError, match=rf"{own} of FVD \(shapes3d\)"):
        compare(find_runs([tmp_path / "study"]))


def test_an_evaluation_of_two_folders_is_a_variant_named_after_its_file(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("naive", fvd=100.0)
    content = json.loads((run / "metrics.json").read_text())
    content["sets"] = {name: content["sets"][name] for name in ("generated", "real")}
    content["sets"]["generated"]["fvd"]["values"]["fvd"] = 40.0
    (tmp_path / "theirs.json").write_text(json.dumps(content))
    comparison = compare(find_runs([run, tmp_path / "theirs.json"]))
    assert [row.label for row in comparison.variants] == ["naive", "theirs"]
    assert means(comparison, comparison.columns[0]) == [100.0, 40.0]
    assert not comparison.troubles
    alone = compare(find_runs([tmp_path / "theirs.json"]))
    assert [row.label for row in alone.rows] == ["theirs", "real"]


def held_out(loss: float, digest: str = "aa") -> dict[str, Any]:
    """What `stage.json` says of a stage's held-out loss, frame 2's being more than frame 1's by 0.5."""
    frames = {"1": loss - 0.25, "2": loss + 0.25}
    return {"held_out": loss, "held_out_frames": frames, "held_out_on": {"samples": 64, "digest": digest}}


def test_held_out_losses_are_columns_in_nats_lower_is_better(
    make_run: MakeRun, make_stage: Callable[..., None], tmp_path: Path
) -> None:
    for seed in range(3):
        # Each seed trains a tokenizer of its own, so it has sequences of its own.
        run = make_run("naive", seed, held_out=held_out(2.0 + seed, f"of {seed}"))
        make_stage(run / "stages/image_base", f"base-{seed}", 1.0, held_out(3.0))
        make_run("worse", seed, held_out=held_out(2.01 + seed + seed * 1e-5, f"of {seed}"))
    comparison = compare(find_runs([tmp_path / "study"]))
    columns = [column for column in comparison.columns if column.group == "held_out"]
    stages = ("image base", "sequential")
    assert [(c.title, c.unit, c.better, c.headline) for c in columns] == [
        (f"{stage} held-out loss{frame}", "nats", "lower", stage == "sequential" and not frame)
        for stage in stages
        for frame in ("", " frame 1", " frame 2")
    ]
    found = row_of(comparison, "worse").cells["sequential.held-out.loss"].difference
    assert found is not None
    assert (found.verdict, found.pairs) == ("worse", 3)


def test_held_out_losses_on_other_samples_are_kept_apart(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("naive", held_out=held_out(2.0))
    make_run("other", held_out=held_out(1.0, "bb"))
    make_run("without")
    comparison = compare(find_runs([tmp_path / "study"]))
    columns = [column for column in columns_of(comparison, "sequential held-out loss") if "frame" not in column.title]
    assert [means(comparison, column) for column in columns] == [[2.0, None, None], [None, 1.0, None]]
    assert {measure: split.keys for measure, split in comparison.splits.items()} == {
        "sequential held-out": {"sequences of seed 0": ("aa", "bb")}
    }


def test_held_out_losses_on_other_sequences_in_any_seed_have_no_difference(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(3):
        make_run("naive", seed, held_out=held_out(2.0 + seed, f"of {seed}"))
        make_run("other", seed, held_out=held_out(1.0, f"of {seed}" if seed else "another tokenizer's"))
        make_run("late", seed + 3, held_out=held_out(1.0, f"of {seed + 3}"))
    comparison = compare(find_runs([tmp_path / "study"]))
    columns = [column for column in columns_of(comparison, "sequential held-out loss") if "frame" not in column.title]
    assert len(columns) == 3
    assert all(len([mean for mean in means(comparison, column) if mean is not None]) == 1 for column in columns)


def test_a_frame_tokenizer_has_an_error_and_decibels(make_run: MakeRun, make_stage: Callable[..., None]) -> None:
    run = make_run()
    make_stage(run / "stages/tokenizer", "tokenizer-1", 1.0, {**held_out(0.01), "held_out_psnr": 20.0})
    columns = [column for column in compare(find_runs([run])).columns if column.group == "held_out"]
    assert [(column.title, column.unit, column.better) for column in columns] == [
        ("tokenizer held-out error", "", "lower"),
        ("tokenizer held-out PSNR", "dB", "higher"),
    ]


def test_speeds_of_different_machines_never_share_a_column(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("naive", cpu="Xeon")
    make_run("other", cpu="EPYC")
    comparison = compare(find_runs([tmp_path / "study"]))
    for title in ("tokens per second", "training time"):
        assert [means(comparison, column).count(None) for column in columns_of(comparison, title)] == [1, 1]
    assert [split.keys for split in comparison.splits.values()] == [{"cpu": ("Xeon", "EPYC")}]


def test_the_time_of_an_interrupted_training_counts_as_unknown(make_run: MakeRun) -> None:
    run = make_run()
    stage = run / "stages/sequential/stage.json"
    stage.write_text(json.dumps(json.loads(stage.read_text()) | {"resumed": True}))
    comparison = compare(find_runs([run]))
    assert "training time" in comparison.undetermined
    assert any("resumed" in note for note in comparison.notes)


def test_seeds_without_a_partner_are_left_out_of_the_difference_and_named(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        make_run("naive", seed)
    for seed in (1, 2, 5):
        make_run("other", seed)
    comparison = compare(find_runs([tmp_path / "study"]))
    found = row_of(comparison, "other").cells["generated.fvd.fvd"].difference
    assert found is not None
    assert found.pairs == 2
    assert "Differences of other leave out the seeds that only one of it and naive has: 0, 5." in comparison.notes


def test_variants_of_a_sweep_stand_behind_the_named_ones_ordered_by_value(make_run: MakeRun, tmp_path: Path) -> None:
    for layers in (16, 2, 4):
        make_run(f"default+model.layers-{layers}", overrides={"model.layers": layers})
    make_run("a+b")
    make_run("zoo+model.layers-3", overrides={"model.layers": 3})
    comparison = compare(find_runs([tmp_path / "study"]))
    assert [row.label for row in comparison.variants] == ["a+b", "layers=2", "layers=4", "layers=16", "zoo layers=3"]
    assert [row.swept for row in comparison.variants[:2]] == [{}, {"model.layers": "2"}]
    assert [row.base for row in comparison.variants] == ["a+b", "", "", "", "zoo"]


def test_keys_of_a_sweep_that_end_alike_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    for one, other in ((10, 20), (10, 30)):
        changes = {"stages.sequential.steps": one, "stages.interpolation.steps": other}
        name = "".join(f"+{key}-{value}" for key, value in changes.items())
        make_run(f"default{name}", overrides=changes)
    labels = [row.label for row in compare(find_runs([tmp_path / "study"])).variants]
    assert labels == ["sequential.steps=10, interpolation.steps=20", "sequential.steps=10, interpolation.steps=30"]


def test_variants_of_two_experiments_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    for experiment in ("first", "second"):
        make_run("naive", experiment=experiment)
    comparison = compare(find_runs([tmp_path / "first", tmp_path / "second"]))
    assert [row.label for row in comparison.variants] == ["first/naive", "second/naive"]


def test_only_the_configuration_keys_that_differ_are_shown(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("shallow", overrides={"model.layers": 2})
    make_run("deep", overrides={"model.layers": 8})
    comparison = compare(find_runs([tmp_path / "study/shallow", tmp_path / "study"]))
    assert comparison.config == {"model.layers": ("2", "8")}
    assert comparison.environment == {}


def test_seeds_of_one_variant_with_different_configurations_are_pointed_out(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(seed=0, overrides={"model.layers": 2})
    make_run(seed=1, overrides={"model.layers": 8})
    assert any("model.layers" in note for note in compare(find_runs([tmp_path / "study"])).notes)


def test_a_hash_written_by_an_evaluation_is_that_of_its_record(make_run: MakeRun) -> None:
    """What these tests write is what the evaluation would."""
    content = json.loads((make_run() / "metrics.json").read_text())
    assert {protocol_hash(record) for record in content["protocols"].values()} == content["protocols"].keys()
