"""Whether an export is the model: compared graph by graph with PyTorch, on held-out frames and for the same noise."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.deploy import searching
from lewm.deploy.graphs import Graph
from lewm.deploy.manifest import Manifest
from lewm.deploy.sessions import Session
from lewm.evaluate.evaluation import Evaluation
from lewm.evaluate.frames import draw_frames

TOLERANCE = 1e-4
"""Of float32: largest difference of tokens, and of a search's state after an iteration."""
SAME_ACTION, SAME_SHARE = 1e-3, 0.99
"""A look gives the same action if it differs by less than this share of the range; so many looks must."""
SMALLEST_COSINE = 0.995
"""Of lower precision: smallest mean cosine of a frame's tokens."""
AGREEING = 0.8
"""Of lower precision without a simulator: share of looks whose action differs by no more than by other noise."""
MOST_LOST = 0.05
"""Of lower precision with one: share of success that may be lost; the paired 95% interval must exclude more."""
FRAMES, LOOKS = 256, 100


def compare(of: Evaluation, graphs: Mapping[str, Graph], sessions: Mapping[str, Session], manifest: Manifest) -> dict:
    """Compare an export with the model that it is of.

    Args:
        of: The run, and data that training never saw.
        graphs: Its graphs in PyTorch, of the model as it was trained.
        sessions: The graphs that were written.
        manifest: What will be written about them.

    Returns:
        `encode` and `improve`, the largest differences; `cosine`, the smallest of a frame's tokens, and
        `cosine_about_mean`, less the mean of all frames; `same_action`, the share of looks that end in the same action;
        and how many frames and looks these are of. Of lower precision, `agreeing` is the share of looks whose action
        differs by `by_noise` of its range at most, which is the median of what other noise does in PyTorch.
    """
    index = draw_frames(of.store, of.held_out, FRAMES, seed=of.config.seed)
    batch = manifest.sizes.batch
    index = index[: max(1, len(index) // batch) * batch]
    index = np.resize(index, -(-len(index) // batch) * batch)
    frames = np.ascontiguousarray(of.store.frames[index]).reshape(-1, batch, *of.store.frames.shape[1:])
    ours = [graphs["encode"]({"frame": torch.from_numpy(part)})["tokens"] for part in frames]
    theirs = [sessions["encode"]({"frame": part})["tokens"] for part in frames]
    flat, written = torch.cat(ours).flatten(1), torch.from_numpy(np.concatenate(theirs)).flatten(1)
    mean = flat.mean(0)
    exact = manifest.precision == "float32"
    rng = np.random.default_rng(of.config.seed)
    differences, apart, by_noise = [], [], []
    for _ in range(LOOKS):
        now, goal = rng.integers(len(frames), size=2)
        situation = _situation(manifest, ours[now], ours[goal])
        seed = int(rng.integers(2**32))
        other = {
            **situation,
            "states": torch.from_numpy(theirs[now])[:, None],
            "goal": torch.from_numpy(theirs[goal]),
        }
        number = "_1" if manifest.sizes.history > 1 else ""
        first, plan = _cycle(manifest, number, graphs, situation, seed)
        told, other_plan = _cycle(manifest, number, sessions, {k: v.numpy() for k, v in other.items()}, seed)
        apart.append(_apart(manifest, plan, other_plan))
        if exact:
            differences.append(_largest(first, told))
        else:
            by_noise.append(_apart(manifest, plan, _cycle(manifest, number, graphs, situation, seed + 1)[1]))
    return {
        "frames": len(index),
        "looks": LOOKS,
        "encode": max(float(np.abs(a.numpy() - b).max()) for a, b in zip(ours, theirs, strict=True)),
        "cosine": float(torch.cosine_similarity(flat, written).min()),
        "cosine_about_mean": float(torch.cosine_similarity(flat - mean, written - mean).min()),
        "improve": max(differences, default=None),
        "same_action": float(np.mean(np.array(apart) <= SAME_ACTION)),
    } | ({} if exact else {"agreeing": _share(apart, by_noise), "by_noise": float(np.median(by_noise))})


def refuse_unlike(found: Mapping[str, Any], precision: str) -> None:
    """Refuse an export that is not the model.

    Args:
        found: What `compare` returned and, under `driven`, `gate.compare_driving`.
        precision: Of the export.

    Raises:
        ValueError: If it differs by more than its precision may.
    """
    wrong, driven = [], found.get("driven")
    if precision == "float32":
        apart = {part: found[part] for part in ("encode", "improve")}
        wrong += [f"{part} differs by {most:.1e}" for part, most in apart.items() if not most <= TOLERANCE]
        if not found["same_action"] >= SAME_SHARE:
            wrong.append(f"{found['same_action']:.1%} of looks give the same action")
    else:
        if not found["cosine"] >= SMALLEST_COSINE:
            wrong.append(f"the cosine of a frame's tokens falls to {found['cosine']:.4f}")
        if driven is not None and not driven["ci95"][0] > -MOST_LOST:
            low, high = (100 * end for end in driven["ci95"])
            wrong.append(
                f"{driven['success']:.1%} of {driven['starts']} starts are solved, in PyTorch "
                f"{driven['float32_success']:.1%}, a difference of {low:.1f} to {high:.1f} points"
            )
        if driven is None and not found["agreeing"] >= AGREEING:
            wrong.append(f"{found['agreeing']:.1%} of looks end in an action as near as by other noise")
    if wrong:
        remedy = "report it" if precision == "float32" else "use --precision float32, or more --starts"
        raise ValueError(
            f"export: the graphs are not the model ({'; '.join(wrong)}), and nothing was written; {remedy}"
        )


def _situation(manifest: Manifest, now: Tensor, goal: Tensor) -> dict[str, Tensor]:
    """Return what the graphs take of a present and a goal, at the start of an episode."""
    space, plan = manifest.space, manifest.plan
    given: dict[str, Tensor] = {"states": now[:, None], "goal": goal, "correction": torch.zeros_like(now)}
    nowhere = torch.full((4, len(manifest.state_goals.labels)), torch.inf)
    given |= {"forbidden_low": nowhere, "forbidden_high": -nowhere}
    low, high = torch.tensor(space.env_low), torch.tensor(space.env_high)
    if space.relative:
        middle = ((low + high) / 2).expand(len(now), -1)
        given |= {"low": low, "high": high, "command": middle, "max_change": torch.tensor(space.high[: len(low)])}
    elif space.kind == "continuous":
        given |= {"low": torch.tensor(space.low).repeat(plan.horizon, 1)}
        given |= {"high": torch.tensor(space.high).repeat(plan.horizon, 1)}
    return given


def _cycle(
    manifest: Manifest, number: str, graphs: Mapping[str, Any], situation: Mapping[str, Any], seed: int
) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Return a search's state after its first iteration, or its start if none is done, and the plan's actions."""
    rng = np.random.default_rng(seed)
    torchlike = isinstance(situation["states"], Tensor)
    turn = torch.from_numpy if torchlike else np.asarray
    noise, start = searching.draw(manifest, rng), searching.begin(searching.neutral(manifest))
    if manifest.plan.proposes:
        known = {name: turn(np.array(value)) for name, value in start.items()}
        given = {**situation, **known, "tokens": situation["states"][:, -1], "noise": turn(noise)}
        start, noise = searching.proposed_start(graphs["propose"](given), start, noise)
    first: dict[str, NDArray[Any]] = {}
    search: dict[str, Any] = {name: turn(np.array(value)) for name, value in start.items()}
    for done in range(manifest.plan.refinements):
        noise = searching.draw(manifest, rng) if done else noise
        after = graphs[f"improve{number}"]({**search, "noise": turn(noise), **situation})
        search = {name.removeprefix("next_"): value for name, value in after.items()}
        first = first or {name: np.asarray(value) for name, value in search.items()}
    plan = graphs[f"finish{number}"]({**search, **situation})
    first = first or {name: start[name] for name in start if name.startswith("search_")}
    return first, np.asarray(plan["actions"])[:, : manifest.plan.execute]


def _largest(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest difference of two states of a search; of costs, beside their size."""
    worst = 0.0
    for name in ours.keys() - {"usable"}:
        a, b = (np.asarray(value, np.float64) for value in (ours[name], theirs[name]))
        scale = np.maximum(1.0, np.abs(a)) if name == "best_cost" else 1.0
        worst = max(worst, float((np.abs(a - b) / scale).max()))
    return worst


def _apart(manifest: Manifest, ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return the largest difference of two plans' actions, as a share of the range; of discrete ones 0 or 1."""
    if manifest.space.kind == "discrete":
        return float((ours != theirs).any())
    a, b = (searching.to_env(manifest.space, actions) for actions in (ours, theirs))
    span = np.subtract(manifest.space.env_high, manifest.space.env_low)
    return float((np.abs(a - b) / np.where(span > 0, span, 1)).max())


def _share(apart: Sequence[float], by_noise: Sequence[float]) -> float:
    return float(np.mean(np.array(apart) <= np.median(by_noise)))
