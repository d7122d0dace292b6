"""Settings of a run: what every run has, what every family's settings have, and the checks. No torch."""

from lewm.config.common import ActionConfig, ControlMode, DataConfig, EvalConfig, EvalProtocol, PlanConfig, TrainConfig
from lewm.config.family_settings import EncoderSettings, FamilySettings, JepaSettings
from lewm.config.run_config import Config, flat, setting_types

__all__ = [
    "ActionConfig",
    "Config",
    "ControlMode",
    "DataConfig",
    "EncoderSettings",
    "EvalConfig",
    "EvalProtocol",
    "FamilySettings",
    "JepaSettings",
    "PlanConfig",
    "TrainConfig",
    "flat",
    "setting_types",
]
