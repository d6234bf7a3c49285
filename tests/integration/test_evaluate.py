"""`cogvid evaluate`: finished runs, and folders of videos that anybody made."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import Tensor, nn

from cogvid.data.reading import read_frames
from cogvid.data.video import write_video
from cogvid.pipeline import evaluate_folders as module
from cogvid.pipeline.evaluate_folders import evaluate_folders
from helpers import cogvid, refused

FRAMES = 12
PROTOCOL = """
evaluation:
  protocol: {samples: 6, frames: 12}
  metrics:
    fvd: {name: fvd, options: {extractor: i3d, path: nowhere.pt}}
"""


class FakeI3D(nn.Module):
    """Answers the call of the I3D file, with a projection of coarse pixels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(192, 400, generator=generator))

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True) -> Tensor:
        assert rescale and resize and return_features  # noqa: PT018 - TorchScript
        pooled = nn.functional.adaptive_avg_pool3d(x / 127.5 - 1, (4, 4, 4)).flatten(1)
        return pooled @ self.weight


def videos(seed: int, count: int, frames: int = FRAMES, side: int = 16) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (count, frames, 2, 2, 3), dtype=np.uint8)
    return list(small.repeat(side // 2, 2).repeat(side // 2, 3))


def write(folder: Path, clips: list[np.ndarray[Any, Any]], fps: float = 8, lossless: bool = True) -> Path:
    folder.mkdir(parents=True)
    for number, clip in enumerate(clips):
        write_video(folder / f"clip{number}.mp4", clip, fps, lossless)
    return folder


@pytest.fixture(scope="session")
def i3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    torch.jit.script(FakeI3D()).save(str(path))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, i3d: Path) -> Path:
    """A folder with real and generated videos, a protocol, and the network that it reads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write(tmp_path / "real", videos(0, 6))
    write(tmp_path / "made", videos(1, 6))
    (tmp_path / "small.yaml").write_text(PROTOCOL)
    (tmp_path / "i3d.pt").symlink_to(i3d)
    return tmp_path


def evaluate(*words: object, real: str = "real", made: str = "made", protocol: str = "small.yaml") -> Result:
    folders = ["--real", real, "--generated", made, "--protocol", protocol]
    return cogvid("evaluate", *folders, "--extractor", "i3d.pt", *words)


def finished(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(Path("evaluation.json").read_text())


def protocol_of(record: dict[str, Any], name: str = "generated", key: str = "fvd") -> dict[str, Any]:
    return record["protocols"][record["sets"][name][key]["protocol"]]


def test_two_folders_are_scored_by_a_network_from_a_file(home: Path) -> None:
    result = evaluate("--write-real", "kept")
    record = finished(result)
    assert "FVD" in result.output
    values = record["sets"]["generated"]["fvd"]["values"]
    assert values["fvd"] > 0
    assert record["sets"].keys() == {"generated"}  # six real ones leave none to score beside those compared with
    protocol = protocol_of(record)
    expected = {
        "protocol": "small",
        "frames": FRAMES,
        "height": 16,
        "width": 16,
        "rates": "8",
        "seconds": "1.375",
        "samples": 6,
        "reference_clips": 6,
        "real_codec": "h264 gbrp",
        "scored": "h264 gbrp",
        "extractor": "i3d",
    }
    assert expected.items() <= protocol.items()
    assert record["meanings"]["fvd"]["fvd"]["better"] == "lower"
    rows = list(csv.DictReader((home / "kept" / "clips.csv").open()))
    assert [row["id"] for row in rows] == [f"clip{number}.mp4" for number in range(6)]
    assert rows[0]["frames"].split() == [str(number) for number in range(FRAMES)]
    for number, row in enumerate(rows):
        wanted = torch.from_numpy(videos(0, 6)[number]).permute(0, 3, 1, 2)
        assert torch.equal(read_frames(home / "kept" / row["file"], range(FRAMES)), wanted)


def test_videos_against_themselves_have_no_distance_and_better_ones_have_less(home: Path) -> None:
    write(home / "near", [np.clip(clip.astype(int) + 9, 0, 255).astype(np.uint8) for clip in videos(0, 6)])
    found = [finished(evaluate(made=name))["sets"]["generated"]["fvd"]["values"]["fvd"] for name in ("real", "near")]
    far = finished(evaluate())["sets"]["generated"]["fvd"]["values"]["fvd"]
    assert found[0] == pytest.approx(0, abs=1e-3 * far)
    assert found[0] < found[1] < far


def test_a_second_evaluation_reads_no_video(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = finished(evaluate())

    def fail(*_: object) -> None:
        raise AssertionError("a video is read again")

    monkeypatch.setattr(module, "read_frames", fail)
    with monkeypatch.context() as second:
        second.setattr("cogvid.pipeline.folder_videos.probe", fail)
        assert finished(evaluate()) == first
    # Under another name it is the same video.
    shutil.move("made/clip0.mp4", "made/renamed.mp4")
    one, two = (record["sets"]["generated"]["fvd"] for record in (first, finished(evaluate())))
    assert (two["protocol"], two["values"]["fvd"]) == (one["protocol"], pytest.approx(one["values"]["fvd"]))


@pytest.mark.parametrize("damage", ["cut", "foreign", "flipped"])
def test_damaged_readings_are_made_anew(home: Path, damage: str) -> None:
    first = finished(evaluate())
    files = list((home / ".cogvid-features").glob("*.safetensors"))
    assert len(files) == 1  # real and generated videos come to be pixels in one way
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    files[0].write_bytes({"cut": content[:100], "foreign": b"{}" * 40, "flipped": bytes(content)}[damage])
    assert finished(evaluate()) == first
    assert files[0].read_bytes() != content


def test_the_same_clips_as_folders_of_frames_are_another_protocol_with_the_same_pixels(home: Path) -> None:
    record = finished(evaluate())
    for number, clip in enumerate(videos(1, 6)):
        folder = home / "frames" / str(number)
        folder.mkdir(parents=True)
        for place, frame in enumerate(clip):  # frame10 comes behind frame9
            Image.fromarray(frame).save(folder / f"frame{place}.png")
    other = finished(evaluate(made="frames"))
    one, two = (each["sets"]["generated"]["fvd"] for each in (record, other))
    assert two["values"]["fvd"] == pytest.approx(one["values"]["fvd"], rel=1e-6)
    assert one["protocol"] != two["protocol"]
    assert protocol_of(other)["scored"] == "frames png"


def test_values_that_differ_in_rate_or_codec_have_other_protocols(home: Path) -> None:
    write(home / "faster", videos(1, 6), fps=16)
    write(home / "lossy", videos(1, 6), lossless=False)
    write(home / "other real", videos(2, 6))
    hashes = [finished(evaluate(made=name))["sets"]["generated"]["fvd"]["protocol"] for name in ("faster", "lossy")]
    hashes.append(finished(evaluate(real="other real"))["sets"]["generated"]["fvd"]["protocol"])
    hashes.append(finished(evaluate())["sets"]["generated"]["fvd"]["protocol"])
    assert len(set(hashes)) == 4
    shutil.copytree("made", "copy")
    assert finished(evaluate(made="copy"))["sets"]["generated"]["fvd"]["protocol"] == hashes[-1]


def test_as_many_real_clips_again_are_a_set_of_their_own(home: Path) -> None:
    for number, clip in enumerate(videos(5, 6)):
        write_video(home / "real" / f"more{number}.mp4", clip, 8)
    record = finished(evaluate())
    one, two = (record["sets"][name]["fvd"] for name in ("generated", "real"))
    assert one["protocol"] == two["protocol"]
    assert protocol_of(record)["reference_clips"] == 6


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_clips(home: Path) -> None:
    count, frames, side = 512, 16, 64
    for name, seed in (("many", 0), ("more", 1)):
        write(home / name, videos(seed, count, frames, side), lossless=False)
    (home / "many.yaml").write_text(f"""
evaluation:
  protocol: {{samples: {count}, frames: {frames}}}
  metrics: {{fvd: {{name: fvd, options: {{extractor: shapes3d}}}}}}
""")
    (home / "few.yaml").write_text((home / "many.yaml").read_text().replace(str(count), "128"))
    peaks = []
    # The first time is for what the allocator then keeps.
    for name, seed in (("warm", 2), ("few", 3)):
        folder = write(home / name, videos(seed, 128, frames, side), lossless=False)
        peaks.append(peak_above(lambda folder=folder: evaluate_folders(folder, folder, "few.yaml", [], home / "kept")))
    peaks.append(peak_above(lambda: evaluate_folders(home / "many", home / "more", "many.yaml", [], home / "kept")))
    # What processes hand each other comes and goes; pixels that are kept would all be there at the end.
    pixels = 2 * count * frames * side**2 * 3
    assert peaks[2] - peaks[1] < 3 / 4 * pixels, peaks


def peak_above(work: Callable[[], object]) -> float:
    """How many bytes more than before this process has at most while it works."""
    ended = threading.Event()
    start, peak = resident(), 0

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.01):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        ended.set()
        watcher.join()
    return peak - start


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


Break = Callable[[Path], None]


def short(home: Path) -> None:
    write_video(home / "made" / "clip3.mp4", videos(3, 1, frames=5)[0], 8)


def missing(home: Path) -> None:
    (home / "i3d.pt").unlink()


def mixed(home: Path) -> None:
    write_video(home / "made" / "clip3.mp4", videos(3, 1, side=24)[0], 8)


def empty(home: Path) -> None:
    shutil.rmtree(home / "made")
    (home / "made").mkdir()


def one(home: Path) -> None:
    for number in range(1, 6):
        (home / "made" / f"clip{number}.mp4").unlink()


def few(home: Path) -> None:
    (home / "real" / "clip1.mp4").unlink()


def deep(home: Path) -> None:
    folder = home / "made" / "deep"
    folder.mkdir()
    for number in range(FRAMES):
        Image.fromarray(np.full((16, 16), 40_000, dtype=np.uint16)).save(folder / f"{number}.png")


def known(home: Path) -> None:
    text = PROTOCOL.replace("frames: 12}", "frames: 12, sha256: {i3d: abcdef}}")
    (home / "small.yaml").write_text(text)


def broken(home: Path) -> None:
    (home / "made" / "clip2.mp4").write_bytes(b"no video")


def script(home: Path) -> None:
    missing(home)
    (home / "i3d.pt").write_bytes(b"no script")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (short, ("clip3.mp4 is too short", "12 frames", "has 5")),
        (missing, ("no file i3d.pt", "--extractor")),
        (mixed, ("several sizes", "16x16", "clip3.mp4 24x24")),
        (empty, ("--generated made", "no video")),
        (one, ("--generated made", "one video")),
        (few, ("--real", "6 videos", "there are 5")),
        (deep, ("deep/0.png", "16 bits")),
        (known, ("SHA-256", "abcdef")),
        (broken, ("clip2.mp4 cannot be read",)),
        (script, ("i3d.pt is no TorchScript file",)),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_cannot_be_scored_is_refused_before_work(
    home: Path, damage: Break, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(module, "score", fail)
    damage(home)
    refused(evaluate(), *words)
    assert not (home / "evaluation.json").exists()


def test_a_protocol_that_does_not_exist_is_answered_with_the_nearest(home: Path) -> None:
    refused(evaluate(protocol="fvd-styleganv"), "no protocol", "fvd-styleganv-16x2048")
    refused(evaluate(made="nowhere"), "--generated nowhere", "no such folder")
    refused(evaluate("--extractor", "c3d=x.pt"), "no extractor 'c3d'")
    refused(evaluate("--device", "cuda:9"), "--device cuda:9")
    refused(cogvid("evaluate"), "nothing to evaluate")
    (home / "evaluation.json").write_text("[1]")
    refused(evaluate(), "evaluation.json holds something else")


@pytest.fixture
def run(copied: Path) -> Path:
    """The folder of a finished run, to change."""
    return copied / "runs" / "tiny" / "default" / "0"


FVD = "evaluation.metrics={fvd: {name: fvd}, score: {name: inception_score}}"


def test_a_finished_run_gets_more_metrics_and_keeps_those_it_has(run: Path) -> None:
    before = json.loads((run / "metrics.json").read_text())
    stages = {path.name.partition("-")[0] for path in (run.parents[2] / "stages").iterdir()}
    # It may have been made when there were fewer keys.
    config = run / "config.yaml"
    whole = config.read_text()
    config.write_text(whole.replace("search: null\n", ""))
    assert config.read_text() != whole
    result = cogvid("evaluate", run, "evaluation.metrics={}", FVD, "--write-real", run / "kept")
    assert result.exit_code == 0, result.output
    config.write_text(whole)
    after = json.loads((run / "metrics.json").read_text())
    for name, metrics in after["sets"].items():
        assert metrics["oracle"] == before["sets"][name]["oracle"]
        assert {"fvd", "score"} <= metrics.keys() or name == "key_frames"
    assert after["meanings"].keys() == {"oracle", "fvd", "score"}
    assert {entry["protocol"] for own in after["sets"].values() for entry in own.values()} == after["protocols"].keys()
    assert (after["held_out"], after["speed"]) == (before["held_out"], before["speed"])
    made = {path.name.partition("-")[0] for path in (run.parents[2] / "stages").iterdir()} - stages
    assert made == {"features"}
    # The two metrics shared one reading.
    assert len(list((run.parents[2] / "stages" / "features").glob("*.safetensors"))) == 2  # tensors, and decoded clips
    assert len(list((run / "kept").glob("*.mp4"))) == 4
    # The run itself goes on as it was, and loses nothing.
    again = cogvid("run", run.parents[3] / "tiny.yaml", "--runs", run.parents[2])
    assert again.exit_code == 0, again.output
    assert json.loads((run / "metrics.json").read_text()) == after


def test_sets_of_a_run_share_a_protocol_and_key_frames_have_their_own(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    hashes = {name: own["oracle"]["protocol"] for name, own in metrics["sets"].items() if "oracle" in own}
    assert len({hashes[name] for name in ("generated", "real", "reconstruction", "linear", "hold")}) == 1
    assert hashes.get("key_frames") != hashes["generated"]
    protocol = metrics["protocols"][hashes["generated"]]
    assert {"frames": 9, "scored": "tensors", "samples": 4, "split": "test", "fit": "crop"}.items() <= protocol.items()
    assert protocol["rates"]
    assert protocol["seconds"]


def test_what_is_no_finished_run_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    before = (run / "metrics.json").read_bytes()
    refused(cogvid("evaluate", run, "generation.frames=17"), "generation.frames", "another run")
    refused(cogvid("evaluate", tmp_path), str(tmp_path), "no config.yaml")
    refused(cogvid("evaluate", run, "evaluation.metrics.fvd={name: fvdd}"), "fvdd")
    refused(cogvid("evaluate", run, "--protocol", "shapes"), "--protocol")
    assert (run / "metrics.json").read_bytes() == before
    (run / "samples" / "videos.safetensors").unlink()
    refused(cogvid("evaluate", run), str(run), "is gone")
    (run / "samples").unlink()
    refused(cogvid("evaluate", run), f"{run} is not finished")
    assert (run / "metrics.json").read_bytes() == before
