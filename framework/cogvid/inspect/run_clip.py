"""A test clip of a trained run, to be generated again and looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cogvid.errors import UserError
from cogvid.inspect.passes import ClipPasses, clip_passes
from cogvid.interfaces.token_source import TokenSource
from cogvid.pipeline.generate import given_key_frames, token_progress, usable_test_clips
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import needed_stages, saved_run, trained_models

_CHANGES = "generation."


class RunClip:
    """A clip as the run generates it.

    Args:
        folder: of the run.
        changes: `generation.KEY=VALUE`, to how it is generated.
        number: of the test clip, from 0.

    Attributes:
        caption: what it shows.
        decoding: how it is decoded: a name, and whether that is approximate.

    Raises:
        UserError: the folder holds no trained run, a change is none of these, or there is no such clip. No model is
            loaded before.
    """

    def __init__(self, folder: Path, changes: Sequence[str], number: int) -> None:
        for word in changes:
            if not word.startswith(_CHANGES):
                raise UserError(
                    f"{word}: of a run's clip only how it is generated can be changed: generation.KEY=VALUE."
                )
        # Compiling takes longer than a clip.
        config, self.stages = saved_run(folder, [f"{_CHANGES}compile=false", *changes])
        self.lab, self.number = Lab(config), number
        if isinstance(self.lab.data, TokenSource):
            raise UserError(f"{folder}: its data is tokens: it has no test clips to generate.")
        if "data" not in self.stages:
            raise UserError(
                f"{folder} has no data stage, and so no test clips: name the run itself, not an export of it."
            )
        needed_stages(self.lab, self.stages, folder)
        self.stages["data"].check()
        clips = usable_test_clips(self.lab, self.stages["data"])
        if number >= len(clips.clips):
            there = f"test clips 0 to {len(clips.clips) - 1}" if clips.clips else "no test clip that its rates can show"
            raise UserError(f"--clip {number}: {folder} has {there}.")
        self.clips = replace(clips, clips=[clips.clips[number]], rates=[clips.rates[number]])
        (self.caption,) = self.clips.captions
        self.decoding = config.generation.decoding.name + ("" if self.lab.decoding.exact else " (approximate)")

    def passes(self) -> ClipPasses:
        """Generate it.

        Raises:
            UserError: a stage's files are damaged.
        """
        trained = trained_models(self.lab, self.stages)
        given = given_key_frames(self.lab, trained.tokenizer, self.clips)
        (prompt,), (seconds,) = self.clips.prompts(trained.generator.text.tokenizer), self.clips.seconds
        with token_progress(f"clip {self.number}", trained.generator.clip_tokens) as on_step:
            seed = self.lab.config.seed
            return clip_passes(trained.generator, prompt, seconds, self.number, seed, given, on_step)
