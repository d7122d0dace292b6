"""The studies behind docs/results.md: each lever of the recipe by itself, and rivals, on equal data, steps and seeds.

    python benchmarks/ablate.py --study recipe --seeds 0 --jobs 2
    python benchmarks/ablate.py --list
    python benchmarks/ablate.py --tables docs/results.md --figures docs

This is `lewm ablate benchmarks/ablate.py --out benchmarks/results/ablate.jsonl` with the options given. Jobs that are
in the file of results are not done again; a command that was stopped goes on when it is given again. Run it from the
repository's root, since one variant names the encoder that it starts from by its path there.
"""

import dataclasses
import sys
from pathlib import Path

from lewm.ablate import Rival, Study, Table, TaskData
from lewm.ablate.table import Settings
from lewm.cli import main
from lewm.config import flat, preset

OUT = Path(__file__).parent / "results" / "ablate.jsonl"
ROOMS, ALL = ("two-room", "two-room-discrete"), ("two-room", "two-room-discrete", "push-t")

# Push-T needs these (docs/results.md); a variant that masks contexts turns them off, since they need whole frames.
PUSH_T = {
    "data.frame_skip": 5,
    "model.residual": True,
    "loss.slowness": 0.1,
    "loss.inverse": 0.5,
    "train.learning_rate": 1e-3,
    "train.steps": 4000,
    "plan.cost": "tokens",
    "plan.execute": 1,
    "plan.iterations": 9,
    "eval.split_episodes": 0,  # its dynamics take minutes for each
}
REACHER = {"data.frame_skip": 5, "train.steps": 2000, "plan.execute": 1, "eval.split_episodes": 0}
TOKENS = {"model.latent": "tokens", "model.mask_tokens": True}
MASKED = TOKENS | {"mask.full_context_prob": 0.0, "model.residual": False, "loss.inverse": 0.0}
ROOM = {"train.steps": 1000, "eval.split_episodes": 20}
SHORT = {"eval.episodes": 100}


def difference(one: str, other: str) -> dict[str, object]:
    """Return the settings in which a preset differs from another of the same sizes."""
    before, after = (named(dataclasses.asdict(preset(name))) for name in (one, other))
    return {name: value for name, value in after.items() if value != before[name]}


def named(config: dict[str, object]) -> dict[str, object]:
    """Return the settings that a variant may change by full name."""
    return flat({group: config[group] for group in ("model", "mask", "loss", "train", "plan")})


ARTICLE = difference("paper", "literal") | {"model.residual": False, "loss.inverse": 0.0}
# The published planner judges the last of five model steps, and carries out all five before it plans again.
PUBLISHED_PLAN = {
    "model.history": 3,
    "plan.cost": "tokens",
    "plan.over": "last",
    "plan.horizon": 5,
    "plan.execute": 5,
    "plan.hold": True,  # with discrete actions too: free ones reached fewer goals in a trial on other episodes
}
PUBLISHED = PUBLISHED_PLAN | {
    "model.latent": "frame",
    "model.action_conditioning": "film",
    "model.final_norm": "none",
    "model.residual": False,
    "loss.form": "mse",
    "loss.target_gradient": True,
    "loss.regulariser": "gaussian",
    "loss.apply_to": "tokens",
    "loss.slowness": 0.0,
    "loss.inverse": 0.0,
}

RECIPE: dict[str, Settings] = {
    "ours": {},
    "tokens, in place": {"model.latent": "tokens"},
    "tokens, at mask tokens": TOKENS,
    "at a mask token": {"model.mask_tokens": True},
    "slowness 0": {"loss.slowness": 0.0},
    "slowness 0.3": {"loss.slowness": 0.3},
    "slowness 3": {"loss.slowness": 3.0},
    "inverse dynamics 0.5": {"loss.inverse": 0.5},
    "inverse dynamics 0.5, slowness 0": {"loss.inverse": 0.5, "loss.slowness": 0.0},
    "residual": {"model.residual": True},
    "residual, inverse dynamics 0.5": {"model.residual": True, "loss.inverse": 0.5},
    "residual, inverse dynamics 0.5, slowness 0.1": {
        "model.residual": True,
        "loss.inverse": 0.5,
        "loss.slowness": 0.1,
    },
    "no regulariser": {"loss.regulariser": "none"},
    "spectral": {"loss": {"regulariser": "spectral", "weight": 0.1}},
    "weight x 0.2": {"loss.weight": 0.004},
    "weight x 5": {"loss.weight": 0.1},
    "weight warm-up 0.2": {"loss.weight_warmup": 0.2},
    "final LayerNorm": {"model.final_norm": "layer"},
    "final RMS norm": {"model.final_norm": "rms"},
    "no final norm": {"model.final_norm": "none"},
    "2 rollout steps": {"train.rollout_steps": 2},
    "4 rollout steps": {"train.rollout_steps": 4},
    "straightening 0.1, 2 rollout steps": {"loss.straightening": 0.1, "train.rollout_steps": 2},
    "EMA 0.996 to 1": {"train": {"ema_start": 0.996, "ema_end": 1.0}},
    "no EMA": {"train": {"ema_start": 0.0, "ema_end": 0.0}},
    "gradient through the target": {"loss.target_gradient": True},
    "target encoder at inference": {"model.inference_encoder": "target"},
    "history 3": {"model.history": 3},
    "tokens, Gaussian on tokens": TOKENS | {"loss.apply_to": "tokens"},
    "tokens, spectral on centred tokens": TOKENS
    | {"loss": {"regulariser": "spectral", "weight": 0.1, "apply_to": "tokens", "centre": "position"}},
    "tokens, half of the contexts masked": MASKED | {"mask.full_context_prob": 0.5},
    "tokens, masked contexts": MASKED,
}

# On Push-T residual prediction and inverse dynamics are part of ours.
PUSH_T_RECIPE: dict[str, Settings] = {
    **{name: changes for name, changes in RECIPE.items() if "residual" not in name and "inverse" not in name},
    "no residual": {"model.residual": False},
    "no inverse dynamics": {"loss.inverse": 0.0},
    "no residual, no inverse dynamics, slowness 1": {
        "model.residual": False,
        "loss.inverse": 0.0,
        "loss.slowness": 1.0,
    },
}

RIVALS: dict[str, Settings | Rival] = {
    "ours": {},
    "article": ARTICLE,
    "published form": PUBLISHED,
    "random encoder": {"train.train_encoder": False},
    "no regulariser": {"loss.regulariser": "none"},
    "VICReg": {"loss.regulariser": "vicreg"},
    "Barlow Twins": {"loss.regulariser": "barlow"},
    # The weight of ours is small, since the sketched Gaussian grows with the batch; this is VICReg's own proportion.
    "VICReg, weight 0.5": {"loss": {"regulariser": "vicreg", "weight": 0.5}},
    "Barlow Twins, weight 0.5": {"loss": {"regulariser": "barlow", "weight": 0.5}},
    "spectral": {"loss": {"regulariser": "spectral", "weight": 0.1}},
    "tokens": TOKENS,
    **{name: Rival(name) for name in ("tdmpc2", "dreamer", "gcbc")},
    "swm-lewm": Rival("swm-lewm", PUBLISHED_PLAN),
}

# Each task's own planner instead, with the distance of representations as its cost, and sub-actions held as above.
OUR_PLAN = {
    "published form, our planner": {k: v for k, v in PUBLISHED.items() if not k.startswith("plan.")}
    | {"plan.cost": "tokens", "plan.hold": True}
}
BY_DISTANCE: dict[str, Settings] = {"ours, by distance": {"plan.cost": "tokens"}}
LEARNT = {
    "published form, learnt cost": {k: v for k, v in PUBLISHED.items() if not k.startswith("plan.")}
    | {"plan.cost": "steps_to_go"}
}
REACHER_RECIPE = {
    name: (RECIPE | RIVALS | OUR_PLAN | BY_DISTANCE | LEARNT)[name]
    for name in (
        "ours", *BY_DISTANCE, "history 3", "residual, inverse dynamics 0.5", "gcbc", "published form", *OUR_PLAN,
        *LEARNT, "random encoder",
    )
}  # fmt: skip
PROTOCOL = {
    name: (RIVALS | OUR_PLAN)[name]
    for name in ("ours", "published form", *OUR_PLAN, "gcbc", "no regulariser", "tdmpc2", "dreamer")
}

# What is due to the model, and what to the way it is planned with: five steps of frame-skip 5 reach the goal's 25.
SKIP = PUBLISHED | {"data.frame_skip": 5}
PLANNERS: dict[str, Settings] = {
    "ours": {},
    **BY_DISTANCE,
    "published form": PUBLISHED,
    **LEARNT,
    "published form, frame-skip 5": SKIP,
    "published form, frame-skip 5, 300 x 30": SKIP | {"plan.candidates": 300, "plan.iterations": 30, "plan.elites": 30},
}

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

CLAIMS: dict[str, Settings] = {
    "ours": {},
    "article": ARTICLE,
    **{f"article, weight {weight:g}": ARTICLE | {"loss.weight": weight} for weight in (0.01, 0.05, 0.5, 1.0)},
    "article, whole frames": ARTICLE | {"mask.full_context_prob": 1.0},
    "article, squared error": ARTICLE | {"loss.form": "mse"},
    **{
        f"article, {name}": ARTICLE | {"loss.regulariser": regulariser}
        for name, regulariser in (("no regulariser", "none"), ("VICReg", "vicreg"), ("Barlow Twins", "barlow"))
    },
    "article, no EMA": ARTICLE | {"train.ema_start": 0.0, "train.ema_end": 0.0},
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
