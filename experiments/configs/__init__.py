"""Named runs as typed, frozen values, with the numbers that their papers published."""

from experiments.configs.base import Config, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from experiments.configs.named import Comparison, NamedConfig, NamedRun

__all__ = [
    "Comparison",
    "Config",
    "ModelConfig",
    "NamedConfig",
    "NamedRun",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
]
