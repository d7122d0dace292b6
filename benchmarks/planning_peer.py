"""A control step of stable-worldmodel's model and CEM solver beside ours: the same weights and starts, in one run.

    python benchmarks/planning_peer.py --run RUN

RUN is a run of the preset `published-small`; its weights are loaded into stable-worldmodel's own classes. Needs the
packages `stable-worldmodel`, `transformers` of version 4 and `torchvision`. Three ways drive from the same held-out
starts: theirs, with the released budget of 300 candidates and 30 iterations; ours through the runtime, with equal
candidates, horizon and iterations; and ours with the budget of `--ours`. All carry out the whole plan of five model
steps before they look again, as released. Results: benchmarks/results/planning_peer.json.
"""

import argparse
import importlib
import json
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lewm.deploy.export import manifest_of
from lewm.deploy.fold import folded
from lewm.deploy.graphs import graphs_of
from lewm.deploy.manifest import StateGoals
from lewm.deploy.onnx_files import write_onnx
from lewm.deploy.runtime import Controller
from lewm.deploy.sessions import Session
from lewm.envs import Task
from lewm.evaluate.closed_loop import random_policy, run_closed_loop, wilson_interval
from lewm.evaluate.evaluation import Evaluation, draw_starts, machine, open_run
from lewm.evaluate.judge import reaches
from lewm.evaluate.starts import Starts
from lewm.families.presets import preset
from lewm.families.published.modules import PIXEL_MEAN, PIXEL_STD
from lewm.families.published.released import released_weights

OUT = Path(__file__).parent / "results" / "planning_peer.json"
RELEASED = {"candidates": 300, "elites": 30, "iterations": 30}


@dataclass
class _Plan:
    """What their solver is configured with."""

    horizon: int
    action_block: int


class Theirs:
    """stable-worldmodel's model with our weights, and its solver."""

    def __init__(self, of: Evaluation, starts: Starts, task: Task, budget: dict[str, int]) -> None:
        model, solver = _their_model(of), importlib.import_module("stable_worldmodel.solver")
        self.task, self.goal, self.plan = task, starts.goal_frame, of.config.plan
        self.solver = solver.CEMSolver(
            model, num_samples=budget["candidates"], n_steps=budget["iterations"], topk=budget["elites"], seed=0
        )
        embed: Any = of.model.action_embed  # pyright: ignore[reportAttributeAccessIssue]
        self.mean, self.std = embed.mean.numpy(), embed.std.numpy()
        space = task.action_space
        self.low, self.high = space.low, space.high  # pyright: ignore[reportAttributeAccessIssue]
        gymnasium = importlib.import_module("gymnasium")
        batched = gymnasium.vector.utils.batch_space(space, 1)
        self.frame_skip = of.config.data.frame_skip
        self.solver.configure(action_space=batched, n_envs=1, config=_Plan(of.config.plan.horizon, self.frame_skip))
        self.seconds, self.steps = 0.0, 0

    def __call__(self, states: NDArray[np.float32], episodes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Plan for each episode by itself, as a robot does."""
        actions = []
        for state, episode in zip(states[:, -1], episodes, strict=True):
            picture = _pixels(self.task.render_states(state[None])[0])
            goal = _pixels(self.goal[episode])
            info = {
                "pixels": picture[None, None],
                "goal": goal[None, None],
                "action": torch.zeros(1, 1, len(self.mean)),
            }
            began = time.perf_counter()
            plan = self.solver.solve(info)["actions"][0].numpy()  # (H, f*A), standardised
            self.seconds += time.perf_counter() - began
            rows = (plan * self.std + self.mean).reshape(-1, self.task.action_size)
            actions.append(np.clip(rows, self.low, self.high))
            self.steps += len(rows)
        return np.stack(actions).astype(np.float32)


class Ours:
    """The runtime on an export."""

    def __init__(self, controllers: list[Controller], starts: Starts, task: Task) -> None:
        self.controllers, self.task = controllers, task
        for controller, goal in zip(controllers, starts.goal_frame, strict=True):
            controller.set_goal(goal)
        self.seconds, self.steps = 0.0, 0

    def __call__(self, states: NDArray[np.float32], episodes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Plan for each episode by itself, as a robot does."""
        actions = []
        for way, episode in zip(states, episodes, strict=True):
            controller = self.controllers[episode]
            history = controller.manifest.sizes.history
            frames = self.task.render_states(way[-history:])
            began = time.perf_counter()
            actions.append(controller.act(frames[None] if len(frames) > 1 else frames[0]))
            self.seconds += time.perf_counter() - began
            self.steps += len(actions[-1])
        return np.stack(actions)


def _pixels(picture: NDArray[np.uint8]) -> torch.Tensor:
    """Return a picture as the release takes it: channels first, normalised by ImageNet's moments."""
    values = (torch.from_numpy(picture) / 255 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    return values.movedim(-1, 0)


def _their_model(of: Evaluation) -> Any:
    operators = torch.library.Library("torchvision", "FRAGMENT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("nms", "qnms"):  # a torchvision without its own library expects them to be defined
            with suppress(RuntimeError):
                operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        lewm, module, transformers = (
            importlib.import_module(name)
            for name in ("stable_worldmodel.wm.lewm", "stable_worldmodel.wm.lewm.module", "transformers")
        )
    s: Any = of.config.model
    vit = transformers.ViTConfig(
        image_size=s.image_size, patch_size=s.patch_size, hidden_size=s.width, num_hidden_layers=s.depth,
        num_attention_heads=s.num_heads, intermediate_size=s.mlp_ratio * s.width,
    )  # fmt: skip
    sizes = {"input_dim": s.width, "output_dim": s.width, "hidden_dim": s.projector_width}
    inputs = of.config.data.frame_skip * of.config.action.size
    model = lewm.LeWM(
        encoder=transformers.ViTModel(vit, add_pooling_layer=False, use_mask_token=False),
        predictor=module.Predictor(
            **(sizes | {"hidden_dim": s.width}), num_frames=s.history, depth=s.predictor_depth,
            heads=s.predictor_heads, mlp_dim=s.predictor_mlp_width, dim_head=s.predictor_head_width,
        ),
        action_encoder=module.Embedder(input_dim=inputs, emb_dim=s.width),
        projector=module.MLP(**sizes, norm_fn=nn.BatchNorm1d),
        pred_proj=module.MLP(**sizes, norm_fn=nn.BatchNorm1d),
    )  # fmt: skip
    model.load_state_dict(released_weights(of.model))  # pyright: ignore[reportArgumentType]
    return model.eval().requires_grad_(False)


def controllers(of: Evaluation, budget: dict[str, int], count: int, threads: int) -> list[Controller]:
    """Return controllers that share the graphs of an export with this budget."""
    config = replace(of.config, plan=replace(of.config.plan, **budget))
    graphs = graphs_of(folded(of.model), config, of.space, of.cost)
    manifest, sessions = manifest_of(config, of.space, graphs, goals=StateGoals(), surprise={}), {}
    seen = {1, config.model.history}  # frames, in the first look and, since all steps are carried out, in later ones
    needed = {"encode", *(f"{name}_{k}" for name in ("improve", "finish") for k in seen)}
    with tempfile.TemporaryDirectory(prefix="lewm-") as folder:
        for name in sorted(needed):
            path = Path(folder) / f"{name}.onnx"
            write_onnx(graphs[name], path)
            sessions[name] = Session(path, manifest.graphs[name], provider="cpu", threads=threads)
    return [Controller(manifest, of.spec, sessions, seed=k, guarded=False) for k in range(count)]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--ours", type=int, nargs=2, default=[64, 3], metavar=("CANDIDATES", "ITERATIONS"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    of = open_run(args.run, data=args.data, device="cpu", config=None)
    evaluation = replace(of.config.eval, episodes=args.episodes)
    of = replace(of, config=replace(of.config, plan=preset("published").plan, eval=evaluation))
    task = of.task
    if task is None:
        raise SystemExit(f"run={args.run}: is of no task of this package")
    starts, settings = draw_starts(of, task), of.config.eval
    rows: dict[str, Any] = {}

    def measure(name: str, policy: Any, budget: dict[str, int]) -> None:
        judge = reaches(task, starts, settings.protocol)
        loop = run_closed_loop(
            task, starts, policy, judge, budget=settings.budget, frame_skip=of.config.data.frame_skip
        )
        solved, count = int(loop.success.sum()), len(loop.success)
        rows[name] = {
            "budget": budget, "success_rate": solved / count, "ci95": wilson_interval(solved, count),
            "ms_a_control_step": 1e3 * policy.seconds / max(policy.steps, 1) if hasattr(policy, "seconds") else None,
        }  # fmt: skip
        print(name, json.dumps(rows[name]), flush=True)

    budgets = {
        "ours, equal work": RELEASED,
        "ours, as meant": {"candidates": args.ours[0], "elites": args.ours[0] // 8, "iterations": args.ours[1]},
    }
    for name, budget in budgets.items():
        measure(name, Ours(controllers(of, budget, len(starts.state), args.threads), starts, task), budget)
    measure("stable-worldmodel", Theirs(of, starts, task, RELEASED), RELEASED)
    measure("random", random_policy(task, seed=0, length=1), {})
    times = {name: rows[name]["ms_a_control_step"] for name in (*budgets, "stable-worldmodel")}
    results = {
        "command": "python benchmarks/planning_peer.py", "task": of.spec.task, "episodes": args.episodes,
        "protocol": settings.protocol, "threads": args.threads, "machine": machine(torch.device("cpu")), "rows": rows,
        "times_theirs": {name: times["stable-worldmodel"] / times[name] for name in budgets},
    }  # fmt: skip
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
