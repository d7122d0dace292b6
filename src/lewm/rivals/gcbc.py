"""Goal-conditioned behaviour cloning: the action that the data took on its way to the goal; no world model at all."""

import dataclasses
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lewm.config import Config, PlanConfig
from lewm.data.sampler import Clips
from lewm.data.store import Store
from lewm.envs import Task
from lewm.evaluate import Evaluation, make_starts
from lewm.evaluate.closed_loop import Starts, reaches
from lewm.evaluate.run import describe, finite, measure_policy
from lewm.model.encoder import Encoder
from lewm.plan import ActionSpace
from lewm.rivals.rival import Rival, scaled

FEATURES, HIDDEN = 192, 224


class GCBC(Rival):
    """Policy pi(a_t .. a_{t+L-1} | o_t, o_g) for the L environment actions of `plan.execute` model steps.

    L = E[ |pi(o_t, o_{t+g}) - a|^2 ] for continuous actions, the cross-entropy for discrete ones, over the actions that
    come before the goal; g is uniform over 1 to `eval.goal_offset` environment steps, as far as the episode reaches.

    The encoder has the form of the package's, is the same for the present and the goal, and is trained end to end. Each
    frame's tokens are projected and flattened, not pooled: where something is lies in which token holds it.

    Note:
        It is not told how many steps are left, because in closed loop nobody knows once `goal_offset` is over.
    """

    name = "gcbc"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.length = config.plan.execute * config.data.frame_skip
        self.encoder = Encoder(config.model)
        tokens, hidden = config.model.num_tokens, scaled(HIDDEN, config)
        token_width = max(1, scaled(FEATURES, config) // tokens)
        self.token = nn.Linear(config.model.width, token_width)
        self.head = nn.Sequential(
            nn.Linear(2 * tokens * token_width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, self.length * config.action.size),
        )  # fmt: skip

    @property
    def clip_frames(self) -> int:
        """Frames of a clip: the actions between them are those to be cloned."""
        return 1 + self.config.plan.execute

    def forward(self, frame: Tensor, goal: Tensor) -> Tensor:
        """Return standardised actions, or logits, (B, L, A) for frames and goals (B, height, width, 3) uint8."""
        tokens = self.encoder(torch.cat([frame, goal]))  # (2B, N, D)
        now, wanted = self.token(tokens).flatten(1).chunk(2)
        return self.head(torch.cat([now, wanted], dim=-1)).unflatten(-1, (self.length, -1))

    def losses(self, clips: Clips, store: Store) -> dict[str, Tensor]:
        """Draw a goal for every clip and compute the loss of the actions before it."""
        index, device = clips.index, self.device
        episode = np.searchsorted(store.episodes.start, index, side="right") - 1
        last = store.episodes.start[episode] + store.episodes.length[episode] - 1
        furthest = np.minimum(self.config.eval.goal_offset, last - index)
        ahead = 1 + np.floor(torch.rand(len(index)).double().numpy() * furthest).astype(np.int64)
        frame = torch.from_numpy(clips.frames[:, 0].copy()).to(device)
        goal = torch.from_numpy(store.frames[index + ahead]).to(device)
        out = self(frame, goal)  # (B, L, A)
        actions = torch.from_numpy(clips.actions).flatten(1).to(device)  # (B, L*A) or (B, L)
        before = torch.arange(self.length, device=device) < torch.from_numpy(ahead).to(device)[:, None]  # (B, L)
        return {"loss": cloning_loss(out, self._target(actions), before)}

    def _target(self, actions: Tensor) -> Tensor:
        """Turn environment actions (B, L*A) into standardised ones (B, L, A); leave discrete ones (B, L)."""
        if self.config.action.kind == "discrete":
            return actions
        size = self.config.action.size
        mean, std = self.action_vector.mean[:size], self.action_vector.std[:size]
        return (actions.unflatten(-1, (-1, size)) - mean) / std

    @torch.no_grad()
    def act(self, frame: NDArray[np.uint8], goal: NDArray[np.uint8], space: ActionSpace) -> NDArray:
        """Return environment actions (B, L, A) within the space, or (B, L), for frames and goals."""
        out = self(torch.from_numpy(frame).to(self.device), torch.from_numpy(goal).to(self.device))
        if self.config.action.kind == "discrete":
            return out.argmax(-1).cpu().numpy()
        size = self.config.action.size
        actions = out * self.action_vector.std[:size] + self.action_vector.mean[:size]
        return actions.clamp(*space.env_bounds).float().cpu().numpy()

    def finish(self, store: Store, episodes: np.ndarray) -> None:
        """Nothing: a policy has no planning cost."""

    def evaluate(self, of: Evaluation, *, progress: bool) -> dict[str, Any]:
        """Measure the closed loop alone; everything else is None."""
        results = describe(of)
        results |= dict.fromkeys(("spectrum", "prediction", "probe", "cost", "planning", "learnt", "verdict"))
        if of.task is not None:
            results["planning"] = self._measure_closed_loop(of, of.task)
        return finite(results)

    def _measure_closed_loop(self, of: Evaluation, task: Task) -> dict[str, Any]:
        config = of.config
        settings = config.eval
        starts = make_starts(
            of.store, of.held_out, count=settings.episodes, goal_offset=settings.goal_offset, seed=config.seed
        )
        policy = Cloned(self, task, starts, of.space)
        planning, _ = measure_policy(of, task, starts, reaches(task, starts), policy)
        return {
            **dict.fromkeys(field.name for field in dataclasses.fields(PlanConfig)),
            **planning,
            "planner": None,
            "seconds_per_plan": policy.seconds / policy.plans,
            "plans": policy.decisions,
            "execute": config.plan.execute,
        }


class Cloned:
    """The trained policy in closed loop: frames in, actions of `plan.execute` model steps out."""

    def __init__(self, model: GCBC, task: Task, starts: Starts, space: ActionSpace) -> None:
        self._model, self._task, self._goal, self._space = model, task, starts.goal_frame, space
        self.decisions, self.plans, self.seconds = 0, 0, 0.0

    def __call__(self, states: NDArray[np.float32], episodes: NDArray[np.int64]) -> NDArray:
        frames = self._task.render_states(states[:, -1])
        began = time.perf_counter()
        actions = self._model.act(frames, self._goal[episodes], self._space)
        self.seconds += time.perf_counter() - began
        self.decisions += 1
        self.plans += len(episodes)
        return actions


def cloning_loss(out: Tensor, target: Tensor, before: Tensor) -> Tensor:
    """Return the mean over the actions that come before the goal.

    Args:
        out: (B, L, A) predicted actions, or logits.
        target: (B, L, A) actions, or (B, L) int64.
        before: (B, L) bool, which ones count; at least the first.
    """
    if target.ndim == 2:
        error = F.cross_entropy(out.float().transpose(1, 2), target, reduction="none")  # (B, L)
    else:
        error = (out.float() - target).square().mean(-1)
    return error[before].mean()
