"""A run is a folder: one variant of an experiment with one seed, from its configuration to its metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cogvid.config.compose import Resolved, differences, load_experiment
from cogvid.config.schema import ExperimentConfig, InterpolationStart
from cogvid.errors import UserError
from cogvid.generation.clips import ClipGenerator
from cogvid.generation.packed import Packs, packed
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.interfaces.token_source import TokenSource
from cogvid.model.transformer import CogVideoTransformer
from cogvid.pipeline.budget import stage_settings
from cogvid.pipeline.check import check_folder, check_lab, check_prompts, check_test_clips
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.environment import environment
from cogvid.pipeline.evaluate import METRICS, evaluation_stage, write_metrics
from cogvid.pipeline.generate import generation_stage, given_key_frames, speed_stage, usable_test_clips
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.logs import log_to_file
from cogvid.pipeline.previews import Previews
from cogvid.pipeline.run_state import RunState, write_run_state
from cogvid.pipeline.stage import DONE, Info, StageResult, StageStore, owned, read_stage, write_json, write_whole
from cogvid.pipeline.text_stage import load_text, text_stage
from cogvid.pipeline.tokenizer_stage import load_clusters, load_tokenizer, tokenizer_stage
from cogvid.pipeline.tokens_stage import TokensStage, training_clips
from cogvid.pipeline.train import TransformerStages, load_model
from cogvid.pipeline.weights import without_weights
from cogvid.training import job
from cogvid.training.held_out import HELD_OUT

# Stage folders are shared by all runs below one `runs` folder.
STAGES = "stages"
ENVIRONMENT = "environment.json"
_DECODING = "generation.decoding."
TRANSFORMERS = ("image_base", "sequential", "interpolation")


class Run:
    """One run: trains what is not trained yet, generates, evaluates.

    Args:
        resolved: the experiment, resolved.
        runs: folder of all runs.
        wait: for other processes that are at work on what this run needs.

    Raises:
        UserError: the experiment cannot run, or not here (see `cogvid.pipeline.check`), or the run's folder holds a run
            of another configuration; nothing in it is touched.
    """

    def __init__(self, resolved: Resolved, runs: Path, wait: bool = True) -> None:
        config = resolved.config
        self.resolved, self.config = resolved, config
        self.folder = runs / config.name / config.variant / str(config.seed)
        self.store = StageStore(runs / STAGES, wait, self._begins)
        for folder in (self.folder, self.store.root):
            check_folder(folder)
        self.lab = Lab(config, resolved.provenance)
        saved = self.folder / "config.yaml"
        if saved.exists():
            changed = [change for change in differences(saved, config) if not may_change(change[0])]
            if _same_clips(self.lab, changed):
                changed = [change for change in changed if not change[0].startswith(_DECODING)]
            if changed:
                lines = "; ".join(f"{key} was {old}, is now {new}" for key, old, new in changed[:5])
                raise UserError(
                    f"{self.folder} holds a run of another configuration: {lines}. Give this one a name of its own "
                    f"with name=..., or move the old run away; it was left as it is."
                )
        check_lab(self.lab)

    def _begins(self, stage: str, folder: Path) -> None:
        steps = stage_settings(self.lab, stage).steps if hasattr(self.config.stages, stage) else 0
        write_run_state(self.folder, RunState(stage, str(folder.absolute()), steps))

    def _train(self) -> dict[str, StageResult]:
        """All stages up to the trained models, by name; the finished ones are taken as they are."""
        lab, store = self.lab, self.store
        stages: dict[str, StageResult] = {}

        def keep(name: str, stage: StageResult) -> StageResult:
            stages[name] = stage
            job.once(lambda: self._link(f"stages/{name}", stage))
            return stage

        data = keep("data", data_stage(lab, store))
        if isinstance(lab.data, TokenSource):
            text = keep("text_tokenizer", text_stage(lab, store, data))
            transformers = TransformerStages(lab, store, text, data, lab.data, None)
            if self.config.stages.tokenizer.weights is not None:
                keep("tokenizer", tokenizer_stage(lab, store, data))
        else:
            job.once(lambda: check_test_clips(lab, data))
            text = keep("text_tokenizer", text_stage(lab, store, data))
            job.once(lambda: check_prompts(lab, data, text))
            tokenizer = keep("tokenizer", tokenizer_stage(lab, store, data))
            tokens = keep("tokens", TokensStage(lab, store, data, tokenizer).finish())
            test_tokens = keep("test_tokens", TokensStage(lab, store, data, tokenizer, "test").finish())
            with job.said_once():
                previews = self._previews(data, text, tokenizer) if job.leads() else None
            clips = training_clips(data, tokens)
            transformers = TransformerStages(lab, store, text, tokens, clips, previews, test_tokens)
        base = keep("image_base", transformers.image_base())
        transformers.show("image_base", base)
        inherits = lab.interpolates and self.config.stages.interpolation.start is InterpolationStart.sequential
        if lab.generates_sequentially or inherits:
            sequential = keep("sequential", transformers.video("sequential", base))
            transformers.show("sequential", sequential)
        if lab.interpolates:
            keep("interpolation", transformers.video("interpolation", base, sequential if inherits else None))
        return stages

    def finish(self) -> StageResult | None:
        """Train, generate and evaluate; the run folder gets `samples` and `metrics.json`, of which data that is tokens
        already has the held-out losses alone.

        Returns:
            The evaluation; None on data that is tokens already, with no video to compare generated ones with.
        """
        with owned(self.folder, self.store.wait), log_to_file(self.folder / "log.txt"):
            job.once(self._describe)
            return self._finish()

    def _finish(self) -> StageResult | None:
        stages = self._train()
        if not isinstance(self.lab.data, TokenSource):
            return job.once(lambda: self._evaluate(stages))
        if held_out := held_out_losses(stages):
            job.once(lambda: write_json(self.folder / METRICS, {"held_out": held_out}))
        return None

    def _evaluate(self, stages: dict[str, StageResult]) -> StageResult:
        trained = trained_models(self.lab, stages)
        models = {str(name): stages[name] for name in TRANSFORMERS if name in stages}
        tokenizer = (stages["tokenizer"], trained.tokenizer)
        samples = generation_stage(self.lab, self.store, stages["data"], tokenizer, models, trained.generator)
        self._link("samples", samples)
        speed = speed_stage(self.lab, self.store, stages["data"], samples, trained.generator)
        if speed is not samples:
            self._link("speed", speed)
        metrics = evaluation_stage(self.lab, self.store, stages["data"], samples)
        write_metrics(self.folder, metrics, samples, speed, held_out_losses(stages))
        write_json(self.folder / ENVIRONMENT, metrics.info["environment"])
        return metrics

    def _describe(self) -> None:
        write_run_state(self.folder, RunState())
        (self.folder / "stages").mkdir(exist_ok=True)
        write_whole(self.folder / "config.yaml", self.resolved.to_yaml().encode())
        write_json(self.folder / "plugins.json", {"components": self.lab.used()})
        # Of results made earlier it says where they were made.
        if not (self.folder / ENVIRONMENT).exists():
            write_json(self.folder / ENVIRONMENT, environment())

    def _link(self, name: str, stage: StageResult) -> None:
        link = self.folder / name
        target = os.path.relpath(stage.folder, link.parent)
        if link.is_symlink() and os.readlink(link) == target:
            return
        fresh = link.with_name(link.name + ".fresh")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        os.replace(fresh, link)

    def _previews(self, data: StageResult, text: StageResult, tokenizer: StageResult) -> Previews:
        tests = usable_test_clips(self.lab, data).first(4)
        words = load_text(self.lab, text)
        prompts = self.config.trainer.sample_prompts or tests.prompts(words.tokenizer)
        if not tests.seconds:
            raise UserError("data: the test split has no usable clip; sample videos and evaluation need some")
        shown = [i % len(tests.seconds) for i in range(len(prompts))]
        seconds, network = [tests.seconds[i] for i in shown], load_tokenizer(self.lab, tokenizer)
        given = given_key_frames(self.lab, network, tests)
        return Previews(
            self.lab,
            network,
            words,
            prompts,
            seconds,
            load_clusters(tokenizer),
            None if given is None else given[shown],
        )


def held_out_losses(stages: Mapping[str, StageResult]) -> Info:
    """The held-out losses of the stages that have some, and what they were measured on."""
    return {
        name: {"loss": stage.info[HELD_OUT], "frames": stage.info["held_out_frames"], "on": stage.info["held_out_on"]}
        for name, stage in stages.items()
        if HELD_OUT in stage.info
    }


def may_change(key: str) -> bool:
    """Whether a run may go on with another value of a key: what trains, not what is made."""
    return key.partition(".")[0] in ("trainer", "search") and key != "trainer.precision"


def _same_clips(lab: Lab, changed: Sequence[tuple[str, Any, Any]]) -> bool:
    """Whether a run's clips stay the same with the decoding that it has now: both are exact. One that was made without
    saying any was."""
    if not lab.decoding.exact:
        return False
    names = [old for key, old, _ in changed if key == f"{_DECODING}name"]
    try:
        return all(name is None or getattr(lab.plugins.get("decoding", name).cls, "exact", False) for name in names)
    except UserError:  # nobody has that one any more
        return False


def needed_stages(lab: Lab, stages: Mapping[str, StageResult], whose: object = "the run") -> list[str]:
    """The names of the stages that generating needs, of which none is missing.

    Args:
        lab: of the run.
        stages: that are finished, by name.
        whose: they are, for the message.

    Raises:
        UserError: some have not been trained.
    """
    video = {"sequential": lab.generates_sequentially, "interpolation": lab.interpolates}
    needed = ["text_tokenizer", "tokenizer", "image_base", *(name for name, used in video.items() if used)]
    missing = [name for name in needed if name not in stages]
    if missing:
        raise UserError(f"{whose} has not trained {', '.join(missing)} yet: run its `cogvid run` command again")
    return needed


@dataclass(frozen=True)
class TrainedModels:
    """What a finished training leaves to generate with."""

    tokenizer: FrameTokenizer
    generator: ClipGenerator


def trained_models(lab: Lab, stages: dict[str, StageResult]) -> TrainedModels:
    """Load the models of finished stages; those that generate get the type that the configuration says.

    Raises:
        UserError: a stage's files are damaged, or hold another model's weights.
    """
    for name in ("text_tokenizer", "tokenizer", *TRANSFORMERS):
        if name in stages:
            stages[name].check()
    text = load_text(lab, stages["text_tokenizer"])
    words, generation = text.vocabulary, lab.config.generation
    base: CogVideoTransformer | None = None
    packs: Packs = {}

    def load(name: str, build: Callable[[], CogVideoTransformer]) -> CogVideoTransformer:
        nonlocal base
        dtype = getattr(torch, generation.dtype.value)
        network = load_model(without_weights(build), stages[name], device=lab.device, dtype=dtype, like=base)
        base = base or network
        return packed(network, generation.compile, packs)

    image = load("image_base", lambda: lab.image_model(words))
    sequential = (
        load("sequential", lambda: lab.video_model("sequential", words)) if lab.generates_sequentially else None
    )
    between = load("interpolation", lambda: lab.video_model("interpolation", words)) if lab.interpolates else None
    generator = ClipGenerator(
        image,
        sequential,
        between,
        text,
        generation,
        lab.decoding,
        places=lab.places,
        plan=lab.plan,
        clusters=load_clusters(stages["tokenizer"]),
    )
    return TrainedModels(load_tokenizer(lab, stages["tokenizer"]), generator)


def saved_run(folder: Path, changes: Sequence[str] = ()) -> tuple[ExperimentConfig, dict[str, StageResult]]:
    """The configuration and the finished stages, by name, of a run's folder.

    Args:
        folder: of the run.
        changes: `key=value` in place of what the run was made with.

    Raises:
        UserError: the folder holds no run, or a stage's `stage.json` is damaged.
    """
    saved = folder / "config.yaml"
    if not saved.exists():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml. Runs are made by `cogvid run`.")
    done = sorted((folder / "stages").glob(f"*/{DONE}"))
    stages = {path.parent.name: read_stage(path.parent, path.parent.name) for path in done}
    return load_experiment(str(saved), None, list(changes)).config, stages
