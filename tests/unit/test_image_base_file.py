"""Image bases from files, of a run here and of the releases, in place of trained ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvid import UserError
from cogvid.config.compose import load_experiment
from cogvid.model.released import names_in_release
from cogvid.pipeline.check import check_lab
from cogvid.pipeline.image_base_file import image_base_from_file
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageResult, StageStore

LAYERS, WORDS = 2, 40
SIZES = [
    f"model.layers={LAYERS}",
    "model.width=16",
    "model.heads=2",
    "text.positions=512",
    "video.size=32",
    "frame_tokenizer.options.downsampling=8",
]
Save = Callable[[Path], Path]


def lab(*changes: str) -> Lab:
    resolved = load_experiment("quickstart", None, [*SIZES, *changes])
    return Lab(resolved.config, resolved.provenance)


@pytest.fixture(scope="module")
def video() -> dict[str, Tensor]:
    """A video model of half precision, its parts of the names here."""
    torch.manual_seed(0)
    model = lab("attention=naive", "model.positions=learned").video_model("sequential", WORDS)
    return {name: tensor.half() for name, tensor in model.state_dict().items()}


def released(video: dict[str, Tensor], more: int = 7) -> dict[str, Tensor]:
    """Under the names of a release, with more rows in its tables."""
    state = {name: video[ours] for name, ours in names_in_release(LAYERS).items()}
    return {n: torch.cat([t, t[:more]]) if "embeddings" in n else t for n, t in state.items()}


def ours(video: dict[str, Tensor]) -> dict[str, Tensor]:
    base = lab().image_model(WORDS).state_dict()
    return {name: tensor for name, tensor in video.items() if name in base}


def saved(video: dict[str, Tensor], kind: str, path: Path) -> Path:
    if kind == "cogvideo":
        torch.save({"module": released(video), "iteration": 3}, path := path / "mp_rank_00_model_states.pt")
    elif kind == "cogview2":
        image = {name: tensor for name, tensor in released(video).items() if name.startswith("transformer.")}
        torch.save({"module": image | {"mixins.lora.matrix": torch.zeros(3)}}, path := path / "image.pt")
    elif kind == "released tensors":
        save_file(released(video), path := path / "released.safetensors")
    else:
        save_file(ours(video) if kind == "image base" else video, path := path / "model.safetensors")
    return path


def take(path: Path, runs: Path, *changes: str) -> StageResult:
    return image_base_from_file(lab(*changes), StageStore(runs), WORDS, path)


@pytest.mark.parametrize("kind", ["cogvideo", "cogview2", "released tensors", "image base", "video model"])
def test_every_kind_of_file_gives_the_image_model_in_it(video: dict[str, Tensor], tmp_path: Path, kind: str) -> None:
    stage = take(saved(video, kind, tmp_path), tmp_path / "stages")
    taken, wanted = load_file(stage.folder / "model.safetensors"), ours(video)
    assert taken.keys() == wanted.keys()
    for name, tensor in taken.items():
        assert tensor.dtype is torch.float32
        assert tensor.equal(wanted[name].float())
    assert stage.info["steps"] == 0


def test_the_key_depends_on_the_content_and_on_no_data(video: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(video, "image base", tmp_path)
    key = take(path, tmp_path / "stages").key
    (tmp_path / "other").mkdir()
    moved = path.rename(tmp_path / "other" / path.name)
    assert take(moved, tmp_path / "stages", "data_seed=3", "seed=4", "stages.image_base.steps=9").key == key
    save_file({name: tensor + 1 for name, tensor in ours(video).items()}, moved)
    assert take(moved, tmp_path / "stages").key != key


@pytest.mark.parametrize("kind", ["cogvideo", "image base"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("model.width=32", "(40, 16)"),
        ("model.layers=3", "it has 2 layers, the experiment's has 3 (model.layers)"),
        ("model.layers=1", "it has 2 layers, the experiment's has 1 (model.layers)"),
        ("video.size=48", "(528, 16)"),
    ],
)
def test_another_model_is_refused_by_the_tensor_that_differs(
    video: dict[str, Tensor], tmp_path: Path, kind: str, change: str, named: str
) -> None:
    path = saved(video, kind, tmp_path)
    with pytest.raises(UserError) as caught:
        take(path, tmp_path / "stages", change)
    assert "stages.image_base.weights: " in str(caught.value)
    assert str(path) in str(caught.value)
    released_rows = {"(40, 16)": "(47, 16)", "(528, 16)": "(535, 16)"}
    assert (released_rows.get(named, named) if kind == "cogvideo" else named) in str(caught.value)


def test_a_missing_tensor_and_a_table_that_is_too_short_are_named(video: dict[str, Tensor], tmp_path: Path) -> None:
    state = released(video)
    path = tmp_path / "image.pt"
    for changed, named in (
        (
            {n: t for n, t in state.items() if n != "transformer.final_layernorm.bias"},
            "final_layernorm.bias is missing",
        ),
        (released(video, 0) | {"transformer.word_embeddings.weight": torch.zeros(39, 16)}, "(40, 16) or more rows"),
    ):
        torch.save(changed, path)
        with pytest.raises(UserError) as caught:
            take(path, tmp_path / "stages")
        assert named in str(caught.value)


@pytest.mark.parametrize("name", ["none.safetensors", "none.pt", "text.safetensors", "text.pt"])
def test_what_is_no_such_file_is_said_before_anything_is_trained(tmp_path: Path, name: str) -> None:
    if name.startswith("text"):
        (tmp_path / name).write_text("no weights")
    key = f"stages.image_base.weights={tmp_path / name}"
    with pytest.raises(UserError) as caught:
        check_lab(lab(key))
    assert f"stages.image_base.weights: {tmp_path / name} " in str(caught.value)
    assert "null trains one" in str(caught.value)


def test_a_model_of_other_sizes_is_refused_before_there_is_a_text_tokenizer(
    video: dict[str, Tensor], tmp_path: Path
) -> None:
    path = saved(video, "image base", tmp_path)
    check_lab(lab(f"stages.image_base.weights={path}"))
    with pytest.raises(UserError, match="it has 2 layers"):
        check_lab(lab(f"stages.image_base.weights={path}", "model.layers=4"))
