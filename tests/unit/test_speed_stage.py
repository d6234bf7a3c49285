"""How fast a run's decoding is: said by its samples, or measured on a batch of them made again."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cogvid import Clip
from cogvid.config.compose import load_experiment
from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import Video
from cogvid.data.table import CLIPS, found_row, listed_row, write_table
from cogvid.data.text import CaptionEncoder
from cogvid.generation.clips import ClipGenerator
from cogvid.pipeline.clips import TABLE
from cogvid.pipeline.generate import speed_stage, usable_test_clips
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageResult, StageStore
from cogvid_plugins.decoding.scheduled import Sequential

CAPTION = "a red circle"
SIZES = ["video.size=16", "data.options.size=16", "model.layers=1", "model.width=16", "model.heads=2"]
COUNTS = ["generation.samples=3", "generation.batch_size=2", "generation.frames=9"]


class Made(NamedTuple):
    """A run with untrained models whose 3 samples are there, made one slot at a time."""

    lab: Lab
    store: StageStore
    data: StageResult
    generator: ClipGenerator
    clips: Tensor
    folder: Path

    def speed(self, decoding: dict[str, Any] | None) -> StageResult:
        samples = StageResult(self.folder, "key", {"decoding": decoding} if decoding else {})
        found = speed_stage(self.lab, self.store, self.data, samples, self.generator)
        return found


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Made]:
    def make(strategy: str) -> Made:
        lab = Lab(load_experiment("quickstart", None, [*SIZES, *COUNTS, f"interpolation={strategy}"]).config)
        times = ClipTimes.of(range(80), Fraction(1, 16))
        clips = [Clip(str(n), tmp_path / f"{n}.mp4", CAPTION, "test") for n in range(4)]
        video = Video(times, 16, 16, "h264")
        write_table(tmp_path / TABLE, CLIPS, [listed_row(clip, tmp_path) | found_row(clip, video) for clip in clips])
        data = StageResult(tmp_path, "data", {})
        tokenizer = lab.build_text_tokenizer()
        tokenizer.train([(CAPTION, 2.0)])
        text = CaptionEncoder(tokenizer, lab.config.text.length, lab.codes)
        torch.manual_seed(0)
        models = [lab.image_model(text.vocabulary), lab.video_model("sequential", text.vocabulary)]
        between = lab.video_model("interpolation", text.vocabulary) if lab.interpolates else None
        models = [*models, between]

        def generator(**more: Any) -> ClipGenerator:
            plan = {"places": lab.places, "plan": lab.plan}
            return ClipGenerator(*models, text, lab.config.generation, **{"decoding": lab.decoding, **plan, **more})

        chosen = usable_test_clips(lab, data).first(3)
        made = generator(decoding=Sequential()).clips(chosen.captions, chosen.seconds, torch.arange(3), lab.config.seed)
        return Made(lab, StageStore(tmp_path / "stages"), data, generator(), made, tmp_path)

    return make


@pytest.mark.parametrize(("strategy", "kept"), [("hold", "key_frames"), ("recursive", "generated")])
def test_another_exact_decoding_is_measured_on_one_batch_and_shows_how_many_tokens_are_equal(
    make: Callable[[str], Made], strategy: str, kept: str
) -> None:
    run = make(strategy)
    other = run.clips.clone()
    other[1, 0, :4] = (other[1, 0, :4] + 1) % run.lab.codes
    other[2] += 1  # of the second batch, which is not made again
    tokens = {"real": torch.zeros(3, 9, other.shape[2]), "generated": 0 * other, "key_frames": 0 * other, kept: other}
    save_file({name: codes.int() for name, codes in tokens.items()}, run.folder / "tokens.safetensors")
    sequential = {"name": "sequential", "options": {}, "exact": True}
    stage = run.speed(sequential)
    assert stage.folder.parent == run.store.root
    assert stage.info["clips"] == 2
    assert stage.info["decoding"] == {"name": "fixed_point", "options": {}, "exact": True}
    assert stage.info["equal_tokens"] == round(1 - 4 / other[:2].numel(), 6)
    assert stage.info["tokens_per_second"] == round(run.generator.tokens / run.generator.seconds, 1)
    made = run.generator.tokens
    assert made == other[:2].numel()
    assert run.speed(sequential) == stage
    assert run.generator.tokens == made


def test_samples_say_how_fast_the_decoding_is_that_made_them(make: Callable[[str], Made]) -> None:
    run = make("hold")
    own = {"name": "fixed_point", "options": {}, "exact": True}
    assert run.speed(own).key == "key"
    # Of samples that were made before decodings had names nothing is known.
    assert run.speed(None).key == "key"
    assert run.generator.tokens == 0
