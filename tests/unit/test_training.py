"""Optimiser, sequences, and trainings that are interrupted."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cogvid import Grid
from cogvid.config.schema import StageConfig, TrainerConfig
from cogvid.data.clip_times import ClipTimes
from cogvid.data.loading import load
from cogvid.data.samples import FrameSampler, SequenceSampler, TokenSamples
from cogvid.data.sequences import sequences
from cogvid.data.text import CaptionEncoder
from cogvid.data.tokens import TokenClips
from cogvid.errors import Interrupted
from cogvid.model.transformer import CogVideoTransformer
from cogvid.training.checkpoint_files import CHECKPOINTS
from cogvid.training.fit import fit
from cogvid.training.held_out import HeldOutSamples
from cogvid.training.modules import FrameTokenizerModule
from cogvid.training.next_token import TransformerModule
from cogvid.training.optimizer import build_optimizer, orthogonal
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.frame_rate.lowest_fit import LowestFit
from cogvid_plugins.frame_rate.uniform import Uniform
from cogvid_plugins.frame_tokenizer.vqvae import VQVAE
from cogvid_plugins.text_tokenizer.bpe import BytePairs

MakeModel = Callable[..., CogVideoTransformer]

MakeTokenClips = Callable[..., TokenClips]
DURATIONS = (1.0, 2.0, 4.0, 0.5, 1.5)
CAPTIONS = tuple(f"clip {letter}" for letter in "abcde")
RATES = (1.0, 2.0, 4.0)
# Codes go up to 499; begin-of-image and the text follow.
OFFSET = 501
VOCABULARY = {"vocabulary": OFFSET + 280, "image_vocabulary": OFFSET - 1, "text_positions": 30}


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))


def learn(network: nn.Module, optimizer: Any, schedule: Any, steps: range) -> None:
    for step in steps:
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        schedule.step()


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 48, 16), (2, 16, 64)], ids=str)
def test_muon_updates_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_each_matrix_of_a_batch_is_made_orthogonal_by_itself() -> None:
    matrices = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([orthogonal(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonal(matrices * torch.tensor([1.0, 10.0, 0.1])[:, None, None]), alone)


def test_the_rate_warms_up_stays_and_cools_down_to_zero() -> None:
    config = StageConfig(steps=100, batch_size=1, adam_lr=0.5, warmup=0.1, cooldown=0.2)
    optimizer, schedule = build_optimizer(small_network().named_parameters(), config)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        schedule.step()
    assert rates[0] > 0
    assert np.all(np.diff(rates[:11]) > 0)
    assert rates[10:81] == [1.0] * 71
    np.testing.assert_allclose(rates[80:], np.arange(20, 0, -1) / 20)
    assert optimizer.param_groups[0]["lr"] == 0


def test_muon_gets_the_matrices_and_adam_embeddings_norms_and_biases(make_model: MakeModel) -> None:
    model = make_model(Naive())
    config = StageConfig(steps=10, batch_size=1, adam_lr=0.01, muon_lr=0.02)
    optimizer, _ = build_optimizer(model.named_parameters(), config)
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {g["muon"]: {names[id(p)] for p in g["params"]} for g in optimizer.param_groups}
    assert by_muon[True] | by_muon[False] == set(names.values())
    layers = ("base.qkv", "base.out", "plus.qkv", "plus.out", "expand", "contract")
    assert by_muon[True] == {f"blocks.{i}.{layer}.weight" for i in range(2) for layer in layers}


def test_without_muon_every_step_is_one_of_published_adam() -> None:
    ours, theirs = small_network(), small_network()
    config = StageConfig(steps=12, batch_size=1, adam_lr=0.01, weight_decay=0.1)
    optimizer, schedule = build_optimizer(ours.named_parameters(), config)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    learn(ours, optimizer, schedule, range(12))
    learn(theirs, adam, torch.optim.lr_scheduler.LambdaLR(adam, schedule.lr_lambdas[0]), range(12))
    assert_same_weights(ours, theirs)


def muon_matrix(steps: int, **options: float) -> Tensor:
    """A matrix that Muon has trained."""
    network = small_network()
    config = StageConfig(steps=10, batch_size=1, adam_lr=0.01, muon_lr=0.02, warmup=0, cooldown=0, **options)
    learn(network, *build_optimizer(network.named_parameters(), config), range(steps))
    return network[2].weight.detach()


def test_weight_decay_takes_a_share_of_the_matrices_of_muon_too() -> None:
    taken = muon_matrix(1) - muon_matrix(1, weight_decay=0.5)
    torch.testing.assert_close(taken, muon_matrix(0) * 0.02 * 0.5, rtol=1e-3, atol=1e-7)


def test_the_momentum_of_muon_is_an_option_of_its_own() -> None:
    assert not torch.allclose(muon_matrix(3), muon_matrix(3, muon_momentum=0.5))


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened(muon_lr: float) -> None:
    config = StageConfig(steps=12, batch_size=1, adam_lr=0.01, muon_lr=muon_lr)
    network = small_network()
    optimizer, schedule = build_optimizer(network.named_parameters(), config)
    learn(network, optimizer, schedule, range(5))
    restored = small_network()
    restored.load_state_dict(network.state_dict())
    again, schedule_again = build_optimizer(restored.named_parameters(), config)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    schedule_again.load_state_dict(schedule.state_dict())
    learn(network, optimizer, schedule, range(5, 12))
    learn(restored, again, schedule_again, range(5, 12))
    assert_same_weights(network, restored)


@pytest.fixture(scope="module")
def token_clips(make_token_clips: MakeTokenClips) -> TokenClips:
    """Clips at 8 frames per second; all codes of a frame are 100 * clip + its number."""
    counts = [int(seconds * 8) + 1 for seconds in DURATIONS]
    numbers = torch.cat([100 * clip + torch.arange(count) for clip, count in enumerate(counts)])
    offsets = torch.tensor(np.cumsum([0, *counts]))
    times = [ClipTimes.of(range(count), Fraction(1, 8)) for count in counts]
    captions = [(caption,) for caption in CAPTIONS]
    return make_token_clips(numbers[:, None, None].repeat(1, 2, 3), numbers % 100, offsets, captions, times)


@pytest.fixture
def sampler(token_clips: TokenClips) -> SequenceSampler:
    return SequenceSampler(token_clips, LowestFit(LowestFit.Config(rates=list(RATES))), [(0, 1, 2)], 3, seed=7)


@pytest.fixture(scope="module")
def text() -> CaptionEncoder:
    tokenizer = BytePairs(BytePairs.Config(280))
    tokenizer.train((caption, 2.0) for caption in CAPTIONS)
    return CaptionEncoder(tokenizer, 30, OFFSET - 1)


def test_the_same_number_draws_the_same_sequence(sampler: SequenceSampler) -> None:
    for number in range(20):
        codes, caption, seconds = sampler.draw(number)
        again, same_caption, same_seconds = replace(sampler).draw(number)
        assert torch.equal(codes, again)
        assert (caption, seconds) == (same_caption, same_seconds)
    other = [replace(sampler, seed=8).draw(number)[1] for number in range(20)]
    assert other != [sampler.draw(number)[1] for number in range(20)]


def test_each_clip_comes_once_an_epoch_in_an_order_of_its_own(sampler: SequenceSampler) -> None:
    epochs = [[sampler.draw(5 * epoch + place)[1] for place in range(5)] for epoch in range(6)]
    assert all(sorted(epoch) == sorted(CAPTIONS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_frames_stand_at_the_times_of_a_rate_that_the_scheduler_allows(sampler: SequenceSampler, factor: float) -> None:
    scheduler = Uniform(Uniform.Config(rates=list(RATES)))
    sampler = replace(sampler, scheduler=scheduler, windows=[(0, 1 / factor, 2 / factor)])
    drawn = set()
    for number in range(60):
        codes, caption, seconds = sampler.draw(number)
        clip, numbers = CAPTIONS.index(caption), codes[:, 0, 0] % 100
        assert (codes // 100 == clip).all()
        rate = 2 / seconds
        assert rate / factor in scheduler.training_rates(DURATIONS[clip], 3)
        assert numbers.diff().tolist() == [8 / rate] * 2
        assert numbers[0] * (rate / factor) % 8 == 0
        drawn.add((clip, rate))
    assert len(drawn) > len(CAPTIONS)


def test_frames_are_found_by_their_numbers_where_only_some_are_kept(make_token_clips: MakeTokenClips) -> None:
    kept = torch.tensor([0, 4, 8, 2, 3])
    times = [ClipTimes.of(range(9), Fraction(1, 8))] * 2
    clips = make_token_clips(10 * kept[:, None, None], kept, torch.tensor([0, 3, 5]), [("a",), ("b",)], times)
    assert clips.frames(0, np.array([0, 8, 4, 4])).flatten().tolist() == [0, 80, 40, 40]
    assert clips.frames(1, np.array([3])).flatten().tolist() == [30]
    for clip, number in ((0, 5), (1, 8)):
        with pytest.raises(AssertionError):
            clips.frames(clip, np.array([number]))


def test_all_sequences_of_a_clip_begin_at_the_times_of_the_rate_and_end_inside_it() -> None:
    times = ClipTimes.of(range(13), Fraction(1, 8))
    assert sequences(times, 2.0, (0, 1), 2).tolist() == [[0, 4], [4, 8], [8, 12]]
    assert sequences(times, 2.0, (0.5, 0.75), 2).tolist() == [[2, 3], [6, 7], [10, 11]]
    assert sequences(times, 1.0, (0, 1), 2).tolist() == [[0, 8]]


def test_a_clip_of_thirty_frames_a_second_is_drawn_at_a_quarter_of_it_under_the_duration_of_that(
    make_token_clips: MakeTokenClips,
) -> None:
    clips = make_token_clips(
        torch.arange(17)[:, None, None],
        torch.arange(17),
        torch.tensor([0, 17]),
        [("a",)],
        [ClipTimes.of([round(1000 * number / 30) for number in range(17)], Fraction(1, 1000))],
    )
    sampler = SequenceSampler(clips, LowestFit(LowestFit.Config(rates=[7.5, 15])), [(0, 1, 2, 3, 4)], 5, seed=0)
    codes, _, seconds = sampler.draw(0)
    assert (codes.flatten().tolist(), round(seconds, 3)) == ([0, 4, 8, 12, 16], 0.533)


def test_the_image_base_gets_stills_and_first_frames_as_clips_of_no_duration(sampler: SequenceSampler) -> None:
    anywhere = replace(sampler, windows=[(1, 1.5, 2)])
    frames = FrameSampler(sampler, anywhere, stills=0.5)
    places, first = set(), 0
    for number in range(200):
        codes, caption, seconds = frames.draw(number)
        sequence, expected_caption, expected_seconds = (anywhere if seconds else sampler).draw(number)
        assert caption == expected_caption
        if seconds:
            assert seconds == expected_seconds
            places.add((sequence == codes).flatten(1).all(1).tolist().index(True))
        else:
            first += 1
            assert torch.equal(codes, sequence[:1])
    assert places == {0, 1, 2}
    assert 80 < first < 120


@pytest.mark.parametrize("stills", [0.0, 1.0])
def test_only_first_frames_or_only_stills(sampler: SequenceSampler, stills: float) -> None:
    seconds = [FrameSampler(sampler, sampler, stills).draw(number)[2] for number in range(30)]
    assert all(bool(s) == bool(stills) for s in seconds)


def test_dropping_the_caption_keeps_the_duration(sampler: SequenceSampler, text: CaptionEncoder) -> None:
    numbers = range(40)
    ((_, tokens, mask),) = load(TokenSamples(sampler, text, caption_dropout=0.5), [numbers], 0)
    draws = [sampler.draw(number) for number in numbers]
    with_caption, _ = text.encode([caption for _, caption, _ in draws], [seconds for *_, seconds in draws])
    without, _ = text.encode([None] * len(draws), [seconds for *_, seconds in draws])
    dropped = (tokens == without).all(1)
    assert torch.equal(~dropped, (tokens == with_caption).all(1))
    assert 10 <= int(dropped.sum()) <= 30
    assert mask.any(1).all()


@pytest.mark.parametrize("kind", ["sequences", "frames"])
def test_which_captions_are_dropped_depends_on_the_seed_of_the_stage(
    sampler: SequenceSampler, text: CaptionEncoder, kind: str
) -> None:
    def dropped(seed: int) -> list[bool]:
        own = replace(sampler, seed=seed)
        draws = own if kind == "sequences" else FrameSampler(own, own, stills=0.0)
        numbers = range(60)
        ((_, tokens, _),) = load(TokenSamples(draws, text, caption_dropout=0.5), [numbers], 0)
        without, _ = text.encode([None] * len(numbers), [draws.draw(number)[2] for number in numbers])
        return (tokens == without).all(1).tolist()

    assert dropped(1) == dropped(1)
    assert 10 < sum(a != b for a, b in zip(dropped(1), dropped(2), strict=True)) < 50


class Killed(Exception):
    """Stands for whatever ends a process."""


class KillBefore(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


class InterruptIn(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


# Five clips in batches of two: after step 5 the second epoch is through, and steps 3 and 4 are in it.
@pytest.mark.parametrize(
    ("stops", "muon_lr", "workers", "parts", "ema"),
    [
        ([KillBefore(6)], 0.0, 0, 1, 0.0),
        ([InterruptIn(3)], 0.02, 2, 1, 0.9),
        ([InterruptIn(5)], 0.02, 0, 2, 0.9),
        ([InterruptIn(3), InterruptIn(4)], 0.0, 2, 2, 0.0),
        ([InterruptIn(8)], 0.0, 0, 1, 0.9),
    ],
    ids=["killed", "mid-epoch", "at an epoch's end", "twice in one epoch", "at the end"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_stopped_training_ends_where_an_undisturbed_one_does_with_any_number_of_workers(
    make_model: MakeModel,
    sampler: SequenceSampler,
    text: CaptionEncoder,
    tmp_path: Path,
    stops: list[pl.Callback],
    muon_lr: float,
    workers: int,
    parts: int,
    ema: float,
) -> None:
    config = StageConfig(
        steps=8,
        batch_size=2,
        adam_lr=0.01,
        muon_lr=muon_lr,
        checkpoint_every=4,
        validate_every=3,
        caption_dropout=0.3,
        ema=ema,
    )

    def train(folder: Path, workers: int, *callbacks: pl.Callback) -> nn.Module:
        model = make_model(Naive(), Grid(3, 2, 3), text_length=30, seed=3, dtype=torch.float32, **VOCABULARY)
        model.start_video(
            make_model(None, Grid(1, 2, 3), text_length=30, seed=4, dtype=torch.float32, **VOCABULARY).state_dict()
        )
        trainer = TrainerConfig(accelerator="cpu", log_every=1, workers=workers)
        fit(
            TransformerModule(model, config, text.begin_of_image, parts=parts),
            TokenSamples(sampler, text, caption_dropout=0.3),
            folder,
            trainer,
            title="tiny",
            seed=1,
            names=lambda numbers: [sampler.draw(number)[1] for number in numbers],
            callbacks=callbacks,
            held_out=HeldOutSamples.of(TokenSamples(sampler, text), 5),
        )
        return model

    whole = train(tmp_path / "whole", 0)
    for number, stop in enumerate(stops):
        with pytest.raises((Killed, Interrupted)):
            train(tmp_path / "stopped", workers if number == 0 else 0, stop)
        assert list((tmp_path / "stopped" / CHECKPOINTS).iterdir())
    assert_same_weights(train(tmp_path / "stopped", 2 - workers), whole)
    histories = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "stopped")]
    assert histories[0] == histories[1]
    assert histories[0].count("\n") == 8
    assert histories[0].count('"held_out"') == 3


@pytest.mark.filterwarnings("ignore")
def test_a_killed_training_draws_the_random_numbers_it_would_have_drawn(tmp_path: Path) -> None:
    # The tokenizer trains on random crops, and starts its codebook from random features.
    config = StageConfig(steps=6, batch_size=8, adam_lr=0.01, checkpoint_every=3)

    class Frames(Dataset[Tensor]):
        def __getitem__(self, number: int) -> Tensor:
            generator = torch.Generator().manual_seed(number)
            return torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=generator)

    def train(folder: Path, *callbacks: pl.Callback) -> nn.Module:
        torch.manual_seed(0)
        tokenizer = VQVAE(VQVAE.Config(channels=16, codes=16, code_size=4, crop=8))
        module = FrameTokenizerModule(tokenizer, config)
        trainer = TrainerConfig(accelerator="cpu", log_every=1)
        fit(
            module,
            Frames(),
            folder,
            trainer,
            title="tiny",
            seed=1,
            names=lambda numbers: ["x"],
            callbacks=callbacks,
        )
        return tokenizer

    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", KillBefore(4))
    assert_same_weights(train(tmp_path / "killed"), whole)
