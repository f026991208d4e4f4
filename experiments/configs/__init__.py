"""Named runs as typed, frozen values, with the papers' numbers beside them."""

from experiments.configs.base import (
    Config,
    ModelConfig,
    NamedConfig,
    NamedRun,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)

__all__ = [
    "Config",
    "ModelConfig",
    "NamedConfig",
    "NamedRun",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
]
