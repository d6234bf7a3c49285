"""The README's blocks, run from top to bottom in an empty folder as a reader would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cogvid.data.video import write_video

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)```", re.DOTALL)

# In place of the experiments of these names: the same, as small as they go.
SMALL = """
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, data/shapes, trainer/cpu]
data: {name: shapes, options: {clips: 12, test_clips: 8, durations: [1]}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 16, codes: 32, code_size: 8, crop: 16}}
model: {layers: 1, width: 32, heads: 2}
text: {length: 60}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
stages:
  tokenizer: {steps: 2, batch_size: 2}
  image_base: {steps: 2, batch_size: 2}
  sequential: {steps: 2, batch_size: 2}
  interpolation: {steps: 2, batch_size: 2}
generation: {samples: 2}
evaluation: {metrics: {oracle: {name: shapes_oracle}}}
"""


@pytest.mark.timeout(280)
def test_every_block_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "quickstart.yaml").write_text(SMALL)
    (tmp_path / "experiments" / "ablation_attention.yaml").write_text(
        "base: [quickstart]\nvariants: {local3d: {}, naive: {attention: naive}}\n"
    )
    _make_videos(tmp_path / "my_videos")
    ran = []
    for block in BLOCK.finditer((ROOT / "README.md").read_text()):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["body"])
            continue
        assert block["language"] == "sh", f"a block that nothing checks: {block['body'][:60]}"
        for line in block["body"].strip().splitlines():
            ran.append(line)
            _run(line, tmp_path)
    assert any(line.startswith("cogvid ablate") for line in ran)
    assert (tmp_path / "report.html").exists()
    assert list((tmp_path / "samples").glob("*.mp4"))


def _run(line: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if line.startswith("make "):
        # The targets themselves take minutes; that they exist and what they call is cheap to see.
        line, folder = line.replace("make ", "make --dry-run "), ROOT
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"$ {line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def _make_videos(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = []
    for number in range(4):
        frames = np.repeat(random.integers(0, 255, (1, 48, 64, 3), dtype=np.uint8), 20, axis=0)
        write_video(folder / f"{number}.mp4", frames, fps=8)
        rows.append(
            {
                "file": f"{number}.mp4",
                "caption": f"noise {number}",
                "split": "test" if number > 1 else "train",
            }
        )
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
