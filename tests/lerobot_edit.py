"""Import, damage and read data sets in LeRobot's formats, for tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_fixture import SIZE, number_of
from lewm.data import Store
from lewm.data.importing import ImportOptions, import_recording

LENGTHS = (5, 9, 3, 7)
STARTS = np.cumsum((0, *LENGTHS)).tolist()
TOP, SIDE = "observation.images.top", "observation.images.side"
ANY = ImportOptions(image_size=SIZE)
V3_DATA = "data/chunk-000/file-000.parquet"
V3_EPISODES = ("meta/episodes/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-001.parquet")
V3_VIDEO = f"videos/{TOP}/chunk-000/file-000.mp4"


def import_to(root: Path, out: Path, options: ImportOptions = ANY, **settings: Any) -> Store:
    """Import a data set, all of which must be good."""
    done = import_recording(root, out, options=options, workers=settings.pop("workers", 1), progress=False)
    assert done.skipped == ()
    return done.store


def skipped(root: Path, out: Path) -> dict[int, str]:
    """Import a data set and return why episodes were left out; the others must be right."""
    done = import_recording(root, out, options=ANY, workers=1, progress=False)
    bad = dict(done.skipped)
    assert done.store.episodes.seed.tolist() == [i for i in range(len(LENGTHS)) if i not in bad]
    numbers = [n for i in range(len(LENGTHS)) if i not in bad for n in range(STARTS[i], STARTS[i + 1])]
    assert [number_of(frame) for frame in done.store.frames] == numbers
    return bad


def psnr(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    return 20 * np.log10(255) - 10 * np.log10(max(np.mean((a.astype(float) - b) ** 2), 1e-9))


def pixels_of(view: object) -> npt.NDArray[np.uint8]:
    pixels = view.to_ndarray(format="rgb24") if isinstance(view, av.VideoFrame) else view
    return np.asarray(pixels, np.uint8)


def edit_info(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))


def edit_rows(path: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    """Rewrite a table after changing its rows."""
    rows = pq.read_table(path).to_pylist()
    edit(rows)
    pq.write_table(pa.Table.from_pylist(rows), path)
