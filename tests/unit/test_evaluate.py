"""What an evaluation says of its values, what it compares with what, and what it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn

from cogvid import create_component
from cogvid.config.compose import load_experiment
from cogvid.config.protocol import load_protocol, protocol_names
from cogvid.config.schema import Place, ProtocolConfig
from cogvid.data.clip_times import ClipTimes
from cogvid.data.video import write_video
from cogvid.errors import UserError
from cogvid.interfaces.metric import Meaning, VideoMetric
from cogvid.metrics import FrechetVideoDistance, VideoExtractor, VideoInceptionScore
from cogvid.metrics.protocol import protocol_hash
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.evaluate import run_sets
from cogvid.pipeline.evaluate_folders import _numbers
from cogvid.pipeline.folder_videos import FolderVideo, Look
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.readings import Readings
from cogvid.pipeline.scoring import Scored, add_evaluation, protocol_of, score
from cogvid.pipeline.stage import StageResult, StageStore
from cogvid.pipeline.video_set import Shown, VideoSet, tensor_set, timing_facts

EXPERIMENT = """
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, trainer/cpu]
data: {name: folder, options: {path: FOLDER, test_share: 0.7}}
frame_rate: {options: {rates: [4, 8]}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 16, codes: 32, code_size: 8, crop: 0}}
video: {size: 16}
text: {length: 16}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
stages: {tokenizer: &stage {steps: 1, batch_size: 1}, image_base: *stage, sequential: *stage, interpolation: *stage}
generation: {samples: 2, frames: 9}
evaluation: {metrics: {fvd: {name: fvd}}}
"""

MakeHash = Callable[..., str]


@pytest.fixture(scope="module")
def make_hash(tmp_path_factory: pytest.TempPathFactory) -> MakeHash:
    """The hash of the protocol of FVD in a run, of which the data alone is there."""

    metric = create_component("metric", "fvd")

    @cache
    def home(seed: int, lossless: bool) -> Path:
        home = tmp_path_factory.mktemp("run")
        random = np.random.default_rng(seed)
        lines = []
        (home / "videos").mkdir()
        for number in range(8):
            small = random.integers(0, 256, (17, 4, 4, 3), dtype=np.uint8)
            write_video(home / "videos" / f"{number}.mp4", small.repeat(4, 1).repeat(4, 2), 8, lossless)
            lines.append(json.dumps({"file": f"{number}.mp4", "caption": f"clip {number}"}) + "\n")
        (home / "videos" / "captions.jsonl").write_text("".join(lines))
        (home / "small.yaml").write_text(EXPERIMENT.replace("FOLDER", str(home / "videos")))
        return home

    def make(*changes: str, seed: int = 0, lossless: bool = True, name: str = "generated") -> str:
        folder = home(seed, lossless)
        lab = Lab(load_experiment(folder / "small.yaml", None, changes).config)
        data = data_stage(lab, StageStore(folder / "stages"))
        frames, (height, width) = lab.config.generation.frames, lab.config.video.sides
        videos = {"generated": frames, "key_frames": 5, "real": frames, "reconstruction": frames}
        made = {key: torch.zeros(2, count, 3, height, width, dtype=torch.uint8) for key, count in videos.items()}
        save_file(made, folder / "videos.safetensors")
        scored = run_sets(lab, data, StageResult(folder, "key", {"outputs": {"videos.safetensors": "digest"}}))
        return protocol_hash(protocol_of("fvd", "fvd", metric, scored.sets[name], scored.reference, scored.facts))

    return make


def test_a_protocol_is_the_same_for_the_same_and_another_where_anything_differs(make_hash: MakeHash) -> None:
    hashes = {
        "same": make_hash(),
        "rate": make_hash("frame_rate.options.rates=[8]"),
        "data": make_hash(seed=1),
        "codec": make_hash(lossless=False),
        "size": make_hash("video.size=8"),
        "fit": make_hash("video.fit=pad"),
        "frames": make_hash("evaluation.protocol.frames=8"),
        "samples": make_hash("generation.samples=1"),
        "key frames": make_hash(name="key_frames"),
    }
    assert make_hash(name="reconstruction") == hashes["same"]
    assert make_hash("stages.sequential.steps=2") == hashes["same"]
    assert len(set(hashes.values())) == len(hashes), hashes


class Mean(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3, 4))


class Colours(VideoExtractor):
    """The mean colour of a clip, twice; it counts the clips that it reads."""

    name = "colours"
    feature_size = classes = 3
    min_frames = 1
    resize = "none"

    def __init__(self, weights: Path) -> None:
        weights.write_bytes(b"weights")
        super().__init__(Mean(), weights)
        self.clips = 0

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.clips += len(pixels)
        colours: Tensor = network(pixels)
        return colours, colours


class Error(VideoMetric):
    """Mean absolute error between videos and those that they show again."""

    paired = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[bool, list[Tensor]] = {}

    def reset(self) -> None:
        super().reset()
        self.seen = {True: [], False: []}

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        self.seen[real].append(videos.float())

    def compute(self) -> dict[str, Tensor]:
        real, other = (torch.cat(self.seen[which]) for which in (True, False))
        return {"error": (real - other).abs().mean().double()}

    @property
    def meanings(self) -> dict[str, Meaning]:
        return {"error": Meaning("error", "How far from what was shown.", "lower")}

    @property
    def protocol(self) -> dict[str, str | int | float]:
        return {}


def video_set(seed: int, count: int = 6, frames: int = 5, offset: int = 0) -> VideoSet:
    generator = torch.Generator().manual_seed(seed)
    videos = torch.randint(0, 200, (count, frames, 3, 8, 8), dtype=torch.uint8, generator=generator) + offset
    own = tensor_set(videos, f"{seed} {offset}", [""] * count, timing_facts(frames, [4.0], [1.0]))
    shown = [Shown(str(place), str(seed), tuple(range(frames)), ()) for place in range(count)]
    return VideoSet(own.keys, own.captions, own.shape, own.pixels, own.facts, own.read, shown)


def scored(**sets: VideoSet) -> Scored:
    return Scored(sets, video_set(1), video_set(2), 5, {"split": "test"}, 4)


def test_paired_metrics_score_the_reconstruction_of_the_very_clips_and_nothing_else(tmp_path: Path) -> None:
    sets = scored(generated=video_set(3), real=video_set(2), reconstruction=video_set(2, offset=7))
    parts = score({"error": ("error", Error())}, sets, Readings(tmp_path, 4))
    assert parts["sets"]["reconstruction"]["error"]["values"] == {"error": 7}
    assert parts["sets"]["generated"] == parts["sets"]["real"] == {}
    (protocol,) = parts["protocols"].values()
    assert protocol["reference"] == video_set(2).reference != video_set(1).reference


def test_metrics_of_one_extractor_share_a_reading_and_the_next_evaluation_has_it(tmp_path: Path) -> None:
    extractor = Colours(tmp_path / "weights")
    metrics: dict[str, tuple[str, VideoMetric]] = {
        "fvd": ("fvd", FrechetVideoDistance(extractor)),
        "is": ("is", VideoInceptionScore(extractor, VideoInceptionScore.Config())),
    }
    sets = scored(generated=video_set(3), linear=video_set(4))
    first = score(metrics, sets, Readings(tmp_path / "kept", 4))
    assert extractor.clips == 18  # the reference, and two sets
    assert score(metrics, sets, Readings(tmp_path / "kept", 4)) == first
    assert extractor.clips == 18
    # They are those that a metric by itself reads.
    alone = FrechetVideoDistance(extractor)
    for own, real in ((sets.reference, True), (sets.sets["generated"], False)):
        alone.update(torch.stack([*own.read(range(6))]), [""] * 6, real)
    wanted = float(alone.compute()["fvd"])
    assert first["sets"]["generated"]["fvd"]["values"]["fvd"] == pytest.approx(wanted, rel=1e-6)


def test_what_was_read_before_an_error_and_by_others_is_kept(tmp_path: Path) -> None:
    extractor, whole = Colours(tmp_path / "weights"), video_set(3)

    def stop_at_four(places: Sequence[int]) -> Any:
        yield from whole.read(places[:4])
        raise UserError("the fifth is gone")

    broken = VideoSet(whole.keys, whole.captions, whole.shape, whole.pixels, whole.facts, stop_at_four)
    early = Readings(tmp_path, 2)
    with pytest.raises(UserError, match="gone"), Progress() as bar:
        early.of(extractor, broken, bar)
    with Progress() as bar:
        Readings(tmp_path, 2).of(extractor, whole, bar)
    assert extractor.clips == 6
    with Progress() as bar:
        early.of(extractor, video_set(4), bar)  # another set, by who knows of four clips alone
        Readings(tmp_path, 2).of(extractor, whole, bar)
    assert extractor.clips == 12


def entry(value: float, protocol: str) -> dict[str, Any]:
    return {"protocol": protocol, "values": {"a": value}}


def test_an_evaluation_adds_to_that_of_the_same_samples_alone() -> None:
    old = {
        "format": 2,
        "samples": "x",
        "sets": {"generated": {"one": entry(1, "p"), "two": entry(2, "q")}, "hold": {"two": entry(3, "r")}},
        "protocols": {"p": {}, "q": {}, "r": {}},
        "meanings": {"one": {}, "two": {"old": 1}},
        "speed": 1,
    }
    new = {
        "format": 2,
        "samples": "x",
        "sets": {"generated": {"two": entry(4, "s")}, "hold": {}},
        "protocols": {"s": {}},
        "meanings": {"two": {"new": 1}},
    }
    both = add_evaluation(old, new)
    assert both["sets"] == {"generated": {"one": entry(1, "p"), "two": entry(4, "s")}, "hold": {}}
    assert both["protocols"].keys() == {"p", "s"}
    assert both["meanings"] == {"one": {}, "two": {"new": 1}}
    assert both["speed"] == 1
    for other in (None, [], {"sets": {}}, {**old, "samples": "y"}, {**old, "format": 1}):
        assert add_evaluation(other, new) == new


def test_every_shipped_protocol_can_be_read_and_what_none_says_is_refused(tmp_path: Path) -> None:
    shipped = {"fvd-styleganv-16x2048", "is-tganv2-2048x10", "ucf101-cogvideo", "kinetics600-cogvideo", "shapes"}
    assert shipped <= set(protocol_names())
    for name in shipped:
        assert load_protocol(name).evaluation.protocol.name == name
    path = tmp_path / "own.yaml"
    for text, words in (
        ("video: {size: 3}\n", r"own\.yaml:1: video is none"),
        ("evaluation: {protocol: {framse: 3}}\n", r"own\.yaml:1: .*framse.*Did you mean evaluation\.protocol\.frames"),
        ("evaluation: {protocol: {frames: 3}}\n", "has no metric"),
        ("evaluation: {protocol: {frames: -3}, metrics: {fvd: fvd}}\n", "evaluation.protocol.frames"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            load_protocol(str(path))


def folder_video(frames: int, rate: int, timed: bool = True, content: str = "ab" * 32) -> FolderVideo:
    times = ClipTimes.of(range(frames), Fraction(1, rate))
    return FolderVideo("clip", Path("clip"), Look("", content, times.to_json(), timed, 8, 8, "h264"), times)


@pytest.mark.parametrize(
    ("rules", "numbers"),
    [
        ({"frames": 3}, [0, 1, 2]),
        ({"frames": 3, "stride": 4}, [0, 4, 8]),
        ({"frames": 3, "stride": 4, "place": Place.middle}, [5, 9, 13]),
        ({"frames": 3, "rate": 2.0}, [0, 4, 8]),
        ({"frames": 3, "rate": 2.0, "place": Place.middle}, [4, 8, 12]),
    ],
)
def test_a_protocol_says_which_frames_are_scored(rules: dict[str, Any], numbers: list[int]) -> None:
    assert _numbers(folder_video(20, 8), ProtocolConfig(**rules), 3).tolist() == numbers


def test_a_random_place_is_that_of_the_content_and_all_places_are_reached() -> None:
    rules = ProtocolConfig(frames=3, place=Place.random)
    contents = [f"{number:016x}" * 4 for number in range(300)]
    firsts = [int(_numbers(folder_video(20, 8, content=content), rules, 3)[0]) for content in contents]
    assert set(firsts) == set(range(18))
    assert [int(_numbers(folder_video(20, 8, content=content), rules, 3)[0]) for content in contents] == firsts


def test_frames_without_times_have_no_rate() -> None:
    with pytest.raises(UserError, match="have no times"):
        _numbers(folder_video(20, 8, timed=False), ProtocolConfig(frames=3, rate=2.0), 3)
