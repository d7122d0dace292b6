"""What a path holds that looks like no format that is imported, and the nearest way from there."""

import os
from pathlib import Path

from lewm.data.importers.listing import is_hidden, natural_key

_MOST = 2000  # entries that are looked at
_DEEPEST = 6

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_TABLES = (".csv", ".parquet")
_ELSEWHERE = {".h5": "HDF5", ".hdf5": "HDF5", ".mp4": "videos", ".mov": "videos", ".mkv": "videos", ".webm": "videos",
              ".avi": "videos", ".tar": "WebDataset shards", ".zgroup": "a zarr store", "zarr.json": "a zarr store",
              "info.json": "a LeRobot set"}  # fmt: skip

_STORE = "write its frames and actions with lewm.StoreWriter (docs/data.md)"
_ROS = "export the camera as a video and the commands as a CSV of times and actions, or convert it to LeRobot"
_PICKLE = "is a pickle, which can run code when it is read, so is not read", _STORE
_ZED = "is a recording of a ZED camera", "export it to MP4 with the camera's tools, and put a CSV of actions beside it"
_ARCHIVE = "is an archive", "unpack it and give the folder"
_COMPRESSED = "is a compressed archive", "unpack it and give the folder; shards of WebDataset must be plain .tar"
_ENDS = {
    ".bag": ("is a recording of ROS 1", _ROS),
    ".db3": ("is a recording of ROS 2", _ROS),
    ".mcap": ("is a recording of ROS 2 or Foxglove", _ROS),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), _PICKLE),
    **dict.fromkeys((".npz", ".npy"), ("holds arrays of NumPy", _STORE)),
    ".mat": ("holds arrays of MATLAB", _STORE),
    ".lance": ("is a Lance table", _STORE),
    ".arrow": ("is an Arrow file of the library datasets", "give the data set's own files, as they were downloaded"),
    ".rrd": ("is a recording of Rerun", "export the camera as a video and the actions as a CSV"),
    **dict.fromkeys((".svo", ".svo2"), _ZED),
    ".gif": ("is a GIF", "convert it to MP4 and put a CSV of times and actions beside it"),
    **dict.fromkeys((".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2"), _COMPRESSED),
    **dict.fromkeys((".zip", ".7z", ".rar"), _ARCHIVE),
}


def describe(path: Path) -> str | None:
    """Say what a path holds and the nearest way from there, `what; way`, or None if that cannot be told.

    Args:
        path: a file or folder that no importer knows.
    """
    files = _walk(path) if path.is_dir() else [Path(path.name)]
    names = {file.name for file in files}
    if any(".tfrecord" in name for name in names) or {"dataset_info.json", "features.json"} <= names:
        return "is a TFRecord set such as RLDS; import the set's LeRobot version, or convert it to LeRobot"
    if droid := [file for file in files if file.name == "trajectory.h5"]:
        return f"holds DROID's raw form ({droid[0]}), with pictures in recordings/MP4; import DROID's LeRobot version"
    for file in files if path.is_dir() else []:
        kind = _ELSEWHERE.get(file.suffix.lower()) or _ELSEWHERE.get(file.name)
        folder = file.parent
        if kind == "a LeRobot set" and folder.name != "meta":
            continue
        folder = folder.parent if kind == "a LeRobot set" else folder
        if kind and folder != Path():
            return f"has {kind} in {folder}; give that folder"
    for file in files:
        for end, (what, way) in _ENDS.items():
            if file.name.lower().endswith(end):
                return f"{what}; {way}" if path.is_file() else f"holds {file}, which {what}; {way}"
    pictures = [file for file in files if file.suffix.lower() in _PICTURES]
    if pictures and pictures[0].parent == Path():
        return (
            "has pictures without class folders and without a table; make a folder a class, or add a table of actions"
        )
    if pictures:
        return (
            f"has pictures as deep as {pictures[0]}; give a folder of class folders, or of films with tables of actions"
        )
    if any(file.suffix.lower() in _TABLES for file in files):
        return "has tables and no videos or pictures; put those beside the tables"
    return None


def _walk(root: Path) -> list[Path]:
    """Return the first files of a folder and the folders in it, relative to it, the upper ones first."""
    found: list[Path] = []
    level, seen = [Path()], 0
    for _ in range(_DEEPEST):
        deeper: list[Path] = []
        for folder in level:
            try:
                names = sorted(os.listdir(root / folder), key=natural_key)
            except OSError:
                continue
            for name in names:
                if (seen := seen + 1) > _MOST:
                    return found
                if (root / folder / name).is_dir():
                    if not is_hidden(name) and not (root / folder / name).is_symlink():
                        deeper.append(folder / name)
                elif not is_hidden(name) or name == ".zgroup":
                    found.append(folder / name)
        level = deeper
    return found
