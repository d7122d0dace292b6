"""Import damaged recordings, and count how it ends: refused with one line, imported with episodes left out, or worse.

    python benchmarks/fuzz_import.py --mutations 10000 --out benchmarks/results/fuzz_import.json

Each mutation damages one file of a small recording: bytes flipped, cut out, doubled or overwritten, the end cut off, a
number or name in a text file changed, a member of a shard renamed or made a link or a device under a valid checksum; or
it puts a link, a folder or a pipe in the file's place. Every import runs in a process of its own kind, ten seconds of
computing at most. A crash, a hang, another exception than the documented ones, a file outside of the target, or content
from behind a link that leads out of the recording is a failure, printed with the number that repeats it (`--first N
--mutations 1`). The last line is one JSON object; the exit status is 1 after a failure.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from lerobot_fixture import write_lerobot, write_video  # pyright: ignore[reportMissingImports]
from lewm.data.importing import ImportOptions, import_recording
from lewm.files import write_text

SECONDS = 10  # of computing; a wait may last longer, because the machine may be shared
LONGEST_WAIT = 120
IMAGE_KINDS = ("webp", "jpeg", "png", "bmp")
NAMES = ("../../out.png", "/out.png", "", ".", "x" * 300 + ".png", "a\n.png", "\udc80.png", "0.PNG", "0.cls", "0.tar")
LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE)
PAX = ({"size": "-512"}, {"size": "x"}, {"path": "../../out.png"}, {"GNU.sparse.map": "0,1"}, {"size": "9" * 30})


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
    build_coded(root / "act", rng)
    build_zarr(root / "zarr", rng)
    (root / "video").mkdir()
    write_video(root / "video" / "run1.mp4", [np.full((64, 64, 3), 20 * k, np.uint8) for k in range(8)], "h264")
    rows = "".join(f"{k / 10},{k},{k % 3}\n" for k in range(8))
    (root / "video" / "run1.csv").write_text(f"timestamp,action_0,action_1\n{rows}", encoding="utf-8")
    for kind in ("images", "webdataset", "frames/run0"):
        (root / kind).mkdir(parents=True)
    for k in range(4):
        Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)).save(root / "frames" / "run0" / f"{k}.png")
    rows = "".join(f"{k}.png,{k}.5,{k}\n" for k in range(4))
    (root / "frames" / "run0" / "actions.csv").write_text(f"image,action_x,state_y\n{rows}", encoding="utf-8")
    with tarfile.open(root / "webdataset" / "0.tar", "w") as shard:
        for number, kind in enumerate(IMAGE_KINDS):
            image = Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8))
            folder = root / "images" / f"class {number % 2}"
            folder.mkdir(exist_ok=True)
            exif = Image.Exif()
            exif[0x0112] = 6  # turned
            if kind == "bmp":  # is for folders alone
                image.save(folder / f"{number}.{kind}")
            else:
                image.save(folder / f"{number}.{kind}", exif=exif)
                add_member(shard, tarfile.TarInfo(f"{number}.{kind}"), (folder / f"{number}.{kind}").read_bytes())
                add_member(shard, tarfile.TarInfo(f"{number}.cls"), b"%d" % number)
    shutil.copy(root / "webdataset" / "0.tar", root / "webdataset" / "1.tar")
    return sorted(path for path in root.iterdir() if path.is_dir())


def build_coded(folder: Path, rng: np.random.Generator) -> None:
    """Write two episodes in HDF5, with coded pictures of variable length and padded to one length."""
    folder.mkdir()
    for number in range(2):
        coded = []
        for _ in range(4):
            png = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(png, "PNG")
            coded.append(np.frombuffer(png.getvalue(), np.uint8))
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file["action"], file["observations/qpos"] = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
            images = file.create_dataset("observations/images/top", (4,), h5py.vlen_dtype(np.uint8))
            for k, data in enumerate(coded):
                images[k] = data
            file["observations/images/side"] = np.stack([np.resize(np.append(d, [0] * 2000), 2000) for d in coded])


def build_zarr(folder: Path, rng: np.random.Generator) -> None:
    """Write a replay buffer of two episodes."""
    import zarr

    root = zarr.open_group(str(folder), mode="w", zarr_format=2)
    frames = rng.integers(0, 256, (8, 16, 16, 3)).astype(np.float32)
    numbers = {"data/action": rng.normal(size=(8, 2)), "data/state": rng.normal(size=(8, 3))}
    for name, values in {"data/img": frames, **numbers, "meta/episode_ends": np.array([4, 8])}.items():
        array = root.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(3, *values.shape[1:]))
        array[...] = values


def add_member(shard: tarfile.TarFile, member: tarfile.TarInfo, data: bytes) -> None:
    """Append a member of a shard, whose header counts its bytes."""
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))


def rewrite_shard(file: Path, rng: random.Random) -> None:
    """Write a shard anew with one member whose header lies, under a checksum that is right."""
    with tarfile.open(file) as shard:
        members = [(member, shard.extractfile(member)) for member in shard]
        whole = [(member, data.read() if data else b"") for member, data in members]
    member, data = rng.choice(whole)
    format_ = rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    match rng.randrange(4):
        case 0:
            member.name = rng.choice([*NAMES, *(other.name for other, _ in whole)])
        case 1:
            member.type, member.linkname = rng.choice(LINKS), rng.choice(("../../secret", "/etc/hostname", member.name))
        case 2:
            member.pax_headers, format_ = rng.choice(PAX), tarfile.PAX_FORMAT
        case 3:
            whole[whole.index((member, data))] = member, rng.randbytes(rng.choice((0, 1, 511, 512, 10**5)))
    with tarfile.open(file, "w", format=format_) as shard:
        for member, data in whole:
            add_member(shard, member, data)


def replace(file: Path, outside: Path, rng: random.Random) -> bool:
    """Put a link, a folder or a pipe in a file's place; return whether its content now lies behind a link outwards."""
    kind = rng.choice(("link out", "link in", "link to itself", "link to nothing", "folder", "pipe"))
    neighbours = sorted(path for path in file.parent.iterdir() if path != file)
    file.rename(outside)
    match kind:
        case "link out":
            file.symlink_to(rng.choice((outside, os.path.relpath(outside, file.parent))))
        case "link in" if neighbours:
            file.symlink_to(rng.choice(neighbours))
        case "link to itself":
            file.symlink_to(file)
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case _:
            file.symlink_to("nothing")
    return kind == "link out"


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

    rng, leads_out = random.Random(number), False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy, out = folder / "recording", folder / "store"
        shutil.copytree(recording, copy)
        file = rng.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
        if rng.random() < 0.1:
            leads_out = replace(file, folder / "secret", rng)
        elif file.suffix == ".tar" and rng.random() < 0.5:
            rewrite_shard(file, rng)
        else:
            file.write_bytes(damage(file.read_bytes(), rng, text=file.suffix in (".json", ".jsonl", ".csv")))
        options = ImportOptions(image_size=16, cameras=("top", "side") if recording.name == "act" else ())
        kept = {path.name for path in folder.iterdir()} | {"store"}
        for name in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(name, too_long)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(LONGEST_WAIT)
        try:
            done = import_recording(copy, out, options=options, workers=1, progress=False)
            done.store.validate()
            outcome = "episodes left out" if done.skipped else "imported"
            said = any("leads out" in note for note in done.store.meta.origin.get("notes", ()))
            if leads_out and not done.skipped and not said:
                outcome = f"failure: followed a link from {file.name} out of the recording"
        except (ValueError, OSError) as error:
            outcome = "failure: several lines" if "\n" in str(error) else "refused"
        except _Hang:
            outcome = "failure: hang"
        except Exception as error:
            outcome = f"failure: {type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        if extra := {path.name for path in folder.iterdir()} - kept:
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
                        outcome = future.result(timeout=2 * LONGEST_WAIT)
                    except (BrokenProcessPool, TimeoutError):
                        # The pool is lost with the process. This number is to blame, or its neighbour of the same time.
                        outcome = "failure: crash or hang that no signal ends"
                        todo = [k for k, _ in futures[place + 1 :]]
                        for process in multiprocessing.active_children():
                            process.kill()
                    if outcome.startswith("failure"):
                        print(
                            f"mutation {number} of {recordings[number % len(recordings)].name}: {outcome}", flush=True
                        )
                    counts[outcome.partition(":")[0]] += 1
                    if counts.total() % 500 == 0:
                        print(f"{counts.total()} of {arguments.mutations}", file=sys.stderr, flush=True)
                    if todo:
                        break
    failures = counts.pop("failure", 0)
    facts = {
        "benchmark": "fuzz_import",
        "recordings": [path.name for path in recordings],
        "first": arguments.first,
        "mutations": arguments.mutations,
        "failures": failures,
    }
    summary = json.dumps(facts | counts)
    if arguments.out:
        write_text(arguments.out, summary + "\n")
    print(summary)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
