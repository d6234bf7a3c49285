"""The protocol of a value: all that another value must share to be comparable with it.

A flat record: metric, extractor and its file, the clips' frames, rate, resolution and how they came to it, the split,
and the reference itself. Its hash stands for it: values of different hashes share no column and have no difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

Protocol = Mapping[str, str | int | float]


def protocol_hash(protocol: Protocol) -> str:
    """Of all that it says, whatever the order, 16 hexadecimal digits."""
    text = json.dumps(dict(protocol), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def reference_hash(clips: Iterable[tuple[str, Sequence[float]]]) -> str:
    """Of the real videos that others are compared with, in whatever order they come, 16 hexadecimal digits.

    Args:
        clips: for each of them an id that is another for another video, and the times of its frames in seconds.
    """
    lines = sorted(json.dumps([name, [round(time, 6) for time in times]]) for name, times in clips)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
