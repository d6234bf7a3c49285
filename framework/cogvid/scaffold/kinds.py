"""What the template of each kind is called, and the options its test tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cogvid.interfaces.component import Kind


@dataclass(frozen=True)
class Template:
    """A kind's part of the templates.

    Attributes:
        suffix: of the class's name.
        trials: options that the package's test tries, one set after the other.
        override: an option of the component with another value, as one says it on the command line; `*` is the name.
    """

    suffix: str
    trials: tuple[Mapping[str, Any], ...]
    override: str


TEMPLATES: dict[Kind, Template] = {
    "attention": Template("Attention", ({}, {"radius": 1}), "attention.options.radius=1"),
    "frame_rate": Template("Scheduler", ({}, {"rates": [1.0, 3.0]}), "frame_rate.options.rates=[1,2]"),
    "interpolation": Template("Strategy", ({}, {"sharpness": 1.0}), "interpolation.options.sharpness=4"),
    "data": Template(
        "Source",
        # Small ones: every clip is made.
        ({"clips": 4, "test_clips": 2}, {"clips": 2, "test_clips": 2, "size": 24}),
        "data.options.clips=200",
    ),
    "frame_tokenizer": Template(
        "Tokenizer", ({}, {"codes": 16, "downsampling": 8}), "frame_tokenizer.options.codes=256"
    ),
    "text_tokenizer": Template("Tokenizer", ({}, {"characters": 8}), "text_tokenizer.options.characters=20"),
    "decoding": Template("Decoding", ({}, {"most": 3}), "generation.decoding.options.most=16"),
    "metric": Template("Metric", ({}, {"stride": 2}), "evaluation.metrics.*.options.stride=2"),
}
