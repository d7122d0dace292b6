"""The programs of an export in ExecuTorch. Its Python runtime needs torch, unlike the one in C++."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lewm.deploy.manifest import GraphFile
from lewm.files import shorten

NEEDS = 'target=executorch: needs the package executorch; pip install "lewm[executorch]"'


class ExecuTorchSession:
    """One program, loaded by ExecuTorch; used as a `Session`."""

    def __init__(self, path: Path, graph: GraphFile, *, provider: str, threads: int | None) -> None:
        """Load a program; see `Session`. Of threads, the runtime takes as many as it likes."""
        if provider != "cpu":
            raise ValueError(f"provider={provider}: an export of --target executorch runs on cpu; leave it out")
        try:
            from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError(NEEDS) from None
        try:
            self._program = Runtime.get().load_program(path)
            self._method: Any = self._program.load_method("forward")
        except RuntimeError as error:
            text = f"{path}: is no program that this ExecuTorch loads ({shorten(error, 100)}); export the run again"
            raise ValueError(shorten(text)) from None
        self.inputs, self.outputs = graph.inputs.names, graph.outputs.names

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the program; of what is given it takes its own inputs."""
        out = self._method.execute([torch.from_numpy(np.array(given[name], order="C")) for name in self.inputs])
        return {name: value.clone().numpy() for name, value in zip(self.outputs, out, strict=True)}
