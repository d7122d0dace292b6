"""Frames of videos, decoded whole or refused.

A decoder makes a picture of damaged bytes too, and most of them say so nowhere. So each kind of video is decoded in the
way that tells the most: with the strictest settings of FFmpeg's decoder, by another decoder, or with an ear on what the
decoder complains of. `benchmarks/damage.py` measures what passes all the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import av.logging
from av.bitstream import BitStreamFilterContext
from av.codec.codec import UnknownCodecError
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from lewm.data.importers.geometry import MAX_PIXELS
from lewm.data.importers.matroska import damaged_element
from lewm.data.importers.pictures import decode_jpeg

_FURTHER_BACK = 10.0  # seconds: not every key frame of every container is one from which all can be decoded
_FLAGS_FRAMES = ("h264", "mpeg4", "mpeg2video", "mpeg1video", "h263")
"""Decoders that flag the frames of damaged bytes; as errors they also report what is whole, such as an odd SEI."""
_SPEAKS = {"ffv1": av.logging.ERROR, "utvideo": av.logging.WARNING}
"""Decoders that only say in a message of this level or worse that a frame is damaged."""
_INSTEAD = {"vp9": "libvpx-vp9"}
"""Decoders that notice what those that FFmpeg prefers do not: this one that a frame's bytes are not used up."""
_BLIND = {
    "hevc": "HEVC", "vp8": "VP8", "huffyuv": "HuffYUV", "ffvhuff": "HuffYUV", "utvideo": "Ut Video",
    "rawvideo": "uncompressed",
}  # fmt: skip
"""Decoders that notice less than half of all damage."""


@contextmanager
def opened(video: Path, format_: str, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video and its best stream of images.

    Args:
        video: the file.
        format_: FFmpeg's name of the container. It is fixed because others, playlists among them, make a file name
            other files.
        name: what to call it in errors.

    Raises:
        ValueError: it cannot be read, here or later, or there is no decoder for it.
    """
    try:
        with av.open(str(video), format=format_, metadata_errors="replace") as container:
            if not container.streams.video:
                raise ValueError(f"{name}: holds no video, or not all of it; copy it again")
            stream = container.streams.best("video")
            assert isinstance(stream, VideoStream)
            if stream.codec_context is None or stream.codec_context.codec.name == "av1":  # which needs special hardware
                kind = "of an unknown kind" if stream.codec_context is None else "AV1 and needs PyAV with libdav1d"
                raise ValueError(
                    f"{name}: is {kind}, so this PyAV cannot decode it; install a newer one, or encode it again"
                )
            yield container, stream
    except FFmpegError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror}); copy or convert it again") from error


def blindness(codec: str) -> str | None:
    """Return what to tell of a kind of video most damage of which stays unseen, or None for other kinds.

    Args:
        codec: FFmpeg's name of its decoder.
    """
    if codec not in _BLIND:
        return None
    return f"{_BLIND[codec]} video shows most damage nowhere; compare it with its original, as by checksums"


def playable(packets: Iterator[Packet]) -> Iterator[Packet]:
    """Yield the packets that can be decoded: the first key frame's, and those that follow in the file and in time."""
    key: int | None = None
    for packet in packets:
        if packet.size and key is None:
            if not packet.is_keyframe:
                continue
            key = packet.pts
        if not packet.size or key is None or packet.pts is None or packet.pts >= key:
            yield packet


def decoded(
    video: Path, format_: str, name: str, start: int | None = None
) -> Iterator[tuple[int, av.VideoFrame, Fraction]]:
    """Decode a video, and stop at the first frame that is not whole or may rest on one that is not.

    Args:
        video: the file.
        format_: FFmpeg's name of the container.
        name: what to call it in errors.
        start: time of the first wanted frame in units of the stream, or None for all. Decoding begins at the last key
            frame at or before it, or further back if not all can be decoded from there; what lies between comes too.

    Yields:
        Time in units of the stream, frame, and width of a pixel by its height, in the order of their times.

    Raises:
        ValueError: a frame is damaged.
    """
    if format_ == "matroska" and (place := _damaged_element(video, *_stamp(video))) is not None:
        raise ValueError(f"{name}: is damaged near byte {place}, by its checksum; copy or record it again")
    last: int | None = None
    for back in (0.0, _FURTHER_BACK, None):
        try:
            with opened(video, format_, name) as (container, stream):
                assert stream.time_base is not None
                attempt = None if start is None or back is None else start - round(back / stream.time_base)
                shape = stream.sample_aspect_ratio or Fraction(1)
                for time, frame in _decode(name, container, stream, attempt):
                    if last is None or time > last:
                        yield time, frame, shape
                        last = time
            return
        except _Damaged as error:
            if start is None or back is None:
                raise ValueError(f"{error}; copy or record it again") from error


class _Damaged(Exception):
    """A frame was not decoded whole."""


def _decode(
    name: str, container: InputContainer, stream: VideoStream, start: int | None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the frames from a key frame on, with their times."""
    assert stream.time_base is not None
    context, split = _decoder(stream)
    level = _SPEAKS.get(context.codec.name)
    if start is not None:
        container.seek(start, stream=stream)
    unit, place, reached = float(stream.time_base), 0.0, start is None
    for packet in playable(container.demux(stream)):
        if packet.size and packet.pts is not None:
            place = (packet.pts - (stream.start_time or 0)) * unit
        if packet.is_corrupt:
            raise _Damaged(f"{name}: is cut off or damaged at {place:.3f} s")
        frames: list[av.VideoFrame] = []
        reason = ""
        try:
            with _listening(level) as messages:
                if split is None:
                    frames += context.decode(packet)
                else:
                    at_end = not packet.size  # which the splitter takes from a packet
                    for part in (*split.filter(None if at_end else packet), *([None] if at_end else [])):
                        frames += context.decode(part)
            if context.codec.name == "mjpeg" and packet.size:
                decode_jpeg(bytes(packet))
        except FFmpegError as error:
            reason = error.strerror
        except ValueError as error:
            reason = str(error)
        if any(frame.is_corrupt for frame in frames):
            reason = "not all of a frame could be decoded"
        if messages:
            reason = messages[0]
        if reason:
            raise _Damaged(f"{name}: is damaged at {place:.3f} s ({reason})")
        for frame in frames:
            if frame.pts is not None:
                reached = reached or start is None or frame.pts <= start
                if not reached:
                    break
                yield frame.pts, frame
        if frames and not reached:
            break
    if not reached:
        raise _Damaged(f"{name}: has no frame that can be decoded alone before the wanted one")


def _decoder(stream: VideoStream) -> tuple[VideoCodecContext, BitStreamFilterContext | None]:
    """Return the decoder that tells most of damage, and what its packets are to be split with."""
    context, split = stream.codec_context, None
    if (name := _INSTEAD.get(context.codec.name)) is not None:
        try:
            other = VideoCodecContext.create(name, "r")
            assert isinstance(other, VideoCodecContext)
            context, split = other, BitStreamFilterContext("vp9_superframe_split", stream)
        except UnknownCodecError:
            pass  # PyAV may be built without it
    name = context.codec.name
    detect = "crccheck+bitstream+buffer" + ("" if name in _FLAGS_FRAMES else "+explode")
    options = {"max_pixels": str(MAX_PIXELS), "err_detect": detect}
    if name == "h264":
        options["err_detect"] += "+aggressive"  # that a frame's bytes are used up
    elif name == "libdav1d":
        options["strict"] = "strict"  # the same
    context.options = options
    # Threads report some damage late or not at all, and messages from them can lock Python up. An import has processes.
    context.thread_count = 1
    return context, split


@contextmanager
def _listening(level: int | None) -> Iterator[list[str]]:
    """Collect what FFmpeg says in this thread; nothing if there is no level."""
    said: list[str] = []
    if level is None:
        yield said
        return
    before, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(level)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as messages:
            yield said
        said += [message.strip() for at, _, message in messages if at <= level]
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(before)


def _stamp(video: Path) -> tuple[int, int]:
    found = video.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=8)
def _damaged_element(video: Path, size: int, changed: int) -> int | None:
    """Look for damage once for all episodes of a file."""
    return damaged_element(video)
