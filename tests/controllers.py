"""A toy world, and both controllers of it: PyTorch's and the one of a robot's computer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.config import ActionConfig, Config, DataConfig, PlanConfig
from lewm.deploy.export import manifest_of
from lewm.deploy.graphs import Graph, StateReader, graphs_of
from lewm.deploy.manifest import StateGoals
from lewm.deploy.runtime import Controller
from lewm.families.compact.settings import CompactSettings
from lewm.plan import LatentController, Region, action_space, planning_cost
from tiny import plain_spec

MOVES = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float32)
SIZE = 16
SCALE = 4  # pixels' value of one unit of the toy world


class ToySettings(CompactSettings):
    """Settings of a model whose tokens are as wide as the toy's."""

    @property
    def token_width(self) -> int:
        return 2


class Toy:
    """Points that an action moves; the colour of a picture shows a point's place. The model knows the world exactly."""

    def __init__(self, discrete: bool = False) -> None:
        self.discrete = discrete
        self.rollouts: list[tuple[Tensor, Tensor]] = []
        self.encoded: list[int] = []

    def encode(self, frames: Tensor, /) -> Tensor:
        self.encoded.append(len(frames))
        return frames[:, 0, :1, :2].float() / SCALE  # (B, 1, 2)

    represent = encode  # as graphs call it

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        self.rollouts.append((states, torch.cat((past_actions, actions), dim=1)))
        moves = torch.from_numpy(MOVES)[actions] if self.discrete else actions.unflatten(-1, (-1, 2))
        return states[:, -1:] + moves.sum(2).cumsum(1)[:, :, None]


class Servo(Toy):
    """Points that go where they are told, but for an offset that the model does not know of."""

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        return actions.unflatten(-1, (-1, 2))[:, :, -1:]  # the last command of a model step


def _steps_to_go(tokens: Tensor, goal: Tensor) -> Tensor:
    """Stand in for a learnt cost: the distance of the places."""
    return (tokens - goal).norm(dim=-1).squeeze(-1)


LEARNT: Any = _steps_to_go
BOTH = ("pytorch", "runtime")


def picture(points: np.ndarray) -> np.ndarray:
    """Show points (..., 2) as frames (..., SIZE, SIZE, 3)."""
    frames = np.zeros((*points.shape[:-1], SIZE, SIZE, 3), dtype=np.uint8)
    frames[..., :2] = np.round(points * SCALE)[..., None, None, :]
    return frames


def place_read(low: npt.ArrayLike, high: npt.ArrayLike, *, scale: float = 1.0) -> Region:
    """Return a region of places, which are the toy's representations themselves."""
    ends = torch.tensor(np.array([low, high], np.float32))
    return Region(lambda tokens: tokens[..., 0, :], ends[0], ends[1], torch.full((2,), scale))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def settings(*, discrete: bool = False, frame_skip: int = 2, history: int = 1, **plan: object) -> Config:
    return Config(
        action=ActionConfig(kind="discrete", size=5) if discrete else ActionConfig(kind="continuous", size=2),
        data=DataConfig(frame_skip=frame_skip),
        model=ToySettings(history=history, image_size=SIZE),
        plan=PlanConfig(**{"horizon": 4, "iterations": 4, **plan}),  # type: ignore[arg-type]
    )


class InTorch:
    """A graph with the interface of a session."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self.inputs = graph, tuple(graph.inputs)
        self.calls = 0

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.calls += 1
        taken = {}
        for name, example in self._graph.inputs.items():
            value = np.asarray(given[name])
            assert value.shape == example.shape, f"{name}: {value.shape} and not {tuple(example.shape)}"
            assert str(example.dtype).removeprefix("torch.") == value.dtype.name, name
            taken[name] = torch.from_numpy(np.array(value))
        return {name: value.numpy() for name, value in self._graph(taken).items()}


class InRuntime:
    """The runtime's controller of a toy, called as PyTorch's is.

    On purpose it differs in three things: a new goal is `set_goal`, a region is ranges by name, and the actions of one
    robot have no batch axis. What it should have done and has not is an error here: no look may end in a fallback.
    """

    def __init__(self, model: Toy, config: Config, *, batch: int) -> None:
        space = action_space(config, device="cpu")
        reader = StateReader(torch.eye(2), torch.zeros(2), torch.zeros(2), torch.ones(2))
        graphs = graphs_of(model, config, space, planning_cost(config.plan, LEARNT), reader=reader, batch=batch)  # pyright: ignore[reportArgumentType]
        goals = StateGoals(labels=("x", "y"), r2=(1.0, 1.0))
        manifest = manifest_of(config, space, graphs, goals=goals, surprise={})
        model.rollouts.clear()  # of the examples
        model.encoded.clear()
        sessions: Any = {name: InTorch(graph) for name, graph in graphs.items()}
        spec = plain_spec(config, state_names=("x", "y"))
        self.controller, self._batch = Controller(manifest, spec, sessions), batch

    def reset(self, goal: Any, *, command: Any = None) -> None:
        if isinstance(goal, Region):
            ends = [[end if np.isfinite(end) else None for end in ends.tolist()] for ends in (goal.low, goal.high)]
            goal = dict(zip(("x", "y"), zip(*ends, strict=True), strict=True))
        self.controller.set_goal(goal, command=command)

    def act(self, frames: Any) -> NDArray[Any]:
        actions = self.controller.act(frames)
        assert not self.controller.events.counts, list(self.controller.events.newest)
        return actions[None] if self._batch == 1 else actions

    @property
    def reached(self) -> NDArray[np.bool_]:
        return self.controller.reached


def controller(kind: str, config: Config, *, model: Toy | None = None, batch: int = 3) -> tuple[Toy, Any]:
    """Return a toy and a controller of it, of a kind in `BOTH`."""
    model = model or Toy(config.action.kind == "discrete")
    if kind == "runtime":
        return model, InRuntime(model, config, batch=batch)
    space = action_space(config, device="cpu")
    return model, LatentController(model, config, space, cost=LEARNT, batch=batch, generator=seeded())
