"""Episodes of any Gymnasium environment into a store: while a policy acts, or in a control loop of one's own."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from lewm.data.check.control_mode import GIVEN, write_guess
from lewm.data.fit import FrameFit, FrameFitter
from lewm.data.store import Store, StoreMeta, StoreWriter

Policy = Callable[[Any], Any]
"""From an observation to an action."""


class Recorder(gymnasium.Wrapper):
    """Write every episode of an environment into a store, whoever acts in it.

        with Recorder(gymnasium.make("CartPole-v1", render_mode="rgb_array"), "data/cart-pole") as env:
            observation, _ = env.reset()
            ...

    A step stores the frame that `render()` shows before the action, and the action; the last action of an episode leads
    out of it. An episode is written as a whole when it ends, at the next reset, and on closing. One that an exception
    leaves, or a kill, is not in the store. A store that is already there is added to.

    Args:
        env: an environment made with `render_mode="rgb_array"`. Its actions are a Box of real numbers, which is
            flattened, or Discrete. If its observation is a Box of one axis, that is the stored state.
        out: folder of the store.
        image_size: height and width of the stored frames in pixels.
        fit: how frames become squares; see `FrameFit`.
        source: where the episodes come from, in a few words; one store has one source.
        control_mode: what real actions command: where to be, how far or how fast to move; by default it is guessed
            on closing.

    Raises:
        ValueError: the environment draws no frames, its actions cannot be stored, or the store holds something else.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        out: str | Path,
        *,
        image_size: int = 64,
        fit: Literal["crop", "pad", "stretch"] = "crop",
        source: str = "lewm record",
        control_mode: Literal["position", "displacement", "velocity"] | None = None,
    ) -> None:
        if not isinstance(env, gymnasium.Env):
            raise ValueError(f"env={type(env).__name__}: must be one gymnasium.Env; record vectors one by one")
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise ValueError(
                f"render_mode={env.render_mode}: frames come from render(); make the environment with "
                "render_mode='rgb_array'"
            )
        self._fitter = FrameFitter(FrameFit(image_size=image_size, fit=fit))
        kind, size = action_kind(env.action_space)
        space, fps = env.observation_space, env.metadata.get("render_fps")
        count = space.shape[0] if isinstance(space, Box) and len(space.shape) == 1 else 0
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        meta = StoreMeta(
            task=name,
            image_size=image_size,
            action_kind=kind,
            action_size=size,
            control_mode=control_mode or "unknown",
            control_evidence="" if control_mode is None else GIVEN,
            state_names=tuple(f"observation[{i}]" for i in range(count)),
            fps=float(fps) if fps else None,
            source=source,
            origin={"format": "record", "name": name, "fit": fit},
        )
        self.writer: StoreWriter = StoreWriter(out, meta)
        """The store that is written."""
        self._action_type: type = np.float32 if kind == "continuous" else np.int64
        self._seed: int = 0
        self._observation: Any = None
        self._under_way: bool = False
        self._added: bool = False  # an episode since the control mode was guessed
        self._frames: list[NDArray[np.uint8]] = []
        self._actions: list[NDArray] = []
        self._states: list[NDArray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Write the episode so far, and begin another."""
        self.end_episode()
        self._observation, info = self.env.reset(seed=seed, options=options)
        self._seed, self._under_way = seed or 0, True
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action and keep it, with the frame and the state before it."""
        if not self._under_way:
            raise gymnasium.error.ResetNeeded("step: no episode is under way; call reset() first")
        frame, state = np.array(self._fitter(rendered(self.env))), None
        if self.writer.meta.state_names:
            state = np.array(self._observation, dtype=np.float32)
        kept = np.array(action, dtype=self._action_type).reshape(-1)  # copies: environments use their arrays again
        size = 1 if self.writer.meta.action_kind == "discrete" else self.writer.meta.action_size
        if len(kept) != size or not np.isfinite(kept).all():
            raise ValueError(
                f"action={kept.tolist()}: must be finite and of the action space's size, {size}; mend the policy"
            )
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(frame)
        self._actions.append(kept)
        if state is not None:
            self._states.append(state)
        if terminated or truncated:
            self.end_episode()
            self._under_way = False
        return self._observation, reward, terminated, truncated, info

    def end_episode(self) -> None:
        """Write the episode so far, if it has any step."""
        frames, actions, states = self._frames, self._actions, self._states
        self._frames, self._actions, self._states = [], [], []
        if not frames:
            return
        self.writer.append(
            np.stack(frames),
            np.concatenate(actions) if self._action_type is np.int64 else np.stack(actions),
            np.stack(states) if states else None,
            seed=self._seed,
        )
        self._added = True

    def close(self) -> None:
        """Write the episode so far, close store and environment, and guess the control mode if it was not given."""
        try:
            self.end_episode()
        finally:
            self.writer.close()
            super().close()
        if self._added:
            self._added = False
            write_guess(self.writer.path)

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        value: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> bool:
        """Close; an episode that an exception has left is given up."""
        if kind is not None:
            self._frames = []
        self.close()
        return False


def record(
    env: gymnasium.Env,
    out: str | Path,
    *,
    episodes: int,
    policy: Policy | None = None,
    image_size: int = 64,
    fit: Literal["crop", "pad", "stretch"] = "crop",
    episode_length: int = 1000,
    seed: int = 0,
    control_mode: Literal["position", "displacement", "velocity"] | None = None,
) -> Store:
    """Record episodes of a policy in a Gymnasium environment, going on after those that the store already has.

    Episode i depends on the seed, i and the policy alone, as far as the environment follows its seed.

    Args:
        env: as for `Recorder`; it stays open.
        out: folder of the store.
        episodes: episodes that the store has in the end.
        policy: from an observation to an action; None draws actions from the action space.
        image_size: height and width of the stored frames in pixels.
        fit: how frames become squares; see `FrameFit`.
        episode_length: frames of an episode, at most.
        seed: seed of the first states, and of the actions that are drawn.
        control_mode: as for `Recorder`.

    Returns:
        The store.

    Raises:
        ValueError: a setting is out of range, the environment cannot be recorded, or the store holds something else.
        OSError: the store could not be written; the episodes before are in it.
    """
    for name, value, least in (("episodes", episodes, 1), ("episode_length", episode_length, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}; give a larger number")
    source = f"lewm record, seed {seed}, episode length {episode_length}"
    recorder = Recorder(env, out, image_size=image_size, fit=fit, source=source, control_mode=control_mode)
    had = recorder.writer.num_episodes
    with recorder.writer:
        for index in range(recorder.writer.num_episodes, episodes):
            first, drawing = (int(value) for value in np.random.SeedSequence([seed, index]).generate_state(2))
            env.action_space.seed(drawing)
            observation, _ = recorder.reset(seed=first)
            for _ in range(episode_length):
                action = env.action_space.sample() if policy is None else policy(observation)
                observation, _, terminated, truncated, _ = recorder.step(action)
                if terminated or truncated:
                    break
            recorder.end_episode()
    if recorder.writer.num_episodes > had:
        write_guess(recorder.writer.path)
    return Store(out)


def rendered(env: gymnasium.Env) -> NDArray[np.uint8]:
    """Return what an environment shows now.

    Raises:
        ValueError: it shows no array.
    """
    frame: Any = env.render()
    if not isinstance(frame, np.ndarray):
        raise ValueError(f"render()={type(frame).__name__}: must be a frame (height, width, 3) uint8; mend render()")
    return frame


def action_kind(space: gymnasium.Space) -> tuple[Literal["continuous", "discrete"], int]:
    """Return kind and size of the actions of a space.

    Raises:
        ValueError: they are neither a Box of real numbers nor Discrete.
    """
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        return "continuous", int(np.prod(space.shape))
    if isinstance(space, Discrete) and space.start == 0:
        return "discrete", int(space.n)
    raise ValueError(
        f"action_space={' '.join(str(space).split())}: must be a Box of real numbers, or Discrete from 0; change it by "
        "gymnasium.wrappers.TransformAction"
    )
