"""Measure how soon the first batch of a store of 200 GB is there.

    python benchmarks/scale.py --out benchmarks/results/scale.json

The index is real; the frames are a sparse file, so no disk is waited for, and the seconds are the processor's. At the
first look at a part of the file the system fills pages with zeros, which takes longer than all else. The last line is
one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data import ClipSampler, Store, StoreMeta, StoreWriter
from lewm.files import write_text

IMAGE_SIZE, ACTION_SIZE, LENGTH, BATCH, ROUNDS = 64, 2, 100, 64, 7
STEPS = (0, 10**9)  # a new training, and one that goes on after a year


def build(path: Path, size: int) -> int:
    """Write the index of a store of `size` bytes, and its frames as a hole; returns the number of episodes."""
    meta = StoreMeta(task="x", image_size=IMAGE_SIZE, action_kind="continuous", action_size=ACTION_SIZE)
    with StoreWriter(path, meta) as writer:
        writer.append(np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8), np.zeros((1, ACTION_SIZE)))
    frame, action = IMAGE_SIZE * IMAGE_SIZE * 3, ACTION_SIZE * 4
    episodes = np.arange(size // frame // LENGTH)
    columns = {
        "start": episodes * LENGTH,
        "length": np.full(len(episodes), LENGTH),
        "source": [f"episode {number}" for number in episodes],
        "seed": episodes,
        "text": ["push the block"] * len(episodes),
    }
    pq.write_table(pa.table(columns), path / "episodes.parquet")
    for name, row in (("frames", frame), ("actions", action)):
        file = path / f"{name}.npy"
        os.truncate(file, file.stat().st_size + (len(episodes) * LENGTH - 1) * row)
    return len(episodes)


def first_batch(path: Path, step: int) -> float:
    """Return the seconds of the processor from the path to the batch of a step."""
    begin = time.process_time()
    store = Store(path)
    ClipSampler(store, range(store.num_episodes), batch_size=BATCH, seed=1).batch(step)
    return time.process_time() - begin


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=int, default=200, help="size of the store")
    parser.add_argument("--out", type=Path, help="file that also gets the JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "store"
        episodes = build(path, arguments.gigabytes * 10**9)
        seconds = {step: [first_batch(path, step) for _ in range(ROUNDS)] for step in STEPS}
    summary = {
        "benchmark": "scale",
        "gigabytes": arguments.gigabytes,
        "episodes": episodes,
        "image_size": IMAGE_SIZE,
        "batch_size": BATCH,
        "rounds": ROUNDS,
        "seconds": {str(step): round(statistics.median(times), 3) for step, times in seconds.items()},
        "first_seconds": {str(step): round(times[0], 3) for step, times in seconds.items()},
        "cpu_count": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    if arguments.out:
        write_text(arguments.out, json.dumps(summary) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
