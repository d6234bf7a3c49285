"""The tutorial, as somebody types it: a plugin installed by pip, ablated as processes, compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MONDAY = (ROOT / "docs" / "monday.md").read_text()
ABLATE = "```sh\ncogvid ablate"


@pytest.fixture
def programs(venv: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The programs of an environment of its own, beside what this one has; nothing comes from the network."""
    for name in ("pip", "cogvid"):
        program = venv / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {venv}/bin/python -m {name} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_DEPS", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # which is how pip wants it said
    return venv / "bin"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_goes_from_an_empty_folder_to_a_report(
    read: Callable[..., list[str]], programs: Path, tmp_path: Path
) -> None:
    before, title, after = MONDAY.partition(ABLATE)
    read(before, programs=programs)
    # The same ablation on as little as there is.
    experiment = tmp_path / "cone" / "ablation_cone.yaml"
    text = re.sub(r"steps: \d+", "steps: 2", experiment.read_text())
    text = text.replace("clips: 400, test_clips: 128", "clips: 12, test_clips: 8").replace("samples: 64", "samples: 2")
    text = text.replace("seeds: [0, 1]", "seeds: [0]")
    experiment.write_text(text)
    read("```sh\ncd cone\n```\n" + title + after, programs=programs)
    cone = tmp_path / "cone"
    assert {path.name for path in cone.glob("runs/ablation_cone/*")} >= {"local3d", "naive", "cone"}
    assert len(list(cone.glob("runs/ablation_cone/*/*/metrics.json"))) == 3
    assert "ablation_cone" in (cone / "report.html").read_text()
    assert (cone / "attention-cone.png").exists()


def test_the_tutorials_plugin_is_what_it_says_it_is(tmp_path: Path) -> None:
    found = re.search(r"<!-- file: cogvid_cone.py -->\n```python\n(.*?)```", MONDAY, re.DOTALL)
    assert found is not None
    (tmp_path / "cogvid_cone.py").write_text(found[1])
    from cogvid import Grid, create_component
    from cogvid.interfaces.mask import Visibility

    cone = create_component("attention", "cone", None, [str(tmp_path / "cogvid_cone.py")])
    grid = Grid(3, 7, 7)
    mask = Visibility(cone.pattern, grid, (False,) * 3, 0).dense().view(3, 7, 7, 3, 7, 7)
    # What the token in the middle of the last frame sees of each: two wider on each side for a frame more.
    assert [int(mask[2, 3, 3, frame].sum()) for frame in range(3)] == [49, 25, 5]
