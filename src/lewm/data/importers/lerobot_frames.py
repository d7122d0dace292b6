"""The frames of a LeRobot data set: found by their time in a video, or as files in a table.

A LeRobot frame goes from here into a store (`lewm.data.importing`), and from the store into a batch
(`lewm.data.sampler`).
"""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from av.video.stream import VideoStream

from lewm.data.fit import Frame
from lewm.data.importers.decoding import decoded, opened
from lewm.data.importers.geometry import upright
from lewm.data.importers.lerobot_files import DataFile, clipped
from lewm.data.importers.lerobot_rows import holds_images, read_batches
from lewm.data.importers.pictures import read_image

T = TypeVar("T")

_FORMAT = "mp4"
_IMAGES = ("png", "jpeg")
_IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8")
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


def video_frames(clip: Clip, where: str) -> Iterator[Frame]:
    """Yield the frames of an episode.

    A video of as many frames as rows is taken in order. Of others, and of a part of a video, each row gets the frame
    nearest to its time, at most half a frame away. The time is the row's own, if the clip holds all of these, or else
    the row's place.
    """
    file, place = clip.file, 0
    name = f"{where}: {file}"
    with opened(file.path, _FORMAT, name) as (_, stream):
        unit, count, times = stream.time_base, stream.frames, _times(clip, stream)
    assert unit is not None
    in_order = clip.end is None and count == clip.length
    start = int((times[0] + clip.step / 2) / unit)  # an earlier key frame would bring frames of the episode before
    frames = decoded(file.path, _FORMAT, name, None if in_order or start <= 0 else start)
    timed = ((float(time * unit), (frame, shape)) for time, frame, shape in frames)
    if in_order:
        wanted = (picture for _, picture in itertools.islice(timed, clip.length))
    else:
        wanted = _nearest(timed, times, clip.step / 2)
    for frame, shape in wanted:
        yield upright(frame, shape, name)
        place += 1
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


def _nearest(frames: Iterator[tuple[float, T]], times: npt.NDArray[np.float64], most: float) -> Iterator[T]:
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


def image_frames(file: DataFile, rows: range, key: str, where: str) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the images of an episode that lie in the table itself."""
    frame = 0
    for batch in read_batches(file, rows, [key], _IMAGE_ROWS):
        cells = batch.column(0) if batch.num_columns else None
        if cells is None or not holds_images(cells.type):
            what = "has no images" if cells is None else f"is {clipped(str(cells.type))}, not images,"
            raise ValueError(f"{where}: {what} in {file}; repair the file")
        if pa.types.is_struct(cells.type):
            cells = cells.flatten()[cells.type.get_field_index("bytes")]
        for cell in cells:
            yield _image(cell.as_py(), f"{where}, frame {frame}")
            frame += 1


def _image(data: bytes | None, where: str) -> npt.NDArray[np.uint8]:
    if not (data or b"").startswith(_IMAGE_MAGIC):
        raise ValueError(f"{where}: is not embedded as {' or '.join(_IMAGES)}; convert the images")
    return read_image(io.BytesIO(data or b""), where)
