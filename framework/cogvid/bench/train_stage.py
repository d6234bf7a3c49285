"""A stage of an experiment, trained as a run trains it, on made-up clips."""

from __future__ import annotations

import shutil
from pathlib import Path

from cogvid.bench.data_loading import made_text, made_tokens
from cogvid.bench.train_phases import Watch
from cogvid.data.tokens import TokenClips
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageResult, StageStore
from cogvid.pipeline.train import TransformerStages
from cogvid.training import job

_CLIPS = 64


class Trainings:
    """Trains a stage again and again from the same start.

    Args:
        lab: the experiment.
        stage: sequential, image_base or interpolation.
        folder: of all that is written, the same for all processes of a job.
    """

    def __init__(self, lab: Lab, stage: str, folder: Path) -> None:
        self.lab, self.stage, self.folder = lab, stage, folder
        self.text = StageResult(folder / "text_tokenizer", "made up", {})
        self.clips = job.once(self._make)
        self.base = None if stage == "image_base" else self._stages("base").image_base()

    def _make(self) -> TokenClips:
        for name in ("text_tokenizer", "tokens"):
            (self.folder / name).mkdir(parents=True)
        made_text(self.lab).tokenizer.save(self.text.folder)
        return made_tokens(self.lab, _CLIPS, self.folder / "tokens")

    def _stages(self, name: str, *watches: Watch) -> TransformerStages:
        tokens = StageResult(self.folder / "tokens", "made up", {})
        return TransformerStages(
            self.lab, StageStore(self.folder / name), self.text, tokens, self.clips, None, callbacks=watches
        )

    def train(self) -> Watch:
        """Train the stage to its last step."""
        watch = Watch()
        stages = self._stages(self.stage, watch)
        if self.base is None:
            stages.image_base()
        else:
            stages.video("sequential" if self.stage == "sequential" else "interpolation", self.base)
        job.once(lambda: shutil.rmtree(self.folder / self.stage))
        return watch
