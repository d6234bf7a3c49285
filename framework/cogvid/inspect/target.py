"""What `cogvid inspect` is asked to look at."""

from __future__ import annotations

from collections.abc import Sequence

from cogvid.config import load_experiment
from cogvid.config.partial import load_attention
from cogvid.config.ranges import said
from cogvid.errors import UserError
from cogvid.inspect.mask import Subject
from cogvid.interfaces.frame_tokenizer import token_grid
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage
from cogvid.plugins.manager import create_plugin_manager

DEFAULT_GRID = Grid(5, 20, 20)


def attention_alone(overrides: Sequence[str], grid: Grid | None, stage: Stage) -> Subject:
    """The backend that `attention=NAME` and its options name.

    Raises:
        UserError: no backend or an unknown one, wrong options, or a grid that the stage has no sequences of.
    """
    choice = load_attention(overrides)
    component = choice.component
    manager = create_plugin_manager(choice.plugins)
    backend = manager.create("attention", component.name, component.options, "attention", choice.sources)
    return _checked(Subject(component.name, backend, grid or DEFAULT_GRID, stage))


def attention_of_experiment(name: str, overrides: Sequence[str], grid: Grid | None, stage: Stage) -> Subject:
    """An experiment's backend in one of its stages, on its own grid unless another is given.

    Raises:
        UserError: the experiment cannot be loaded or built, or the stage has no sequences on the grid.
    """
    resolved = load_experiment(name, None, overrides)
    config = resolved.config
    manager = create_plugin_manager(config.plugins)
    component, key = config.attention, "attention"
    if stage == "interpolation" and config.stages.interpolation.attention:
        component, key = config.stages.interpolation.attention, "stages.interpolation.attention"
    backend = manager.create("attention", component.name, component.options, key, resolved.provenance)
    if grid is None:
        coder = config.frame_tokenizer
        tokenizer = manager.create("frame_tokenizer", coder.name, coder.options, "frame_tokenizer", resolved.provenance)
        try:
            grid = token_grid(tokenizer, config.video.frames, *config.video.sides)
        except UserError as error:
            raise UserError(f"{said('video.size', resolved.provenance)}video.size: {error}") from error
    model = config.model
    return _checked(Subject(component.name, backend, grid, stage, model.width // model.heads, model.layers))


def _checked(subject: Subject) -> Subject:
    subject.check()
    return subject
