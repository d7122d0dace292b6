"""Images without actions: class folders, and WebDataset shards.

Every image is a frame of its own. An episode is a group of images that have nothing to do with each other, so that
episodes that are held out are images that are held out. Files are only read: nothing is extracted, and no link is
followed out of the given folder.
"""

import hashlib
import io
import itertools
import math
import os
import struct
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from lewm.data.importing import Format, ImportOptions, Recording, Source, SourceInfo
from lewm.data.listing import is_hidden, is_hidden_path

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
SHARD_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp"})
LABEL = "label"
LARGEST_GROUP = 1000
FEWEST_GROUPS = 10  # of many images: a tenth that is held out is then whole groups
LONGEST_IMAGE = 50  # times its shorter side: the scaler refuses much longer ones, without a name
LARGEST_MEMBER = 64 * 2**20
LARGEST_LABEL = 2**24  # float32 holds every smaller integer
_BLOCK = 512  # of a tar file
_GLANCE = 100


class ImageFolderSource(Source):
    """Images in class folders, `root/<class>/<image>`, in an order that mixes the classes.

    The state `label` of an image is the place of its class among the sorted names of the folders, which are
    `origin["classes"]`. The order comes from a digest of the names, so it is the same on every machine.
    """

    format: ClassVar[Format] = "images"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Look for an image in a folder of the folder."""
        if not path.is_dir():
            return False
        folders = [entry for entry in _glance(path) if entry.is_dir()]
        return any(_is_image(entry.name) for folder in folders for entry in _glance(folder))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        _check(options)
        self._root = path
        names = _list_images(path)
        if not names:
            raise ValueError(
                f"{path}: has no images in class folders ({path.name}/<class>/*.jpg, png, webp or bmp); give the "
                "folder that holds the class folders"
            )
        self._names = sorted(names, key=lambda name: hashlib.blake2b(os.fsencode(name), digest_size=16).digest())
        self._size = min(math.ceil(len(names) / FEWEST_GROUPS), LARGEST_GROUP)
        self._classes = sorted({name.partition("/")[0] for name in names})

    @property
    def info(self) -> SourceInfo:
        """Images without actions, and their classes."""
        origin = {"images": len(self._names), "classes": self._classes}
        return _image_info(self._root, labelled=True, origin=origin)

    @property
    def num_episodes(self) -> int:
        """Groups."""
        return math.ceil(len(self._names) / self._size)

    def length(self, index: int) -> int:
        """Return the number of images of a group."""
        return len(self._group(index))

    def episode(self, index: int) -> Recording:
        """Open one group; a file in it that is no readable image is an error, and the whole group is left out."""
        names = self._group(index)
        place = {name: k for k, name in enumerate(self._classes)}
        first = index * self._size
        return _image_recording(
            (read_image(self._root / name, str(self._root / name)) for name in names),
            [place[name.partition("/")[0]] for name in names],
            len(names),
            source=f"images {first} to {first + len(names) - 1} of {len(self._names)}",
        )

    def _group(self, index: int) -> list[str]:
        return self._names[index * self._size : (index + 1) * self._size]


class WebDatasetSource(Source):
    """Images in WebDataset shards: a folder of `*.tar`, or one of them.

    Members that share a name up to its first dot are a sample: one image, and the number of its class in `cls`, which
    is the state `label`. All other members are left alone. A shard is a group; fewer than ten shards are cut into ten
    groups or more.
    """

    format: ClassVar[Format] = "webdataset"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Look for a tar file."""
        if path.is_file():
            return path.suffix == ".tar"
        return any(entry.name.endswith(".tar") for entry in _glance(path))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        _check(options)
        self._path = path
        self._shards = _list_shards(path)
        if not self._shards:
            raise ValueError(f"{path}: has no *.tar shard; give a shard or the folder that holds them")
        self._read_index = lru_cache(maxsize=FEWEST_GROUPS)(read_index)
        self._parts = math.ceil(FEWEST_GROUPS / len(self._shards))
        first, samples = self._first_readable()
        self._bytes_per_image = first.stat().st_size / len(samples)
        self._labelled = samples[0].label is not None
        self._groups = [(shard, part) for shard in self._shards for part in range(self._count_parts(shard))]

    @property
    def info(self) -> SourceInfo:
        """Images without actions, and their classes where the shards have them."""
        return _image_info(self._path, labelled=self._labelled, origin={"shards": len(self._shards)})

    @property
    def num_episodes(self) -> int:
        """Groups."""
        return len(self._groups)

    def length(self, index: int) -> int:
        """Guess the number of images of a group from its bytes; to read the headers of many shards takes minutes."""
        shard, _ = self._groups[index]
        return round(shard.stat().st_size / self._bytes_per_image / self._count_parts(shard))

    def episode(self, index: int) -> Recording:
        """Open one group; whatever is wrong with its shard, or with an image of it, leaves the whole group out."""
        shard, part = self._groups[index]
        samples = self._group(index)
        labels = [sample.label for sample in samples if sample.label is not None]
        if len(labels) != (len(samples) if self._labelled else 0):
            has = "has classes (cls) and the first shard none" if labels else "has images without a class (cls)"
            raise ValueError(f"{shard}: {has}; give all images a class, or none")
        return _image_recording(
            _read_members(shard, samples),
            labels if self._labelled else None,
            len(samples),
            source=shard.name if self._parts == 1 else f"{shard.name}, part {part}",
        )

    def _first_readable(self) -> "tuple[Path, list[Sample]]":
        """Return the first shard that can be read, and its index."""
        reasons = []
        for shard in self._shards:
            try:
                return shard, self._read_index(shard)
            except ValueError as error:
                reasons.append(error)
        raise reasons[0]

    def _count_parts(self, shard: Path) -> int:
        if self._parts == 1:
            return 1  # without looking at every shard
        try:
            count = len(self._read_index(shard))
        except ValueError:
            return 1  # which `episode` refuses
        return math.ceil(count / math.ceil(count / self._parts))

    def _group(self, index: int) -> "list[Sample]":
        shard, part = self._groups[index]
        samples = self._read_index(shard)
        size = math.ceil(len(samples) / self._parts)
        return samples[part * size : (part + 1) * size]


@dataclass(frozen=True, slots=True)
class Sample:
    """Where a shard has an image, and its class.

    Args:
        name: the member's name.
        offset: where its bytes begin.
        size: how many they are.
        label: number of its class, or None.
    """

    name: str
    offset: int
    size: int
    label: int | None


def read_index(shard: Path) -> list[Sample]:
    """Read the headers of a shard, and the few bytes of its `cls` members.

    Raises:
        ValueError: it is damaged or compressed, has members that are no plain files, or has no images.
    """
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = 0
            while (member := tar.next()) is not None:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  it would keep every header
                if member.offset < end:
                    raise ValueError(f"member {member.name!r} lies before the one that it follows")
                end = member.offset_data + math.ceil(member.size / _BLOCK) * _BLOCK
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(f"member {member.name!r} is a link, a device or a sparse file")
                if not 0 <= member.size <= LARGEST_MEMBER:
                    raise ValueError(f"member {member.name!r} has {member.size} bytes, more than {LARGEST_MEMBER}")
                if is_hidden_path(member.name):
                    continue
                folder, _, name = member.name.rpartition("/")
                name, _, extension = name.partition(".")
                key, extension = f"{folder}/{name}", extension.lower()
                if extension in SHARD_EXTENSIONS:
                    if key in images:
                        raise ValueError(f"{images[key][0]!r} and {member.name!r} are images of one sample")
                    images[key] = (member.name, member.offset_data, member.size)
                elif extension == "cls":
                    labels[key] = _read_label(file, member)
            file.seek(end)
            if file.read(_BLOCK).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise ValueError(f"no header at byte {end}")
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{shard}: is no usable shard ({reason}); repair it or take it out") from error
    if not images:
        raise ValueError(f"{shard}: has no images ({', '.join(sorted(SHARD_EXTENSIONS))}); take it out")
    return [Sample(*where, labels.get(key)) for key, where in images.items()]


def read_image(file: Path | IO[bytes], where: str) -> npt.NDArray[np.uint8]:
    """Decode an image as (height, width, 3) uint8 red, green, blue.

    It is turned as its EXIF orientation says. Grey becomes three equal channels, what is transparent lies on white, and
    of 16 bits the upper 8 are kept.

    Args:
        file: path, or the image's bytes.
        where: names it in the error.

    Raises:
        ValueError: it is no JPEG, PNG, WebP or BMP, is damaged, has more pixels than Pillow's `MAX_IMAGE_PIXELS`, or is
            more than 50 times as long as wide.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    broken = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
    too_large = (Image.DecompressionBombWarning, Image.DecompressionBombError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that do not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("JPEG", "PNG", "WEBP", "BMP")) as image:
                if max(image.size) > LONGEST_IMAGE * min(image.size):
                    raise ValueError(f"{image.width}x{image.height} pixels are too long a strip")
                ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except UnidentifiedImageError:
        reason = "not a JPEG, PNG, WebP or BMP"
    except too_large as error:
        reason = str(error)
    except broken as error:
        reason = f"{type(error).__name__}: {error}"
    raise ValueError(f"{where}: is no usable image ({' '.join(reason.split())}); repair it or take it out")


def _to_rgb(image: "Image") -> npt.NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel, in 16 or in 32
        grey = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _check(options: ImportOptions) -> None:
    """Refuse what images do not have, and fail here rather than in every worker where Pillow is missing."""
    from PIL import Image  # noqa: F401

    if options.cameras:
        raise ValueError(f"cameras={', '.join(options.cameras)}: images have no cameras; leave it out")
    for name, names in (("action", options.action), ("state", options.state)):
        if names:
            raise ValueError(f"{name}={', '.join(names)}: images have no {name}; leave it out")


def _image_info(path: Path, *, labelled: bool, origin: dict[str, object]) -> SourceInfo:
    return SourceInfo(
        task=path.resolve().name.removesuffix(".tar"),
        action_kind="none",
        action_size=0,
        state_names=(LABEL,) if labelled else (),
        origin=origin,
    )


def _image_recording(
    frames: Iterator[npt.NDArray[np.uint8]], labels: list[int] | None, count: int, *, source: str
) -> Recording:
    return Recording(
        frames=frames,
        actions=np.empty((count, 0), dtype=np.float32),
        states=None if labels is None else np.array(labels, dtype=np.float32)[:, None],
        source=source,
        same_size=False,
    )


def _glance(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """Return some entries of a folder, few enough to be quick."""
    with os.scandir(folder) as entries:
        return list(itertools.islice((entry for entry in entries if not is_hidden(entry.name)), _GLANCE))


def _is_image(name: str) -> bool:
    return not is_hidden(name) and PurePosixPath(name).suffix.lower() in FOLDER_SUFFIXES


def _list_images(root: Path) -> list[str]:
    """Return all images as `class/name`."""
    names = []
    inside = root.resolve()
    with os.scandir(root) as folders:
        for folder in folders:
            if is_hidden(folder.name) or not folder.is_dir():
                continue
            _stay_inside(folder, inside)
            with os.scandir(folder) as files:
                for file in files:
                    if _is_image(file.name) and file.is_file():
                        _stay_inside(file, inside)
                        names.append(f"{folder.name}/{file.name}")
    return names


def _list_shards(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    inside, shards = path.resolve(), []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(".tar") and not is_hidden(entry.name) and entry.is_file():
                _stay_inside(entry, inside)
                shards.append(path / entry.name)
    return sorted(shards)


def _stay_inside(entry: os.DirEntry[str], folder: Path) -> None:
    if entry.is_symlink() and not Path(entry).resolve().is_relative_to(folder):
        raise ValueError(f"{entry.path}: is a link that leads out of {folder}; put the file itself there")


def _read_label(file: IO[bytes], member: tarfile.TarInfo) -> int:
    file.seek(member.offset_data)
    text = file.read(min(member.size, 32)).strip()
    if not text.isdigit() or member.size > 32 or int(text) >= LARGEST_LABEL:
        raise ValueError(f"member {member.name!r} is not the number of a class")
    return int(text)


def _read_members(shard: Path, samples: list[Sample]) -> Iterator[npt.NDArray[np.uint8]]:
    try:
        with open(shard, "rb") as file:
            for sample in samples:
                file.seek(sample.offset)
                yield read_image(io.BytesIO(file.read(sample.size)), f"{shard}: {sample.name}")
    except OSError as error:
        raise ValueError(f"{shard}: cannot be read ({error.strerror}); repair it or take it out") from error
