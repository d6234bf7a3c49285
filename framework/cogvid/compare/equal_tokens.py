"""What share of a run's tokens an exact decoding gives, by the same models and with the same seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cogvid.compare.quantities import Measurement, Quantity
from cogvid.compare.read import RunRecord
from cogvid.compare.variants import Variant

_EQUAL = Quantity(
    group="quality",
    of="generated",
    metric="tokens",
    name="equal",
    title="equal tokens",
    text="Share of the tokens that an exact decoding gives, by the same models and with the same seed.",
    unit="share",
    better="higher",
    headline=True,
    judged=False,  # it says what a decoding leaves out, not how good its clips are
)


def equal_tokens(variants: Sequence[Variant]) -> Iterator[tuple[Variant, RunRecord, Measurement]]:
    """Of all runs that share their models, seed and clips with one whose decoding is exact, and have another decoding.

    Exact decodings share their samples; what another exact one gave when it was timed stands for it.
    """
    groups: dict[str, list[tuple[Variant, RunRecord, dict[str, Any]]]] = {}
    for variant in variants:
        for run in variant.runs:
            samples = _said(run.folder / "samples")
            if "decoding" in samples:
                shared = dict(samples.get("depends", {}))
                shared["generation"] = {**shared.get("generation", {}), "decoding": None}
                groups.setdefault(json.dumps(shared, sort_keys=True), []).append((variant, run, samples))
    for group in groups.values():
        exact = next((run for _, run, samples in group if samples["decoding"]["exact"]), None)
        others = [run for _, run, samples in group if not samples["decoding"]["exact"] or _said(run.folder / "speed")]
        if exact is None or not others:
            continue
        tokens = _tokens(exact)
        for variant, run, samples in group:
            timed = _said(run.folder / "speed").get("equal_tokens", 1.0)
            if samples["decoding"]["exact"]:
                yield variant, run, Measurement(_EQUAL, timed)
                continue
            own = _tokens(run)
            if tokens is not None and own is not None and own.shape == tokens.shape:
                clips = (own == tokens).reshape(len(own), -1).mean(1)
                error = float(clips.std(ddof=1) / len(clips) ** 0.5) if len(clips) > 1 else None
                yield variant, run, Measurement(_EQUAL, float(clips.mean()), error=error)


def _said(stage: Path) -> dict[str, Any]:
    """What a stage's file says; nothing where it is not finished, or damaged."""
    try:
        said = json.loads((stage / "stage.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _tokens(run: RunRecord) -> np.ndarray[Any, Any] | None:
    """Of the generated clips, or of their key frames where no model made the rest; None where they are not there."""
    try:
        tokens = load_file(run.folder / "samples" / "tokens.safetensors")
    except (OSError, SafetensorError):
        return None
    return tokens.get("generated", tokens.get("key_frames"))
