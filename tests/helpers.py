"""What tests of commands share: to call one, and to see what it refused and what it left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from cogvid.cli import app


def cogvid(*words: object, stdin: str | None = None) -> Result:
    """What a command does, in this process, on a terminal that wraps no line."""
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin, env={"COLUMNS": "1000"})


def sample(*words: object, stdin: str | None = None) -> None:
    """Sample clips, which succeeds."""
    result = cogvid("sample", *words, stdin=stdin)
    assert result.exit_code == 0, result.output


def refused(result: Result, *words: object) -> None:
    """A command ended with exit code 1 and one message that has these words, without a traceback."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert str(word) in result.output, result.output


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def results(runs: Path) -> dict[str, Any]:
    """The metrics of all runs below a folder, without what tells of time."""
    found = {path.parent: json.loads(path.read_text()) for path in sorted(runs.glob("*/*/*/metrics.json"))}
    return {str(run.relative_to(runs)): {k: v for k, v in own.items() if k != "speed"} for run, own in found.items()}
