"""The typed shape of an experiment. Every key a YAML file or the command line may set stands here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from cogvid.config.ranges import at_least, between, each, file_name, from_to_below, not_blank, one_of, option
from cogvid.config.sides import height_and_width, sides

# Random numbers are drawn from it, and from multiples of it that torch can hold.
_SEED = from_to_below(0, 2**31)
_SHARE = between(0, 1)


class Fit(Enum):
    """How the picture of a video is made to fill a frame."""

    crop = "crop"  # the largest piece of the frame's proportions, from the middle
    pad = "pad"  # the whole picture in the middle, black beside it
    stretch = "stretch"  # the whole picture, its proportions changed to the frame's


class Positions(Enum):
    """How the plus channel knows where a frame token stands."""

    learned = "learned"  # absolute, as published
    rotary = "rotary"  # relative, over (frame, row, column)


class PlusInit(Enum):
    """Where the plus channel starts."""

    copy = "copy"  # from the base channel, as published
    random = "random"


class Base(Enum):
    """What becomes of the image base in a video stage."""

    frozen = "frozen"  # as published: the plus channel alone learns
    trained = "trained"  # it goes on learning, as all else does
    random = "random"  # nothing is taken from it: all starts at random, and learns


class Gate(Enum):
    """What mixes the two channels."""

    learned = "learned"  # a share for each feature of each layer, as published
    fixed = "fixed"  # the share of `gate_init`


class InterpolationStart(Enum):
    """What the interpolation stage's plus channel starts from."""

    sequential = "sequential"  # the trained sequential stage
    base = "base"  # as that stage started, by `model.plus_init`


class GenerationType(Enum):
    """Of weights, keys and values while generating."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Place(Enum):
    """Where in a longer video the frames to score are taken."""

    start = "start"  # from the first frame on
    middle = "middle"
    random = "random"  # anywhere, drawn from the SHA-256 of the video's bytes: the same for the same file


class BudgetUnit(Enum):
    """What stages have equally much of."""

    tokens = "tokens"  # of the frames of their sequences
    seconds = "seconds"  # of optimiser steps


class TooLong(Enum):
    """What becomes of captions that do not fit into the text slots."""

    cut = "cut"  # behind the last token that fits
    error = "error"


@dataclass
class ComponentConfig:
    """A component of a plugin: its registered name, and options checked against its `Config`."""

    name: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class VideoConfig:
    size: Any = option(32, sides(at_least(1)))  # pixels of a frame, for both sides or as [height, width]
    fit: Fit = Fit.crop
    frames: int = option(5, at_least(2))  # frames of one training sequence

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return height_and_width(self.size)


@dataclass
class TextConfig:
    length: int = option(24, at_least(1))  # text slots of a sequence
    positions: int = option(0, at_least(0))  # rows of the position table for text; 0 for as many as slots
    too_long: TooLong = TooLong.cut  # captions of more tokens


@dataclass
class ModelConfig:
    layers: int = option(4, at_least(1))
    width: int = option(192, at_least(1))
    heads: int = option(3, at_least(1))
    positions: Positions = Positions.learned
    base: Base = Base.frozen
    plus_init: PlusInit = PlusInit.copy
    gate: Gate = Gate.learned
    # sigmoid of it is the base channel's share: 0 is half, -100 leaves the plus channel alone, on frames
    gate_init: float = option(0.0, between(-100, 100))
    checkpoint_activations: bool = False  # trade time for memory in training


@dataclass
class StageConfig:
    """Training of one stage. Steps are optimiser steps; a batch is counted in sequences."""

    steps: int = option(MISSING, at_least(1))
    batch_size: int = option(MISSING, at_least(1))
    adam_lr: float = option(2e-4, at_least(0))  # embeddings, norms, biases; everything where muon_lr is 0
    muon_lr: float = option(0.0, at_least(0))  # matrices, by Muon; 0 for plain Adam, as published
    muon_momentum: float = option(0.95, from_to_below(0, 1))
    betas: list[float] = option([0.9, 0.95], each(from_to_below(0, 1), count=2))  # of Adam alone
    # Adam adds it to the gradient, as published; Muon takes it of the weights.
    weight_decay: float = option(0.0, at_least(0))
    caption_dropout: float = option(0.0, _SHARE)  # share of sequences without their caption, for guidance
    clip_norm: float = option(0.1, at_least(0))  # 0 for no clipping
    warmup: float = option(0.01, _SHARE)  # share of the steps
    cooldown: float = option(0.2, _SHARE)  # share of the steps that decay to zero at the end
    # Of the moving average of the trained weights, which is what the stage leaves; 0 for the last step's weights.
    ema: float = option(0.0, from_to_below(0, 1))
    validate_every: int = option(0, at_least(0))  # steps between held-out losses; 0 for one at the end
    checkpoint_every: int = option(200, at_least(1))  # steps


@dataclass
class TokenizerStageConfig(StageConfig):
    # That it trains on, drawn from all training clips: more of them fit no better, and take room on the disk while it
    # trains (3 bytes a pixel).
    frames: int = option(20_000, at_least(2))
    clusters: int = option(64, at_least(1))  # of its codes by k-means, for two-level sampling
    # model.safetensors of a finished tokenizer stage: nothing is trained, and no data changes the codes.
    weights: str | None = option(None, file_name())


@dataclass
class ImageBaseConfig(StageConfig):
    # Share of frames from anywhere in a clip, captioned as the clip is; the others are first frames, captioned as
    # 0 seconds long, which is how generation asks for them.
    stills: float = option(0.5, _SHARE)
    # model.safetensors of a finished image base, or a released checkpoint: nothing is trained.
    weights: str | None = option(None, file_name())


@dataclass
class InterpolationStageConfig(StageConfig):
    attention: ComponentConfig | None = None  # null: the experiment's
    start: InterpolationStart = InterpolationStart.sequential
    # Share of the input tokens of frames to generate that training takes from the same place in a given frame. Without
    # them the model learns to go on with a frame as it began, right or wrong, before it learns to begin one rightly.
    token_noise: float = option(0.0, _SHARE)


@dataclass
class StagesConfig:
    tokenizer: TokenizerStageConfig = field(default_factory=TokenizerStageConfig)
    image_base: ImageBaseConfig = field(default_factory=ImageBaseConfig)
    sequential: StageConfig = field(default_factory=StageConfig)
    interpolation: InterpolationStageConfig = field(default_factory=InterpolationStageConfig)


@dataclass
class BudgetConfig:
    """How long transformers train, where variants are to be equal in something else than steps. 0 for the steps of
    `stages`."""

    unit: BudgetUnit = BudgetUnit.tokens
    image_base: int = option(0, at_least(0))
    sequential: int = option(0, at_least(0))
    interpolation: int = option(0, at_least(0))


@dataclass
class DDPConfig:
    """Options of the strategy `ddp`: whole models in every process, gradients averaged."""

    bucket_mb: int = option(25, at_least(1))  # of gradients that are averaged at a time
    static_graph: bool = False


@dataclass
class FSDP2Config:
    """Options of the strategy `fsdp2`: weights, gradients and optimiser state in shards, one in each process."""

    reshard: bool = True  # forget a block's gathered weights after its forward pass; gather them again for the backward
    offload: bool = False  # keep shards in the memory of the CPU


@dataclass
class TrainerConfig:
    accelerator: str = "auto"
    devices: int = option(1, at_least(1))  # processes of a machine
    num_nodes: int = option(1, at_least(1))  # machines
    strategy: str = option("auto", one_of("auto", "ddp", "fsdp2"))  # auto: ddp where there are several processes
    ddp: DDPConfig = field(default_factory=DDPConfig)
    fsdp2: FSDP2Config = field(default_factory=FSDP2Config)
    # Lightning's others cast the networks to a type that what they read does not have.
    precision: str = option("32-true", one_of("32-true", "bf16-mixed", "16-mixed"))
    accumulate: int = option(1, at_least(1))  # parts of a transformer's batch, whose gradients are added up
    deterministic: bool = False  # algorithms that give the same bits again on a GPU, or an error where there are none
    compile: bool = False  # torch.compile what it can of a transformer's blocks, for long work
    profiler: str | None = option(None, one_of("simple", "advanced", "pytorch"))
    loggers: list[str] = option(["tensorboard"], each(one_of("tensorboard", "csv", "mlflow", "wandb"), least=0))
    threads: int = option(0, between(0, 1024))  # CPU threads of a process; 0: torch's choice, or an even share
    workers: int = option(0, between(0, 1024))  # processes that draw training samples; 0 for the training itself
    log_every: int = option(20, at_least(1))  # steps
    sample_every: int = option(0, at_least(0))  # steps between previews in TensorBoard; 0 for one at the end
    sample_prompts: list[str] = option([], each(not_blank(), least=0))  # empty: the first captions of the test split


@dataclass
class SamplingConfig:
    temperature: float = option(1.0, at_least(0))
    top_k: int = option(0, at_least(0))  # 0 for all
    top_p: float = option(1.0, _SHARE)
    guidance: float = option(1.0, at_least(0))  # 1 for none
    # Two levels: first a cluster of codes (temperature, top_k and top_p choose among clusters), then a code in it.
    clusters: bool = False
    code_temperature: float = option(0.89, at_least(0))  # inside a cluster
    text_bias: float = option(0.0, between(-100, 100))  # added to the attention scores of the text


@dataclass
class GenerationConfig:
    samples: int = option(128, at_least(1))  # clips, one for each of the first test captions
    frames: int = option(17, at_least(1))  # of a finished clip
    given: int = option(0, at_least(0))  # key frames that are not generated but taken from the clip, to go on from
    batch_size: int = option(64, at_least(1))
    image_model_first: bool = True  # the first frame by the image model alone; false: by the sequential stage
    dtype: GenerationType = GenerationType.float32
    decoding: ComponentConfig = field(default_factory=lambda: ComponentConfig("fixed_point"))  # what a pass computes
    compile: bool = False  # torch.compile the layers: minutes before the first token, for long work
    first_frame: SamplingConfig = field(default_factory=SamplingConfig)
    sequential: SamplingConfig = field(default_factory=SamplingConfig)
    interpolation: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class ProtocolConfig:
    """Which clips and which of their frames are scored. A run's clips have the samples, the frame rates and the size
    that the experiment gives them; of any two folders, all of it is said here."""

    name: str = ""  # what the record of a value calls it
    samples: int = option(0, at_least(0))  # clips of either side; 0 for as many as there are
    frames: int = option(0, at_least(0))  # of a clip that are scored; 0 for all
    rate: float = option(0.0, at_least(0))  # of these frames (1/s); 0 for the frames as they are stored
    stride: int = option(1, at_least(1))  # of stored frames
    place: Place = Place.start
    size: Any = option(0, sides(at_least(0)))  # as video.size; 0 for videos as they are
    fit: Fit = Fit.crop
    sha256: dict[str, str] = field(default_factory=dict)  # of the published files, by extractor


@dataclass
class EvaluationConfig:
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    metrics: dict[str, ComponentConfig] = field(default_factory=dict)
    batch_size: int = option(32, at_least(1))


@dataclass
class HeldOutConfig:
    """The test clips that stages report their loss on."""

    clips: int = option(256, at_least(1))  # at most


@dataclass
class SearchConfig:
    """What `cogvid search` looks for, and where."""

    # A held-out loss (held_out.STAGE), or a value of a metric (metrics.generated.METRIC.VALUE), named as `cogvid
    # compare` does in the columns of its JSON.
    target: str = option(MISSING, not_blank())
    direction: str | None = option(None, one_of("lower", "higher"))  # where the metric does not say what is better
    trials: int = option(20, between(1, 100_000))  # runs, those that fail counted
    sampler: str = option("tpe", one_of("tpe", "random"))
    startup: int = option(5, at_least(0))  # first trials, which are drawn at random and never pruned
    # Stage whose held-out losses (stages.STAGE.validate_every) end a trial where the least of them is above the median
    # of what the finished trials had at the same step; null to prune none.
    prune: str | None = option(None, one_of("tokenizer", "image_base", "sequential", "interpolation"))
    whole_runs: bool = False  # do what comes behind the stage of a held-out loss, too
    # Values by the full key of an option: a list of choices, or {low: ..., high: ..., log: true} or {..., step: ...}.
    space: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExperimentConfig:
    """A resolved experiment."""

    name: str = MISSING  # the experiment file's name
    description: str = ""
    variant: str = "default"
    seed: int = option(0, _SEED)
    data_seed: int = option(0, _SEED)  # the same clips for every seed, so that seeds differ by training alone
    seeds: list[int] = option([0], each(_SEED))  # what `cogvid ablate` repeats every variant with
    # Modules, or ./files.py beside the file that names them; lists of bases, the file, variant and command line add up.
    plugins: list[str] = option([], each(not_blank(), least=0))
    video: VideoConfig = field(default_factory=VideoConfig)
    text: TextConfig = field(default_factory=TextConfig)
    data: ComponentConfig = field(default_factory=ComponentConfig)
    frame_rate: ComponentConfig = field(default_factory=ComponentConfig)
    frame_tokenizer: ComponentConfig = field(default_factory=ComponentConfig)
    text_tokenizer: ComponentConfig = field(default_factory=ComponentConfig)
    attention: ComponentConfig = field(default_factory=ComponentConfig)
    interpolation: ComponentConfig = field(default_factory=ComponentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    search: SearchConfig | None = None  # of `cogvid search`; no run depends on it
