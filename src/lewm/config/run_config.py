"""All settings of a run, and their full names."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lewm.config.checks import at_least, require, shown
from lewm.config.common import ActionConfig, DataConfig, EvalConfig, PlanConfig, TrainConfig
from lewm.config.family_settings import FamilySettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of a run. They start from a preset: `lewm.preset("tiny")`."""

    preset: str = ""
    """Preset that the settings started from."""
    seed: int = 0
    """Seed of weights, batches, masks and planning."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes CUDA, then MPS, then the CPU."""
    action: ActionConfig = field(default_factory=ActionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: FamilySettings = field(default_factory=FamilySettings)
    train: TrainConfig = field(default_factory=TrainConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def model_action_size(self) -> int:
        """Length of one model action: the frame-skip's sub-actions, concatenated."""
        per_step = 1 if self.action.kind == "discrete" else self.action.size
        return self.data.frame_skip * per_step

    def __post_init__(self) -> None:
        if not self.model.family:
            raise ValueError(
                "preset=: must name the settings to start from, which differ from family to family; use "
                'lewm.preset("tiny")'
            )
        at_least(self, "", 0, "seed", remedy="use 0")
        for group in (self.action, self.data, self.model, self.train, self.plan, self.eval):
            group.validate()
        require(
            not self.model.plans or self.plan.cost != "steps_to_go" or self.train.cost_steps > 0,
            "train.cost_steps",
            self.train.cost_steps,
            "plan.cost=steps_to_go needs its head trained",
            "use 2000, or plan.cost tokens",
        )
        if self.action.kind == "none" and not self.model.learns_from_images:
            raise ValueError(
                f"model.family={self.model.family}: with these settings, learns from actions and next frames, which "
                "images do not have; use --preset literal, which learns from masked contexts"
            )


def setting_types(config: Config) -> dict[str, Any]:
    """Return the type of every setting by its full name; which there are depends on the family."""
    types: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(Config).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            inner = typing.get_type_hints(type(value))
            types |= {f"{name}.{key.name}": inner[key.name] for key in dataclasses.fields(value)}
        else:
            types[name] = hint
    return types


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by full name, `{"model": {"slowness": 0.0}}` as `{"model.slowness": 0.0}`."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        inner = {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, Mapping) else {name: value}
        for full in inner.keys() & named.keys():
            raise ValueError(f"{shown(full)}={shown(inner[full])}: is given twice; leave one out")
        named |= inner
    return named
