"""What each variant's attention sees, as small pictures for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup
from torch import Tensor

from cogvid.compare.comparison import Row
from cogvid.errors import UserError
from cogvid.inspect.mask import Subject, mask_numbers
from cogvid.inspect.picture import Seen, default_token, seen_by
from cogvid.interfaces.frame_tokenizer import token_grid
from cogvid.plugins.manager import PluginManager, create_plugin_manager

_GAP = 2  # cells between two frames
_LAYERS = (0, 1)
# More frames say no more, and the last ones see most.
_FRAMES = 6


@dataclass(frozen=True)
class MaskPicture:
    """The masks of variants that have the same ones.

    Attributes:
        variants: their labels.
        name: of the attention.
        token: whose keys are shown, in words.
        layers: title and SVG of each distinct mask among the first layers.
        reason: why there is no picture; empty where there is one.
    """

    variants: tuple[str, ...]
    name: str
    token: str = ""
    layers: tuple[tuple[str, Markup], ...] = ()
    reason: str = ""


def mask_pictures(variants: Sequence[Row]) -> list[MaskPicture]:
    """A picture for each different attention.

    Nothing is loaded but installed plugins: a report is made of other people's runs, too, and a configuration's own
    `plugins` are code.
    """
    configs = {row.label: next((run.config for run in row.runs if run.config), {}) for row in variants}
    wanted = {label: _wanted(config) for label, config in configs.items() if config.get("attention.name")}
    if not wanted:
        return []
    manager = create_plugin_manager()
    alike: dict[str, list[str]] = {}
    for label, what in wanted.items():
        alike.setdefault(repr(what), []).append(label)
    return [_picture(manager, tuple(labels), wanted[labels[0]]) for labels in alike.values()]


def _wanted(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the mask follows from."""
    size = config.get("video.size", 0)
    sides = tuple(size) if isinstance(size, list) else (size, size)
    return {
        "attention": (str(config.get("attention.name", "")), _options(config, "attention")),
        "frame_tokenizer": (str(config.get("frame_tokenizer.name", "")), _options(config, "frame_tokenizer")),
        "frames": config.get("video.frames", 0),
        "sides": sides,
    }


def _options(config: Mapping[str, Any], component: str) -> dict[str, Any]:
    """The options of a component, put together again from dotted keys."""
    start = f"{component}.options."
    options: dict[str, Any] = {}
    for key, value in config.items():
        if key.startswith(start):
            *outer, last = key.removeprefix(start).split(".")
            place = options
            for part in outer:
                place = place.setdefault(part, {})
            place[last] = value
    return options


def _picture(manager: PluginManager, labels: tuple[str, ...], wanted: Mapping[str, Any]) -> MaskPicture:
    name, options = wanted["attention"]
    coder, coder_options = wanted["frame_tokenizer"]
    try:
        backend = manager.create("attention", name, options, "attention")
        tokenizer = manager.create("frame_tokenizer", coder, coder_options, "frame_tokenizer")
        subject = Subject(name, backend, token_grid(tokenizer, wanted["frames"], *wanted["sides"]))
        subject.check()
        token = default_token(subject)
        layers = tuple(
            (mask.title, Markup("".join(_svg(seen_by(mask, token))))) for mask in mask_numbers(subject, _LAYERS)
        )
    except UserError as error:
        return MaskPicture(labels, name, reason=str(error))
    except Exception as error:  # of a plugin: what it breaks is its picture, and not the report
        return MaskPicture(labels, name, reason=f"{type(error).__name__}: {error}")
    frame, row, column = token
    return MaskPicture(labels, name, f"frame {frame}, row {row}, column {column}", layers)


def _svg(seen: Tensor) -> Iterator[str]:
    """Frames side by side, a path for each way in which a place stands to the token; colours are the page's.

    Args:
        seen: a `Seen` for every place, (F, H, W).
    """
    seen = seen[-_FRAMES:]
    frames, height, width = seen.shape
    across = frames * (width + _GAP) - _GAP
    yield f'<svg viewBox="0 0 {across} {height}" shape-rendering="crispEdges" aria-hidden="true">'
    for kind in Seen:
        runs = []
        for frame in range(frames):
            for y, line in enumerate((seen[frame] == kind).tolist()):
                x = frame * (width + _GAP)
                for filled, places in groupby(line):
                    length = sum(1 for _ in places)
                    if filled:
                        runs.append(f"M{x} {y}h{length}v1h-{length}z")
                    x += length
        if runs:
            yield f'<path class="{kind.name}" d="{"".join(runs)}"/>'
    yield "</svg>"
