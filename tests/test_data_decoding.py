"""Decoding: whole videos of every kind are read from everywhere, and damaged ones are refused."""

import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet

from lewm.data.importers.decoding import decoded, playable
from lewm.data.importers.matroska import damaged_element
from test_data_video_folders import number_of, picture, write_video

COUNT = 48
FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
KINDS = {
    "h264": ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
    "h264 with open groups": ("a.mp4", "libx264", {"x264-params": "keyint=12:bframes=3:open-gop=1:b-pyramid=2:ref=4"}),
    "h264 with moving refresh": ("a.mkv", "libx264", {"x264-params": "keyint=12:intra-refresh=1:bframes=0"}),
    "h264 of slices": ("a.mov", "libx264", {"profile": "baseline", "g": "12", "x264-params": "slices=4"}),
    "hevc": ("a.mp4", "libx265", {"x265-params": "log-level=none:keyint=12:open-gop=1"}),
    "hevc with hashes": ("a.mkv", "libx265", {"x265-params": "log-level=none:keyint=12:hash=1"}),
    "vp8": ("a.webm", "libvpx", {"b": "400000", "g": "12", "auto-alt-ref": "1", "lag-in-frames": "8"}),
    "vp9": ("a.webm", "libvpx-vp9", {"b": "400000", "g": "12"}),
    "vp9 with hidden frames": ("a.mp4", "libvpx-vp9", {"b": "100000", "lag-in-frames": "16", "auto-alt-ref": "1"}),
    "av1": ("a.mp4", "libsvtav1", {"g": "12", "preset": "12"}),
    "mjpeg": ("a.avi", "mjpeg", {"q": "3"}),
    "mpeg4": ("a.mp4", "mpeg4", {"g": "12", "q": "3", "bf": "2"}),
    "mpeg4 in avi": ("a.avi", "mpeg4", {"g": "12", "q": "3"}),
    "mpeg2": ("a.mkv", "mpeg2video", {"g": "12", "q": "3"}),
    "ffv1": ("a.mkv", "ffv1", {}),
    "png": ("a.mov", "png", {}),
}  # fmt: skip


def read(video: Path, start: int | None = None) -> list[tuple[int, int]]:
    """Return time and number of each frame."""
    frames = decoded(video, FORMATS[video.suffix], video.name, start)
    return [(time, number_of(frame)) for time, frame, _ in frames if start is None or time >= start]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whole_videos_are_read_from_everywhere(tmp_path: Path, kind: str) -> None:
    name, codec, options = KINDS[kind]
    video = write_video(tmp_path / name, COUNT, codec=codec, options=options)
    frames = read(video)
    assert [number for _, number in frames] == list(range(COUNT))
    for k in (1, 11, 12, 13, 23, 30, COUNT - 1):
        assert read(video, frames[k][0]) == frames[k:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith(("vp8", "hevc")) or "hash" in kind])
def test_overwritten_bytes_are_refused(tmp_path: Path, kind: str) -> None:
    """Of most kinds nearly all damage is seen, if the file does not end there; of HEVC and VP8, hardly any."""
    name, codec, options = KINDS[kind]
    video = write_video(tmp_path / name, COUNT, codec=codec, options=options)
    whole, good, rng = video.read_bytes(), read(video), random.Random(0)
    stored_wrong = 0
    for _ in range(10):
        damaged = bytearray(whole)
        place = rng.randrange(len(whole) // 4, len(whole) * 3 // 4)
        damaged[place : place + 60] = rng.randbytes(60)
        video.write_bytes(damaged)
        try:
            found = read(video)
            stored_wrong += found != good[: len(found)]
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert stored_wrong <= 1


def test_damage_leaves_what_comes_before_its_key_frame(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", COUNT, options={"g": "12", "crf": "4", "sc_threshold": "0"})
    with av.open(str(video)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][14]
    assert place is not None
    data = bytearray(video.read_bytes())
    data[place : place + 40] = bytes(40)
    video.write_bytes(data)
    found = []
    frames = decoded(video, "mp4", video.name)
    with pytest.raises(ValueError, match=r"a.mp4: is damaged at 0\.\d+ s .*; copy or record it again"):  # noqa: PT012
        while True:
            found.append(number_of(next(frames)[1]))
    assert found == list(range(len(found)))
    assert 12 <= len(found) <= 14
    with av.open(str(video)) as container:
        unit = container.streams.video[0].time_base
    assert unit is not None
    assert [number for _, number in read(video, round(Fraction(24, 30) / unit))] == list(range(24, COUNT))


def test_frames_before_the_first_key_frame_are_passed_over(tmp_path: Path) -> None:
    """As in a recording that was cut out of a stream."""
    whole = write_video(tmp_path / "a.mp4", COUNT, options={"g": "12", "bf": "2", "crf": "4", "sc_threshold": "0"})
    cut = tmp_path / "b.mkv"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for k, packet in enumerate(source.demux(video=0)):
            if k >= 5 and packet.size:
                packet.stream = stream
                target.mux(packet)
    assert [number for _, number in read(cut)] == list(range(12, COUNT))


def test_playable() -> None:
    packets = []
    for pts, key in ((3, False), (4, True), (2, False), (6, False), (5, False)):
        packet = Packet(b"x")
        packet.pts, packet.is_keyframe = pts, key
        packets.append(packet)
    assert [packet.pts for packet in playable(iter(packets))] == [4, 6, 5]


def test_checksums_of_matroska(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", [picture(k) for k in range(20)], options={"crf": "4"})
    assert damaged_element(video) is None
    whole, rng = video.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(len(whole) // 4, len(whole) * 3 // 4, 20):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        video.write_bytes(damaged)
        found = damaged_element(video)
        assert found is not None
        assert 0 < found <= place
    with pytest.raises(ValueError, match=r"a\.mkv: is damaged near byte"):
        read(video)
    for share in range(0, len(whole), len(whole) // 20):  # what was not written is no damage
        video.write_bytes(whole[:share])
        assert damaged_element(video) is None
