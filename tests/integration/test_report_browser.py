"""The report in a browser: that its script runs without an error, and does what its switches say."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from cogvid.compare.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its chromedriver")

SIDE, FRAMES = 32, 17
# Where the square of the first prompt's real clip stands: the mean column of what is much more red than blue.
SQUARE = """
const video = arguments[0], canvas = document.createElement("canvas");
canvas.width = video.videoWidth; canvas.height = video.videoHeight;
const context = canvas.getContext("2d");
context.drawImage(video, 0, 0);
const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
let sum = 0, count = 0;
for (let i = 0; i < data.length; i += 4) {
  if (data[i] - data[i + 2] > 100) { sum += (i / 4) % canvas.width; count += 1; }
}
return count ? sum / count : null;
"""


@pytest.fixture(scope="module")
def report(make_comparison: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(make_comparison(side=SIDE, histories=True), path)
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium: Any, report: Path) -> Iterator[Any]:
    """The report, freshly opened on a desktop in light colours; at the end nothing was complained about."""
    look(chromium, 1300)
    chromium.get("about:blank")
    chromium.get(report.as_uri())
    chromium.execute_script("localStorage.clear()")
    yield chromium
    assert chromium.get_log("browser") == []


def look(driver: Any, width: int, scheme: str = "light") -> None:
    """Set the width of the window and the system's preference."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def one(page: Any, selector: str) -> Any:
    return page.find_element(By.CSS_SELECTOR, selector)


def shown(page: Any, selector: str) -> list[Any]:
    return [element for element in page.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]


def rows(page: Any) -> list[str]:
    return [row.get_attribute("data-name") for row in shown(page, "#table tbody tr")]


def press(page: Any, key: str) -> None:
    one(page, "body").send_keys(key)


def wait(page: Any, true: Callable[[], Any]) -> Any:
    return WebDriverWait(page, 20, 0.05).until(lambda _: true())


def settled(page: Any, videos: list[Any]) -> bool:
    return all(page.execute_script("return arguments[0].readyState > 1 && !arguments[0].seeking", v) for v in videos)


def square(page: Any) -> float:
    video = one(page, "#prompt-1 video")
    wait(page, lambda: settled(page, [video]))
    found: float = page.execute_script(SQUARE, video)
    return found


def square_of(frame: int) -> float:
    """Its middle in the clip that was written."""
    size = SIDE // 4
    return round(frame / (FRAMES - 1) * (SIDE - size)) + (size - 1) / 2


def test_a_click_on_a_head_sorts_variants_and_bounds_together_the_better_end_first(page: Any) -> None:
    given = rows(page)
    assert given == ["local3d", "swin_ar", "naive", "real", "reconstruction", "linear", "hold"]
    for column, best, worst in (("fvd", "real", "hold"), ("accuracy", "real", "local3d")):
        head = one(page, f"#column-{column}")
        button = head.find_element(By.TAG_NAME, "button")
        button.click()
        assert (rows(page)[0], rows(page)[-1]) == (best, worst)
        values = [float(cell.get_attribute("data-value")) for cell in shown(page, f"td[data-column=column-{column}]")]
        assert values == sorted(values, reverse=column == "accuracy")
        assert head.get_attribute("aria-sort") == ("descending" if column == "accuracy" else "ascending")
        button.click()
        assert (rows(page)[0], rows(page)[-1]) == (worst, best)
        button.click()
        assert rows(page) == given
        assert head.get_attribute("aria-sort") == "none"


def test_what_has_no_value_stays_at_the_end_whichever_way(page: Any) -> None:
    button = one(page, "#column-loss button")
    for _ in range(2):
        button.send_keys(Keys.ENTER)  # by keyboard, too
        assert rows(page)[3:] == ["real", "reconstruction", "linear", "hold"]


def test_the_filter_keeps_matching_variants_with_their_videos_and_all_bounds(page: Any) -> None:
    press(page, "/")
    page.switch_to.active_element.send_keys("SWIN")
    assert rows(page) == ["swin_ar", "real", "reconstruction", "linear", "hold"]
    assert one(page, "#matches").text == "1 of 3 variants"
    assert [caption.text for caption in shown(page, "#prompt-1 figcaption")] == ["real", "swin_ar"]
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert len(rows(page)) == 7


def test_columns_beyond_the_headlines_come_by_switch_and_go_by_group(page: Any) -> None:
    def heads() -> list[str]:
        return [head.get_attribute("id") for head in shown(page, "#table thead th[id]")]

    assert len(heads()) == len(shown(page, ".about dt")) == 6
    press(page, "a")
    assert len(heads()) == len(shown(page, ".about dt")) == 10
    one(page, "[data-show=quality]").click()
    assert heads() == ["column-loss", "column-loss-2", "column-parameters", "column-time"]
    press(page, "a")
    assert len(heads()) == 6


def test_an_address_opens_what_is_hidden_or_folded(page: Any, report: Path) -> None:
    page.execute_script("location.hash = 'column-recall'")
    wait(page, lambda: one(page, "#column-recall").is_displayed())
    page.execute_script("location.hash = 'protocol-ab12cd34'")
    wait(page, lambda: one(page, "#protocol-ab12cd34").is_displayed())


def test_differences_and_seeds_are_shown_on_demand(page: Any) -> None:
    assert not shown(page, ".difference")
    assert not shown(page, "#table .seeds")
    press(page, "d")
    press(page, "s")
    assert len(shown(page, ".difference")) == 2 * 6
    assert len(shown(page, "#table .seeds")) == 3 * 6


def test_steps_show_each_frame_of_the_file_and_all_videos_of_a_prompt_the_same(page: Any) -> None:
    videos = shown(page, "#prompt-1 video")
    assert len(videos) == 4
    wait(page, lambda: settled(page, videos))
    for frame in range(1, 5):
        press(page, Keys.ARROW_RIGHT)
        assert one(page, "#prompt-1 output").text == f"{frame + 1} / {FRAMES}"
        assert square(page) == pytest.approx(square_of(frame), abs=1)
        wait(page, lambda: settled(page, videos))
        assert len({page.execute_script("return arguments[0].currentTime", video) for video in videos}) == 1
    for _ in range(5):
        one(page, "#back").click()
    assert one(page, "#prompt-1 output").text == f"{FRAMES} / {FRAMES}"
    assert square(page) == pytest.approx(square_of(FRAMES - 1), abs=1)


def test_space_plays_and_pauses_and_without_a_loop_the_end_is_the_end(page: Any) -> None:
    wait(page, lambda: settled(page, shown(page, "#prompt-1 video")))
    start = square(page)
    press(page, " ")
    assert one(page, "#play").text == "Pause"
    wait(page, lambda: page.execute_script(SQUARE, one(page, "#prompt-1 video")) not in (None, start))
    press(page, " ")
    assert one(page, "#play").text == "Play"
    stopped = one(page, "#prompt-1 output").text
    time.sleep(0.3)  # more than two frames
    assert one(page, "#prompt-1 output").text == stopped
    press(page, "l")
    page.execute_script("document.querySelector('#speed').value = '2'")
    press(page, " ")
    wait(page, lambda: one(page, "#play").text == "Play")
    assert one(page, "#prompt-1 output").text == f"{FRAMES} / {FRAMES}"


def test_a_file_that_the_browser_cannot_play_is_said_in_its_place(page: Any) -> None:
    shot = one(page, "#prompt-1 .shot[data-seed='0']")
    page.execute_script("arguments[0].querySelector('video').src = 'data:video/mp4;base64,AAAA'", shot)
    wait(page, lambda: shot.text == "this browser cannot play it")
    press(page, Keys.ARROW_RIGHT)
    assert one(page, "#prompt-1 output").text == f"2 / {FRAMES}"


def test_every_seed_can_be_chosen_or_all_at_once(page: Any) -> None:
    select = one(page, "#seed")
    assert [option.text for option in select.find_elements(By.TAG_NAME, "option")] == ["0", "1", "2", "all"]
    for choice, count in (("1", 3), ("2", 3), ("all", 9)):
        press(page, "n")
        assert select.get_attribute("value") == choice
        seeds = [shot.get_attribute("data-seed") for shot in shown(page, "#prompt-1 .shot[data-seed]")]
        assert len(seeds) == count
        assert set(seeds) == ({choice} if choice != "all" else {"0", "1", "2"})
    videos = shown(page, "#prompt-1 video")
    wait(page, lambda: settled(page, videos))
    assert all(page.execute_script("return arguments[0].videoWidth", video) == SIDE for video in videos)


def test_colours_follow_the_system_until_the_switch_says_otherwise(page: Any) -> None:
    def background() -> str:
        found: str = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return found

    light = background()
    look(page, 1300, "dark")
    dark = background()
    assert light != dark
    one(page, "#theme").click()
    assert (one(page, "#theme").text, background()) == ("Light", light)
    one(page, "#theme").click()
    look(page, 1300, "light")
    assert (one(page, "#theme").text, background()) == ("Dark", dark)
    page.refresh()
    assert background() == dark


def test_on_a_phone_nothing_is_cut_and_the_first_column_stays(page: Any) -> None:
    look(page, 390)
    press(page, "a")
    press(page, "d")
    assert page.execute_script("return document.documentElement.scrollWidth") == 390
    first = one(page, "tbody .first")
    before = first.rect["x"]
    last = one(page, "#column-time")
    page.execute_script("document.querySelector('#table').parentElement.scrollLeft = 1e6")
    assert first.rect["x"] == before
    assert before >= 0
    assert last.rect["x"] + last.rect["width"] <= 390
    for element in shown(page, "video, .chart svg, button, select, h2, h3, .about dd"):
        if not page.execute_script("return arguments[0].closest('thead')", element):
            assert 0 <= element.rect["x"] <= element.rect["x"] + element.rect["width"] <= 390


def test_the_keys_are_explained(page: Any) -> None:
    press(page, "?")
    dialog = one(page, "#help")
    assert dialog.is_displayed()
    assert "one frame back, forward" in dialog.text
    dialog.find_element(By.TAG_NAME, "button").click()
    assert not dialog.is_displayed()


def test_no_control_lacks_a_name_and_no_scroll_region_is_out_of_the_keyboards_reach(page: Any) -> None:
    for element in shown(page, "button, input, select, a, video"):
        assert element.accessible_name, element.get_attribute("outerHTML")[:200]
    assert all(region.get_attribute("tabindex") == "0" for region in shown(page, ".scroll"))


def test_the_policy_of_the_page_keeps_it_off_the_network(page: Any) -> None:
    found = page.execute_async_script(
        "const done = arguments[0];"
        "addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));"
        "const image = new Image(); image.src = 'https://example.invalid/x.png'; setTimeout(() => done(''), 3000);"
    )
    assert found == "img-src"
    page.get_log("browser")  # the refusal itself is logged
