"""Checksums of Matroska files: of each part that has one, whether it fits."""

import zlib
from pathlib import Path
from typing import BinaryIO

_SEGMENT, _CRC = 0x18538067, 0xBF
_READ_BYTES = 2**20


def damaged_element(path: Path) -> int | None:
    """Return where the first part begins whose CRC-32 is not that of its bytes, or None.

    FFmpeg writes one for each part of an *.mkv, such as a second of a film, and ignores it when it reads. WebM files
    have none. What cannot be followed, such as a stream without sizes, is passed over.

    Args:
        path: the file.
    """
    with open(path, "rb") as file:
        size = path.stat().st_size
        while (header := _header(file)) is not None:
            name, length = header
            if name == _SEGMENT:  # whose parts are looked at
                continue
            start = file.tell()
            if length is None or start + length > size:
                return None
            if (damaged := _check(file, start + length)) is not None:
                return damaged
            file.seek(start + length)
    return None


def _check(file: BinaryIO, end: int) -> int | None:
    """Return where an element's content begins if that does not fit the checksum at its beginning."""
    start = file.tell()
    if _header(file) != (_CRC, 4):
        return None
    wanted, found = int.from_bytes(file.read(4), "little"), 0
    while left := min(end - file.tell(), _READ_BYTES):
        if left < 0 or not (data := file.read(left)):
            return None
        found = zlib.crc32(data, found)
    return None if found == wanted else start


def _header(file: BinaryIO) -> tuple[int, int | None] | None:
    """Read the name and the length of an element; the length is None if it is not known, all at the end of the file."""
    name, length = _number(file, keep_marker=True), _number(file, keep_marker=False)
    if name is None or length is None:
        return None
    number, width = length
    return name[0], None if number == (1 << 7 * width) - 1 else number


def _number(file: BinaryIO, *, keep_marker: bool) -> tuple[int, int] | None:
    """Read a number of variable width and return it and its width in bytes."""
    if not (first := file.read(1)) or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    value = first[0] if keep_marker else first[0] & ~(1 << 8 - width)
    return None if len(rest) < width - 1 else (int.from_bytes(bytes([value]) + rest, "big"), width)
