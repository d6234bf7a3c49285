"""The tokens' stages: the training clips as codes, at every rate that training may want, and held-out clips alike."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cogvid.data.table import write_table
from cogvid.data.tokens import TABLE as TOKEN_TABLE
from cogvid.data.tokens import (
    TOKENS,
    Shard,
    TokenClips,
    code_type,
    partial_path,
    read_shard,
    shard_keys,
    shard_path,
)
from cogvid.errors import UserError
from cogvid.interfaces.data_source import Split
from cogvid.pipeline.clips import TABLE, held_out_clips, rates_and_windows, usable_clips
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.stage import LOCK, Info, StageResult, StageStore, part_lock
from cogvid.pipeline.token_plan import TokenPlan
from cogvid.pipeline.token_reuse import linked
from cogvid.pipeline.token_shards import Part, ShardMaker

# The stages, by the split that their clips are of.
NAMES: dict[Split, str] = {"train": "tokens", "test": "test_tokens"}
_NAMED = 10


@dataclass(frozen=True)
class TokensStage:
    """Encodes the frames of clips at every rate that training may want: of the training clips, or of held-out ones.

    Args:
        lab: the experiment's parts.
        store: of the stages.
        data: the finished data stage.
        tokenizer: the finished frame tokenizer.
        split: of the clips; of the test clips those that are held out.
    """

    lab: Lab
    store: StageStore
    data: StageResult
    tokenizer: StageResult
    split: Split = "train"

    @property
    def name(self) -> str:
        """Of the stage."""
        return NAMES[self.split]

    def finish(self) -> StageResult:
        """Make all shards that are not there, and the table."""

        def work(folder: Path) -> Info:
            plan = self._plan()
            self._maker(plan, folder).make(Part())
            return self._table(plan, folder)

        return self.store.finish(self.name, self._depends(), work)

    def part(self, part: Part) -> Path:
        """Make the shards of one part, beside other processes that make others, and return the stage's folder."""

        def work(folder: Path) -> None:
            self._maker(self._plan(), folder).make(part)

        return self.store.part(self.name, self._depends(), part.name, work)

    def merge(self, others: Sequence[Path] = ()) -> StageResult:
        """Make the table of shards that are all there.

        Args:
            others: more folders of stages, whose shards are taken where this one lacks them.

        Raises:
            UserError: some are missing or damaged; the message says which part makes them.
        """

        def work(folder: Path) -> Info:
            plan = self._plan()
            for other in others:
                _take(plan, other / folder.name, folder)
            missing = [number for number in range(plan.shards) if not shard_path(folder, number).exists()]
            if missing:
                raise UserError(_missing(missing, plan.shards, [folder, *(other / folder.name for other in others)]))
            return self._table(plan, folder)

        return self.store.finish(self.name, self._depends(), work)

    def _depends(self) -> Info:
        # By content: stages that differ in what else a tokenizer's has, such as clusters, share tokens.
        return {
            "tokenizer": self._network(),
            "data": self.data.key,
            "picture": self.lab.frame_format,
            "frames": self.lab.config.video.frames,
            **rates_and_windows(self.lab),
            **({"held_out": self.lab.config.held_out} if self.split == "test" else {}),
        }

    def _network(self) -> Info:
        identity = self.lab.identity("frame_tokenizer", self.lab.config.frame_tokenizer)
        return {"network": identity, "weights": self.tokenizer.info["outputs"]["model.safetensors"]}

    def _plan(self) -> TokenPlan:
        clips = usable_clips(self.lab, self.data.folder, self.split)
        return TokenPlan(self.lab, held_out_clips(self.lab, clips) if self.split == "test" else clips)

    def _maker(self, plan: TokenPlan, folder: Path) -> ShardMaker:
        def earlier() -> Iterator[StageResult]:
            for stage in self.store.earlier(self.name):
                if stage.info["depends"]["tokenizer"] == self._network():
                    yield stage

        return ShardMaker(self.lab, plan, self.tokenizer, earlier(), folder, self.name)

    def _table(self, plan: TokenPlan, folder: Path) -> Info:
        """Look at all shards, and write the table."""
        errors = np.zeros(len(plan.clips), np.int64)
        used = np.zeros(self.lab.codes, bool)
        for number in range(plan.shards):
            shard = self._checked(plan, number, shard_path(folder, number))
            errors[plan.members(number)] = shard.errors
            used[np.unique(shard.codes)] = True

        def rows() -> Iterator[dict[str, Any]]:
            for row, error in zip(plan.rows(), errors.tolist(), strict=True):
                yield row | {"error": error}

        write_table(folder / TOKEN_TABLE, TOKENS, rows())
        grid, tokenizer = self.lab.grid, self.lab.build_tokenizer()
        values = len(errors) * 3 * grid.height * grid.width * tokenizer.downsampling**2
        psnr = 10 * np.log10(255**2 / max(float(errors.sum()) / values, 1e-12))
        info = {
            "frames": int(plan.count.sum(dtype=np.int64)),
            "psnr": round(float(psnr), 2),
            "codes_used": int(used.sum()),
            "clips": len(errors),
            "shards": plan.shards,
        }
        log.info(
            "%s: %d frames, reconstruction %.1f dB, %d of %d codes used",
            self.name,
            info["frames"],
            psnr,
            info["codes_used"],
            self.lab.codes,
        )
        return info

    def _checked(self, plan: TokenPlan, number: int, path: Path) -> Shard:
        shard, grid = read_shard(path), self.lab.grid
        shape = (plan.frames([number]), grid.height, grid.width)
        of_these = shard_keys(path) == plan.digest(number)
        right = shard.codes.shape == shape and shard.codes.dtype == code_type(self.lab.codes)
        if not (of_these and right and (shard.codes < self.lab.codes).all()):
            raise UserError(f"The tokens in {path} are those of other clips. Remove the file, and make them again.")
        return shard


def training_clips(data: StageResult, tokens: StageResult) -> TokenClips:
    """The tokenised training clips."""
    return TokenClips(tokens.folder, data.folder / TABLE)


def _take(plan: TokenPlan, other: Path, folder: Path) -> None:
    """Take the shards of another folder that are missing in this one."""
    if not other.is_dir():
        raise UserError(
            f"{other} is missing: no part of these tokens was made there. With other clips, options or code the folder "
            "has another name."
        )
    for number in range(plan.shards):
        old, new = shard_path(other, number), shard_path(folder, number)
        if old.exists() and not new.exists() and not linked(old, new, "taken"):
            shutil.copyfile(old, partial_path(new, "taken"))
            partial_path(new, "taken").replace(new)


def _missing(missing: Sequence[int], shards: int, folders: Sequence[Path]) -> str:
    """Which parts make the missing shards, as far as the locks of those that ran tell how many parts there are."""
    names = [path.name for folder in folders for path in folder.glob(part_lock("*-of-*"))]
    counts = Counter(int(name.removesuffix(LOCK).rpartition("-")[2]) for name in names)
    which = f"{len(missing)} of the {shards} shards of tokens are missing in {folders[0]}"
    if not counts:
        return f"{which}: no part was made there. Run the same command without --merge, which makes all of them."
    of = counts.most_common(1)[0][0]
    parts = sorted({number % of + 1 for number in missing})
    said = ", ".join(f"{number}/{of}" for number in parts[:_NAMED]) + (", ..." if len(parts) > _NAMED else "")
    return (
        f"{which}: those of part {said}. Run the same command with --part {parts[0]}/{of} in place of --merge, or "
        "without either, which makes all that is missing."
    )
