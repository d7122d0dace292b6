"""What an export has beside its graphs for what runs them: a build command for TensorRT."""

import importlib.util
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lewm.deploy.manifest import Manifest, Precision, Target
from lewm.deploy.processor import has_bfloat16
from lewm.files import shorten, write_text

BUILD, CALIBRATION = "build.sh", "calibration.npy"
NOT_RUN = "not run"
_FLAGS: dict[Precision, tuple[str, ...]] = {
    "float32": ("--noTF32",),
    "bfloat16": ("--bf16",),
    "float16": ("--fp16",),
    "int8": ("--int8", "--fp16"),
}


def require_target(target: Target, precision: Precision) -> None:
    """Refuse a target that cannot be written.

    Raises:
        ValueError: If its package is missing, or it has no such precision.
    """
    if target == "executorch" and precision != "float32":
        raise ValueError(
            f"precision={precision}: a program for ExecuTorch has float32; use --target onnx for {precision}"
        )
    if precision == "bfloat16" and target == "onnx":
        raise ValueError(
            "precision=bfloat16: ONNX Runtime has no such products on a CPU; use --target openvino, or int8"
        )
    if precision == "bfloat16" and target == "openvino" and not has_bfloat16():
        raise ValueError(
            "precision=bfloat16: this processor multiplies no such numbers (avx512_bf16, amx_bf16); use int8"
        )
    if target in ("openvino", "executorch") and importlib.util.find_spec(target) is None:
        raise ValueError(f'target={target}: needs the package {target}; pip install "lewm[{target}]"')


def write_target(folder: Path, manifest: Manifest, frames: NDArray[np.uint8]) -> str:
    """Write what a target needs beside the graphs, and say whether it was run: `run` or `not run`.

    Args:
        folder: Where the graphs are.
        manifest: What will be written about them.
        frames: Held-out frames (n, B, height, width, 3), which scales were taken from.
    """
    if manifest.target != "tensorrt":
        return "run"
    flags = _FLAGS[manifest.precision]
    commands = []
    for graph in manifest.graphs.values():
        stem = Path(graph.file).stem
        # the graphs have static shapes, so the command gives none
        commands.append(["trtexec", f"--onnx={graph.file}", f"--saveEngine={stem}.engine", *flags, "--skipInference"])
    text = "".join(f"{shlex.join(command)}\n" for command in commands)
    write_text(folder / BUILD, f'#!/bin/sh -e\n# on the machine that runs the engines\ncd "$(dirname "$0")"\n{text}')
    np.save(folder / CALIBRATION, frames, allow_pickle=False)
    if shutil.which("trtexec") is None:
        return NOT_RUN
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(
                f"target=tensorrt: {shlex.join(command[:2])}: {shorten(done.stderr or done.stdout, 150)}; report it"
            )
    return "built"
