"""The typed shape of an experiment. Every key a YAML file or the command line may set stands here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Positions(Enum):
    """How the plus channel knows where a frame token stands."""

    learned = "learned"  # absolute, as published
    rotary = "rotary"  # relative, over (frame, row, column)


class PlusInit(Enum):
    """Where the plus channel starts."""

    copy = "copy"  # from the base channel, as published
    random = "random"


class InterpolationStart(Enum):
    """What the interpolation stage's plus channel starts from."""

    sequential = "sequential"  # the trained sequential stage
    base = "base"  # as that stage started, by `model.plus_init`


class GenerationType(Enum):
    """Of weights, keys and values while generating."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class ComponentConfig:
    """A component of a plugin: its registered name, and options checked against its `Config`."""

    name: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class VideoConfig:
    size: int = 32  # pixels; clips are cropped to a centred square and resized to size x size
    frames: int = 5  # frames of one training sequence


@dataclass
class TextConfig:
    vocabulary: int = 512  # most tokens the byte-level BPE may have
    length: int = 24  # text slots of a sequence; longer captions are an error


@dataclass
class ModelConfig:
    layers: int = 4
    width: int = 192
    heads: int = 3
    positions: Positions = Positions.learned
    plus_init: PlusInit = PlusInit.copy
    gate_init: float = 0.0  # sigmoid of it is the base channel's share
    checkpoint_activations: bool = False  # trade time for memory in training


@dataclass
class StageConfig:
    """Training of one stage. Steps are optimiser steps; a batch is counted in sequences."""

    steps: int = MISSING
    batch_size: int = MISSING
    adam_lr: float = 2e-4  # embeddings, norms, biases; everything where muon_lr is 0
    muon_lr: float = 0.0  # matrices, by Muon; 0 for plain Adam, as published
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.0
    caption_dropout: float = 0.0  # share of sequences without their caption, for guidance
    clip_norm: float = 0.1  # 0 for no clipping
    warmup: float = 0.01  # share of the steps
    cooldown: float = 0.2  # share of the steps that decay to zero at the end
    checkpoint_every: int = 200  # steps


@dataclass
class TokenizerStageConfig(StageConfig):
    clusters: int = 64  # of its codes by k-means, for two-level sampling


@dataclass
class ImageBaseConfig(StageConfig):
    # Share of frames from anywhere in a clip, captioned as the clip is; the others are first frames, captioned as
    # 0 seconds long, which is how generation asks for them.
    stills: float = 0.5


@dataclass
class InterpolationStageConfig(StageConfig):
    attention: ComponentConfig | None = None  # null: the experiment's
    start: InterpolationStart = InterpolationStart.sequential
    # Share of the input tokens of frames to generate that training takes from the same place in a given frame. Without
    # them the model learns to go on with a frame as it began, right or wrong, before it learns to begin one rightly.
    token_noise: float = 0.0


@dataclass
class StagesConfig:
    tokenizer: TokenizerStageConfig = field(default_factory=TokenizerStageConfig)
    image_base: ImageBaseConfig = field(default_factory=ImageBaseConfig)
    sequential: StageConfig = field(default_factory=StageConfig)
    interpolation: InterpolationStageConfig = field(default_factory=InterpolationStageConfig)


@dataclass
class TrainerConfig:
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    threads: int = 0  # CPU threads; 0 leaves torch's choice
    log_every: int = 20  # steps
    sample_every: int = 0  # steps between sample videos in TensorBoard; 0 for one at the end of a stage
    sample_prompts: list[str] = field(default_factory=list)  # empty: the first captions of the test split


@dataclass
class SamplingConfig:
    temperature: float = 1.0
    top_k: int = 0  # 0 for all
    top_p: float = 1.0
    guidance: float = 1.0  # 1 for none
    # Two levels: first a cluster of codes (temperature, top_k and top_p choose among clusters), then a code in it.
    clusters: bool = False
    code_temperature: float = 0.89  # inside a cluster
    text_bias: float = 0.0  # added to the attention scores of the text


@dataclass
class GenerationConfig:
    samples: int = 128  # clips, one for each of the first test captions
    frames: int = 17  # of a finished clip
    batch_size: int = 64
    image_model_first: bool = True  # the first frame by the image model alone; false: by the sequential stage
    dtype: GenerationType = GenerationType.float32
    compile: bool = False  # torch.compile the layers: minutes before the first token, for long work
    first_frame: SamplingConfig = field(default_factory=SamplingConfig)
    sequential: SamplingConfig = field(default_factory=SamplingConfig)
    interpolation: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class EvaluationConfig:
    metrics: dict[str, ComponentConfig] = field(default_factory=dict)
    batch_size: int = 32


@dataclass
class ExperimentConfig:
    """A resolved experiment."""

    name: str = MISSING  # the experiment file's name
    description: str = ""
    variant: str = "default"
    seed: int = 0
    data_seed: int = 0  # the same clips for every seed, so that seeds differ by training alone
    seeds: list[int] = field(default_factory=lambda: [0])  # what `cogvid ablate` repeats every variant with
    plugins: list[str] = field(default_factory=list)  # modules, or ./files.py beside the experiment
    video: VideoConfig = field(default_factory=VideoConfig)
    text: TextConfig = field(default_factory=TextConfig)
    data: ComponentConfig = field(default_factory=ComponentConfig)
    frame_rate: ComponentConfig = field(default_factory=ComponentConfig)
    frame_tokenizer: ComponentConfig = field(default_factory=ComponentConfig)
    attention: ComponentConfig = field(default_factory=ComponentConfig)
    interpolation: ComponentConfig = field(default_factory=ComponentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
