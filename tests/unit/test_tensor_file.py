"""Safetensors files written tensor by tensor are those that the library writes and reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from cogvid.pipeline.tensor_file import Later, read_tensors, write_tensors


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "b.weight": torch.randn(3, 5),
        "a.half": torch.randn(7).half(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "turned": torch.randn(4, 6).T,
        "one": torch.tensor(2, dtype=torch.int64),
        "brain": torch.randn(2, 2).bfloat16(),
        "none": torch.zeros(0, 3),
        "few": torch.arange(3, dtype=torch.int32),
        "fewer": torch.tensor([1, 60000], dtype=torch.uint16),
        "yes": torch.tensor([True, False]),
        "double": torch.randn(1).double(),
    }


def test_a_file_is_the_librarys_byte_for_byte(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    write_tensors(tmp_path / "ours.safetensors", tensors)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    assert (tmp_path / "ours.safetensors").read_bytes() == save(whole)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load_file(tmp_path / "ours.safetensors").items())


def test_tensors_are_made_one_by_one_and_a_file_that_fails_is_not_there(tmp_path: Path) -> None:
    made: list[str] = []

    def later(name: str) -> Later:
        def make() -> Tensor:
            made.append(name)
            if name == "c":
                raise OSError("no room")
            return torch.full((2,), 1.0)

        return Later((2,), torch.float32, make)

    write_tensors(tmp_path / "ab.safetensors", {name: later(name) for name in "ba"})
    assert made == ["a", "b"]
    with pytest.raises(OSError, match="no room"):
        write_tensors(tmp_path / "c.safetensors", {"c": later("c")})
    assert not (tmp_path / "c.safetensors").exists()


def test_tensors_that_are_read_are_those_that_were_written_each_by_itself(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "some.safetensors"
    write_tensors(path, tensors)
    content, read = path.read_bytes(), read_tensors(path)
    assert read.keys() == tensors.keys()
    for name, tensor in read.items():
        assert tensor.dtype is tensors[name].dtype
        assert tensor.equal(tensors[name])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    read["few"][0] = 7  # as little as with any tensor, the file knows nothing of it
    assert path.read_bytes() == content
