"""Measure how fast random batches of clips leave the store, beside HDF5 and beside video of the same frames.

The store and HDF5 deliver the same clips, frames and actions, from uncompressed files: the store by its sampler, HDF5
through h5py from contiguous datasets in the four ways that h5py offers, of which the fastest counts. As a stricter
rival there is also HDF5 that delivers frames alone, as if the actions were held in memory, and as the usual one HDF5 as
data sets are published: compressed, a chunk a frame, by LZF, the quickest compression that h5py brings. Where
stable-worldmodel is installed, its HDF5 data set takes part as well, written by its own writer, read clip by clip and
stacked as a DataLoader of PyTorch does it in one process. Video delivers
the frames of the same clips, decoded by PyAV from H.264 files with a keyframe at every other frame, which serve random
access as well as video can. Copying is the floor below all of them: it moves the frames of the same clips from the
memory map to one buffer, and does nothing else. Rounds of all ways alternate and the median round counts. Warm rates
are by CPU time, because all ways compute on one thread and wait for nothing, so that another load on the machine falls
on none of them. Cold, by the clock, is an epoch that begins with no page of the files in memory.

    python benchmarks/sampler.py --frames 20000 --out sampler.json

The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import av
import h5py
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from lewm.data import ClipSampler, Store, StoreMeta, StoreWriter

BATCH, CLIP_FRAMES, ACTION_SIZE, EPISODE = 64, 2, 2, 100
ROUNDS, COLD_ROUNDS = 15, 3
VIDEO_FRAMES, VIDEO_FPS, GOP = 1000, 30, 2  # frames a file and a second; frames from one keyframe to the next

RIVAL = "stable_worldmodel"

Starts = npt.NDArray[np.int64]
Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


def build(folder: Path, num_frames: int, image_size: int) -> None:
    """Write the same episodes as a store, as an HDF5 file and as videos, all flushed to the disk."""
    rng = np.random.default_rng(0)
    meta = StoreMeta(task="clouds", image_size=image_size, action_kind="continuous", action_size=ACTION_SIZE)
    clouds = make_clouds(rng, image_size)
    with StoreWriter(folder / "store", meta) as writer, h5py.File(folder / "clips.h5", "w") as file:
        shape = (num_frames, *clouds.shape[1:])
        h5_frames = file.create_dataset("frames", shape, np.uint8)
        h5_packed = file.create_dataset("packed", shape, np.uint8, chunks=(1, *shape[1:]), compression="lzf")
        h5_actions = file.create_dataset("actions", (num_frames, ACTION_SIZE), np.float32)
        for start in range(0, num_frames, EPISODE):
            frames = np.roll(clouds, 7 * start // EPISODE, axis=1)[: num_frames - start]
            actions = rng.standard_normal((len(frames), ACTION_SIZE), dtype=np.float32)
            writer.append(frames, actions)
            h5_frames[start : start + EPISODE] = h5_packed[start : start + EPISODE] = frames
            h5_actions[start : start + EPISODE] = actions
    if find_spec(RIVAL) is not None:
        write_swm(folder)
    frames = Store(folder / "store").frames
    for number, start in enumerate(range(0, num_frames, VIDEO_FRAMES)):
        write_video(folder / f"{number}.mp4", frames[start : start + VIDEO_FRAMES])
    for path in files(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def make_clouds(rng: np.random.Generator, image_size: int) -> npt.NDArray[np.uint8]:
    """Return an episode of smooth, drifting clouds, which video compresses as it does a camera's frames."""
    waves = np.fft.fftfreq(image_size)
    damping = 1 / (1e-2 + np.hypot(waves[:, None], waves)) ** 2
    noise = np.fft.fft2(rng.standard_normal((3, image_size, image_size)))
    image = np.fft.ifft2(noise * damping).real.transpose(1, 2, 0)
    image += 10 * image.mean(axis=2, keepdims=True)  # its colours are pale
    image = np.clip(128 + 50 * (image - image.mean()) / image.std(), 0, 255).astype(np.uint8)
    return np.stack([np.roll(image, t, axis=1) for t in range(EPISODE)])


def write_video(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=VIDEO_FPS, options={"g": str(GOP), "crf": "23"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())


def write_swm(folder: Path) -> None:
    """Write the store's episodes again by stable-worldmodel's writer."""
    store = Store(folder / "store")
    with import_module(f"{RIVAL}.data.formats.hdf5").HDF5Writer(folder / "swm.h5") as writer:
        for start in range(0, len(store.frames), EPISODE):
            rows = slice(start, start + EPISODE)
            writer.write_episode({"pixels": store.frames[rows], "action": store.actions[rows]})


def swm_reader(path: Path) -> Callable[[Starts], Batch]:
    """Return what reads clips by stable-worldmodel's data set, with PyTorch's stacking."""
    from torch.utils.data import default_collate

    dataset = import_module(f"{RIVAL}.data.formats.hdf5").HDF5Dataset(path=path, num_steps=CLIP_FRAMES)

    def read(starts: Starts) -> Batch:
        # its clips are numbered through, without those that would leave their episode
        first = starts - (CLIP_FRAMES - 1) * (starts // EPISODE)
        batch = default_collate([dataset[index] for index in first.tolist()])
        return batch["pixels"].permute(0, 1, 3, 4, 2).numpy(), batch["action"][:, :-1].numpy()

    return read


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class Hdf5:
    """The ways to read clips through h5py."""

    def __init__(self, path: Path, frames: str = "frames") -> None:
        self.file = h5py.File(path, "r")
        self.frames: h5py.Dataset = self.file[frames]  # pyright: ignore[reportAttributeAccessIssue]
        self.actions: h5py.Dataset = self.file["actions"]  # pyright: ignore[reportAttributeAccessIssue]

    def empty(self, batch: int) -> Batch:
        frames = np.empty((batch, CLIP_FRAMES, *self.frames.shape[1:]), np.uint8)
        return frames, np.empty((batch, CLIP_FRAMES - 1, ACTION_SIZE), np.float32)

    def slices(self, starts: Starts) -> Batch:
        """Read one slice a clip."""
        frames, actions = self.empty(len(starts))
        for i, start in enumerate(starts.tolist()):
            frames[i] = self.frames[start : start + CLIP_FRAMES]
            actions[i] = self.actions[start : start + CLIP_FRAMES - 1]
        return frames, actions

    def direct(self, starts: Starts) -> Batch:
        """Read each clip straight into its place in the batch."""
        frames, actions = self.empty(len(starts))
        for i, start in enumerate(starts.tolist()):
            self.frames.read_direct(frames, np.s_[start : start + CLIP_FRAMES], np.s_[i])
            self.actions.read_direct(actions, np.s_[start : start + CLIP_FRAMES - 1], np.s_[i])
        return frames, actions

    def fancy(self, starts: Starts) -> Batch:
        """Read all rows of the batch at once, sorted as h5py wants them, and put them in order."""
        rows, place = np.unique(starts[:, None] + np.arange(CLIP_FRAMES), return_inverse=True)
        first, action_place = np.unique(starts, return_inverse=True)
        place = place.reshape(len(starts), CLIP_FRAMES)
        return self.frames[rows][place], self.actions[first][action_place][:, None]

    def low_level(self, starts: Starts, *, with_actions: bool = True) -> Batch:
        """Read each clip straight into its place, without the selections that h5py makes anew at every read."""
        frames, actions = self.empty(len(starts))
        for data, rows in ((self.frames, frames), (self.actions, actions))[: 1 + with_actions]:
            size = rows.shape[1:]
            file, memory = data.id.get_space(), h5py.h5s.create_simple(size)
            rest = (0,) * (len(size) - 1)
            for i, start in enumerate(starts.tolist()):
                file.select_hyperslab((start, *rest), size)
                data.id.read(memory, file, rows[i])
        return frames, actions


class Video:
    """Clips decoded from videos: every file is open, and a clip begins at the keyframe before it."""

    def __init__(self, folder: Path, image_size: int) -> None:
        self.opened: dict[int, tuple[InputContainer, VideoStream]] = {}
        self.folder, self.image_size = folder, image_size
        self.scaler = VideoReformatter()

    def read(self, starts: Starts) -> npt.NDArray[np.uint8]:
        out = np.empty((len(starts), CLIP_FRAMES, self.image_size, self.image_size, 3), np.uint8)
        for i, start in enumerate(starts.tolist()):
            for t in range(CLIP_FRAMES):
                number, place = divmod(start + t, VIDEO_FRAMES)
                if t == 0 or place == 0:  # a clip may go on in the next file
                    frames = self.frames_from(number, place)
                out[i, t] = next(frames)
        return out

    def frames_from(self, number: int, place: int) -> Iterator[npt.NDArray[np.uint8]]:
        container, stream = self.opened.get(number) or self.open(number)
        assert stream.time_base is not None
        time = round(place / VIDEO_FPS / stream.time_base)
        container.seek(time, stream=stream)
        for frame in container.decode(stream):
            assert frame.pts is not None
            if frame.pts >= time:
                yield np.asarray(self.scaler.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)

    def open(self, number: int) -> tuple[InputContainer, VideoStream]:
        container = av.open(self.folder / f"{number}.mp4")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        self.opened[number] = container, stream
        return container, stream

    def close(self) -> None:
        for container, _ in self.opened.values():
            container.close()


def rate(read: Callable[[int], object], seconds: float, first_step: int) -> float:
    """Return clips by second of CPU time of consecutive batches."""
    step, begin = first_step, time.process_time()
    while (elapsed := time.process_time() - begin) < seconds:
        read(step)
        step += 1
    return (step - first_step) * BATCH / elapsed


def measure_warm(folder: Path, seconds: float) -> tuple[dict[str, float], float]:
    """Return the median clips/s of every way, with all pages in memory and mapped, and the store's faults a batch."""
    store = Store(folder / "store")
    sampler = ClipSampler(store, range(store.num_episodes), clip_frames=CLIP_FRAMES, batch_size=BATCH)
    hdf5, video = Hdf5(folder / "clips.h5"), Video(folder, store.meta.image_size)
    packed = Hdf5(folder / "clips.h5", "packed")
    # The rivals get the starts for nothing; the sampler computes them.
    steps = sampler.num_clips // BATCH
    starts = [sampler.batch(step).index for step in range(steps)]
    ways: dict[str, Callable[[int], object]] = {
        "store": lambda step: sampler.batch(step % steps),
        "hdf5_slices": lambda step: hdf5.slices(starts[step % steps]),
        "hdf5_direct": lambda step: hdf5.direct(starts[step % steps]),
        "hdf5_fancy": lambda step: hdf5.fancy(starts[step % steps]),
        "hdf5_low_level": lambda step: hdf5.low_level(starts[step % steps]),
        "hdf5_frames_only": lambda step: hdf5.low_level(starts[step % steps], with_actions=False),
        "hdf5_packed": lambda step: packed.low_level(starts[step % steps]),
        "video": lambda step: video.read(starts[step % steps]),
        "copy": lambda step: copy(starts[step % steps]),
    }
    if find_spec(RIVAL) is not None:
        read_swm = swm_reader(folder / "swm.h5")
        ways["hdf5_swm"] = lambda step: read_swm(starts[step % steps])
    clips = sampler.batch(0)
    plain, buffer = store.frames.view(np.ndarray), np.empty_like(clips.frames)

    def copy(starts: Starts) -> None:
        np.take(plain, starts[:, None] + np.arange(CLIP_FRAMES), axis=0, out=buffer, mode="clip")

    readers = [hdf5.slices, hdf5.direct, hdf5.fancy, hdf5.low_level, packed.low_level]
    if "hdf5_swm" in ways:
        readers.append(read_swm)
    for read in readers:
        frames, actions = read(clips.index)
        if not (np.array_equal(frames, clips.frames) and np.array_equal(actions, clips.actions)):
            raise SystemExit("the store and HDF5 give different clips")
    # Video loses a little; a frame too early or too late is further away.
    decoded = video.read(clips.index).astype(int)
    error, swapped = (np.abs(decoded - frames).mean() for frames in (clips.frames, clips.frames[:, ::-1]))
    if error > 0.75 * swapped:
        raise SystemExit(f"the store and the videos give different clips: they differ by {error:.1f} of 255")
    for path in files(folder):
        path.read_bytes()
    store.frames.reshape(-1)[::4096].sum()  # maps every page
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, ROUNDS):
        for name, read in ways.items():
            clips_per_s = rate(read, seconds, first_step=97 * max(number, 0))
            if number >= 0:  # the round before is warm-up
                rates[name].append(clips_per_s)
    for opened in (hdf5.file, packed.file, video):
        opened.close()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for step in range(steps):
        sampler.batch(step)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / steps
    return {name: statistics.median(values) for name, values in rates.items()}, faults


def measure_cold(folder: Path) -> tuple[dict[str, float] | None, str]:
    """Return the median clips/s with no page in memory, or None and why that cannot be had here."""
    if not hasattr(os, "posix_fadvise"):
        return None, "not measured: this system cannot drop a file from the page cache (no posix_fadvise)"
    rates: dict[str, list[float]] = {"store": [], "hdf5_slices": []}
    for number in range(COLD_ROUNDS):
        drop_from_cache(folder)
        store = Store(folder / "store")
        sampler = ClipSampler(
            store, range(store.num_episodes), clip_frames=CLIP_FRAMES, batch_size=BATCH, seed=number + 1
        )
        starts, steps = [], sampler.num_clips // BATCH
        blocks, begin = resource.getrusage(resource.RUSAGE_SELF).ru_inblock, time.perf_counter()
        for step in range(steps):
            starts.append(sampler.batch(step).index)
        elapsed = time.perf_counter() - begin
        read_bytes = 512 * (resource.getrusage(resource.RUSAGE_SELF).ru_inblock - blocks)
        if read_bytes < store.frames.nbytes / 2:
            return None, "not measured: the file system keeps the files in memory (give --dir on a disk)"
        rates["store"].append(steps * BATCH / elapsed)
        del store, sampler  # mapped pages cannot be dropped

        drop_from_cache(folder)
        hdf5 = Hdf5(folder / "clips.h5")
        begin = time.perf_counter()
        for batch_starts in starts:
            hdf5.slices(batch_starts)
        rates["hdf5_slices"].append(steps * BATCH / (time.perf_counter() - begin))
        hdf5.file.close()
    return {name: statistics.median(values) for name, values in rates.items()}, "page cache dropped by posix_fadvise"


def drop_from_cache(folder: Path) -> None:
    for path in files(folder):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=20_000, help="frames in the store")
    parser.add_argument("--image-size", type=int, default=128, help="side of a frame in pixels")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of one round of one way")
    parser.add_argument("--dir", type=Path, default=None, help="where the temporary files go")
    parser.add_argument("--out", type=Path, default=None, help="file that also gets the JSON")
    args = parser.parse_args()
    if args.frames < 2 * BATCH:
        parser.error(f"--frames={args.frames}: must be at least {2 * BATCH}")

    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        folder = Path(name)
        print(f"writing {args.frames} frames of {args.image_size} px as a store, as HDF5 and as videos", flush=True)
        build(folder, args.frames, args.image_size)
        cold, cold_note = measure_cold(folder)
        warm, faults = measure_warm(folder, args.seconds)

    ways = {way: warm[way] for way in ("hdf5_slices", "hdf5_direct", "hdf5_fancy", "hdf5_low_level")}
    best = max(ways, key=lambda way: ways[way])
    for title, rates in (("warm", warm), ("cold", cold or {})):
        for way, clips_per_s in rates.items():
            print(f"{title}  {way:<18}{clips_per_s:>10,.0f} clips/s")
    print(f"cold: {cold_note}")
    result = {
        "clips_per_s_warm": round(warm["store"]),
        "clips_per_s_cold": round(cold["store"]) if cold else None,
        "ratio_to_hdf5": round(warm["store"] / ways[best], 2),
        "ratio_to_hdf5_frames_only": round(warm["store"] / warm["hdf5_frames_only"], 2),
        "ratio_to_hdf5_compressed": round(warm["store"] / warm["hdf5_packed"], 1),
        "ratio_to_stable_worldmodel": round(warm["store"] / warm["hdf5_swm"], 1) if "hdf5_swm" in warm else None,
        "ratio_to_hdf5_cold": round(cold["store"] / cold["hdf5_slices"], 2) if cold else None,
        "ratio_to_video": round(warm["store"] / warm["video"], 1),
        "ratio_to_copying": round(warm["store"] / warm["copy"], 2),
        "ratio_to_hdf5_of_copying": round(warm["copy"] / ways[best], 2),
        "copy_clips_per_s_warm": round(warm["copy"]),
        "page_faults_a_batch": round(faults, 1),
        "hdf5_way": best.removeprefix("hdf5_"),
        "hdf5_clips_per_s_warm": {
            way.removeprefix("hdf5_"): round(r) for way, r in warm.items() if way.startswith("hdf5")
        },
        "hdf5_clips_per_s_cold": round(cold["hdf5_slices"]) if cold else None,
        "video_clips_per_s_warm": round(warm["video"]),
        "video": f"H.264, a keyframe every {GOP} frames, one thread",
        "cold": cold_note,
        "frames": args.frames,
        "image_size": args.image_size,
        "batch_size": BATCH,
        "clip_frames": CLIP_FRAMES,
        "rounds": ROUNDS,
        "cpu_count": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "pyav": av.__version__,
        "stable_worldmodel": version("stable-worldmodel") if "hdf5_swm" in warm else None,
    }
    line = json.dumps(result)
    if args.out is not None:
        args.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
