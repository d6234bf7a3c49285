"""The comparison as one HTML file that needs nothing else: no network, no files beside it."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cogvid.compare import charts, charts_frontier, report_cells
from cogvid.compare.comparison import Comparison
from cogvid.compare.report_masks import mask_pictures
from cogvid.compare.report_videos import screening
from cogvid.errors import UserError

CAPTIONS = 8
# Bytes of the videos as they stand in the page, which stays below 20 MB with them.
VIDEO_BUDGET = 14_000_000


def write_report(comparison: Comparison, path: Path, captions: int = CAPTIONS) -> None:
    """Write the report; under `path` stands the whole report or what was there before.

    Args:
        comparison: what to report.
        path: the HTML file; its folder is made where there is none.
        captions: most captions to show videos for; fewer where the videos would make the page too large.

    Raises:
        UserError: the file cannot be written.
    """
    page = render(comparison, captions)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"Cannot write the report {path}: {error.strerror}. Choose another file with --out.") from error
    finally:
        partial.unlink(missing_ok=True)


def render(comparison: Comparison, captions: int = CAPTIONS) -> str:
    """The page; as `write_report`."""
    environment = Environment(
        loader=PackageLoader("cogvid.compare", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    anchors = report_cells.Anchors()
    heads = report_cells.heads(comparison, anchors)
    experiments = dict.fromkeys(run.experiment for row in comparison.variants for run in row.runs if run.experiment)
    return environment.get_template("report.html.j2").render(
        anchors=anchors,
        cells=report_cells,
        colour=charts.colour,
        comparison=comparison,
        curves=charts.curve_charts(comparison.variants),
        experiments=list(experiments),
        frontiers=charts_frontier.frontiers(comparison, [head.column for head in heads if head.headline]),
        heads=heads,
        masks=mask_pictures(comparison.variants),
        policy=_policy(script),
        script=Markup(script),
        setting=list(report_cells.setting(comparison)),
        style=Markup(style),
        svg=Markup,
        videos=screening(comparison.variants, captions, VIDEO_BUDGET),
    )


def _policy(script: str) -> str:
    """What the browser may do with the page: play what is in it, run this one script, and ask nobody for anything."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
