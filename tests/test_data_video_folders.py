"""Video: frames and actions meet by time, gaps split episodes, and bad or hostile files are one-line errors."""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from av.video.stream import VideoStream

from lewm.data.importers import tables
from lewm.data.importers import video_folders as video
from lewm.data.importers.video_folders import VideoSource
from lewm.data.importing import ImportOptions, Recording, detect_format, import_recording

WIDTH, HEIGHT, BITS, FPS = 96, 64, 8, 30
TICKS = 90_000  # a second, in the units of the frames that are written
OPTIONS = ImportOptions(image_size=32)
INTRA = {"crf": "4", "g": "1"}  # every frame a key frame
LONG = {"crf": "4", "g": "12", "bf": "2"}  # key frames far apart, and frames out of order in the file


def picture(number: int) -> npt.NDArray[np.uint8]:
    """Return a frame that carries its number in eight bars of brightness, over a ramp."""
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    bits = np.repeat([number >> bit & 1 for bit in range(BITS)], WIDTH // BITS)
    frame[:] = (40 + 140 * bits)[None, :, None]
    frame += np.linspace(0, 40, HEIGHT).astype(np.uint8)[:, None, None]
    return frame


def pixels_of(frame: Any) -> npt.NDArray[np.uint8]:
    return frame if isinstance(frame, np.ndarray) else frame.to_ndarray(format="rgb24")


def number_of(frame: Any) -> int:
    """Read the number that a frame carries."""
    bars = pixels_of(frame).mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
    return sum(1 << bit for bit in range(BITS) if bars[bit] > 130)


def write_video(
    path: Path,
    frames: Iterable[npt.NDArray[np.uint8]] | int,
    times: Sequence[float] | None = None,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    rotation: float | None = None,
    mirrored: bool = False,
    shape: Fraction | None = None,
    movflags: str = "",
) -> Path:
    frames = [picture(k) for k in range(frames)] if isinstance(frames, int) else list(frames)
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=FPS, options=options or INTRA)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
        stream.codec_context.time_base = Fraction(
            1, FPS if path.suffix == ".avi" or codec.startswith("mpeg") else TICKS
        )
        if shape is not None:
            stream.codec_context.sample_aspect_ratio = shape
        if rotation is not None or mirrored:
            stream.set_display_rotation(rotation or 0, hflip=mirrored)
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round((k / FPS if times is None else times[k]) / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frame_times(count: int, fps: float = FPS) -> npt.NDArray[np.float64]:
    return np.arange(count) / fps


def actions_at(times: npt.ArrayLike) -> dict[str, npt.NDArray[np.float64]]:
    """Return the columns of a table whose actions and states say which row they are."""
    times = np.asarray(times, np.float64)
    rows = np.arange(len(times), dtype=np.float64)
    return {"timestamp": times, "action_x": rows, "action_y": rows + 0.5, "state_z": rows * 10}


def write_table(path: Path, columns: dict[str, Any]) -> Path:
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pyarrow.csv.write_csv(table, path) if path.suffix == ".csv" else pq.write_table(table, path)
    return path


def run(folder: Path, count: int, actions: npt.ArrayLike, name: str = "run1", **settings: Any) -> VideoSource:
    """Write one video with its table of actions at some times, and open the folder."""
    write_video(folder / f"{name}.mp4", count, **settings)
    write_table(folder / f"{name}.csv", actions_at(actions))
    return VideoSource(folder, OPTIONS)


def numbers(recording: Recording) -> list[int]:
    return [number_of(frame) for frame in recording.frames]


def rows_of(recording: Recording) -> list[float]:
    """Return the row of the table that each frame's action is from, or the mean of the rows."""
    assert recording.actions.dtype == np.float32
    np.testing.assert_allclose(recording.actions[:, 1], recording.actions[:, 0] + 0.5)
    return recording.actions[:, 0].tolist()


def gaps(source: VideoSource) -> list[str]:
    return list(source.info.origin["notes"])


def failure(path: Path, options: ImportOptions = OPTIONS) -> str:
    """Return why nothing can be imported; it must be one line that ends in a remedy."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        VideoSource(path, options)
    return one_line(error.value)


def bad_episode(source: VideoSource, index: int) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        list(source.episode(index).frames)
    return one_line(error.value)


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    assert ";" in str(error)
    return str(error)


# Frames.


def psnr(image: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8]) -> float:
    error = np.mean((image.astype(np.float64) - reference) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("options", [INTRA, LONG])
def test_frames_are_those_written(tmp_path: Path, options: dict[str, str]) -> None:
    source = run(tmp_path, 40, frame_times(40), options=options)
    assert (source.num_episodes, source.length(0)) == (1, 40)
    frames = list(source.episode(0).frames)
    assert len(frames) == 40
    for k, frame in enumerate(frames):
        assert isinstance(frame, av.VideoFrame)
        assert psnr(pixels_of(frame), picture(k)) > 35
    assert gaps(source) == []
    assert source.info.fps == pytest.approx(FPS, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mov", "libx264", LONG),
        ("a.mkv", "libx264", LONG),
        ("a.MKV", "libx264", INTRA),
        ("a.avi", "mjpeg", {"qmin": "1", "qmax": "2"}),
        ("a.webm", "libvpx-vp9", {"crf": "10", "g": "12", "cpu-used": "8", "deadline": "realtime"}),
    ],
)
def test_containers(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    write_video(tmp_path / name, 40, codec=codec, options=options)
    times = np.delete(frame_times(40), slice(13, 19))  # so that the second part begins between two key frames
    write_table(tmp_path / "a.csv", actions_at(times))
    source = VideoSource(tmp_path, OPTIONS)
    assert source.num_episodes == 2
    assert numbers(source.episode(0)) == list(range(14))  # the last action is in force for one interval
    assert numbers(source.episode(1)) == list(range(19, 40))
    assert source.info.fps == pytest.approx(FPS, rel=0.02)


def test_variable_frame_rate(tmp_path: Path) -> None:
    times = np.cumsum([0, *np.tile([1 / 60, 1 / 30, 1 / 15], 10)])
    source = run(tmp_path, 31, times, times=times.tolist(), options=LONG)
    recording = source.episode(0)
    assert numbers(recording) == list(range(31))
    assert rows_of(recording) == list(range(31))
    assert source.info.fps == pytest.approx(30, rel=1e-3)
    assert gaps(source) == []


def test_video_that_does_not_begin_at_zero(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", 20, (5 + frame_times(20)).tolist())
    write_table(tmp_path / "a.csv", actions_at(frame_times(20)))
    recording = VideoSource(tmp_path, OPTIONS).episode(0)
    assert numbers(recording) == rows_of(recording) == list(range(20))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_of_phones_is_applied(tmp_path: Path, rotation: int) -> None:
    frames = [picture(k) for k in range(4)]
    lying = [np.ascontiguousarray(np.rot90(frame, -rotation // 90)) for frame in frames]
    path = write_video(tmp_path / "a.mp4", lying, rotation=rotation)
    write_table(tmp_path / "a.csv", actions_at(frame_times(4)))
    shown = list(VideoSource(path, OPTIONS).episode(0).frames)
    assert len(shown) == 4
    for k, frame in enumerate(shown):
        assert psnr(pixels_of(frame), frames[k]) > 35
    options = ImportOptions(image_size=HEIGHT, fit="stretch")
    store = import_recording(path, tmp_path / "out", options=options, progress=False).store
    assert [number_of(frame) for frame in store.frames] == [0, 1, 2, 3]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_mirrored_frames_are_mirrored_back(tmp_path: Path, rotation: int) -> None:
    """A display matrix that turns and then mirrors, as front cameras write."""
    shown = picture(5)
    stored = np.ascontiguousarray(np.rot90(shown[:, ::-1], -rotation // 90))
    path = write_video(tmp_path / "a.mp4", [stored] * 3, rotation=rotation, mirrored=True)
    write_table(tmp_path / "a.csv", actions_at(frame_times(3)))
    for frame in VideoSource(path, OPTIONS).episode(0).frames:
        assert psnr(pixels_of(frame), shown) > 35


def test_slanted_frames_are_refused(tmp_path: Path) -> None:
    source = run(tmp_path, 4, frame_times(4), rotation=45)
    assert "run1.mp4: is to be shown at a slant" in bad_episode(source, 0)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
@pytest.mark.parametrize(("shape", "size"), [("2/1", (2 * WIDTH, HEIGHT)), ("3/4", (WIDTH, round(HEIGHT / 0.75)))])
def test_pixels_become_square(tmp_path: Path, name: str, shape: str, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / name, 3, shape=Fraction(shape))
    write_table(tmp_path / "a.csv", actions_at(frame_times(3)))
    for k, frame in enumerate(VideoSource(path, OPTIONS).episode(0).frames):
        assert pixels_of(frame).shape == (size[1], size[0], 3)
        assert number_of(frame) == k


def test_pixels_become_square_before_a_frame_is_turned(tmp_path: Path) -> None:
    lying = [np.ascontiguousarray(np.rot90(picture(k), -1)) for k in range(3)]
    path = write_video(tmp_path / "a.mp4", lying, rotation=90, shape=Fraction(1, 2))
    write_table(tmp_path / "a.csv", actions_at(frame_times(3)))
    frames = list(VideoSource(path, OPTIONS).episode(0).frames)
    assert [pixels_of(frame).shape for frame in frames] == [(HEIGHT, 2 * WIDTH, 3)] * 3
    assert [number_of(frame) for frame in frames] == [0, 1, 2]


# Alignment.


@pytest.mark.parametrize("digits", [2, 3, 6])
def test_rounded_times(tmp_path: Path, digits: int) -> None:
    recording = run(tmp_path, 40, np.round(frame_times(40), digits)).episode(0)
    assert numbers(recording) == rows_of(recording) == list(range(40))
    assert recording.states is not None
    np.testing.assert_array_equal(recording.states[:, 0], np.arange(40) * 10)


def test_actions_are_held(tmp_path: Path) -> None:
    source = run(tmp_path, 40, frame_times(14, 10))  # 10 a second, up to 1.3 s
    recording = source.episode(0)
    assert numbers(recording) == list(range(40))
    assert rows_of(recording) == [k // 3 for k in range(40)]


def test_action_between_two_frames_is_not_yet_in_force(tmp_path: Path) -> None:
    source = run(tmp_path, 20, frame_times(20) + 0.4 / FPS)
    recording = source.episode(0)
    assert numbers(recording) == list(range(1, 20))
    assert rows_of(recording) == list(range(19))
    assert gaps(source) == ["run1.mp4: 1 frames before its first action are dropped"]


def test_frames_before_and_behind_the_actions_are_dropped(tmp_path: Path) -> None:
    source = run(tmp_path, 40, frame_times(20) + 10 / FPS)
    recording = source.episode(0)
    assert numbers(recording) == list(range(10, 31))  # the last action is in force for one interval
    assert rows_of(recording) == [*range(20), 19]
    assert recording.source == "run1.mp4"
    assert gaps(source) == [
        "run1.mp4: 10 frames before its first action are dropped",
        "run1.mp4: 9 frames behind its last action, in gaps or alone are dropped",
    ]


def test_faster_actions_are_averaged(tmp_path: Path) -> None:
    recording = run(tmp_path, 12, frame_times(48, 4 * FPS)).episode(0)
    assert rows_of(recording)[:-1] == [4 * k + 1.5 for k in range(11)]
    assert rows_of(recording)[-1] == 44  # leads out, never used
    assert recording.states is not None
    assert recording.states[:, 0].tolist() == [40.0 * k for k in range(12)]  # at the frame's time


def test_no_action_is_lost_when_rates_hardly_differ(tmp_path: Path) -> None:
    actions, slack = frame_times(50, 37.0), 0.25 / 37
    recording = run(tmp_path, 40, actions).episode(0)
    frames = frame_times(41)  # one beyond the last, whose action is the one in force there alone
    for k, found in enumerate(rows_of(recording)[:-1]):
        in_force = max(row for row, time in enumerate(actions) if time <= frames[k] + slack)
        following = [row for row, time in enumerate(actions) if frames[k] + slack < time <= frames[k + 1] + slack]
        until_next = following[:-1]  # the last one is the next frame's
        assert found == pytest.approx(np.mean([in_force, *until_next]))


def test_short_pauses_of_fast_actions_do_not_split(tmp_path: Path) -> None:
    times = np.delete(frame_times(400, 300), slice(101, 106))
    source = run(tmp_path, 40, times)
    assert source.num_episodes == 1
    assert gaps(source) == []


@pytest.mark.parametrize(
    ("column", "scale"), [("t", 1), ("time", 1), ("time_s", 1), ("t_ms", 1e3), ("timestamp_ns", 1e9)]
)
def test_units_of_time(tmp_path: Path, column: str, scale: float) -> None:
    write_video(tmp_path / "a.mp4", 20)
    times = frame_times(20) * scale
    columns = {column: times if scale == 1 else np.round(times).astype(np.int64), "action": np.arange(20.0)}
    write_table(tmp_path / "a.parquet", columns)
    recording = VideoSource(tmp_path, OPTIONS).episode(0)
    assert recording.actions[:, 0].tolist() == list(range(20))
    assert recording.states is None


@pytest.mark.parametrize("start", [0.0, 0.4])
@pytest.mark.parametrize(
    ("column", "scale", "remedy"),
    [
        ("timestamp", 1e3, "name the column timestamp_ms, if its times are milliseconds"),
        ("time", 1e6, "name the column time_us, if its times are microseconds"),
        ("t", 1e9, "name the column t_ns, if its times are nanoseconds"),
        ("t_ms", 1, "name the column t_s, if its times are seconds"),
        ("timestamp_ns", 1e6, "name the column timestamp_us, if its times are microseconds"),
        ("time", FPS, "these are numbers of frames, so give seconds: divide them by 30"),
        ("time_s", 1 / 60, "multiply the times by 60"),
        ("time", 100, "multiply the times by 0.01"),
    ],
)
def test_times_of_another_unit_are_refused(
    tmp_path: Path, column: str, scale: float, remedy: str, start: float
) -> None:
    write_video(tmp_path / "a.mp4", 60)
    write_table(tmp_path / "a.csv", {column: np.round((frame_times(60) + start) * scale, 9), "action": np.arange(60.0)})
    error = failure(tmp_path)
    assert error.startswith(f"a.mp4: {column} is ")
    assert remedy in error
    assert len(error) <= 300


@pytest.mark.parametrize(
    ("times", "frames"),
    [
        (frame_times(90, 5), range(60)),  # a slow log that goes on after the video
        (frame_times(600, 100) - 1, range(60)),  # of another beginning and end
        (frame_times(20) + 1, range(30, 51)),  # of a part of the video
        ([0.0, 1.0, 2.0], range(60)),  # rare commands
        (np.arange(100.0), range(60)),  # one command a second, of a longer day
    ],
)
def test_other_clocks_are_no_matter_of_units(tmp_path: Path, times: npt.ArrayLike, frames: range) -> None:
    assert numbers(run(tmp_path, 60, times).episode(0)) == list(frames)


def test_table_of_mostly_other_times_is_reported(tmp_path: Path) -> None:
    source = run(tmp_path, 30, frame_times(100))
    assert gaps(source) == ["run1.mp4: 70 of 100 rows of its table are of times before or behind its frames"]


def test_videos_most_damage_of_which_stays_unseen_are_reported_once(tmp_path: Path) -> None:
    for name in ("run1", "run2"):
        settings = {"codec": "libx265", "options": {"x265-params": "log-level=none"}}
        source = run(tmp_path, 10, frame_times(10), name, **settings)
    assert gaps(source) == ["HEVC video shows most damage nowhere; compare it with its original, as by checksums"]


def test_discrete_actions(tmp_path: Path) -> None:
    for name, actions in (("a", [0, 2, 1, 1, 0, 0, 2, 2]), ("b", [5, 0, 0, 0, 0, 0, 0, 0])):
        write_video(tmp_path / f"{name}.mp4", 4)
        write_table(tmp_path / f"{name}.csv", {"t": frame_times(8, 2 * FPS), "action": actions})
    source = VideoSource(tmp_path, OPTIONS)
    assert (source.info.action_kind, source.info.action_size, source.info.action_names) == ("discrete", 6, ())
    actions = source.episode(0).actions
    assert actions.dtype == np.int64
    assert actions.tolist() == [0, 1, 0, 2]  # what is between is lost


def test_names(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 4)
    rows = [1, 2, 3, 4]
    columns = {"t": frame_times(4), "action.gripper": [True, False, True, True], "note": list("abcd"), "action_x": rows,
               "state.q": rows, "reward": rows}  # fmt: skip
    write_table(tmp_path / "a.csv", columns)
    source = VideoSource(tmp_path, OPTIONS)
    info = source.info
    assert (info.action_kind, info.action_names) == ("continuous", ("action.gripper", "action_x"))
    assert info.state_names == ("state.q",)
    assert source.episode(0).actions.tolist() == [[1, 1], [0, 2], [1, 3], [1, 4]]


# Gaps.


def test_gap_in_the_frames_splits(tmp_path: Path) -> None:
    times = frame_times(40)
    times[15:] += 0.5
    source = run(tmp_path, 40, frame_times(60), times=times.tolist(), options=LONG)
    assert source.num_episodes == 2
    first, second = source.episode(0), source.episode(1)
    assert numbers(first) == rows_of(first) == list(range(15))
    assert numbers(second) == list(range(15, 40))
    assert rows_of(second) == list(range(30, 55))
    assert (first.source, second.source) == ("run1.mp4 from 0.000 s", "run1.mp4 from 1.000 s")
    assert gaps(source) == ["run1.mp4: split at 0.467 s, where no frame follows for 0.533 s"]


def test_gap_in_the_actions_splits(tmp_path: Path) -> None:
    source = run(tmp_path, 40, np.delete(frame_times(40), slice(10, 20)), options=LONG)
    assert source.num_episodes == 2
    first, second = source.episode(0), source.episode(1)
    assert numbers(first) == list(range(11))
    assert numbers(second) == list(range(20, 40))
    assert rows_of(first) == [*range(10), 9]
    assert rows_of(second) == list(range(10, 30))
    assert gaps(source) == [
        "run1.mp4: split at 0.300 s, where no action follows for 0.367 s",
        "run1.mp4: 9 frames behind its last action, in gaps or alone are dropped",
    ]


def test_no_gap_is_three_intervals(tmp_path: Path) -> None:
    source = run(tmp_path, 40, np.delete(frame_times(40), [10, 11]))
    assert source.num_episodes == 1
    assert rows_of(source.episode(0))[8:14] == [8, 9, 9, 9, 10, 11]


def test_frames_alone_between_gaps_are_dropped(tmp_path: Path) -> None:
    times = frame_times(20)
    times[10:] += 1
    times[11:] += 1
    source = run(tmp_path, 20, frame_times(100), times=times.tolist())
    assert [numbers(source.episode(k)) for k in range(2)] == [list(range(10)), list(range(11, 20))]
    assert gaps(source)[2] == "run1.mp4: 1 frames behind its last action, in gaps or alone are dropped"


def test_report_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_SENTENCES", 2)
    times = frame_times(40) + np.arange(40) // 5
    source = run(tmp_path, 40, frame_times(300), times=times.tolist())
    assert source.num_episodes == 8
    assert len(gaps(source)) == 3
    assert gaps(source)[2] == "and 5 more"


def test_other_frame_rates_are_reported(tmp_path: Path) -> None:
    for name, fps in (("a", 30), ("b", 15)):
        write_video(tmp_path / f"{name}.mp4", 20, frame_times(20, fps).tolist())
        write_table(tmp_path / f"{name}.csv", actions_at(frame_times(20, fps)))
    source = VideoSource(tmp_path, OPTIONS)
    assert gaps(source) == ["frame rates differ from video to video: 15.00 to 30.00"]
    assert source.info.fps == pytest.approx(20)  # of the median interval


# Tables.


@pytest.mark.parametrize("key", ["file", "video", "episode"])
@pytest.mark.parametrize("end", [".mp4", ""])
@pytest.mark.parametrize("table", ["actions.csv", "actions.parquet"])
def test_one_table_for_all(tmp_path: Path, key: str, end: str, table: str) -> None:
    columns: dict[str, Any] = {key: [], **{name: [] for name in actions_at([])}}
    for k, count in enumerate((6, 9)):
        write_video(tmp_path / f"{k}.mp4", count)
        columns[key] += [f"{k}{end}"] * count
        for name, values in actions_at(frame_times(count)).items():
            columns[name] += (values + 100 * k if name != "timestamp" else values).tolist()
    if not end:
        columns[key] = [int(value) for value in columns[key]]
    mixed = np.argsort([*range(6), *range(9)], kind="stable")
    write_table(tmp_path / table, {name: np.array(values)[mixed] for name, values in columns.items()})
    source = VideoSource(tmp_path, OPTIONS)
    for k, count in enumerate((6, 9)):
        recording = source.episode(k)
        assert numbers(recording) == list(range(count))
        assert rows_of(recording) == list(range(100 * k, 100 * k + count))


@pytest.mark.parametrize("name", ["../x.mp4", "/etc/passwd", "x.mp4/../a.mp4", "other.mp4"])
def test_table_that_names_another_file(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_video(tmp_path / "x.mp4", 4)
    write_video(folder / "a.mp4", 4)
    columns = {"file": ["a.mp4"] * 4 + [name] * 4, "t": np.tile(frame_times(4), 2), "action_x": np.arange(8.0)}
    write_table(folder / "all.csv", columns)
    source = VideoSource(folder, OPTIONS)
    assert source.num_episodes == 2
    assert source.episode(0).actions[:, 0].tolist() == [0, 1, 2, 3]
    assert f"all.csv: names 1 videos that are not in the folder, the first {name!r}" in bad_episode(source, 1)


def test_video_that_one_table_does_not_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", 4)
    write_table(tmp_path / "all.csv", {"file": ["b"] * 4, **actions_at(frame_times(4))})
    source = VideoSource(tmp_path, OPTIONS)
    assert "a.mp4: is named in no row of all.csv" in bad_episode(source, 0)
    assert rows_of(source.episode(1)) == [0, 1, 2, 3]


def test_one_video(tmp_path: Path) -> None:
    run(tmp_path, 8, frame_times(8))
    write_video(tmp_path / "other.mp4", 4)
    source = VideoSource(tmp_path / "run1.mp4", OPTIONS)
    assert (source.num_episodes, source.info.task) == (1, "run1")
    assert numbers(source.episode(0)) == list(range(8))
    assert "other.mp4: has no table of its name" in failure(tmp_path / "other.mp4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamp": None}, "run1.csv: has the columns action_x, action_y, state_z; must have one of timestamp"),
        ({"t": frame_times(8)}, "must have one of timestamp, time or t"),
        ({"action_x": None, "action_y": None}, "run1.csv: has the columns timestamp, state_z; must have"),
        ({"action_x": list("abcdefgh")}, "run1.csv: column action_x is string; must be numbers"),
        ({"timestamp": ["2024-01-01 00:00:00"] * 8}, r"run1.csv: column timestamp is timestamp\[s\]; must be"),
        ({"timestamp": [0, None, *range(6)]}, "run1.csv: timestamp is empty or not finite in row 2"),
        ({"timestamp": [0.0, np.nan, *range(6)]}, "run1.csv: timestamp is empty or not finite in row 2"),
        ({"action_x": [0.0, 1, np.inf, *range(5)]}, "run1.csv: action_x is empty or not finite in row 3"),
        ({"action_x": [1e300, *range(7)]}, "run1.csv: action_x is empty or not finite in row 1"),
        ({"state_z": [None, *range(7)]}, "run1.csv: state_z is empty or not finite in row 1"),
        ({"timestamp": [0, 0.1, 0.2, 0.15, 0.3, 0.4, 0.5, 0.6]}, "run1.csv: timestamp goes back in row 4; sort"),
        ({"timestamp": 1.7e9 + frame_times(8)}, "no two frames in a row have actions, with frames at 0 to 0.233 s"),
        ({"timestamp": frame_times(8) - 9}, "actions at -9.000 to -8.767 s; give seconds from the first frame"),
        ({"action_x": None, "action_y": None, "action": [0, -1] * 4}, "run1.csv: action is whole numbers of -1 to 0"),
        ({"action_x": None, "action_y": None, "action": [0, 10**9] * 4}, "whole numbers of 0 to 1000000000"),
    ],
)
def test_bad_tables(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_video(tmp_path / "run1.mp4", 8)
    columns = {name: values for name, values in (actions_at(frame_times(8)) | change).items() if values is not None}
    write_table(tmp_path / "run1.csv", columns)
    text = failure(tmp_path)
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("run1.csv", b"", "run1.csv: is no csv table"),
        ("run1.csv", b"timestamp,action_x\n", "run1.csv: has no rows"),
        ("run1.csv", b"timestamp,action_x\n0,1\n1\n", "run1.csv: is no csv table"),
        ("run1.csv", b"timestamp;action_x\n0;1\n", "run1.csv: has the columns timestamp;action_x; must"),
        ("run1.csv", b"timestamp,action_x,action_x\n0,1,1\n", "run1.csv: has two columns of one name"),
        ("run1.csv", b"\xff\xfe\x00time\x81,\x00\n\x00\x01,2\n", "run1.csv: "),
        ("run1.parquet", b"", "run1.parquet: is no parquet table"),
        ("run1.parquet", b"PAR1" + bytes(100) + b"PAR1", "run1.parquet: is no parquet table"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    write_video(tmp_path / "run1.mp4", 8)
    (tmp_path / name).write_bytes(data)
    text = failure(tmp_path)
    assert message in text, text


def test_absurd_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, 8, frame_times(8))
    monkeypatch.setattr(tables, "_MAX_BYTES", 100)
    assert "run1.csv: is" in failure(tmp_path)
    (tmp_path / "run1.csv").unlink()
    write_table(tmp_path / "run1.parquet", actions_at(frame_times(8)))
    monkeypatch.setattr(tables, "_MAX_ROWS", 7)
    assert "run1.parquet: has 8 rows and 4 columns; must be at most 7" in failure(tmp_path)


def test_spaces_and_unused_columns_of_a_csv(tmp_path: Path) -> None:
    write_video(tmp_path / "run1.mp4", 3)
    (tmp_path / "run1.csv").write_bytes(b"\xef\xbb\xbftimestamp, action_x\r\n0.0, 1\r\n0.033, 2\r\n0.067, 3\r\n")
    assert VideoSource(tmp_path, OPTIONS).episode(0).actions.tolist() == [[1], [2], [3]]


def test_missing_tables(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 4)
    assert "a.mp4: has no table of its name beside it" in failure(tmp_path)
    write_video(tmp_path / "b.mp4", 4)
    write_table(tmp_path / "b.csv", actions_at(frame_times(4)))
    source = VideoSource(tmp_path, OPTIONS)
    assert "a.mp4: has no table" in bad_episode(source, 0)
    assert numbers(source.episode(1)) == [0, 1, 2, 3]
    write_table(tmp_path / "b.parquet", actions_at(frame_times(4)))
    assert "a.mp4: has no table" in failure(tmp_path)
    (tmp_path / "a.mp4").unlink()
    assert "b.mp4: has several tables" in failure(tmp_path)


def test_tables_that_name_no_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 4)
    write_table(tmp_path / "x.csv", actions_at(frame_times(4)))
    assert "x.csv: has the columns timestamp, action_x, action_y, state_z; must have file" in failure(tmp_path)
    write_table(tmp_path / "y.csv", actions_at(frame_times(4)))
    assert "has several tables, x.csv and y.csv" in failure(tmp_path)


def test_tables_that_differ(tmp_path: Path) -> None:
    for name, columns in (("a", ("t", "action_x")), ("b", ("t", "action_y")), ("c", ("t", "action_x"))):
        write_video(tmp_path / f"{name}.mp4", 4)
        write_table(tmp_path / f"{name}.csv", dict.fromkeys(columns, frame_times(4)))
    source = VideoSource(tmp_path, OPTIONS)
    assert "b.mp4: its table has other columns" in bad_episode(source, 1)
    assert numbers(source.episode(2)) == [0, 1, 2, 3]


# Hostile and damaged files.


@pytest.mark.parametrize("target", ["x.mp4", "x.csv"])
@pytest.mark.parametrize("shared", [False, True])
def test_link_out_of_the_folder(tmp_path: Path, target: str, shared: bool) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_video(tmp_path / "x.mp4", 4)
    write_table(tmp_path / "x.csv", {"file": ["a"] * 4, **actions_at(frame_times(4))})
    for name, linked in (("x.mp4", folder / "a.mp4"), ("x.csv", folder / ("all.csv" if shared else "a.csv"))):
        linked.symlink_to(tmp_path / name) if name == target else linked.write_bytes((tmp_path / name).read_bytes())
    assert "links out of" in failure(folder)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.mp4\n",
        "",
    ],
)
@pytest.mark.parametrize("end", ["mp4", "mkv", "avi"])
def test_playlists_are_not_followed(tmp_path: Path, text: str, end: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_video(folder / "secret.mp4", 8)
    (folder / f"run1.{end}").write_text(text)
    write_table(folder / "run1.csv", actions_at(frame_times(8)))
    assert re.match(rf"run1.{end}: (cannot be read|holds no video)", bad_episode_of_failure(folder, f"run1.{end}"))


def bad_episode_of_failure(folder: Path, name: str) -> str:
    (folder / "secret.csv").unlink(missing_ok=True)
    return failure(folder / name)


@pytest.mark.parametrize("share", [0.1, 0.7, 0.99])
def test_truncated_video_without_its_index(tmp_path: Path, share: float) -> None:
    path = write_video(tmp_path / "run1.mp4", 40)
    write_table(tmp_path / "run1.csv", actions_at(frame_times(40)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert failure(tmp_path).startswith("run1.mp4: ")


def test_truncated_video_with_its_index_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "run1.mp4", 40, movflags="faststart")
    write_table(tmp_path / "run1.csv", actions_at(frame_times(40)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    source = VideoSource(tmp_path, OPTIONS)
    recording = source.episode(0)
    assert 10 < len(recording.actions) < 38
    assert numbers(recording) == rows_of(recording) == list(range(len(recording.actions)))
    assert re.match("run1.mp4: is cut off or damaged, it claims 40 frames and has [23]", gaps(source)[0])


def test_damaged_videos(tmp_path: Path) -> None:
    """Whatever bytes are damaged: a one-line error, or frames in their places, but never another exception."""
    path = write_video(tmp_path / "run1.mp4", 20, options=LONG)
    write_table(tmp_path / "run1.csv", actions_at(frame_times(20)))
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    read, refused = 0, []
    for _ in range(40):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            source = VideoSource(tmp_path, OPTIONS)
            for k in range(source.num_episodes):
                recording = source.episode(k)
                assert sum(1 for _ in recording.frames) == len(recording.actions)
            read += 1
        except ValueError as error:
            refused.append(str(error))
    assert read
    assert refused
    assert not any("\n" in reason for reason in refused)


def test_settings_and_folders_that_do_not_fit(tmp_path: Path) -> None:
    assert not VideoSource.matches(tmp_path)
    assert "holds no video of .mp4" in failure(tmp_path)
    run(tmp_path, 4, frame_times(4))
    assert VideoSource.matches(tmp_path)
    assert VideoSource.matches(tmp_path / "run1.mp4")
    assert not VideoSource.matches(tmp_path / "run1.csv")
    assert detect_format(tmp_path) == "video"
    assert "cameras=top: a video is one camera" in failure(tmp_path, ImportOptions(cameras=("top",)))
    assert "run2.mp4: has 1 frames" in failure(write_one_frame(tmp_path))


def write_one_frame(folder: Path) -> Path:
    write_table(folder / "run2.csv", actions_at(frame_times(4)))
    return write_video(folder / "run2.mp4", 1)


# End to end.


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_import(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "robot"
    folder.mkdir()
    run(folder, 20, np.delete(frame_times(20), slice(8, 14)), options=LONG)
    run(folder, 12, frame_times(12), name="run2", options=LONG)
    write_video(folder / "run3.mp4", 4)
    options = ImportOptions(image_size=HEIGHT, fit="stretch")
    done = import_recording(folder, tmp_path / "store", options=options, workers=workers, progress=False)
    assert [index for index, _ in done.skipped] == [3]
    assert "run3.mp4: has no table" in done.skipped[0][1]
    store = done.store
    store.validate()
    assert (store.meta.task, store.meta.action_names) == ("robot", ("action_x", "action_y"))
    assert store.meta.fps == pytest.approx(FPS, rel=1e-3)
    assert store.meta.origin["notes"][0].startswith("run1.mp4: split at 0.233 s")
    assert store.episodes.source == ["run1.mp4 from 0.000 s", "run1.mp4 from 0.467 s", "run2.mp4"]
    found = [[number_of(frame) for frame in store.frames[store.episode(k)]] for k in range(3)]
    assert found == [list(range(9)), list(range(14, 20)), list(range(12))]
    assert store.actions[store.episode(1)][:, 0].tolist() == list(range(8, 14))
