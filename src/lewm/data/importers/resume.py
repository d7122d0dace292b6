"""How an import goes on with a store that has episodes: what must be as it was, and what is left to import."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError

from lewm.data.cameras import camera_tiles
from lewm.data.importers.source import ImportOptions, LeftOut, Source, camera_fitter, thinned
from lewm.data.store import Store, StoreMeta, differs
from lewm.files import shorten

LOCATES = (
    *("format", "layout", "camera_keys", "images", "classes", "splits", "digest", "parts"),
    *("action_keys", "state_keys", "cameras", "action", "state", "fit", "crop_box", "frame_skip"),
)
"""What of a store's `origin` finds and decodes data. The rest are statistics, totals, notes and texts."""

_RESOLVED = {"cameras": ("camera_keys", "images"), "action": ("action_keys",), "state": ("state_keys",)}
"""What names were taken for, which counts where it is known: a short name and no name may mean the same."""
_SAME_FPS = 1.05  # a video's is measured, and its folder's the median
_SAME_PICTURE = 2.0  # grey levels on average: another version of a decoder rounds otherwise
_LONGEST_PATH = 60


def meta_to_go_on(stored: StoreMeta, new: StoreMeta) -> StoreMeta:
    """Return the metadata of a store that an import goes on with: what is known anew, under the store's own name.

    Args:
        stored: the store's.
        new: what the recording would have in a store of its own.

    Raises:
        ValueError: the recording is found or decoded in another way than the store's episodes were.
    """
    if stored.source.endswith(", repaired"):
        raise ValueError(
            f"source={stored.source!r}: the store was repaired, and would get back what was left out; import into "
            "another folder and repair that"
        )
    for name in ("image_size", "action_kind", "action_size", "action_names", "state_names"):
        old, wanted = getattr(stored, name), getattr(new, name)
        more_actions = name == "action_size" and stored.action_kind == "discrete"  # so many were seen until now
        names_come_later = name == "action_names" and not old
        if old != wanted and not (more_actions or names_come_later):
            raise ValueError(differs(name, old, wanted))
    rates = sorted((stored.fps or 0.0, new.fps or 0.0))
    if stored.fps is not None and rates[1] > _SAME_FPS * rates[0]:
        raise ValueError(differs("fps", stored.fps, new.fps))
    for name in LOCATES:
        if any(resolved in new.origin for resolved in _RESOLVED.get(name, ())):
            continue
        old, wanted = stored.origin.get(name), new.origin.get(name)
        if name in stored.origin and old != wanted:
            raise ValueError(differs(name, old, wanted))
    old, wanted = (list(map(dataclasses.astuple, camera_tiles(meta).values())) for meta in (stored, new))
    if old != wanted:
        raise ValueError(differs("tiles", old, wanted))
    known: dict[str, Any] = {
        name: getattr(stored, name)
        for name in ("task", "fps", "source", "control_mode", "control_evidence")
        if not (name.startswith("control") and stored.control_mode == "unknown") and getattr(stored, name) is not None
    }
    return dataclasses.replace(new, action_size=max(stored.action_size, new.action_size), **known)


def left_to_import(store: Store, source: Source, options: ImportOptions, path: Path, total: int) -> list[int]:
    """Return the numbers of a recording's first `total` episodes that a store does not have.

    Raises:
        ValueError: the store's episodes are of another recording.
    """
    names = source.names
    if names is None:
        has = set(store.episodes.seed.tolist())
        left = [index for index in range(total) if index not in has]
    else:
        has = set(map(source.name_of, store.episodes.source))
        left = [index for index in range(total) if names[index] not in has]
    _check_recording(store, source, names, options, path)
    return left


def _check_recording(
    store: Store, source: Source, names: tuple[str, ...] | None, options: ImportOptions, path: Path
) -> None:
    """Compare the first and the last stored episode with the recording's, without decoding more than a frame."""
    said, where = store.meta.origin.get("path"), shorten(path, _LONGEST_PATH)
    known = False
    for episode in sorted({0, store.num_episodes - 1}):
        index = int(store.episodes.seed[episode])
        if names is not None:
            name = source.name_of(store.episodes.source[episode])
            if name not in names:
                continue  # it was taken out
            index = names.index(name)
        try:
            same = index < source.num_episodes and _is_same(store, episode, source, index, options)
        except (ValueError, FFmpegError):
            continue  # it was damaged since
        if not same:
            raise ValueError(
                f"{where}: its episode {index} is not the one that the store {shorten(store.path, _LONGEST_PATH)} has "
                "as such; give another folder"
            )
        known = True
    if not known and said != str(path):
        raise ValueError(
            f"path={where}: the store has episodes of {shorten(said, _LONGEST_PATH)}, and neither the first nor the "
            "last of them is found there; give another folder"
        )


def _is_same(store: Store, episode: int, source: Source, index: int, options: ImportOptions) -> bool:
    recording = source.episode(index)
    actions, states = thinned(recording, options.frame_skip)
    rows = store.episode(episode)
    if store.meta.action_kind == "none":  # images: nothing but the pictures tells them apart
        if rows.stop - rows.start > len(actions):
            return False
        pictures = (frame for frame in recording.frames if not isinstance(frame, LeftOut))
        picture: Any = next(pictures, None)
        if picture is None:
            return True  # all are damaged since
        first = camera_fitter(options)(picture).astype(np.int16)
        return float(np.abs(first - store.frames[rows.start]).mean()) < _SAME_PICTURE
    pairs = [(actions, store.actions[rows])]
    if states is not None and store.states is not None:
        pairs.append((states, store.states[rows]))
    return all(
        given.shape == stored.shape and np.array_equal(given.astype(stored.dtype), stored) for given, stored in pairs
    )
