"""A server that runs in a thread of the test, and models that come with the package as graphs in PyTorch."""

import asyncio
import contextlib
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from controllers import InTorch
from lewm.deploy.export import manifest_of
from lewm.deploy.graphs import StateReader, graphs_of
from lewm.deploy.manifest import StateGoals
from lewm.envs import make_task
from lewm.plan import action_space, planning_cost
from lewm.pretrained import load_pretrained
from lewm.serve.access import Access
from lewm.serve.board import Board
from lewm.serve.client_session import Policy
from lewm.serve.server import PolicyServer, address_of


@dataclass
class Running:
    """A server that runs."""

    policy: Policy | None
    server: PolicyServer
    board: Board
    http: str

    @property
    def ws(self) -> str:
        return self.http.replace("http", "ws")

    def get(self, path: str, **headers: str) -> str:
        with urllib.request.urlopen(urllib.request.Request(self.http + path, headers=headers), timeout=10) as answer:
            return answer.read().decode()

    def count(self, line: str) -> float:
        """Return a number of the metrics."""
        found = [text for text in self.get("/metrics").splitlines() if text.startswith(f"{line} ")]
        return float(found[0].split()[-1]) if found else 0.0


@contextlib.contextmanager
def running(
    policy: Policy | None,
    *,
    access: Access | None = None,
    board: Board | None = None,
    command: Callable[[dict[str, Any]], None] | None = None,
    most_clients: int = 64,
) -> Iterator[Running]:
    """Run a server until the block ends."""
    board, access = board or Board(), access or Access(host="127.0.0.1")
    server = PolicyServer(policy, board, access, command=command, most_clients=most_clients)
    told: list[str] = []
    up, over, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def run() -> None:
        async with server.listen(0) as listening:
            told.append(address_of(access, listening))
            up.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert up.wait(20)
    try:
        yield Running(policy, server, board, told[0])
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
        loop.close()


@torch.no_grad()
def shipped_policy(name: str, iterations: int = 2, frames: int = 300) -> Policy:
    """Make the policy of a model that comes with the package, without an export: soon there, and no data is collected.

    What reads the state is fitted to a few frames of random states.
    """
    run = load_pretrained(name, device="cpu")
    config = replace(run.config, plan=replace(run.config.plan, iterations=iterations))
    task = make_task(name, config.model.image_size)
    states = []
    for seed in range(frames):
        task.reset(seed=seed)
        states.append(task.state)
    shown = torch.from_numpy(task.render_states(np.array(states)))
    tokens = torch.cat([run.model.represent(part) for part in shown.split(64)]).flatten(1)
    angles = {entry for part in task.pose if part.angle for entry in part.entries}
    columns: dict[str, Any] = {}
    for k, entry in enumerate(task.state_names):
        values = np.array(states)[:, k]
        if entry in angles:
            columns |= {f"{entry} (sine)": np.sin(values), f"{entry} (cosine)": np.cos(values)}
        elif values.std() > 0:
            columns[entry] = values
    read = torch.from_numpy(np.stack(list(columns.values()), 1).astype(np.float32))
    centred, mean = tokens - tokens.mean(0), read.mean(0)
    ridge = 1e-2 * centred.square().sum() / len(centred) * torch.eye(len(centred)) / len(centred)
    weight = centred.T @ torch.linalg.solve(centred @ centred.T + ridge, read - mean)
    reader = StateReader(weight, tokens.mean(0), mean, read.std(0))
    space = action_space(config, device="cpu")
    graphs = graphs_of(run.model, config, space, planning_cost(config.plan, run.cost), reader=reader)
    turns = tuple(sorted(angles))
    goals = StateGoals(
        labels=tuple(columns), r2=(1.0,) * len(columns), angles=turns, full_turns=(2 * np.pi,) * len(turns)
    )
    manifest = manifest_of(config, space, graphs, goals=goals, surprise={})
    sessions = {graph: InTorch(function) for graph, function in graphs.items()}
    return Policy(manifest=manifest, spec=run.spec, graphs=sessions, settings={})
