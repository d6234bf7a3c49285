"""Standard errors hold on Gaussians of known distance, and no order, batch or process changes a value."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cogvid.metrics import FrechetFrameDistance, FrechetJointDistance, FrechetVideoDistance, VideoExtractor
from cogvid.metrics.extractors import ExtractorMetric, Reading
from cogvid.metrics.frechet import frechet_values
from cogvid.metrics.jackknife import LeftOut, group_of, jackknife, shuffled
from cogvid.metrics.kernel import kernel_distance, kernel_left_out

DOUBLE = torch.float64
# Student's t of 15 degrees of freedom at 97.5%.
T15 = 2.1314
D = 5
CAPTIONS = 3


def gaussian(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=DOUBLE) * torch.linspace(1.5, 0.2, d) * scale + shift


@pytest.mark.parametrize(
    ("n", "m", "d", "scale", "shift"),
    [(64, 64, 6, 1.0, 0.0), (64, 64, 6, 1.5, 0.8), (60, 150, 4, 1.1, 0.1), (96, 96, 24, 1.0, 0.0)],
    ids=["equal", "far", "near-uneven", "equal-d24"],
)
def test_the_interval_covers_the_distance_of_gaussians_in_90_to_99_of_100_draws(
    n: int, m: int, d: int, scale: float, shift: float
) -> None:
    spread = torch.linspace(1.5, 0.2, d, dtype=DOUBLE)
    truth = d * shift**2 + float((spread * (scale - 1)).square().sum())
    inside = []
    for seed in range(100):
        real, generated = gaussian(n, d, seed), gaussian(m, d, 1000 + seed, scale, shift)
        values = frechet_values(real, generated, "fvd")
        inside.append(abs(values["fvd_debiased"] - truth) < T15 * values["fvd_se"])
    assert 90 <= sum(inside) <= 99


@pytest.mark.parametrize(("degree", "offset"), [(3, 1.0), (2, 0.0)])
def test_the_interval_of_the_kernel_distance_covers_zero_between_equal_distributions(
    degree: int, offset: float
) -> None:
    inside = []
    for seed in range(200):
        left_out = kernel_left_out(gaussian(64, 6, seed), gaussian(80, 6, 1000 + seed), degree, offset)
        inside.append(abs(left_out.whole) < T15 * jackknife(left_out).error)
    assert 180 <= sum(inside) <= 198


def test_the_kernel_distance_without_groups_is_that_of_the_samples_that_stay() -> None:
    real, generated = gaussian(21, 3, 0), gaussian(37, 3, 1)
    left_out = kernel_left_out(real, generated)
    kept = [[rows[group_of(len(rows), 10) != g] for g in range(10)] for rows in (real, generated)]
    for g in range(10):
        assert float(left_out.real[g]) == pytest.approx(kernel_distance(kept[0][g], generated), rel=1e-10)
        assert float(left_out.generated[g]) == pytest.approx(kernel_distance(real, kept[1][g]), rel=1e-10)
        assert float(left_out.both[g]) == pytest.approx(kernel_distance(kept[0][g], kept[1][g]), rel=1e-10)


def test_the_error_of_a_mean_is_the_one_of_the_textbook() -> None:
    # Of a difference of means nothing is of second order: 64 groups of one sample give s / sqrt(n), added in squares.
    real, generated = gaussian(32, 1, 0)[:, 0], gaussian(32, 1, 1)[:, 0]

    def without(rows: Tensor) -> Tensor:
        return (rows.sum() - rows) / (len(rows) - 1)

    whole = float(real.mean() - generated.mean())
    one, other = without(real), without(generated)
    estimate = jackknife(LeftOut(whole, one - generated.mean(), real.mean() - other, one - other))
    assert estimate.error == pytest.approx(math.sqrt(float(real.var() + generated.var()) / 32), rel=1e-10)
    assert estimate.debiased == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize("d", [4, 30])
def test_few_samples_of_many_features_give_a_distance_that_is_finite_and_not_negative(d: int) -> None:
    for n in (2, 4, 7):
        values = frechet_values(gaussian(n, d, 0), gaussian(n + 1, d, 1), "fvd")
        assert 0 <= values["fvd"] < math.inf
    assert math.isfinite(values["fvd_debiased"])
    assert values["fvd_se"] > 0


def test_the_order_follows_from_the_rows_and_says_nothing_about_them() -> None:
    rows = gaussian(400, D, 0)
    expected = shuffled(rows)
    assert torch.equal(shuffled(rows[torch.randperm(400)]), expected)
    assert torch.equal(expected.sort(0).values, rows.sort(0).values)
    # The last bits, which batches of a network change, change no place.
    assert torch.allclose(shuffled(rows * (1 + 1e-14)), expected, rtol=1e-12)
    # Means of groups differ as those of random groups do.
    groups = torch.stack([expected[group_of(400, 16) == g].mean(0) for g in range(16)])
    ratio = groups.var(0) * 25 / rows.var(0)
    assert 0.6 < float(ratio.mean()) < 1.6


class Given(VideoExtractor):
    """Features are handed to the metric; only captions are read."""

    name, feature_size, classes, min_frames, resize = "given", D, 0, 1, "none"

    def __init__(self, folder: Path, per_frame: bool = False) -> None:
        (folder / "given").write_bytes(b"none")
        super().__init__(nn.Identity(), folder / "given")
        self.per_frame = per_frame

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("nothing is read")

    def texts(self, captions: list[str]) -> Tensor:
        values = torch.zeros(len(captions), CAPTIONS)
        for row, caption in zip(values, captions, strict=True):
            row[int(caption)] = 1
        return values


FRAMES = 3
METRICS: dict[str, type[ExtractorMetric]] = {
    "fvd": FrechetVideoDistance,
    "joint": FrechetJointDistance,
    "frames": FrechetFrameDistance,
}


def sets(name: str) -> dict[bool, Tensor]:
    """Features of the real and the generated videos; the first of them decide the captions."""
    one, other = gaussian(41, D * FRAMES, 0), gaussian(35, D * FRAMES, 1, 1.3, 0.2)
    each = {True: one.float(), False: other.float()}
    return {real: rows.unflatten(1, (FRAMES, D)) if name == "frames" else rows[:, :D] for real, rows in each.items()}


def fed(name: str, folder: Path, parts: dict[bool, list[Tensor]]) -> ExtractorMetric:
    metric = METRICS[name](Given(folder, per_frame=name == "frames"))
    metric.clip_shape = torch.tensor([FRAMES, 8, 8])
    for real, batches in parts.items():
        for rows in batches:
            captions = [str(int(row.flatten()[0] * 1000) % CAPTIONS) for row in rows]
            metric.add(Reading(rows, torch.zeros(len(rows), 0)), captions, real)
    return metric


def in_batches(name: str, size: int, order: Callable[[Tensor], Tensor] = lambda rows: rows) -> dict[bool, list[Tensor]]:
    return {real: [*order(rows).split(size)] for real, rows in sets(name).items()}


def values(metric: ExtractorMetric) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("name", METRICS)
def test_order_and_batches_change_no_value(name: str, tmp_path: Path) -> None:
    expected = values(fed(name, tmp_path, in_batches(name, 41)))
    assert all(math.isfinite(value) for value in expected.values())
    for size in (1, 7):
        shuffle = torch.Generator().manual_seed(size)
        parts = in_batches(name, size, lambda rows: rows[torch.randperm(len(rows), generator=shuffle)])  # noqa: B023
        assert values(fed(name, tmp_path, parts)) == pytest.approx(expected, rel=1e-10)


def _in_process(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet{processes}", rank=rank, world_size=processes)
    found = {}
    for name in METRICS:
        # The last process has no generated video.
        parts: dict[bool, Any] = {}
        for real, rows in sets(name).items():
            sharing = processes if real else processes - 1
            parts[real] = [*rows[rank::sharing].split(5)] if rank < sharing else []
        metric = fed(name, folder / str(rank), parts)
        found[name] = values(metric)
        with metric.sync_context():
            assert metric.protocol["generated_samples"] == 35
    (folder / f"{processes}-{rank}").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_one_two_and_three_processes_give_the_same_values(tmp_path: Path) -> None:
    alone = {name: values(fed(name, tmp_path, in_batches(name, 5))) for name in METRICS}
    fork = multiprocessing.get_context("fork")
    for count in (2, 3):
        for rank in range(count):
            (tmp_path / str(rank)).mkdir(exist_ok=True)
        processes = [fork.Process(target=_in_process, args=(rank, count, tmp_path)) for rank in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        for rank in range(count):
            found = json.loads((tmp_path / f"{count}-{rank}").read_text())
            for name, expected in alone.items():
                assert found[name] == pytest.approx(expected, rel=1e-10)


def test_few_videos_get_a_caution_and_enough_get_none(tmp_path: Path) -> None:
    metric = fed("fvd", tmp_path, in_batches("fvd", 41))
    before = values(metric)
    assert set(metric.cautions()) == {"fvd", "fvd_debiased"}
    assert metric.cautions()["fvd"].startswith("35 samples are few for 5 features: below 50, 10 for each feature")
    for real in (True, False):
        metric.add(Reading(gaussian(20, D, 5).float(), torch.zeros(20, 0)), ["0"] * 20, real)
    assert values(metric)["fvd"] != before["fvd"]
    assert metric.cautions() == {}


def test_joint_distance_sees_what_contradicts_its_caption_and_no_distance_of_videos_does(tmp_path: Path) -> None:
    extractor = Given(tmp_path)
    means = 4 * torch.eye(CAPTIONS, D)

    def clips(seed: int) -> tuple[Tensor, list[str]]:
        classes = torch.randint(CAPTIONS, (120,), generator=torch.Generator().manual_seed(seed))
        return means[classes] + gaussian(120, D, seed).float(), [str(int(c)) for c in classes]

    real, captions = clips(0)
    other, own = clips(1)
    swapped = [str((int(caption) + 1) % CAPTIONS) for caption in own]
    seen: dict[str, list[dict[str, float]]] = {"fvd": [], "joint": []}
    for name, found in seen.items():
        for texts in (own, swapped):
            metric = METRICS[name](extractor)
            metric.clip_shape = torch.tensor([FRAMES, 8, 8])
            metric.add(Reading(real, torch.zeros(120, 0)), captions, True)
            metric.add(Reading(other, torch.zeros(120, 0)), texts, False)
            found.append(values(metric))
    assert seen["fvd"][0] == seen["fvd"][1]
    right, wrong = seen["joint"]
    assert abs(right["fjd_debiased"]) < 3 * right["fjd_se"]
    assert wrong["fjd_debiased"] > 10 * right["fjd_se"]
