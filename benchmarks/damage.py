"""Damage videos and pictures in one place each, and count how many of those that look wrong are refused.

    python benchmarks/damage.py --files 300 --out benchmarks/results/damage.json

Every kind of video and picture is written from one drawn scene of 128 px. A damaged copy has a bit flipped, 16 bytes
set to zero, or 64 bytes overwritten at random, anywhere in the file, a third each. A copy looks wrong if the mean of a
block of 16x16 pixels differs by more than 16 of 255 from the whole file's picture in some frame that was given out. The
whole files are read too, of videos from 12 places on: none may be refused. A rate is the median of rounds in turn of
decoding a whole H.264 video of 128 px as the import does, and as FFmpeg does if asked for no checks, in one thread and
in as many as it likes.
"""

import argparse
import contextlib
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream
from PIL import Image

from lewm.data.importers.decoding import decoded
from lewm.data.importers.geometry import upright
from lewm.data.importers.pictures import read_image
from lewm.files import write_text

SIDE, FRAMES, BLOCK, VISIBLE = 128, 48, 16, 16
FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
QUIET = "log-level=none"
VIDEOS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "H.264 (CABAC) in mp4": (".mp4", "libx264", "yuv420p", {"g": "20"}),
    "H.264 (CAVLC) in mp4": (".mp4", "libx264", "yuv420p", {"g": "20", "profile": "baseline"}),
    "H.264 (CABAC) in mkv": (".mkv", "libx264", "yuv420p", {"g": "20"}),
    "H.264 (CABAC) in avi": (".avi", "libx264", "yuv420p", {"g": "20", "bf": "0"}),
    "HEVC in mp4": (".mp4", "libx265", "yuv420p", {"x265-params": f"{QUIET}:keyint=20"}),
    "HEVC with hashes in mp4": (".mp4", "libx265", "yuv420p", {"x265-params": f"{QUIET}:keyint=20:hash=1"}),
    "HEVC in mkv": (".mkv", "libx265", "yuv420p", {"x265-params": f"{QUIET}:keyint=20"}),
    "VP8 in webm": (".webm", "libvpx", "yuv420p", {"g": "20", "b": "800000"}),
    "VP9 in webm": (".webm", "libvpx-vp9", "yuv420p", {"g": "20", "b": "800000"}),
    "VP9 in mp4": (".mp4", "libvpx-vp9", "yuv420p", {"g": "20", "b": "800000"}),
    "AV1 in mp4": (".mp4", "libsvtav1", "yuv420p", {"g": "20", "preset": "10"}),
    "AV1 in webm": (".webm", "libsvtav1", "yuv420p", {"g": "20", "preset": "10"}),
    "MJPEG in avi": (".avi", "mjpeg", "yuvj420p", {"q": "3"}),
    "MJPEG in mov": (".mov", "mjpeg", "yuvj420p", {"q": "3"}),
    "MPEG-4 in avi": (".avi", "mpeg4", "yuv420p", {"g": "20", "q": "3"}),
    "MPEG-4 in mp4": (".mp4", "mpeg4", "yuv420p", {"g": "20", "q": "3", "bf": "2"}),
    "MPEG-2 in mkv": (".mkv", "mpeg2video", "yuv420p", {"g": "20", "q": "3"}),
    "FFV1 in avi": (".avi", "ffv1", "yuv420p", {"level": "3"}),
    "FFV1 in mkv": (".mkv", "ffv1", "yuv420p", {}),
    "ProRes in mov": (".mov", "prores_ks", "yuv422p10le", {}),
    "PNG in mov": (".mov", "png", "rgb24", {}),
    "HuffYUV in avi": (".avi", "huffyuv", "yuv422p", {}),
}
PICTURES: dict[str, tuple[str, dict[str, object]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "progressive JPEG": ("JPEG", {"quality": 90, "progressive": True}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"quality": 90}),
    "lossless WebP": ("WEBP", {"lossless": True}),
    "BMP": ("BMP", {}),
}

Row = dict[str, str | int]
Pictures = dict[int, npt.NDArray[np.uint8]]


def draw(number: int) -> npt.NDArray[np.uint8]:
    """Return a frame of two things that move over a moving texture, with the noise of a camera."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    frame = np.stack(
        [128 + 60 * np.sin((x + 2 * number) / 17), 128 + 60 * np.sin((y - number) / 13), 100 + x * 0.8], -1
    )
    frame += np.random.default_rng(0).normal(0, 12, (SIDE, SIDE, 1))
    across, down = 64 + 35 * np.cos(0.15 * number), 64 + 35 * np.sin(0.15 * number)
    frame[(x - across) ** 2 + (y - down) ** 2 < 150] = [230, 40, 40]
    frame[(np.abs(x - (SIDE - across)) < 10) & (np.abs(y - down) < 10)] = [30, 200, 60]
    frame += np.random.default_rng(number).normal(0, 3, frame.shape)
    return frame.clip(0, 255).astype(np.uint8)


def write(video: Path, codec: str, pixels: str, options: dict[str, str], count: int = FRAMES) -> None:
    """Write the scene as a video."""
    with av.open(str(video), "w") as container:
        stream = container.add_stream(codec, rate=20, options=options)
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = SIDE
        stream.pix_fmt = pixels
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(number % FRAMES), format="rgb24")))
        container.mux(stream.encode())


def read_video(video: Path, start: int | None = None) -> Pictures:
    """Return the frames of a video by their times."""
    found: Pictures = {}
    for at, frame, shape in decoded(video, FORMATS[video.suffix], video.name, start):
        shown = upright(frame, shape, video.name)
        found[at] = np.asarray(
            shown.to_ndarray(format="rgb24") if isinstance(shown, av.VideoFrame) else shown, np.uint8
        )
    return found


def damage(data: bytes, rng: random.Random, way: int) -> bytes:
    """Return a copy with one damaged place."""
    damaged = bytearray(data)
    at = rng.randrange(len(damaged))
    if way == 0:
        damaged[at] ^= 1 << rng.randrange(8)
    elif way == 1:
        damaged[at : at + 16] = bytes(len(damaged[at : at + 16]))
    else:
        damaged[at : at + 64] = rng.randbytes(len(damaged[at : at + 64]))
    return bytes(damaged)


def looks_wrong(found: npt.NDArray[np.uint8], whole: npt.NDArray[np.uint8]) -> bool:
    """Tell whether a picture visibly differs from that of the whole file."""
    if found.shape != whole.shape:
        return True
    apart = np.abs(found.astype(np.int64) - whole).mean(axis=2)
    return bool(apart.reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK).mean(axis=(1, 3)).max() > VISIBLE)


def count_outcomes(data: bytes, read: Callable[[bytes], Pictures], whole: Pictures, files: int) -> dict[str, int]:
    """Count how the damaged copies of a file end."""
    outcomes: dict[str, int] = dict.fromkeys(("refused", "cut_off", "looks_right", "looks_wrong"), 0)
    for number in range(files):
        try:
            found = read(damage(data, random.Random(number), number % 3))
        except ValueError:
            outcomes["refused"] += 1
            continue
        if any(at not in whole or looks_wrong(picture, whole[at]) for at, picture in found.items()):
            outcomes["looks_wrong"] += 1
        else:
            outcomes["looks_right" if len(found) == len(whole) else "cut_off"] += 1
    return outcomes


def measure_video(folder: Path, kind: str, files: int) -> Row:
    """Damage copies of one kind of video."""
    suffix, codec, pixels, options = VIDEOS[kind]
    video = folder / f"a{suffix}"
    write(video, codec, pixels, options)
    data, whole = video.read_bytes(), read_video(video)
    refused = int(len(whole) < FRAMES)
    for start in sorted(whole)[:: FRAMES // 12]:
        try:
            found = read_video(video, start)
            refused += not all(at in found for at in whole if at >= start)
        except ValueError:
            refused += 1

    def read(damaged: bytes) -> Pictures:
        video.write_bytes(damaged)
        return read_video(video)

    return {"kind": kind, "bytes": len(data), "whole_refused": refused, **count_outcomes(data, read, whole, files)}


def measure_picture(kind: str, files: int) -> Row:
    """Damage copies of one kind of picture."""
    format_, options = PICTURES[kind]
    buffer = io.BytesIO()
    Image.fromarray(draw(7)).save(buffer, format_, **options)

    def read(data: bytes) -> Pictures:
        return {0: read_image(io.BytesIO(data), kind)}

    data, refused = buffer.getvalue(), 0
    whole = read(data)
    return {"kind": kind, "bytes": len(data), "whole_refused": refused, **count_outcomes(data, read, whole, files)}


def measure_rate(folder: Path, rounds: int = 7) -> dict[str, float]:
    """Time the decoding of a whole H.264 video, with and without checks in turn."""
    video = folder / "rate.mp4"
    write(video, "libx264", "yuv420p", {"g": "20"}, count=40 * FRAMES)

    def plain(threads: int) -> int:
        with av.open(str(video)) as container:
            context = container.streams.video[0].codec_context
            context.thread_type, context.thread_count = "AUTO", threads
            return sum(1 for _ in container.decode(video=0))

    ways = {
        "checked": lambda: sum(1 for _ in decoded(video, "mp4", video.name)),
        "plain": lambda: plain(1),
        "plain_in_threads": lambda: plain(0),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, decode in ways.items():
            begin = time.perf_counter()
            count = decode()
            rates[name].append(count / (time.perf_counter() - begin))
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return {f"{name}_frames_per_second": round(rate) for name, rate in medians.items()} | {
        "ratio": round(medians["checked"] / medians["plain"], 3)
    }


def main() -> None:
    """Measure every kind and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=300, help="damaged copies of each kind")
    parser.add_argument("--kinds", nargs="*", default=[*VIDEOS, *PICTURES])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in arguments.kinds:
            with contextlib.redirect_stderr(io.StringIO()):
                row = (
                    measure_video(folder, kind, arguments.files)
                    if kind in VIDEOS
                    else measure_picture(kind, arguments.files)
                )
            rows.append(row)
            print(json.dumps(row), flush=True)
        summary = {"benchmark": "damage", "files": arguments.files, "rows": rows, "rate": measure_rate(folder)}
    if arguments.out:
        write_text(arguments.out, json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
