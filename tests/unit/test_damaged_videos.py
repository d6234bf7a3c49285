"""Damaged files: each is refused in one paragraph, or decodes to its last frame; nothing hangs, nothing crashes.

`DAMAGED_VIDEOS=5000` tries so many of each format.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cogvid import UserError
from cogvid.data.frame_format import FrameFormat
from cogvid.data.reading import probe, read_frames

EXAMPLES = int(os.environ.get("DAMAGED_VIDEOS", 150))
FRAMES = 12
CODECS = {"avi": "mpeg4", "mp4": "libx264", "mkv": "libx264"}
# Where (a share of the file) and what: most bytes are pixels, so the head and the index get their share.
PLACE = st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 0.1), st.floats(0.9, 1, exclude_max=True))
DAMAGE = st.lists(st.tuples(PLACE, st.integers(0, 255)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small videos with B-frames and movement, by format."""
    folder = tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for kind, codec in CODECS.items():
        with av.open(str(folder / f"clip.{kind}"), "w") as container:
            stream = container.add_stream(codec, rate=10, options={"bf": "2", "g": "6", "crf": "30"})
            stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
            for i in range(FRAMES):
                image = np.ascontiguousarray(noise[i // 2 : i // 2 + 32, i // 3 : i // 3 + 32])
                container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    return {kind: (folder / f"clip.{kind}").read_bytes() for kind in CODECS}


@pytest.mark.parametrize("kind", list(CODECS))
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(damage=DAMAGE, kept=st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1)))
@example(damage=[(0.5, 0)], kept=0.9)
def test_a_damaged_video_is_refused_or_decodes_to_its_last_frame(
    videos: dict[str, bytes], kind: str, damage: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(videos[kind])
    for place, value in damage:
        content[int(place * len(content))] = value
    with tempfile.NamedTemporaryFile(suffix=f".{kind}") as file:
        path = Path(file.name)
        path.write_bytes(content[: int(kept * len(content))])
        try:
            times = probe(path).times
        except UserError:
            return
        assert (np.diff(times.ticks) >= 0).all()
        assert len(read_frames(path, range(len(times)), FrameFormat(16, 16))) == len(times)
        assert read_frames(path, [len(times) - 1]).shape[1] == 3


@pytest.mark.parametrize("kind", list(CODECS))
def test_the_videos_are_good_before_they_are_damaged(videos: dict[str, bytes], kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(videos[kind])
    assert len(probe(path).times) == FRAMES
