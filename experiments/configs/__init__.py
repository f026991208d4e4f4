"""Named runs as typed, frozen values, with the papers' numbers beside them."""

from experiments.configs.base import (
    Comparison,
    Config,
    ModelConfig,
    NamedConfig,
    NamedRun,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)

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
