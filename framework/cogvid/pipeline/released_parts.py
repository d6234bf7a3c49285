"""The release's files, opened, and held against each other: what experiment they are, and that they fit it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogvid.config.compose import load_experiment
from cogvid.config.schema import ExperimentConfig
from cogvid.config.sources import shipped
from cogvid.data.text import CaptionEncoder
from cogvid.errors import UserError
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.interfaces.text_tokenizer import TextTokenizer
from cogvid.model.released import FRAMES, TABLES, check_names, count_layers, names_in_release
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.released_files import ReleasedFolder, TorchFile
from cogvid.plugins.manager import PluginManager, create_plugin_manager

# Channels of an attention head.
_HEAD = 64
_WORDS, _LATER = "word_embeddings.weight", "later_position_embeddings.weight"

Shapes = dict[str, tuple[int, ...]]


class ReleasedParts:
    """The release's files, opened and checked before anything is written.

    Args:
        files: where they are.
        heads: attention heads; None for one for each 64 channels, as the release has them.

    Attributes:
        stages, image: the tensors of the two stages and of the image tokenizer.
        resolved, lab: the experiment that they are.
        names: of a transformer's tensors in the release, by those here.
        text: the text tokenizer.
        clusters: int64 (codes,), the cluster of each code.
        models: shapes of the transformers here, by stage and name.
        tokenizer: shapes of the frame tokenizer's tensors.

    Raises:
        UserError: a file is something else, or does not fit the others; the message names it, and what in it.
    """

    def __init__(self, files: ReleasedFolder, heads: int | None) -> None:
        self.files = files
        self.stages = TorchFile(files.stages[0].weights), TorchFile(files.stages[1].weights)
        self.image = TorchFile(files.image_tokenizer)
        self.names = {ours: released for released, ours in names_in_release(count_layers(self.stages[0])).items()}
        for file in self.stages:
            self._check_names(file)
        source = shipped() / "configs" / "model" / "released_run.yaml"
        config, plugins = load_experiment(source).config, create_plugin_manager()
        self.text = self._text_tokenizer(config, plugins)
        changes = [f"{key}={json.dumps(value)}" for key, value in self._sizes(config, plugins, heads).items()]
        self.resolved = load_experiment(source, None, changes)
        self.lab = lab = Lab(self.resolved.config, self.resolved.provenance)
        with torch.device("meta"):
            self.tokenizer = _shapes(lab.build_tokenizer())
            self.models = {
                "image_base": _shapes(lab.image_model(self.vocabulary)),
                "sequential": _shapes(lab.video_model("sequential", self.vocabulary)),
                "interpolation": _shapes(lab.video_model("interpolation", self.vocabulary)),
            }
        for file, name in zip(self.stages, ("sequential", "interpolation"), strict=True):
            for ours, shape in self.models[name].items():
                _check_shape(file, self.names[ours], shape, least=ours in TABLES)
        for name, shape in self.tokenizer.items():
            _check_shape(self.image, name, shape, least=False)
        self.clusters = self._clusters()

    @cached_property
    def vocabulary(self) -> int:
        """All tokens of the models."""
        return CaptionEncoder(self.text, self.lab.config.text.length, self.lab.codes).vocabulary

    def _check_names(self, file: TorchFile) -> None:
        try:
            check_names(file, self.names.values())
        except UserError as error:
            raise UserError(f"{file.path}: {error}") from error
        for name in (self.names[ours] for ours in TABLES):
            if len(file.shapes[name]) != 2:
                raise UserError(f"{file.path}: {name} is {file.shapes[name]}, and no table")

    def _sizes(self, config: ExperimentConfig, plugins: PluginManager, heads: int | None) -> dict[str, Any]:
        """What the files say of the experiment, by key."""
        file = self.stages[0]
        width, rows = file.shapes[self.names[_WORDS]][1], file.shapes[self.names[_LATER]][0]
        # It has a row for each token of a sequence, though those of the first frame are not read.
        side = round((rows / FRAMES) ** 0.5)
        if not rows or side * side * FRAMES != rows:
            raise UserError(
                f"{file.path}: {self.names[_LATER]} has {rows} rows, which are not those of {FRAMES} square frames"
            )
        if heads is None and width % _HEAD:
            raise UserError(
                f"{file.path}: the model is {width} wide, which is no whole number of heads of {_HEAD} channels, as "
                "the release has them. Say how many heads there are with --heads."
            )
        name = config.frame_tokenizer.name
        try:
            options = released_sizes(plugins, name, self.image)
        except UserError as error:
            raise UserError(f"{self.image.path}: {error}") from error
        tokenizer: FrameTokenizer = plugins.create("frame_tokenizer", name, options)
        return {
            "model.layers": count_layers(file),
            "model.width": width,
            "model.heads": width // _HEAD if heads is None else heads,
            "video.size": side * tokenizer.downsampling,
            **{f"frame_tokenizer.options.{option}": value for option, value in options.items()},
            # Of the sequences that it was trained on.
            "data.options.frame_tokens": side**2,
            "data.options.image_tokens": tokenizer.codebook_size,
            "data.options.padding": tokenizer.codebook_size + self.text.padding,
        }

    def _text_tokenizer(self, config: ExperimentConfig, plugins: PluginManager) -> TextTokenizer:
        options = config.text_tokenizer.options | {"model": str(self.files.text_model)}
        tokenizer: TextTokenizer = plugins.create("text_tokenizer", config.text_tokenizer.name, options)
        tokenizer.check()
        return tokenizer

    def _clusters(self) -> Tensor:
        path, codes = self.files.clusters, self.lab.codes
        try:
            clusters = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read as a file of numpy: {str(error)[:200]}") from error
        if clusters.dtype != np.int64 or clusters.shape != (codes,) or not ((clusters >= 0) & (clusters < codes)).all():
            raise UserError(
                f"{path} has {clusters.dtype} {clusters.shape}; it must have the number of the cluster of each of the "
                f"{codes} codes, int64 {(codes,)}, each from 0 to {codes - 1}"
            )
        return torch.from_numpy(clusters)


def released_sizes(plugins: PluginManager, name: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options of the frame tokenizer `name` that weights are of.

    Raises:
        UserError: they are of another kind of tokenizer, or nobody has released one of this kind.
    """
    kind: type[FrameTokenizer] = plugins.get("frame_tokenizer", name).cls  # type: ignore[assignment]
    return kind.sizes_of(weights)


def _shapes(network: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _check_shape(file: TorchFile, name: str, shape: tuple[int, ...], least: bool) -> None:
    """`least`: a table may have more rows."""
    found = file.shapes.get(name)
    if found is None or found[1:] != shape[1:] or found[0] < shape[0] or (found[0] > shape[0] and not least):
        more = " or more rows" if least else ""
        raise UserError(f"{file.path}: {name} is {found or 'missing'}, and {shape}{more} would fit the other files")
