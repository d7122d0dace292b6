"""Settings: what is refused and with which words, the article's own numbers, and the JSON round trip."""

import dataclasses
import inspect
import json
import re
from typing import Any

import pytest

from lewm.config import Config, flat, setting_types
from lewm.families.article.settings import ArticleSettings
from lewm.families.presets import FAMILIES, PRESETS, from_json, preset, to_json, with_settings
from tiny import ARTICLE, TINY, override


def changed(settings: dict[str, Any]) -> Config:
    ours = all(name.rpartition(".")[2] in TINY.model.__dataclass_fields__ for name in settings if "model." in name)
    return override(TINY if ours else ARTICLE, settings)


BAD = [
    (
        {"model.image_size": 130, "model.patch_size": 4},
        "model.image_size=130: must be divisible by 16 (stem stride 4 x ",
    ),
    ({"model.image_size": 0}, "model.image_size=0: must be divisible by 8"),
    ({"model.patch_size": 0}, "model.patch_size=0: must be at least 1"),
    ({"model.width": 18}, "model.width=18: must be divisible by 4 (2-D positions) and by its 2 heads; use 16"),
    ({"model.predictor_width": 16}, "model.predictor_width=16: must be divisible by 4 (2-D positions) and by its 3"),
    ({"model.num_heads": 0}, "model.num_heads=0: must be at least 1"),
    ({"model.stem_channels": (0, 8)}, "model.stem_channels=(0, 8): must be at least 1"),
    ({"model.depth": 0}, "model.depth=0: must be at least 1"),
    ({"model.history": 5}, "model.history=5: must be 1 to 4 frames"),
    ({"model.history": 4, "model.rollout_steps": 5}, "model.rollout_steps=5: with model.history=4 a clip has 9 frames"),
    ({"model.rollout_steps": 0}, "model.rollout_steps=0: must be at least 1"),
    ({"action.size": 0}, "action.size=0: must be at least 1"),
    ({"action.kind": "none"}, "action.size=2: must be 0 without actions; use 0"),
    ({"action.kind": "none", "action.size": 0}, "model.family=compact: with these settings, learns from actions"),
    (
        {"action.kind": "none", "action.size": 0, "model.context_ratio": 1.0},
        "model.family=article: with these settings, learns from actions",
    ),
    ({"data.frame_skip": 0}, "data.frame_skip=0: must be at least 1"),
    ({"data.held_out": 1.0}, "data.held_out=1.0: must be between 0 and 1"),
    ({"data.split_seed": -1}, "data.split_seed=-1: must not be negative"),
    ({"seed": -1}, "seed=-1: must not be negative"),
    ({"model.mask_scale": (0.3, 0.2)}, "model.mask_scale=(0.3, 0.2): must be smallest and largest"),
    ({"model.mask_scale": (0.3, 1.2)}, "model.mask_scale=(0.3, 1.2): must not exceed 1"),
    ({"model.mask_aspect": (0.0, 1.0)}, "model.mask_aspect=(0.0, 1.0): must be smallest and largest"),
    ({"model.mask_blocks": 0}, "model.mask_blocks=0: must be at least 1"),
    ({"model.context_ratio": 0.0}, "model.context_ratio=0.0: must be in (0, 1]"),
    (
        {"model.context_ratio": 1.0, "model.targets": "blocks"},
        "model.targets=blocks: no position is outside the context",
    ),
    ({"model.full_context_prob": 1.5}, "model.full_context_prob=1.5: must be between 0 and 1"),
    ({"model.beta": 0.0}, "model.beta=0.0: must be positive"),
    ({"model.regulariser_weight": -0.1}, "model.regulariser_weight=-0.1: must not be negative"),
    ({"model.regulariser_weight": float("nan")}, "model.regulariser_weight=nan: must not be negative"),
    ({"train.steps": 0}, "train.steps=0: must be at least 1"),
    ({"train.batch_size": 1}, "train.batch_size=1: must be at least 2"),
    ({"train.learning_rate": 0.0}, "train.learning_rate=0.0: must be positive"),
    ({"train.final_learning_rate": -1e-3}, "train.final_learning_rate=-0.001: must not be negative"),
    ({"train.weight_decay": -1.0}, "train.weight_decay=-1.0: must not be negative"),
    ({"train.warmup": 1.0}, "train.warmup=1.0: must be a share of the run"),
    ({"train.betas": (0.9, 1.0)}, "train.betas=(0.9, 1.0): must be in [0, 1)"),
    ({"train.eps": 0.0}, "train.eps=0.0: must be positive"),
    ({"train.clip_norm": 0.0}, "train.clip_norm=0.0: must be positive"),
    ({"model.ema_start": 1.1}, "model.ema_start=1.1: must be between 0 and 1"),
    ({"train.checkpoint_every": 0}, "train.checkpoint_every=0: must be at least 1"),
    ({"train.cost_steps": -1}, "train.cost_steps=-1: must not be negative"),
    ({"train.cost_steps": 0, "plan.cost": "steps_to_go"}, "train.cost_steps=0: plan.cost=steps_to_go needs its head"),
    ({"plan.elites": 9, "plan.candidates": 8}, "plan.elites=9: must not exceed 8 candidates"),
    ({"plan.execute": 4}, "plan.execute=4: must not exceed horizon 3"),
    ({"plan.temperature": 0.0}, "plan.temperature=0.0: must be positive"),
    ({"eval.episodes": 0}, "eval.episodes=0: must be at least 1"),
    ({"eval.split_episodes": -1}, "eval.split_episodes=-1: must not be negative"),
    ({"eval.horizons": (2, 4)}, "eval.horizons=(2, 4): must increase, starting with 1"),
]


@pytest.mark.parametrize(
    ("settings", "message"), BAD, ids=lambda case: ",".join(case) if isinstance(case, dict) else ""
)
def test_refuses_in_one_line_with_a_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^.+: .+; .+") as error:
        changed(settings)
    text = str(error.value)
    assert text.startswith(message)
    assert "; use " in text or "; give " in text
    assert "\n" not in text


@pytest.mark.parametrize("name", PRESETS)
def test_the_value_that_a_remedy_names_is_accepted(name: str) -> None:
    """No number of any group may be below some bound; what the error names in place of it is fine."""
    config, refused = preset(name), 0
    for full, hint in setting_types(config).items():
        told = ""
        if hint in (int, float):
            try:
                with_settings(config, {full: -1})
            except ValueError as error:
                told = str(error)
        if told:
            refused += 1
            with_settings(config, {full: hint(re.findall("; use ([-0-9.e]+)", told)[0])})
    assert refused > 20


@pytest.mark.parametrize("name", PRESETS)
def test_images_are_learnt_from_masked_contexts_alone(name: str) -> None:
    images = {"action.kind": "none", "action.size": 0}
    if name == "literal":
        assert override(preset(name), images).model_action_size == 0
        return
    with pytest.raises(ValueError, match=r"^model\.family=.*, which images do not have; use --preset literal"):
        override(preset(name), images)


def test_settings_without_a_preset_are_refused() -> None:
    with pytest.raises(ValueError, match=r'^preset=: must name the settings .*; use lewm\.preset\("tiny"\)$'):
        Config()


def test_remedies_of_sizes_are_accepted() -> None:
    with pytest.raises(ValueError, match=r"use 128 or 144$"):
        changed({"model.image_size": 130, "model.patch_size": 4})
    for size in (128, 144):
        model = override(ARTICLE, {"model.image_size": size, "model.patch_size": 4}).model
        assert model.num_tokens == (size // 16) ** 2
    with pytest.raises(ValueError, match=r"use 8$"):
        changed({"model.image_size": 5})
    assert changed({"model.image_size": 8}).model.num_tokens == 1


def test_tokens_follow_the_image_size() -> None:
    for size, tokens in ((128, 64), (224, 196)):
        model: Any = dataclasses.replace(ARTICLE.model, image_size=size, patch_size=4)
        assert (model.effective_patch, model.num_tokens) == (16, tokens)


def test_model_action_size() -> None:
    assert changed({"data.frame_skip": 3}).model_action_size == 6
    assert changed({"data.frame_skip": 3, "action.kind": "discrete", "action.size": 9}).model_action_size == 3
    assert override(ARTICLE, {"action.kind": "none", "action.size": 0}).model_action_size == 0


def test_literal_is_the_article() -> None:
    """Section 5's table, with decision on the patch: 16 pixels."""
    c = preset("literal")
    m, t = c.model, c.train
    assert isinstance(m, ArticleSettings)
    assert (m.image_size, m.stem, m.effective_patch, m.num_tokens) == (128, "conv", 16, 64)
    assert (m.depth, m.num_heads, m.width, m.mlp_ratio) == (6, 6, 384, 4)
    assert (m.predictor_depth, m.predictor_heads, m.predictor_width) == (4, 4, 192)
    assert (m.action_conditioning, m.history, m.rollout_steps) == ("add", 1, 1)
    assert (t.betas, t.eps, t.learning_rate, t.final_learning_rate) == ((0.9, 0.999), 1e-8, 1.5e-3, 1e-5)
    assert (t.weight_decay, t.batch_size, t.clip_norm, t.precision) == (0.05, 256, 1.0, "bfloat16")
    assert (m.ema_start, m.ema_end, t.warmup) == (0.996, 1.0, 40 / 300)
    assert (m.regulariser, m.regulariser_weight, m.beta) == ("spectral", 0.1, 1.0)
    assert (m.apply_to, m.centre, m.slowness, m.inverse) == ("tokens", "batch", 0.0, 0.0)
    assert (m.mask_blocks, m.mask_scale, m.mask_aspect, m.targets) == (4, (0.15, 0.2), (0.75, 1.5), "all")
    assert (m.context_ratio, m.full_context_prob) == (0.25, 0.0)
    assert (c.plan.candidates, c.plan.horizon, c.plan.iterations) == (64, 8, 3)


def test_large_has_the_article_sizes() -> None:
    large, literal = preset("large").model, preset("literal").model
    for name in ("image_size", "stem", "stem_channels", "width", "depth", "num_heads", "predictor_width"):
        assert getattr(large, name) == getattr(literal, name)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^preset=larg: must be one of .*; did you mean large\?$"):
        preset("larg")
    for name in ("", "mega"):
        with pytest.raises(ValueError, match=r"gcbc; give one of them$"):
            preset(name)


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    config = preset(name)
    assert config.preset == name
    assert from_json(to_json(config), "config.json") == config


def test_json_round_trip_of_other_values() -> None:
    config = override(
        ARTICLE, {"model.context_ratio": None, "train.compile": True, "eval.horizons": (1, 3), "data.path": "é"}
    )
    assert from_json(to_json(config), "config.json") == config


def edited(path: str, value: Any) -> str:
    raw = json.loads(to_json(ARTICLE))
    *groups, name = path.split(".")
    part = raw
    for group in groups:
        part = part[group]
    if value is ...:
        del part[name]
    else:
        part[name] = value
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.width", ..., "f: model.width: is missing; restore the file or train again"),
        ("model", ..., "f: model: is missing; restore the file or train again"),
        ("model.widht", 8, "f: model.widht: is not a setting; did you mean model.width?"),
        ("optimiser", {}, "f: optimiser: is not a setting; leave it out"),
        ("model.width", "16", "f: model.width='16': must be int; restore the file"),
        ("model.width", True, "f: model.width=True: must be int"),
        ("model.width", 16.0, "f: model.width=16.0: must be int"),
        ("train.eps", "small", "f: train.eps='small': must be float"),
        ("train.compile", 1, "f: train.compile=1: must be bool"),
        ("model.stem", "mlp", "f: model.stem='mlp': must be one of conv, linear; restore the file"),
        ("model.mask_scale", [0.1], "f: model.mask_scale=(0.1,): must be tuple[float, float]"),
        ("model.mask_scale", 0.1, "f: model.mask_scale=0.1: must be tuple[float, float]"),
        ("model.context_ratio", "all", "f: model.context_ratio='all': must be float | None"),
        ("eval.horizons", [1, "2"], "f: eval.horizons=(1, '2'): must be tuple[int, ...]"),
        ("model", 3, "f: model=3: must be an object"),
        ("model.image_size", 33, "f: model.image_size=33: must be divisible by 8"),
        ("schema_version", 0, "f: schema_version=0: must be 2; train again"),
        ("schema_version", 1, "f: schema_version=1: must be 2; train again: before, all families shared one set of"),
        ("model.family", "articel", "f: model.family='articel': must be one of article, compact"),
        ("model.family", ["compact"], "f: model.family=['compact']: must be one of article, compact"),
        ("model.family", "compact", "f: model.mask_tokens: is not a setting; leave it out"),
    ],
)
def test_refuses_bad_json(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^.+: .+; .+") as error:
        from_json(edited(path, value), "f")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null"])
def test_refuses_what_is_no_configuration(text: str) -> None:
    with pytest.raises(ValueError, match=r"^f: (not JSON|schema_version=None)"):
        from_json(text, "f")


def test_an_integer_may_stand_for_a_real_number() -> None:
    eps = from_json(edited("train.eps", 1), "f").train.eps
    assert (eps, type(eps)) == (1.0, float)


def test_settings_are_replaced_by_full_name_or_by_group() -> None:
    named = {"model.slowness": 2, "model.stem_channels": [4, 8], "model.context_ratio": None, "seed": 3}
    config = with_settings(ARTICLE, named)
    assert config == override(ARTICLE, {**named, "model.slowness": 2.0, "model.stem_channels": (4, 8)})
    assert isinstance(config.model, ArticleSettings)
    assert isinstance(config.model.slowness, float)
    assert with_settings(TINY, {"model": {"slowness": 2}, "train": {}}) == override(TINY, {"model.slowness": 2.0})
    assert with_settings(TINY, {}) == TINY
    assert flat({"model": {"beta": 2.0}, "seed": 1}) == {"model.beta": 2.0, "seed": 1}


def test_a_preset_with_settings_of_its_own() -> None:
    changed = preset("tiny", {"train.steps": 100, "plan": {"horizon": 4}})
    assert changed == override(PRESETS["tiny"], {"train.steps": 100, "plan.horizon": 4})
    assert preset("tiny") == PRESETS["tiny"]
    with pytest.raises(ValueError, match=r"^train\.step=100: is not a setting; did you mean train\.steps\?$"):
        preset("tiny", {"train.step": 100})
    with pytest.raises(ValueError, match=r"^plan\.elites=65: must not exceed 64 candidates"):
        preset("tiny", {"plan.elites": 65})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model.slownes": 0.0}, "model.slownes=0.0: is not a setting; did you mean model.slowness?"),
        ({"loss": {"slowness": 0.0}}, "loss.slowness=0.0: is not a setting; did you mean model.slowness?"),
        ({"train.steps": True}, "train.steps=True: must be int; use a value such as 12"),
        (
            {"model.regulariser": "gauss"},
            "model.regulariser=gauss: must be one of none, spectral, gaussian, vicreg, barlow; use a "
            "value such as gaussian",
        ),
        ({"lr": 3}, "lr=3: is not a setting; see `lewm train --help`"),
        ({"loss": 3}, "loss=3: is not a setting"),
        (
            {"model.mask_blocks": 3},
            "model.mask_blocks=3: is a setting of article (--preset literal), and the family here is compact; leave it "
            "out, or start from a preset that has it",
        ),
        (
            {"model.rho": 0.4},
            "model.rho=0.4: is a setting of tdmpc2 (--preset tdmpc2), and the family here is compact; leave it out, or "
            "start from a preset that has it",
        ),
        (
            {"plan.temperature": 0.2},
            "plan.temperature=0.2: is a setting of mppi, and plan.planner=cem; leave it out, or use plan.planner=mppi",
        ),
        ({"plan": {"planner": "mppi", "elites": 4}}, "plan.elites=4: is a setting of cem, and plan.planner=mppi"),
        ({"model.beta": 1.0, "model": {"beta": 2.0}}, "model.beta=2.0: is given twice; leave one out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        with_settings(TINY, settings)


def test_every_setting_of_every_family_is_explained() -> None:
    """The docstring under a field is its help text; a field that a family only gives another value inherits it."""
    for settings, _ in FAMILIES.values():
        sources = [inspect.getsource(cls) for cls in settings.__mro__ if dataclasses.is_dataclass(cls)]
        for setting in dataclasses.fields(settings):
            texts = re.findall(
                rf'^    {setting.name}: [^\n]*\n    """(.*?)"""', "".join(sources), re.MULTILINE | re.DOTALL
            )
            assert texts, f"{settings.__name__}.{setting.name}"
            assert len(set(texts)) == len(texts), f"{settings.__name__}.{setting.name} is explained twice"
        assert len(re.findall('^    image_size: .*\n    "', "".join(sources), re.MULTILINE)) == 1
