"""Clusters of codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogvid.config.compose import load_experiment
from cogvid.errors import UserError
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.check import check_lab
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageStore
from cogvid.pipeline.tokenizer_stage import load_clusters, load_tokenizer, tokenizer_stage
from cogvid.training.clusters import cluster_codes
from cogvid_plugins.frame_tokenizer.vqvae import VQVAE

SMALL = [
    "data.options.clips=2",
    "data.options.test_clips=1",
    "video.size=16",
    "frame_tokenizer={name: vqvae, options: {downsampling: 4, channels: 16, codes: 12, code_size: 4, crop: 8}}",
    "stages.tokenizer={steps: 2, batch_size: 4, clusters: 5}",
]


def random_codebook(codes: int = 60, size: int = 3) -> Tensor:
    return torch.randn(codes, size, generator=torch.Generator().manual_seed(1))


def small_lab(*changes: str) -> Lab:
    return Lab(load_experiment("quickstart", None, [*SMALL, *changes]).config)


@pytest.mark.parametrize("seed", range(5))
def test_codes_near_each_other_are_one_cluster(seed: int) -> None:
    blob = torch.arange(60) % 6
    centres = 100 * torch.eye(6)
    labels = cluster_codes(centres[blob] + random_codebook(60, 6), 6, seed)
    assert torch.equal(labels[:, None] == labels, blob[:, None] == blob)


def test_a_cluster_is_of_the_codes_nearest_to_its_centre() -> None:
    codebook = random_codebook(300)
    labels = cluster_codes(codebook, 12, seed=0)
    centres = torch.stack([codebook[labels == i].mean(0) for i in range(12)])
    assert torch.equal(torch.cdist(codebook, centres).argmin(1), labels)


@pytest.mark.parametrize(("clusters", "found"), [(1, 1), (7, 7), (59, 59), (60, 60), (500, 60)])
def test_every_cluster_has_a_code(clusters: int, found: int) -> None:
    labels = cluster_codes(random_codebook(), clusters, seed=0)
    assert labels.dtype == torch.long
    assert labels.shape == (60,)
    assert labels.unique().tolist() == list(range(found))


@pytest.mark.parametrize("clusters", [8, 64])
def test_every_cluster_has_a_code_even_where_distances_round_to_nothing(clusters: int) -> None:
    codebook = 1e8 + 1e-3 * torch.arange(64).double()[:, None]
    assert cluster_codes(codebook, clusters, seed=0).unique().tolist() == list(range(clusters))


@pytest.mark.parametrize("clusters", [4, 6, 20])
def test_equal_codes_share_a_cluster_and_leave_none_empty(clusters: int) -> None:
    same = torch.tensor([0, 1, 0, 0, 2, 3, 0, 1, 4, 5, 0, 0])
    labels = cluster_codes(random_codebook(6)[same], clusters, seed=0)
    assert labels.unique().tolist() == list(range(min(clusters, 6)))
    assert all(len(labels[same == i].unique()) == 1 for i in range(6))


def test_an_untrained_codebook_of_zeros_is_one_cluster() -> None:
    assert cluster_codes(torch.zeros(9, 4), 3, seed=0).tolist() == [0] * 9


def test_clusters_follow_from_the_seed_and_leave_other_random_numbers_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    labels = cluster_codes(random_codebook(), 9, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(cluster_codes(random_codebook(), 9, seed=4), labels)
    assert not torch.equal(cluster_codes(random_codebook(), 9, seed=5), labels)


def test_less_than_one_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="0"):
        cluster_codes(random_codebook(), 0, seed=0)


def test_the_tokenizer_stage_keeps_the_clusters_of_its_codes(tmp_path: Path) -> None:
    lab, store = small_lab(), StageStore(tmp_path)
    stage = tokenizer_stage(lab, store, data_stage(lab, store))
    codebook = load_tokenizer(lab, stage).codebook()
    clusters = load_clusters(stage)
    assert codebook is not None
    assert clusters is not None
    assert torch.equal(clusters, cluster_codes(codebook, 5, lab.config.seed))


def test_a_tokenizer_without_a_codebook_has_no_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VQVAE, "codebook", FrameTokenizer.codebook)
    lab, store = small_lab(), StageStore(tmp_path)
    assert load_clusters(tokenizer_stage(lab, store, data_stage(lab, store))) is None


@pytest.mark.parametrize("part", ["first_frame", "sequential", "interpolation"])
def test_sampling_by_clusters_without_a_codebook_is_refused_before_training(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VQVAE, "codebook", FrameTokenizer.codebook)
    with pytest.raises(UserError, match=rf"generation\.{part}\.clusters: .* no codebook"):
        check_lab(small_lab(f"generation.{part}.clusters=true"))


def test_no_clusters_at_all_are_refused_before_training() -> None:
    with pytest.raises(UserError, match=r"stages\.tokenizer\.clusters"):
        small_lab("stages.tokenizer.clusters=0")
