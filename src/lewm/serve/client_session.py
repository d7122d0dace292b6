"""A client of the server: its controller, and what its messages ask for; no torch."""

import math
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm.deploy.consistent import require_consistent
from lewm.deploy.limits import positions
from lewm.deploy.manifest import Manifest, read_manifest
from lewm.deploy.runtime import Controller
from lewm.deploy.sessions import load_sessions
from lewm.run_spec import RunSpec
from lewm.serve.board import Board, told_of_look
from lewm.serve.wire import FRAME_KEYS, picture_of
from lewm.version import __version__


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """An export that is loaded once, from which every client gets a controller of its own."""

    manifest: Manifest
    spec: RunSpec
    graphs: Mapping[str, Any]
    settings: Mapping[str, Any]
    """Of each controller; see `Controller.load`."""

    @classmethod
    def load(cls, folder: str | Path, *, provider: str = "cpu", threads: int | None = 1, **settings: Any) -> "Policy":
        """Load an export folder; the settings are those of `Controller.load`.

        Raises:
            ValueError: If the folder is not whole, drives several robots, or a setting does not fit it.
        """
        manifest, spec = read_manifest(folder)
        require_consistent(manifest, spec, str(folder))
        if manifest.sizes.batch != 1:
            raise ValueError(f"export={folder}: drives {manifest.sizes.batch} robots at once; export with --batch 1")
        graphs = load_sessions(Path(folder), manifest, provider=provider, threads=threads, cores=None)
        if manifest.target in ("openvino", "executorch"):  # these may not be run twice at a time; ONNX Runtime may
            graphs = {name: _OneAtATime(graph) for name, graph in graphs.items()}
        policy = cls(manifest=manifest, spec=spec, graphs=graphs, settings=settings)
        policy.controller()  # a setting that is wrong is told here, and not to the first client
        return policy

    def controller(self) -> Controller:
        """Make the controller of a client."""
        return Controller(self.manifest, self.spec, self.graphs, **self.settings)

    def metadata(self) -> dict[str, Any]:
        """Return what every client is told when it connects."""
        spec, manifest = self.spec, self.manifest
        return {
            "server": f"lewm {__version__}",
            "task": spec.task,
            "image_size": manifest.sizes.image_size,
            "cameras": [camera.name for camera in spec.cameras],
            "action_kind": spec.action_kind,
            "action_names": list(spec.action_names),
            "control_mode": spec.control_mode,
            "actions": manifest.plan.execute * manifest.space.frame_skip,
            "fps": spec.fps,
            "state_names": list(spec.state_names),
            "goal_by_state": list(manifest.state_goals.labels),
            "needs_command": positions(manifest, spec),
        }


class _OneAtATime:
    """A graph that one thread runs at a time."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._lock = graph, threading.Lock()
        self.inputs, self.outputs = graph.inputs, graph.outputs

    def __call__(self, given: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            return self._graph(given)


class ClientSession:
    """What is known of a client: it outlives a connection for a while. One thread uses it at a time."""

    def __init__(self, policy: Policy, board: Board) -> None:
        self.key = secrets.token_urlsafe(18)
        """By it a client that was cut off gets its session back."""
        self.controller = policy.controller()
        self._spec, self._size, self._board = policy.spec, policy.manifest.sizes.image_size, board
        self._fitter: Any = None
        self._goal: Any = None
        self._previous = math.nan
        self.looks = 0

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a message asks for.

        Args:
            message: Of any of these.

                - `goal`: a picture, a state, or ranges of one, as `Controller.set_goal` takes them; the goal that is
                  set already may be sent again and again.
                - `command`: (A,) with a goal, where actions are positions.
                - `reset`: begin an episode with the same goal.
                - `frame`, `image` or `observation/image`: look at a picture and say what to do.
                - `frames`: pictures by the name of their camera, where there are several.
                - `id`: comes back in the answer.

        Raises:
            ValueError: If something in it is wrong; nothing was done with what stands after that.
        """
        began = time.perf_counter()
        answer: dict[str, Any] = {"id": message["id"]} if "id" in message else {}
        command = message.get("command")
        if "goal" in message:
            answer["goal"] = self._set_goal(message["goal"], command)
        elif message.get("reset"):
            self.controller.restart(command=command)
            answer["reset"] = True
        frame = self._frame(message)
        if frame is None:
            if not answer.keys() - {"id"}:
                raise ValueError(f"message: has none of {', '.join((*FRAME_KEYS, 'goal', 'reset'))}; give one")
            return answer
        answer |= self._look(frame)
        answer["server_timing"] = {"infer_ms": 1e3 * (time.perf_counter() - began)}
        if math.isfinite(self._previous):
            answer["server_timing"]["prev_total_ms"] = self._previous
        return answer

    def took(self, milliseconds: float) -> None:
        """Note how long the last answer took from its message to its reply."""
        self._previous = milliseconds

    def _look(self, frame: Any) -> dict[str, Any]:
        controller, before = self.controller, self.controller.last_look
        began = time.perf_counter()
        actions = controller.act(frame)
        seconds = time.perf_counter() - began
        self.looks += 1
        look = controller.last_look
        trusted = look is not None and look is not before
        told = {"actions": actions, "trusted": trusted, "events": dict(controller.events.counts)}
        if look is not None and trusted:
            told |= {"cost": look.cost, "surprise": look.surprise, "iterations": look.iterations}
            if controller.manifest.plan.reached_below is not None or isinstance(self._goal, dict):
                told["reached"] = bool(controller.reached[0])
        status = told_of_look(controller, seconds, trusted=trusted) | {"look": self.looks, "client": self.key[:6]}
        picture = controller.picture
        shown = {"now": picture[0]} if self._board.watchers and picture is not None else {}
        self._board.show(status, looked=True, **shown)
        return told

    def _set_goal(self, goal: Any, command: Any) -> bool:
        """Set a goal, and say whether it is another than before."""
        picture = goal if isinstance(goal, dict) else picture_of("goal", goal)
        if _same(picture, self._goal):
            return False
        self.controller.set_goal(picture if isinstance(picture, dict) else self._fitted([picture]), command=command)
        self._goal = picture
        if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3:
            self._board.show({}, goal=picture)
        return True

    def _frame(self, message: Mapping[str, Any]) -> Any:
        """Return the picture of a message as the model takes it; None if there is none."""
        views = message.get("frames")
        if isinstance(views, dict):
            names = [camera.name for camera in self._spec.cameras]
            if set(views) != set(names):
                raise ValueError(f"frames: must be of the cameras {', '.join(names)}; give each by its name")
            return self._fitted([picture_of(f"frames.{name}", views[name]) for name in names])
        for name in FRAME_KEYS:
            if name in message:
                return self._fitted([picture_of(name, message[name])])
        return None

    def _fitted(self, views: list[Any]) -> Any:
        """Return pictures of the cameras as one frame; squares and everything unusual are the controller's to judge."""
        first = views[0]
        plain = isinstance(first, np.ndarray) and first.ndim == 3 and first.dtype == np.uint8 and first.shape[-1] == 3
        if len(views) == 1 and (not plain or first.shape[0] == first.shape[1]):
            return first[None] if isinstance(first, np.ndarray) and first.ndim == 4 else first
        if self._fitter is None:
            try:
                from lewm.data.cameras import CameraFitter
            except ImportError:  # of PyAV or PyArrow, which a server may lack
                raise ValueError(
                    f'frame: must be {self._size}x{self._size}; send that, or pip install "lewm[train]" here'
                ) from None
            self._fitter = CameraFitter.of(self._spec)
        return self._fitter(*views)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return isinstance(one, dict) and isinstance(other, dict) and one == other
