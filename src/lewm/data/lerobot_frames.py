"""The frames of a LeRobot data set: found by their time in a video, or as files in a table."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import av
import av.container
import pyarrow as pa
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from lewm.data.lerobot_rows import episode_rows

_MAX_PIXELS = 2**26
_MAX_TYPE = 1000
_IMAGE_MAGIC = {"png": b"\x89PNG", "mjpeg": b"\xff\xd8"}  # by decoder
_IMAGE_ROWS = 16  # read at once


def video_frames(path: Path, start: float, length: int, fps: float, where: str) -> Iterator[av.VideoFrame]:
    """Yield the frames of a video that are nearest to `start + i / fps`, each at most half a frame away."""
    try:
        # The format is fixed because others, playlists among them, make a file name other files.
        with av.open(str(path), format="mp4", metadata_errors="replace") as container:
            place, best, distance = 0, None, 0.0
            for frame in _decoded(container, path, start - 0.5 / fps):
                if frame.time is None:
                    raise ValueError(f"{where}: {path} has a frame without a time; encode it again")
                offset = (frame.time - start) * fps
                slot = round(offset)
                if slot > place:
                    if best is not None:
                        yield best
                        best, place = None, place + 1
                    if place == length or slot > place:
                        break
                if slot == place and (best is None or abs(offset - slot) < distance):
                    if frame.is_corrupt:
                        raise ValueError(f"{where}: {path} is damaged at {frame.time:.3f} s; copy it again")
                    best, distance = frame, abs(offset - slot)
            if best is not None:
                yield best
                place += 1
    except FFmpegError as error:
        raise ValueError(f"{where}: {path} cannot be decoded ({error.strerror}); copy it again") from error
    if place < length:
        raise ValueError(
            f"{where}: has no frame at {start + place / fps:.3f} s (frame {place}) in {path}; repair the video"
        )


def _decoded(container: av.container.InputContainer, path: Path, start: float) -> Iterator[av.VideoFrame]:
    """Yield the frames of a video from the last key frame at or before `start` on."""
    if not container.streams.video:
        raise ValueError(f"{path}: holds no video; copy it again")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None or context.codec.name == "av1":  # FFmpeg's own decoder of that name needs hardware
        kind = "of an unknown kind" if context is None else "AV1 and needs PyAV with libdav1d"
        raise ValueError(f"{path}: is {kind}, so this PyAV cannot decode it; install a newer one, or encode it again")
    context.options = {"max_pixels": str(_MAX_PIXELS)}
    if multiprocessing.parent_process() is None:
        context.thread_type = "AUTO"
    else:  # with one worker a core, further threads only cost
        context.thread_count = 1
    if start > 0:
        assert stream.time_base is not None
        container.seek(int(start / stream.time_base), stream=stream)
    yield from container.decode(stream)


def image_frames(path: Path, index: int, key: str, length: int, where: str) -> Iterator[av.VideoFrame]:
    """Yield the images of an episode that lie in the table itself."""
    decoders: dict[str, VideoCodecContext] = {}
    frame = 0
    for rows in episode_rows(path, index, [key], length, _IMAGE_ROWS):
        cells = rows.column(key)
        if not pa.types.is_struct(cells.type) or cells.type.get_field_index("bytes") < 0:
            raise ValueError(f"{where}: is {str(cells.type)[:_MAX_TYPE]} in {path}, not images; repair the file")
        for cell in cells.flatten()[cells.type.get_field_index("bytes")]:
            yield _image(cell.as_py(), decoders, f"{where}, frame {frame}")
            frame += 1


def _image(data: bytes | None, decoders: dict[str, VideoCodecContext], where: str) -> av.VideoFrame:
    """Decode one image; a decoder is made once."""
    name = next((name for name, magic in _IMAGE_MAGIC.items() if (data or b"").startswith(magic)), None)
    if data is None or name is None:
        raise ValueError(f"{where}: is not embedded as {' or '.join(_IMAGE_MAGIC)}; convert the images")
    if name not in decoders:
        decoders[name] = context = av.Codec(name, "r").create("video")
        context.thread_count = 1  # threads would delay the image by some packets
        context.options = {"max_pixels": str(_MAX_PIXELS)}
    packet = av.Packet(data)
    packet.is_keyframe = True  # or the decoder of PNG adds the image before
    try:
        frames = decoders[name].decode(packet)
    except FFmpegError as error:
        raise ValueError(f"{where}: cannot be decoded ({error.strerror}); leave the episode out") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise ValueError(f"{where}: is damaged; leave the episode out")
    return frames[0]
