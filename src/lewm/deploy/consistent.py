"""Whether the parts of a manifest fit each other: a graph of other shapes than the sizes say is refused; no torch.

Letters as in `lewm.deploy.graphs`. The session compares what the manifest says of a graph with the file itself.
"""

import math
import re
from collections.abc import Mapping

from lewm.deploy.manifest import GraphFile, Manifest, Tensors
from lewm.files import shorten
from lewm.run_spec import RunSpec

FORBIDDEN = 4  # as in `lewm.deploy.graphs`, which a test compares
REMEDY = "export the run again, or copy the whole folder again"
_SEARCH = {"search_mean", "search_std", "search_probs"}
_STATE = _SEARCH | {"best", "best_cost", "usable"}
_GOAL = {"goal", "goal_low", "goal_high"}
_BOUNDS = {"past_actions", "low", "high", "command", "max_change", "forbidden_low", "forbidden_high"}
_SITUATION = _BOUNDS | {"states", "correction"}
_KINDS: dict[str, tuple[set[str], set[str]]] = {
    "encode": ({"frame"}, {"tokens"}),
    "improve": (_STATE | _SITUATION | _GOAL | {"noise"}, {f"next_{name}" for name in _STATE}),
    "finish": (_STATE | _SITUATION | _GOAL, {"searched", "actions", "cost", "imagined"}),
    "imagine": ({"states", "past_actions", "correction", "actions"}, {"imagined"}),
    "judge": (_GOAL | {"tokens"}, {"cost"}),
    "propose": (_SEARCH | _BOUNDS | {"tokens", "goal", "noise"}, {f"start_{name}" for name in _SEARCH}),
    "read": ({"imagined"}, {"values"}),
    "matrix": ({"a", "b"}, {"product"}),
}
"""What each kind of graph may take, and may give."""


def require_consistent(manifest: Manifest, spec: RunSpec, source: str) -> None:
    """Raise ValueError where sizes, space, plan, graphs and the robot's description do not fit each other."""
    sizes, space, plan = manifest.sizes, manifest.space, manifest.plan
    discrete = space.kind == "discrete"
    each = spec.action_size if not discrete else 1
    searched = (each, each * space.frame_skip)
    counts = {"batch", "image_size", "history", "tokens", "width", "model_action"}
    limits = (manifest.surprise.get("limit", math.nan), manifest.surprise.get("cost_limit", math.nan))
    goals = manifest.state_goals
    for fine, what in (
        (all(getattr(sizes, name) >= 1 for name in counts), "sizes: must be at least 1"),
        (sizes.history <= len(manifest.graphs), "sizes.history: must have graphs for each count of frames"),
        (spec.action_kind == space.kind, "space.kind: must be that of spec.json"),
        (spec.frame_skip == space.frame_skip >= 1, "space.frame_skip: must be that of spec.json"),
        (spec.image_size == sizes.image_size, "sizes.image_size: must be that of spec.json"),
        (not discrete or space.num_actions == spec.action_size, "space.num_actions: must be that of spec.json"),
        (sizes.model_action == each * space.frame_skip, "sizes.model_action: must be of frame_skip actions"),
        (space.size in searched, f"space.size={space.size}: must be {searched[0]} or {searched[1]}"),
        (len(space.low) == len(space.high) == space.size, "space.low, high: must have space.size entries"),
        (len(space.env_low) == len(space.env_high) == (0 if discrete else each), "space.env_low, env_high: misfit"),
        (1 <= plan.execute <= plan.horizon, "plan.execute: must be 1 to plan.horizon"),
        (plan.iterations >= 1, "plan.iterations: must be at least 1"),
        (all(0 <= limit < math.inf for limit in limits), "surprise: must have finite limits"),
        (len(goals.r2) == len(goals.labels), "state_goals.r2: must have a number for each label"),
        (len(goals.full_turns) == len(goals.angles), "state_goals.full_turns: must have a number for each angle"),
        (all(turn > 0 for turn in goals.full_turns), "state_goals.full_turns: must be positive"),
    ):
        if not fine:
            raise ValueError(f"{source}: {what}; {REMEDY}")
    if missing := [name for name in needed(manifest) if name not in manifest.graphs]:
        raise ValueError(f"{source}: graphs: has no {shorten(', '.join(missing), 60)}; {REMEDY}")
    for name, graph in manifest.graphs.items():
        _require_fitting(manifest, name, graph, source)


def needed(manifest: Manifest) -> list[str]:
    """Return the names of the graphs that a controller runs."""
    history, plan = manifest.sizes.history, manifest.plan
    numbers = [f"_{count}" for count in range(1, history + 1)] if history > 1 else [""]
    kinds = ["", "_state"] if manifest.state_goals.labels and plan.refinements else [""]
    searching = ["improve", "finish"] if plan.refinements else ["finish"]
    names = [f"{part}{kind}{number}" for part in searching for kind in kinds for number in numbers]
    names += [f"imagine{number}" for number in numbers] + [f"judge{kind}" for kind in kinds]
    return ["encode", *names, *(["propose"] if plan.proposes else [])]


def _require_fitting(manifest: Manifest, name: str, graph: GraphFile, source: str) -> None:
    found = re.fullmatch(r"([a-z]+)(_state)?(?:_([1-9][0-9]{0,3}))?", name)
    if not found or found[1] not in _KINDS:
        raise ValueError(f"{source}: graphs: {shorten(repr(name), 40)} is not known; {REMEDY}")
    kind = found[1]
    if kind == "matrix":
        return  # no controller runs it
    shapes = _shapes(manifest, int(found[3] or 1))
    for part, tensors, allowed in zip(("inputs", "outputs"), (graph.inputs, graph.outputs), _KINDS[kind], strict=True):
        if kind == "propose" and part == "outputs":
            allowed = allowed | {"near_noise"}
        _require_shapes(tensors, shapes, allowed, f"{source}: graphs.{name}.{part}")
    wanted = _KINDS[kind][1] & {*shapes} - _absent(manifest)
    if kind != "propose" and wanted != set(graph.outputs.names):
        raise ValueError(f"{source}: graphs.{name}.outputs: must be {', '.join(sorted(wanted))}; {REMEDY}")


def _require_shapes(tensors: Tensors, shapes: Mapping[str, tuple], allowed: set[str], where: str) -> None:
    for name, shape, dtype in zip(tensors.names, tensors.shapes, tensors.dtypes, strict=True):
        if name not in allowed:
            raise ValueError(f"{where}: {shorten(repr(name), 40)} is not known; {REMEDY}")
        if (shape, dtype) != shapes[name]:
            wanted, kind = shapes[name]
            raise ValueError(f"{where}: {name}={shorten(f'{dtype}{shape}', 60)}: must be {kind}{wanted}; {REMEDY}")


def _absent(manifest: Manifest) -> set[str]:
    """Return what graphs do not give for this kind of action."""
    gone = {"search_mean", "search_std"} if manifest.space.kind == "discrete" else {"search_probs"}
    return {f"{before}{name}" for before in ("next_", "start_") for name in gone}


def _shapes(manifest: Manifest, count: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and type of every tensor, for `count` frames seen."""
    sizes, space, plan = manifest.sizes, manifest.space, manifest.plan
    batch, tokens, horizon, a = sizes.batch, (sizes.tokens, sizes.width), plan.horizon, space.size
    action, read = "int64" if space.kind == "discrete" else "float32", len(manifest.state_goals.labels)
    each = len(space.env_low)
    bounds = (each,) if space.relative else (horizon, a)
    plain = {
        "tokens": (batch, *tokens), "goal": (batch, *tokens), "goal_low": (batch, read), "goal_high": (batch, read),
        "states": (batch, count, *tokens), "correction": (batch, *tokens), "low": bounds, "high": bounds,
        "command": (batch, each), "max_change": (each,),
        "forbidden_low": (FORBIDDEN, read), "forbidden_high": (FORBIDDEN, read),
        "noise": (batch, plan.candidates - 1, horizon, a), "near_noise": (batch, plan.candidates - 1, horizon, a),
        "search_mean": (batch, horizon, a), "search_std": (batch, horizon, a),
        "search_probs": (batch, horizon, a, space.num_actions),
        "best_cost": (batch,), "cost": (batch,), "imagined": (batch, horizon, *tokens),
        "values": (batch, horizon, read),
    }  # fmt: skip
    found = {name: (shape, "float32") for name, shape in plain.items()} | {
        "frame": ((batch, sizes.image_size, sizes.image_size, 3), "uint8"),
        "usable": ((batch,), "bool"),
        "best": ((batch, horizon, a), action),
        "searched": ((batch, horizon, a), action),
        "actions": ((batch, horizon, sizes.model_action), action),
        "past_actions": ((batch, count - 1, sizes.model_action), action),
    }
    later = {f"{before}{name}": found[name] for name in _STATE for before in ("next_", "start_")}
    return found | later
