"""Closed loop: plan, carry out the first steps, look again, plan from there (article, section 8)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lewm.config import Config, PlanConfig
from lewm.model.frames_in import pictures_in
from lewm.plan.cem import cem
from lewm.plan.cost import LatentModel, latent_cost_fn
from lewm.plan.goal import Region
from lewm.plan.mppi import mppi
from lewm.plan.search import CostFn, Plan, warm_start
from lewm.plan.space import ActionSpace


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

    def reset(self) -> None:
        """Forget the previous plan: the next one starts from the neutral distribution."""
        self.last_plan = None

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
            self.last_plan = self.last_plan.rows(torch.as_tensor(index, device=self._space.device))

    def plan(self, cost_fn: CostFn) -> Plan:
        """Plan from the present, warm-started with the previous plan shifted by the steps carried out since.

        Args:
            cost_fn: costs (B, K) of actions (B, K, H, a) from the present state.

        Returns:
            The plan, which is also kept as `last_plan`.
        """
        config, space = self._config, self._space
        init = None if self.last_plan is None else warm_start(self.last_plan, config.execute, space)
        match config.planner:
            case "cem":
                self.last_plan = cem(
                    cost_fn,
                    space=space,
                    batch=self._batch,
                    horizon=config.horizon,
                    candidates=config.candidates,
                    iterations=config.iterations,
                    elites=config.elites,
                    generator=self._generator,
                    init=init,
                )
            case "mppi":
                self.last_plan = mppi(
                    cost_fn,
                    space=space,
                    batch=self._batch,
                    horizon=config.horizon,
                    candidates=config.candidates,
                    iterations=config.iterations,
                    temperature=config.temperature,
                    generator=self._generator,
                    init=init,
                )
        return self.last_plan


class LatentController:
    """Drive B environments to the goals of B pictures, or into one region, with a world model.

    It keeps the tokens of the last `model.history` frames, one a model step, and the actions carried out between them.
    At the start of an episode there are fewer.
    """

    def __init__(
        self, model: LatentModel, config: Config, space: ActionSpace, *, batch: int, generator: torch.Generator
    ) -> None:
        """Set the controller up.

        Args:
            model: world model in evaluation mode, on the space's device.
            config: settings of the run.
            space: what is searched.
            batch: B, environments driven at once.
            generator: source of randomness, on the space's device.
        """
        self._model, self._config, self._space, self._batch = model, config, space, batch
        self._receding = RecedingHorizon(config.plan, space, batch=batch, generator=generator)
        self._goal: Tensor | Region | None = None
        self._tokens: Tensor | None = None  # (B, T, N, D)
        self._past: Tensor | None = None  # (B, T-1, f*A)

    @property
    def last_plan(self) -> Plan | None:
        """The plan of the last `act`; None before the first one of an episode."""
        return self._receding.last_plan

    @torch.no_grad()
    def reset(self, goal: Any) -> None:
        """Start new episodes.

        Args:
            goal: pictures of the goals, (B, height, width, 3) uint8, or what `pictures_in` makes that of; or a
                `Region`, the same for all environments.

        Raises:
            ValueError: if it is neither.
        """
        self._goal = goal if isinstance(goal, Region) else self._encode(self._pictures("goal", goal)[:, None])[:, 0]
        self._tokens = self._past = None
        self._receding.reset()

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
        rows = torch.as_tensor(index, device=self._space.device)
        if isinstance(self._goal, Tensor):
            self._goal = self._goal[rows]
        if self._tokens is not None and self._past is not None:
            self._tokens, self._past = self._tokens[rows], self._past[rows]

    @torch.no_grad()
    def act(self, frames: Any) -> np.ndarray:
        """Look, plan, and say what to do until the next look.

        Args:
            frames: (B, height, width, 3) uint8, the newest frame; or (B, m, height, width, 3), the m newest frames
                since the last call, one a model step, oldest first. At the start of an episode m is 1. Afterwards
                `execute` model steps lie behind: m is `plan.execute`, or less if the model's history is shorter,
                since frames older than the history are not looked at. Also what `pictures_in` makes that of: floats,
                tensors, lists, channels first, and one picture without its batch axis where B is 1.

        Returns:
            The environment's actions of the next `execute` model steps, all of which are taken to be carried out:
            (B, execute * f, A) float32, or (B, execute * f) int64. The batch axis is always there.

        Raises:
            ValueError: if there is no goal yet, or frames are missing or of a wrong shape or type.
        """
        if self._goal is None:
            raise ValueError("goal=None: there is no goal; call reset(goal) first")
        frames = self._pictures("frames", frames, steps=True)
        self._remember(frames if frames.ndim == 5 else frames[:, None])
        assert self._tokens is not None
        assert self._past is not None
        plan = self._receding.plan(
            latent_cost_fn(self._model, self._tokens, self._past, self._goal, self._space, self._config.plan)
        )
        model_actions = self._space.expand(plan.actions[:, : self._config.plan.execute])  # (B, execute, f*A)
        env_actions = self._space.to_env(model_actions)
        # Model steps and sub-actions become one time axis: (B, execute, f, A) or (B, execute, f).
        return env_actions.flatten(1, 2).cpu().numpy()

    @torch.no_grad()
    def imagined(self) -> Tensor:
        """Give the representations that the last plan is predicted to lead through, (B, H, N, D).

        Raises:
            ValueError: if there is no plan yet.
        """
        if self.last_plan is None or self._tokens is None or self._past is None:
            raise ValueError("last_plan=None: nothing was planned in this episode; call act(frames) first")
        future = self._space.expand(self.last_plan.actions)
        return self._model.rollout(self._tokens, torch.cat((self._past, future), dim=1))

    def _remember(self, frames: np.ndarray) -> None:
        """Append the tokens of new frames (B, m, height, width, 3) and the actions before them; cut to the history."""
        history, execute = self._config.model.history, self._config.plan.execute
        fewest, most = (1, 1) if self.last_plan is None else (min(execute, history), execute)
        if not fewest <= frames.shape[1] <= most:
            wanted = str(most) if fewest == most else f"{fewest} to {most}"
            raise ValueError(
                f"frames: got {frames.shape[1]} a call, must be {wanted}; give one for every model step done"
            )
        tokens = self._encode(frames[:, -fewest:])
        if self.last_plan is None or self._tokens is None or self._past is None:
            self._tokens = tokens
            nothing = torch.zeros((self._batch, 0, self._space.size), device=self._space.device)
            self._past = self._space.expand(nothing if self._space.kind == "continuous" else nothing.long())
            return
        done = self._space.expand(self.last_plan.actions[:, :execute])
        self._tokens = torch.cat((self._tokens, tokens), dim=1)[:, -history:]
        past = torch.cat((self._past, done), dim=1)
        self._past = past[:, past.shape[1] - (self._tokens.shape[1] - 1) :]  # one action between two frames

    def _pictures(self, name: str, frames: Any, *, steps: bool = False) -> np.ndarray:
        """Take pictures in, (B, height, width, 3) uint8, or with `steps` also (B, m, height, width, 3)."""
        return pictures_in(name, frames, size=self._config.model.image_size, batch=self._batch, steps=steps)

    def _encode(self, frames: np.ndarray) -> Tensor:
        """Encode frames (B, m, height, width, 3) as (B, m, N, D)."""
        pictures = torch.tensor(frames, device=self._space.device)
        return self._model.encode(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
