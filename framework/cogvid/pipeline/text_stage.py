"""The text tokenizer's stage: from captions to text tokens."""

from __future__ import annotations

from pathlib import Path

from cogvid.data.text import TextTokenizer, known_characters, known_part, with_duration
from cogvid.pipeline.clips import captions, rates_and_windows, usable_clips
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import Info, StageResult, StageStore


def text_stage(lab: Lab, store: StageStore, data: StageResult) -> StageResult:
    """Trains the text tokenizer on the training captions with every duration they may have in front."""
    depends = {"data": data.key, "text": lab.config.text, "frames": lab.config.video.frames, **rates_and_windows(lab)}

    def work(folder: Path) -> Info:
        frames = lab.config.video.frames
        spans = {0.0, *(times[-1] - times[0] for times in (lab.key_frame_times, *lab.window_times))}
        known = known_characters(captions(usable_clips(lab, data.folder, "train")))
        train, test = (
            [
                with_duration(known_part(caption, known), span / rate)
                for timed in usable_clips(lab, data.folder, split)
                for rate in lab.scheduler.training_rates(timed.duration, frames)
                for span in sorted(spans)
                for caption in timed.captions
            ]
            for split in ("train", "test")
        )
        tokenizer = TextTokenizer.train(train, lab.config.text.vocabulary)
        tokenizer.encode(sorted({*train, *test}), lab.config.text.length)  # a caption that is too long ends here
        tokenizer.save(folder / "text.json")
        return {"vocabulary": tokenizer.vocabulary}

    return store.finish("text_tokenizer", depends, work)
