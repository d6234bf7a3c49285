"""What the keys of the stages hold, asked of a store that makes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import save_file

from cogvid import Clip
from cogvid.config.compose import load_experiment
from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import Video
from cogvid.data.table import CLIPS, found_row, listed_row, write_table
from cogvid.data.tokens import TokenClips
from cogvid.generation.clips import ClipGenerator
from cogvid.interfaces.data_source import Split
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.clips import TABLE
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.evaluate import evaluation_stage
from cogvid.pipeline.generate import generation_stage
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.previews import Previews
from cogvid.pipeline.stage import Info, StageResult, StageStore, as_plain
from cogvid.pipeline.text_stage import text_stage
from cogvid.pipeline.tokenizer_stage import tokenizer_stage
from cogvid.pipeline.tokens_stage import TokensStage
from cogvid.pipeline.train import TransformerStages
from cogvid_plugins.text_tokenizer.bpe import BytePairs


@dataclass
class Asked(StageStore):
    """Gives every stage the key of its dependencies."""

    folder: Path
    keys: dict[str, str] = field(default_factory=dict)
    generation: Any = None

    def finish(self, name: str, depends: Info, work: Callable[[Path], Info], **how: Any) -> StageResult:
        self.generation = depends.get("generation", self.generation)
        self.keys[name] = hashlib.sha256(json.dumps(as_plain(depends), sort_keys=True).encode()).hexdigest()
        return StageResult(self.folder, self.keys[name], {"outputs": {"model.safetensors": self.keys[name]}})


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Asked]:
    tokenizer = BytePairs()
    tokenizer.train([("a red circle", 2.0)])
    tokenizer.save(tmp_path)
    times = ClipTimes.of(range(80), Fraction(1, 16))
    splits: tuple[Split, ...] = ("train", "test")
    video = Video(times, 32, 32, "h264")
    clips = [Clip(split, tmp_path / f"{split}.mp4", "a red circle", split) for split in splits]
    write_table(tmp_path / TABLE, CLIPS, [listed_row(clip, tmp_path) | found_row(clip, video) for clip in clips])

    def asked(*changes: str) -> Asked:
        # Other shapes would be drawn for frames of another size.
        changes = ("data.options.size=32", *changes)
        lab, store = Lab(load_experiment("quickstart", None, list(changes)).config), Asked(tmp_path)
        data = data_stage(lab, store)
        text, tokenizer = text_stage(lab, store, data), tokenizer_stage(lab, store, data)
        tokens = TokensStage(lab, store, data, tokenizer).finish()
        clips = TokenClips(tmp_path, tmp_path / TABLE)
        test_tokens = TokensStage(lab, store, data, tokenizer, "test").finish()
        stages = TransformerStages(lab, store, text, tokens, clips, cast(Previews, None), test_tokens)
        base = stages.image_base()
        sequential = stages.video("sequential", base)
        models = {"sequential": sequential, "interpolation": stages.video("interpolation", base, sequential)}
        trained = (tokenizer, cast(FrameTokenizer, None)), models, cast(ClipGenerator, None)
        generation_stage(lab, store, data, *trained)
        evaluation_stage(lab, store, data, StageResult(tmp_path, "samples", {}))
        return store

    return asked


@pytest.fixture
def keys(asked: Callable[..., Asked]) -> Callable[..., dict[str, str]]:
    return lambda *changes: asked(*changes).keys


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("video.size=48", "data text_tokenizer metrics"),
        ("video.size=[32,48]", "data text_tokenizer metrics"),
        ("video.size=[32,32]", "*"),
        ("video.fit=pad", "data text_tokenizer metrics"),
        ("data.options.size=[32,48]", "metrics"),
        ("text.length=50", "data tokenizer tokens test_tokens metrics"),
        ("text_tokenizer.options.vocabulary=300", "data tokenizer tokens test_tokens metrics"),
        ("text.too_long=error", "*"),
        ("model.layers=3", "data text_tokenizer tokenizer tokens test_tokens metrics"),
        ("model.positions=rotary", "data text_tokenizer tokenizer tokens test_tokens image_base metrics"),
        ("model.checkpoint_activations=true", "data text_tokenizer tokenizer tokens test_tokens metrics"),
        ("model.gate_init=1.0", "data text_tokenizer tokenizer tokens test_tokens image_base metrics"),
        ("model.plus_init=copy", "data text_tokenizer tokenizer tokens test_tokens image_base metrics"),
        ("trainer.devices=2", "*"),
        ("trainer.strategy=fsdp2", "*"),
        ("trainer.accumulate=2", "*"),
        ("trainer.log_every=3", "*"),
        ("trainer.workers=2", "*"),
        ("stages.tokenizer.frames=500", "data text_tokenizer metrics"),
        ("data_seed=1", "metrics"),
        ("held_out.clips=7", "data text_tokenizer metrics"),
        ("generation.decoding.name=scheduled", "*"),
        ("generation.decoding.name=sequential", "*"),
        ("generation.decoding.options.window=3", "*"),
    ],
)
def test_a_change_makes_new_what_it_decides_and_no_more(
    keys: Callable[..., dict[str, str]], change: str, kept: str
) -> None:
    before, after = keys(), keys(change)
    same = {name for name in before if before[name] == after[name]}
    assert same == (set(before) if kept == "*" else set(kept.split()))


def test_clips_have_the_keys_that_they_had_before_decodings_had_names(asked: Callable[..., Asked]) -> None:
    saved = as_plain(load_experiment("quickstart").config.generation)
    del saved["decoding"]
    assert asked().generation == saved


def test_of_an_approximate_decoding_all_counts_that_decides_what_it_does(
    asked: Callable[..., Asked], hasty: Path
) -> None:
    said, code = [f"plugins=[{hasty}]", "generation.decoding.name=hasty"], hasty.read_text()
    before, seen = asked(), []
    for own, more in ((code, []), (code, ["generation.decoding.options.rows=3"]), (code + "# another", [])):
        hasty.write_text(own)
        seen.append(asked(*said, *more))
    assert len({one.keys["samples"] for one in (before, *seen)}) == 4
    for one in seen:
        assert {name for name in before.keys if before.keys[name] != one.keys[name]} == {"samples"}
        assert one.generation["decoding"]["name"] == "hasty"


def test_a_plugin_that_is_named_and_not_used_makes_nothing_new(
    keys: Callable[..., dict[str, str]], hasty: Path
) -> None:
    assert keys(f"plugins=[{hasty}]") == keys()


def test_a_metrics_file_counts_by_content(keys: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    weights = tmp_path / "i3d.pt"
    metric = f"evaluation.metrics={{fvd: {{name: fvd, options: {{extractor: i3d, path: {weights}}}}}}}"
    seen: list[Any] = []
    for content in (b"one", b"another", b"another"):
        weights.write_bytes(content)
        seen.append(keys(metric)["metrics"])
    assert seen[0] != seen[1] == seen[2]


def test_the_text_tokenizer_depends_on_the_frames_whose_durations_it_writes(
    keys: Callable[..., dict[str, str]],
) -> None:
    one, other = keys("interpolation=hold"), keys("interpolation=hold", "video.frames=9")
    assert {name for name in one if one[name] == other[name]} == {"data", "tokenizer", "metrics"}


def test_of_a_given_tokenizer_no_data_and_no_step_counts(keys: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    lab = Lab(load_experiment("quickstart", None, []).config)
    weights = tmp_path / "given.safetensors"
    save_file(lab.build_tokenizer().state_dict(), weights)
    given = f"stages.tokenizer.weights={weights}"
    one, other = keys(given), keys(given, "data_seed=1", "stages.tokenizer.steps=7", "trainer.devices=2")
    assert one["tokenizer"] == other["tokenizer"] != keys()["tokenizer"]
    assert one["tokens"] != other["tokens"]
    state = lab.build_tokenizer().state_dict()
    save_file({name: tensor + 1 for name, tensor in state.items()}, weights)
    assert keys(given)["tokenizer"] != one["tokenizer"]
