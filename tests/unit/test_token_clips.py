"""Tokens on disk: read as they were written, by any process, and never read where they are damaged."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from cogvid import UserError
from cogvid.data.clip_times import ClipTimes
from cogvid.data.tokens import Shard, ShardReader, TokenClips, code_type, read_shard, shard_keys, write_shard

CAPTIONS = [("a cat", "one cat"), ("a dog",), ("ein Hund",)]
NUMBERS = [[0, 2, 4], [1, 3], [0, 5, 6, 7]]


@pytest.fixture(scope="module")
def clips(make_token_clips: Callable[..., TokenClips]) -> TokenClips:
    """Codes of a frame are 100 times its clip and its number."""
    codes = torch.tensor([100 * clip + number for clip, own in enumerate(NUMBERS) for number in own])
    times = [ClipTimes.of(range(8), Fraction(1, rate)) for rate in (4, 8, 16)]
    offsets = torch.tensor([0, 3, 5, 9])
    return make_token_clips(codes[:, None, None].repeat(1, 2, 3), codes % 100, offsets, CAPTIONS, times)


def wanted(clips: TokenClips) -> list[list[int]]:
    return [clips.frames(clip, np.array(own))[:, 1, 2].tolist() for clip, own in enumerate(NUMBERS)]


def test_frames_captions_and_times_are_those_of_the_clip(clips: TokenClips) -> None:
    assert len(clips) == 3
    assert wanted(clips) == [[0, 2, 4], [101, 103], [200, 205, 206, 207]]
    frames = clips.frames(2, np.array([7, 0, 7, 6]))
    assert (frames.dtype, frames.shape) == (torch.int64, (4, 2, 3))
    assert frames[:, 0, 0].tolist() == [207, 200, 207, 206]
    assert [clip.captions for clip in clips] == CAPTIONS
    assert [clip.times.unit for clip in clips] == [Fraction(1, rate) for rate in (4, 8, 16)]
    assert clips[-1].captions == CAPTIONS[-1]
    with pytest.raises(IndexError):
        clips[3]


def test_a_frame_that_was_not_tokenised_is_never_given(clips: TokenClips) -> None:
    for clip, number in ((0, 1), (0, 5), (1, 0), (2, 8)):
        with pytest.raises(AssertionError):
            clips.frames(clip, np.array([number]))


class Drawn(Dataset[list[list[int]]]):
    def __init__(self, clips: TokenClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return 6

    def __getitem__(self, place: int) -> list[list[int]]:
        return wanted(self.clips)


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_other_processes_read_the_same(clips: TokenClips, way: str) -> None:
    expected = wanted(clips)  # the files are open here already
    assert wanted(pickle.loads(pickle.dumps(clips))) == expected
    loader = DataLoader(Drawn(clips), batch_size=None, num_workers=2, multiprocessing_context=way)
    if way == "spawn":  # what is sent to such processes is pickled
        loader = DataLoader(Drawn(pickle.loads(pickle.dumps(clips))), batch_size=None)
    assert list(loader) == [expected] * 6


@pytest.mark.parametrize(("codes", "kind"), [(2**16, np.uint16), (2**16 + 1, np.int32)])
def test_codes_take_two_bytes_where_they_fit(tmp_path: Path, codes: int, kind: type) -> None:
    assert code_type(codes) is kind
    shard = Shard.empty(2, 1, 1, 1, codes)
    shard.codes[:, 0, 0] = 0, codes - 1
    write_shard(tmp_path / "a", shard, "keys")
    read = read_shard(tmp_path / "a")
    assert read.codes.dtype == kind
    assert read.codes.ravel().tolist() == [0, codes - 1]
    assert ShardReader(tmp_path / "a").frames(0, 1, np.array([0])).dtype == kind


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_damaged_shard_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "00003.safetensors"
    write_shard(path, Shard.empty(3, 1, 2, 2, 9), "keys")
    assert shard_keys(path) == "keys"
    for damage in (flip, cut, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"junk" * 9)):
        whole = path.read_bytes()
        damage(path)
        with pytest.raises(UserError, match=r"00003\.safetensors are damaged"):
            read_shard(path)
        path.write_bytes(whole)
    read_shard(path)


def test_training_hears_of_a_damaged_shard_by_its_name(clips: TokenClips, tmp_path: Path) -> None:
    shutil.copytree(clips.folder, tmp_path / "copy")
    cut(tmp_path / "copy" / "00001.safetensors")
    copy = TokenClips(tmp_path / "copy", clips.clip_table)
    copy.frames(0, np.array([2]))
    with pytest.raises(UserError, match=r"00001\.safetensors are damaged"):
        copy.frames(1, np.array([1]))
