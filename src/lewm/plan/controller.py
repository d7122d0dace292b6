"""Closed loop: plan, carry out the first steps, look again, plan from there (article, section 8)."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lewm.config import Config, PlanConfig
from lewm.config.choices import PLANNERS, found_at
from lewm.frames_in import pictures_in
from lewm.plan.cost import (
    GoalCost,
    LatentModel,
    corrected_rollout,
    goal_cost,
    latent_cost_fn,
    planning_cost,
    tokens_cost,
)
from lewm.plan.goal import Region
from lewm.plan.history import History
from lewm.plan.proposal import Proposal, required_proposal
from lewm.plan.search import CostFn, Plan, search, warm_start
from lewm.plan.space import ActionSpace
from lewm.plan.steps_to_go import StepsToGo

CORRECTION = 0.3
"""Of positions: share of the newest prediction's error that is added to what predictions are corrected by."""


def correction_gain(plan: PlanConfig, space: ActionSpace) -> float:
    """Return the weight of the newest prediction's error in what predictions are corrected by."""
    return (CORRECTION if space.relative else 0.0) if plan.correction is None else plan.correction


class RecedingHorizon:
    """Plan again and again, each time starting from the rest of the plan before.

    It knows neither model nor environment: `cost_fn` is given anew for every plan.
    """

    def __init__(self, plan: PlanConfig, space: ActionSpace, *, batch: int, generator: torch.Generator) -> None:
        """Set the planner up.

        Args:
            plan: planner and its numbers; `plan.execute` steps are taken to be carried out between two plans.
            space: what is searched.
            batch: B, environments planned for at once.
            generator: source of randomness, on the space's device.

        Raises:
            ValueError: if more steps are to be carried out than are planned.
        """
        if not 1 <= plan.execute <= plan.horizon:
            raise ValueError(f"plan.execute={plan.execute}: must be 1 to plan.horizon={plan.horizon}; use 1")
        self._config, self._space, self._batch, self._generator = plan, space, batch, generator
        self.last_plan: Plan | None = None

    @property
    def space(self) -> ActionSpace:
        """What is searched: where actions are positions, around the command that was carried out last."""
        return self._space

    def reset(self, command: Tensor | None = None) -> None:
        """Forget the previous plan: the next one starts from the neutral distribution.

        Args:
            command: where actions are positions, the present commands (B, A).
        """
        self.last_plan = None
        self._space = self._space.at(command)

    def keep(self, index: np.ndarray) -> None:
        """Plan from now on for some of the environments alone, each going on from its own previous plan.

        Args:
            index: numbers of the environments among the present B, increasing, (B',); they are then 0 to B'-1.

        Raises:
            ValueError: if there is none, or one is not among the B, or they do not increase.
        """
        if len(index) == 0 or index[0] < 0 or index[-1] >= self._batch or (np.diff(index) <= 0).any():
            raise ValueError(f"index={index.tolist()}: must be increasing numbers of {self._batch} environments")
        self._batch = len(index)
        if self.last_plan is not None:
            rows = torch.as_tensor(index, device=self._space.device)
            self.last_plan = self.last_plan.rows(rows)
        if self._space.command is not None:
            self._space = self._space.at(self._space.command[torch.as_tensor(index, device=self._space.device)])

    def plan(self, cost_fn: CostFn, space: ActionSpace | None = None, proposed: Tensor | None = None) -> Plan:
        """Plan from the present, warm-started with the previous plan shifted by the steps carried out since.

        The first `plan.execute` steps are taken to be carried out: where actions are positions, their last command is
        the next plan's present one.

        Args:
            cost_fn: costs (B, K) of actions (B, K, H, a) from the present state.
            space: the present space within other bounds, for this plan alone; None takes `space`.
            proposed: a plan (B, H, a) from elsewhere, which is tried or carried out.

        Returns:
            The plan, which is also kept as `last_plan`.
        """
        config, space = self._config, self._space if space is None else space
        init = None if self.last_plan is None else warm_start(self.last_plan, config.execute, space)
        self.last_plan = search(
            cost_fn,
            found_at(PLANNERS[config.planner][0])(config),
            space=space,
            batch=self._batch,
            horizon=config.horizon,
            candidates=config.candidates,
            iterations=config.iterations,
            generator=self._generator,
            init=init,
            proposed=proposed,
            proposals=config.proposals,
        )
        if space.relative:
            rows = space.to_env(self.last_plan.actions[:, : config.execute])  # (B, execute, f, A)
            self._space = self._space.at(rows[:, -1, -1])
        return self.last_plan


class LatentController:
    """Drive B environments to the goals of B pictures, or into one region, with a world model.

    It keeps the tokens of the last `model.history` frames, one a model step, and the actions carried out between them:
    see `History`.
    """

    def __init__(
        self,
        model: LatentModel,
        config: Config,
        space: ActionSpace,
        *,
        cost: StepsToGo | None = None,
        proposal: Proposal | None = None,
        batch: int,
        generator: torch.Generator,
    ) -> None:
        """Set the controller up.

        Args:
            model: world model in evaluation mode, on the space's device.
            config: settings of the run.
            space: what is searched.
            cost: the run's learnt cost; `plan.cost` steps_to_go needs it for goals that are pictures.
            proposal: the run's proposal; `plan.planner` proposal and `plan.proposals` need it. Of a goal that is no
                picture nothing can be proposed, and a search does without.
            batch: B, environments driven at once.
            generator: source of randomness, on the space's device.

        Raises:
            ValueError: if the model is none, its proposal is missing, or the batch is empty.
        """
        if not hasattr(model, "rollout"):
            raise ValueError(
                f"model={type(model).__name__}: is no world model; of a run that was loaded, give run.model"
            )
        if batch < 1:
            raise ValueError(f"batch={batch}: must be at least 1; give the number of environments driven at once")
        self._model, self._config, self._device, self._batch = model, config, space.device, batch
        self._learnt = cost
        self._cost: GoalCost = tokens_cost
        self._proposal = required_proposal(config.plan, proposal)
        self._receding = RecedingHorizon(config.plan, space, batch=batch, generator=generator)
        self._goal: Tensor | Region | None = None
        self._history: History | None = None
        self._expected: Tensor | None = None  # (B, N, D), what the newest frame was predicted to look like
        self._correction: Tensor | None = None  # (B, N, D)
        self._gain = correction_gain(config.plan, space)

    @property
    def last_plan(self) -> Plan | None:
        """The plan of the last `act`; None before the first one of an episode."""
        return self._receding.last_plan

    @property
    @torch.no_grad()
    def reached(self) -> np.ndarray:
        """Whether each goal counts as reached in the newest frame that was looked at, (B,) bool.

        It does if the cost of that frame is at most `plan.reached_below` or, for a region, if what is read from the
        frame lies in it. `reached.json` in the run folder says how often that is wrong.

        Raises:
            ValueError: if no frame was looked at yet, or the settings have no such cost.
        """
        if self._goal is None or self._history is None:
            raise ValueError("reached: no frame was looked at in this episode; call reset(goal) and act(frames) first")
        below = self._config.plan.reached_below
        if isinstance(self._goal, Region):
            return (self._goal.cost(self._history.states[:, -1]) <= 0).cpu().numpy()
        if below is None:
            raise ValueError(
                "plan.reached_below=None: training had too few held-out frames that show one goal to set it; train on "
                "more episodes, or set the largest cost at which a goal counts as reached"
            )
        cost = goal_cost(self._cost, self._history.states[:, None, -1:], self._goal)  # (B, 1, 1)
        return (cost[:, 0, 0] <= below).cpu().numpy()

    @torch.no_grad()
    def reset(self, goal: Any, *, command: npt.ArrayLike | None = None) -> None:
        """Start new episodes.

        Args:
            goal: pictures of the goals, (B, height, width, 3) uint8, or what `pictures_in` makes that of; or a
                `Region`, the same for all environments.
            command: where actions are positions, what each robot was told last, or where its joints are, (B, A) or, for
                one environment, (A,): plans lead on from there. Later commands are remembered.

        Raises:
            ValueError: if goals or commands have a wrong shape or type, commands are far beyond those of the training
                episodes, or are given for other actions, or are missing where actions are positions; or the learnt cost
                of a picture is missing.
        """
        space = self._receding.space
        if space.relative and command is None:
            raise ValueError(
                "command=None: these actions are positions, planned from the present one on; give reset(goal, "
                "command=...) what the robot was told last, or where its joints are"
            )
        if isinstance(goal, Region) and self._config.plan.planner == "proposal":
            raise ValueError(
                "plan.planner=proposal: proposes ways to goals that are pictures; give one, or use plan.planner cem"
            )
        present = None if command is None else self._present(command)
        if isinstance(goal, Region):  # its cost is its own
            self._goal = goal
        else:
            self._cost = planning_cost(self._config.plan, self._learnt)
            self._goal = self._encode(self._pictures("goal", goal)[:, None])[:, 0]
        self._history = self._expected = self._correction = None
        self._receding.reset(present)

    def keep(self, index: np.ndarray) -> None:
        """Drive from now on some of the environments alone, each going on from what it has seen, done and planned.

        Args:
            index: numbers of the environments among the present B, increasing, (B',). Frames, actions and new goals are
                then of B' environments.

        Raises:
            ValueError: if there is none, or one is not among the B, or they do not increase.
        """
        self._receding.keep(index)
        self._batch = len(index)
        rows = torch.as_tensor(index, device=self._device)
        if isinstance(self._goal, Tensor):
            self._goal = self._goal[rows]
        if self._history is not None:
            self._history = self._history.rows(rows)
        if self._expected is not None and self._correction is not None:
            self._expected, self._correction = self._expected[rows], self._correction[rows]

    @torch.no_grad()
    def act(self, frames: Any, *, low: npt.ArrayLike | None = None, high: npt.ArrayLike | None = None) -> np.ndarray:
        """Look, plan, and say what to do until the next look.

        Args:
            frames: (B, height, width, 3) uint8, the newest frame; or (B, m, height, width, 3), the m newest frames
                since the last call, one a model step, oldest first. At the start of an episode m is 1. Afterwards
                `execute` model steps lie behind: m is `plan.execute`, or less if the model's history is shorter,
                since frames older than the history are not looked at. Also what `pictures_in` makes that of: floats,
                tensors, lists, channels first, and one picture without its batch axis where B is 1.
            low: smallest value of each of the A entries of an action, or one for all, for this plan alone; None keeps
                the space's. Where actions are positions, bounds around the present command limit how far it moves.
            high: largest values, likewise.

        Returns:
            The environment's actions of the next `execute` model steps, all of which are taken to be carried out:
            (B, execute * f, A) float32, or (B, execute * f) int64. The batch axis is always there.

        Raises:
            ValueError: if there is no goal yet, frames are missing or of a wrong shape or type, or bounds do not fit.
        """
        if self._goal is None:
            raise ValueError("goal=None: there is no goal; call reset(goal) first")
        space = self._receding.space.within(low, high)
        frames = self._pictures("frames", frames, steps=True)
        self._history = history = self._remember(frames if frames.ndim == 5 else frames[:, None])
        cost_fn = latent_cost_fn(
            self._model,
            *history.seen(),
            self._goal,
            space,
            self._cost,
            over=self._config.plan.over,
            correction=self._correction,
        )
        plan = self._receding.plan(cost_fn, space, self._proposed(history.states[:, -1], space))
        done = plan.actions[:, : self._config.plan.execute]
        self._expect(history, done)
        # Model steps and sub-actions become one time axis: (B, execute, f, A) or (B, execute, f).
        return space.to_env(done).flatten(1, 2).cpu().numpy()

    @torch.no_grad()
    def imagined(self) -> Tensor:
        """Give the representations that the last plan is predicted to lead through, (B, H, N, D).

        Raises:
            ValueError: if there is no plan yet.
        """
        if self.last_plan is None or self._history is None:
            raise ValueError("last_plan=None: nothing was planned in this episode; call act(frames) first")
        return corrected_rollout(self._model, *self._history.seen(), self.last_plan.actions, self._correction)

    def _remember(self, frames: np.ndarray) -> History:
        """Return the history with new frames (B, m, height, width, 3) and the actions before them."""
        length, execute = self._config.model.history, self._config.plan.execute
        fewest, most = (1, 1) if self.last_plan is None else (min(execute, length), execute)
        if not fewest <= frames.shape[1] <= most:
            wanted = str(most) if fewest == most else f"{fewest} to {most}"
            raise ValueError(
                f"frames: got {frames.shape[1]} a call, must be {wanted}; give one for every model step done"
            )
        tokens = self._encode(frames[:, -fewest:])
        if self.last_plan is None or self._history is None:
            space = self._receding.space
            kind = torch.int64 if space.kind == "discrete" else torch.float32
            action = torch.zeros(self._batch, space.model_action_size, device=self._device, dtype=kind)
            return History.begin(tokens[:, 0], length=length, action=action)
        if self._expected is not None and self._correction is not None:
            surprise = tokens[:, -1] - self._expected
            self._correction = self._correction + self._gain / execute * surprise  # it grows with every step
        return self._history.after(self.last_plan.actions[:, :execute], tokens)

    def _expect(self, history: History, done: Tensor) -> None:
        """Predict what the next frame will look like after actions (B, execute, f*A), to be compared with it.

        A robot that is told where to be comes to rest where the *predicted* frame looks like the goal: beside it, as
        far as the model is wrong there. That error hardly changes from one step to the next, so it can be taken off, as
        offset-free model-predictive control does (Pannocchia and Rawlings, 2003).
        """
        if self._gain == 0.0:
            return
        if self._correction is None:
            self._correction = torch.zeros_like(history.states[:, -1])
        self._expected = corrected_rollout(self._model, *history.seen(), done, self._correction)[:, -1]

    def _proposed(self, state: Tensor, space: ActionSpace) -> Tensor | None:
        """Return what is proposed from representations (B, N, D) on, (B, H, a), if anything is."""
        if self._proposal is None or isinstance(self._goal, Region):
            return None
        assert self._goal is not None
        return self._proposal(state, self._goal, space, horizon=self._config.plan.horizon)

    def _pictures(self, name: str, frames: Any, *, steps: bool = False) -> np.ndarray:
        """Take pictures in, (B, height, width, 3) uint8, or with `steps` also (B, m, height, width, 3)."""
        return pictures_in(name, frames, size=self._config.model.image_size, batch=self._batch, steps=steps)

    def _present(self, command: npt.ArrayLike) -> Tensor:
        """Check present commands and give them as (B, A)."""
        space = self._receding.space
        if not space.relative:
            raise ValueError("command: these actions are no positions, and no plan starts from one; leave it out")
        try:
            given = np.asarray(command, dtype=np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"command={command!r}: must be numbers; give one row a robot") from None
        given, shape = given[None] if given.ndim == 1 else given, (self._batch, self._config.action.size)
        if given.shape != shape or not np.isfinite(given).all():
            raise ValueError(f"command={given.tolist()}: must be finite numbers of shape {shape}; give one row a robot")
        low, high = (bound.cpu().numpy() for bound in space.env_bounds)
        if ((given < low - (high - low)) | (given > high + (high - low))).any():  # a joint may be a little beyond
            raise ValueError(
                f"command={given.tolist()}: is far beyond {low.tolist()} to {high.tolist()}, which the training "
                "episodes command; give it in the recording's own unit"
            )
        return torch.tensor(given, device=self._device)

    def _encode(self, frames: np.ndarray) -> Tensor:
        """Encode frames (B, m, height, width, 3) as (B, m, N, D)."""
        pictures = torch.tensor(frames, device=self._device)
        return self._model.encode(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
