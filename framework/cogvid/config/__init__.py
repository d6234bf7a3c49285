"""Configuration: an experiment composed from YAML files into typed values, each with its source."""

from cogvid.config.compose import Resolved, differences, load_experiment, to_yaml
from cogvid.config.overrides import expand_sweeps
from cogvid.config.schema import ComponentConfig, ExperimentConfig
from cogvid.config.sources import experiment_names

__all__ = [
    "ComponentConfig",
    "ExperimentConfig",
    "Resolved",
    "differences",
    "expand_sweeps",
    "experiment_names",
    "load_experiment",
    "to_yaml",
]
