"""A release of 2022 made up at small sizes becomes a run, which is the same model, and that becomes a release again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import Result

from cogvid.data.reading import probe
from cogvid.model.released import names_in_release
from cogvid.pipeline import convert_released
from cogvid.pipeline.convert_released import MODEL
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import saved_run
from cogvid.pipeline.stage import StageResult
from cogvid.pipeline.text_stage import load_text
from cogvid.pipeline.tokenizer_stage import decode, encode, load_clusters, load_tokenizer
from cogvid.pipeline.train import load_model
from cogvid.pipeline.weights import without_weights
from helpers import cogvid, refused

pytest.importorskip("sentencepiece")

MakeRelease = Callable[..., Path]
CODES, PIECES, APPENDED = 60, 420, 3
HEADS = 4
STAGES = {1: ("stage1_full", 27500), 2: ("stage2_window10", 38500)}
LATER = "mixins.extra_position_embedding.position_embeddings.weight"
STAGE_FILE = "mp_rank_00_model_states.pt"


@pytest.fixture(scope="module")
def release(make_release: MakeRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many codes as make the vocabulary that of the reference, 512."""
    folder = tmp_path_factory.mktemp("release")
    return make_release(folder, codes=512 - PIECES - APPENDED)


@pytest.fixture(scope="module")
def run(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "cogvideo"
    result = convert(release, out)
    assert result.exit_code == 0, result.output
    assert "different image models" in result.output
    return out


@pytest.fixture(scope="module")
def parts(run: Path) -> tuple[Lab, dict[str, StageResult]]:
    config, stages = saved_run(run)
    return Lab(config), stages


@pytest.fixture
def other(make_release: MakeRelease, tmp_path: Path) -> Path:
    """A release to change."""
    return make_release(tmp_path / "release", codes=CODES)


def convert(folder: Path, out: Path, *words: object) -> Result:
    return cogvid("convert", "released", folder, out, "--heads", HEADS, *words)


@pytest.mark.parametrize(("stage", "name"), [("sequential", "stage1_full"), ("interpolation", "stage2_window10")])
def test_the_converted_stages_give_the_released_logits(
    parts: tuple[Lab, dict[str, StageResult]], reference: Path, stage: Any, name: str
) -> None:
    lab, stages = parts
    stored = load_file(reference / f"{name}.safetensors")
    model = load_model(without_weights(lambda: lab.video_model(stage, 512)), stages[stage])
    with torch.no_grad():
        logits = model(stored["tokens"], text_mask=stored["text_mask"])[:, stored["logit_positions"]]
    assert (logits - stored["logits"]).abs().max() <= 1e-4 * stored["logits"].std()


def test_the_converted_image_tokenizer_gives_the_released_codes_and_pictures(
    parts: tuple[Lab, dict[str, StageResult]], reference: Path
) -> None:
    stored, (lab, stages) = load_file(reference / "frame_tokenizer.safetensors"), parts
    tokenizer = load_tokenizer(lab, stages["tokenizer"])
    assert encode(tokenizer, stored["frames"]).equal(stored["codes"])
    for codes, pictures in (("codes", "decoded"), ("random_codes", "random_decoded")):
        wanted = stored[pictures].clamp(0, 1) * 255
        assert (decode(tokenizer, stored[codes]) - wanted).abs().max() <= 0.51
    clusters = load_clusters(stages["tokenizer"])
    assert clusters is not None
    assert clusters.tolist() == [code % 7 for code in range(lab.codes)]


def test_the_converted_text_tokenizer_gives_the_released_ids(
    parts: tuple[Lab, dict[str, StageResult]], reference: Path
) -> None:
    expected, (lab, stages) = json.loads((reference / "text_tokenizer.json").read_text()), parts
    text, less = load_text(lab, stages["text_tokenizer"]), expected["image_tokens"] - lab.codes
    assert (text.begin_of_image, text.vocabulary) == (expected["start_of_image"] - less, 512)
    rows = [row for row in expected["rows"] if len(row["first_frame"]) <= 64 and len(row["video"]) <= 64]
    assert len(rows) > 3
    for row in rows:
        asked = {"first_frame": (row["text"], 0.0), "video": (row["text"], row["seconds"])}
        for form, (caption, seconds) in (*asked.items(), ("guidance", (None, row["seconds"]))):
            tokens, mask = text.encode([caption], [seconds])
            assert [token + less for token in tokens[mask].tolist()] == row[form]


def test_the_run_generates_as_the_release_does(parts: tuple[Lab, dict[str, StageResult]]) -> None:
    lab, _ = parts
    generation = lab.config.generation
    assert generation.frames == 33
    assert [4 / rate for rate in lab.clip_rates(1e6)] == [4.0, 2.0, 1.0, 0.5]
    sampled = [
        (s.temperature, s.top_k, s.guidance, s.text_bias, s.clusters, s.code_temperature)
        for s in (generation.first_frame, generation.sequential, generation.interpolation)
    ]
    assert sampled == [
        (1.0, 16, 1.0, 1.4, True, 0.89),
        (1.05, 12, 3.0, 0.0, True, 0.89),
        (1.05, 12, 1.0, 1.4, True, 0.89),
    ]


def test_an_exported_run_is_all_of_it_and_makes_a_clip_with_both_stages_anywhere(
    make_release: MakeRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Frames of fewer tokens, so that it does not take minutes.
    release = make_release(tmp_path / "release", codes=CODES, side=5)
    assert convert(release, tmp_path / "run").exit_code == 0
    result = cogvid("convert", "export", tmp_path / "run", tmp_path / "shared")
    assert result.exit_code == 0, result.output
    card = (tmp_path / "shared/README.md").read_text()
    assert 'cogvid sample shared "' in card
    parameters = sum(tensor.numel() for tensor in load_file(tmp_path / "run/stages/sequential" / MODEL).values())
    assert f"| sequential | {parameters:,} |" in card
    for path in (tmp_path / "run" / "stages").rglob("*.*"):
        copy = tmp_path / "shared" / path.relative_to(tmp_path / "run")
        assert copy.read_bytes() == path.read_bytes()
    refused(cogvid("convert", "export", tmp_path / "run", tmp_path / "shared"), "exists already")
    (tmp_path / "run").rename(tmp_path / "away")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = cogvid("sample", "../shared", "a cat", "--no-sheet")
    assert result.exit_code == 0, result.output
    clip = Path("samples/a_cat-0-0.mp4")
    assert len(probe(clip).times) == 33
    codes = load_file(clip.with_suffix(".safetensors"))["codes"]
    assert codes.shape == (33, 25)
    assert len(codes.unique()) > 5


@pytest.mark.parametrize("half", [True, False])
def test_there_and_back_is_the_same_release(make_release: MakeRelease, tmp_path: Path, half: bool) -> None:
    folder = make_release(tmp_path / "release", codes=CODES, half=half)
    assert convert(folder, tmp_path / "run").exit_code == 0
    kept = load_file(tmp_path / "run/stages/sequential/model.safetensors")["word_embeddings.weight"]
    assert kept.dtype == (torch.float16 if half else torch.float32)
    assert len(kept) == CODES + PIECES + APPENDED  # of 512 rows
    result = cogvid("convert", "export", tmp_path / "run", tmp_path / "back", "--released")
    assert result.exit_code == 0, result.output
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("*") if path.is_file()}
    for name in files:
        if name.suffix == ".pt":
            one, two = (
                torch.load(place / name, weights_only=name.name != STAGE_FILE)["module"]
                for place in (folder, tmp_path / "back")
            )
            assert one.keys() == two.keys()
            for key, tensor in one.items():
                assert (two[key].dtype, two[key].shape) == (tensor.dtype, tensor.shape)
                assert two[key].numpy().tobytes() == tensor.numpy().tobytes()
                assert two[key].untyped_storage().nbytes() == tensor.nbytes
        else:
            assert (folder / name).read_bytes() == (tmp_path / "back" / name).read_bytes()


def test_stages_on_one_image_model_are_said_to_be(other: Path, tmp_path: Path) -> None:
    base = stage_tensors(other, 1)
    change(
        other, 2, lambda state: {name: base.get(name, t) if name.startswith("tr") else t for name, t in state.items()}
    )
    result = convert(other, tmp_path / "run")
    assert "Both stages are built on the same image model." in result.output
    image, video = (load_file(tmp_path / f"run/stages/{n}/model.safetensors") for n in ("image_base", "interpolation"))
    assert all(video[name].equal(tensor) for name, tensor in image.items())


def test_equal_weights_are_in_memory_once(run: Path) -> None:
    config, stages = saved_run(run)
    lab, words = Lab(config), 512
    image = load_model(without_weights(lambda: lab.image_model(words)), stages["image_base"])
    one = load_model(without_weights(lambda: lab.video_model("sequential", words)), stages["sequential"], like=image)
    other = without_weights(lambda: lab.video_model("interpolation", words))
    two = load_model(other, stages["interpolation"], like=image)
    assert one.blocks[0].base.qkv.weight.data_ptr() == image.blocks[0].base.qkv.weight.data_ptr()
    assert two.blocks[0].base.qkv.weight.data_ptr() != image.blocks[0].base.qkv.weight.data_ptr()


def test_a_converted_run_trains_further_from_its_folder(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert(other, tmp_path / "run").exit_code == 0
    monkeypatch.chdir(tmp_path / "run")
    refused(
        cogvid("run", "config.yaml", "trainer.accelerator=cpu"),
        "The token file training_tokens.bin cannot be read",
        "option path",
    )
    rows = np.random.default_rng(0).integers(CODES, size=(4, 64 + 5 * 400)).astype("<i4")
    rows[:, :64] = CODES + 3
    rows[:, 60:64] = CODES + 10
    rows.tofile("training_tokens.bin")
    result = cogvid("run", "config.yaml", "trainer.accelerator=cpu", "name=further")
    assert result.exit_code == 0, result.output
    started, trained = (
        load_file(tmp_path / "run" / place / "model.safetensors")
        for place in ("stages/image_base", "runs/further/default/0/stages/sequential")
    )
    assert all(trained[name].equal(tensor.float()) for name, tensor in started.items())


def stage_path(folder: Path, number: int) -> Path:
    return folder / "models" / f"cogvideo-stage{number}" / str(STAGES[number][1]) / STAGE_FILE


def stage_tensors(folder: Path, number: int) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(stage_path(folder, number), weights_only=False)["module"]
    return state


def change(folder: Path, number: int, how: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    torch.save({"module": how(stage_tensors(folder, number))}, stage_path(folder, number))


FILES = {
    "ice_image.pt": "ice_image.pt",
    "ice_text.model": "ice_text.model",
    "cluster_label2.npy": "cluster_label2.npy",
    "models/cogvideo-stage1/latest": "latest of stage 1",
    "models/cogvideo-stage2/latest": "latest of stage 2",
    f"models/cogvideo-stage1/27500/{STAGE_FILE}": f"27500/{STAGE_FILE} of stage 1",
    f"models/cogvideo-stage2/38500/{STAGE_FILE}": f"38500/{STAGE_FILE} of stage 2",
}


@pytest.mark.parametrize("path", FILES)
def test_a_missing_file_is_named(other: Path, tmp_path: Path, path: str) -> None:
    (other / path).unlink()
    refused(convert(other, tmp_path / "run"), FILES[path], "is missing")
    assert not (tmp_path / "run").exists()


def test_all_that_is_missing_is_listed_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(convert(tmp_path / "empty", tmp_path / "run"), "stage 1", "stage 2", "ice_image.pt", "cluster_label2.npy")
    refused(convert(tmp_path / "none", tmp_path / "run"), "is no folder")


def test_a_file_that_is_there_twice_is_named_with_both_places(other: Path, tmp_path: Path) -> None:
    (other / "again").mkdir()
    (other / "again" / "ice_image.pt").write_bytes((other / "ice_image.pt").read_bytes())
    refused(convert(other, tmp_path / "run"), "ice_image.pt is there 2 times", other / "again" / "ice_image.pt")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def test_what_is_no_tensor_is_refused_and_not_run(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"module": stage_tensors(other, 1), "more": Harmful()}, stage_path(other, 1))
    refused(convert(other, tmp_path / "run"), stage_path(other, 1), "holds other things than tensors")
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            lambda state: {n: t for n, t in state.items() if "attn_distribution.1" not in n},
            "attn_distribution.1 is missing",
        ),
        (lambda state: state | {"mixins.lora.weight": torch.zeros(3)}, "mixins.lora.weight is no tensor of CogVideo"),
        (lambda state: {f"module.{n}": t for n, t in state.items()}, "is missing"),
        (lambda state: state | {"transformer.word_embeddings.weight": torch.zeros(480, 64)}, "(480, 64)"),
        (lambda state: state | {"transformer.position_embeddings.weight": torch.zeros(911, 64)}, "(911, 64)"),
        (lambda state: state | {"transformer.final_layernorm.bias": torch.zeros(65)}, "(65,)"),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_tensors_of_another_model_are_named(
    other: Path, tmp_path: Path, number: int, how: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str
) -> None:
    change(other, number, how)
    refused(convert(other, tmp_path / "run"), stage_path(other, number), said)


def test_frames_that_are_no_squares_and_heads_that_do_not_fit_are_refused(other: Path, tmp_path: Path) -> None:
    refused(convert(other, tmp_path / "run", "--heads", 5), "5 heads do not divide")
    change(other, 1, lambda state: state | {LATER: torch.zeros(1999, 64)})
    refused(convert(other, tmp_path / "run"), "has 1999 rows")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.arange(CODES).astype(np.int32), "int32"),
        (np.arange(CODES - 1), f"({CODES - 1},)"),
        (np.full(CODES, CODES), f"from 0 to {CODES - 1}"),
        (b"not an array", "cannot be read"),
    ],
)
def test_clusters_of_other_codes_are_refused(other: Path, tmp_path: Path, content: Any, said: str) -> None:
    path = other / "cluster_label2.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    refused(convert(other, tmp_path / "run"), path, said)


@pytest.mark.parametrize("name", ["ice_image.pt", "ice_text.model", f"models/cogvideo-stage2/38500/{STAGE_FILE}"])
@pytest.mark.parametrize("kind", ["cut", "empty", "text"])
def test_a_damaged_file_is_named(other: Path, tmp_path: Path, name: str, kind: str) -> None:
    path = other / name
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"these are no weights" * 9}[kind])
    refused(convert(other, tmp_path / "run"), path)


def test_an_interrupted_conversion_leaves_nothing_and_can_be_done_again(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(convert_released, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        convert(other, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
    # What a killed one leaves is not taken for a part of this one.
    (tmp_path / ".run.partial" / "stages").mkdir(parents=True)
    (tmp_path / ".run.partial" / "rest").touch()
    assert convert(other, tmp_path / "run").exit_code == 0
    assert not (tmp_path / "run" / "rest").exists()
    refused(convert(other, tmp_path / "run"), tmp_path / "run", "exists already")


MEASURE = r"""
import re, sys
from pathlib import Path
from cogvid.pipeline import released_files
from cogvid.pipeline.convert_released import convert_released
released_files._HELD = 16 << 20
convert_released(Path(sys.argv[1]), Path(sys.argv[2]), 4)
# Not the resource module's, which knows the parent's too.
print("peak", 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.slow
def test_of_a_large_stage_little_is_in_memory(other: Path, tmp_path: Path) -> None:
    def peak(name: str) -> int:
        words = [sys.executable, "-c", MEASURE, str(other), str(tmp_path / name)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=250)
        return int(done.stdout.rpartition("peak ")[2])

    small = peak("small")
    for number in STAGES:
        change(other, number, lambda state: widened(state, 448, 24))
    size = stage_path(other, 1).stat().st_size
    assert size > 150e6
    assert peak("large") - small < size / 3


def widened(state: dict[str, Tensor], width: int, layers: int) -> dict[str, Tensor]:
    """A model of the release's names, of other sizes."""
    first, wide = names_in_release(layers), dict[str, Tensor]()
    for name in first:
        like = state[name.replace(f".{layer}", ".0")] if (layer := _layer(name)) is not None else state[name]
        shape = [
            side if side in (512, 1024, 2000) and "embeddings" in name else side // 64 * width for side in like.shape
        ]
        wide[name] = torch.zeros(shape, dtype=torch.float16)
    return wide


def _layer(name: str) -> int | None:
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return numbers[0] if numbers else None
