"""Images without actions, in class folders.

Every image is a frame of its own. An episode is a group of images that have nothing to do with each other, so that
episodes that are held out are images that are held out. Files are only read: nothing is extracted, and no link is
followed out of the given folder.
"""

import hashlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from lewm.data.importers.listing import glance, is_hidden
from lewm.data.importers.pictures import read_image
from lewm.data.importers.source import ImportOptions, LeftOut, Recording, Source, SourceInfo

FOLDER_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
LABEL = "label"
LARGEST_GROUP = 1000
FEWEST_GROUPS = 10  # of many images: a tenth that is held out is then whole groups
_SPLIT = re.compile(
    r"(train(ing)?|val(id(ation)?)?|test(ing)?|dev|eval(uation)?|held[-_]?out)([-_]?(set|images|[0-9]+))?"
)


class ImageFolderSource(Source):
    """Images in class folders, `root/<class>/<image>` or `root/<split>/<class>/<image>`; the order mixes the classes.

    The state `label` of an image is the place of its class among the sorted names of the folders, which are
    `origin["classes"]`. The order comes from a digest of the names, so it is the same on every machine. Splits such as
    train, val and test are all taken; no group mixes them, its source begins with its split, and `origin["splits"]`
    counts their images. Images in the folders of splits themselves have no class.
    """

    format: ClassVar[str] = "images"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Look for an image in a folder of the folder, or in a class folder of a split."""
        if not path.is_dir():
            return False
        folders = [entry for entry in glance(path) if entry.is_dir()]
        classes = [entry for split in folders if _SPLIT.fullmatch(split.name.lower()) for entry in glance(split)]
        folders += [entry for entry in classes if entry.is_dir()]
        return any(is_image(entry.name) for folder in folders for entry in glance(folder))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        check_options(options)
        self._root = path
        names = _list_images(path)
        if not names:
            raise ValueError(
                f"{path}: has no images in class folders ({path.name}/<class>/*.jpg, png, webp or bmp); give the "
                "folder that holds the class folders"
            )
        depths = {name.count("/"): name for name in names}
        if len(depths) > 1:
            raise ValueError(
                f"{path}: has images in class folders ({depths[1]}) and in folders of splits ({depths[2]}); give the "
                "folder of one split, or take the others out"
            )
        self._has_splits = 2 in depths or all(_SPLIT.fullmatch(name.partition("/")[0].lower()) for name in names)
        self._classes = sorted({name.split("/")[-2] for name in names}) if 2 in depths or not self._has_splits else []
        self._size = min(math.ceil(len(names) / FEWEST_GROUPS), LARGEST_GROUP)
        by_split: dict[str, list[str]] = {}
        for name in sorted(names, key=lambda name: hashlib.blake2b(os.fsencode(name), digest_size=16).digest()):
            by_split.setdefault(name.partition("/")[0] if self._has_splits else "", []).append(name)
        self._splits = {split: by_split[split] for split in sorted(by_split, key=_split_key)}
        self._groups = [
            (split, first) for split, members in self._splits.items() for first in range(0, len(members), self._size)
        ]

    @property
    def info(self) -> SourceInfo:
        """Images without actions, and their classes and splits."""
        counts = {split: len(names) for split, names in self._splits.items()}
        names = [name for members in self._splits.values() for name in members]
        digest = hashlib.blake2b(b"\0".join(map(os.fsencode, names)), digest_size=8).hexdigest()
        origin: dict[str, object] = {"images": len(names), "classes": self._classes, "digest": digest}
        if self._has_splits:
            said = ", ".join(f"{count} of {split}" for split, count in counts.items())
            origin |= {
                "splits": counts,
                "notes": [f"all splits are imported: {said}; give a split's folder for it alone"],
            }
        return image_info(self._root, labelled=bool(self._classes), origin=origin)

    @property
    def num_episodes(self) -> int:
        """Groups."""
        return len(self._groups)

    def length(self, index: int) -> int:
        """Return the number of images of a group."""
        return len(self._group(index))

    def episode(self, index: int) -> Recording:
        """Open one group; a file in it that is no readable image is left out of it."""
        names = self._group(index)
        place = {name: k for k, name in enumerate(self._classes)}
        split, first = self._groups[index]
        return image_recording(
            (_read(self._root / name) for name in names),
            [place[name.split("/")[-2]] for name in names] if self._classes else None,
            len(names),
            source=f"{split and f'{split}: '}images {first} to {first + len(names) - 1} of {len(self._splits[split])}",
        )

    def _group(self, index: int) -> list[str]:
        split, first = self._groups[index]
        return self._splits[split][first : first + self._size]


def check_options(options: ImportOptions) -> None:
    """Refuse what images do not have, and fail here rather than in every worker where a decoder is missing."""
    import simplejpeg  # noqa: F401
    from PIL import Image  # noqa: F401

    if options.cameras:
        raise ValueError(f"cameras={', '.join(options.cameras)}: images have no cameras; leave it out")
    for name, names in (("action", options.action), ("state", options.state)):
        if names:
            raise ValueError(f"{name}={', '.join(names)}: images have no {name}; leave it out")


def image_info(path: Path, *, labelled: bool, origin: dict[str, object]) -> SourceInfo:
    """Return what images say about themselves."""
    return SourceInfo(
        task=path.resolve().name.removesuffix(".tar"),
        action_kind="none",
        action_size=0,
        state_names=(LABEL,) if labelled else (),
        origin=origin,
    )


def image_recording(
    frames: Iterator[npt.NDArray[np.uint8] | LeftOut],
    labels: list[int] | None,
    count: int,
    *,
    source: str,
    left_out: tuple[str, ...] = (),
) -> Recording:
    """Return a group of images, with the numbers of their classes where they have some."""
    return Recording(
        frames=frames,
        actions=np.empty((count, 0), dtype=np.float32),
        states=None if labels is None else np.array(labels, dtype=np.float32)[:, None],
        source=source,
        same_size=False,
        left_out=left_out,
    )


def is_image(name: str) -> bool:
    """Tell whether a file is an image, by its name."""
    return not is_hidden(name) and PurePosixPath(name).suffix.lower() in FOLDER_SUFFIXES


def stay_inside(entry: os.DirEntry[str], folder: Path) -> None:
    """Refuse a link that leads out of a resolved folder."""
    if entry.is_symlink() and not Path(entry).resolve().is_relative_to(folder):
        raise ValueError(f"{entry.path}: is a link that leads out of {folder}; put the file itself there")


def _read(file: Path) -> npt.NDArray[np.uint8] | LeftOut:
    try:
        return read_image(file, str(file))
    except ValueError as error:
        return LeftOut(str(error))


def _list_images(root: Path) -> list[str]:
    """Return all images as `class/name`, and those of splits as `split/class/name`."""
    names: list[str] = []
    inside = root.resolve()

    def look(folder: Path, prefix: str, *, deeper: bool) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_image(entry.name) and entry.is_file():
                    stay_inside(entry, inside)
                    if prefix:
                        names.append(f"{prefix}{entry.name}")
                elif not is_hidden(entry.name) and entry.is_dir() and deeper:
                    stay_inside(entry, inside)
                    is_split = not prefix and _SPLIT.fullmatch(entry.name.lower()) is not None
                    look(Path(entry), f"{prefix}{entry.name}/", deeper=is_split)

    look(root, "", deeper=True)
    return names


def _split_key(name: str) -> tuple[int, str]:
    """Return what to sort splits by: training, validation, test, others."""
    ranks = [k for k, begin in enumerate(("tr", "va", "te")) if name.lower().startswith(begin)]
    return (ranks or [3])[0], name
