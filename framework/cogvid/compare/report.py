"""The comparison as one HTML file that needs nothing else: no network, no files beside it."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cogvid.compare import formatting
from cogvid.compare.charts import COLOURS, loss_chart
from cogvid.compare.read import TRAINING_STAGES
from cogvid.compare.summary import Comparison, Variant, letter
from cogvid.errors import UserError

CAPTIONS = 8
# Bytes of video files; the page has to open from a mail.
_VIDEO_BUDGET = 5_000_000


@dataclass(frozen=True)
class VideoRow:
    """One caption with a data URL for each column; None where a run made no such video."""

    caption: str
    rate: float
    videos: tuple[str | None, ...]


def write_report(comparison: Comparison, path: Path, captions: int = CAPTIONS) -> None:
    """Write the report; under `path` stands the whole report or what was there before.

    Args:
        comparison: what to report.
        path: the HTML file; its folder is made where there is none.
        captions: most captions to show videos for; fewer where the videos would make the page too large.

    Raises:
        UserError: the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("cogvid.compare", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = {stage: loss_chart(comparison.variants, stage) for stage in TRAINING_STAGES}
    page = environment.get_template("report.html.j2").render(
        comparison=comparison,
        experiments=list(dict.fromkeys(run.experiment for v in comparison.variants for run in v.runs)),
        formatting=formatting,
        letter=letter,
        colours=COLOURS,
        charts={stage: Markup(svg) for stage, svg in charts.items() if svg},
        videos=_video_rows(comparison.variants, captions),
        setting=_setting(comparison),
    )
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"Cannot write the report {path}: {error.strerror}. Choose another file with --out.") from error
    finally:
        partial.unlink(missing_ok=True)


def _video_rows(variants: tuple[Variant, ...], captions: int) -> list[VideoRow]:
    """The first captions, each with its real clip and what the first seed of each variant made of it."""
    columns = [
        _first_videos(variants, "real"),
        *(_first_videos((variant,), "generated") for variant in variants),
    ]
    wanted = list(dict.fromkeys(key for column in columns[1:] for key in column))
    rows: list[VideoRow] = []
    left = _VIDEO_BUDGET
    for caption, rate in wanted[:captions]:
        files = [column.get((caption, rate)) for column in columns]
        left -= sum(file.stat().st_size for file in files if file)
        if left < 0:
            break
        rows.append(VideoRow(caption, rate, tuple(_data_url(file) if file else None for file in files)))
    return rows


def _first_videos(variants: tuple[Variant, ...], name: str) -> dict[tuple[str, float], Path]:
    sets = [run.videos[name] for variant in variants for run in variant.runs if run.videos.get(name)]
    return sets[0] if sets else {}


def _data_url(file: Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()


def _setting(comparison: Comparison) -> dict[str, str]:
    """What all runs ran on and with, as far as they agree."""
    runs = [run.environment for variant in comparison.variants for run in variant.runs if run.environment]
    names = {
        "git_commit": "commit",
        "python": "Python",
        "packages.torch": "torch",
        "hardware.cpu": "CPU",
        "hardware.cores": "cores",
        "hardware.gpu": "GPU",
    }
    return {
        name: str(runs[0][key])
        for key, name in names.items()
        if runs and runs[0].get(key) and all(run.get(key) == runs[0][key] for run in runs)
    }
