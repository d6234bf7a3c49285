"""The metrics conform, and their suite catches those that do not, by the name of the check."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from cogvid import UserError, VideoMetric
from cogvid.interfaces.metric import Meaning, check_videos
from cogvid.plugins.manager import create_plugin_manager
from cogvid.testing import ConformanceError, metric_conformance

SHAPES3D = ("fvd", "frechet_joint_distance", "inception_score", "precision_recall")
DESCRIBED = ("frechet_frame_distance", "text_fidelity")
PIXELS = ("reconstruction", "shapes_oracle")
WORDS = ("red", "green", "blue", "yellow")


@pytest.mark.parametrize("name", [*SHAPES3D, pytest.param("reconstruction", marks=pytest.mark.slow), "shapes_oracle"])
def test_a_built_in_metric_conforms(name: str) -> None:
    metric_conformance(name)


class Eyes(nn.Module):
    """Reads single frames and captions of colour words into four values each."""

    def forward(self, x: Tensor) -> Tensor:
        red, green, blue = x.mean(dim=[2, 3]).unbind(1)
        return torch.stack([red, green, blue, red + green - blue], dim=1)

    @torch.jit.export
    def encode_text(self, ids: Tensor) -> Tensor:
        return torch.stack([(ids == word).sum(1).float() for word in (1, 2, 3, 4)], dim=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", DESCRIBED)
def test_a_built_in_metric_of_a_described_extractor_conforms(tmp_path: Path, name: str) -> None:
    torch.jit.script(Eyes().eval()).save(tmp_path / "eyes.pt")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, **{word: n + 1 for n, word in enumerate(WORDS)}}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    digest = sha256((tmp_path / "eyes.pt").read_bytes()).hexdigest()
    described = {"name": "eyes", "file": "eyes.pt", "sha256": digest, "layout": "BCHW", "features": "all"}
    (tmp_path / "eyes.yaml").write_text(yaml.safe_dump({**described, "text": {"length": 6}}))
    metric_conformance(name, {"extractor": str(tmp_path / "eyes.yaml")})


def test_every_built_in_metric_is_held_to_the_suite() -> None:
    infos = create_plugin_manager().components()
    built_in = {info.name for info in infos if info.kind == "metric" and "cogvid" in info.origin}
    assert built_in == {*SHAPES3D, *DESCRIBED, *PIXELS}


class Brightness(VideoMetric):
    """How far the mean brightness of the scored videos is from that of the real ones."""

    totals: Tensor
    counts: Tensor

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        for name in ("totals", "counts"):
            self.add_state(name, torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        check_videos(videos)
        self.totals[int(real)] += videos.double().mean((1, 2, 3, 4)).sum()
        self.counts[int(real)] += len(videos)

    def compute(self) -> dict[str, Tensor]:
        scored, real = self.totals / self.counts
        return {"brightness": (scored - real).abs()}

    @property
    def meanings(self) -> dict[str, Meaning]:
        return {"brightness": Meaning("brightness", "How far the mean brightness is off.", "lower")}

    @property
    def protocol(self) -> dict[str, str | int | float]:
        return {"range": 255}


def test_one_that_keeps_all_promises_passes() -> None:
    metric_conformance(Brightness())


def test_one_that_refuses_such_clips_says_so() -> None:
    class Long(Brightness):
        def check(self, frames: int, height: int, width: int) -> None:
            if frames < 16:
                raise UserError("16 frames are needed")

    with pytest.raises(UserError, match="16 frames are needed"):
        metric_conformance(Long())
    metric_conformance(Long(), frames=16)


def computing(change: Callable[[Any, dict[str, Tensor]], Any]) -> type[Brightness]:
    """Its values changed."""

    class Computing(Brightness):
        def compute(self) -> Any:
            return change(self, super().compute())

    return Computing


def saying(**said: Any) -> type[Brightness]:
    """Another meaning, protocol or caution."""
    return type(
        "Saying", (Brightness,), {name: property(lambda self, value=value: value) for name, value in said.items()}
    )


class NoState(Brightness):
    """Keeps what it has seen where torchmetrics does not look."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.seen: list[tuple[float, bool]] = []

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        super().update(videos, captions, real)
        self.seen += [(float(video.double().mean()), real) for video in videos]

    def compute(self) -> dict[str, Tensor]:
        means = [
            torch.tensor([x for x, own in self.seen if own == real], dtype=torch.float64).mean() for real in (0, 1)
        ]
        return {"brightness": (means[0] - means[1]).abs()}


class Forgetting(NoState):
    """The same, but for the reset; processes are not its concern."""

    def reset(self) -> None:
        super().reset()
        self.seen = []


class BatchMeans(Brightness):
    """The mean of the means of batches."""

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        check_videos(videos)
        self.totals[int(real)] += videos.double().mean()
        self.counts[int(real)] += 1


class Last(Brightness):
    """Counts later videos more."""

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        check_videos(videos)
        for video in videos:
            self.counts[int(real)] += 1
            self.totals[int(real)] += self.counts[int(real)] * video.double().mean()


class RealFirst(Brightness):
    """Holds the scored videos to the real ones seen so far."""

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        super().update(videos, captions, real)
        if not real:
            self.totals[0] -= len(videos) * torch.nan_to_num(self.totals[1] / self.counts[1])

    def compute(self) -> dict[str, Tensor]:
        return {"brightness": self.totals[0] / self.counts[0] * (self.counts[1] / self.counts[1])}


class Averaged(Brightness):
    """Joins the counts of processes as if they were means."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.add_state("totals", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="mean")


class EmptyRank(Brightness):
    """Sends rows of two kinds, according to whether it has seen a video."""

    rows: list[Tensor]

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        super().update(videos, captions, real)
        self.rows.append(videos.double().mean((2, 3, 4)))


class Drawn(Brightness):
    """Looks at one pixel in ten."""

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        check_videos(videos)
        chosen = torch.rand(videos.shape[1:]) < 0.1
        self.totals[int(real)] += videos[:, chosen].double().mean(1).sum()
        self.counts[int(real)] += len(videos)


class Overwriting(Brightness):
    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        super().update(videos, captions, real)
        videos.zero_()


class AnyForm(Brightness):
    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        self.totals[int(real)] += videos.double().flatten(1).mean(1).sum()
        self.counts[int(real)] += len(videos)


class Counting(Brightness):
    """Its protocol says how many batches there were."""

    batches = 0

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        super().update(videos, captions, real)
        self.batches += 1

    @property
    def protocol(self) -> dict[str, str | int | float]:
        return {"batches": self.batches}


class Cautious(Brightness):
    def cautions(self) -> dict[str, str]:
        return {"fvd": "few videos"}


class Consuming(Brightness):
    """Takes the sum away that it computes from."""

    def compute(self) -> dict[str, Tensor]:
        values = super().compute()
        self.totals, self.counts = torch.zeros_like(self.totals), torch.zeros_like(self.counts)
        return values


def meaning(title: str = "brightness", text: str = "How bright.", better: Any = "lower", **more: Any) -> Meaning:
    return Meaning(title, text, better, **more)


def filled(values: dict[str, Tensor], value: float) -> dict[str, Tensor]:
    return {name: torch.nan_to_num(old, nan=value) for name, old in values.items()}


@pytest.mark.parametrize(
    ("metric", "caught"),
    [
        (computing(lambda self, values: {"brightness": float(values["brightness"])}), "values"),
        (computing(lambda self, values: {"brightness": values["brightness"].float()}), "values"),
        (computing(lambda self, values: {"brightness": values["brightness"].repeat(2)}), "values"),
        (computing(lambda self, values: {"brightness": values["brightness"] / 0}), "values"),
        (computing(lambda self, values: values["brightness"]), "values"),
        (computing(lambda self, values: 1 // 0), "values"),
        (Overwriting, "values"),
        (saying(meanings={}), "meanings"),
        (saying(meanings={"brightness": meaning(), "other": meaning()}), "meanings"),
        (saying(meanings={"brightness": meaning(error="brightness_se")}), "meanings"),
        (saying(meanings={"brightness": meaning(title=" ")}), "meanings"),
        (saying(meanings={"brightness": meaning(better="down")}), "meanings"),
        (computing(lambda self, values: {**values, "other": values["brightness"]}), "meanings"),
        (saying(protocol={"frames": None}), "protocol"),
        (saying(protocol={"scale": math.nan}), "protocol"),
        (Counting, "protocol"),
        (Cautious, "cautions"),
        (saying(cautions=lambda: {"brightness": ""}), "cautions"),
        (Drawn, "same"),
        (Last, "order"),
        (RealFirst, "order"),
        (BatchMeans, "batches"),
        (Consuming, "batches"),
        (Forgetting, "ranks"),
        (Averaged, "ranks"),
        (EmptyRank, "ranks"),
        (NoState, "reset"),
        (computing(lambda self, values: filled(values, 0.0)), "few"),
        (computing(lambda self, values: filled(values, math.inf)), "few"),
        (computing(lambda self, values: values if self.counts.min() > 2 else {}), "few"),
        (computing(lambda self, values: values if int(self.counts.min()) // int(self.counts.min()) else {}), "few"),
        (AnyForm, "forms"),
        (saying(meanings={"brightness": meaning(better="higher")}), "direction"),
        (computing(lambda self, values: {"brightness": -values["brightness"]}), "direction"),
    ],
)
def test_a_broken_promise_is_named(metric: type[VideoMetric], caught: str) -> None:
    with pytest.raises(ConformanceError, match="does not conform") as error:
        metric_conformance(metric())
    assert caught in error.value.failures
