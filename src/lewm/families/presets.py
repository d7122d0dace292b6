"""The table of families, their presets, and `config.json`. No torch.

A new family is a folder with `settings.py` and `model.py`, and a line in `FAMILIES`; see docs/extending.md.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lewm.config import Config, DataConfig, FamilySettings, PlanConfig, TrainConfig, flat, setting_types
from lewm.config.checks import require, shown
from lewm.config.choices import found_at
from lewm.config.typed import as_field, build, misfit
from lewm.families.article.settings import ArticleSettings
from lewm.families.compact.settings import CompactSettings
from lewm.families.published.settings import PublishedSettings
from lewm.names import did_you_mean

SCHEMA_VERSION = 2
LATER: frozenset[str] = frozenset({"eval.protocol", "plan.proposals", "model.proprio"})
"""Settings that came later: a run that does not name them had their defaults."""

FAMILIES: dict[str, tuple[type[FamilySettings], str]] = {
    name: (found_at(f"lewm.families.{settings}"), f"lewm.families.{model}")
    for name, settings, model in (
        ("article", "article.settings:ArticleSettings", "article.model:Article"),
        ("compact", "compact.settings:CompactSettings", "compact.model:Compact"),
        ("published", "published.settings:PublishedSettings", "published.model:Published"),
        ("frozen", "frozen.settings:FrozenSettings", "frozen.model:Frozen"),
        ("tdmpc2", "rivals.rival_settings:TDMPC2Settings", "rivals.tdmpc2:TDMPC2"),
        ("dreamer", "rivals.rival_settings:DreamerSettings", "rivals.dreamer:Dreamer"),
        ("gcbc", "rivals.rival_settings:GCBCSettings", "rivals.gcbc:GCBC"),
    )
}
"""Settings and model of each family, by the name that `model.family` has."""

_SMALL: dict[str, Any] = {"stem_channels": (16, 32), "width": 96, "depth": 3, "num_heads": 3}
_SMALL_PREDICTOR: dict[str, Any] = {"predictor_width": 64, "predictor_depth": 3, "predictor_heads": 2}

_LARGE = Config(preset="large", model=CompactSettings(), plan=PlanConfig(over="sum", hold=None))
_BASE = replace(
    _LARGE,
    preset="base",
    model=CompactSettings(stem_channels=(32, 64), width=192, num_heads=3, predictor_width=96, predictor_heads=2),
    train=TrainConfig(steps=20_000, batch_size=128),
)
_TINY = Config(
    preset="tiny",
    data=DataConfig(frame_skip=3),
    model=CompactSettings(image_size=64, **_SMALL, **_SMALL_PREDICTOR),
    train=TrainConfig(
        steps=2000, batch_size=32, learning_rate=2e-3, warmup=0.1, precision="float32", checkpoint_every=250
    ),
    plan=PlanConfig(over="sum", hold=None, horizon=5, execute=2),
)
# The article as it is written: trimmed contexts alone, the token spectrum at 0.1, targets as the encoder gives them.
_LITERAL = Config(
    preset="literal", model=ArticleSettings(), plan=PlanConfig(cost="tokens"), train=TrainConfig(cost_steps=0)
)
# As released: LeWM's own sizes, optimiser and planner, which judges the last of five model steps by its distance and
# carries out all five before it plans again.
_PUBLISHED_PLAN = PlanConfig(
    cost="tokens", over="last", horizon=5, execute=5, candidates=300, elites=30, iterations=30, hold=False
)
_PUBLISHED = Config(
    preset="published",
    data=DataConfig(frame_skip=5),
    model=PublishedSettings(),
    train=TrainConfig(
        steps=139_000, batch_size=128, learning_rate=5e-5, final_learning_rate=0.0, warmup=0.01, weight_decay=1e-3,
        cost_steps=0,
    ),
    plan=_PUBLISHED_PLAN,
)  # fmt: skip
_PUBLISHED_SMALL = replace(
    _PUBLISHED,
    preset="published-small",
    model=PublishedSettings(
        image_size=70, width=96, depth=4, projector_width=256, predictor_depth=3, predictor_heads=4,
        predictor_head_width=32, predictor_mlp_width=256, num_directions=256,
    ),
    train=TrainConfig(
        steps=4000, batch_size=64, learning_rate=5e-4, final_learning_rate=0.0, warmup=0.01, weight_decay=1e-3,
        precision="float32", checkpoint_every=250, cost_steps=0,
    ),
    plan=replace(_PUBLISHED_PLAN, candidates=128, elites=16, iterations=9),
)  # fmt: skip
_OWN = (_TINY, _BASE, _LARGE, _LITERAL, _PUBLISHED, _PUBLISHED_SMALL)
# A family without a preset above has one of its own name, on the data, steps and planner of `tiny`: its settings as
# they are, or with sizes of these.
_SIZES: dict[str, dict[str, Any]] = {"gcbc": _SMALL}
_PLAIN = [
    replace(_TINY, preset=name, model=settings(**_SIZES.get(name, {})))
    for name, (settings, _) in FAMILIES.items()
    if name not in {config.model.family for config in _OWN}
]
PRESETS = {config.preset: config for config in (*_OWN, *_PLAIN)}
"""Settings to start from, by name."""


def preset(name: str, settings: Mapping[str, Any] | None = None) -> Config:
    """Return the settings of a preset, some of them replaced: `preset("tiny", {"train.steps": 100})`.

    Args:
        name: One of `PRESETS`.
        settings: Values by full name, `{"model.slowness": 0.0}`, or by group, `{"model": {"slowness": 0.0}}`.

    Raises:
        ValueError: If there is no such preset or setting, or a value is of another type or out of range.
    """
    if name not in PRESETS:
        remedy = did_you_mean(name, PRESETS, "give one of them")
        raise ValueError(f"preset={shown(name)}: must be one of {', '.join(PRESETS)}; {remedy}")
    return with_settings(PRESETS[name], settings or {})


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return a configuration with some settings replaced, and checked.

    Args:
        config: The others.
        settings: Values by full name, `{"model.slowness": 0.0}`, or by group, `{"model": {"slowness": 0.0}}`.

    Raises:
        ValueError: If there is no such setting, or its value is of another type or out of range.
    """
    known = setting_types(config)
    top: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, given in flat(settings).items():
        if name not in known:
            raise ValueError(f"{shown(name)}={shown(given)}: {not_a_setting(str(name), config)}")
        value = as_field(given, known[name])
        group, _, field = name.rpartition(".")
        wrong, before = misfit(value, known[name]), getattr(getattr(config, group) if group else config, field)
        require(
            not wrong, name, value, wrong, "leave it out" if before == () else f"use a value such as {shown(before)}"
        )
        (parts.setdefault(group, {}) if group else top)[field] = value
    made = replace(config, **top, **{group: replace(getattr(config, group), **part) for group, part in parts.items()})
    made.plan.refuse_unread(config.plan)
    return made


def not_a_setting(name: str, config: Config) -> str:
    """Say why there is no setting of that name: another family has it, or it is mistyped."""
    mistyped = f"is not a setting; {did_you_mean(name, setting_types(config), 'see `lewm train --help`')}"
    return of_another_family(name, config) or mistyped


def of_another_family(name: str, config: Config) -> str | None:
    """Say which families have a setting of that name; None if none has."""
    group, _, field = name.rpartition(".")
    families: dict[str, list[str]] = {}
    for other in PRESETS.values():
        if field in other.model.__dataclass_fields__:
            families.setdefault(other.model.family, []).append(other.preset)
    if group != "model" or not families:
        return None
    listed = (f"{family} (--preset {' or '.join(presets)})" for family, presets in families.items())
    return (
        f"is a setting of {' and '.join(listed)}, and the family here is {config.model.family}; leave it out, or start "
        "from a preset that has it"
    )


def to_json(config: Config) -> str:
    """Write a configuration as JSON."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(config)}, indent=2)


def from_json(text: str, source: str) -> Config:
    """Read a configuration; `source` names the file in errors.

    Raises:
        ValueError: If it is not JSON, of another schema, or has an unknown, missing or mistyped setting.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not JSON ({error}); restore the file or train again") from None
    version = raw.pop("schema_version", None) if isinstance(raw, dict) else None
    remedy = "train again: before, all families shared one set of settings" if version == 1 else "train again"
    require(version == SCHEMA_VERSION, f"{source}: schema_version", version, f"must be {SCHEMA_VERSION}", remedy)
    members = {name: settings for name, (settings, _) in FAMILIES.items()}
    return build(Config, raw, source, unions={"model": members}, later=LATER)
