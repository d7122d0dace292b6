"""Import on a Ray cluster: its machines decode the episodes, and this one stores them in order."""

import contextlib
import logging
import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
import ray.data  # pyright: ignore[reportMissingImports]
from ray.exceptions import RayError, RayTaskError  # pyright: ignore[reportMissingImports]

from lewm.config.choices import FormatName
from lewm.data.importers.source import ImportOptions, Source
from lewm.data.importing import EpisodeStream, Imported, import_episodes, read_episode, worker_source
from lewm.files import short_errors

# Frames travel in messages of this size, so that an episode may be larger than any machine's memory.
_CHUNK_BYTES = 32 << 20


@short_errors()
def import_with_ray(
    path: str | Path,
    out: str | Path,
    *,
    options: ImportOptions | None = None,
    format_: FormatName | None = None,
    max_episodes: int | None = None,
    address: str | None = None,
    progress: bool = True,
) -> Imported:
    """Import a recording into a store with all processors of a Ray cluster.

    The store is that of `import_recording`, byte for byte, and either goes on where the other stopped. Every machine
    must find the recording under the same path, as on a network disk, and have this package installed. Decoded frames
    wait on a machine's own disk and pass through the cluster in small parts; only this process writes the store.

    Args:
        path: the recording.
        out: folder of the store, seen by this machine.
        options: cameras, action, state, frame size and frame-skip.
        format_: one of `lewm.config.choices.FORMATS`; None detects it.
        max_episodes: import at most this many episodes of the recording; None for all.
        address: of the cluster, such as "auto" or "ray://head:10001". None takes the cluster that this process is
            connected to, or the environment's RAY_ADDRESS, or starts one of this machine alone.
        progress: show a bar with frames a second and the time left, on the error stream.

    Raises:
        ValueError: nothing could be imported, or the store holds something else.
        RuntimeError: there is no such cluster, or it failed; the episodes before are in the store.
        OSError: the store could not be written; the episodes before are in it.
    """
    with connected(address):
        return import_episodes(
            path, out, _read_all, options=options, format_=format_, max_episodes=max_episodes, progress=progress
        )


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, and leave a connection that is there already as it was.

    Raises:
        RuntimeError: there is no such cluster.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RuntimeError(f"address={address}: no Ray cluster ({reason}); start one or correct the address") from error
    try:
        yield
    finally:
        ray.shutdown()


def _read_all(source: Source, path: Path, options: ImportOptions, todo: Sequence[int], scratch: Path) -> EpisodeStream:
    """Yield every episode in order, or why it cannot be imported, decoded anywhere in the cluster."""
    if not todo:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # what goes on is told by this package's own bar
    # One episode a task. Ray keeps as many of them under way as there are processors and memory for what they return.
    rows = ray.data.from_items([{"index": index} for index in todo], override_num_blocks=len(todo))
    decode = partial(_decode, path=path, options=options, format_=source.format, chunk_bytes=_CHUNK_BYTES)
    episodes = rows.flat_map(decode)  # pyright: ignore[reportArgumentType]  # it takes generators as well
    episodes.context.execution_options.preserve_order = True
    episodes.context.enable_progress_bars = False
    episodes.context.print_on_execution_start = False
    done = 0
    try:
        for row in episodes.iter_rows():
            index = todo[done]
            assert row["index"] == index, "Ray has changed the order"
            file = scratch / f"{index}.frames"
            with open(file, "ab") as out:
                out.write(row["frames"])
            if row["episode"]:
                episode = pickle.loads(row["episode"])
                yield episode if isinstance(episode, str) else replace(episode, frames=file)
                done += 1
    except RayError as error:
        # Of a failed task Ray has the tracebacks as text, the one that began it first.
        lines = str(error).partition("\n\nThe above exception")[0].strip().splitlines()
        reason = lines[-1 if isinstance(error, RayTaskError) else 0]
        index = todo[min(done, len(todo) - 1)]
        raise RuntimeError(
            f"episode={index} or one after it: the cluster failed ({reason}); the episodes before are stored, run "
            "again to go on"
        ) from error


def _decode(
    row: dict[str, Any], path: Path, options: ImportOptions, format_: FormatName, chunk_bytes: int
) -> Iterator[dict[str, Any]]:
    """Yield the frames of an episode in parts, and with the last part everything else."""
    index = row["index"]
    with tempfile.TemporaryDirectory(prefix="lewm-") as scratch:
        episode = read_episode(worker_source(path, options, format_), index, options, Path(scratch))
        if not isinstance(episode, str):
            with open(episode.frames, "rb") as file:
                while frames := file.read(chunk_bytes):
                    yield {"index": index, "frames": frames, "episode": b""}
        yield {"index": index, "frames": b"", "episode": pickle.dumps(episode)}
