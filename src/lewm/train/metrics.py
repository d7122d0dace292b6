"""The metrics of a run: one JSON object a step, and the same for TensorBoard."""

import json
import os
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lewm.distributed import rank
from lewm.files import plain_os_error, write_text
from lewm.train.checkpoint import METRICS

_KEPT = "the run goes on from its last checkpoint"


class Metrics:
    """Write one JSON object a step to `metrics.jsonl`, and the same to TensorBoard; only on rank 0."""

    def __init__(self, run: Path, done: int) -> None:
        self._path, self._rows = run / METRICS, []
        if rank() != 0:
            return
        # rows beyond the checkpoint will be written again; the last one may be cut short
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.is_file() else []
        kept = [line for line in lines if line.endswith("\n")][:done]
        if len(kept) < done:
            raise ValueError(f"{self._path}: has {len(kept)} rows and the checkpoint {done} steps; restore the file")
        write_text(self._path, "".join(kept))
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exception: object) -> None:
        if rank() == 0:
            self.flush()
            with plain_os_error(self._path.parent, _KEPT):
                self._writer.close()

    def write(self, row: dict[str, Any]) -> None:
        """Take the numbers of a step."""
        if rank() != 0:
            return
        self._rows.append(row)
        if len(self._rows) >= 20:
            self.flush()

    def flush(self) -> None:
        """Bring all rows to disk; a checkpoint must not be ahead of them."""
        if rank() != 0:
            return
        rows, self._rows = self._rows, []  # given up if they cannot be written: a resumed run makes them again
        with plain_os_error(self._path, _KEPT):
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
                file.flush()
                os.fsync(file.fileno())
            for row in rows:
                for name, value in row.items():
                    if name != "step":
                        self._writer.add_scalar(name, value, row["step"])
