"""Count what `lewm check` says of actions that are aligned, and of actions that are shifted by 2 to 5 rows.

    nice -n 10 python benchmarks/lag.py --out benchmarks/results/lag.json

A case is one store of a simulated robot (`lag_world.py`) with one seed, checked as `lewm check` does, which guesses the
control mode. A cell is a kind of action x aligned, late or early x smooth or noisy x 5, 20 or 100 episodes x with or
without states, 30 cases each; a store with states and one without show the same recording. Finished cells are kept in
the file, and a run that was stopped goes on after them. The last line is one JSON object; the exit status is 1 if an
aligned case got the advice to shift.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from lag_world import FPS, KINDS, SIZE, Recording, make_recording
from lewm.data import Store, StoreMeta, StoreWriter
from lewm.data.check.store_check import check_store
from lewm.files import write_text

SHIFTS = ("aligned", "late", "early")
EPISODES = (5, 20, 100)
FIRST_SEED = 2000  # the thresholds were chosen on smaller ones


def cells() -> Iterator[tuple[str, str, bool, int]]:
    """Yield kind of action, shift, whether smooth, and number of episodes."""
    yield from product(KINDS, SHIFTS, (True, False), EPISODES)


def write(path: Path, recording: Recording, *, states: bool) -> Store:
    """Write a store of a recording."""
    actions = recording.actions
    meta = StoreMeta(
        task="simulated",
        image_size=SIZE,
        action_kind="discrete" if actions.ndim == 2 else "continuous",
        action_size=5 if actions.ndim == 2 else actions.shape[2],
        state_names=tuple(f"s{k}" for k in range(recording.states.shape[2])) if states else (),
        fps=FPS,
    )
    with StoreWriter(path, meta) as writer:
        for k, frames in enumerate(recording.frames):
            writer.append(frames, actions[k], recording.states[k] if states else None)
    return Store(path)


def outcome(late: int, said: int) -> str:
    """Return what advice is worth: of none, "silent"."""
    if said == 0:
        return "silent"
    return "false" if late == 0 else "right" if said == late else "other amount" if said * late > 0 else "other side"


def measure(kind: Any, shift: str, smooth: bool, episodes: int, seeds: range, scratch: Path) -> list[dict[str, Any]]:
    """Return two cells: what is said of stores with states, and of stores without."""
    found = [Counter() for _ in range(2)]
    modes = [Counter() for _ in range(2)]
    amounts: list[dict[str, Counter]] = [{}, {}]
    false: list[list[int]] = [[], []]
    for seed in seeds:
        numbers = [seed, KINDS.index(kind), SHIFTS.index(shift), int(smooth), episodes]
        late = 0 if shift == "aligned" else int(np.random.default_rng(numbers).integers(2, 6))
        late = -late if shift == "early" else late
        recording = make_recording(kind, smooth=smooth, episodes=episodes, late=late, seed=numbers)
        for states in (0, 1):
            place = scratch / "store"
            store = write(place, recording, states=bool(states))
            result = check_store(store, frame_skip=1, clip_frames=2, held_out=0.1, split_seed=0)
            names = [finding.name for finding in result.findings]
            said = result.lag.lag if result.lag is not None and "action-lag" in names else 0
            how = outcome(late, said)
            found[states][how] += 1
            found[states]["unrelated"] += "unrelated-actions" in names
            amounts[states].setdefault(str(late), Counter())[how] += 1
            if how == "false":
                false[states].append(seed)
            mode = result.control_mode
            modes[states]["unknown" if mode == "unknown" else "right" if mode == kind else "wrong"] += 1
            shutil.rmtree(place)
    cell = {"kind": kind, "shift": shift, "smooth": smooth, "episodes": episodes, "cases": len(seeds)}
    numbers = zip((False, True), found, amounts, modes, false, strict=True)
    return [
        cell | {"states": states, "said": dict(said), "by_shift": by_shift, "mode": dict(mode), "false": seeds_of_false}
        for states, said, by_shift, mode, seeds_of_false in numbers
    ]


def summary(done: list[dict[str, Any]], seeds: range) -> dict[str, Any]:
    """Return all cells, and what they come to."""
    aligned = [cell for cell in done if cell["shift"] == "aligned"]
    return {
        "seeds": [seeds.start, seeds.stop - 1],
        "aligned_cases": sum(cell["cases"] for cell in aligned),
        "false_advice": sum(cell["said"].get("false", 0) for cell in aligned),
        "shifted_cases": sum(cell["cases"] for cell in done if cell["shift"] != "aligned"),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "cells": done,
    }


def main() -> None:
    """Measure the cells that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + args.cases)
    done = json.loads(args.out.read_text("utf-8"))["cells"] if args.out and args.out.is_file() else []
    known = {(c["kind"], c["shift"], c["smooth"], c["episodes"]) for c in done if c["cases"] == args.cases}
    shared = Path("/dev/shm")  # in memory: a store is flushed to the disk for each episode
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as scratch:
        for cell in cells():
            if cell in known:
                continue
            two = measure(*cell, seeds, Path(scratch))
            done += two
            print(*cell, *(f"{c['said']} {c['mode']}" for c in two), file=sys.stderr, flush=True)
            if args.out:
                write_text(args.out, json.dumps(summary(done, seeds), indent=1) + "\n")
    found = summary(done, seeds)
    print(json.dumps({key: value for key, value in found.items() if key != "cells"}))
    sys.exit(int(found["false_advice"] > 0))


if __name__ == "__main__":
    main()
