"""The held-out loss: what it is the loss of, and that training notices nothing of it."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from cogvid import Grid
from cogvid.config.compose import load_experiment
from cogvid.config.schema import InterpolationStageConfig, StageConfig, TrainerConfig
from cogvid.data.clip_times import ClipTimes
from cogvid.data.tokens import TokenClips
from cogvid.interfaces.mask import Stage
from cogvid.model.transformer import CogVideoTransformer, frame_inputs
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageResult, StageStore
from cogvid.pipeline.train import TransformerStages
from cogvid.training.fit import fit
from cogvid.training.held_out import HeldOut, HeldOutSamples, held_out_info
from cogvid.training.modules import FrameTokenizerModule, StageModule
from cogvid.training.next_token import TransformerModule
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.frame_tokenizer.vqvae import VQVAE
from cogvid_plugins.text_tokenizer.bpe import BytePairs

MakeModel = Callable[..., CogVideoTransformer]
pytestmark = pytest.mark.filterwarnings("ignore")
# Of the small models: begin-of-image, text slots, tokens of a frame.
BEGIN, TEXT, N = 11, 4, 6
CONFIG = StageConfig(steps=4, batch_size=2, adam_lr=0.01, checkpoint_every=4)


def sequences(count: int, frames: int) -> HeldOutSamples:
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(11, (count, frames, N), generator=random)
    text = torch.randint(12, 20, (count, TEXT), generator=random)
    mask = torch.arange(TEXT) >= torch.randint(TEXT, (count, 1), generator=random)
    return HeldOutSamples([codes, text, mask])


def measured(
    module: StageModule, samples: HeldOutSamples, *, size: int = 2, precision: Any = "32-true"
) -> dict[str, float]:
    trainer = pl.Trainer(accelerator="cpu", devices=1, precision=precision, logger=False, enable_checkpointing=False)
    found = HeldOut(samples, module.held_out, module.network, every=0, size=size, show=lambda *_: None)
    return found.measure(trainer)


@pytest.mark.parametrize(
    ("stage", "image_model_first", "numbers"),
    [
        (None, True, [0]),
        ("sequential", True, [1, 2]),
        ("sequential", False, [0, 1, 2]),
        ("interpolation", True, [1]),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_it_is_the_cross_entropy_of_the_generated_frames(
    make_model: MakeModel, stage: Stage | None, image_model_first: bool, numbers: list[int], size: int
) -> None:
    frames = 3 if stage else 1
    model = make_model(Naive() if stage else None, Grid(frames, 2, 3), stage or "sequential")
    samples = sequences(5, frames)
    codes, text, mask = samples.batch
    logits = model(torch.cat([text, frame_inputs(codes, BEGIN)], 1), text_mask=mask)[:, TEXT:, :11]
    surprise = -logits.log_softmax(-1).unflatten(1, (frames, N)).gather(-1, codes[..., None])[..., 0]
    # Noise and captions that are left out are of the training alone.
    config = InterpolationStageConfig(steps=1, batch_size=1, token_noise=0.9, caption_dropout=0.9)
    module = TransformerModule(model, config, BEGIN, image_model_first=image_model_first)
    found = measured(module, samples, size=size)
    expected = {f"held_out_frame_{number}": surprise[:, number].mean() for number in numbers}
    expected["held_out"] = surprise[:, numbers].mean()
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-6)


def test_of_a_frame_tokenizer_it_is_the_squared_error_of_whole_frames() -> None:
    torch.manual_seed(0)
    tokenizer = VQVAE(VQVAE.Config(channels=16, codes=16, code_size=4, crop=8))
    frames = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    values = frames / 255
    again = tokenizer.eval().decode(tokenizer.encode(values))
    found = measured(FrameTokenizerModule(tokenizer.train(), CONFIG), HeldOutSamples(frames))
    assert found == pytest.approx({"held_out": float((again - values).square().mean())}, rel=1e-5)


def test_each_part_of_the_network_keeps_its_mode_and_no_random_number_is_drawn(make_model: MakeModel) -> None:
    model = make_model(Naive()).train()
    model.blocks[0].eval()
    modes = [part.training for part in model.modules()]
    torch.manual_seed(3)
    module = TransformerModule(model, CONFIG, BEGIN)
    seen = []
    module.held_out = lambda batch: (  # type: ignore[method-assign]
        seen.append((model.training, torch.rand(1))) or {"held_out": torch.zeros(len(batch[0]))}
    )
    measured(module, sequences(5, 3))
    assert [training for training, _ in seen] == [False] * 3
    assert [part.training for part in model.modules()] == modes
    after = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), after)


def test_in_half_precision_it_is_measured_as_the_stage_trains(make_model: MakeModel) -> None:
    module = TransformerModule(make_model(Naive(), dtype=torch.float32), CONFIG, BEGIN)
    samples = sequences(5, 3)
    whole, half = measured(module, samples), measured(module, samples, precision="bf16-mixed")
    assert whole["held_out"] != half["held_out"] == pytest.approx(whole["held_out"], rel=0.05)


def _in_process(rank: int, processes: int, folder: Path, module: StageModule, samples: HeldOutSamples) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=processes)
    batches = 0

    def losses(batch: Any) -> dict[str, Tensor]:
        nonlocal batches
        batches += 1
        return module.held_out(batch)

    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    found = HeldOut(samples, losses, module.network, every=0, size=2, show=lambda *_: None).measure(trainer)
    (folder / str(rank)).write_text(json.dumps([found, batches]))
    dist.destroy_process_group()


@pytest.mark.parametrize(("count", "batches"), [(5, 2), (1, 1), (8, 2)])
def test_two_processes_measure_what_one_does_in_equally_many_batches(
    make_model: MakeModel, tmp_path: Path, count: int, batches: int
) -> None:
    module, samples = TransformerModule(make_model(Naive()), CONFIG, BEGIN), sequences(count, 3)
    alone = measured(module, samples)
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=_in_process, args=(rank, 2, tmp_path, module, samples)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    for rank in range(2):
        found, own = json.loads((tmp_path / str(rank)).read_text())
        assert found == pytest.approx(alone, rel=1e-6)
        assert own == batches


class _Training:
    """Trains a small model, with a held-out loss or without."""

    def __init__(self, make_model: MakeModel, samples: HeldOutSamples) -> None:
        self.make_model, self.samples = make_model, samples

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        return tuple(tensor[number % 3] for tensor in self.samples.batch)

    def run(self, folder: Path, held_out: bool, every: int, log_every: int) -> tuple[CogVideoTransformer, list[Any]]:
        model = self.make_model(Naive(), dtype=torch.float32).train()
        config = InterpolationStageConfig(steps=7, batch_size=2, adam_lr=0.01, token_noise=0.3, validate_every=every)
        fit(
            TransformerModule(model, config, BEGIN),
            self,  # type: ignore[arg-type]
            folder,
            TrainerConfig(accelerator="cpu", log_every=log_every),
            title="tiny",
            seed=1,
            names=lambda numbers: [str(number) for number in numbers],
            held_out=self.samples if held_out else None,
        )
        return model, [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_training_is_the_same_to_the_bit_with_and_without_it(make_model: MakeModel, tmp_path: Path) -> None:
    training = _Training(make_model, sequences(5, 3))
    plain, history = training.run(tmp_path / "plain", False, 1, 1)
    assert not any("held_out" in line for line in history)
    for every in (1, 0):
        model, found = training.run(tmp_path / str(every), True, every, 1)
        for (name, one), other in zip(plain.state_dict().items(), model.state_dict().values(), strict=True):
            assert torch.equal(one, other), name
        assert [{name: line[name] for name in ("step", "loss")} for line in found] == history
        assert [line["step"] for line in found if "held_out" in line] == (list(range(1, 8)) if every else [7])
    assert found[-1].keys() == {"step", "loss", "held_out", "held_out_frame_1", "held_out_frame_2"}


def test_a_step_with_a_held_out_loss_has_a_line_of_its_own(make_model: MakeModel, tmp_path: Path) -> None:
    _, history = _Training(make_model, sequences(5, 3)).run(tmp_path, True, 3, 2)
    assert [(line["step"], "held_out" in line) for line in history] == [
        (2, False),
        (3, True),
        (4, False),
        (6, True),
        (7, True),
    ]


def test_a_stage_ends_with_what_its_last_step_measured_and_on_what(make_model: MakeModel, tmp_path: Path) -> None:
    samples = sequences(5, 3)
    _, history = _Training(make_model, samples).run(tmp_path, True, 3, 2)
    info, last = held_out_info(tmp_path / "history.jsonl", samples), history[-1]
    assert info["held_out"] == last["held_out"]
    assert info["held_out_frames"] == {"1": last["held_out_frame_1"], "2": last["held_out_frame_2"]}
    assert info["held_out_on"] == {"samples": 5, "digest": samples.digest, "frames": [1, 2]}
    assert held_out_info(tmp_path / "history.jsonl", None) == {}


@pytest.fixture
def held_out(make_token_clips: Callable[..., TokenClips], tmp_path: Path) -> Callable[..., dict[str, HeldOutSamples]]:
    """The held-out samples of the stages of the quickstart, with changes; six clips of four seconds."""
    tokenizer = BytePairs()
    tokenizer.train([("a red circle", 2.0)])
    tokenizer.save(tmp_path)
    frames = torch.arange(65).repeat(6)
    codes = (torch.arange(6).repeat_interleave(65) * 65 + frames)[:, None, None]
    times = [ClipTimes.of(range(65), Fraction(1, 16))] * 6
    clips = make_token_clips(codes, frames, torch.arange(7) * 65, [(f"clip {n}",) for n in range(6)], times)

    def samples(*changes: str) -> dict[str, HeldOutSamples]:
        lab = Lab(load_experiment("quickstart", None, list(changes)).config)
        done = StageResult(tmp_path, "", {})
        tests = StageResult(clips.folder, "", {})
        stages = TransformerStages(lab, StageStore(tmp_path), done, done, clips, None, tests)
        found = {
            "image_base": stages.held_out_samples("image_base", [lab.key_frame_times]),
            "sequential": stages.held_out_samples("sequential", [lab.key_frame_times]),
            "interpolation": stages.held_out_samples("interpolation", lab.window_times),
        }
        return {name: samples for name, samples in found.items() if samples is not None}

    return samples


def test_seeds_and_variants_are_measured_on_the_same_samples_each_clip_once(
    held_out: Callable[..., dict[str, HeldOutSamples]],
) -> None:
    def digests(*changes: str) -> dict[str, str]:
        return {name: samples.digest for name, samples in held_out(*changes).items()}

    found = held_out()
    assert list(found) == ["image_base", "sequential", "interpolation"]
    for samples in found.values():
        assert sorted((samples.batch[0] // 65)[:, 0, 0].tolist()) == list(range(6))
    same = digests()
    assert digests("seed=5", "attention=naive", "model.layers=2", "stages.sequential.caption_dropout=0.9") == same
    for change in ("data_seed=1", "frame_rate={name: fixed, options: {rate: 8}}", "video.frames=9"):
        other = digests(change)
        assert not set(other.values()) & set(same.values()), change
    longer = digests("generation.frames=9")
    assert {name for name in same if same[name] == longer[name]} == {"sequential"}
