"""What values of an experiment must fit each other: the rules that no single option can know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from cogvid.config.ranges import said
from cogvid.config.schema import (
    ExperimentConfig,
    ModelConfig,
    Positions,
    StageConfig,
    TokenizerStageConfig,
    TrainerConfig,
)
from cogvid.config.space import dimensions
from cogvid.errors import UserError


def check_rules(config: ExperimentConfig, sources: Mapping[str, str]) -> None:
    """Refuse an experiment whose values do not fit each other, each in its range.

    Args:
        config: the experiment.
        sources: where each full key got its value, for messages.

    Raises:
        UserError: two do not; the message names their keys.
    """
    if config.search is not None:
        dimensions(config.search.space, sources)
    _check_model(config.model, sources)
    if (given := config.generation.given) > config.video.frames:
        raise UserError(
            f"{said('generation.given', sources)}generation.given: {given} key frames cannot be given, since there are "
            f"{config.video.frames} of them (video.frames)."
        )
    for entry in fields(config.stages):
        stage, key = getattr(config.stages, entry.name), f"stages.{entry.name}"
        _check_schedule(stage, key, sources)
        _check_batch(stage, key, config.trainer, sources)


def _check_model(model: ModelConfig, sources: Mapping[str, str]) -> None:
    size, rest = divmod(model.width, model.heads)
    if rest:
        raise UserError(
            f"{said('model.heads', sources)}model.heads: {model.heads} heads do not divide model.width, which is "
            f"{model.width}."
        )
    if model.positions is Positions.rotary and size % 2:
        raise UserError(
            f"{said('model.positions', sources)}model.positions: rotary positions turn pairs of channels, and each of "
            f"the {model.heads} heads (model.heads) has {size} of them: their number must be even."
        )


def _check_batch(stage: StageConfig, key: str, trainer: TrainerConfig, sources: Mapping[str, str]) -> None:
    """Every process gets as many samples of a batch as the others, in every part of it."""
    processes = trainer.devices * trainer.num_nodes
    # The frame tokenizer learns from a batch as a whole.
    parts = 1 if isinstance(stage, TokenizerStageConfig) else trainer.accumulate
    shares = processes * parts
    if stage.batch_size % shares:
        ways = [f"among {processes} processes (trainer.devices x trainer.num_nodes)"] if processes > 1 else []
        ways += [f"into {parts} parts (trainer.accumulate)"] if parts > 1 else []
        lower = stage.batch_size // shares * shares
        nearest = f"{lower} or {lower + shares}" if lower else f"{shares}"
        advice = (
            ""
            if parts > 1
            else " Where a process has no memory for its share, trainer.accumulate cuts that into parts, one after the "
            "other."
        )
        raise UserError(
            f"{said(f'{key}.batch_size', sources)}{key}.batch_size: a batch of {stage.batch_size} does not divide "
            f"{' and '.join(ways)}. Set {key}.batch_size to {nearest}.{advice}"
        )


def _check_schedule(stage: StageConfig, key: str, sources: Mapping[str, str]) -> None:
    if stage.warmup + stage.cooldown > 1:
        where = said(f"{key}.cooldown", sources) or said(f"{key}.warmup", sources)
        raise UserError(
            f"{where}{key}: warmup {stage.warmup} and cooldown {stage.cooldown} are shares of the steps, and together "
            "more than all of them."
        )
