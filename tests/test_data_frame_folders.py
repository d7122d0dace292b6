"""Folders of pictures with tables: every picture has its action, in the order of the rows or of the names."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lewm.data.importers.frame_folders import FrameFolderSource
from lewm.data.importing import ImportOptions, detect_format, import_recording

SIZE = 8
OPTIONS = ImportOptions(image_size=SIZE)


def picture(film: int, time: int, camera: int = 0) -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), (film * 20, time, camera))


def columns(film: int, count: int, **more: Any) -> dict[str, Any]:
    times = np.arange(count)
    return {"action_x": film * 100 + times + 0.5, "action_y": times + 0.25, "state_q": film + times * 2.0, **more}


def write_table(path: Path, content: dict[str, Any]) -> Path:
    table = pa.table(content)
    (pq.write_table if path.suffix == ".parquet" else pyarrow.csv.write_csv)(table, path)
    return path


def write_film(
    folder: Path, film: int, count: int = 12, names: str = "{}.png", cameras: tuple[str, ...] = ("",)
) -> Path:
    for k, camera in enumerate(cameras):
        (folder / camera).mkdir(parents=True, exist_ok=True)
        for time in range(count):
            picture(film, time, k).save(folder / camera / names.format(time))
    return folder


def check(source: FrameFolderSource, index: int, film: int, count: int = 12, camera: int = 0) -> None:
    recording = source.episode(index)
    assert source.length(index) == count
    found = [np.asarray(frame)[0, 0].tolist() for frame in recording.frames]
    assert found == [[film * 20, time, camera] for time in range(count)]
    assert recording.actions.shape == (count, 2)
    np.testing.assert_array_equal(recording.actions[:-1, 0], film * 100 + np.arange(count - 1) + 0.5)
    assert recording.states is not None
    np.testing.assert_array_equal(recording.states[:-1, 0], film + np.arange(count - 1) * 2)


def failure(path: Path, options: ImportOptions = OPTIONS) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        FrameFolderSource(path, options)
    return one_line(error.value)


def bad_episode(source: FrameFolderSource, index: int) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        list(source.episode(index).frames)
    return one_line(error.value)


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    assert ";" in str(error)
    return str(error)


@pytest.mark.parametrize("table", ["{0}/actions.csv", "{0}/log.parquet", "{0}.csv"])
@pytest.mark.parametrize("names", ["{}.png", "{:04d}.png", "frame_{}.jpeg", "left-{}.bmp"])
def test_a_film_a_folder(tmp_path: Path, table: str, names: str) -> None:
    for film in (2, 10, 1):
        write_film(tmp_path / f"run{film}", film, names=names.replace("jpeg", "webp") if "bmp" in names else names)
        write_table(tmp_path / table.format(f"run{film}"), columns(film, 12))
    (tmp_path / "notes").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "overview.png")
    assert detect_format(tmp_path) == "frames"
    source = FrameFolderSource(tmp_path, OPTIONS)
    assert source.num_episodes == 3
    info = source.info
    assert (info.action_kind, info.action_size, info.action_names) == ("continuous", 2, ("action_x", "action_y"))
    assert (info.state_names, info.fps) == (("state_q",), None)
    for index, film in enumerate((1, 2, 10)):
        assert source.episode(index).source == f"run{film}"
        if "jpeg" not in names:
            check(source, index, film)


@pytest.mark.parametrize("rows", [12, 11])
def test_one_film(tmp_path: Path, rows: int) -> None:
    write_film(tmp_path / "film", 3)
    write_table(tmp_path / "film" / "a.csv", columns(3, rows, t_ms=np.arange(rows) * 50))
    source = FrameFolderSource(tmp_path / "film", OPTIONS)
    assert source.num_episodes == 1
    assert source.info.fps == pytest.approx(20)
    check(source, 0, 3)
    assert source.episode(0).actions[-1].tolist() == ([311.5, 11.25] if rows == 12 else [0, 0])
    done = import_recording(tmp_path / "film", tmp_path / "store", options=OPTIONS, workers=1, progress=False)
    assert (done.store.num_frames, done.store.meta.action_kind) == (12, "continuous")


def test_rows_name_their_pictures(tmp_path: Path) -> None:
    write_film(tmp_path / "run1", 1, 20)
    order = np.arange(12)[::-1]
    write_table(tmp_path / "run1" / "a.csv", columns(1, 12, image=[f"images/{k}.png" for k in order]))
    recording = FrameFolderSource(tmp_path, OPTIONS).episode(0)
    assert [np.asarray(frame)[0, 0, 1] for frame in recording.frames] == order.tolist()


def test_whole_numbers_only_count_rows(tmp_path: Path) -> None:
    write_film(tmp_path / "run1", 1, names="{:05d}.png")
    write_table(tmp_path / "run1" / "a.csv", columns(1, 12, frame=np.arange(12)))
    check(FrameFolderSource(tmp_path, OPTIONS), 0, 1)


@pytest.mark.parametrize("by", ["folder", "episode", "own episode"])
@pytest.mark.parametrize("key", ["file", "image_path"])
def test_one_table_for_all(tmp_path: Path, by: str, key: str) -> None:
    parts = []
    for film in (1, 2, 10):
        folder = tmp_path / {"folder": f"run{film}", "episode": "frames", "own episode": "all"}[by]
        write_film(folder, film, names="{}.png" if by == "folder" else f"{film}_{{}}.png")
        prefix = f"run{film}/" if by == "folder" else f"{folder.name}/{film}_"
        more: dict[str, Any] = {key: [f"{prefix}{time}.png" for time in range(12)]}
        parts.append(columns(film, 12, **more, **({} if by == "folder" else {"episode": [film] * 12})))
    write_table(tmp_path / "all.csv", {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    assert detect_format(tmp_path) == "frames"
    source = FrameFolderSource(tmp_path, OPTIONS)
    assert source.num_episodes == 3
    for index, film in enumerate((1, 2, 10)):
        names = {"folder": f"run{film}", "episode": f"{film}", "own episode": f"all episode {film}"}
        assert source.episode(index).source == names[by]
        check(source, index, film)


def test_cameras_are_folders(tmp_path: Path) -> None:
    for film in (1, 2):
        write_film(tmp_path / f"run{film}", film, cameras=("front", "wrist"))
        write_table(tmp_path / f"run{film}" / "a.csv", columns(film, 12))
    assert failure(tmp_path) == "cameras: run1 has front, wrist; name those to import"
    assert "cameras=top: run1 has front, wrist; name" in failure(tmp_path, ImportOptions(cameras=("top",)))
    check(FrameFolderSource(tmp_path, ImportOptions(cameras=("wrist",))), 1, 2, camera=1)
    views = list(FrameFolderSource(tmp_path, ImportOptions(cameras=("wrist", "front"))).episode(0).frames)
    assert isinstance(views[5], tuple)
    assert [np.asarray(view)[0, 0].tolist() for view in views[5]] == [[20, 5, 1], [20, 5, 0]]
    (tmp_path / "run2" / "front" / "3.png").unlink()
    assert "run2/a.csv: has 12 rows for 11 pictures of front" in bad_episode(
        FrameFolderSource(tmp_path, ImportOptions(cameras=("wrist",))), 1
    )


def test_action_and_state_by_name_and_discrete(tmp_path: Path) -> None:
    write_film(tmp_path / "run1", 1)
    write_table(tmp_path / "run1" / "a.csv", columns(1, 12, key=np.arange(12) % 3))
    options = ImportOptions(action=("key",), state=("action",))
    source = FrameFolderSource(tmp_path, options)
    assert (source.info.action_kind, source.info.action_size) == ("discrete", 3)
    assert source.info.state_names == ("action_x", "action_y")
    assert source.episode(0).actions.tolist() == [0, 1, 2] * 4


def test_what_is_wrong_costs_its_film(tmp_path: Path) -> None:
    for film in range(1, 8):
        write_film(tmp_path / f"run{film}", film)
        write_table(tmp_path / f"run{film}" / "a.csv", columns(film, 12))
    (tmp_path / "run2" / "3.png").write_bytes(b"")
    write_table(tmp_path / "run3" / "a.csv", columns(3, 9))
    write_table(tmp_path / "run4" / "b.csv", columns(4, 12))
    (tmp_path / "run5" / "a.csv").unlink()
    write_table(tmp_path / "run6" / "a.csv", columns(6, 12, image=["9.png"] * 11 + ["99.png"]))
    write_table(tmp_path / "run7" / "a.csv", {"action_x": np.arange(12.0)})
    done = import_recording(
        tmp_path, tmp_path.with_name(f"{tmp_path.name}_out"), options=OPTIONS, workers=1, progress=False
    )
    reasons = dict(done.skipped)
    assert done.store.num_episodes == 1
    for index, message in enumerate(
        ("run2: 3.png: is no usable image", "run3/a.csv: has 9 rows for 12 pictures", "run4: has 2 tables",
         "run5: has 0 tables", "run6/a.csv: names '99.png', which is none", "run7: its table has other columns"),
        start=1,
    ):  # fmt: skip
        assert message in one_line(ValueError(reasons[index])), index


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "has no table for its pictures; give one table for all, or one a folder"),
        ({"a.csv": columns(1, 12), "b.csv": columns(1, 12)}, "has 2 tables, a.csv, b.csv for its pictures"),
        ({"a.csv": {"file": ["x"] * 12}}, "a.csv, set: has the columns file; must have some that begin"),
        ({"a.csv": columns(1, 12, image=["../a.png"] * 12)}, "names '../a.png', which is no picture in"),
    ],
)
def test_tables_that_are_no_use(tmp_path: Path, tables: dict[str, Any], message: str) -> None:
    write_film(tmp_path / "set", 1)
    for name, content in tables.items():
        write_table(tmp_path / "set" / name, content)
    assert message in failure(tmp_path / "set")


@pytest.mark.parametrize("what", ["folder", "picture", "table", "named"])
def test_links_that_lead_out_are_refused(tmp_path: Path, what: str) -> None:
    root = tmp_path / "set"
    write_film(root / "run1", 1)
    write_table(root / "run1" / "a.csv", columns(1, 12))
    write_film(root / "run2", 2)
    write_table(root / "run2" / "a.csv", columns(2, 12))
    place = {"folder": "run2", "picture": "run2/5.png", "table": "run2/a.csv", "named": "run2/5.png"}[what]
    (root / place).rename(tmp_path / "secret")
    (root / place).symlink_to(tmp_path / "secret")
    if what == "named":
        (root / "run1" / "a.csv").unlink()
        (root / "run2" / "a.csv").unlink()
        write_table(root / "all.csv", columns(1, 12, image=[f"run2/{k}.png" for k in range(12)]))
        assert "links out of" in failure(root)
    else:
        assert "links out of" in bad_episode(FrameFolderSource(root, OPTIONS), 1)


def test_class_folders_with_a_table_of_labels_stay_images(tmp_path: Path) -> None:
    write_film(tmp_path / "cat", 1)
    write_table(tmp_path / "labels.csv", {"file": ["cat/0.png"], "label": ["cat"]})
    assert detect_format(tmp_path) == "images"
