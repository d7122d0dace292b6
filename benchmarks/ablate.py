"""The studies behind docs/results.md: each lever of the recipe by itself, and rivals, on equal data, steps and seeds.

    python benchmarks/ablate.py --study recipe --seeds 0 --jobs 2
    python benchmarks/ablate.py --list
    python benchmarks/ablate.py --tables docs/results.md --figures docs

This is `lewm ablate benchmarks/ablate.py --out benchmarks/results/ablate.jsonl` with the options given. Jobs that are
in the file of results are not done again; a command that was stopped goes on when it is given again. Run it from the
repository's root, since one variant names the encoder that it starts from by its path there.
"""

import sys
from pathlib import Path

from lewm.cli import main
from lewm.research import ModelOf, Study, Table, TaskData
from lewm.research.table import Settings

OUT = Path(__file__).parent / "results" / "ablate.jsonl"
ROOMS, ALL = ("two-room", "two-room-discrete"), ("two-room", "two-room-discrete", "push-t")

# Push-T needs these (docs/results.md); a variant that masks contexts turns them off, since they need whole frames.
PUSH_T = {
    "data.frame_skip": 5,
    "model.residual": True,
    "model.slowness": 0.1,
    "model.inverse": 0.5,
    "train.learning_rate": 1e-3,
    "train.steps": 4000,
    "plan.cost": "tokens",
    "plan.execute": 1,
    "plan.iterations": 9,
    "eval.split_episodes": 0,  # its dynamics take minutes for each
}
REACHER = {"data.frame_skip": 5, "train.steps": 2000, "plan.execute": 1, "eval.split_episodes": 0}
ROOM = {"train.steps": 1000, "model.slowness": 1.0, "eval.split_episodes": 20}
SHORT = {"eval.episodes": 100}

# The sizes of the preset `tiny`.
SIZES = {
    "model.stem_channels": (16, 32),
    "model.width": 96,
    "model.depth": 3,
    "model.num_heads": 3,
    "model.predictor_width": 64,
    "model.predictor_depth": 3,
    "model.predictor_heads": 2,
}


def article(settings: Settings | None = None) -> ModelOf:
    """Return the article's system at these sizes, judged by its own distance, with some settings replaced."""
    as_written = {
        "model.residual": False,
        "model.slowness": 0.0,
        "model.inverse": 0.0,
        "train.cost_steps": 0,
        "plan.cost": "tokens",
        "plan.over": "last",
        "plan.hold": False,
    }
    return ModelOf("literal", SIZES | as_written | dict(settings or {}))


def tokens(settings: Settings | None = None) -> ModelOf:
    """Return our recipe with a token a patch in place of one vector a frame, with some settings replaced."""
    recipe = {
        "model.final_norm": "unit",
        "model.full_context_prob": 1.0,
        "model.regulariser": "gaussian",
        "model.regulariser_weight": 0.02,
        "model.apply_to": "frame",
        "model.ema_start": 0.95,
        "model.ema_end": 0.995,
    }
    return ModelOf("literal", SIZES | recipe | dict(settings or {}))


MASKED = {"model.full_context_prob": 0.0, "model.residual": False, "model.inverse": 0.0}

RECIPE: dict[str, Settings | ModelOf] = {
    "ours": {},
    "tokens, in place": tokens({"model.mask_tokens": False}),
    "tokens, at mask tokens": tokens(),
    "slowness 0": {"model.slowness": 0.0},
    "slowness 0.3": {"model.slowness": 0.3},
    "slowness 3": {"model.slowness": 3.0},
    "inverse dynamics 0.5": {"model.inverse": 0.5},
    "inverse dynamics 0.5, slowness 0": {"model.inverse": 0.5, "model.slowness": 0.0},
    "residual": {"model.residual": True},
    "residual, inverse dynamics 0.5": {"model.residual": True, "model.inverse": 0.5},
    "residual, inverse dynamics 0.5, slowness 0.1": {
        "model.residual": True,
        "model.inverse": 0.5,
        "model.slowness": 0.1,
    },
    "no regulariser": {"model.regulariser": "none"},
    "spectral": {"model": {"regulariser": "spectral", "regulariser_weight": 0.1}},
    "weight x 0.2": {"model.regulariser_weight": 0.004},
    "weight x 5": {"model.regulariser_weight": 0.1},
    "final LayerNorm": {"model.final_norm": "layer"},
    "final RMS norm": {"model.final_norm": "rms"},
    "no final norm": {"model.final_norm": "none"},
    "2 rollout steps": {"model.rollout_steps": 2},
    "4 rollout steps": {"model.rollout_steps": 4},
    "EMA 0.996 to 1": {"model": {"ema_start": 0.996, "ema_end": 1.0}},
    "no EMA": {"model": {"ema_start": 0.0, "ema_end": 0.0}},
    "gradient through the target": {"model.target_gradient": True},
    "history 3": {"model.history": 3},
    "tokens, Gaussian on tokens": tokens({"model.apply_to": "tokens"}),
    "tokens, spectral on centred tokens": tokens(
        {
            "model.regulariser": "spectral",
            "model.regulariser_weight": 0.1,
            "model.apply_to": "tokens",
            "model.centre": "position",
        }
    ),
    "tokens, half of the contexts masked": tokens(MASKED | {"model.full_context_prob": 0.5}),
    "tokens, masked contexts": tokens(MASKED),
}

# On Push-T residual prediction and inverse dynamics are part of ours.
PUSH_T_RECIPE: dict[str, Settings | ModelOf] = {
    **{name: changes for name, changes in RECIPE.items() if "residual" not in name and "inverse" not in name},
    "no residual": {"model.residual": False},
    "no inverse dynamics": {"model.inverse": 0.0},
    "no residual, no inverse dynamics, slowness 1": {
        "model.residual": False,
        "model.inverse": 0.0,
        "model.slowness": 1.0,
    },
}

# The published model at a size for a CPU, by its own weight, schedule, frame-skip, history and planner: it judges the
# last of five model steps by its distance and carries out all five before it plans again. Frames of 70 pixels, since
# its patches are of 14.
PUBLISHED = ModelOf(
    "published-small",
    {
        "model.image_size": 70,
        "data.frame_skip": 5,
        "train": {
            "steps": 3000, "learning_rate": 1e-3, "final_learning_rate": 0.0, "warmup": 0.01, "weight_decay": 1e-3,
            "cost_steps": 0,
        },
        "plan": {
            "cost": "tokens", "over": "last", "horizon": 5, "execute": 5, "hold": False, "candidates": 128,
            "elites": 16, "iterations": 10,
        },
    },
)  # fmt: skip

RIVALS: dict[str, Settings | ModelOf] = {
    "ours": {},
    "article": article(),
    "published": PUBLISHED,
    "random encoder": {"train.train_encoder": False},
    "no regulariser": {"model.regulariser": "none"},
    "VICReg": {"model.regulariser": "vicreg"},
    "Barlow Twins": {"model.regulariser": "barlow"},
    # The weight of ours is small, since the sketched Gaussian grows with the batch; this is VICReg's own proportion.
    "VICReg, weight 0.5": {"model": {"regulariser": "vicreg", "regulariser_weight": 0.5}},
    "Barlow Twins, weight 0.5": {"model": {"regulariser": "barlow", "regulariser_weight": 0.5}},
    "spectral": {"model": {"regulariser": "spectral", "regulariser_weight": 0.1}},
    "tokens": tokens(),
    **{name: ModelOf(name) for name in ("tdmpc2", "dreamer", "gcbc")},
}

BY_DISTANCE: dict[str, Settings] = {"ours, by distance": {"plan.cost": "tokens"}}
REACHER_RECIPE = {
    name: (RECIPE | RIVALS | BY_DISTANCE)[name]
    for name in ("ours", *BY_DISTANCE, "history 3", "residual, inverse dynamics 0.5", "gcbc", "random encoder")
}
PROTOCOL = {name: RIVALS[name] for name in ("ours", "gcbc", "no regulariser", "tdmpc2", "dreamer")}
PLANNERS: dict[str, Settings] = {"ours": {}, **BY_DISTANCE}

COST: dict[str, Settings] = {
    **{
        f"{cost}, {over}": {"plan.cost": cost, "plan.over": over}
        for cost in ("tokens", "pooled", "steps_to_go")
        for over in ("last", "sum")
    },
    "MPPI": {"plan.planner": "mppi"},
    "sub-actions held": {"plan.hold": True},
    "sub-actions free": {"plan.hold": False},
}

BUDGET: dict[str, Settings] = {
    f"{candidates} x {iterations}": {"plan.candidates": candidates, "plan.iterations": iterations}
    for candidates in (16, 64, 256)
    for iterations in (1, 3, 9)
}

DATA: dict[str, Settings] = {
    f"1/{part}" if part > 1 else "all": {"data.train_share": 1 / part} for part in (8, 4, 2, 1)
}

CLAIMS: dict[str, Settings | ModelOf] = {
    "ours": {},
    "article": article(),
    **{
        f"article, weight {weight:g}": article({"model.regulariser_weight": weight})
        for weight in (0.01, 0.05, 0.5, 1.0)
    },
    "article, whole frames": article({"model.full_context_prob": 1.0}),
    "article, squared error": article({"model.loss_form": "mse"}),
    **{
        f"article, {name}": article({"model.regulariser": regulariser})
        for name, regulariser in (("no regulariser", "none"), ("VICReg", "vicreg"), ("Barlow Twins", "barlow"))
    },
    "article, no EMA": article({"model.ema_start": 0.0, "model.ema_end": 0.0}),
    **{
        f"{name}, {steps} steps": {"train.encoder_from": source, "train.steps": steps, "train.checkpoint_every": 250}
        for name, source in (("from scratch", ""), ("from Push-T's encoder", "src/lewm/pretrained/push-t"))
        for steps in (50, 250)
    },
    "linear stem": {"model.stem": "linear"},
    **{f"predictor width {width}": {"model.predictor_width": width} for width in (24, 48, 96)},
    **{f"predictor depth {depth}": {"model.predictor_depth": depth} for depth in (1, 2, 4, 6)},
    "width 48": {"model.width": 48},
    "width 192": {"model.width": 192},
    "actions by FiLM": {"model.action_conditioning": "film"},
    "actions by a token": {"model.action_conditioning": "token"},
}

TABLE = Table(
    preset="tiny",
    tasks={
        "two-room": TaskData(task="two-room", episodes=400, settings=ROOM),
        "two-room-discrete": TaskData(task="two-room-discrete", episodes=400, settings=ROOM),
        "push-t": TaskData(task="push-t", episodes=500, settings=PUSH_T),
        "reacher": TaskData(task="reacher", episodes=300, settings=REACHER),
    },
    studies={
        "recipe": Study(variants=RECIPE, tasks=ROOMS, settings=SHORT, curve="step"),
        "recipe-push-t": Study(variants=PUSH_T_RECIPE, tasks=("push-t",), settings=SHORT),
        "protocol": Study(variants=PROTOCOL, tasks=ALL, settings={"eval.episodes": 200}),
        "planners": Study(variants=PLANNERS, tasks=ALL, settings=SHORT),
        "reacher": Study(variants=REACHER_RECIPE, tasks=("reacher",), settings=SHORT),
        "rivals": Study(variants=RIVALS, tasks=ALL, settings=SHORT, curve="prediction.horizon"),
        "cost": Study(variants=COST, tasks=ALL, settings=SHORT),
        "budget": Study(variants=BUDGET, tasks=ALL, settings=SHORT, curve="plan.candidates x plan.iterations"),
        "data": Study(variants=DATA, tasks=ALL, settings=SHORT, curve="data.train_share"),
        "claims": Study(
            variants=CLAIMS, tasks=ROOMS, seeds=range(5), settings=SHORT | {"eval.horizons": (1, 2, 4, 8, 16)}
        ),
    },
)

if __name__ == "__main__":
    sys.exit(main(["ablate", __file__, "--out", str(OUT), *sys.argv[1:]]))
