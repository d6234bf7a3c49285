"""The frame tokenizer `released_vqvae`: the codes and pictures of the 2022 release, and weights that are none."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvid import UserError, create_component
from cogvid.config.compose import load_experiment
from cogvid.pipeline.check import check_lab
from cogvid.pipeline.lab import Lab
from cogvid_plugins.frame_tokenizer.released_vqvae import ReleasedVQVAE

TINY: dict[str, Any] = {"channels": 32, "features": 24, "codes": 40, "code_size": 16}
# Tensors of a released file that are of no use here.
LEFT_ASIDE = (
    "decs.0.conv_in.bias",
    "decs.2.up.0.block.0.norm1.weight",
    "down_samplers.1.conv_down_sampler.conv.bias",
    "quantize.cluster_size",
    "quantize.embed_avg",
)


def tiny(**options: Any) -> ReleasedVQVAE:
    torch.manual_seed(0)
    return ReleasedVQVAE(ReleasedVQVAE.Config(**{**TINY, **options})).eval()


def released(tokenizer: ReleasedVQVAE) -> dict[str, Tensor]:
    """Its weights as a released file has them: in half precision, among those of other levels."""
    weights = {name: tensor.half() for name, tensor in tokenizer.state_dict().items()}
    return weights | {name: torch.ones(3) for name in LEFT_ASIDE}


@pytest.fixture(scope="module")
def known(reference: Path) -> dict[str, Tensor]:
    """Weights of the release's tokenizer, reduced, and what it makes of frames and codes."""
    return load_file(reference / "frame_tokenizer.safetensors")


@pytest.fixture(scope="module")
def reduced(known: dict[str, Tensor]) -> ReleasedVQVAE:
    """That tokenizer."""
    prefix = "weights."
    return ReleasedVQVAE.from_released(
        {name.removeprefix(prefix): tensor for name, tensor in known.items() if name.startswith(prefix)}
    )


def test_frames_have_the_codes_of_the_release(known: dict[str, Tensor], reduced: ReleasedVQVAE) -> None:
    with torch.inference_mode():
        codes = reduced.encode(known["frames"].float() / 255)
    assert torch.equal(codes, known["codes"])
    assert codes.unique().numel() > 10


@pytest.mark.parametrize(("codes", "frames"), [("codes", "decoded"), ("random_codes", "random_decoded")])
def test_codes_have_the_pictures_of_the_release(
    known: dict[str, Tensor], reduced: ReleasedVQVAE, codes: str, frames: str
) -> None:
    with torch.inference_mode():
        unclipped, clipped = reduced.unclipped(known[codes]), reduced.decode(known[codes])
    assert known[frames].max() > 1 > 0 > known[frames].min()
    torch.testing.assert_close(unclipped, known[frames], atol=1e-5, rtol=0)
    torch.testing.assert_close(clipped, known[frames].clamp(0, 1), atol=1e-5, rtol=0)


def test_the_defaults_are_the_sizes_of_the_release() -> None:
    with torch.device("meta"):
        tokenizer = ReleasedVQVAE()
    shapes = {name: tuple(tensor.shape) for name, tensor in tokenizer.state_dict().items()}
    assert (tokenizer.codebook_size, tokenizer.downsampling) == (20000, 8)
    assert shapes["quantize.embed.weight"] == (20000, 256)
    assert shapes["enc.conv_in.weight"] == (128, 3, 3, 3)
    assert shapes["enc.conv_out.weight"] == (256, 512, 3, 3)
    assert shapes["decs.1.conv_in.weight"] == (512, 256, 3, 3)
    assert shapes["decs.1.up.1.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert len(shapes) == 167


@pytest.mark.parametrize(
    "options",
    [{}, {"channels": 64, "blocks": 1, "codes": 7}, {"encoder": [1, 3], "decoder": [2, 1, 3], "features": 32}],
    ids=str,
)
def test_sizes_are_read_from_the_weights(options: dict[str, Any]) -> None:
    tokenizer = tiny(**options)
    sizes = ReleasedVQVAE.sizes_of(released(tokenizer))
    assert sizes == asdict(tokenizer.config)
    assert create_component("frame_tokenizer", "released_vqvae", sizes).downsampling == tokenizer.downsampling


def test_weights_of_a_released_file_are_widened_and_the_others_left_aside() -> None:
    weights = released(tiny())
    tokenizer = ReleasedVQVAE.from_released(weights)
    assert not tokenizer.training
    assert tokenizer.state_dict().keys() == weights.keys() - set(LEFT_ASIDE)
    for name, tensor in tokenizer.state_dict().items():
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, weights[name].float())


@pytest.mark.parametrize("name", ["enc.conv_in.weight", "decs.1.up.0.block.0.conv1.weight", "quantize.proj.bias"])
def test_weights_that_lack_a_tensor_are_refused_by_its_name(name: str) -> None:
    weights = released(tiny())
    del weights[name]
    with pytest.raises(UserError, match=f"have no {name}: this is not the image tokenizer of the 2022 release"):
        ReleasedVQVAE.from_released(weights)


def test_weights_of_another_shape_are_refused_by_their_name() -> None:
    weights = released(tiny()) | {"decs.1.conv_in.weight": torch.zeros(128, 9, 3, 3)}
    with pytest.raises(UserError, match=r"decs\.1\.conv_in\.weight is \(128, 9, 3, 3\) in the weights"):
        ReleasedVQVAE.from_released(weights)


@pytest.mark.parametrize(("encoder", "pixels"), [([1], 2), ([1, 2], 4), ([1, 1, 2], 8)])
def test_a_code_stands_for_a_square_of_pixels(encoder: list[int], pixels: int) -> None:
    model = tiny(encoder=encoder, decoder=[1, *encoder])
    with torch.inference_mode():
        codes = model.encode(torch.rand(2, 3, 16, 24))
        frames = model.decode(codes)
    assert (codes.shape, codes.dtype) == ((2, 16 // pixels, 24 // pixels), torch.long)
    assert (model.downsampling, model.codebook_size) == (pixels, 40)
    assert frames.shape == (2, 3, 16, 24)
    assert 0 <= frames.min() < frames.max() <= 1


def test_a_frame_has_the_codes_that_are_nearest_to_what_the_encoder_makes_of_it() -> None:
    model, frames = tiny(), torch.rand(3, 3, 16, 24)
    with torch.inference_mode():
        features = model.down_samplers[0](model.enc((frames - model.mean) / model.deviation))
        vectors = model.quantize.proj(features).movedim(1, -1)
        distances = (vectors[..., None, :] - model.codebook()).square().sum(-1)
        codes = model.encode(frames)
    assert torch.equal(codes, distances.argmin(-1))
    assert model.codebook().shape == (40, 16)
    assert not model.codebook().requires_grad


def test_frames_are_worked_on_some_at_a_time_to_the_same_codes_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    model, frames = tiny(), torch.rand(5, 3, 16, 24)
    with torch.inference_mode():
        codes, pictures = model.encode(frames), model.decode(torch.arange(30).view(5, 2, 3))
        for most in (1, 2 * 16 * 24):
            monkeypatch.setattr("cogvid_plugins.frame_tokenizer.released_vqvae._AT_ONCE", most)
            assert torch.equal(model.encode(frames), codes)
            torch.testing.assert_close(model.decode(torch.arange(30).view(5, 2, 3)), pictures, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 48}, "channels 48 is not a multiple of 32"),
        ({"decoder": [1, 2, 4]}, "decoder has 3 levels and must have one more than encoder, which has 3"),
        ({"encoder": []}, r"options\.encoder: .* must be a list of 1 or more values"),
        ({"codes": 0}, "codes"),
    ],
    ids=str,
)
def test_options_that_make_no_tokenizer_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        create_component("frame_tokenizer", "released_vqvae", {**TINY, **options})


EXPERIMENT = """
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, data/shapes, trainer/cpu]
frame_tokenizer: {name: released_vqvae, options: {channels: 32, features: 24, codes: 40, code_size: 16}}
stages:
  tokenizer: &stage {steps: 1, batch_size: 1}
  image_base: *stage
  sequential: *stage
  interpolation: *stage
"""


def checked(folder: Path, *changes: str) -> None:
    path = folder / "lab.yaml"
    path.write_text(EXPERIMENT)
    resolved = load_experiment(path, None, list(changes))
    check_lab(Lab(resolved.config, resolved.provenance))


def test_an_experiment_without_its_weights_is_refused_before_anything_runs(tmp_path: Path) -> None:
    words = r"^.*lab\.yaml:3: stages\.tokenizer\.weights: frame_tokenizer released_vqvae cannot be trained here"
    with pytest.raises(UserError, match=words):
        checked(tmp_path)
    with pytest.raises(UserError, match=r"released_vqvae cannot be trained: .*stages\.tokenizer\.weights"):
        tiny().training_loss(torch.rand(1, 3, 16, 16))


def test_an_experiment_with_its_weights_passes_and_with_others_does_not(tmp_path: Path) -> None:
    for name, tokenizer in (("right", tiny()), ("wrong", tiny(codes=41))):
        save_file(tokenizer.state_dict(), tmp_path / f"{name}.safetensors")
    checked(tmp_path, f"stages.tokenizer.weights={tmp_path}/right.safetensors")
    with pytest.raises(
        UserError, match=r"stages\.tokenizer\.weights: .*quantize\.embed\.weight is \(41, 16\)"
    ) as wrong:
        checked(tmp_path, f"stages.tokenizer.weights={tmp_path}/wrong.safetensors")
    assert str(wrong.value).endswith("with the same frame_tokenizer.options.")
