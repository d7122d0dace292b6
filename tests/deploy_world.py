"""A run with random weights as a controller sees it, with graphs that PyTorch runs in place of ONNX Runtime."""

from typing import Any

import numpy as np
import torch

from controllers import InTorch
from lewm.config import Config
from lewm.deploy.export import manifest_of
from lewm.deploy.graphs import StateReader, graphs_of
from lewm.deploy.manifest import StateGoals
from lewm.deploy.runtime import Controller
from lewm.families.family import make_model
from lewm.plan import action_space, planning_cost
from lewm.plan.proposal import Proposal, ProposalSettings
from lewm.plan.steps_to_go import StepsToGo
from tiny import override, plain_spec

SMALL = {"plan.horizon": 3, "plan.candidates": 8, "plan.elites": 2, "plan.iterations": 2}


class World:
    """A run with random weights, and its graphs."""

    def __init__(self, config: Config, *, batch: int = 1, states: bool = False, **changes: Any) -> None:
        self.config = config = override(config, SMALL | {"plan.execute": min(config.plan.execute, 3)})
        torch.manual_seed(0)
        self.model = make_model(config).eval()
        tokens, width = config.model.num_tokens, config.model.token_width
        self.learnt = StepsToGo(tokens, width).eval()
        self.space = action_space(config, device="cpu")
        self.proposal = Proposal(ProposalSettings.of(config, "")).eval() if config.plan.proposes else None
        reader, goals = None, StateGoals()
        if states:
            weight = torch.randn(tokens * width, 2)
            reader = StateReader(weight, torch.zeros(tokens * width), torch.zeros(2), torch.ones(2))
            goals = StateGoals(labels=("x", "y"), r2=(1.0, 1.0))
        cost = planning_cost(config.plan, self.learnt)
        self.graphs = graphs_of(
            self.model, config, self.space, cost, reader=reader, proposal=self.proposal, batch=batch
        )
        self.sessions = {name: InTorch(graph) for name, graph in self.graphs.items()}
        surprise = changes.pop("surprise", {})
        self.manifest = manifest_of(config, self.space, self.graphs, goals=goals, surprise=surprise)
        self.spec = plain_spec(config, **changes)
        rng = np.random.default_rng(0)
        size = config.model.image_size
        self.frames = rng.integers(0, 256, (12, size, size, 3), dtype=np.uint8)

    def controller(self, **settings: Any) -> Controller:
        return Controller(self.manifest, self.spec, self.sessions, **settings)  # pyright: ignore[reportArgumentType]

    @property
    def command(self) -> list[float] | None:
        return [0.0, 0.5] if self.space.relative else None
