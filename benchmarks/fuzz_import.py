"""Import damaged recordings, and count how it ends: refused with one line, imported with episodes left out, or worse.

    python benchmarks/fuzz_import.py --mutations 10000 --out benchmarks/results/fuzz_import.json

Each mutation damages one file of a small recording: bytes flipped, cut out, doubled or overwritten, the end cut off, or
a number or name in a text file changed. Every import runs in a process of its own kind, ten seconds at most. A crash, a
hang, another exception than the documented ones, or a file outside of the target is a failure, printed with the number
that repeats it (`--first N --mutations 1`). The last line is one JSON object; the exit status is 1 after a failure.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from lerobot_fixture import write_lerobot, write_video  # pyright: ignore[reportMissingImports]
from lewm.data.importing import ImportOptions, import_recording
from lewm.files import write_text

SECONDS = 10


class _Hang(BaseException):
    """The time is over; nothing catches it on the way."""


def build(root: Path) -> list[Path]:
    """Write one small recording of each kind and return their folders."""
    rng = np.random.default_rng(0)
    write_lerobot(root / "lerobot3", "v3.0", lengths=(5, 4, 6))
    write_lerobot(root / "lerobot2", "v2.1", lengths=(5, 4))
    write_lerobot(root / "lerobot_images", "v3.0", cameras={"observation.images.top": "image"}, lengths=(4, 4))
    for kind in ("robomimic", "flat"):
        (root / kind).mkdir()
        frames = rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
        with h5py.File(root / kind / "demos.hdf5", "w") as file:
            if kind == "flat":
                file.create_dataset("pixels", data=frames, compression="gzip")
                file["action"], file["episode_idx"] = rng.normal(size=(8, 2)), np.repeat([0, 1], 4)
                file["step_idx"], file["state"] = np.tile(np.arange(4), 2), rng.normal(size=(8, 3))
            for k in range(2 if kind == "robomimic" else 0):
                file[f"data/demo_{k}/actions"] = rng.normal(size=(4, 2))
                file.create_dataset(
                    f"data/demo_{k}/obs/front_image", data=frames[4 * k : 4 * k + 4], compression="gzip"
                )
    (root / "video").mkdir()
    write_video(root / "video" / "run1.mp4", [np.full((64, 64, 3), 20 * k, np.uint8) for k in range(8)], "h264")
    rows = "".join(f"{k / 10},{k},{k % 3}\n" for k in range(8))
    (root / "video" / "run1.csv").write_text(f"timestamp,action_0,action_1\n{rows}", encoding="utf-8")
    return sorted(path for path in root.iterdir() if path.is_dir())


def damage(data: bytes, rng: random.Random, *, text: bool) -> bytes:
    """Return a damaged copy of a file's content."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 2, 8, 64))
        match rng.randrange(6 if text else 5):
            case 0:
                changed[at : at + length] = rng.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case 3:
                del changed[at:]
            case 4:
                changed[at : at + length] = b"\xff" * length
            case 5:
                old = rng.choice([b"0", b"1", b'"', b":", b"{", b"/", b"episode", b"action"])
                new = rng.choice(
                    [b"-1", b"1e999", b"99999999999", b"null", b"../../..", b"NaN", b"[[[[", b"{x.__class__}"]
                )
                changed = bytearray(bytes(changed).replace(old, new, rng.choice((1, 1, -1))))
    return bytes(changed)


def attempt(recording: Path, number: int) -> str:
    """Damage a copy of a recording, import it, and return how it ended."""
    import signal

    def too_long(*_: object) -> None:
        raise _Hang

    rng = random.Random(number)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy, out = folder / "recording", folder / "store"
        shutil.copytree(recording, copy)
        file = rng.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
        file.write_bytes(damage(file.read_bytes(), rng, text=file.suffix in (".json", ".jsonl", ".csv")))
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(SECONDS)
        try:
            done = import_recording(copy, out, options=ImportOptions(image_size=16), workers=1, progress=False)
            done.store.validate()
            outcome = "episodes left out" if done.skipped else "imported"
        except (ValueError, OSError) as error:
            outcome = "failure: several lines" if "\n" in str(error) else "refused"
        except _Hang:
            outcome = "failure: hang"
        except Exception as error:
            outcome = f"failure: {type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        if extra := {path.name for path in folder.iterdir()} - {"recording", "store"}:
            outcome = f"failure: wrote {sorted(extra)}"
    return outcome


def main() -> None:
    """Run the mutations and print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with tempfile.TemporaryDirectory() as temporary:
        recordings = build(Path(temporary))
        todo = list(range(arguments.first, arguments.first + arguments.mutations))
        while todo:
            with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
                futures = [(k, pool.submit(attempt, recordings[k % len(recordings)], k)) for k in todo]
                todo = []
                for place, (number, future) in enumerate(futures):
                    try:
                        outcome = future.result(timeout=6 * SECONDS)
                    except (BrokenProcessPool, TimeoutError):
                        # The pool is lost with the process. This number is to blame, or its neighbour of the same time.
                        outcome = "failure: crash or hang that no signal ends"
                        todo = [k for k, _ in futures[place + 1 :]]
                        for process in multiprocessing.active_children():
                            process.kill()
                    if outcome.startswith("failure"):
                        print(f"mutation {number} of {recordings[number % len(recordings)].name}: {outcome}")
                    counts[outcome.partition(":")[0]] += 1
                    if todo:
                        break
    failures = counts.pop("failure", 0)
    summary = json.dumps({"benchmark": "fuzz_import", "mutations": arguments.mutations, "failures": failures} | counts)
    if arguments.out:
        write_text(arguments.out, summary + "\n")
    print(summary)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
