"""Frames of LeRobot data sets: found in videos and in tables, and one plain line for those that cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from lerobot_edit import ANY, LENGTHS, STARTS, TOP, V3_DATA, V3_VIDEO, edit_info, edit_rows, pixels_of, psnr, skipped
from lerobot_fixture import FPS, SIZE, actions_of, encode_image, frame_of, number_of, write_lerobot, write_video
from lewm.data.importers import decoding
from lewm.data.importers.lerobot import LeRobotSource


def test_bad_videos(lerobot_v2: Path, tmp_path: Path) -> None:
    folder = lerobot_v2 / "videos" / "chunk-000" / TOP
    paths = [folder / f"episode_{i:06d}.mp4" for i in range(4)]
    paths[0].write_bytes(paths[0].read_bytes()[: paths[0].stat().st_size // 2])
    write_video(paths[1], [frame_of(0, n) for n in range(STARTS[1], STARTS[2] - 2)], "h264")
    paths[3].write_text("ffconcat version 1.0\nfile episode_000002.mp4\n")
    frames = iter(LeRobotSource(lerobot_v2, ANY).episode(1).frames)
    for t in range(7):  # decoded as they are asked for: the end is not known to be missing
        assert number_of(pixels_of(next(frames))) == STARTS[1] + t
    bad = skipped(lerobot_v2, tmp_path / "store")
    assert bad.keys() == {0, 1, 3}
    for index in (0, 3):
        name = paths[index].relative_to(lerobot_v2)
        assert bad[index].startswith(f"episode {index}, camera {TOP}: {name}: cannot be read (")
    name = paths[1].relative_to(lerobot_v2)
    assert bad[1] == f"episode 1, camera {TOP}: has no frame at 0.700 s (frame 7) in {name}; repair the video"


def test_a_video_cut_behind_its_index(lerobot_v3: Path) -> None:
    path = lerobot_v3 / V3_VIDEO
    with (
        av.open(str(path)) as source,
        av.open(str(lerobot_v3 / "new.mp4"), "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = (lerobot_v3 / "new.mp4").read_bytes()
    path.write_bytes(data[: len(data) * 4 // 5])
    source = LeRobotSource(lerobot_v3, ANY)
    assert [number_of(pixels_of(frame)) for frame in source.episode(0).frames] == list(range(LENGTHS[0]))
    with pytest.raises(ValueError, match=r"episode 2, camera .*file-000\.mp4"):
        list(source.episode(2).frames)


def test_an_mp4_without_video(lerobot_v2: Path) -> None:
    path = lerobot_v2 / "videos" / "chunk-000" / TOP / "episode_000000.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(ValueError, match=r"episode_000000\.mp4: holds no video"):
        list(LeRobotSource(lerobot_v2, ANY).episode(0).frames)


def test_a_video_of_an_unknown_kind(lerobot_v2: Path) -> None:
    path = lerobot_v2 / "videos" / "chunk-000" / TOP / "episode_000000.mp4"
    data = path.read_bytes()
    assert data.count(b"avc1") == 2  # the kind of the file, and of its stream
    path.write_bytes(data.replace(b"avc1", b"????"))
    with pytest.raises(ValueError, match=r"episode_000000\.mp4: is of an unknown kind, so this PyAV cannot decode it"):
        list(LeRobotSource(lerobot_v2, ANY).episode(0).frames)


def test_frames_without_bounds(
    lerobot_v3: Path, lerobot_images: Path, lerobot_sets: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", SIZE * SIZE - 1)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", SIZE * SIZE - 1)
    for root in (lerobot_v3, lerobot_images, lerobot_sets["v3.0", "av1"]):
        with pytest.raises(ValueError, match=r"episode 1, camera .* (is damaged|exceeds limit)"):
            list(LeRobotSource(root, ANY).episode(1).frames)


def test_av1_needs_dav1d(lerobot_sets: dict[tuple[str, str], Path]) -> None:
    with av.open(str(lerobot_sets["v3.0", "av1"] / V3_VIDEO)) as container:
        assert container.streams.video[0].codec_context.codec.name == "libdav1d"


@pytest.mark.parametrize(
    ("cell", "match"),
    [
        ({"bytes": None, "path": "/etc/hostname"}, "frame 2: is not embedded as png or jpeg"),
        (None, "frame 2: is not embedded"),
        ({"bytes": b"GIF89a", "path": ""}, "frame 2: is not embedded"),
        ({"bytes": encode_image(frame_of(0, 0))[:60], "path": ""}, "frame 2: is no usable image"),
        ({"bytes": b"\xff\xd8", "path": ""}, "frame 2: is no usable image"),
    ],
)
def test_bad_images(lerobot_images: Path, tmp_path: Path, cell: Any, match: str) -> None:
    edit_rows(lerobot_images / V3_DATA, lambda rows: rows[STARTS[1] + 2].update({TOP: cell}))
    with pytest.raises(ValueError, match=rf"episode 1, camera {TOP}, {match}"):
        list(LeRobotSource(lerobot_images, ANY).episode(1).frames)
    assert skipped(lerobot_images, tmp_path / "store").keys() == {1}


def test_images_that_are_none(lerobot_images: Path) -> None:
    for path in (lerobot_images / "data").rglob("*.parquet"):
        edit_rows(path, lambda rows: [row.update({TOP: "frame.png"}) for row in rows])
    with pytest.raises(ValueError, match=rf"its cameras {TOP} have no files; copy the images or videos too"):
        LeRobotSource(lerobot_images, ANY)


def test_images_as_bytes_alone(lerobot_images: Path, tmp_path: Path) -> None:
    for path in (lerobot_images / "data").rglob("*.parquet"):
        edit_rows(path, lambda rows: [row.update({TOP: row[TOP]["bytes"]}) for row in rows])
    assert skipped(lerobot_images, tmp_path / "store") == {}


def test_a_camera_declared_as_what_it_is_not(lerobot_images: Path, lerobot_v2: Path, tmp_path: Path) -> None:
    for root, kind in ((lerobot_images, "video"), (lerobot_v2, "image")):
        edit_info(root, lambda info, kind=kind: info["features"][TOP].update(dtype=kind))
        assert skipped(root, tmp_path / kind) == {}


def test_jpeg_images(lerobot_images: Path, tmp_path: Path) -> None:
    def to_jpeg(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row[TOP]["bytes"] = encode_image(frame_of(0, row["index"]), "mjpeg")

    edit_rows(lerobot_images / V3_DATA, to_jpeg)
    assert skipped(lerobot_images, tmp_path / "store") == {}
    for number, frame in enumerate(LeRobotSource(lerobot_images, ANY).episode(0).frames):
        assert psnr(pixels_of(frame), frame_of(0, number)) > 30


def edit_times(root: Path, edit: Callable[[int, float], float]) -> None:
    """Change the times of the rows, of their place in their episode and their time."""
    for path in (root / "data").rglob("*.parquet"):
        edit_rows(path, lambda rows: [row.update(timestamp=edit(row["frame_index"], row["timestamp"])) for row in rows])


@pytest.mark.parametrize(
    "edit",
    [
        lambda place, time: time + 1 / FPS,  # taken after the step
        lambda place, time: place / (1.4 * FPS),  # of a clock that goes slow
        lambda place, time: time + 0.04 * (place % 2),
        lambda place, time: 3 * time,
    ],
)
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_as_many_frames_as_rows_are_taken_in_order(
    tmp_path: Path, version: str, edit: Callable[[int, float], float]
) -> None:
    write_lerobot(tmp_path / "data", version)
    edit_times(tmp_path / "data", edit)
    assert skipped(tmp_path / "data", tmp_path / "store") == {}


@pytest.mark.parametrize("fps", [5, 30, 7.5])
def test_a_wrong_rate(tmp_path: Path, fps: float) -> None:
    """The times of the rows and the frames themselves are right, and what `meta/info.json` says of the rate is not."""
    for version in ("v2.1", "v3.0"):
        write_lerobot(tmp_path / version, version)
        edit_info(tmp_path / version, lambda info: info.update(fps=fps))
        assert skipped(tmp_path / version, tmp_path / f"{version}-store") == {}


@pytest.mark.parametrize("first", [0, 4])
def test_rows_of_a_part_of_a_video(lerobot_v2: Path, first: int) -> None:
    """Rows that were cut out of a longer recording find their frames by their times."""
    path = lerobot_v2 / "data" / "chunk-000" / "episode_000001.parquet"
    rows = pq.read_table(path).slice(first, 5)
    pq.write_table(rows, path)
    recording = LeRobotSource(lerobot_v2, ANY).episode(1)
    numbers = range(STARTS[1] + first, STARTS[1] + first + 5)
    assert [number_of(pixels_of(frame)) for frame in recording.frames] == list(numbers)
    np.testing.assert_array_equal(recording.actions, actions_of(numbers))


def test_frames_left_out_of_a_video_are_missed(lerobot_v2: Path) -> None:
    path = lerobot_v2 / "videos" / "chunk-000" / TOP / "episode_000001.mp4"
    write_video(path, [frame_of(0, n) for n in range(STARTS[1], STARTS[2] + 3)], "h264")
    with av.open(str(path)) as source, av.open(str(path.with_name("new.mp4")), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None and packet.time_base is not None:
                if packet.pts * packet.time_base > 3.5 / FPS:  # nothing is seen for two frames
                    packet.pts, packet.dts = (
                        round(t + 2 / FPS / packet.time_base) for t in (packet.pts, packet.dts or 0)
                    )
                packet.stream = stream
                out.mux(packet)
    path.with_name("new.mp4").rename(path)
    with pytest.raises(ValueError, match=r"has no frame at 0\.400 s \(frame 4\)"):
        list(LeRobotSource(lerobot_v2, ANY).episode(1).frames)


def test_a_kind_of_video_most_damage_of_which_stays_unseen_is_reported(lerobot_v2: Path) -> None:
    assert LeRobotSource(lerobot_v2, ANY).info.origin["notes"] == []
    edit_info(lerobot_v2, lambda info: info["features"][TOP].update(info={"video.codec": "hevc"}))
    (note,) = LeRobotSource(lerobot_v2, ANY).info.origin["notes"]
    assert note.startswith("HEVC video shows most damage nowhere")


def test_an_episode_before_damage_of_a_shared_video_is_kept(lerobot_v3: Path, tmp_path: Path) -> None:
    path = lerobot_v3 / V3_VIDEO
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    place = packets[STARTS[1] + 3].pos
    assert place is not None
    data = bytearray(path.read_bytes())
    data[place + 8 : place + packets[STARTS[1] + 3].size - 2] = bytes(packets[STARTS[1] + 3].size - 10)
    path.write_bytes(data)
    bad = skipped(lerobot_v3, tmp_path / "store")
    assert list(bad) == [1]
    assert "is damaged at" in bad[1]
