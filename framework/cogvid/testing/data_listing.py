"""What a data source lists, in this process and in another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cogvid.data.files import VideoFile
from cogvid.data.table import listed_row
from cogvid.interfaces.data_source import Clip, DataSource
from cogvid.plugins.manager import create_component

SEED = 0
_COMMAND = "from cogvid.testing.data_listing import print_listing; print_listing()"
Rows = list[dict[str, Any]]


def rows_of(clips: Iterable[Clip], folder: Path) -> Rows:
    """What is said of each clip, and the bytes of those that the source makes in the folder."""
    rows = []
    for clip in clips:
        made = clip.path.is_relative_to(folder)
        rows.append({**listed_row(clip, folder), "sha256": VideoFile.of(clip).sha256() if made else ""})
    return rows


def difference(one: Rows, other: Rows) -> tuple[str, str] | None:
    """The first clip that two listings say another thing of, and what it is in words."""
    for before, after in zip(one, other, strict=False):
        changed = [name for name in before if before[name] != after[name]]
        if changed:
            was, become = (row[changed[0]] for row in (before, after))
            return str(before["id"]), f"its {changed[0]} {was!r} has become {become!r}"
    return ("the list", f"{len(one)} clips have become {len(other)}") if len(one) != len(other) else None


def listing(source: DataSource, folder: Path) -> dict[str, Any]:
    """Fingerprint and rows of a source, as JSON has them."""
    rows = rows_of(source.clips(folder, SEED, lambda done, total: None), folder)
    said: dict[str, Any] = json.loads(json.dumps({"fingerprint": source.fingerprint(), "rows": rows}))
    return said


def listing_elsewhere(
    name: str, options: Mapping[str, Any], plugins: Sequence[str], folder: Path
) -> dict[str, Any] | str:
    """The same in another process, in which a set of texts has another order; or what it died of."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}
    asked = json.dumps([name, dict(options), [*plugins], str(folder)])
    done = subprocess.run([sys.executable, "-c", _COMMAND, asked], env=environment, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def print_listing() -> None:
    """The other process: what it is to list is on its command line."""
    name, options, plugins, folder = json.loads(sys.argv[1])
    with TemporaryDirectory(dir=folder) as own:
        print(json.dumps(listing(create_component("data", name, options, plugins), Path(own))))
