"""Configurations and a store that train within milliseconds; every setting is spelt out, so no default matters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm.config import ActionConfig, Config, DataConfig, PlanConfig, TrainConfig
from lewm.data import Store, StoreMeta, StoreWriter
from lewm.families.article.settings import ArticleSettings
from lewm.families.compact.settings import CompactSettings
from lewm.families.family import Batch, make_model
from lewm.families.presets import preset
from lewm.plan.steps_to_go import StepsToGo
from lewm.run_spec import CameraSpec, RunSpec, save_spec
from lewm.train.checkpoint import save_config, save_cost, save_weights

IMAGE = 32

SIZES: dict[str, Any] = {
    "image_size": IMAGE,
    "stem": "conv",
    "stem_channels": (4, 8),
    "patch_size": 2,
    "width": 16,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2,
    "final_norm": "unit",
    "predictor_width": 12,
    "predictor_depth": 1,
    "predictor_heads": 3,
    "action_conditioning": "add",
    "residual": False,
    "history": 1,
    "rollout_steps": 1,
    "ema_start": 0.9,
    "ema_end": 1.0,
}

TINY = Config(
    preset="tiny",
    seed=0,
    device="cpu",
    action=ActionConfig(kind="continuous", size=2),
    data=DataConfig(path="", frame_skip=1, held_out=0.2, split_seed=0),
    model=CompactSettings(
        **SIZES, regulariser="gaussian", regulariser_weight=0.02, slowness=1.0, inverse=0.0, target_gradient=False
    ),
    train=TrainConfig(
        steps=12,
        batch_size=8,
        learning_rate=1e-2,
        final_learning_rate=1e-4,
        warmup=0.25,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        eps=1e-8,
        clip_norm=1.0,
        precision="float32",
        compile=False,
        checkpoint_every=5,
        cost_steps=0,
        cost_reach=6,
    ),
    plan=PlanConfig(cost="tokens", horizon=3),
)
"""The shipped family."""
ARTICLE = replace(
    TINY,
    preset="literal",
    model=ArticleSettings(
        **SIZES,
        mask_tokens=True,
        mask_blocks=4,
        mask_scale=(0.15, 0.2),
        mask_aspect=(0.75, 1.5),
        context_ratio=0.5,
        full_context_prob=0.0,
        targets="all",
        beta=1.0,
        reduction="mean",
        regulariser="spectral",
        regulariser_weight=0.1,
        apply_to="tokens",
        centre="batch",
        inference_encoder="online",
    ),
)


def override(config: Config, settings: dict[str, Any]) -> Config:
    """Replace settings by their full name, such as `model.width`; `action.kind` and the like as well."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        group, _, field = name.rpartition(".")
        groups.setdefault(group, {})[field] = value
    top = groups.pop("", {})
    return replace(config, **top, **{group: replace(getattr(config, group), **part) for group, part in groups.items()})


def tiny(**settings: Any) -> Config:
    """Return TINY with some settings replaced; `model__width=8` stands for `model.width`."""
    return override(TINY, {name.replace("__", "."): value for name, value in settings.items()})


def tiny_article(**settings: Any) -> Config:
    """Return ARTICLE with some settings replaced, as `tiny` does."""
    return override(ARTICLE, {name.replace("__", "."): value for name, value in settings.items()})


def rival(name: str) -> Config:
    """Return the settings of a rival that trains within milliseconds."""
    model = replace(preset(name).model, image_size=IMAGE)
    return replace(TINY, preset=name, model=model)


def batch_of(frames: torch.Tensor, actions: torch.Tensor) -> Batch:
    """Return a batch of clips (B, T, height, width, 3) uint8 and actions (B, T-1, f*A)."""
    return Batch(frames, actions, np.arange(len(frames)))


def moving_dot(
    path: Path, *, episodes: int = 10, length: int = 16, speed: int = 1, lane: int = 1, discrete: bool = False
) -> Store:
    """Write a store of a bright square that crosses a dark frame; the action is its direction.

    It moves `speed` pixels a step, on rows and columns that are multiples of `lane`.
    """
    meta = StoreMeta(
        task="dot",
        image_size=IMAGE,
        action_kind="discrete" if discrete else "continuous",
        action_size=4 if discrete else 2,
        state_names=("x", "y"),
    )
    directions = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    rng = np.random.default_rng(0)
    with StoreWriter(path, meta) as writer:
        for number in range(episodes):
            chosen = number % 4
            step = directions[chosen]
            first = np.where(
                step > 0, 0, np.where(step < 0, IMAGE - 7, rng.integers(0, (IMAGE - 7) // lane + 1, 2) * lane)
            )
            place = first + speed * np.arange(length)[:, None] * step  # (L, 2)
            frames = np.full((length, IMAGE, IMAGE, 3), 30, np.uint8)
            for frame, (x, y) in zip(frames, place, strict=True):
                frame[y : y + 6, x : x + 6] = (220, 120, 40)
            actions = np.full(length, chosen) if discrete else np.repeat(step[None].astype(np.float32), length, 0)
            writer.append(frames, actions, place.astype(np.float32), seed=number)
    return Store(path)


def labelled_images(path: Path, *, groups: int = 10, size: int = 8, classes: int = 2, labelled: bool = True) -> Store:
    """Write a store of images without actions: stripes across, or down, and so on by class, of any colour and phase."""
    meta = StoreMeta(
        task="stripes",
        image_size=IMAGE,
        action_kind="none",
        action_size=0,
        state_names=("label",) if labelled else (),
        origin={"classes": [f"direction {k}" for k in range(classes)]},
    )
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:IMAGE, :IMAGE]
    with StoreWriter(path, meta) as writer:
        for number in range(groups):
            label = rng.integers(0, classes, size)
            turn = label * np.pi / classes
            along = x * np.cos(turn)[:, None, None] + y * np.sin(turn)[:, None, None]  # (M, height, width)
            wave = np.sin(along / 1.5 + rng.uniform(0, 2 * np.pi, (size, 1, 1)))
            colour = rng.uniform(20, 120, (size, 1, 1, 3))
            frames = (128 + wave[..., None] * colour).astype(np.uint8)
            states = label[:, None].astype(np.float32) if labelled else None
            writer.append(frames, np.empty((size, 0)), states, seed=number)
    return Store(path)


def untrained_run(path: Path, config: Config, spec: RunSpec | None = None, *, cost: bool = False) -> Path:
    """Write a run folder as training leaves it, with random weights and without data; with a learnt cost or without."""
    path.mkdir(parents=True)
    torch.manual_seed(0)
    save_config(path, config)
    save_weights(path, make_model(config))
    save_spec(path, spec or plain_spec(config))
    if cost:
        save_cost(path, StepsToGo(config.model.num_tokens, config.model.token_width))
    return path


def plain_spec(config: Config, **changes: Any) -> RunSpec:
    """Return what a run of these settings says of a robot of which little is known."""
    action, size = config.action, config.model.image_size
    count = action.size if action.kind == "continuous" else 0
    values: dict[str, Any] = {
        "task": "dot",
        "action_kind": action.kind,
        "action_size": action.size,
        "action_names": (),
        "control_mode": action.control_mode,
        "low": action.low or (-1.0,) * count,
        "high": action.high or (1.0,) * count,
        "max_change": action.max_change,
        "fps": None,
        "steps_in_row": 1,
        "frame_skip": config.data.frame_skip,
        "state_names": (),
        "image_size": size,
        "cameras": (CameraSpec(name="", fit=None, crop_box=None, left=0, top=0, width=size, height=size),),
        "held_out": config.data.held_out,
        "split_seed": config.data.split_seed,
        "origin": {},
        "package_version": "0.0.0",
    }
    return RunSpec(**values | changes)


def make_fused_optimizer(model: Any, train: TrainConfig) -> Any:
    """Build the optimiser as it is on a GPU, on the CPU: fused, and told on the device whether to step."""
    import torch  # only here: many of these stores' users need no torch, and importing it takes seconds

    from lewm.train.schedule import make_optimizer

    plain = make_optimizer(model, train)
    groups = [{name: group[name] for name in ("params", "weight_decay")} for group in plain.param_groups]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.betas, eps=train.eps, fused=True)
