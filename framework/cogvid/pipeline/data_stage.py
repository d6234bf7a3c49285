"""The data stage: from a data source to the clip table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cogvid.data.table import CLIPS, LISTED, ClipTable, listed_row, read_table, table_rows, write_table
from cogvid.errors import UserError
from cogvid.interfaces.data_source import Clip, DataSource
from cogvid.interfaces.token_source import TokenSource
from cogvid.pipeline.clips import TABLE, warn_of_data
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.look import FOUND_PARTS, look_at_all
from cogvid.pipeline.stage import Info, StageResult, StageStore
from cogvid.progress import stage_progress

# What the source names, until the stage is finished.
_LISTED = ".listed.arrow"
# Broken clips that are named in warnings; the table names all.
_NAMED = 20


def data_stage(lab: Lab, store: StageStore) -> StageResult:
    """Makes or finds the clips, decodes each of them whole, and says of each in the table what it is, or why it is left
    out.

    Raises:
        UserError: there is nothing to train on, two clips have one id, or a video is in both splits.
    """
    source = lab.identity("data", lab.config.data)
    depends = {"data": source, "fingerprint": lab.data.fingerprint(), "seed": lab.config.data_seed}

    if isinstance(tokens := lab.data, TokenSource):
        return store.finish("data", depends, lambda folder: _look_at_tokens(tokens))

    def work(folder: Path) -> Info:
        listed = folder / _LISTED
        if not listed.exists():
            write_table(listed, LISTED, (listed_row(clip, folder) for clip in source_clips(lab, folder)))
        clips = read_table(listed)
        check_listed(clips)
        earlier = []
        for stage in store.earlier("data"):
            with suppress(UserError):  # a damaged table is no reason not to make another
                earlier.append(read_table(stage.folder / TABLE))
        rows = look_at_all(folder, clips, earlier)
        broken = rows.filter(pc.not_equal(rows["problem"], ""))
        _warn(broken)
        if not len(ClipTable(rows, folder).used("train")):
            raise UserError(f"data: none of the {len(rows)} clips can be read for training; see the warnings above")
        write_table(folder / TABLE, CLIPS, table_rows(rows))
        return {"clips": len(rows) - len(broken), "broken": len(broken)}

    result = store.finish("data", depends, work, scratch=(_LISTED, FOUND_PARTS))
    warn_of_data(lab, result.folder)
    return result


def _look_at_tokens(source: TokenSource) -> Info:
    source.check()
    return {"clips": len(source), "broken": 0}


def source_clips(lab: Lab, folder: Path) -> Iterator[Clip]:
    """The clips of an experiment's data source, as they come, with progress.

    Args:
        folder: that a source makes its clips in, if it makes them.
    """
    assert isinstance(lab.data, DataSource)
    with stage_progress() as bar:
        task = bar.add_task("data: clips", total=None)
        yield from lab.data.clips(
            folder, lab.config.data_seed, lambda done, total: bar.update(task, completed=done, total=total)
        )


def check_listed(clips: pa.Table) -> None:
    """Refuse clips that cannot be told apart, and videos that a model would be tested on after training on them.

    Raises:
        UserError: two have one id, or a video is in both splits.
    """
    ids = clips.group_by("id").aggregate([([], "count_all")])
    twice = ids.filter(pc.greater(ids["count_all"], 1))
    if len(twice):
        raise UserError(f"data: two clips have the id {twice['id'][0].as_py()!r}. Ids are unique.")
    videos = clips.group_by(["file", "offset"]).aggregate([("split", "min"), ("split", "max")])
    mixed = videos.filter(pc.not_equal(videos["split_min"], videos["split_max"]))
    if len(mixed):
        file, offset = (mixed[name][0].as_py() for name in ("file", "offset"))
        same = clips.filter(pc.equal(clips["file"], file)).select(["id", "split", "offset"]).to_pylist()
        clip = {row["split"]: row["id"] for row in same if row["offset"] == offset}
        raise UserError(
            f"data: the video {file} is in both splits: clip {clip['train']} is of the split train, clip "
            f"{clip['test']} of test. A model is tested on videos that it was not trained on; give all clips of a "
            "video one split."
        )


def _warn(broken: pa.Table) -> None:
    for problem in pc.unique(broken["problem"]).to_pylist()[:_NAMED]:
        log.warning("data: left out: %s", problem)
    if len(broken) > _NAMED:
        log.warning("data: left out: %d more, see the column problem of the table, %s", len(broken) - _NAMED, TABLE)
