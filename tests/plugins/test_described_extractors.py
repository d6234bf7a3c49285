"""Any TorchScript file as an extractor, described by a small YAML file, in every metric that takes one."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from cogvid import UserError, create_component
from cogvid.metrics import DescribedExtractor, TorchScriptExtractor
from cogvid.metrics.torchscript import KNOWN

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
WORDS = ("red", "green", "blue")


class Both(nn.Module):
    """Mean colours of whole clips, and class probabilities of them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=[2, 3, 4]), (10 * x.mean(dim=[2, 3, 4])).softmax(1)


class Named(nn.Module):
    """Says what it was called with."""

    def forward(self, x: Tensor, gain: float = 1.0) -> dict[str, Tensor]:
        flat = x.flatten(1)
        return {"shape": torch.tensor(x.shape[1:]).float()[None].repeat(len(x), 1), "values": gain * flat[:, :3]}


class Clip(nn.Module):
    """Reads single frames and captions of colour words into three values each."""

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_image(x)

    @torch.jit.export
    def encode_image(self, x: Tensor) -> Tensor:
        return x.mean(dim=[2, 3])

    @torch.jit.export
    def encode_text(self, ids: Tensor) -> Tensor:
        return torch.stack([(ids == word).sum(1).float() for word in (1, 2, 3)], dim=1)


Describe = Callable[..., Path]


@pytest.fixture
def describe(tmp_path: Path) -> Describe:
    """Writes a network and the file that describes it."""

    def write(network: nn.Module, **keys: Any) -> Path:
        file = tmp_path / f"{type(network).__name__.lower()}.pt"
        torch.jit.script(network.eval()).save(file)
        digest = sha256(file.read_bytes()).hexdigest()
        tree = {"name": "colours", "file": file.name, "sha256": digest, "features": "0", **keys}
        path = tmp_path / "colours.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}))
        return path

    return write


@pytest.fixture
def clip(describe: Describe, tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **{word: n + 1 for n, word in enumerate(WORDS)}}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "words.json"))
    text = {"method": "encode_text", "tokenizer": "words.json", "length": 5}
    return describe(Clip(), name="eyes", method="encode_image", layout="BCHW", features="all", text=text)


def videos(n: int, seed: int = 0, frames: int = 4, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tint = torch.randint(200, (n, 1, 3, 1, 1), generator=generator)
    return (tint + torch.randint(56, (n, frames, 3, size, size), generator=generator)).to(torch.uint8)


def scored(metric: Any, real: Tensor, generated: Tensor, captions: str = "red") -> dict[str, float]:
    for clips, is_real in ((real, True), (generated, False)):
        for batch in clips.split(16):
            metric.update(batch, [captions] * len(batch), is_real)
    return {name: float(value) for name, value in metric.compute().items()}


def test_pixels_go_in_as_described(describe: Describe) -> None:
    clips = videos(2, frames=6)
    given = {
        "BCTHW": clips.transpose(1, 2),
        "BTCHW": clips,
        "BTHWC": clips.permute(0, 1, 3, 4, 2),
    }
    for layout, expected in given.items():
        keys = {"layout": layout, "range": [-1, 1], "call": {"gain": 2.0}, "frames": 2}
        shape = DescribedExtractor(describe(Named(), features="shape", **keys)).read(clips).features
        assert shape[0].tolist() == list(expected.shape[1:])
        values = DescribedExtractor(describe(Named(), features="values", **keys)).read(clips).features
        assert torch.allclose(values, 2 * (expected.flatten(1)[:, :3] / 127.5 - 1), atol=1e-5)


def test_mean_std_channels_resize_and_first_frames_are_as_described(describe: Describe) -> None:
    clips = videos(3, frames=6)
    keys = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 1.0, 2.0], "channels": "BGR", "frames": 4, "first_frames": True}
    read = DescribedExtractor(describe(Both(), logits="1", scores="probabilities", **keys)).read(clips)
    means = clips[:, :4].double().mean((1, 3, 4)).flip(1) / 255
    expected = (means - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 1.0, 2.0])
    assert torch.allclose(read.features.double(), expected, atol=1e-5)
    assert torch.allclose(read.logits.softmax(1).double(), (10 * expected).softmax(1), atol=1e-5)
    shape = DescribedExtractor(describe(Named(), features="shape", resize=[8, 6])).read(clips).features
    assert shape[0].tolist() == [3, 6, 8, 6]
    with pytest.raises(UserError, match="at least 4 frames, and these have 3"):
        DescribedExtractor(describe(Both(), **keys)).read(clips[:, :3])


def test_logits_taken_for_probabilities_and_the_reverse_are_refused(describe: Describe) -> None:
    said = {"logits": "1", "scores": "logits"}
    with pytest.raises(UserError, match="said to give logits, and gives probabilities"):
        DescribedExtractor(describe(Both(), **said)).read(videos(3))
    with pytest.raises(UserError, match="said to give probabilities, and gives values that are below 0 or do not add"):
        DescribedExtractor(describe(Both(), logits="0", scores="probabilities", range=[-1, 1])).read(videos(3))


def test_a_described_extractor_serves_every_metric_of_videos(describe: Describe) -> None:
    path = describe(Both(), logits="1", scores="probabilities")
    real, generated = videos(40, 0), videos(40, 1)
    for name in ("fvd", "precision_recall", "inception_score"):
        metric = create_component("metric", name, {"extractor": str(path)})
        metric.check(4, 12, 12)
        values = scored(metric, real, generated)
        assert all(value == value for value in values.values())
        assert all("(colours)" in meaning.title for meaning in metric.meanings.values())
        assert metric.meanings.keys() <= values.keys()
        assert {meaning.error for meaning in metric.meanings.values()} <= values.keys() | {""}
        assert metric.protocol["extractor_settings"]
        assert all(isinstance(value, str | int | float) for value in metric.protocol.values())
    assert metric.protocol["scores"] == "probabilities"


def test_what_is_described_is_part_of_the_protocol(describe: Describe) -> None:
    one, same, other = (
        DescribedExtractor(describe(Both(), **keys)).protocol for keys in ({}, {"range": [0, 1]}, {"range": [-1, 1]})
    )
    assert one == same
    assert one["extractor_sha256"] == other["extractor_sha256"]
    assert one["extractor_settings"] != other["extractor_settings"]


def test_frames_are_compared_by_a_network_that_reads_them_singly(clip: Path) -> None:
    metric = create_component("metric", "frechet_frame_distance", {"extractor": str(clip)})
    real = videos(40, 0)
    values = scored(metric, real, videos(40, 1))
    assert abs(values["frame_fd_debiased"]) < 3 * values["frame_fd_se"]
    assert metric.meanings["frame_fd"].title == "Frame FD (eyes)"
    assert metric.protocol["generated_samples"] == 40
    assert metric.cautions() == {}
    metric.reset()
    # Blind to motion: the same frames in another order.
    assert scored(metric, real, real.flip(1))["frame_fd"] == pytest.approx(0, abs=1e-9)
    metric.reset()
    assert scored(metric, real, real // 2)["frame_fd"] > 10 * values["frame_fd_se"]


def test_text_fidelity_is_the_mean_cosine_of_frames_and_caption(clip: Path) -> None:
    metric = create_component("metric", "text_fidelity", {"extractor": str(clip)})
    generated = videos(20)
    expected = {}
    for number, word in enumerate(WORDS):
        metric.reset()
        values = scored(metric, videos(3, frames=9), generated, f"a {word} clip")
        means = generated.double().mean((3, 4))
        cosines = (means[..., number] / means.norm(dim=-1)).mean(1)
        assert values["text_fidelity"] == pytest.approx(float(cosines.mean()), rel=1e-5)
        assert values["text_fidelity_se"] == pytest.approx(float(cosines.std()) / 20**0.5, rel=1e-4)
        expected[word] = values["text_fidelity"]
    assert len(set(expected.values())) == 3
    assert metric.meanings["text_fidelity"].title == "Text fidelity (eyes)"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("fvd", r"eyes reads each frame for itself"),
        ("precision_recall", "reads single frames"),
        ("frechet_joint_distance", "reads single frames"),
        ("inception_score", "gives no class scores"),
    ],
)
def test_a_metric_of_videos_refuses_an_extractor_of_frames(clip: Path, metric: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_component("metric", metric, {"extractor": str(clip)})


@pytest.mark.parametrize("metric", ["frechet_frame_distance", "text_fidelity"])
def test_a_metric_of_frames_refuses_an_extractor_of_videos(describe: Describe, metric: str) -> None:
    with pytest.raises(UserError, match=r"single frames|each frame for itself"):
        create_component("metric", metric, {"extractor": str(describe(Both()))})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layot": "BCTHW"}, r"colours\.yaml: layot: .*no such option. Did you mean 'layout'"),
        ({"layout": "HWC"}, r"layout: .*'BCTHW' or .*got 'HWC'"),
        ({"range": [1]}, r"range: .*2 values"),
        ({"range": [1, 0]}, r"range: what 0 becomes must lie below"),
        ({"mean": [1, 2]}, r"mean: .*3 values"),
        ({"std": [1, 0, 1]}, r"std: .*at least"),
        ({"resize": [1, 2, 3]}, r"resize: it must be \[height, width\]"),
        ({"scores": "percent"}, r"scores: .*'logits' or 'probabilities'"),
        ({"frames": 0}, r"frames: .*at least 1"),
        ({"features": None}, r"features, logits: say which output"),
        ({"name": None}, r"name: .*needs a value"),
        ({"name": "i3d"}, r"name: 'i3d' is the name of a built-in extractor"),
        ({"file": None}, r"file: .*needs a value"),
        ({"file": "gone.pt"}, r"gone\.pt' is none"),
        ({"sha256": "0" * 64}, r"sha256: .*both\.pt is another file than the one described; its SHA-256 is"),
        ({"features": "pooled"}, r"features: the network gives no 'pooled'; it gives 0, 1"),
        ({"call": {"rescale": True}}, r"the network does not run on \(1, 3, 1, 64, 64\) as forward\(rescale\)"),
        ({"method": "encode"}, r"method: the network has no method 'encode'"),
        ({"text": {"tokenizer": "gone.json"}}, r"text\.tokenizer: .*gone\.json is no file of the tokenizers library"),
        ({"text": {"tokeniser": "a"}}, r"text\.tokeniser: .*no such option"),
        ({"layout": "BCHW", "logits": "1"}, r"layout: BCHW reads all frames, each for itself"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_wrong_key_is_named_with_its_file(describe: Describe, keys: dict[str, Any], message: str) -> None:
    path = describe(Both(), **keys)
    with pytest.raises(UserError, match=message) as caught:
        DescribedExtractor(path)
    assert "colours.yaml" in str(caught.value) or "gone.pt" in str(caught.value)


def test_a_missing_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: cannot be read"):
        create_component("metric", "fvd", {"extractor": str(tmp_path / "gone.yaml")})
    with pytest.raises(UserError, match=r"does not read 'file\.pt'"):
        create_component("metric", "fvd", {"extractor": "net.yaml", "path": "file.pt"})


class TinyI3d(nn.Module):
    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        return x.mean(dim=[1, 2, 3, 4])[:, None] * torch.ones(400)


def test_only_the_published_file_is_called_by_the_bare_name(
    describe: Describe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(TinyI3d())
    file = tmp_path / "tinyi3d.pt"
    digest = sha256(file.read_bytes()).hexdigest()
    assert TorchScriptExtractor(file, "i3d").of(usual="i3d") == f" (i3d {digest[:8]})"
    monkeypatch.setitem(KNOWN, digest, "i3d")
    assert TorchScriptExtractor(file, "i3d").of(usual="i3d") == ""
    with pytest.raises(UserError, match="known as the file of i3d"):
        TorchScriptExtractor(file, "c3d")
