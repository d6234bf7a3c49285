"""Which shard a clip is in, what is taken from earlier tokens, and what is said of clips that changed."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from cogvid import UserError
from cogvid.config.compose import load_experiment
from cogvid.data.files import VideoFile
from cogvid.data.frame_format import FrameFormat
from cogvid.data.reading import read_frames
from cogvid.data.tokens import TABLE, read_shard, shard_path, write_shard
from cogvid.data.video import write_video
from cogvid.pipeline import token_plan, token_shards
from cogvid.pipeline.clips import usable_clips
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageResult, StageStore
from cogvid.pipeline.token_plan import TokenPlan
from cogvid.pipeline.token_shards import Part
from cogvid.pipeline.tokenizer_stage import encode, load_tokenizer, tokenizer_stage
from cogvid.pipeline.tokens_stage import TokensStage, training_clips

EXPERIMENT = """
base: [model/small, attention/local3d, data/folder, interpolation/hold, trainer/cpu]
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 8, codes: 32, code_size: 4, crop: 16}}
video: {size: 16, frames: 3}
text: {length: 40}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
stages:
  tokenizer: {steps: 5, batch_size: 64, adam_lr: 1.0e-2}
  image_base: {steps: 1, batch_size: 1}
  sequential: {steps: 1, batch_size: 1}
  interpolation: {steps: 1, batch_size: 1}
generation: {frames: 5}
frame_rate: {name: lowest_fit, options: {rates: [2, 4]}}
"""


def make_video(path: Path, seed: int, frames: int = 10) -> None:
    draw = np.random.default_rng(seed)
    write_video(path, draw.integers(0, 256, (frames, 2, 2, 3), np.uint8).repeat(8, 1).repeat(8, 2), 8)


class Work:
    """An experiment on the videos of a folder, with a given tokenizer, in shards of at most six clips."""

    def __init__(self, folder: Path, weights: Path | None = None) -> None:
        self.folder, self.weights = folder, weights
        folder.mkdir(exist_ok=True)
        (folder / "experiment.yaml").write_text(EXPERIMENT)

    def lab(self, *changes: str) -> Lab:
        videos = sorted(path.name for path in self.folder.glob("*.mp4"))
        rows = [{"file": name, "caption": f"clip {name}", "split": "train"} for name in videos]
        (self.folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = f"data={{name: folder, options: {{path: {self.folder}}}}}"
        given = [f"stages.tokenizer.weights={self.weights}"] if self.weights else []
        return Lab(load_experiment(self.folder / "experiment.yaml", None, [source, *given, *changes]).config)

    def stage(self, store: Path, *changes: str) -> TokensStage:
        lab, stages = self.lab(*changes), StageStore(store)
        data = data_stage(lab, stages)
        return TokensStage(lab, stages, data, tokenizer_stage(lab, stages, data))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tokenizer that has seen other clips."""
    folder = tmp_path_factory.mktemp("weights")
    for number in range(8):
        make_video(folder / f"{number}.mp4", 1000 + number)
    lab, store = Work(folder).lab(), StageStore(folder / "stages")
    return tokenizer_stage(lab, store, data_stage(lab, store)).folder / "model.safetensors"


@pytest.fixture
def work(tmp_path: Path, weights: Path) -> Work:
    videos = Work(tmp_path / "videos", weights)
    for number in range(20):
        make_video(videos.folder / f"{number:02}.mp4", number, frames=9 + number % 4)
    return videos


@pytest.fixture(autouse=True)
def decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The videos that are decoded for tokens, in whatever process, since it was last asked."""
    monkeypatch.setattr(token_plan, "_CLIPS", 6)
    monkeypatch.setattr(
        token_shards,
        "read_frames",
        lambda file, *rest: (
            os.write(os.open(tmp_path / "read", os.O_APPEND | os.O_CREAT | os.O_WRONLY), f"{file.path.name}\n".encode())
            and read_frames(file, *rest)
        ),
    )

    def names() -> list[str]:
        path = tmp_path / "read"
        said = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(said)

    return names


def content(stage: StageResult) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in stage.folder.glob("*.[as]*") if path.name != "stage.json"}


def test_the_tokens_are_what_the_tokenizer_makes_of_each_clips_frames(work: Work, tmp_path: Path) -> None:
    stage = work.stage(tmp_path / "runs")
    tokens = stage.finish()
    assert tokens.info["shards"] == 4
    network, clips = load_tokenizer(stage.lab, stage.tokenizer), training_clips(stage.data, tokens)
    assert len(clips) == 20
    used = set()
    for number, timed in enumerate(usable_clips(stage.lab, stage.data.folder, "train")):
        wanted = np.array([0, 4, 8])  # at 2 frames a second
        frames = read_frames(VideoFile.of(timed.clip), wanted.tolist(), FrameFormat(16, 16))
        codes = clips.frames(number, wanted)
        assert codes.equal(encode(network, frames)), timed.clip.id
        assert clips[number].captions == (timed.clip.caption,)
        used |= set(codes.flatten().tolist())
    assert len(used) > 5


def test_added_changed_and_removed_clips_end_as_if_all_were_made_anew(
    work: Work, tmp_path: Path, decoded: Callable[[], list[str]]
) -> None:
    work.stage(tmp_path / "runs").finish()
    assert len(decoded()) == 20
    for number in range(20, 25):
        make_video(work.folder / f"{number}.mp4", number)
    for number in (3, 11):
        make_video(work.folder / f"{number:02}.mp4", 100 + number)
    (work.folder / "07.mp4").unlink()
    grown = work.stage(tmp_path / "runs").finish()
    assert decoded() == ["03.mp4", "11.mp4", *(f"{number}.mp4" for number in range(20, 25))]
    anew = work.stage(tmp_path / "empty").finish()
    assert len(decoded()) == 24
    assert content(grown) == content(anew)
    assert grown.info["psnr"] == anew.info["psnr"]
    assert grown.info["outputs"] == anew.info["outputs"]


def test_shards_whose_clips_are_as_they_were_take_no_room(
    work: Work, tmp_path: Path, decoded: Callable[[], list[str]]
) -> None:
    first = work.stage(tmp_path / "runs").finish()
    decoded()
    (work.folder / "07.mp4").unlink()
    second = work.stage(tmp_path / "runs").finish()
    assert decoded() == []
    links = [(second.folder / path.name).samefile(path) for path in sorted(first.folder.glob("*.safetensors"))]
    assert sorted(links) == [False, True, True, True]


def test_without_links_they_are_copied(
    work: Work, tmp_path: Path, decoded: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    first = work.stage(tmp_path / "runs").finish()
    decoded()
    second = work.stage(tmp_path / "runs", "data_seed=1").finish()
    assert decoded() == []
    assert content(first) == content(second)
    assert second.folder != first.folder


def test_nothing_is_taken_of_another_tokenizer_another_size_or_a_damaged_stage(
    work: Work, tmp_path: Path, decoded: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    first = work.stage(tmp_path / "runs").finish()
    decoded()
    work.stage(tmp_path / "runs", "video.size=24").finish()
    assert len(decoded()) == 20
    given = load_file(str(work.weights))
    other = tmp_path / "other.safetensors"
    save_file({name: tensor + 0.5 if tensor.is_floating_point() else tensor for name, tensor in given.items()}, other)
    work.stage(tmp_path / "runs", f"stages.tokenizer.weights={other}").finish()
    assert len(decoded()) == 20
    paths = [shard_path(first.folder, number) for number in (1, 2)]
    inside = sum(len(read_shard(path).errors) for path in paths)
    paths[0].write_bytes(paths[0].read_bytes()[:-9])
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"\1")
    work.stage(tmp_path / "runs", "data_seed=1").finish()
    assert len(decoded()) == inside
    assert all(f"{path} is not the file that the stage left" in caplog.text for path in paths)


def test_a_clip_stays_in_its_shard_when_others_come_and_go(work: Work, tmp_path: Path) -> None:
    def shards() -> dict[str, int]:
        lab = work.lab()
        data = data_stage(lab, StageStore(tmp_path / "runs"))
        plan = TokenPlan(lab, usable_clips(lab, data.folder, "train"))
        members = np.concatenate([plan.members(shard) for shard in range(plan.shards)])
        assert sorted(members.tolist()) == list(range(len(plan.clips)))
        return {clip.clip.id: int(shard) for clip, shard in zip(plan.clips, plan.shard, strict=True)}

    before = shards()
    make_video(work.folder / "20.mp4", 20)
    (work.folder / "00.mp4").unlink()
    after = shards()
    assert len(set(before.values())) > 1
    assert {name: shard for name, shard in after.items() if name in before} == {
        name: shard for name, shard in before.items() if name in after
    }


def changed(path: Path) -> None:
    make_video(path, 500)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, r"the video .*05\.mp4 of clip 05\.mp4 cannot be read any more: No such file"),
        (changed, r"the video .*05\.mp4 of clip 05\.mp4 is not the file that the data stage read"),
    ],
)
def test_a_video_that_changed_since_the_data_stage_is_named(
    work: Work, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    stage = work.stage(tmp_path / "runs")
    damage(work.folder / "05.mp4")
    with pytest.raises(UserError, match=words):
        stage.finish()
    again = work.stage(tmp_path / "runs").finish()
    assert again.info["clips"] == len(list(work.folder.glob("*.mp4")))


def test_a_video_of_another_time_with_the_same_bytes_is_taken(work: Work, tmp_path: Path) -> None:
    stage = work.stage(tmp_path / "runs")
    os.utime(work.folder / "05.mp4")
    assert stage.finish().info["clips"] == 20


def test_a_damaged_or_foreign_shard_is_not_merged(work: Work, tmp_path: Path) -> None:
    stage = work.stage(tmp_path / "runs")
    folder = stage.part(Part(1, 1))
    whole = shard_path(folder, 1).read_bytes()
    same_size = tmp_path / "same_size"
    write_shard(same_size, read_shard(shard_path(folder, 1)), "others")
    for other, words in (
        (whole[:-1], "damaged"),
        (shard_path(folder, 2).read_bytes(), "those of other clips"),
        (same_size.read_bytes(), "those of other clips"),
    ):
        shard_path(folder, 1).write_bytes(other)
        with pytest.raises(UserError, match=rf"00001\.safetensors are {words}"):
            stage.merge()
        assert not (folder / TABLE).exists()
    shard_path(folder, 1).unlink()
    assert content(stage.finish())["00001.safetensors"] == whole


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = work.stage(tmp_path / "runs")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=700))
    with pytest.raises(UserError, match=r"frames of 20 clips take 0\.0 MB, and .* has 0\.0 MB free"):
        stage.finish()
    assert not list((tmp_path / "runs").glob("tokens-*/[!.]*"))


def test_what_there_is_to_do_is_said_first(
    work: Work, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_shards, "_MEASURED", 4)
    with caplog.at_level(logging.INFO, logger="cogvid"):
        info = work.stage(tmp_path / "runs").finish().info
    said, done = (message for message in caplog.messages if message.startswith("tokens"))
    assert f"{info['frames']} frames of 20 clips, 0.0 MB; 20 clips to encode, in about" in said
    assert f"{info['frames']} frames, reconstruction {info['psnr']:.1f} dB" in done


def test_missing_parts_are_named_with_what_makes_them(work: Work, tmp_path: Path) -> None:
    stage = work.stage(tmp_path / "runs")
    with pytest.raises(UserError, match=r"4 of the 4 shards .* no part was made there"):
        stage.merge()
    stage.part(Part(2, 3))
    with pytest.raises(UserError, match=r"3 of the 4 shards .* those of part 1/3, 3/3\. Run .* --part 1/3"):
        stage.merge()
    stage.part(Part(1, 3))
    folder = stage.part(Part(3, 3))
    merged = stage.merge()
    assert content(merged) == content(work.stage(tmp_path / "whole").finish())
    assert not list(folder.glob(".part*"))


def test_parts_made_below_other_folders_are_taken(work: Work, tmp_path: Path) -> None:
    homes = [tmp_path / f"runs-{number}" for number in (1, 2, 3)]
    stages = [work.stage(home) for home in homes]
    for number, stage in enumerate(stages, start=1):
        stage.part(Part(number, 3))
    with pytest.raises(UserError, match=r"nowhere/tokens-\w+ is missing"):
        stages[0].merge([tmp_path / "nowhere"])
    merged = stages[0].merge(homes[1:])
    assert content(merged) == content(work.stage(tmp_path / "whole").finish())


WRONG: Sequence[tuple[Callable[[dict], dict], str]] = [
    (lambda state: {name: state[name] for name in list(state)[1:]}, "is missing, the experiment's needs"),
    (lambda state: {**state, "more": state["encoder.0.weight"].clone()}, "needs no such tensor"),
    (lambda state: {**state, "encoder.0.weight": state["encoder.0.weight"][:1].clone()}, r"is \(1, "),
]


@pytest.mark.parametrize(("damage", "words"), WRONG)
def test_weights_of_another_tokenizer_are_refused(
    work: Work, tmp_path: Path, damage: Callable[[dict], dict], words: str
) -> None:
    wrong = tmp_path / "wrong.safetensors"
    save_file(damage(load_file(str(work.weights))), wrong)
    message = rf"stages\.tokenizer\.weights: .*wrong\.safetensors holds another frame tokenizer's weights: .*{words}"
    with pytest.raises(UserError, match=message):
        work.stage(tmp_path / "runs", f"stages.tokenizer.weights={wrong}")


def test_a_weights_file_that_is_none_is_refused(work: Work, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(random.Random(0).randbytes(100))
    for name in ("junk", "nothing"):
        with pytest.raises(UserError, match=rf"stages\.tokenizer\.weights: .*{name} cannot be read as a safetensors"):
            work.stage(tmp_path / "runs", f"stages.tokenizer.weights={tmp_path / name}")
