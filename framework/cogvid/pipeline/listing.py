"""What an experiment is to consist of, kept beside its runs: the order of its variants, and which runs are missing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

LISTING = "experiment.json"


@dataclass(frozen=True)
class Listing:
    """As the command that was given last said.

    Attributes:
        variants: in the order of the experiment file.
        seeds: that each of them is to be run with; none where no command named them all.
    """

    variants: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


def write_listing(folder: Path, variants: Sequence[str], seeds: Sequence[int] | None = None) -> None:
    """Keep what an experiment consists of.

    Args:
        folder: of the experiment; made where there is none.
        variants: in the order of the experiment file.
        seeds: None to leave what was said of them.
    """
    kept = read_listing(folder).seeds if seeds is None else seeds
    folder.mkdir(parents=True, exist_ok=True)
    # Runs of one experiment begin side by side, and each says it.
    partial = folder / f".{LISTING}.{os.getpid()}.partial"
    partial.write_text(json.dumps(asdict(Listing(tuple(variants), tuple(kept)))) + "\n", encoding="utf-8")
    partial.replace(folder / LISTING)


def read_listing(folder: Path) -> Listing:
    """What was kept; an empty one where nothing was, or what cannot be read."""
    try:
        content = json.loads((folder / LISTING).read_text(encoding="utf-8"))
        return Listing(tuple(map(str, content["variants"])), tuple(map(int, content["seeds"])))
    except (OSError, ValueError, KeyError, TypeError):
        return Listing()
