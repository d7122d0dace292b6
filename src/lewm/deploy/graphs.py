"""A run as functions of tensors with static shapes: what an export writes, and what it is compared with.

Letters: B environments, K candidates, H horizon, T frames of history, N tokens of D numbers, a searched entries a step,
f sub-actions of A numbers in a model action, V discrete actions, S' numbers that are read from representations.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lewm.config import Config
from lewm.config.choices import PLANNERS, found_at
from lewm.deploy.sessions import MATRIX
from lewm.families.family import WorldModel
from lewm.plan import ActionSpace, Categorical, CostFn, Gaussian, GoalCost, Proposal, Region, SearchState
from lewm.plan.controller import correction_gain
from lewm.plan.cost import corrected_rollout, goal_cost, latent_cost_fn
from lewm.plan.search import WeightFn, around, begin, draw, finish, improve, neutral, propose

FORBIDDEN = 4
"""Boxes of the state, at most, that a plan keeps out of."""
MATRIX_SIZE = 1024
PENALTY = 1e6
"""Cost of each predicted step in one of them: far beyond any distance, and yet less inside is better than more."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A function of named tensors.

    Args:
        module: Takes the inputs in their order, and returns one tensor or a tuple.
        inputs: An example of each input, by name.
        outputs: Names of what is returned.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]

    @torch.no_grad()
    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name."""
        out = self.module(*(given[name] for name in self.inputs))
        return dict(zip(self.outputs, (out,) if isinstance(out, Tensor) else out, strict=True))

    def operations(self) -> int:
        """Count the operations of its matrix products and convolutions, a multiplication and an addition as two."""
        with FlopCounterMode(display=False) as counter:
            self(self.inputs)
        return counter.get_total_flops()


class StateReader(nn.Module):
    """Read S' numbers of the true state from representations (..., N, D), linearly."""

    def __init__(self, weight: Tensor, x_mean: Tensor, y_mean: Tensor, scale: Tensor) -> None:
        """Take a linear probe (N*D, S') and the unit (S',) of each number."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.offset = nn.Parameter(y_mean - x_mean @ weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (..., S')."""
        return tokens.flatten(-2) @ self.weight + self.offset


def graphs_of(
    model: WorldModel,
    config: Config,
    space: ActionSpace,
    cost: GoalCost,
    *,
    reader: StateReader | None = None,
    proposal: Proposal | None = None,
    batch: int = 1,
) -> dict[str, Graph]:
    """Return all graphs of a run by name.

    - `encode` turns a frame into tokens;
    - `improve` is one iteration of the planner;
    - `finish` chooses the plan, and says what it is predicted to lead through;
    - `imagine` rolls given actions out;
    - `judge` is the cost of the present for the goal;
    - `read`, with a `reader`, is what it reads from predictions of `imagine` or `finish`;
    - `matrix` is a product of two matrices, by which the speed of a machine is judged.

    Where the model sees T > 1 frames, there is an `improve_1` to `improve_T`, and so on, for the count of frames seen
    since the episode began. Goals are representations. With a `reader`, there are also `improve_state`, `finish_state`
    and `judge_state`, whose goals are ranges of what it reads, and plans keep out of boxes of that. With a `proposal`,
    `propose` says of which noise the first iteration makes candidates near what is proposed for a picture; or, if the
    proposal is the plan, what `finish` starts from: nothing is improved then, and goals are pictures alone.

    Args:
        model: World model in evaluation mode, on the CPU.
        config: Settings of the run.
        space: What is searched.
        cost: Of a representation for the goal's.
        reader: Reads the true state.
        proposal: What plans come from, or start from.
        batch: B, environments driven at once.
    """
    size, tokens = config.model.image_size, (config.model.num_tokens, config.model.token_width)
    frame = torch.zeros(batch, size, size, 3, dtype=torch.uint8)
    graphs = {"encode": Graph(_Encode(model), {"frame": frame}, ("tokens",))}
    goals: dict[str, dict[str, Tensor]] = {"": {"goal": torch.zeros(batch, *tokens)}}
    if reader is not None and config.plan.refinements:
        ends = torch.zeros(batch, len(reader.scale))
        goals["_state"] = {"goal_low": ends, "goal_high": ends + 1}
    searching = _search_inputs(config, space, batch)
    for count in range(1, config.model.history + 1):
        number = f"_{count}" if config.model.history > 1 else ""
        situation = _situation(config, space, reader, batch, count)
        for kind, goal in goals.items():
            whole = _Search(model, config, space, cost, reader, count)
            state = searching["state"]
            names = tuple(f"next_{name}" for name in state)
            if whole.weight_fn is not None:
                inputs = state | {"noise": searching["noise"]} | situation | goal
                improving = _Improve(whole, whole.weight_fn, tuple(inputs))
                graphs[f"improve{kind}{number}"] = Graph(improving, inputs, names)
            inputs = state | situation | goal
            chosen = ("searched", "actions", "cost", "imagined")
            graphs[f"finish{kind}{number}"] = Graph(_Finish(whole, tuple(inputs)), inputs, chosen)
        actions = _model_actions(space, batch, config.plan.horizon)
        rest = {name: value for name, value in situation.items() if name in ("states", "past_actions", "correction")}
        inputs = rest | {"actions": actions}
        graphs[f"imagine{number}"] = Graph(_Imagine(model, tuple(inputs)), inputs, ("imagined",))
    square = torch.ones(MATRIX_SIZE, MATRIX_SIZE)
    graphs[MATRIX] = Graph(_Product(), {"a": square, "b": square.clone()}, ("product",))
    if proposal is not None:
        whole = _Search(model, config, space, cost, None, 1)
        situation = _situation(config, space, None, batch, 1)
        bounds = {name: value for name, value in situation.items() if name not in ("states", "correction")}
        inputs = {"tokens": torch.zeros(batch, *tokens)} | goals[""] | bounds
        outputs = tuple(name for name in searching["state"] if name.startswith("search_"))
        if whole.weight_fn is None:
            outputs = tuple(f"start_{name}" for name in outputs)
        else:
            inputs |= {name: searching["state"][name] for name in outputs} | {"noise": searching["noise"]}
            outputs = ("near_noise",)
        graphs["propose"] = Graph(_Propose(proposal, whole, tuple(inputs)), inputs, outputs)
    for kind, goal in goals.items():
        inputs = {"tokens": torch.zeros(batch, *tokens)} | goal
        graphs[f"judge{kind}"] = Graph(_Judge(cost, reader, tuple(inputs)), inputs, ("cost",))
    if reader is not None:
        imagined = torch.zeros(batch, config.plan.horizon, *tokens)
        graphs["read"] = Graph(reader, {"imagined": imagined}, ("values",))
    return graphs


def _model_actions(space: ActionSpace, batch: int, steps: int) -> Tensor:
    kind = torch.int64 if space.kind == "discrete" else torch.float32
    return torch.zeros(batch, steps, space.model_action_size, dtype=kind)


def _search_inputs(config: Config, space: ActionSpace, batch: int) -> dict:
    """Return examples of the search's state and of its noise."""
    plan = config.plan
    drawn = draw(
        space, batch=batch, horizon=plan.horizon, candidates=plan.candidates, generator=torch.Generator().manual_seed(0)
    )
    started = begin(neutral(space, batch, plan.horizon))
    # "mean" by itself would be a name that the exporter gives to a node
    state = {f"search_{name}": value for name, value in started.distribution._asdict().items()} | {
        "best": started.best, "best_cost": started.best_cost, "usable": started.usable,
    }  # fmt: skip
    return {"state": {name: value.clone() for name, value in state.items()}, "noise": drawn}


def _situation(
    config: Config, space: ActionSpace, reader: StateReader | None, batch: int, count: int
) -> dict[str, Tensor]:
    """Return examples of what is known of the present."""
    tokens = (config.model.num_tokens, config.model.token_width)
    situation: dict[str, Tensor] = {"states": torch.zeros(batch, count, *tokens)}
    if count > 1:
        situation["past_actions"] = _model_actions(space, batch, count - 1)
    if correction_gain(config.plan, space) > 0:
        situation["correction"] = torch.zeros(batch, *tokens)
    if space.kind == "continuous" and not space.relative:  # bounds of each step: an action's rate may be limited
        steps = config.plan.horizon
        situation |= {"low": space.low.repeat(steps, 1), "high": space.high.repeat(steps, 1)}
    if space.relative:
        lowest, highest = space.env_bounds
        situation |= {"low": lowest.clone(), "high": highest.clone()}
        situation["command"] = ((lowest + highest) / 2).expand(batch, -1).clone()
        situation["max_change"] = space.high[: len(lowest)].clone()
    if reader is not None:  # no place is forbidden
        nowhere = torch.full((FORBIDDEN, len(reader.scale)), torch.inf)
        situation |= {"forbidden_low": nowhere, "forbidden_high": -nowhere}
    return situation


class _Product(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a[None], b[None])[0]  # a batch of one: ExecuTorch has no fast product without


class _Encode(nn.Module):
    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor) -> Tensor:
        return self.model.represent(frame)


class _Search(nn.Module):
    """What the iterations of a search share."""

    def __init__(
        self,
        model: WorldModel,
        config: Config,
        space: ActionSpace,
        cost: GoalCost,
        reader: StateReader | None,
        count: int,
    ) -> None:
        super().__init__()
        self.model, self.cost, self.reader = model, cost, reader
        self.config, self.space, self.count = config, space, count
        self.weight_fn = found_at(PLANNERS[config.plan.planner][0])(config.plan)

    def present(self, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the frames seen, the actions between them, and the correction."""
        states = given["states"]
        past = given.get("past_actions", _model_actions(self.space, len(states), 0))
        return states, past, given.get("correction")

    def space_of(self, given: Mapping[str, Tensor]) -> ActionSpace:
        """Return the space within the bounds that are given, around the present command."""
        space = self.space
        if "low" in given:
            space = space.bounded(given["low"], given["high"], given.get("max_change"))
        return space.at(given.get("command"))

    def cost_fn(self, given: Mapping[str, Tensor], space: ActionSpace) -> CostFn:
        """Return the function that scores action sequences."""
        states, past, correction = self.present(given)
        goal = _goal(given, self.reader)
        return latent_cost_fn(
            self.model,
            states,
            past,
            goal,
            space,
            self.cost,
            over=self.config.plan.over,
            correction=correction,
            penalty=None if self.reader is None else self.forbidden(given, self.reader),
            whole=True,
        )

    @staticmethod
    def forbidden(given: Mapping[str, Tensor], reader: StateReader) -> Callable[[Tensor], Tensor]:
        """Return what predictions (C, H, N, D) cost beside their distance: PENALTY for each step in a forbidden box."""
        low, high = given["forbidden_low"], given["forbidden_high"]  # (R, S')

        def penalty(pred: Tensor) -> Tensor:
            read = reader(pred)[:, :, None]  # (C, H, 1, S')
            inside = ((read >= low) & (read <= high)).all(-1).any(-1)  # (C, H)
            return PENALTY * inside.sum(-1)

        return penalty

    def state(self, given: Mapping[str, Tensor]) -> SearchState:
        """Return how far the search has come."""
        return SearchState(self.distribution(given), given["best"], given["best_cost"], given["usable"])

    def distribution(self, given: Mapping[str, Tensor]) -> Gaussian | Categorical:
        """Return what the next candidates are drawn from."""
        kind = Gaussian if self.space.kind == "continuous" else Categorical
        return kind(*(given[f"search_{name}"] for name in kind._fields))


class _Improve(nn.Module):
    def __init__(self, search: _Search, weight_fn: WeightFn, names: Sequence[str]) -> None:
        super().__init__()
        self.search, self.weight_fn, self.names = search, weight_fn, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given, search = dict(zip(self.names, inputs, strict=True)), self.search
        space = search.space_of(given)
        after = improve(search.state(given), given["noise"], search.cost_fn(given, space), self.weight_fn, space)
        return (*after.distribution, after.best, after.best_cost, after.usable)


class _Propose(nn.Module):
    def __init__(self, proposal: Proposal, search: _Search, names: Sequence[str]) -> None:
        super().__init__()
        self.proposal, self.search, self.names = proposal, search, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given, plan = dict(zip(self.names, inputs, strict=True)), self.search.config.plan
        space = self.search.space_of(given)
        proposed = self.proposal(given["tokens"], given["goal"], space, horizon=plan.horizon)
        if "noise" not in given:
            return tuple(around(proposed, space))
        return (propose(self.search.distribution(given), proposed, given["noise"], plan.proposals, space),)


class _Finish(nn.Module):
    def __init__(self, search: _Search, names: Sequence[str]) -> None:
        super().__init__()
        self.search, self.names = search, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given, search = dict(zip(self.names, inputs, strict=True)), self.search
        space = search.space_of(given)
        plan = finish(search.state(given), search.cost_fn(given, space), space)
        states, past, correction = search.present(given)
        imagined = corrected_rollout(search.model, states, past, plan.actions, correction)
        # a graph cannot give one tensor by two names, and what is searched may be what is done
        return plan.searched.clone(), plan.actions, plan.cost, imagined


class _Imagine(nn.Module):
    def __init__(self, model: WorldModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.names, inputs, strict=True))
        states, actions = given["states"], given["actions"]
        past = given.get("past_actions", actions[:, :0])
        return corrected_rollout(self.model, states, past, actions, given.get("correction"))


class _Judge(nn.Module):
    def __init__(self, cost: GoalCost, reader: StateReader | None, names: Sequence[str]) -> None:
        super().__init__()
        self.cost, self.reader, self.names = cost, reader, names

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.names, inputs, strict=True))
        return goal_cost(self.cost, given["tokens"][:, None, None], _goal(given, self.reader))[:, 0, 0]


def _goal(given: Mapping[str, Tensor], reader: StateReader | None) -> Tensor | Region:
    """Return the goal that is given: representations, or ranges of what is read."""
    if "goal" in given:
        return given["goal"]
    assert reader is not None
    # (B, S') against predictions (B, K, H, S')
    low, high = (given[name][:, None, None] for name in ("goal_low", "goal_high"))
    return Region(reader, low, high, reader.scale)
