"""What is checked before a run's first step, so that no mistake costs more than seconds.

The configuration checks each value and what belongs together (`cogvid.config.rules`), the `Lab` that the parts of an
experiment exist and fit; here they are tried: on small grids, on black frames, on nothing.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cogvid.attention.computed import check_computation
from cogvid.attention.pattern import check_bias, check_pattern
from cogvid.attention.prepare import prepare_attention
from cogvid.config.options import first_line
from cogvid.config.ranges import said
from cogvid.config.sides import height_and_width
from cogvid.errors import UserError
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid.interfaces.text_tokenizer import TextTokenizer
from cogvid.interfaces.token_source import TokenSource
from cogvid.model.transformer import CogVideoTransformer
from cogvid.pipeline.clips import read_clips
from cogvid.pipeline.digests import check_published
from cogvid.pipeline.generate import usable_test_clips
from cogvid.pipeline.image_base_file import image_base_tensors
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import StageResult
from cogvid.pipeline.text_stage import load_text, warn_of_prompts
from cogvid.pipeline.tokenizer_stage import given_tokenizer
from cogvid.training.loggers import check_loggers

# Sides of the grid that patterns are tried on, at most.
_SMALL = Grid(3, 5, 6)
# Layers may take turns.
_LAYERS = 3
# The plugins that come with cogvid.
_OWN = "cogvid_plugins."
_LIGHTNING = ("accelerator", "devices", "num_nodes", "precision")


def check_lab(lab: Lab) -> None:
    """Try the parts of an experiment, so that one that cannot do its work says so before there is any.

    Raises:
        UserError: one cannot; the message names its key.
    """
    # What is tried draws random numbers; those of the run are its own.
    with torch.random.fork_rng(devices=[]):
        _check_trainer(lab)
        _check_token_source(lab)
        _check_memory(lab)
        _check_attention(lab)
        check_tokenizer(lab)
        _check_text_tokenizer(lab)
        _check_image_base(lab)
        check_metrics(lab)


def check_folder(folder: Path, option: str = "--runs") -> None:
    """Refuse a folder that cannot be made or written to; nothing is left behind in it.

    Args:
        folder: to write in.
        option: that names it.

    Raises:
        UserError: it cannot; the message names it and the cause.
    """
    try:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: nothing can be written there: {error.strerror}. Choose another folder with {option}."
        ) from error


def check_test_clips(lab: Lab, data: StageResult) -> None:
    """Refuse to generate more clips than there are test clips to imitate; known as soon as there are clips.

    Raises:
        UserError: there are too few; the message names the key.
    """
    wanted, usable = lab.config.generation.samples, len(usable_test_clips(lab, data).clips)
    if usable < wanted:
        short = len(read_clips(data.folder, "test")) - usable
        why = f", and {short} too short for every frame rate" if short else ""
        raise UserError(
            f"{said('generation.samples', lab.sources)}generation.samples: {wanted} clips are wanted, but the test "
            f"split has {usable} usable ones{why}. Lower generation.samples or add test clips."
        )


def check_prompts(lab: Lab, data: StageResult, text: StageResult) -> None:
    """Refuse prompts of previews that the model cannot read; known as soon as there is a text tokenizer.

    Raises:
        UserError: one has characters that it cannot read, or is too long and not to be cut.
    """
    prompts = lab.config.trainer.sample_prompts
    durations = [*chain.from_iterable(usable_test_clips(lab, data).first(4).seconds)]
    with _of("trainer.sample_prompts", lab):
        warn_of_prompts(load_text(lab, text), prompts, [durations] * len(prompts))


def _check_trainer(lab: Lab) -> None:
    # One after the other, so that the message can name the first that does not go with those before.
    settings: dict[str, Any] = {}
    for name in _LIGHTNING:
        settings[name] = getattr(lab.config.trainer, name)
        with _of(f"trainer.{name}", lab, f"Lightning cannot train here with {settings[name]!r}"), _quiet_lightning():
            pl.Trainer(
                **settings,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )

    check_loggers(lab.config.trainer.loggers, lab.sources)


def _check_token_source(lab: Lab) -> None:
    """Sequences that are tokens already fit the models, and the text tokenizer that made them has learned already."""
    source, config, grid = lab.data, lab.config, lab.grid
    if not isinstance(source, TokenSource):
        return
    shape, name = source.shape, config.data.name
    for key, what, own, wanted in (
        ("text.length", "text slots", shape.text, config.text.length),
        ("video.frames", "frames", shape.frames, grid.frames),
        ("video.size", "tokens in a frame", shape.frame_tokens, grid.frame_tokens),
        ("frame_tokenizer", "image tokens", shape.codes, lab.codes),
    ):
        if own != wanted:
            raise UserError(
                f"{said(key, lab.sources)}{key}: the sequences of {name} have {own} {what}, and the experiment has "
                f"{wanted}. Change {key}, or data.options."
            )
    if type(lab.build_text_tokenizer()).train is not TextTokenizer.train:
        raise UserError(
            f"{said('text_tokenizer', lab.sources)}text_tokenizer: {config.text_tokenizer.name} learns from captions, "
            f"and {name} has none. Use the one that its texts were made with, such as sentencepiece."
        )


def _check_memory(lab: Lab) -> None:
    """The weights alone have to fit; what training takes beside them depends on more than sizes.

    Every process has them whole, but with fsdp2 all machines together have them once.
    """
    trainer = lab.config.trainer
    shared = trainer.strategy == "fsdp2" and trainer.devices * trainer.num_nodes > 1
    copies = 1 / trainer.num_nodes if shared else trainer.devices

    def parameters(layers: int) -> int:
        with torch.device("meta"):
            network = CogVideoTransformer(replace(lab.video_config(lab.codes + 1 + 256), layers=layers), lab.attention)
        return sum(parameter.numel() for parameter in network.parameters())

    with _of("model", lab):
        one, two = parameters(1), parameters(2)
        gigabytes = copies * 4 * (one + (lab.config.model.layers - 1) * (two - one)) / 1e9
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        if gigabytes > there:
            raise UserError(
                f"the weights take {gigabytes:.1f} GB, and this machine has {there:.1f} GB of memory. "
                "Lower model.layers, model.width or text.length"
                + ("." if shared or trainer.devices == 1 else ", or share them out with trainer.strategy=fsdp2.")
            )


def _check_attention(lab: Lab) -> None:
    todo: list[tuple[str, AttentionBackend, Stage]] = [("attention", lab.attention, "sequential")]
    if lab.interpolates:
        todo.append(("stages.interpolation.attention", lab.interpolation_attention, "interpolation"))
    grid, model, cpu = lab.grid, lab.config.model, torch.device("cpu")
    small = Grid(min(grid.frames, _SMALL.frames), min(grid.height, _SMALL.height), min(grid.width, _SMALL.width))
    for key, backend, stage in todo:
        with _of(key, lab, backend.name):
            fail = _failure(backend.name)
            for layer in range(min(model.layers, _LAYERS)):
                check_pattern(backend, small, layer, cpu, fail)
            check_bias(backend, model.heads, small, cpu, fail)
            whole, part = (Visibility(backend.pattern, g, given_frames(stage, g.frames), 0) for g in (grid, small))
            prepare_attention(backend, whole, lab.device)
            # On a GPU, kernels are compiled for each mask; that those which come with cogvid are right there, its own
            # tests say.
            if lab.device == cpu or not type(backend).__module__.startswith(_OWN):
                check_computation(backend, part, model.heads, model.width // model.heads, lab.device, fail)


def check_tokenizer(lab: Lab) -> None:
    """Try the frame tokenizer on a black frame, and the weights that it may be given.

    Raises:
        UserError: it cannot do its work; the message names its key.
    """
    name, (height, width), grid = lab.config.frame_tokenizer.name, lab.config.video.sides, lab.grid
    weights = lab.config.stages.tokenizer.weights
    if weights is not None:
        given_tokenizer(lab, Path(weights))
    elif not lab.build_tokenizer().trainable and not isinstance(lab.data, TokenSource):
        raise UserError(
            f"{said('frame_tokenizer', lab.sources)}stages.tokenizer.weights: frame_tokenizer {name} cannot be "
            "trained here. Name a safetensors file of its weights, or use a tokenizer that learns, such as vqvae."
        )
    with _of("frame_tokenizer", lab, name), torch.no_grad():
        tokenizer = lab.build_tokenizer().eval()
        tokenizer.check(height, width)
        codes = tokenizer.encode(torch.zeros(1, 3, height, width))
        frames = tokenizer.decode(codes)
    for what, found, wanted in (
        ("encode", codes.shape, (1, grid.height, grid.width)),
        ("decode", frames.shape, (1, 3, height, width)),
    ):
        if found != wanted:
            raise UserError(f"frame_tokenizer: {name}: {what} gives shape {tuple(found)} where {wanted} is wanted.")
    for part in ("first_frame", "sequential", "interpolation"):
        if getattr(lab.config.generation, part).clusters and tokenizer.codebook() is None:
            key = f"generation.{part}.clusters"
            raise UserError(
                f"{said(key, lab.sources)}{key}: the frame tokenizer {name} has no codebook whose codes could be "
                "clustered. Set it to false, or use another tokenizer."
            )


def _check_text_tokenizer(lab: Lab) -> None:
    with _of("text_tokenizer", lab, lab.config.text_tokenizer.name):
        lab.build_text_tokenizer().check()


def _check_image_base(lab: Lab) -> None:
    """The file that it may come from, as far as that can be known before there is a text tokenizer."""
    weights = lab.config.stages.image_base.weights
    if weights is not None:
        image_base_tensors(lab, Path(weights), None)


def check_metrics(lab: Lab) -> None:
    """Try the metrics on clips as they will be scored.

    Raises:
        UserError: one cannot score them, or they are not those of the protocol; the message names the key.
    """
    config, protocol = lab.config, lab.config.evaluation.protocol
    if not config.evaluation.metrics:
        return
    if protocol.frames > config.generation.frames:
        key = "evaluation.protocol.frames"
        raise UserError(
            f"{said(key, lab.sources)}{key}: {protocol.frames} frames of a clip are scored, and generated clips have "
            f"{config.generation.frames} (generation.frames)."
        )
    if protocol.size and height_and_width(protocol.size) != config.video.sides:
        key, wanted = "evaluation.protocol.size", "x".join(map(str, height_and_width(protocol.size)))
        raise UserError(
            f"{said(key, lab.sources)}{key}: the protocol scores clips of {wanted} pixels, and video.size is "
            f"{config.video.size}. Make it the same."
        )
    for key in config.evaluation.metrics:
        with _of(f"evaluation.metrics.{key}", lab):
            _check_known(lab, key)
            lab.build_metric(key).check(protocol.frames or config.generation.frames, *config.video.sides)


def _check_known(lab: Lab, key: str) -> None:
    """A file that the protocol knows is that file."""
    protocol, options = lab.config.evaluation.protocol, lab.config.evaluation.metrics[key].options
    if "path" in options and Path(str(options["path"])).is_file():
        check_published(Path(str(options["path"])), str(options.get("extractor", "")), protocol)


@contextmanager
def _of(key: str, lab: Lab, what: str = "") -> Iterator[None]:
    """Ties what fails to its key. Code of plugins and Lightning may raise anything."""
    where = f"{said(key, lab.sources)}{key}: "
    try:
        yield
    except UserError as error:
        if f"{key}: " in str(error) or f"{key}.options" in str(error):
            raise
        raise UserError(f"{where}{error}") from error
    except Exception as error:
        what = f"{what}: " if what else ""
        raise UserError(f"{where}{what}{type(error).__name__}: {first_line(error)}.") from error


def _failure(name: str) -> Callable[[str, str], None]:
    def fail(check: str, problem: str) -> None:
        subject = {"pattern": "the pattern", "self": "by the pattern,", "bias": "the bias"}.get(check, f"its {check}")
        raise UserError(f"{name}: {subject} {problem}. cogvid.testing.conformance says more.")

    return fail


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
