"""What the report of a comparison promises, as far as it can be seen without a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cogvid.compare.charts import COLOURS, SHARED, curve_charts
from cogvid.compare.charts_frontier import compute
from cogvid.compare.report import render, write_report
from cogvid.compare.report_cells import MINUS, Anchors, heads
from cogvid.compare.report_masks import mask_pictures
from cogvid.compare.report_videos import screening
from cogvid.errors import UserError

MakeComparison = Callable[..., Any]


class Page(HTMLParser):
    """Collects tags with their attributes, and the text of the page without its styles and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def page(make_comparison: MakeComparison) -> str:
    return render(make_comparison(histories=True))


def test_the_page_asks_for_nothing_outside_itself_and_may_not(page: str) -> None:
    read = Page(page)
    fetching = {"src", "href", "srcset", "data", "poster", "action", "xlink:href", "data-src"}
    addresses = [value or "" for _, attributes in read.tags for name, value in attributes.items() if name in fetching]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "@import" not in page
    assert all(address.startswith("#") for address in re.findall(r"url\(['\"]?([^)]*)\)", page))
    (policy,) = (a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_what_captions_and_names_contain_stays_text(make_comparison: MakeComparison) -> None:
    evil = "<script>alert('x')</script>"
    names = (evil.replace("/", ""), "$\\frac$")  # the other one is mathematics to a plotting library
    comparison = make_comparison(names, (0,), histories=True, notes=(evil,), config={evil: (evil, "1")})
    page = render(comparison)
    read = Page(page)
    assert len(read.all("script")) == 1
    assert "a blue circle <script>alert('x')</script> grows & shrinks" in read.said
    assert evil in read.said
    assert read.said.count(names[0]) > 5
    assert read.said.count(names[1]) > 5


def test_addresses_within_the_page_lead_somewhere_and_are_each_once(page: str) -> None:
    read = Page(page)
    ids = [str(attributes["id"]) for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for a in read.all("a")} - {""}
    assert targets <= set(ids)
    kinds = ("variant-swin-ar", "bound-hold", "column-fvd", "prompt-1", "protocol-ab12cd34", "chart-", "mask-", "notes")
    assert all(any(target.startswith(kind) for target in ids) for kind in kinds)


def test_names_that_look_alike_have_addresses_of_their_own() -> None:
    anchors = Anchors()
    found = [anchors("variant", name) for name in ("a b", "a-b", "a b", "ä", "ö")]
    assert found == ["variant-a-b", "variant-a-b-2", "variant-a-b", "variant", "variant-2"]


def test_at_most_six_columns_are_headlines_and_every_one_is_explained(make_comparison: MakeComparison) -> None:
    comparison = make_comparison()
    many = tuple(dataclasses.replace(column, headline=True) for column in comparison.columns)
    none = tuple(dataclasses.replace(column, headline=False) for column in comparison.columns)
    for columns in (many, none):
        shown = heads(dataclasses.replace(comparison, columns=columns), Anchors())
        assert [head.headline for head in shown] == [True] * 6 + [False] * (len(columns) - 6)
    page = render(comparison)
    assert all(column.text in Page(page).said for column in comparison.columns)


def test_only_the_verdict_of_a_difference_marks_a_value(make_comparison: MakeComparison) -> None:
    comparison = make_comparison()
    verdicts = [
        cell.difference.verdict
        for row in comparison.variants
        for cell in row.cells.values()
        if cell.difference is not None
    ]
    assert {"better", "undecided"} <= set(verdicts)
    # One is in the sentence that explains the marks.
    marks = re.findall(r'class="value (better|worse)"', render(comparison))
    assert marks.count("better") == verdicts.count("better") + 1
    assert marks.count("worse") == verdicts.count("worse") + 1


def test_one_seed_is_said_to_allow_no_verdict(make_comparison: MakeComparison) -> None:
    said = Page(render(make_comparison(seeds=(4,)))).said
    assert "1 seed: no verdict" in said
    assert "one seed: no verdict" in said
    assert "± 0.80" in said  # the metric's own standard error


def test_every_seeds_value_and_the_interval_of_a_difference_are_in_the_page(make_comparison: MakeComparison) -> None:
    comparison = make_comparison()
    (fvd, *_) = heads(comparison, Anchors())
    text = fvd.cells["swin_ar"]
    assert [seed for seed, _ in text.seeds] == [0, 1, 2]
    assert re.fullmatch(
        r"S\d+\.\d\d \(S\d+\.\d\d to S\d+\.\d\d\), p 0\.010".replace("S", f"[{MINUS}+]"), text.difference
    )
    said = Page(render(comparison)).said
    assert text.difference in said
    assert all(value in said for _, value in text.seeds)


def test_a_caution_is_shown_at_its_column(make_comparison: MakeComparison) -> None:
    comparison = make_comparison()
    caution = "Fewer than 10 videos for each feature."
    columns = (dataclasses.replace(comparison.columns[0], caution=caution), *comparison.columns[1:])
    page = render(dataclasses.replace(comparison, columns=columns))
    assert caution in Page(page).said
    assert re.search(r'class="caution" href="#about-column-fvd"', page)


def test_bounds_are_rows_of_the_same_table_and_no_variants(page: str) -> None:
    rows = [attributes.get("class") for attributes in Page(page).all("tr") if "data-order" in attributes]
    assert rows == ["variant"] * 3 + ["bound"] * 4


def test_every_prompt_has_the_real_clip_and_each_seed_of_each_variant(make_comparison: MakeComparison) -> None:
    comparison = make_comparison()
    videos = Page(render(comparison)).all("video")
    assert len(videos) == 3 * (1 + 3 * 3)
    # What is not shown at first is fetched when it is.
    assert sum("src" in video for video in videos) == 3 * (1 + 3)
    assert {(video["data-frames"], video["data-fps"]) for video in videos} == {("17", "8.0")}


def test_no_caption_is_lost_to_the_budget(make_comparison: MakeComparison) -> None:
    prompts = [f"prompt number {i}" for i in range(6)]
    comparison = make_comparison(("local3d", "naive"), (0, 1), prompts)
    whole = screening(comparison.variants, 6, 10**9)
    size = sum(len(shot.url) for column in whole.scenes[0].columns for shot in column)
    found = screening(comparison.variants, 4, int(2.9 * size))
    kept = [scene.caption for scene in found.scenes]
    assert sorted(kept + [caption for caption, _ in found.left_out]) == prompts
    assert kept == prompts[:3]
    assert [scene.left_out for scene in found.scenes] == [0, 0, 2]
    assert [[len(column) for column in scene.columns] for scene in found.scenes] == [[1, 2, 2]] * 2 + [[1, 1, 1]]
    total = sum(len(shot.url) for scene in found.scenes for column in scene.columns for shot in column)
    assert total < 2.9 * size + 100 * len("data:video/mp4;base64,")


def test_a_caption_that_one_variant_alone_has_is_shown(make_comparison: MakeComparison) -> None:
    comparison = make_comparison(("local3d", "naive"), (0,))
    run = comparison.rows[1].runs[0]
    extra = {("only here", 1.0): next(iter(run.videos["generated"].values()))}
    run.videos["generated"].update(extra)
    scene = screening(comparison.variants, 8, 10**9).scenes[-1]
    assert (scene.caption, [len(column) for column in scene.columns]) == ("only here", [0, 0, 1])
    assert "no video" in Page(render(comparison)).said


def test_a_report_on_large_videos_stays_under_20_megabytes(make_comparison: MakeComparison, tmp_path: Path) -> None:
    comparison = make_comparison(prompts=[f"prompt number {i}" for i in range(4)])
    for video in comparison.rows[0].runs[0].folder.parents[1].rglob("*.mp4"):
        video.write_bytes(video.read_bytes() + bytes(700_000))
    path = tmp_path / "report.html"
    write_report(comparison, path)
    assert 10_000_000 < path.stat().st_size < 20_000_000
    said = Page(path.read_text()).said
    assert all(f"prompt number {i}" in said for i in range(4))
    assert "Prompts without videos here:" in said


def test_a_file_that_is_no_video_is_named_and_left_out(make_comparison: MakeComparison) -> None:
    comparison = make_comparison(("local3d",), (0,))
    file = next(iter(comparison.rows[0].runs[0].videos["generated"].values()))
    file.write_bytes(b"not a video")
    page = render(comparison)
    assert f"Not readable as videos: {file}" in Page(page).said


def test_curves_have_a_line_for_each_seed_and_shared_stages_share_them(make_comparison: MakeComparison) -> None:
    charts = {chart.title: chart for chart in curve_charts(make_comparison(histories=True).variants)}
    later = [(name, "loss") for name in ("image base", "sequential", "interpolation")]
    assert list(charts) == [
        f"{stage}: {kind}"
        for stage, held_out in (
            ("tokenizer", "error"),
            *later,
        )
        for kind in ("training loss", f"held-out {held_out}")
    ]
    lines = {
        title: [chart.svg.count(f"stroke: {colour}") for colour in (*COLOURS[:3], SHARED)]
        for title, chart in charts.items()
    }
    # Three seeds and their mean.
    assert lines["sequential: training loss"] == [4, 4, 4, 0]
    assert lines["image base: training loss"] == [0, 0, 0, 4]
    assert charts["image base: training loss"].about == "shared by all variants"
    assert charts["sequential: training loss"].about == ""


def test_compute_is_time_where_it_is_comparable_and_samples_where_it_is_not(make_comparison: MakeComparison) -> None:
    comparison = make_comparison(("local3d", "naive"), (0,), (), histories=True)
    found = compute(comparison.variants)
    assert found is not None
    assert found.title == "training time, minutes"
    assert found.values == {"local3d": (6.0,), "naive": (6.8,)}
    run = comparison.rows[0].runs[0]
    run.environment["hardware.cpu"] = "another"
    found = compute(comparison.variants)
    assert found is not None
    assert found.title == "parameters times samples"
    assert found.values["naive"] == (4 * 1_212_112 * 600 * 8,)
    run.stages["sequential"] = dataclasses.replace(run.stages["sequential"], finished=False, summary={})
    found = compute(comparison.variants)
    assert found is not None
    assert found.values == {"local3d": (), "naive": (6.8,)}


def test_masks_are_drawn_and_where_not_the_reason_is_given(make_comparison: MakeComparison) -> None:
    local, swin, unknown = mask_pictures(make_comparison(("local3d", "swin_ar", "not_installed"), (0,)).variants)
    assert local.layers[0][1].startswith("<svg")
    assert 'class="itself"' in local.layers[0][1]
    assert len(swin.layers) == 2  # its windows move from layer to layer
    assert not unknown.layers
    assert "not_installed" in unknown.reason


def test_a_mask_loads_no_plugin_that_only_a_run_names(make_comparison: MakeComparison, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("raise SystemExit('executed')")
    comparison = make_comparison(("local3d",), (0,))
    comparison.rows[0].runs[0].config["plugins"] = [str(plugin)]
    (picture,) = mask_pictures(comparison.variants)
    assert picture.layers


def test_a_comparison_of_nothing_measured_gives_a_page(make_comparison: MakeComparison) -> None:
    comparison = make_comparison(("local3d",), (0,), columns=(), protocols={}, notes=(), troubles=(), config={})
    bare = dataclasses.replace(
        comparison.rows[0],
        cells={},
        runs=(dataclasses.replace(comparison.rows[0].runs[0], stages={}, videos={}, config={}, environment={}),),
    )
    said = Page(render(dataclasses.replace(comparison, rows=(bare,)))).said
    assert "study" in said
    assert "Videos" not in said


def test_a_report_that_cannot_be_written_leaves_nothing_behind(make_comparison: MakeComparison, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html"):
        write_report(make_comparison(("local3d",), (0,), ()), tmp_path / "report.html")
    assert not list(tmp_path.glob(".*partial"))
