"""The built-in frame tokenizer."""

from __future__ import annotations

import json
import socket
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvid import UserError, create_component
from cogvid_plugins.frame_tokenizer.vqvae import VQVAE, detailed_crops


def coloured_squares(count: int, seed: int = 0) -> Tensor:
    """One square of eight colours on grey in each frame, (count, 3, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.full((count, 3, 16, 16), 0.5)
    places = (4 * torch.randint(0, 3, (count, 2), generator=generator)).tolist()
    colours = torch.randint(0, 2, (count, 3, 1, 1), generator=generator).float()
    for frame, (row, column), colour in zip(frames, places, colours, strict=True):
        frame[:, row : row + 8, column : column + 8] = colour
    return frames


def tiny(**options: int) -> VQVAE:
    torch.manual_seed(0)
    sizes = {"channels": 16, "codes": 32, "code_size": 8, "crop": 8}
    return VQVAE(VQVAE.Config(**{**sizes, **options}))


@pytest.fixture(scope="module")
def trained() -> tuple[VQVAE, list[float]]:
    """A tokenizer after 80 steps, in eval mode, and the reconstruction losses on the way."""
    model = tiny()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(80):
        loss, logs = model.training_loss(coloured_squares(16, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(logs["reconstruction"]))
    return model.eval(), losses


def test_training_learns_coloured_squares(trained: tuple[VQVAE, list[float]]) -> None:
    model, losses = trained
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
    frames = coloured_squares(16, seed=1000)
    assert (model.decode(model.encode(frames)) - frames).square().mean() < (frames - 0.5).square().mean()


def test_codes_are_those_that_the_quantizer_trained_with(trained: tuple[VQVAE, list[float]]) -> None:
    model, frames = trained[0], coloured_squares(8)
    _, indices, _ = model.quantizer(model.encoder(2 * frames - 1))
    assert torch.equal(model.encode(frames), indices)


def test_the_codebook_has_the_vector_that_each_code_decodes_from(trained: tuple[VQVAE, list[float]]) -> None:
    model = trained[0]
    codebook, codes = model.codebook(), torch.arange(32).view(2, 4, 4)
    assert codebook.shape == (32, 8)
    assert not codebook.requires_grad
    decoded = model.decoder(codebook[codes].permute(0, 3, 1, 2))
    assert torch.equal(((decoded + 1) / 2).clamp(0, 1), model.decode(codes))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"downsampling": 1}, "downsampling"),
        ({"downsampling": 6}, "downsampling"),
        ({"downsampling": 8, "crop": 12}, "crop"),
        ({"codes": 0}, "codes"),
        ({"channels": 0}, "channels"),
        ({"code_size": -1}, "code_size"),
        ({"commitment": float("nan")}, "commitment"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        create_component("frame_tokenizer", "vqvae", options)


def test_a_crop_larger_than_the_frames_is_refused() -> None:
    with pytest.raises(UserError, match="crop 32 is larger than the frames of 16x48 pixels"):
        tiny(crop=32).check(16, 48)
    with pytest.raises(UserError, match="48x16 pixels"):
        tiny(crop=32).check(48, 16)


@pytest.mark.parametrize(("height", "width"), [(16, 48), (48, 16)])
def test_rectangular_frames_train_by_crops_and_whole(height: int, width: int) -> None:
    frames = torch.rand(4, 3, height, width)
    for crop in (16, 0):
        tiny(crop=crop).check(height, width)
        loss, _ = tiny(crop=crop).training_loss(frames)
        assert torch.isfinite(loss)


def test_whole_frames_train_where_no_crop_is_asked_for() -> None:
    loss, logs = tiny(crop=0).training_loss(coloured_squares(8))
    assert torch.isfinite(loss)
    assert 0 < float(logs["codes_used"]) <= 1


def test_crops_are_drawn_where_there_is_detail() -> None:
    torch.manual_seed(0)
    frames = torch.zeros(300, 3, 32, 32)
    frames[:, :, 4:8, 22:26] = torch.rand(300, 3, 4, 4) + 0.5
    crops = detailed_crops(frames, 8)
    assert crops.shape == (300, 3, 8, 8)
    # Places drawn evenly would hit in about one of five.
    assert (crops.amax((1, 2, 3)) > 0).float().mean() > 0.9


def test_crops_are_pieces_of_their_frames() -> None:
    torch.manual_seed(0)
    frames = torch.arange(2 * 3 * 6 * 7, dtype=torch.float).view(2, 3, 6, 7)
    for frame, crop in zip(frames, detailed_crops(frames, 4), strict=True):
        pieces = frame.unfold(1, 4, 1).unfold(2, 4, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert (pieces == crop).flatten(1).all(1).sum() == 1


# Trains on shares of batches, as a data parallel strategy does: of noise, where no two codes are about as near.
SHARED = """
import json
import torch
import torch.distributed as dist
from cogvid.interfaces.share import Share
from cogvid_plugins.frame_tokenizer.vqvae import VQVAE

if processes > 1:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
torch.manual_seed(0)
model = VQVAE(VQVAE.Config(downsampling=4, channels=16, codes=48, code_size=8, crop=8))
model.share = share = Share(rank, processes)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
replace, restarts = model.quantizer._codebook.replace, []
def counted(samples, batch_mask, **others):
    restarts.append(int(batch_mask.sum()))
    replace(samples, batch_mask, **others)
model.quantizer._codebook.replace = counted
losses = []
for step in range(25):
    torch.manual_seed(step)
    loss, logs = model.training_loss(share.of(torch.rand(8, 3, 16, 16)))
    optimizer.zero_grad()
    loss.backward()
    step = torch.stack([loss.detach(), logs["reconstruction"]])
    for tensor in (step, *(parameter.grad for parameter in model.parameters())) if processes > 1 else ():
        dist.all_reduce(tensor)
        tensor /= processes
    optimizer.step()
    losses.append([*step.tolist(), float(logs["codes_used"])])
with open(file, "w") as found:
    json.dump({"losses": losses, "codebook": model.codebook().tolist(), "restarts": restarts}, found)
"""


def test_two_processes_learn_what_one_learns(warm: ForkServerContext, tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]

    def learnt(processes: int) -> list[dict[str, Any]]:
        files = [tmp_path / f"{rank}-of-{processes}.json" for rank in range(processes)]
        given = [
            {"rank": rank, "processes": processes, "port": port, "file": str(file)} for rank, file in enumerate(files)
        ]
        started = [warm.Process(target=exec, args=(SHARED, each)) for each in given]
        for process in started:
            process.start()
        for process in started:
            process.join(200)
            process.kill()
        return [json.loads(file.read_text()) for file in files]

    (one,), several = learnt(1), learnt(2)
    assert sum(one["restarts"]) > 10
    for each in several:
        assert each["restarts"] == one["restarts"]
        assert torch.allclose(torch.tensor(each["losses"]), torch.tensor(one["losses"]), rtol=1e-5, atol=0)
        assert torch.allclose(torch.tensor(each["codebook"]), torch.tensor(one["codebook"]), rtol=0, atol=1e-5)
        assert each["codebook"] == several[0]["codebook"]
