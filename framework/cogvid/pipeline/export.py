"""A run as a folder to share: its weights, its configuration and a model card; it samples as the run does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cogvid.config.schema import ExperimentConfig
from cogvid.pipeline.convert_released import RELEASED
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.new_folder import new_folder
from cogvid.pipeline.run import ENVIRONMENT, needed_stages, saved_run
from cogvid.pipeline.stage import DONE, StageResult, write_whole
from cogvid.progress import stage_progress

CARD = "README.md"
# Beside the stages.
_FILES = ("config.yaml", "plugins.json", ENVIRONMENT, "metrics.json", RELEASED)


def export_run(run: Path, out: Path) -> None:
    """Copy what `cogvid sample` needs of a run, and say what it is.

    Args:
        run: folder of a run that is trained.
        out: the folder to make.

    Raises:
        UserError: `run` is no run, is not trained yet or damaged, or `out` is there already.
    """
    config, stages = saved_run(run)
    lab = Lab(config)
    stages = trained_stages(lab, stages)
    files = [(stage, name) for stage in stages.values() for name in [*stage.info["outputs"], DONE]]
    with new_folder(out, sum((stage.folder / name).stat().st_size for stage, name in files)) as folder:
        with stage_progress() as progress:
            for stage, name in progress.track(files, description="export"):
                _copy(stage.folder / name, folder / "stages" / stage.info["name"] / name)
        for name in _FILES:
            if (run / name).exists():
                _copy(run / name, folder / name)
        for plugin in _plugin_files(config):
            _copy(Path(plugin), folder / plugin)
        write_whole(folder / CARD, _card(run, out, lab, stages).encode())


def trained_stages(lab: Lab, stages: Mapping[str, StageResult]) -> dict[str, StageResult]:
    """The stages that sampling needs, whole.

    Raises:
        UserError: one is not trained yet, or its files are damaged.
    """
    needed = needed_stages(lab, stages)
    for name in needed:
        stages[name].check()
    return {name: stages[name] for name in needed}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _plugin_files(config: ExperimentConfig) -> list[str]:
    """Those that are no part of an installed package; they are named from the current folder."""
    return [
        name for name in config.plugins if name.endswith(".py") and not Path(name).is_absolute() and ".." not in name
    ]


def _card(run: Path, out: Path, lab: Lab, stages: Mapping[str, StageResult]) -> str:
    config = lab.config
    templates = Environment(
        loader=PackageLoader("cogvid.pipeline", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    metrics = run / "metrics.json"
    return templates.get_template("model_card.md.j2").render(
        name=out.name,
        config=config,
        grid=lab.grid,
        codes=lab.codes,
        data=config.data,
        stages=[_stage(config, name, stage) for name, stage in stages.items()],
        metrics=json.loads(metrics.read_text()) if metrics.exists() else None,
        versions=json.loads((run / ENVIRONMENT).read_text()) if (run / ENVIRONMENT).exists() else {},
        components=sorted({(part["kind"], part["name"], part["plugin"], part["version"]) for part in lab.used()}),
        plugins=_plugin_files(config),
        released=(run / RELEASED).exists(),
        interpolates=lab.interpolates,
        seconds=lab.clip_intervals / rates[0] if (rates := lab.clip_rates(1e6)) else 0,
    )


def _stage(config: ExperimentConfig, name: str, stage: StageResult) -> dict[str, Any]:
    settings = getattr(config.stages, name, None)
    return {
        "name": name,
        "parameters": stage.info.get("parameters"),
        "trained": stage.info.get("trainable_parameters"),
        "steps": stage.info.get("steps"),
        "batch": settings.batch_size if settings and stage.info.get("steps") else None,
        "key": stage.key,
        "bytes": sum(path.stat().st_size for name in stage.info["outputs"] if (path := stage.folder / name).exists()),
    }
