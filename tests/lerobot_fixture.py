"""Write small data sets in LeRobot's formats v2.1 and v3.0, for tests.

Written from the format's published specification, not with LeRobot: folders, path templates, tables and their columns
are those that its documentation and its loader name. Every frame, action and state says which one it is.
"""

import io
import json
import shutil
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

SIZE, FPS, ACTION_SIZE, STATE_SIZE = 64, 10, 3, 2
TASKS = ("push the block", "open the drawer")
TEMPLATES = {
    "v2.1": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    "v3.0": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
}
CODECS = {
    "h264": ("libx264", {"crf": "16", "preset": "veryfast"}),
    "av1": ("libsvtav1", {"crf": "12", "preset": "12"}),
}
Frame = npt.NDArray[np.uint8]


def frame_of(camera: int, number: int) -> Frame:
    """Return frame `number` of the data set: a 4 x 4 grid of grey blocks, its bits, on a ground for the camera."""
    bits = (number >> np.arange(16)) & 1
    grid = np.where(bits, 220, 40).reshape(4, 4).astype(np.uint8)
    frame = np.repeat(np.kron(grid, np.ones((SIZE // 4, SIZE // 4), np.uint8))[..., None], 3, axis=2)
    frame[: SIZE // 16] = (60, 120, 180) if camera == 0 else (180, 110, 70)
    return frame


def number_of(frame: Frame) -> int:
    """Return which frame it is."""
    side = SIZE // 4
    blocks = frame[side // 2 :: side, side // 2 :: side, 0].ravel()
    return int(((blocks > 128) << np.arange(16)).sum())


def actions_of(numbers: Iterable[int], size: int = ACTION_SIZE) -> npt.NDArray[np.float32]:
    """Return the actions (L, size) at the given frames."""
    return (np.asarray(list(numbers))[:, None] + np.arange(size) / 8).astype(np.float32)


def states_of(numbers: Iterable[int]) -> npt.NDArray[np.float32]:
    """Return the states (L, 2) at the given frames."""
    return -actions_of(numbers, STATE_SIZE)


def task_of(episode: int) -> str:
    """Return the task of an episode."""
    return TASKS[episode % len(TASKS)]


def write_lerobot(
    root: Path,
    version: str = "v3.0",
    *,
    cameras: Mapping[str, str] | None = None,
    lengths: tuple[int, ...] = (5, 9, 3, 7),
    per_file: int = 3,
    action_size: int = ACTION_SIZE,
    states: bool = True,
    names: object = None,
    gop: int = 2,
    b_frames: int = 0,
    one_row_group: bool = False,
    task_column: str = "__index_level_0__",
    crf: int | None = None,
    shape: tuple[int, int] = (SIZE, SIZE),
    frames: Iterable[Frame] | None = None,
) -> None:
    """Write a data set.

    Args:
        root: its folder.
        version: `v2.1` or `v3.0`.
        cameras: full name of each camera, and `h264`, `av1` or `image`.
        lengths: of the episodes.
        per_file: episodes in a file, v3.0 only.
        action_size: length of the action; 1 is stored as plain numbers, as the format has it.
        states: whether there are any.
        names: of the entries of an action, as `info.json` has them.
        gop: frames from one key frame to the next.
        b_frames: in a row, H.264 only.
        one_row_group: whether a table has one for all episodes, as a converted data set has.
        task_column: name of the task texts in `meta/tasks.parquet`.
        crf: quality of the videos, the lower the better; None for one that tests can compare by.
        shape: height and width of the frames, if they are given.
        frames: of the first file of the only camera, in place of those of `frame_of`; all further videos are copies.
    """
    cameras = {"observation.images.top": "h264"} if cameras is None else dict(cameras)
    is_v3, starts = version == "v3.0", np.cumsum((0, *lengths)).tolist()
    places = [(i // per_file // 2, i // per_file % 2) if is_v3 else (0, i) for i in range(len(lengths))]
    groups = [[i for i, place in enumerate(places) if place == one] for one in dict.fromkeys(places)]
    data_path, video_path = TEMPLATES[version]
    info: dict[str, Any] = {
        "codebase_version": version,
        "robot_type": "toy",
        "total_episodes": len(lengths),
        "total_frames": starts[-1],
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": data_path,
        "video_path": video_path,
        "features": {
            "action": {"dtype": "float32", "shape": [action_size], "names": names},
            **({"observation.state": {"dtype": "float32", "shape": [2], "names": None}} if states else {}),
            **{
                key: {
                    "dtype": "image" if kind == "image" else "video",
                    "shape": [*shape, 3],
                    "names": ["height", "width", "channels"],
                }
                for key, kind in cameras.items()
            },
            **{
                name: {"dtype": dtype, "shape": [1], "names": None}
                for name, dtype in (("timestamp", "float32"), *((key, "int64") for key in _INTEGERS))
            },
        },
    }
    (root / "meta").mkdir(parents=True)
    first_video: Path | None = None
    rows: list[dict[str, Any]] = [
        {"episode_index": i, "tasks": [task_of(i)], "length": length} for i, length in enumerate(lengths)
    ]
    for group in groups:
        chunk, file = places[group[0]]
        fields = {"chunk_index": chunk, "file_index": file, "episode_chunk": chunk, "episode_index": group[0]}
        tables = [_table(i, range(starts[i], starts[i + 1]), action_size, states) for i in group]
        for camera, (key, kind) in enumerate(cameras.items()):
            if kind == "image":
                tables = [
                    table.append_column(key, _images(camera, range(starts[i], starts[i + 1])))
                    for i, table in zip(group, tables, strict=True)
                ]
                continue
            count = starts[group[-1] + 1] - starts[group[0]]
            numbers = range(starts[group[0]], starts[group[0]] + count)
            path = root / video_path.format(video_key=key, **fields)
            if frames is None or first_video is None:
                shown = (frame_of(camera, n) for n in numbers) if frames is None else frames
                write_video(path, shown, kind, gop=gop, b_frames=b_frames, crf=crf)
                first_video = path
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(first_video, path)
            for i in group:
                rows[i] |= {
                    f"videos/{key}/chunk_index": chunk,
                    f"videos/{key}/file_index": file,
                    f"videos/{key}/from_timestamp": (starts[i] - starts[group[0]]) / FPS,
                    f"videos/{key}/to_timestamp": (starts[i + 1] - starts[group[0]]) / FPS,
                }
        path = root / data_path.format(**fields)
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for table in [pa.concat_tables(tables)] if one_row_group else tables:
                writer.write_table(table)
        for i in group:
            rows[i] |= {"data/chunk_index": chunk, "data/file_index": file}
            rows[i] |= {"dataset_from_index": starts[i], "dataset_to_index": starts[i + 1]}
    (root / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    stats = [_stats(range(starts[i], starts[i + 1]), action_size, states) for i in range(len(lengths))]
    if is_v3:
        whole = _stats(range(starts[-1]), action_size, states)
        (root / "meta" / "stats.json").write_text(json.dumps(whole))
        # A table of pandas, with the texts as its index.
        tasks = pa.table({"task_index": list(range(len(TASKS))), task_column: list(TASKS)})
        pandas = {"index_columns": [task_column], "column_indexes": [], "columns": []}
        pq.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(pandas)}), root / "meta" / "tasks.parquet")
        folder = root / "meta" / "episodes" / "chunk-000"
        folder.mkdir(parents=True)
        for row, one in zip(rows, stats, strict=True):
            row |= {f"stats/action/{name}": values for name, values in one["action"].items()}
        middle = len(rows) // 2
        for number, part in enumerate((rows[:middle], rows[middle:])):
            pq.write_table(pa.Table.from_pylist(part), folder / f"file-{number:03d}.parquet")
    else:
        lines = [{key: row[key] for key in ("episode_index", "tasks", "length")} for row in rows]
        _write_lines(root / "meta" / "episodes.jsonl", lines)
        _write_lines(root / "meta" / "tasks.jsonl", [{"task_index": i, "task": text} for i, text in enumerate(TASKS)])
        _write_lines(
            root / "meta" / "episodes_stats.jsonl", [{"episode_index": i, "stats": one} for i, one in enumerate(stats)]
        )


def write_video(
    path: Path, frames: Iterable[Frame], kind: str, *, gop: int = 2, b_frames: int = 0, crf: int | None = None
) -> None:
    """Write frames as an mp4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec, options = CODECS[kind]
    options = {**options, "g": str(gop)} | ({"bf": str(b_frames)} if kind == "h264" else {})
    options |= {} if crf is None else {"crf": str(crf)}
    with av.open(str(path), "w") as container:
        stream = None
        for number, pixels in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=FPS, options=options)  # pyright: ignore[reportArgumentType]
                assert isinstance(stream, av.VideoStream)
                stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode())


_INTEGERS = ("frame_index", "episode_index", "index", "task_index")


def _table(episode: int, numbers: range, action_size: int, states: bool) -> pa.Table:
    """Return the rows of one episode."""
    length, actions = len(numbers), actions_of(numbers, action_size)
    columns: dict[str, pa.Array] = {
        "action": pa.array(actions[:, 0]) if action_size == 1 else _fixed(actions),
        **({"observation.state": _fixed(states_of(numbers))} if states else {}),
        "timestamp": pa.array((np.arange(length) / FPS).astype(np.float32)),
    }
    values = (range(length), [episode] * length, numbers, [episode % len(TASKS)] * length)
    columns |= {name: pa.array(list(v), pa.int64()) for name, v in zip(_INTEGERS, values, strict=True)}
    return pa.table(columns)


def _fixed(values: npt.NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _images(camera: int, numbers: range) -> pa.Array:
    """Return frames as the structs of embedded images."""
    cells = [
        {"bytes": encode_image(frame_of(camera, number)), "path": f"frame-{i:06d}.png"}
        for i, number in enumerate(numbers)
    ]
    return pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def encode_image(pixels: Frame, codec: str = "png") -> bytes:
    """Return a frame as a PNG or JPEG file."""
    out = io.BytesIO()
    with av.open(out, "w", format="image2pipe") as container:
        stream = container.add_stream(codec, rate=1)  # pyright: ignore[reportArgumentType]
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "rgb24" if codec == "png" else "yuvj444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _stats(numbers: range, action_size: int, states: bool) -> dict[str, dict[str, list[float]]]:
    """Return statistics as the format has them."""
    arrays = {"action": actions_of(numbers, action_size)} | (
        {"observation.state": states_of(numbers)} if states else {}
    )
    return {
        name: {
            **{key: getattr(values.astype(np.float64), key)(axis=0).tolist() for key in ("min", "max", "mean", "std")},
            "count": [len(numbers)],
        }
        for name, values in arrays.items()
    }


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
