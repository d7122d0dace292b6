"""Every setting of a run: frozen dataclasses, presets, validation, and the JSON file beside the weights.

The docstring under a field is also its help text on the command line. This module imports no torch.
"""

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lewm.names import did_you_mean

SCHEMA_VERSION = 1
ControlMode = Literal["unknown", "position", "displacement", "velocity"]
"""What a continuous action commands: where to be, how far to move from here, or how fast to move."""
LATER = frozenset(
    {"data.change_quantile", "plan.max_change", "plan.absolute", "plan.reached_below", "plan.correction"}
    | {f"action.{name}" for name in ("control_mode", "low", "high", "max_change")}
)
"""Settings that came later: a run or a result that does not name them had their defaults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionConfig:
    """What an action of the data is. Filled in from the store when training starts."""

    kind: Literal["continuous", "discrete", "none"] = "continuous"
    """Real vectors, one integer out of `size`, or none: images, which have no next frame either."""
    size: int = 2
    """Length of the action vector, the number of discrete actions, or 0 for none."""
    control_mode: ControlMode = "unknown"
    """What a continuous action commands: where to be, how far to move from here, or how fast to move."""
    low: tuple[float, ...] = ()
    """Smallest value of each entry of a continuous action in the training episodes."""
    high: tuple[float, ...] = ()
    """Largest value of each entry."""
    max_change: tuple[float, ...] = ()
    """How far each entry changes from one row to the next, at most, but for the rarest changes; see `action_range`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which clips are trained on."""

    path: str = ""
    """The store. Filled in from `--data` when training starts."""
    frame_skip: int = 1
    """Environment steps between two frames of a clip; a clip's action is that many sub-actions, concatenated."""
    held_out: float = 0.1
    """Share of the episodes that training never sees."""
    split_seed: int = 0
    """Seed of the split into training and held-out episodes."""
    train_share: float = 1.0
    """Share of the training episodes that is trained on; the held-out ones stay the same."""
    change_quantile: float = 0.99
    """Share of an action's changes between two rows that are within `action.max_change`; the others are rare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes and forms of the encoder and the predictor (article, sections 4.1-4.3 and 4.6)."""

    image_size: int = 128
    """Height and width of a frame in pixels."""
    stem: Literal["conv", "linear"] = "conv"
    """Two strided convolutions before the patches, or one linear patch projection."""
    stem_channels: tuple[int, int] = (64, 128)
    """Output channels of the two stem convolutions."""
    patch_size: int = 4
    """Side of a patch on the stem's feature map, which is 4 times smaller than the image."""
    width: int = 384
    """D: width of the encoder and of a representation token."""
    depth: int = 6
    """Transformer layers of the encoder."""
    num_heads: int = 6
    """Attention heads of the encoder."""
    mlp_ratio: int = 4
    """Hidden width of every transformer MLP, as a multiple of its width."""
    final_norm: Literal["unit", "rms", "layer", "none"] = "unit"
    """Norm at the end of the encoder: LayerNorm without affine, RMS without affine, LayerNorm with affine, or none."""
    latent: Literal["tokens", "frame"] = "tokens"
    """One representation token a patch (article), or one a frame, projected from all of them (published model)."""
    predictor_width: int = 192
    """P: width of the predictor."""
    predictor_depth: int = 4
    """Transformer layers of the predictor."""
    predictor_heads: int = 4
    """Attention heads of the predictor."""
    action_conditioning: Literal["add", "film", "token"] = "add"
    """How the action enters the predictor: added to every token, FiLM on the norms, or a token of its own."""
    mask_tokens: bool = True
    """Predict at mask tokens beside the context (article), or in place, which needs whole context frames."""
    residual: bool = False
    """Predict the change from the present frame's tokens; needs whole context frames."""
    history: int = 1
    """Frames that the predictor sees, 1 to 4."""
    inference_encoder: Literal["online", "target"] = "online"
    """Which network encodes the present and the goal frame at inference."""

    @property
    def effective_patch(self) -> int:
        """Side in pixels of the image region that one token stands for."""
        return 4 * self.patch_size

    @property
    def grid(self) -> int:
        """Tokens along one side of a frame."""
        return self.image_size // self.effective_patch

    @property
    def num_patches(self) -> int:
        """Patches of a frame."""
        return self.grid**2

    @property
    def num_tokens(self) -> int:
        """N: representation tokens of a frame."""
        return 1 if self.latent == "frame" else self.num_patches


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """Multi-block masking of the context frame (article, section 4.4)."""

    num_blocks: int = 4
    """Target blocks that are cut out of the context."""
    scale: tuple[float, float] = (0.15, 0.2)
    """Smallest and largest share of the grid that a block covers."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Smallest and largest height / width of a block."""
    context_ratio: float | None = 0.25
    """Share of tokens kept as context; None keeps the whole complement, trimmed to the batch's minimum."""
    full_context_prob: float = 0.0
    """Probability that a training batch sees the full frame, as inference does."""
    targets: Literal["all", "blocks"] = "all"
    """Positions of frame t+1 in the loss: all N, or those outside the context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The objective (article, section 4.5) and the rivals of its regulariser."""

    form: Literal["smooth_l1", "mse"] = "smooth_l1"
    """Prediction loss: Smooth-L1 (article), or half the squared error, which is what it is at a large `beta`."""
    beta: float = 1.0
    """Smooth-L1 threshold."""
    target_gradient: bool = False
    """Encode the next frame by the online encoder and send gradients through it too (published model); no EMA then."""
    reduction: Literal["mean", "sum"] = "mean"
    """Average over the D dimensions (article, section 7), or sum (section 4.5)."""
    regulariser: Literal["none", "spectral", "gaussian", "vicreg", "barlow"] = "spectral"
    """Spectral KL of the article, sketched Gaussian of the published model, VICReg, Barlow Twins, or nothing."""
    weight: float = 0.1
    """lambda: weight of the regulariser."""
    weight_warmup: float = 0.0
    """Share of the steps over which `weight` rises from 0."""
    apply_to: Literal["tokens", "frame"] = "tokens"
    """Regularise every context token, or the mean token of each frame."""
    centre: Literal["batch", "position"] = "batch"
    """Mean that is removed first: over all tokens, or over the tokens at the same position."""
    slowness: float = 0.0
    """Weight of the distance between a frame's representation and the next frame's; 0 is the article."""
    inverse: float = 0.0
    """Weight of decoding the action from the change of the representation; 0 is the article."""
    straightening: float = 0.0
    """Weight of the turn of a trajectory between two model steps; needs two `train.rollout_steps`; 0 is the article."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Optimisation (article, section 5)."""

    steps: int = 100_000
    """Optimiser steps of the run; every schedule is a share of it."""
    batch_size: int = 256
    """Clips in a batch, over all devices."""
    rollout_steps: int = 1
    """Prediction steps in the loss; beyond one, predictions are fed back."""
    learning_rate: float = 1.5e-3
    """Peak learning rate."""
    final_learning_rate: float = 1e-5
    """Learning rate at the last step."""
    warmup: float = 40 / 300
    """Share of the steps with linear warm-up."""
    weight_decay: float = 0.05
    """AdamW weight decay; none on norms, biases, positions and mask tokens."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW momenta."""
    eps: float = 1e-8
    """AdamW epsilon."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    ema_start: float = 0.996
    """EMA momentum (the share of the target that is kept) at the first step."""
    ema_end: float = 1.0
    """EMA momentum at the last step; cosine in between."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Autocast type of the forward pass; the spectrum is always float32."""
    compile: bool = False
    """Compile the model with torch.compile."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    cost_steps: int = 2000
    """Optimiser steps, after training, of the learnt steps-to-go cost; 0 leaves it untrained."""
    cost_reach: int = 15
    """Largest number of model steps that the steps-to-go cost tells apart."""
    train_encoder: bool = True
    """Train the encoder; without, it stays as it starts, random or from `encoder_from`, and so does its target."""
    encoder_from: str = ""
    """Run folder whose encoder this run starts from, such as a run on images; empty for fresh weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """Planning in representation space (article, section 8)."""

    planner: Literal["cem", "mppi"] = "cem"
    """Cross-entropy method, or model-predictive path integral."""
    candidates: int = 64
    """K: action sequences tried in an iteration."""
    horizon: int = 8
    """H: model steps that a plan looks ahead."""
    iterations: int = 3
    """Refinements of a plan."""
    elites: int = 8
    """E: best candidates that CEM refits to."""
    temperature: float = 0.1
    """MPPI: temperature as a share of the candidates' cost spread."""
    execute: int = 1
    """Model steps of a plan that are carried out before planning again."""
    cost: Literal["steps_to_go", "tokens", "pooled"] = "steps_to_go"
    """Learnt steps between two representations, or squared distance of all tokens or of the mean token."""
    over: Literal["last", "sum"] = "last"
    """Cost of the last predicted step, or summed over all of them."""
    max_change: float | None = None
    """Actions that are positions: how far a command may move in an environment step, in its own unit; None takes what
    the training episodes did."""
    reached_below: float | None = None
    """Largest cost of the present frame at which the goal counts as reached. Filled in when training ends."""
    correction: float | None = None
    """Share of the newest prediction's error that is added to the correction of every predicted step, 0 for none; None
    takes 0.3 where actions are positions, and else 0."""
    absolute: bool = False
    """Search actions that are positions within their bounds, and not as changes of the present command."""
    hold: bool | None = False
    """Search over one action held for the whole frame-skip, rather than over every sub-action; None holds continuous
    actions alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """What `lewm eval` measures, on held-out episodes."""

    episodes: int = 200
    """Closed-loop episodes."""
    split_episodes: int = 50
    """Closed-loop episodes for planner alone and cost alone, which need the true dynamics; 0 leaves them out."""
    goal_offset: int = 25
    """Environment steps between the start and the goal frame on a held-out trajectory."""
    budget: int = 50
    """Environment steps in which the goal must be reached."""
    horizons: tuple[int, ...] = (1, 2, 4, 8)
    """Model steps at which prediction is measured."""
    clips: int = 512
    """Held-out clips, at most, that prediction is measured on."""
    probe_frames: int = 4000
    """Training frames, at most, that probes are fitted to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of a run."""

    preset: str = "paper"
    """Preset that the settings started from."""
    seed: int = 0
    """Seed of weights, batches, masks and planning."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes CUDA, then MPS, then the CPU."""
    action: ActionConfig = field(default_factory=ActionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def model_action_size(self) -> int:
        """Length of one model action: the frame-skip's sub-actions, concatenated."""
        per_step = 1 if self.action.kind == "discrete" else self.action.size
        return self.data.frame_skip * per_step

    def __post_init__(self) -> None:
        _validate(self)


def _require(ok: bool, field_: str, value: object, constraint: str, remedy: str) -> None:
    if not ok:
        raise ValueError(f"{field_}={value}: {constraint}; {remedy}")


def _validate(c: Config) -> None:
    m, t, k, p = c.model, c.train, c.mask, c.plan
    if c.action.kind == "none":
        _validate_images(c)
    else:
        _require(c.action.size >= 1, "action.size", c.action.size, "must be at least 1", "give the action's length")
    _require(
        c.data.frame_skip >= 1, "data.frame_skip", c.data.frame_skip, "must be at least 1", "use 1 for every frame"
    )
    _require(0 < c.data.held_out < 1, "data.held_out", c.data.held_out, "must be between 0 and 1", "use 0.1")
    share = c.data.train_share
    _require(0 < share <= 1, "data.train_share", share, "must be in (0, 1]", "use 1 for all training episodes")
    quantile = c.data.change_quantile
    _require(0 < quantile <= 1, "data.change_quantile", quantile, "must be in (0, 1]", "use 0.99")
    _require(c.seed >= 0, "seed", c.seed, "must not be negative", "use 0")
    _require(c.data.split_seed >= 0, "data.split_seed", c.data.split_seed, "must not be negative", "use 0")
    for name in ("depth", "predictor_depth", "patch_size", "mlp_ratio"):
        value = getattr(m, name)
        _require(value >= 1, f"model.{name}", value, "must be at least 1", "use a preset's value")
    _require(min(m.stem_channels) >= 1, "model.stem_channels", m.stem_channels, "must be at least 1", "use 64 128")
    below, above = m.image_size // m.effective_patch * m.effective_patch, m.effective_patch
    _require(
        m.image_size > 0 and m.image_size % m.effective_patch == 0,
        "model.image_size",
        m.image_size,
        f"must be divisible by {m.effective_patch} (stem stride 4 x patch {m.patch_size})",
        f"use {below} or {below + above}" if below > 0 else f"use {above}",
    )
    for name, width, heads_name, heads in (
        ("model.width", m.width, "model.num_heads", m.num_heads),
        ("model.predictor_width", m.predictor_width, "model.predictor_heads", m.predictor_heads),
    ):
        _require(heads >= 1, heads_name, heads, "must be at least 1", "use width / 64")
        multiple = math.lcm(4, heads)
        _require(
            width > 0 and width % multiple == 0,
            name,
            width,
            f"must be divisible by 4 (2-D positions) and by its {heads} heads",
            f"use {max(multiple, round(width / multiple) * multiple)}",
        )
    _require(1 <= m.history <= 4, "model.history", m.history, "must be 1 to 4 frames", "use 1 or 3")
    clip = m.history + t.rollout_steps
    _require(t.rollout_steps >= 1, "train.rollout_steps", t.rollout_steps, "must be at least 1", "use 1 to 4")
    _require(
        clip <= 8,
        "train.rollout_steps",
        t.rollout_steps,
        f"with model.history={m.history} a clip has {clip} frames and the longest is 8",
        f"use at most {8 - m.history}",
    )
    for name in ("scale", "aspect"):
        low, high = getattr(k, name)
        _require(0 < low <= high, f"mask.{name}", (low, high), "must be a positive range", "give smallest and largest")
    _require(k.scale[1] <= 1, "mask.scale", k.scale, "must not exceed 1", "give shares of the grid")
    _require(k.num_blocks >= 1, "mask.num_blocks", k.num_blocks, "must be at least 1", "use 4")
    ratio = k.context_ratio
    _require(ratio is None or 0 < ratio <= 1, "mask.context_ratio", ratio, "must be in (0, 1]", "use 0.25 or None")
    _require(
        k.targets == "all" or ratio is None or round(ratio * m.num_patches) < m.num_patches,
        "mask.targets",
        k.targets,
        "no position is outside the context at context_ratio 1",
        "use targets all",
    )
    prob = k.full_context_prob
    _require(0 <= prob <= 1, "mask.full_context_prob", prob, "must be between 0 and 1", "use 0 to 1")
    for name, used, otherwise in (
        ("model.residual", m.residual, "model.residual False"),
        ("model.mask_tokens=False", not m.mask_tokens, "model.mask_tokens True"),
        ("model.latent=frame", m.latent == "frame", "model.latent tokens"),
        ("loss.target_gradient", c.loss.target_gradient, "loss.target_gradient False"),
        ("loss.inverse", c.loss.inverse > 0, "loss.inverse 0"),
    ):
        _require(
            not used or prob == 1,
            "mask.full_context_prob",
            prob,
            f"{name} needs whole context frames",
            f"use 1, or {otherwise}",
        )
    _require(c.loss.beta > 0, "loss.beta", c.loss.beta, "must be positive", "use 1.0")
    _require(c.loss.straightening >= 0, "loss.straightening", c.loss.straightening, "must not be negative", "use 0")
    _require(
        c.loss.straightening == 0 or t.rollout_steps >= 2,
        "loss.straightening",
        c.loss.straightening,
        f"needs two model steps, and train.rollout_steps is {t.rollout_steps}",
        "use train.rollout_steps 2, or loss.straightening 0",
    )
    warmup = c.loss.weight_warmup
    _require(0 <= warmup <= 1, "loss.weight_warmup", warmup, "must be a share of the run", "use 0")
    _require(c.loss.inverse >= 0, "loss.inverse", c.loss.inverse, "must not be negative", "use 0 for none")
    slowness = c.loss.slowness
    _require(slowness >= 0, "loss.slowness", slowness, "must not be negative", "use 0 for none")
    _require(c.loss.weight >= 0, "loss.weight", c.loss.weight, "must not be negative", "use 0 for no regulariser")
    _require(t.cost_steps >= 0, "train.cost_steps", t.cost_steps, "must not be negative", "use 0 for no learnt cost")
    _require(
        p.cost != "steps_to_go" or t.cost_steps > 0,
        "train.cost_steps",
        t.cost_steps,
        "plan.cost=steps_to_go needs its head trained",
        "use 2000, or plan.cost tokens",
    )
    for name in ("steps", "batch_size", "checkpoint_every", "cost_reach"):
        value = getattr(t, name)
        _require(value >= 1, f"train.{name}", value, "must be at least 1", "use a preset's value")
    _require(t.batch_size >= 2, "train.batch_size", t.batch_size, "must be at least 2 (batch statistics)", "use 64")
    _require(t.learning_rate > 0, "train.learning_rate", t.learning_rate, "must be positive", "use 1.5e-3")
    _require(0 <= t.warmup < 1, "train.warmup", t.warmup, "must be a share of the run", "use 0.1")
    for name in ("final_learning_rate", "weight_decay"):
        value = getattr(t, name)
        _require(value >= 0, f"train.{name}", value, "must not be negative", "use a preset's value")
    _require(all(0 <= beta < 1 for beta in t.betas), "train.betas", t.betas, "must be in [0, 1)", "use 0.9 0.999")
    _require(t.eps > 0, "train.eps", t.eps, "must be positive", "use 1e-8")
    _require(t.clip_norm > 0, "train.clip_norm", t.clip_norm, "must be positive", "use 1.0")
    _require(0 <= t.ema_start <= 1, "train.ema_start", t.ema_start, "must be between 0 and 1", "use 0.996")
    _require(0 <= t.ema_end <= 1, "train.ema_end", t.ema_end, "must be between 0 and 1", "use 1.0")
    for name in ("candidates", "horizon", "iterations", "elites", "execute"):
        value = getattr(p, name)
        _require(value >= 1, f"plan.{name}", value, "must be at least 1", "use a preset's value")
    _require(
        p.elites <= p.candidates, "plan.elites", p.elites, f"must not exceed {p.candidates} candidates", "use fewer"
    )
    _require(p.execute <= p.horizon, "plan.execute", p.execute, f"must not exceed horizon {p.horizon}", "use 1")
    gain = p.correction
    _require(gain is None or 0 <= gain <= 1, "plan.correction", gain, "must be between 0 and 1", "use 0 for none")
    change = p.max_change
    _require(change is None or change > 0, "plan.max_change", change, "must be positive", "leave it out")
    _require(p.temperature > 0, "plan.temperature", p.temperature, "must be positive", "use 0.1")
    for name in ("episodes", "goal_offset", "budget", "clips", "probe_frames"):
        value = getattr(c.eval, name)
        _require(value >= 1, f"eval.{name}", value, "must be at least 1", "use the default")
    split = c.eval.split_episodes
    _require(split >= 0, "eval.split_episodes", split, "must not be negative", "use 0 to leave it out")
    horizons = c.eval.horizons
    _require(
        len(horizons) > 0 and horizons[0] == 1 and list(horizons) == sorted(set(horizons)),
        "eval.horizons",
        horizons,
        "must increase, starting with 1",
        "use 1 2 4 8",
    )


def _validate_images(c: Config) -> None:
    """Refuse what images cannot give, all at once: they have neither actions nor a next frame."""
    _require(c.action.size == 0, "action.size", c.action.size, "must be 0 without actions", "use 0")
    ratio = c.mask.context_ratio
    wanted = (
        ("data.frame_skip", c.data.frame_skip, c.data.frame_skip == 1, "--data.frame-skip 1"),
        ("model.latent", c.model.latent, c.model.latent == "tokens", "--model.latent tokens"),
        ("model.mask_tokens", c.model.mask_tokens, c.model.mask_tokens, "--model.mask-tokens"),
        ("model.residual", c.model.residual, not c.model.residual, "--model.no-residual"),
        (
            "mask.full_context_prob",
            c.mask.full_context_prob,
            c.mask.full_context_prob < 1,
            "--mask.full-context-prob 0",
        ),
        ("mask.context_ratio", ratio, ratio is None or ratio < 1, "--mask.context-ratio 0.25"),
        ("loss.inverse", c.loss.inverse, c.loss.inverse == 0, "--loss.inverse 0"),
        ("train.cost_steps", c.train.cost_steps, c.train.cost_steps == 0, "--train.cost-steps 0"),
        ("plan.cost", c.plan.cost, c.plan.cost != "steps_to_go", "--plan.cost tokens"),
    )
    wrong = [(f"{name}={value}", option) for name, value, fits, option in wanted if not fits]
    if wrong:
        found, options = ", ".join(name for name, _ in wrong), " ".join(option for _, option in wrong)
        raise ValueError(
            f"{found}: images have neither actions nor a next frame and are learnt from masked contexts; use {options}"
        )


_PAPER = Config(
    preset="paper",
    model=ModelConfig(latent="frame", mask_tokens=False),
    mask=MaskConfig(full_context_prob=1.0),
    loss=LossConfig(regulariser="gaussian", weight=0.02, apply_to="frame", slowness=1.0),
    train=TrainConfig(ema_start=0.95, ema_end=0.995),
    plan=PlanConfig(over="sum", hold=None),
)
_BASE = replace(
    _PAPER,
    preset="base",
    model=replace(_PAPER.model, stem_channels=(32, 64), width=192, num_heads=3, predictor_width=96, predictor_heads=2),
    train=replace(_PAPER.train, steps=20_000, batch_size=128),
)
_TINY = replace(
    _PAPER,
    preset="tiny",
    data=DataConfig(frame_skip=3),
    model=replace(
        _PAPER.model,
        image_size=64,
        stem_channels=(16, 32),
        width=96,
        depth=3,
        num_heads=3,
        predictor_width=64,
        predictor_depth=3,
        predictor_heads=2,
    ),
    train=replace(
        _PAPER.train,
        steps=2000,
        batch_size=32,
        learning_rate=2e-3,
        warmup=0.1,
        precision="float32",
        checkpoint_every=250,
    ),
    plan=replace(_PAPER.plan, horizon=5, execute=2),
)
# The article as it is written: trimmed contexts alone, the token spectrum at 0.1, targets as the encoder gives them.
_LITERAL = Config(
    preset="literal",
    model=ModelConfig(final_norm="layer"),
    plan=PlanConfig(cost="tokens"),
    train=TrainConfig(cost_steps=0),
)

PRESETS = {config.preset: config for config in (_TINY, _BASE, _PAPER, _LITERAL)}


def preset(name: str, settings: Mapping[str, Any] | None = None) -> Config:
    """Return the settings of a preset, some of them replaced: `preset("tiny", {"train.steps": 100})`.

    Args:
        name: tiny, base, paper or literal.
        settings: Values by full name, `{"loss.slowness": 0.0}`, or by group, `{"loss": {"slowness": 0.0}}`.

    Raises:
        ValueError: If there is no such preset or setting, or a value is of another type or out of range.
    """
    if name not in PRESETS:
        remedy = did_you_mean(name, PRESETS, "give one of them")
        raise ValueError(f"preset={name}: must be one of {', '.join(PRESETS)}; {remedy}")
    return with_settings(PRESETS[name], settings or {})


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return a configuration with some settings replaced, and checked.

    Args:
        config: The others.
        settings: Values by full name, `{"loss.slowness": 0.0}`, or by group, `{"loss": {"slowness": 0.0}}`.

    Raises:
        ValueError: If there is no such setting, or its value is of another type or out of range.
    """
    known = _setting_types()
    top: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, given in flat(settings).items():
        if name not in known:
            remedy = did_you_mean(name, known, "see `lewm train --help`")
            raise ValueError(f"{name}={given}: is not a setting; {remedy}")
        hint: Any = known[name]
        value: Any = tuple(given) if isinstance(given, list) else given
        _require(_fits(value, hint), name, value, f"must be {_expected(hint)}", "correct the value")
        group, _, field_ = name.rpartition(".")
        (parts.setdefault(group, {}) if group else top)[field_] = float(value) if hint is float else value
    return replace(config, **top, **{group: replace(getattr(config, group), **part) for group, part in parts.items()})


@functools.cache
def _setting_types() -> dict[str, Any]:
    """Return the type of every setting by its full name."""
    types_: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(Config).items():
        inner = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else None
        types_ |= {name: hint} if inner is None else {f"{name}.{key}": value for key, value in inner.items()}
    return types_


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by full name, `{"loss": {"slowness": 0.0}}` as `{"loss.slowness": 0.0}`."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        inner = {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, Mapping) else {name: value}
        for full in inner.keys() & named.keys():
            raise ValueError(f"{full}={inner[full]}: is given twice; leave one out")
        named |= inner
    return named


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
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: not JSON ({error}); restore the file or train again") from None
    version = raw.pop("schema_version", None) if isinstance(raw, dict) else None
    _require(
        version == SCHEMA_VERSION, f"{source}: schema_version", version, f"must be {SCHEMA_VERSION}", "train again"
    )
    return _build(Config, raw, source, "")


def _build(cls: type, raw: Any, source: str, prefix: str) -> Any:
    """Build a dataclass from JSON values, checking every name and type."""
    if not isinstance(raw, dict):
        raise ValueError(f"{source}: {prefix.rstrip('.')}={raw!r}: must be an object; restore the file")
    hints = typing.get_type_hints(cls)
    for name in raw:
        if name not in hints:
            remedy = did_you_mean(name, hints, "leave it out", before=prefix)
            raise ValueError(f"{source}: {prefix}{name}: is not a setting; {remedy}")
    values = {}
    for name, hint in hints.items():
        if name not in raw:
            if prefix + name in LATER:
                continue
            raise ValueError(f"{source}: {prefix}{name}: is missing; restore the file or train again")
        value: Any = raw[name]
        if dataclasses.is_dataclass(hint):
            values[name] = _build(typing.cast(type, hint), value, source, f"{prefix}{name}.")
            continue
        if typing.get_origin(hint) is tuple and isinstance(value, list):
            value = tuple(value)
        if not _fits(value, hint):
            raise ValueError(f"{source}: {prefix}{name}={value!r}: must be {_expected(hint)}; restore the file")
        values[name] = float(value) if hint is float else value
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _expected(hint: Any) -> str:
    """Say what type of value a field takes."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    return str(hint) if arguments else hint.__name__


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a JSON value has the type of a field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is types.UnionType:
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))
