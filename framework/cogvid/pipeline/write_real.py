"""The real clips that others were compared with, as files: for whoever scores the same again elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

from cogvid.data.video import write_video
from cogvid.pipeline.new_folder import new_folder
from cogvid.pipeline.video_set import VideoSet
from cogvid.progress import stage_progress

# For clips whose frames have no times.
_RATE = 25.0
COLUMNS = ("file", "id", "sha256", "caption", "frames", "seconds")


def write_real(reference: VideoSet, out: Path) -> None:
    """Write each clip losslessly to an mp4, and to `clips.csv` which frames of which video it is.

    Args:
        reference: the clips.
        out: a folder that does not exist.

    Raises:
        UserError: the folder is there already, or a file cannot be written.
    """
    size = 3 * len(reference) * reference.shape[0] * reference.shape[1] * reference.shape[2]
    with new_folder(out, size) as folder, stage_progress() as bar:
        task = bar.add_task("write real clips", total=len(reference))
        with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for (place,), (clip,) in reference.batches(range(len(reference)), 1):
                shown = reference.shown[place]
                lasts = shown.seconds[-1] - shown.seconds[0] if shown.seconds else 0.0
                name = f"{place:05d}.mp4"
                write_video(folder / name, clip, (len(clip) - 1) / lasts if lasts else _RATE)
                numbers = " ".join(map(str, shown.numbers))
                seconds = " ".join(f"{second:.6f}" for second in shown.seconds)
                rows.writerow([name, shown.id, shown.content, reference.captions[place], numbers, seconds])
                bar.advance(task)
