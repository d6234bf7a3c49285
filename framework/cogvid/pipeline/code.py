"""Of the core, the code that decides what a stage makes: an edit of it makes the stage anew, any other does not."""

from __future__ import annotations

from functools import cache

from cogvid.pipeline.digests import file_digest
from cogvid.plugins.source import CORE, source_files

# Modules whose own text counts. The pipeline's modules import what all stages need, so their imports are not followed.
_TEXT = {
    "data": ("pipeline/data_stage", "pipeline/look", "pipeline/lab"),
    "text_tokenizer": ("pipeline/text_stage", "pipeline/lab", "pipeline/clips"),
    "tokenizer": ("pipeline/tokenizer_stage", "pipeline/lab", "pipeline/clips"),
    "tokens": (
        "pipeline/tokens_stage",
        "pipeline/token_plan",
        "pipeline/token_shards",
        "pipeline/token_reuse",
        "pipeline/tokenizer_stage",
        "pipeline/lab",
        "pipeline/clips",
    ),
    "transformer": ("pipeline/train", "pipeline/image_base_file", "pipeline/lab", "pipeline/clips"),
    "samples": ("pipeline/generate", "pipeline/tokenizer_stage", "pipeline/lab", "pipeline/clips", "pipeline/pictures"),
    "metrics": (
        "pipeline/evaluate",
        "pipeline/scoring",
        "pipeline/readings",
        "pipeline/video_set",
        "pipeline/generate",
        "pipeline/lab",
        "pipeline/clips",
    ),
}
# Modules that count with all that they import.
_REACH = {
    "data": ("data/reading", "data/table", "data/workers", "interfaces/token_source"),
    "text_tokenizer": ("data/text",),
    "tokenizer": ("data/reading", "data/frames", "training/fit", "training/modules", "training/clusters"),
    "transformer": ("training/fit", "training/next_token", "model/transformer", "data/samples", "data/rows"),
    "tokens": ("data/reading", "data/messages", "data/sequences", "data/tokens", "data/table"),
    "samples": ("generation/clips", "generation/packed", "data/reading", "data/video", "interfaces/interpolation"),
    "metrics": (
        "data/reading",
        "data/messages",
        "data/table",
        "interfaces/metric",
        "metrics/extractors",
        "metrics/protocol",
    ),
}
# What several stages are.
_WORK = {
    "test_tokens": "tokens",
    "speed": "samples",
    **dict.fromkeys(("image_base", "sequential", "interpolation"), "transformer"),
}


@cache
def stage_code(stage: str) -> dict[str, str]:
    """SHA-256 of the core's files that decide what a stage makes, by name; as they are when a process first asks."""
    work = _WORK.get(stage, stage)
    own = {f"{CORE.name}/{name}.py": file_digest(CORE / f"{name}.py") for name in _TEXT.get(work, ())}
    return own | source_files([CORE / f"{name}.py" for name in _REACH.get(work, ())])
