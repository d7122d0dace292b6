"""Whether a smaller export does as well as PyTorch: closed loop from the same starts, with the same noise."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lewm.deploy.graphs import Graph
from lewm.deploy.manifest import Manifest
from lewm.deploy.runtime import Controller
from lewm.deploy.trial import drive
from lewm.evaluate.closed_loop import paired_interval
from lewm.evaluate.evaluation import Evaluation, draw_starts

STARTS = 200


class InTorch:
    """A graph in PyTorch that a controller runs in place of a written one."""

    def __init__(self, graph: Graph) -> None:
        """Take the graph."""
        self._graph = graph

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; of what is given, the graph takes its own inputs."""
        taken = {name: torch.from_numpy(np.array(given[name])) for name in self._graph.inputs}
        return {name: value.numpy() for name, value in self._graph(taken).items()}


def compare_driving(
    of: Evaluation,
    graphs: Mapping[str, Graph],
    sessions: Mapping[str, Any],
    manifest: Manifest,
    *,
    starts: int = STARTS,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Drive with PyTorch and with an export, and compare which goals were reached.

    Neither controller is guarded: what is compared is the planners.

    Args:
        of: The run, of a task with a simulator.
        graphs: Its graphs in PyTorch, of the model as it was trained.
        sessions: The graphs that were written.
        manifest: What will be written about them.
        starts: Episodes, from held-out starts; fewer where the data has fewer.
        tick: Called after every episode of each.

    Returns:
        `success` and `float32_success`, `gained` and `lost`, the starts that one alone solved, the `difference` and its
        paired 95% interval, `ci95`, all as shares of `starts`.
    """
    drive_with = partial(drive_from, of, manifest, starts=starts, tick=tick)
    return driven(drive_with({name: InTorch(graph) for name, graph in graphs.items()}), drive_with(sessions))


def drive_from(
    of: Evaluation,
    manifest: Manifest,
    graphs: Mapping[str, Any],
    *,
    starts: int,
    tick: Callable[[], None] = lambda: None,
) -> NDArray[np.bool_]:
    """Drive with some graphs from held-out starts, and say which goals were reached, (E,); see `compare_driving`."""
    assert of.task is not None
    drawn = draw_starts(replace(of, config=replace(of.config, eval=replace(of.config.eval, episodes=starts))), of.task)
    ends = list(zip(drawn.state, drawn.goal_state, strict=True))
    controller = Controller(manifest, of.spec, graphs, guarded=False)
    settings = of.config.eval
    return drive(controller, of.task, ends, protocol=settings.protocol, budget=settings.budget, tick=tick)


def driven(torch_solved: NDArray[np.bool_], solved: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare which goals PyTorch and an export reached, each (E,); see `compare_driving`."""
    gained, lost = int((solved & ~torch_solved).sum()), int((torch_solved & ~solved).sum())
    both, neither = int((solved & torch_solved).sum()), int((~solved & ~torch_solved).sum())
    return {
        "starts": len(solved),
        "success": float(solved.mean()),
        "float32_success": float(torch_solved.mean()),
        "gained": gained,
        "lost": lost,
        "difference": (gained - lost) / len(solved),
        "ci95": list(paired_interval(both, gained, lost, neither)),
    }
