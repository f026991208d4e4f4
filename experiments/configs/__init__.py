"""Named runs as typed, frozen values, with the papers' numbers beside them."""

from experiments.configs.base import Config, ModelConfig, NamedConfig, OptimizerConfig, ScheduleConfig

__all__ = ["Config", "ModelConfig", "NamedConfig", "OptimizerConfig", "ScheduleConfig"]
