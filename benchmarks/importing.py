"""Measure how fast a LeRobot data set is imported, beside bare decoding of the same videos.

The data set is of the format v3.0, with a key frame every second frame as LeRobot records. Its files are copies of one
video, because encoding takes longer than all that is measured. Bare decoding is a script of PyAV alone that decodes
every frame, in as many processes as the import has: no pixel is converted and nothing is written. Both sides start
their processes afresh, and both decode with one thread a process, the fastest with a process a core. A round is one of
each, one right after the other, and its ratio is that of the two, so that another load on the machine falls on both;
the median round counts.

    python benchmarks/importing.py --frames 9600 --out importing.json

The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from lewm.data.importing import ImportOptions, import_recording
from lewm.files import write_text
from lewm.processes import num_cores

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from lerobot_fixture import write_lerobot  # pyright: ignore[reportMissingImports]

HEIGHT, WIDTH, IMAGE_SIZE = 480, 640, 128
EPISODE, PER_FILE, CRF, ROUNDS = 300, 2, 30, 5
CAMERA = "observation.images.top"
DECODE = """
import sys
import av

num_frames = 0
for path in sys.argv[1:]:
    with av.open(path, format="mp4") as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            num_frames += 1
print(num_frames)
"""


def moving(num_frames: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield frames of a textured scene under a camera that moves, with an object that moves otherwise."""
    rng = np.random.default_rng(0)
    shape = (HEIGHT + 320, WIDTH + 320)
    coarse = rng.integers(0, 256, (shape[0] // 16, shape[1] // 16, 3), dtype=np.uint8)
    smooth = av.VideoFrame.from_ndarray(coarse).reformat(width=shape[1], height=shape[0], interpolation="BICUBIC")
    scene = np.asarray(smooth.to_ndarray(format="rgb24"), np.uint8)
    for i in range(num_frames):
        y, x = int(150 + 140 * np.sin(i / 17)), int(150 + 140 * np.cos(i / 23))
        frame = scene[y : y + HEIGHT, x : x + WIDTH].copy()
        y, x = int((HEIGHT - 80) * (0.5 + 0.5 * np.sin(i / 9))), int((WIDTH - 80) * (0.5 + 0.5 * np.cos(i / 7)))
        frame[y : y + 80, x : x + 80] = (i * 3 % 256, 200, 30)
        yield frame


def build(root: Path, codec: str, num_frames: int) -> None:
    """Write the data set."""
    lengths = (EPISODE,) * (num_frames // EPISODE)
    write_lerobot(
        root,
        cameras={CAMERA: codec},
        lengths=lengths,
        per_file=PER_FILE,
        crf=CRF,
        shape=(HEIGHT, WIDTH),
        frames=moving(PER_FILE * EPISODE),
    )


def measure_bare(root: Path, workers: int, num_frames: int) -> tuple[float, float]:
    """Return frames/s and seconds of processor time."""
    paths = sorted(map(str, root.rglob("*.mp4")))
    cpu, begin = cpu_seconds(), time.perf_counter()
    commands = [[sys.executable, "-c", DECODE, *paths[k::workers]] for k in range(workers)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    decoded = sum(int(process.communicate()[0]) for process in processes)
    seconds = time.perf_counter() - begin
    if decoded != num_frames:
        raise SystemExit(f"{decoded} frames were decoded in place of {num_frames}")
    return num_frames / seconds, cpu_seconds() - cpu


def measure_import(root: Path, out: Path, workers: int, num_frames: int) -> tuple[float, float]:
    """Return frames/s and seconds of processor time."""
    cpu, begin = cpu_seconds(), time.perf_counter()
    done = import_recording(root, out, options=ImportOptions(image_size=IMAGE_SIZE), workers=workers, progress=False)
    seconds = time.perf_counter() - begin
    if done.skipped or done.store.num_frames != num_frames:
        raise SystemExit(f"not every frame was imported: {done.skipped}")
    shutil.rmtree(out)
    return num_frames / seconds, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """Return the processor time of this process and of the ended ones that it started."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(root: Path, workers: int, num_frames: int) -> dict[str, float]:
    """Return the median of all rounds."""
    bare, imported = [], []
    measure_bare(root, workers, num_frames)  # brings the files into memory
    for _ in range(ROUNDS):
        bare.append(measure_bare(root, workers, num_frames))
        imported.append(measure_import(root, root.with_name("store"), workers, num_frames))
    (bare_rate, bare_cpu), (rate, cpu) = (map(statistics.median, zip(*r, strict=True)) for r in (bare, imported))
    return {
        "frames_per_s_import": round(rate, 1),
        "frames_per_s_bare": round(bare_rate, 1),
        "ratio": round(statistics.median(one[0] / other[0] for one, other in zip(imported, bare, strict=True)), 3),
        "cpu_ms_a_frame_import": round(1000 * cpu / num_frames, 3),
        "cpu_ms_a_frame_bare": round(1000 * bare_cpu / num_frames, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=9600, help=f"in episodes of {EPISODE}, {PER_FILE} a file")
    parser.add_argument("--workers", type=int, default=num_cores(), help="processes of both sides")
    parser.add_argument("--dir", type=Path, default=None, help="where the temporary files go")
    parser.add_argument("--out", type=Path, default=None, help="file that also gets the JSON")
    args = parser.parse_args()
    if args.workers < 2:
        parser.error(f"--workers={args.workers}: must be at least 2, because a single one takes more threads")
    if args.frames < 1 or args.frames % (args.workers * PER_FILE * EPISODE):
        # Bare decoding shares the files out, and no process shall have fewer.
        parser.error(f"--frames={args.frames}: must be a multiple of {args.workers * PER_FILE * EPISODE}")

    codecs = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        for codec in ("h264", "av1"):
            print(f"writing {args.frames} frames of {WIDTH}x{HEIGHT} as {codec}", flush=True)
            root = Path(name) / codec
            build(root, codec, args.frames)
            codecs[codec] = measure(root, args.workers, args.frames)
            for key, value in codecs[codec].items():
                print(f"{codec:<6}{key:<24}{value:>10}", flush=True)
    result = {
        **codecs,
        "ratio": min(one["ratio"] for one in codecs.values()),
        "frames": args.frames,
        "frames_encoded": PER_FILE * EPISODE,
        "width": WIDTH,
        "height": HEIGHT,
        "image_size": IMAGE_SIZE,
        "workers": args.workers,
        "rounds": ROUNDS,
        "cpu_count": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "av": av.__version__,
    }
    line = json.dumps(result)
    if args.out is not None:
        write_text(args.out, line + "\n")
    print(line)


if __name__ == "__main__":
    main()
