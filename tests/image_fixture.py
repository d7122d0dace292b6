"""Images of known content, for the tests of class folders and of shards."""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from lewm.data import Store
from lewm.data.importers.webdataset import WebDatasetSource
from lewm.data.importing import Imported, ImportOptions, import_recording

SIZE = 16
OPTIONS = ImportOptions(image_size=SIZE)
RED, WHITE = (255, 0, 0), (255, 255, 255)
Members = Iterable[tuple[str, bytes]]


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def numbered(number: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Return an image that carries its number in its pixels."""
    return Image.new("RGB", size, (number % 256, number // 256, 77))


def numbers(store: Store) -> list[int]:
    """Return the number of each image of a store; all its pixels must say the same."""
    assert (store.frames == store.frames[:, :1, :1]).all()
    assert (store.frames[..., 2] == 77).all()
    return [int(red) + 256 * int(green) for red, green, _ in store.frames[:, 0, 0]]


def make_folder(root: Path, counts: dict[str, int], *, kinds: tuple[str, ...] = ("png",)) -> Path:
    """Write numbered images into class folders, one class after the other."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for _ in range(count):
            kind = kinds[number % len(kinds)]
            settings: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
            numbered(number).save(root / name / f"{number:05d}.{kind}", **settings)
            number += 1
    return root


def make_shard(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(first: int, count: int, *, labelled: bool = True) -> Members:
    for number in range(first, first + count):
        yield f"a/{number:05d}.png", encoded(numbered(number))
        if labelled:
            yield f"a/{number:05d}.cls", b"%d\n" % (number % 7)
        yield f"a/{number:05d}.json", b"{"  # not even looked at


def import_images(path: Path, out: Path, *, workers: int = 1) -> Imported:
    kind = "webdataset" if WebDatasetSource.matches(path) else "images"
    return import_recording(path, out, options=OPTIONS, format_=kind, workers=workers, progress=False)


def gather(path: Path, out: Path, *, workers: int = 1) -> Store:
    done = import_images(path, out, workers=workers)
    assert done.skipped == ()
    done.store.validate()
    return done.store


def labels(store: Store) -> list[int]:
    assert store.states is not None
    return store.states[:, 0].astype(int).tolist()


def png_of_size(width: int, height: int) -> bytes:
    """Return a small PNG that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


BROKEN = {
    "empty": b"",
    "text": b"<html>404</html>",
    "truncated": encoded(Image.effect_noise((64, 64), 50), "JPEG")[:900],
    "cut PNG": encoded(Image.effect_noise((64, 64), 50))[:900],
    "bomb": png_of_size(10_000, 10_000),
    "larger bomb": png_of_size(100_000, 100_000),
    "strip": encoded(Image.new("L", (60_001, 1))),
    "GIF": encoded(Image.new("L", (4, 4)), "GIF"),
}
