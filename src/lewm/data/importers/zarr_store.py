"""Read zarr stores that are not trusted: no link is followed out of them, and nothing but data is decoded.

Of the codecs that a store may name, one unpickles, which runs what the file says; only those that compress are used.
"""

import asyncio
import importlib
import importlib.util
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore, ZipStore

from lewm.data.importers.listing import is_hidden, visible

_METADATA = frozenset({".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json"})
_CODECS = frozenset({
    "blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "delta", "shuffle", "bitround", "fixedscaleoffset",
    "quantize", "astype", "packbits", "crc32", "crc32c", "adler32", "fletcher32", "bytes", "transpose",
    "sharding_indexed",
})  # fmt: skip

# A damaged or hostile file may claim any size.
_CHUNK_BYTES = 2**28


def open_store(path: Path) -> "tuple[GuardedStore, zarr.Group]":
    """Open a store and its root.

    Args:
        path: the folder or zip file.
    """
    if importlib.util.find_spec("imagecodecs") is not None:
        importlib.import_module("imagecodecs.numcodecs").register_codecs()
    store = GuardedStore.of(path)
    return store, zarr.open_group(store, mode="r")


def open_array(root: zarr.Group, path: str) -> zarr.Array:
    """Return an array of numbers whose chunks are not absurd, and whose codecs only compress.

    Args:
        root: the store's root.
        path: the array.

    Raises:
        ValueError: it is another thing.
    """
    array = root[path]
    if not isinstance(array, zarr.Array) or array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ValueError("is no array of numbers")
    codecs = [*array.filters, *array.compressors, *([array.serializer] if array.serializer is not None else [])]
    names = [getattr(codec, "codec_id", None) or codec.to_dict()["name"] for codec in codecs]
    short = [str(name).removeprefix("numcodecs.").removeprefix("numcodecs_") for name in names]
    for name in short:
        if name not in _CODECS and not name.startswith("imagecodecs_"):
            raise ValueError(f"is compressed with {name}, which is not read here")
    if math.prod(array.chunks) * array.dtype.itemsize > _CHUNK_BYTES or 0 in array.chunks:
        raise ValueError(f"has chunks of {array.chunks}, absurd ones")
    return array


class GuardedStore(WrapperStore[LocalStore | ZipStore]):
    """A store that is only read, whose files lie inside it, and that knows which arrays must be whole."""

    root: Path
    whole: list[str]

    @classmethod
    def of(cls, path: Path) -> "GuardedStore":
        """Open a folder or a zip file."""
        if path.is_dir():
            store = cls(LocalStore(path, read_only=True))
        else:
            with zipfile.ZipFile(path) as file:
                if large := [entry for entry in file.infolist() if entry.file_size > _CHUNK_BYTES]:
                    raise ValueError(f"{large[0].filename} has {large[0].file_size} bytes")
            store = cls(ZipStore(path, mode="r", read_only=True))
        store.root, store.whole = path, []
        for group in ("", "data/", "meta/") if path.is_dir() else ():
            for name in _METADATA:  # some of which zarr does without
                store._check_file(group + name)
        return store

    def names_in(self, folder: str) -> list[str]:
        """Return the names of what is in a folder and not hidden."""
        if self.root.is_dir():
            place = self.root / folder
            return [entry.name for entry in visible(place) if entry.is_dir()] if place.is_dir() else []
        with zipfile.ZipFile(self.root) as file:
            parts = [name.split("/") for name in file.namelist()]
        return sorted({part[1] for part in parts if len(part) > 2 and part[0] == folder and not is_hidden(part[1])})

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if self.root.is_dir():
            await asyncio.to_thread(self._check_file, key)
        value = await self._store.get(key, prototype, byte_range)
        if value is None and key.rpartition("/")[2] not in _METADATA and key.startswith(tuple(self.whole)):
            raise ValueError(f"chunk {key} is missing")
        return value

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    def _check_file(self, key: str) -> None:
        """Refuse what links out of the folder, and what is no file: opening a pipe would wait for ever."""
        path = Path(os.path.realpath(self.root / key))
        if not path.is_relative_to(os.path.realpath(self.root)):
            raise ValueError(f"{key} links out of the store")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"{key} is no file")
