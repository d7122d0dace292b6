"""Settings that every run has, whatever its family: actions, data, training, planning, evaluation.

The docstring under a field is also its help text on the command line. This room imports no torch.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from lewm.config.checks import at_least, require
from lewm.config.choices import PLANNERS, PlannerName

ControlMode = Literal["unknown", "position", "displacement", "velocity"]
"""What a continuous action commands: where to be, how far to move from here, or how fast to move."""
EvalProtocol = Literal["standard", "moderate", "strict"]
"""Which starts count, and what success is; each task says it by `Task.rule`."""


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

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        if self.kind == "none":
            require(self.size == 0, "action.size", self.size, "must be 0 without actions", "use 0")
        else:
            at_least(self, "action", 1, "size")


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

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        at_least(self, "data", 1, "frame_skip", remedy="use 1 for every frame")
        require(0 < self.held_out < 1, "data.held_out", self.held_out, "must be between 0 and 1", "use 0.1")
        share, quantile = self.train_share, self.change_quantile
        require(0 < share <= 1, "data.train_share", share, "must be in (0, 1]", "use 1 for all training episodes")
        require(0 < quantile <= 1, "data.change_quantile", quantile, "must be in (0, 1]", "use 0.99")
        at_least(self, "data", 0, "split_seed", remedy="use 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Optimisation (article, section 5)."""

    steps: int = 100_000
    """Optimiser steps of the run; every schedule is a share of it."""
    batch_size: int = 256
    """Clips in a batch, over all devices."""
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

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        at_least(self, "train", 1, "steps", "checkpoint_every", "cost_reach")
        at_least(self, "train", 2, "batch_size", remedy="use 64: statistics are of a batch")
        at_least(self, "train", 0, "final_learning_rate", "weight_decay")
        at_least(self, "train", 0, "cost_steps", remedy="use 2000, or 0 for no learnt cost")
        for name, example in (("learning_rate", 1.5e-3), ("eps", 1e-8), ("clip_norm", 1.0)):
            value = getattr(self, name)
            require(value > 0, f"train.{name}", value, "must be positive", f"use {example:g}")
        require(0 <= self.warmup < 1, "train.warmup", self.warmup, "must be a share of the run", "use 0.1")
        betas = self.betas
        require(all(0 <= beta < 1 for beta in betas), "train.betas", betas, "must be in [0, 1)", "use 0.9 0.999")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """Planning in representation space."""

    planner: PlannerName = "cem"
    """Cross-entropy method, model-predictive path integral, or what the run's proposal says without a search."""
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
    proposals: int = 0
    """Candidates of the first refinement that come from the run's proposal, which `lewm distill` makes; 0 for none."""
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

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        at_least(self, "plan", 1, "candidates", "horizon", "iterations", "elites", "execute")
        most, ahead = self.candidates, self.horizon
        fewer = f"use plan.elites {most} or fewer, or more plan.candidates"
        require(self.elites <= most, "plan.elites", self.elites, f"must not exceed {most} candidates", fewer)
        fewer = f"use plan.execute {ahead} or fewer, or a longer plan.horizon"
        require(self.execute <= ahead, "plan.execute", self.execute, f"must not exceed horizon {ahead}", fewer)
        at_least(self, "plan", 0, "proposals", remedy="use 0 for none")
        fewer = f"use plan.proposals {most - 1} or fewer, or more plan.candidates"
        few = self.proposals < most
        require(few, "plan.proposals", self.proposals, f"must leave one of {most} candidates for the mean", fewer)
        gain, change = self.correction, self.max_change
        require(gain is None or 0 <= gain <= 1, "plan.correction", gain, "must be between 0 and 1", "use 0 for none")
        require(change is None or change > 0, "plan.max_change", change, "must be positive", "leave it out")
        require(self.temperature > 0, "plan.temperature", self.temperature, "must be positive", "use 0.1")

    @property
    def proposes(self) -> bool:
        """Whether plans come from the run's proposal, or start there."""
        return self.planner == "proposal" or self.proposals > 0

    @property
    def refinements(self) -> int:
        """Refinements that are made: none where the proposal is the plan."""
        return 0 if self.planner == "proposal" else self.iterations

    def refuse_unread(self, before: "PlanConfig") -> None:
        """Raise ValueError where a setting differs from `before` that another planner than the chosen one reads."""
        for name in dataclasses.asdict(self):
            readers = [planner for planner, (_, *own) in PLANNERS.items() if name in own]
            value = getattr(self, name)
            if readers and self.planner not in readers and value != getattr(before, name):
                raise ValueError(
                    f"plan.{name}={value}: is a setting of {' and '.join(readers)}, and plan.planner={self.planner}; "
                    f"leave it out, or use plan.planner={readers[0]}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """What `lewm eval` measures, on held-out episodes."""

    protocol: EvalProtocol = "standard"
    """What success is and which starts count, from the most lenient to the strictest."""
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

    def validate(self) -> None:
        """Raise ValueError where a value is out of range."""
        at_least(self, "eval", 1, "episodes", "goal_offset", "budget", "clips", "probe_frames")
        at_least(self, "eval", 0, "split_episodes", remedy="use 0 to leave it out")
        ahead = self.horizons
        fits = len(ahead) > 0 and ahead[0] == 1 and list(ahead) == sorted(set(ahead))
        require(fits, "eval.horizons", ahead, "must increase, starting with 1", "use 1 2 4 8")
