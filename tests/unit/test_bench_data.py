"""`cogvid bench data`: nothing is timed that fails its check, and what is timed is recorded whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogvid.bench import data as bench_data
from cogvid.bench.data import bare_loop, clip_set, large_clips
from cogvid.bench.data_report import targets
from cogvid.bench.data_table import TableResult, write_made_table
from cogvid.config.compose import load_experiment
from cogvid.data.files import VideoFile
from cogvid.data.frame_format import FrameFormat
from cogvid.data.reading import read_frames
from cogvid.data.table import CLIPS, ClipTable, read_table
from cogvid.data.video import write_video
from cogvid.pipeline.clips import TABLE, usable_clips
from cogvid.pipeline.lab import Lab

Bench = Callable[..., tuple[int, str, Any]]


@pytest.fixture
def bench(run_bench: Bench) -> Bench:
    return partial(run_bench, "data")


def test_a_rehearsal_checks_times_and_records(bench: Bench) -> None:
    code, output, record = bench("--workers", "0,2", "model.layers=1")
    assert code == 0, output
    assert record["rehearsal"] is True
    assert {"date", "protocol", "hardware", "versions"} <= record.keys()
    assert record["arguments"]["workers"] == [0, 2]
    small, resized, whole = record["sets"]
    assert (small["size"], resized["size"], whole["size"]) == ([32, 32], [32, 32], [48, 64])
    for one in record["sets"]:
        bare = one["decoding"]["PyAV"]
        assert one["decoding"].keys() == {"PyAV", "PyAV, as its pages write it", "0", "2"}
        for way, times in one["decoding"].items():
            assert 0 < times["min"] <= times["median"]
            assert times["frames_per_s"] == pytest.approx(one["frames"] / times["median"])
            if way in one["ratio_to_bare_loop"]:
                assert one["ratio_to_bare_loop"][way] == pytest.approx(bare["median"] / times["median"])
        assert one["ratio_to_one_process"]["0"] == 1.0
    assert small["decoding_and_encoding"].keys() == {"0", "2"}
    assert small["encoder"]["clips_per_s"] > 0
    assert "encoder" not in whole
    assert record["loading"]["loaded_over_consumed"] > 0
    assert record["table"]["rows"] == 5000
    assert 4000 < record["table"]["usable_training_clips"] < 5000
    assert record["table"]["draw_s"]["median"] > 0
    assert len(record["targets"]) >= 9
    assert "MISSED" in output or "reached" in output


def test_the_clips_of_a_folder_are_measured_and_the_others_counted(bench: Bench) -> None:
    folder = Path("videos")
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (6, 24, 40, 3), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, frames, fps=8)
    (folder / "broken.mp4").write_bytes(b"no video")
    lines = [f'{{"file": "{name}", "caption": "noise"}}\n' for name in ("a.mp4", "b.mp4", "broken.mp4")]
    (folder / "captions.jsonl").write_text("".join(lines))
    code, output, record = bench("videos", "--workers", "0", "--size", "16", "--table", "0")
    assert code == 0, output
    (one,) = record["sets"]
    assert (one["clips"], one["frames"], one["left_out"], one["size"]) == (2, 12, 1, [16, 16])
    assert "table" not in record


def test_frames_that_differ_from_the_bare_loops_are_named_and_never_timed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = bench_data.read_frames
    monkeypatch.setattr(bench_data, "read_frames", lambda *arguments: right(*arguments) ^ 1)
    code, output, record = bench("--workers", "0", "--table", "0")
    assert code == 1
    assert "Not timed, because the check failed" in output
    assert ".mp4" in output
    assert not record


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "two"], "--workers"),
        (["--workers", "0,-1"], "--workers"),
        (["quickstrat"], "quickstart"),
        (["model.layer=1"], "layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_shows_before_anything_is_measured(bench: Bench, words: list[str], said: str) -> None:
    code, output, record = bench(*words)
    assert code == 1
    assert output.startswith("Error: ")
    assert said in output
    assert not record


@pytest.mark.parametrize(
    "form", [None, FrameFormat(16, 16), FrameFormat(8, 20, "pad")], ids=["as they are", "resized", "padded"]
)
def test_the_bare_loop_makes_what_is_read(tmp_path: Path, form: FrameFormat | None) -> None:
    clips, left_out = clip_set("large", large_clips(tmp_path, 2, (24, 40, 5)), form)
    assert left_out == 0
    for place, file in enumerate(clips.files):
        assert torch.equal(bare_loop(file, form), clips.read(place))
        assert bare_loop(file, form).stride() == read_frames(file, range(5), form).stride()
    assert not torch.equal(clips.read(0), clips.read(1))


def test_a_clip_that_a_player_stretches_is_left_out_of_a_bare_loops(tmp_path: Path) -> None:
    import av
    from av.video.frame import VideoFrame

    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for _ in range(3):
            frame = VideoFrame.from_ndarray(np.zeros((16, 16, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert bench_data._placed(VideoFile(path))
    (clip,) = large_clips(tmp_path, 1, (16, 16, 2))
    assert not bench_data._placed(VideoFile.of(clip))


def test_a_made_up_table_is_one_that_a_run_reads(tmp_path: Path) -> None:
    write_made_table(tmp_path / TABLE, 5000)
    table = read_table(tmp_path / TABLE)
    assert table.schema == CLIPS
    assert len(set(table["id"].to_pylist())) == 5000
    lab = Lab(load_experiment("quickstart").config)
    clips = usable_clips(lab, tmp_path, "train")
    assert 4000 < len(clips) < 5000
    for timed in clips[:50]:
        assert timed.duration == pytest.approx(timed.times.reach, abs=0.1)
        assert len(timed.times) >= 50
    assert sum(count for _, _, count in clips.timings()) == len(clips)


def test_a_table_gives_batches_of_its_own_clips_alone(tmp_path: Path) -> None:
    write_made_table(tmp_path / TABLE, 9000)
    clips = ClipTable.open(tmp_path / TABLE).used("test")
    found = [name for batch in clips.batches(["id"]) for name in batch["id"].to_pylist()]
    assert found == [timed.clip.id for timed in clips] == clips.column("id").to_pylist()
    assert len(found) > 100


def test_a_target_is_reached_or_missed() -> None:
    table = TableResult(10, 100, open_s=3.0, draws_s=[1e-4, 2e-4], peak=10**8, own=4 * 10**8)
    assert [aim.reached for aim in targets([], None, table)] == [False, True, False, True]
