"""The text tokenizer's stage: from captions to text tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from cogvid.config.ranges import said
from cogvid.config.schema import TooLong
from cogvid.data.text import CaptionEncoder
from cogvid.errors import UserError
from cogvid.interfaces.data_source import Split
from cogvid.interfaces.text_tokenizer import TextTokenizer
from cogvid.interfaces.token_source import TokenSource
from cogvid.pipeline.clips import rates_and_windows, usable_clips
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.stage import Info, StageResult, StageStore
from cogvid.progress import stage_progress
from cogvid.training import job

# A message names so many characters of those that cannot be read, and shows so many of a caption.
_NAMED, _SHOWN = 10, 200


def text_stage(lab: Lab, store: StageStore, data: StageResult) -> StageResult:
    """Trains the text tokenizer on the training captions with every duration they may have, and looks at all captions:
    which are too long, which have characters that it cannot read.

    Raises:
        UserError: a caption is too long, and they are not to be cut.
    """
    depends = {
        "data": data.key,
        "text_tokenizer": lab.identity("text_tokenizer", lab.config.text_tokenizer),
        "length": lab.config.text.length,
        "frames": lab.config.video.frames,
        **rates_and_windows(lab),
    }

    def work(folder: Path) -> Info:
        tokenizer = lab.build_text_tokenizer()
        if isinstance(lab.data, TokenSource):
            tokenizer.save(folder)
            return {"vocabulary": tokenizer.vocabulary}
        tokenizer.train(
            (caption, seconds)
            for _, captions, durations in _captions(lab, data.folder, "train", "text: learn")
            for seconds in durations
            for caption in captions
        )
        tokenizer.save(folder)
        return {"vocabulary": tokenizer.vocabulary, **_look(lab, data.folder, tokenizer)}

    result = store.finish("text_tokenizer", depends, work)
    with job.said_once():
        _tell(lab, result.info)
    return result


def load_text(lab: Lab, stage: StageResult) -> CaptionEncoder:
    """The trained text tokenizer, ready to encode captions for the models of the experiment."""
    tokenizer = lab.build_text_tokenizer()
    tokenizer.load(stage.folder)
    return _encoder(lab, tokenizer, lab.config.text.too_long is TooLong.cut)


def _encoder(lab: Lab, tokenizer: TextTokenizer, cut: bool) -> CaptionEncoder:
    return CaptionEncoder(tokenizer, lab.config.text.length, lab.codes, cut)


def warn_of_prompts(text: CaptionEncoder, prompts: Sequence[str], seconds: Sequence[Sequence[float]]) -> None:
    """Say in one line how many prompts are cut.

    Args:
        text: encodes them.
        prompts: B texts.
        seconds: durations of each one's sequences, beside 0.

    Raises:
        UserError: one has characters that cannot be read, or is too long and not to be cut.
    """
    read = [text.kept(prompt, (0.0, *own)) for prompt, own in zip(prompts, seconds, strict=True)]
    cut = [(whole, kept) for whole, kept in zip(prompts, read, strict=True) if whole != kept]
    if cut:
        log.warning(
            "%d of the %d prompts are too long for the %d text slots of a sequence, and what does not fit is left out: "
            "%r is read as %r.",
            len(cut),
            len(prompts),
            text.length,
            *map(_short, cut[0]),
        )


def _captions(lab: Lab, folder: Path, split: Split, title: str) -> Iterator[tuple[str, list[str], list[float]]]:
    """The id, the captions, and the durations that they are asked for with, of each clip of a split; streamed."""
    frames = lab.config.video.frames
    spans = sorted({0.0, *(times[-1] - times[0] for times in (lab.key_frame_times, *lab.window_times))})

    @lru_cache(maxsize=1024)  # few durations are many clips'
    def durations(reach: float) -> list[float]:
        return [span / rate for rate in lab.scheduler.training_rates(reach, frames) for span in spans]

    clips = usable_clips(lab, folder, split)
    with stage_progress() as bar:
        task = bar.add_task(title, total=len(clips))
        for batch in clips.batches(["id", "captions", "reach"]):
            for row in batch.to_pylist():
                yield row["id"], row["captions"], durations(row["reach"])
            bar.advance(task, len(batch))


def _look(lab: Lab, folder: Path, tokenizer: TextTokenizer) -> Info:
    """How many captions there are; of those that are too long, and of those that cannot be read whole, if there are
    some, how many and what to show of them."""
    text = _encoder(lab, tokenizer, cut=True)
    found: Info = {"captions": 0}
    seen: set[float] = set()
    for split in ("train", "test"):
        for clip, captions, durations in _captions(lab, folder, split, f"text: {split}"):
            seen.update(durations)
            for caption in captions:
                found["captions"] += 1
                readable = tokenizer.readable(caption)
                if readable != caption:
                    unreadable = found.setdefault("unreadable", {"count": 0, "characters": []})
                    unreadable["count"] += 1
                    unknown = sorted({*caption} - {*readable, *unreadable["characters"]})
                    unreadable["characters"] += unknown[: _NAMED - len(unreadable["characters"])]
                if not all(text.fits(readable, seconds) for seconds in dict.fromkeys(durations)):
                    first = {"count": 0, "clip": clip, "caption": caption}
                    too_long = found.setdefault("too_long", first)
                    too_long["count"] += 1
    # Slots that what stands around a caption does not fit into end here.
    text.encode([None] * len(seen) + [""] * len(seen), [*seen, *seen])
    return found


def _tell(lab: Lab, info: Info) -> None:
    """Say what was found of captions, in every run: in a later one nobody looks again."""
    if unreadable := info.get("unreadable"):
        log.warning(
            "text: %d of the %d captions have characters that the text tokenizer %s cannot read, and are read without "
            "them: %s",
            unreadable["count"],
            info["captions"],
            lab.config.text_tokenizer.name,
            " ".join(map(repr, unreadable["characters"])),
        )
    if too_long := info.get("too_long"):
        found = (
            f"{too_long['count']} of the {info['captions']} captions are too long for the {lab.config.text.length} "
            f"text slots of a sequence; the first is clip {too_long['clip']}'s: {_short(too_long['caption'])!r}."
        )
        if lab.config.text.too_long is TooLong.error:
            raise UserError(
                f"{said('text.too_long', lab.sources)}text.too_long: {found} Shorten them, raise text.length, or set "
                "text.too_long to cut."
            )
        log.warning("text: %s They are cut behind the last token that fits; a larger text.length keeps more", found)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
