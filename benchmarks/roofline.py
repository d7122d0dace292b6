"""What other computers could do at most: counted operations and bytes of a planning cycle over their makers' figures.

    python benchmarks/roofline.py

Nothing is timed, and none of these computers was at hand. A cycle is the article's: one frame encoded, then CEM with 64
candidates, 8 model steps and 3 refinements, whose mean is rolled out at the end. Operations are counted in the graphs
that `lewm export` writes (a multiplication and an addition are two). The time is at least the operations over the peak
rate, and at least the weights, which every one of the dependent steps reads anew, over the memory's bandwidth. Real
programs reach a part of that. The results are in `benchmarks/results/roofline.json`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lewm.config import ActionConfig
from lewm.deploy.fold import folded
from lewm.deploy.graphs import graphs_of
from lewm.families.family import make_model
from lewm.families.presets import preset
from lewm.files import write_text
from lewm.plan import action_space, planning_cost
from lewm.plan.steps_to_go import StepsToGo

OUT = Path(__file__).parent / "results" / "roofline.json"
CANDIDATES, HORIZON, ITERATIONS = 64, 8, 3


@dataclass(frozen=True)
class Computer:
    """Peak rates of dense products, and the memory's bandwidth, as the maker states them."""

    tera: dict[str, float]
    """10^12 operations a second, by precision."""
    gigabytes: float
    """10^9 bytes a second."""
    source: str


COMPUTERS = {
    "A100 40 GB": Computer(
        {"float32": 19.5, "float16": 312, "int8": 624}, 1555, "NVIDIA A100 data sheet, without sparsity"
    ),
    "Jetson AGX Orin 64 GB": Computer(
        {"float32": 5.3, "float16": 42.5, "int8": 85},
        204.8,
        "Jetson AGX Orin technical brief, GPU alone, without sparsity",
    ),
    "Jetson AGX Xavier": Computer(
        {"float32": 1.4, "float16": 11, "int8": 22}, 136.5, "Jetson AGX Xavier data sheet, GPU's tensor cores"
    ),
    "RK3588": Computer({"int8": 6}, 34, "Rockchip RK3588 data sheet, its NPU; LPDDR4X at 64 bits"),
    "Raspberry Pi 5": Computer(
        {"float32": 0.154},
        17,
        "four Cortex-A76 at 2.4 GHz, two 128-bit multiply-adds a cycle each; LPDDR4X-4267 at 32 bits",
    ),
}
BYTES = {"float32": 4, "float16": 2, "int8": 1}
ARTICLE_MS = {"A100 40 GB": 3.2, "Jetson AGX Orin 64 GB": 18.3, "Jetson AGX Xavier": 42.0}
"""The article's planning cycle, section 8 of it; its computers are named as here without the memory."""


def counted(name: str) -> dict[str, float]:
    """Count the operations of a preset's cycle, and the weights that it reads."""
    config = preset(name)
    config = replace(
        config,
        action=ActionConfig(kind="continuous", size=2, low=(-1.0, -1.0), high=(1.0, 1.0)),
        plan=replace(config.plan, candidates=CANDIDATES, horizon=HORIZON, iterations=ITERATIONS),
    )
    model = make_model(config).eval()
    space = action_space(config, device="cpu")
    head = (
        StepsToGo(config.model.num_tokens, config.model.token_width).eval()
        if config.plan.cost == "steps_to_go"
        else None
    )
    graphs = graphs_of(folded(model), config, space, planning_cost(config.plan, head))
    operations = {part: graphs[part].operations() for part in ("encode", "improve", "finish")}
    encoder = sum(weight.numel() for weight in model.encoder.parameters())
    predictor = sum(weight.numel() for weight in model.predictor.parameters())
    steps = ITERATIONS * HORIZON + HORIZON
    return {
        "gflop": (operations["encode"] + ITERATIONS * operations["improve"] + operations["finish"]) / 1e9,
        "encode_gflop": operations["encode"] / 1e9,
        "iteration_gflop": operations["improve"] / 1e9,
        "weights_read": encoder + steps * predictor,
        "dependent_steps": steps,
    }


def main() -> None:
    """Count, and write what follows."""
    torch.manual_seed(0)
    results: dict[str, Any] = {"models": {}, "computers": {}, "article_ms": ARTICLE_MS}
    for name, computer in COMPUTERS.items():
        results["computers"][name] = {"tera": computer.tera, "gigabytes": computer.gigabytes, "source": computer.source}
    for model in ("large", "literal"):
        found = counted(model)
        rows = {
            name: {
                precision: {
                    "compute_ms": round(found["gflop"] / rate, 3),
                    "memory_ms": round(1e3 * found["weights_read"] * BYTES[precision] / (computer.gigabytes * 1e9), 3),
                }
                for precision, rate in computer.tera.items()
            }
            for name, computer in COMPUTERS.items()
        }
        results["models"][model] = found | {"least_ms": rows}
    write_text(OUT, json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
