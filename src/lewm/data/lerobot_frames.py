"""The frames of a LeRobot data set: found by their time in a video, or as files in a table."""

import itertools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from av.container import InputContainer
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from lewm.data.lerobot_files import DataFile, clipped
from lewm.data.lerobot_rows import holds_images, read_batches

_MAX_PIXELS = 2**26
_IMAGE_MAGIC = {"png": b"\x89PNG", "mjpeg": b"\xff\xd8"}  # by decoder
_IMAGE_ROWS = 16  # read at once


@dataclass(frozen=True, slots=True)
class Clip:
    """Where the frames of an episode are in a video.

    Args:
        file: the video.
        length: frames.
        step: seconds from one to the next.
        start: seconds in the video at which the episode begins.
        end: seconds at which it ends, or None if the video is of this episode alone.
        clock: (L,) seconds of the rows from the episode's beginning, ascending, where the table has them.
    """

    file: DataFile
    length: int
    step: float
    start: float
    end: float | None
    clock: npt.NDArray[np.float64] | None


def video_frames(clip: Clip, where: str) -> Iterator[av.VideoFrame]:
    """Yield the frames of an episode.

    A video of as many frames as rows is taken in order. Of others, and of a part of a video, each row gets the frame
    nearest to its time, at most half a frame away. The time is the row's own, if the clip holds all of these, or else
    the row's place.
    """
    file, place = clip.file, 0
    try:
        # The format is fixed because others, playlists among them, make a file name other files.
        with av.open(str(file.path), format="mp4", metadata_errors="replace") as container:
            stream = _stream(container, file)
            if clip.end is None and stream.frames == clip.length:
                for frame in itertools.islice(container.decode(stream), clip.length):
                    yield _whole(frame, file, where)
                    place += 1
                times = clip.step * np.arange(clip.length, dtype=np.float64)
            else:
                times = _times(clip, stream)
                frames = _from(container, stream, times[0] - clip.step / 2)
                for frame in _nearest(frames, times, clip.step / 2):
                    yield _whole(frame, file, where)
                    place += 1
    except FFmpegError as error:
        raise ValueError(f"{where}: {file} cannot be decoded ({error.strerror}); copy it again") from error
    if place < clip.length:
        raise ValueError(f"{where}: has no frame at {times[place]:.3f} s (frame {place}) in {file}; repair the video")


def _times(clip: Clip, stream: VideoStream) -> npt.NDArray[np.float64]:
    """Return the times in the video at which frames are wanted."""
    end, half = clip.end, clip.step / 2
    if end is None and stream.duration is not None and stream.time_base is not None:
        end = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    times = None if clip.clock is None else clip.start + clip.clock
    if times is not None and end is not None and times[0] >= clip.start - half and times[-1] <= end - half:
        return times
    return clip.start + clip.step * np.arange(clip.length, dtype=np.float64)


def _nearest(
    frames: Iterator[tuple[float, av.VideoFrame]], times: npt.NDArray[np.float64], most: float
) -> Iterator[av.VideoFrame]:
    """Yield the frame nearest to each time, up to the first that none is near enough to."""
    place, wanted, before = 0, times.tolist(), None
    for after in itertools.chain(frames, [None]):
        # The frame before is the nearest to all times that the frame after is not nearer to.
        while before is not None and (after is None or after[0] - wanted[place] >= wanted[place] - before[0]):
            if abs(before[0] - wanted[place]) > most:
                if before[0] < wanted[place] and after is not None:
                    break
                return
            yield before[1]
            place += 1
            if place == len(wanted):
                return
        before = after


def _from(container: InputContainer, stream: VideoStream, start: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield the frames of a video that have a time, and that time, from the last key frame at or before `start` on."""
    if start > 0:
        assert stream.time_base is not None
        container.seek(int(start / stream.time_base), stream=stream)
    return ((frame.time, frame) for frame in container.decode(stream) if frame.time is not None)


def _whole(frame: av.VideoFrame, file: DataFile, where: str) -> av.VideoFrame:
    """Return a frame that was decoded whole."""
    if frame.is_corrupt:
        raise ValueError(f"{where}: {file} is damaged at {frame.time or 0:.3f} s; copy it again")
    return frame


def _stream(container: InputContainer, file: DataFile) -> VideoStream:
    """Return the images of a video, ready to be decoded."""
    if not container.streams.video:
        raise ValueError(f"{file}: holds no video; copy it again")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None or context.codec.name == "av1":  # FFmpeg's own decoder of that name needs hardware
        kind = "of an unknown kind" if context is None else "AV1 and needs PyAV with libdav1d"
        raise ValueError(f"{file}: is {kind}, so this PyAV cannot decode it; install a newer one, or encode it again")
    context.options = {"max_pixels": str(_MAX_PIXELS)}
    if multiprocessing.parent_process() is None:
        context.thread_type = "AUTO"
    else:  # with one worker a core, further threads only cost
        context.thread_count = 1
    return stream


def image_frames(file: DataFile, rows: range, key: str, where: str) -> Iterator[av.VideoFrame]:
    """Yield the images of an episode that lie in the table itself."""
    decoders: dict[str, VideoCodecContext] = {}
    frame = 0
    for batch in read_batches(file, rows, [key], _IMAGE_ROWS):
        cells = batch.column(0) if batch.num_columns else None
        if cells is None or not holds_images(cells.type):
            what = "has no images" if cells is None else f"is {clipped(str(cells.type))}, not images,"
            raise ValueError(f"{where}: {what} in {file}; repair the file")
        if pa.types.is_struct(cells.type):
            cells = cells.flatten()[cells.type.get_field_index("bytes")]
        for cell in cells:
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
