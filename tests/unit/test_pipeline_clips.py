"""From a data source to clips that every later stage can rely on."""

from __future__ import annotations

import json
import logging
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cogvid.pipeline.tokenizer_stage as tokenizer_module
from cogvid import UserError
from cogvid.config.compose import load_experiment
from cogvid.data.frame_format import FrameFormat
from cogvid.data.reading import probe
from cogvid.data.video import write_video
from cogvid.pipeline import look
from cogvid.pipeline.clips import decode_clips, held_out_clips, read_clips
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.generate import usable_test_clips
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageResult, StageStore
from cogvid.pipeline.text_stage import load_text, text_stage
from cogvid.pipeline.tokenizer_stage import tokenizer_stage

EXPERIMENT = """
base: [model/small, attention/local3d, data/folder, interpolation/hold, trainer/cpu]
frame_tokenizer: {name: vqvae, options: {downsampling: 8}}
video: {size: 16, frames: 5}
text: {length: 40}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
stages:
  tokenizer: {steps: 1, batch_size: 1}
  image_base: {steps: 1, batch_size: 1}
  sequential: {steps: 1, batch_size: 1}
  interpolation: {steps: 1, batch_size: 1}
generation: {frames: 9}
frame_rate: {name: lowest_fit, options: {rates: [1, 4]}}
"""


def make_lab(folder: Path, rows: list[dict[str, Any]], *changes: str, extra: str = "") -> Lab:
    """An experiment on the videos of a folder with these captions."""
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "experiment.yaml").write_text(EXPERIMENT + extra)
    options = f"data={{name: folder, options: {{path: {folder}}}}}"
    return Lab(load_experiment(folder / "experiment.yaml", None, [options, *changes]).config)


def make_video(path: Path, frames: int, fps: float) -> None:
    pixels = np.full((frames, 16, 16, 3), np.arange(frames)[:, None, None, None], dtype=np.uint8)
    write_video(path, pixels, fps)


def row(name: str, split: str = "train", caption: str = "a cat") -> dict[str, str]:
    return {"file": name, "caption": caption, "split": split}


def prepared(lab: Lab, folder: Path) -> StageResult:
    return data_stage(lab, StageStore(folder / "stages"))


@pytest.fixture(autouse=True)
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, logger="cogvid"):
        yield


def test_a_video_with_several_captions_is_one_clip_and_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "a.mp4", 20, 8)
    read: list[Path] = []
    monkeypatch.setattr(look, "probe", lambda file: read.append(file.path) or probe(file))
    data = prepared(make_lab(tmp_path, [row("a.mp4"), row("a.mp4", caption="a big cat")]), tmp_path)
    assert [path.name for path in read] == ["a.mp4"]
    (clip,) = read_clips(data.folder, "train")
    assert clip.captions == ("a cat", "a big cat")
    assert clip.times.ticks.tolist() == list(range(20))


def test_a_file_damaged_behind_its_first_frame_is_left_out_with_the_reason(
    tmp_path: Path, cases: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_video(tmp_path / "a.mp4", 20, 8)
    files = ["a.mp4", str(cases / "cut_tail.mp4"), str(cases / "latin1_title.avi")]
    data = prepared(make_lab(tmp_path, [row(file) for file in files]), tmp_path)
    assert [len(clip.times) for clip in read_clips(data.folder, "train")] == [20, 20]
    (warning,) = caplog.messages
    assert "cut_tail.mp4" in warning
    assert "after 18 frames" in warning


def test_clips_too_short_for_every_rate_are_counted_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, frames in enumerate([40, 8, 8, 8]):
        make_video(tmp_path / f"{number}.mp4", frames, 8)
    prepared(make_lab(tmp_path, [row(f"{number}.mp4") for number in range(4)]), tmp_path)
    (warning,) = caplog.messages
    assert "3 of the 4 clips are left out: they are too short to yield 5 frames" in warning


def test_only_clips_that_are_too_short_are_an_error_that_names_the_rates(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", 8, 8)
    with pytest.raises(UserError, match=r"lowest_fit finds no rate .* 5 frames.*frame_rate\.options"):
        prepared(make_lab(tmp_path, [row("a.mp4")]), tmp_path)


def test_clips_whose_frames_are_shown_twice_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_video(tmp_path / "slow.mp4", 12, 3)
    make_video(tmp_path / "quick.mp4", 40, 8)
    rows = [row("slow.mp4"), row("quick.mp4")]
    prepared(make_lab(tmp_path, rows, "frame_rate={name: fixed, options: {rate: 4}}"), tmp_path)
    (warning,) = caplog.messages
    assert "1 of the 2 clips have fewer frames a second" in warning


def test_later_runs_on_the_same_clips_say_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_video(tmp_path / "slow.mp4", 12, 3)
    lab = make_lab(tmp_path, [row("slow.mp4")], "frame_rate={name: fixed, options: {rate: 4}}")
    for _ in range(2):
        prepared(lab, tmp_path)
    assert len(caplog.messages) == 2


def test_characters_of_test_captions_alone_are_left_out_of_what_is_generated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.mp4", "b.mp4"):
        make_video(tmp_path / name, 20, 8)
    lab = make_lab(tmp_path, [row("a.mp4"), row("b.mp4", "test", "a cät")])
    data = prepared(lab, tmp_path)
    tests = usable_test_clips(lab, data)
    text = text_stage(lab, StageStore(tmp_path / "stages"), data)  # the run goes on
    assert tests.prompts(load_text(lab, text).tokenizer) == ["a ct"]
    assert tests.captions == ["a cät"]
    assert "1 of the 2 captions have characters that the text tokenizer bpe cannot read" in caplog.messages[-1]


SPLIT = """
import cogvid
class Both(cogvid.DataSource):
    def clips(self, folder, seed, progress):
        return [cogvid.Clip(split, folder / "a.mp4", "a cat", split) for split in ("train", "test")]
@cogvid.hookimpl
def register_data_sources():
    return {"both": Both}
"""


def test_a_source_that_gives_a_video_in_both_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text(SPLIT)
    lab = make_lab(tmp_path, [row("a.mp4")], "data={name: both}", extra="plugins: [./both.py]\n")
    with pytest.raises(UserError, match=r"a\.mp4 is in both splits"):
        prepared(lab, tmp_path)


GREEDY = """
import cogvid
class Greedy(cogvid.FrameRateScheduler):
    def training_rates(self, duration, frames):
        return [4.0, 0.25]
@cogvid.hookimpl
def register_frame_rate_schedulers():
    return {"greedy": Greedy}
"""


def test_a_scheduler_whose_rates_do_not_fit_is_named_with_the_clip(tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    make_video(tmp_path / "a.mp4", 20, 8)
    lab = make_lab(tmp_path, [row("a.mp4")], "frame_rate={name: greedy}", extra="plugins: [./greedy.py]\n")
    with pytest.raises(UserError, match=r"greedy shows clip a\.mp4 at 0\.25 frames a second, .* 1 of the 5"):
        prepared(lab, tmp_path)


def test_generated_clips_are_compared_with_other_videos(tmp_path: Path) -> None:
    lines = ["label,youtube_id,time_start,time_end,split"]
    for number in range(5):
        make_video(tmp_path / f"{number}.mp4", 60, 8)
        split = "val" if number else "train"
        lines += [f"a cat {start},{number},{start},{start + 2},{split}" for start in (0, 2, 4)]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    options = f"{{path: {tmp_path}, annotations: [{tmp_path / 'all.csv'}]}}"
    lab = make_lab(tmp_path, [], f"data={{name: kinetics, options: {options}}}")
    tests = usable_test_clips(lab, prepared(lab, tmp_path))
    chosen = tests.first(4)
    assert [timed.clip.path.name for timed in chosen.clips] == ["1.mp4", "1.mp4", "1.mp4", "2.mp4"]
    others = tests.beside(chosen, 4)
    assert [timed.clip.path.name for timed in others.clips] == ["3.mp4", "4.mp4"]
    assert others.captions == ["a cat 0", "a cat 0"]
    assert len(tests.beside(chosen, 1).clips) == 1


def test_generated_clips_are_compared_with_other_videos_of_a_shard(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for number in range(5):
            make_video(tmp_path / f"{number}.mp4", 20, 8)
            (tmp_path / "said.json").write_text(
                json.dumps({"caption": "a cat", "split": "test" if number else "train"})
            )
            shard.add(tmp_path / f"{number}.mp4", f"{number}.mp4")
            shard.add(tmp_path / "said.json", f"{number}.json")
    lab = make_lab(tmp_path, [], f"data={{name: webdataset, options: {{path: {tmp_path}}}}}")
    tests = usable_test_clips(lab, prepared(lab, tmp_path))
    others = tests.beside(tests.first(2), 4)
    assert [timed.clip.id for timed in others.clips] == ["3.mp4", "4.mp4"]


def test_decoded_frames_are_those_of_the_numbers(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", 20, 8)
    lab = make_lab(tmp_path, [row("a.mp4")])
    clips = read_clips(prepared(lab, tmp_path).folder, "train")
    (frames,) = decode_clips(clips, [np.array([0, 4, 19])], FrameFormat(16, 16), "test")
    assert frames[:, 0, 0, 0].tolist() == [0, 4, 19]


def test_frames_for_the_tokenizer_do_not_grow_with_the_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "0.mp4", 20, 8)
    for number in range(1, 30):
        shutil.copy(tmp_path / "0.mp4", tmp_path / f"{number}.mp4")
    lab = make_lab(tmp_path, [row(f"{number}.mp4") for number in range(30)], "stages.tokenizer.frames=20")
    data = prepared(lab, tmp_path)
    asked: list[int] = []

    def ask(clips: Sequence[Any], numbers: Sequence[Any], *_: Any) -> Iterator[Any]:
        asked.extend(map(len, numbers))
        raise UserError("enough")

    monkeypatch.setattr(tokenizer_module, "decode_clips", ask)
    with pytest.raises(UserError, match="enough"):
        tokenizer_stage(lab, StageStore(tmp_path / "stages"), data)
    assert sum(asked) == 20


def test_a_tokenizer_trains_on_the_frames_that_are_there_whole_and_on_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "a.mp4", 20, 8)
    lab, store = make_lab(tmp_path, [row("a.mp4")]), StageStore(tmp_path / "stages")
    data, trained = prepared(lab, tmp_path), tokenizer_module.fit
    seen: list[np.ndarray] = []

    def interrupted(module: Any, samples: Any, folder: Path, *words: Any, **more: Any) -> None:
        seen.append(np.array(samples.frames))
        # What is whole is used as it is, what is not is made again.
        (path,) = folder.glob("*.npy")
        path.write_bytes(path.read_bytes()[:-1] + b"?" if len(seen) == 1 else path.read_bytes()[:-1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_module, "fit", interrupted)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                tokenizer_stage(lab, store, data)
    first, other, again = seen
    assert first.shape == (16, 3, 16, 16)
    assert sorted({int(frame[0, 0, 0]) for frame in first}) == sorted({int(frame.max()) for frame in first})
    assert (np.argwhere(first != other) == [[15, 2, 15, 15]]).all()
    assert np.array_equal(first, again)
    assert tokenizer_module.fit is trained
    folder = tokenizer_stage(lab, store, data).folder
    assert not list(folder.rglob("*.npy"))


def test_of_test_clips_so_many_are_held_out_whatever_the_seed(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", 20, 8)
    rows = [row("a.mp4"), *(row(f"{number}.mp4", "test") for number in range(8))]
    for number in range(8):
        make_video(tmp_path / f"{number}.mp4", 20, 8)
    data = prepared(make_lab(tmp_path, rows), tmp_path)
    tests = read_clips(data.folder, "test")

    def chosen(*changes: str) -> list[int]:
        return held_out_clips(make_lab(tmp_path, rows, *changes), tests).rows.tolist()

    assert chosen("held_out.clips=9") == tests.rows.tolist()
    few = chosen("held_out.clips=3")
    assert len(few) == 3
    assert few == sorted(few) == chosen("held_out.clips=3", "seed=4", "model.layers=2")
    assert len({tuple(chosen("held_out.clips=3", f"data_seed={seed}")) for seed in range(5)}) > 1
