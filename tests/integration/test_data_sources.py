"""The same clips from a folder, from text files and from tar shards are the same data to everything after."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cogvid.config.compose import load_experiment
from cogvid.data.table import read_table
from cogvid.data.video import write_video
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import Run
from cogvid.pipeline.stage import StageStore

EXPERIMENT = """
base: [model/small, attention/local3d, interpolation/recursive, evaluation/none, trainer/cpu]
frame_rate: {name: lowest_fit, options: {rates: [4, 8]}}
video: {size: 16, frames: 5}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 16, codes: 32, code_size: 8, crop: 0}}
model: {layers: 2, width: 32, heads: 2}
text: {length: 60}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
trainer: {log_every: 1}
stages:
  tokenizer: {steps: 3, batch_size: 4}
  image_base: {steps: 3, batch_size: 4}
  sequential: {steps: 3, batch_size: 2}
  interpolation: {steps: 3, batch_size: 2}
generation: {samples: 1, frames: 9}
"""
# Where a clip's file lies is another matter.
PLACE = {"file", "member", "offset", "bytes", "state"}
TRAINED = ("tokenizer", "image_base", "sequential", "interpolation")


@pytest.fixture
def rows(tmp_path: Path, clips: Path) -> list[dict[str, Any]]:
    """A folder with real clips and small ones, and what its captions file says."""
    home = tmp_path / "videos"
    (home / "small").mkdir(parents=True)
    rows = []
    for name in ("part_0.mp4", "short.mp4"):
        shutil.copy(clips / name, home / name)
        rows.append({"file": name, "captions": [f"a real clip, {name}", "people"]})
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (1, 20, 24, 3), dtype=np.uint8).repeat(20, axis=0)
        write_video(home / "small" / f"{number}.mp4", pixels + np.arange(20, dtype=np.uint8)[:, None, None, None], 12)
        rows.append({"file": f"small/{number}.mp4", "captions": [f"noise number {number}"]})
    with (home / "captions.jsonl").open("w") as file:
        for turn in range(2):
            for row in rows:
                for caption in row["captions"][turn : turn + 1]:
                    file.write(json.dumps({"file": row["file"], "caption": caption}) + "\n")
    for row in rows:
        (home / row["file"]).with_suffix(".txt").write_text("\n".join(row["captions"]) + "\n")
    return rows


def write_shards(home: Path, rows: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir()
    for shard, part in enumerate((rows[:3], rows[3:])):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as archive:
            for row in part:
                said = folder / "said.json"
                said.write_text(json.dumps({"caption": row["captions"]}))
                archive.add(home / row["file"], row["file"])
                archive.add(said, Path(row["file"]).with_suffix(".json").as_posix())
                said.unlink()


def finish(tmp_path: Path, name: str, source: str) -> Path:
    path = tmp_path / f"{name}.yaml"
    path.write_text(EXPERIMENT + f"data: {source}\n")
    run = Run(load_experiment(path), tmp_path / f"runs-{name}")
    run.finish()
    return run.folder / "stages"


def prepared(tmp_path: Path, name: str, source: dict[str, Any]) -> pa.Table:
    """The clip table of a source."""
    path = tmp_path / f"{name}.yaml"
    path.write_text(EXPERIMENT + f"data: {json.dumps(source)}\n")
    result = data_stage(Lab(load_experiment(path).config), StageStore(tmp_path / "prepared"))
    return read_table(result.folder / "clips.arrow")


def table(stages: Path) -> dict[str, list[Any]]:
    columns = read_table(stages / "data" / "clips.arrow").to_pydict()
    return {name: values for name, values in columns.items() if name not in PLACE}


def test_a_folder_and_shards_of_its_clips_give_the_same_table_tokens_and_losses(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    write_shards(tmp_path / "videos", rows, tmp_path / "shards")
    options = {"test_share": 0.3}
    sources = {
        "folder": {"name": "folder", "options": {"path": str(tmp_path / "videos"), **options}},
        "shards": {"name": "webdataset", "options": {"path": str(tmp_path / "shards" / "{000..001}.tar"), **options}},
    }
    folder, shards = (finish(tmp_path, name, json.dumps(source)) for name, source in sources.items())
    assert table(shards) == table(folder)
    assert table(folder)["id"] == [row["file"] for row in rows]
    assert table(folder)["captions"] == [row["captions"] for row in rows]
    assert set(table(folder)["problem"]) == {""}
    assert table(folder)["split"].count("test") == 2
    tokens = [
        {path.name: path.read_bytes() for path in (stages / "tokens").glob("*.safetensors")}
        for stages in (folder, shards)
    ]
    assert tokens[0]
    assert tokens[0] == tokens[1]
    for stage in TRAINED:
        one, two = ((stages / stage / "history.jsonl").read_bytes() for stages in (folder, shards))
        assert one.count(b"\n") == 3
        assert one == two


def test_text_files_and_a_captions_file_give_the_same_table(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    options = {"path": str(tmp_path / "videos"), "test_share": 0.3}
    in_file, beside = (
        prepared(tmp_path, "folder", {"name": "folder", "options": {**options, "captions": captions}})
        for captions in ("captions.jsonl", ".txt")
    )
    assert in_file.equals(beside)
    assert in_file["captions"].to_pylist() == [row["captions"] for row in rows]


def test_a_tree_of_ucf101_is_decoded_by_its_lists(tmp_path: Path, clips: Path) -> None:
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    names = {"train": ["YoYo/v_YoYo_g08_c01.avi", "TaiChi/v_TaiChi_g08_c01.avi"], "test": ["YoYo/v_YoYo_g01_c01.avi"]}
    for split, own in names.items():
        (lists / f"{split}list01.txt").write_text("".join(f"{name}\n" for name in own))
        for name in own:
            (tmp_path / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clips / "part_0.mp4", tmp_path / "UCF-101" / name)
    found = prepared(tmp_path, "ucf101", {"name": "ucf101", "options": {"path": str(tmp_path / "UCF-101")}})
    assert found["captions"].to_pylist() == [["yo yo"], ["tai chi"], ["yo yo"]]
    assert found["split"].to_pylist() == ["train", "train", "test"]
    assert found["frames"].to_pylist() == [32, 32, 32]


def test_seconds_of_whole_videos_of_kinetics_are_the_frames_of_their_clips(tmp_path: Path, clips: Path) -> None:
    (tmp_path / "k").mkdir()
    shutil.copy(clips / "arm_wrestling.mp4", tmp_path / "k" / "_dbcJuKJQNs.mp4")
    shutil.copy(clips / "part_0.mp4", tmp_path / "k" / "-3B32lodo2M_000010_000020.mp4")
    lines = [
        "label,youtube_id,time_start,time_end,split",
        '"arm wrestling",_dbcJuKJQNs,0,4,train',
        '"arm wrestling",_dbcJuKJQNs,4,10,train',
        '"arm wrestling",_dbcJuKJQNs,90,100,train',
        "abseiling,-3B32lodo2M,10,20,val",
    ]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    options = {"path": str(tmp_path / "k"), "annotations": [str(tmp_path / "all.csv")]}
    found = prepared(tmp_path, "kinetics", {"name": "kinetics", "options": options})
    assert found["split"].to_pylist() == ["train", "train", "train", "test"]
    # 28 frames a second, 280 of them; that of second 4 is the second clip's.
    assert list(zip(found["first"].to_pylist(), found["frames"].to_pylist(), strict=True)) == [
        (0, 112),
        (112, 168),
        (None, None),
        (0, 32),
    ]
    assert "has no frame from second 90 to 100" in found["problem"][2].as_py()
