"""The text stage: what it learns from, what it says of captions, and that their number takes no memory."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from cogvid import Clip, UserError
from cogvid.config.compose import load_experiment
from cogvid.data.clip_times import ClipTimes
from cogvid.data.reading import Video
from cogvid.data.table import CLIPS, found_row, listed_row, write_table
from cogvid.interfaces.data_source import Split
from cogvid.pipeline import text_stage as module
from cogvid.pipeline.clips import TABLE
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageResult, StageStore
from cogvid.pipeline.text_stage import load_text, text_stage, warn_of_prompts
from cogvid_plugins.text_tokenizer.bpe import BytePairs


@pytest.fixture(autouse=True)
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, logger="cogvid"):
        yield


def table(folder: Path, *captions: tuple[str, ...], test: tuple[str, ...] = ()) -> StageResult:
    """A finished data stage of clips of 4 seconds, each with these captions, and one test clip."""
    folder.mkdir(exist_ok=True)
    video = Video(ClipTimes.of(range(65), Fraction(1, 16)), 32, 32, "h264")
    named: list[tuple[str, Split, tuple[str, ...]]] = [
        (f"clip{number}", "train", own) for number, own in enumerate(captions)
    ]
    named += [("tested", "test", test)] if test else []
    clips = [Clip(name, folder / f"{name}.mp4", own[0], split, own[1:]) for name, split, own in named]
    write_table(folder / TABLE, CLIPS, [listed_row(clip, folder) | found_row(clip, video) for clip in clips])
    return StageResult(folder, "data", {})


def lab_of(*changes: str) -> Lab:
    return Lab(load_experiment("quickstart", None, list(changes)).config)


def made(lab: Lab, data: StageResult, tmp_path: Path) -> StageResult:
    return text_stage(lab, StageStore(tmp_path / "stages"), data)


def test_every_training_caption_is_learned_with_every_duration_it_is_asked_for_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[tuple[str, float]] = []
    original = BytePairs.train
    monkeypatch.setattr(
        BytePairs, "train", lambda self, captions: original(self, learned := [*captions]) or seen(learned)
    )

    def seen(captions: list[tuple[str, float]]) -> None:
        learned.extend(captions)

    made(lab_of("text.length=40"), table(tmp_path / "data", ("one", "uno"), ("two",), test=("no",)), tmp_path)
    # Five key frames in 4 seconds are a second apart; windows of the interpolation span two gaps, then one.
    durations = [0.0, 1.0, 2.0, 4.0]
    assert learned == [(c, s) for own in (["one", "uno"], ["two"]) for s in durations for c in own]


def test_captions_that_are_too_long_are_counted_in_one_warning_in_every_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = "a red circle and a blue one and a green one and so on for ever"
    data = table(tmp_path / "data", ("a red circle",), ("short", long), (long,), test=(long,))
    for _ in range(2):
        caplog.clear()
        text = made(lab_of(), data, tmp_path)
        (warning,) = caplog.messages
        assert "3 of the 5 captions are too long for the 16 text slots" in warning
        assert f"clip1's: '{long}'" in warning
    encoder = load_text(lab_of(), text)
    assert encoder.encode([long], [4.0])[1].sum() > 10
    assert long.startswith(encoder.kept(long, [4.0]))


def test_captions_that_are_too_long_end_the_run_where_they_are_an_error(tmp_path: Path) -> None:
    long = " ".join(f"{number:x}" for number in range(1000, 1500))
    data = table(tmp_path / "data", ("a red circle",), (long,))
    with pytest.raises(UserError, match=r"text\.too_long: 1 of the 2 captions .* clip1's: '3e8 .* \.\.\.'") as error:
        made(lab_of("text.too_long=error"), data, tmp_path)
    assert len(str(error.value)) < 600
    made(lab_of("text.too_long=error", "text.length=3000"), data, tmp_path)


def test_slots_that_the_durations_alone_do_not_fit_into_are_refused(tmp_path: Path) -> None:
    data = table(tmp_path / "data", ("a",))
    with pytest.raises(UserError, match=r"text\.length: a sequence of .* without a caption; there is room for 1"):
        made(lab_of("text.length=1"), data, tmp_path)
    (tmp_path / "bytes.py").write_text(BYTES + "Bytes.first_frame = lambda self, caption: list(range(21))\n")
    plugin = f"plugins=[{tmp_path}/bytes.py]", "text_tokenizer=bytes"
    with pytest.raises(UserError, match=r"a sequence of 0 seconds has 21 tokens of text without a caption"):
        made(lab_of(*plugin, "text.length=20"), data, tmp_path)


def test_characters_that_cannot_be_read_are_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = made(lab_of(), table(tmp_path / "data", ("a red circle",), test=("a röd circle", "ü")), tmp_path)
    (warning,) = caplog.messages
    assert warning.endswith("2 of the 3 captions have characters that the text tokenizer bpe cannot read, and are read "
                            "without them: 'ö' 'ü'")  # fmt: skip
    assert load_text(lab_of(), text).tokenizer.readable("a röd circle") == "a rd circle"


def test_what_was_found_is_not_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = table(tmp_path / "data", ("a red circle",))
    first = made(lab_of(), data, tmp_path)
    monkeypatch.setattr(module, "_captions", lambda *_: pytest.fail("it is"))
    assert made(lab_of("text.too_long=error"), data, tmp_path).key == first.key


def test_prompts_that_are_cut_are_said_with_what_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lab = lab_of()
    stage = made(lab, table(tmp_path / "data", ("a red circle moves left and right",)), tmp_path)
    text = load_text(lab, stage)
    warn_of_prompts(text, ["a red circle"], [[4.0]])
    assert not caplog.messages
    prompts = ["a red circle", "a red circle moves left" + " and left" * 20]
    warn_of_prompts(text, prompts, [[4.0]] * 2)
    (warning,) = caplog.messages
    assert "1 of the 2 prompts are too long" in warning
    assert "is read as 'a red circle moves" in warning
    with pytest.raises(UserError, match="'a red circle moves left and"):
        warn_of_prompts(load_text(lab_of("text.too_long=error"), stage), prompts, [[4.0]] * 2)


BYTES = """
from pathlib import Path
import cogvid
class Bytes(cogvid.TextTokenizer):
    vocabulary = 256
    calls, most = 0, 0
    @classmethod
    def note(cls):
        cls.calls += 1
        if cls.calls % 1000 == 0:  # memory-mapped files are not counted
            (anonymous,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("RssAnon"))
            cls.most = max(cls.most, int(anonymous.split()[1]) / 1024)
    def train(self, captions):
        for _ in captions:
            self.note()
    def readable(self, caption):
        self.note()
        return caption
    def encode(self, text):
        return list(text.encode()[-9:])
    def ends(self, text):
        return []
    def save(self, folder):
        pass
    def load(self, folder):
        pass
@cogvid.hookimpl
def register_text_tokenizers():
    return {"bytes": Bytes}
"""
MEMORY = """
from pathlib import Path
from cogvid.config.compose import load_experiment
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageResult, StageStore
from cogvid.pipeline.text_stage import text_stage
lab = Lab(load_experiment("quickstart", None, ["plugins=[./bytes.py]", "text_tokenizer=bytes"]).config)
peaks = []
for folder in map(Path, ("5000", "50000")):
    text = text_stage(lab, StageStore(folder / "stages"), StageResult(folder, "data", {}))
    peaks.append(type(lab.build_text_tokenizer()).most)
print(text.info["captions"], peaks[1] - peaks[0])
"""


@pytest.mark.slow
def test_ten_times_the_captions_take_hardly_more_memory(tmp_path: Path) -> None:
    (tmp_path / "bytes.py").write_text(BYTES)
    video = Video(ClipTimes.of(range(65), Fraction(1, 16)), 32, 32, "h264")
    found = found_row(Clip("", tmp_path / "a", "", "train"), video)
    for count in (5_000, 50_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        clips = (Clip(f"{i}", Path(f"/{i}.mp4"), f"{i} cats run" + " on" * 50, "train") for i in range(count))
        write_table(folder / TABLE, CLIPS, (listed_row(clip, folder) | found for clip in clips))
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    captions, more = done.stdout.split()[-2:]
    assert captions == "50000"
    # Some of it is what the allocator keeps, whatever their number. A list of the captions alone adds 23 MB.
    assert float(more) < 20
