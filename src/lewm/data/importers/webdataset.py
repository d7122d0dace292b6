"""Images in WebDataset shards.

Shards are only read: nothing is extracted, and no link is followed out of the given folder. What cannot be used of a
shard costs itself alone: an image, a member that is no plain file, or what follows the place where it is damaged.
"""

import io
import math
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
import numpy.typing as npt

from lewm.data.importers.images import (
    FEWEST_GROUPS,
    check_options,
    image_info,
    image_recording,
    stay_inside,
)
from lewm.data.importers.listing import glance, is_hidden, is_hidden_path
from lewm.data.importers.pictures import read_image
from lewm.data.importers.source import ImportOptions, LeftOut, Recording, Source, SourceInfo

SHARD_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp"})
LARGEST_MEMBER = 64 * 2**20
LARGEST_LABEL = 2**24  # float32 holds every smaller integer
MOST_PROBLEMS = 100  # of a shard that are named
_BLOCK = 512  # of a tar file


class WebDatasetSource(Source):
    """Images in WebDataset shards: a folder of `*.tar`, or one of them.

    Members that share a name up to its first dot are a sample: one image, and the number of its class in `cls`, which
    is the state `label`. All other members are left alone. A shard is a group; fewer than ten shards are cut into ten
    groups or more.
    """

    format: ClassVar[str] = "webdataset"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Look for a tar file."""
        if path.is_file():
            return path.suffix == ".tar"
        return any(entry.name.endswith(".tar") for entry in glance(path))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        check_options(options)
        self._path = path
        self._shards = _list_shards(path)
        if not self._shards:
            raise ValueError(f"{path}: has no *.tar shard; give a shard or the folder that holds them")
        self._read_index = lru_cache(maxsize=FEWEST_GROUPS)(read_index)
        self._parts = math.ceil(FEWEST_GROUPS / len(self._shards))
        first, samples = self._first_readable()
        self._bytes_per_image = first.stat().st_size / len(samples)
        self._labelled = any(sample.label is not None for sample in samples)
        self._groups = [(shard, part) for shard in self._shards for part in range(self._count_parts(shard))]

    @property
    def info(self) -> SourceInfo:
        """Images without actions, and their classes where the shards have them."""
        origin: dict[str, object] = {"shards": len(self._shards), "parts": self._parts}
        return image_info(self._path, labelled=self._labelled, origin=origin)

    @property
    def num_episodes(self) -> int:
        """Groups."""
        return len(self._groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Shards, and their parts."""
        return tuple(shard.name if self._parts == 1 else f"{shard.name}, part {part}" for shard, part in self._groups)

    def length(self, index: int) -> int:
        """Guess the number of images of a group from its bytes; to read the headers of many shards takes minutes."""
        shard, _ = self._groups[index]
        return round(shard.stat().st_size / self._bytes_per_image / self._count_parts(shard))

    def episode(self, index: int) -> Recording:
        """Open one group; an image that cannot be used is left out of it."""
        shard, part = self._groups[index]
        shard_index = self._read_index(shard)
        size = math.ceil(len(shard_index.samples) / self._parts)
        samples = shard_index.samples[part * size : (part + 1) * size]
        if not self._labelled and any(sample.label is not None for sample in samples):
            raise ValueError(f"{shard}: has classes (cls) and the first none; give all images a class, or none")
        if self._labelled:
            without = "has no class (cls), which others have"
            samples = [
                s if s.label is not None else replace(s, label=-1, problem=s.problem or without) for s in samples
            ]
        is_last = (part + 1) * size >= len(shard_index.samples)
        return image_recording(
            _read_members(shard, samples),
            [sample.label or 0 for sample in samples] if self._labelled else None,
            len(samples),
            source=self.names[index],
            left_out=shard_index.problems if is_last else (),
        )

    def _first_readable(self) -> "tuple[Path, tuple[Sample, ...]]":
        """Return the first shard that can be read, and its samples."""
        reasons = []
        for shard in self._shards:
            try:
                return shard, self._read_index(shard).samples
            except ValueError as error:
                reasons.append(error)
        raise reasons[0]

    def _count_parts(self, shard: Path) -> int:
        if self._parts == 1:
            return 1  # without looking at every shard
        try:
            count = len(self._read_index(shard).samples)
        except ValueError:
            return 1  # which `episode` refuses
        return math.ceil(count / math.ceil(count / self._parts))


@dataclass(frozen=True, slots=True)
class Sample:
    """Where a shard has an image, and its class.

    Args:
        name: the member's name.
        offset: where its bytes begin.
        size: how many they are.
        label: number of its class, -1 for a class that cannot be read, or None.
        problem: why the image is left out, or nothing.
    """

    name: str
    offset: int
    size: int
    label: int | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """What a shard holds.

    Args:
        samples: its images.
        problems: what else of it cannot be used, in one line each.
    """

    samples: tuple[Sample, ...]
    problems: tuple[str, ...]


def read_index(shard: Path) -> Index:
    """Read the headers of a shard, and the few bytes of its `cls` members.

    Where the shard is damaged or ends too early, what lies before is kept.

    Raises:
        ValueError: nothing of it can be used, or it has no images.
    """
    images: dict[str, Sample] = {}
    labels: dict[str, int] = {}
    problems: list[str] = []
    reasons: dict[str, str] = {}
    damage = ""
    try:
        with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            whole, end = os.fstat(file.fileno()).st_size, 0
            while (member := tar.next()) is not None:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  it would keep every header
                if member.offset < end:
                    raise ValueError(f"member {member.name!r} lies before the one that it follows")
                if member.size < 0:
                    raise ValueError(f"member {member.name!r} has {member.size} bytes")
                end = member.offset_data + math.ceil(member.size / _BLOCK) * _BLOCK
                if member.isdir() or is_hidden_path(member.name):
                    continue
                if problem := _problem(member, whole):
                    problems.append(problem)
                    continue
                folder, _, name = member.name.rpartition("/")
                name, _, extension = name.partition(".")
                key, extension = f"{folder}/{name}", extension.lower()
                if extension in SHARD_EXTENSIONS:
                    if key in images:
                        reasons[key] = f"{images[key].name!r} and {member.name!r} are images of one sample"
                    images.setdefault(key, Sample(member.name, member.offset_data, member.size, None))
                elif extension == "cls":
                    labels[key] = label = _read_label(file, member)
                    if label < 0:
                        reasons[key] = f"member {member.name!r} is not the number of a class"
            file.seek(end)
            if file.read(_BLOCK).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise ValueError(f"no header at byte {end}")
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        damage = " ".join(str(error).split())
    if not images:
        if reason := (problems or [damage])[0]:
            raise ValueError(f"{shard}: is no usable shard ({reason}); repair it or take it out")
        raise ValueError(f"{shard}: has no images ({', '.join(sorted(SHARD_EXTENSIONS))}); take it out")
    sentences = [f"{shard}: {problem}; it is left out" for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        sentences.append(f"{shard}: {len(problems) - MOST_PROBLEMS} more members are left out")
    if damage:
        sentences.append(f"{shard}: is damaged or cut off ({damage}); what follows there is left out, copy it again")
    samples = (replace(image, label=labels.get(key), problem=reasons.get(key, "")) for key, image in images.items())
    return Index(tuple(samples), tuple(sentences))


def _problem(member: tarfile.TarInfo, whole: int) -> str:
    """Say why a member cannot be used, or nothing."""
    if not member.isreg() or member.issparse():
        return f"member {member.name!r} is a link, a device or a sparse file"
    if member.size > LARGEST_MEMBER:
        return f"member {member.name!r} has {member.size} bytes, more than {LARGEST_MEMBER}"
    if member.offset_data + member.size > whole:
        return f"member {member.name!r} is cut off"
    return ""


def _list_shards(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    inside, shards = path.resolve(), []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(".tar") and not is_hidden(entry.name) and entry.is_file():
                stay_inside(entry, inside)
                shards.append(path / entry.name)
    return sorted(shards)


def _read_label(file: IO[bytes], member: tarfile.TarInfo) -> int:
    """Return the number of a class, or -1 if it is none."""
    file.seek(member.offset_data)
    text = file.read(min(member.size, 32)).strip()
    if not text.isdigit() or member.size > 32 or int(text) >= LARGEST_LABEL:
        return -1
    return int(text)


def _read_members(shard: Path, samples: list[Sample] | tuple[Sample, ...]) -> Iterator[npt.NDArray[np.uint8] | LeftOut]:
    try:
        with open(shard, "rb") as file:
            for sample in samples:
                where = f"{shard}: {sample.name}"
                if sample.problem:
                    yield LeftOut(f"{where}: is left out ({sample.problem}); repair it or take it out")
                    continue
                file.seek(sample.offset)
                try:
                    yield read_image(io.BytesIO(file.read(sample.size)), where)
                except ValueError as error:
                    yield LeftOut(str(error))
    except OSError as error:
        raise ValueError(f"{shard}: cannot be read ({error.strerror}); repair it or take it out") from error
