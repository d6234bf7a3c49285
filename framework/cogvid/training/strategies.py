"""How the processes of a job share the work on a model: Lightning's engines, with the options of the configuration."""

from __future__ import annotations

from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from cogvid.config.schema import TrainerConfig
from cogvid.training import job
from cogvid.training.sharding import Sharding


def sharded(config: TrainerConfig) -> bool:
    """Whether weights and optimiser state live in shards: one process alone has them whole."""
    return config.strategy == "fsdp2" and job.processes() > 1


class _Sharded(ModelParallelStrategy):
    def model_to_device(self) -> None:
        """`Sharding` has put the weights where they belong, which may be the memory of the CPU."""


def strategy(config: TrainerConfig, sharding: Sharding | None) -> Strategy | str:
    """Of the trainer, for this job's processes.

    Args:
        config: of the trainer.
        sharding: of the stage's weights, if they are not whole in all processes.
    """
    if job.processes() == 1:
        return "auto"
    if sharding is not None:
        return _Sharded(data_parallel_size=job.processes(), tensor_parallel_size=1)
    options = config.ddp
    return DDPStrategy(bucket_cap_mb=options.bucket_mb, static_graph=options.static_graph, gradient_as_bucket_view=True)
