"""Which entries are data: what systems leave beside files never is, in any format, and names are in natural order."""

import tarfile
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from lerobot_fixture import write_video
from lewm.data.importers.listing import is_hidden, is_hidden_path, listed, natural_key, visible
from lewm.data.importing import import_recording

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(60)
HIDDEN = (
    *("._run", ".DS_Store", ".hidden", ".ipynb_checkpoints", "__MACOSX", "Thumbs.db", "thumbs.DB", "desktop.ini"),
    *("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "~$run.csv"),
)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden(name: str) -> None:
    assert is_hidden(name)
    assert is_hidden_path(f"a/{name}/b.png")
    assert is_hidden_path(f"./{name}")


@pytest.mark.parametrize("name", ["a.png", "run._1", "macosx", "eaDir", "thumbs.db.png", "@a"])
def test_not_hidden(name: str) -> None:
    assert not is_hidden(name)
    assert not is_hidden_path(f"./a/../{name}")


def test_natural_order() -> None:
    names = ["10.png", "9.png", "a2b10", "a2b9", "a10", "02", "2", "b", "٣.png"]
    assert sorted(names, key=natural_key) == ["02", "2", "9.png", "10.png", "a2b9", "a2b10", "a10", "b", "٣.png"]


def test_visible(tmp_path: Path) -> None:
    for name in ("10", "9", "._9", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "@eaDir").mkdir()
    assert [entry.name for entry in visible(tmp_path)] == ["9", "10"]


def test_a_list_of_names_stays_short() -> None:
    assert listed([]) == "none"
    assert listed(["a", "b"]) == "a, b"
    assert listed(f"name_{k}" for k in range(10**4)).endswith("name_13 ...")
    assert len(listed(["x" * 10**5])) < 200


def write_shared(folder: Path) -> None:
    write_own(folder)
    rows = (folder / "run.csv").read_text().splitlines()
    (folder / "run.csv").unlink()
    (folder / "all.csv").write_text("\n".join([f"video,{rows[0]}", *(f"run.mp4,{row}" for row in rows[1:])]))


def write_own(folder: Path) -> None:
    write_video(folder / "run.mp4", [np.full((64, 64, 3), 9 * k, np.uint8) for k in range(8)], "h264")
    (folder / "run.csv").write_text("timestamp,action_x\n" + "".join(f"{k / 10},{k}.5\n" for k in range(8)))


def write_hdf5(folder: Path) -> None:
    with h5py.File(folder / "a.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((4, 2))
        file["data/demo_0/obs/top_image"] = np.zeros((4, 8, 8, 3), np.uint8)


def write_images(folder: Path) -> None:
    (folder / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "cat" / "1.png")


def write_shard(folder: Path) -> None:
    png = BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    with tarfile.open(folder / "a.tar", "w") as tar:
        # As macOS's tar does.
        members = {"._1.png": APPLE_DOUBLE, "1.png": png.getvalue(), "__MACOSX/2.png": APPLE_DOUBLE, "._1.cls": b"x"}
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))


@pytest.mark.parametrize("write", [write_shared, write_own, write_hdf5, write_images, write_shard])
def test_what_systems_leave_is_no_data(tmp_path: Path, write) -> None:
    clean, littered = tmp_path / "a" / "set", tmp_path / "b" / "set"
    for folder in (clean, littered):
        folder.mkdir(parents=True)
        write(folder)
    for file in [path for path in littered.rglob("*") if path.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(APPLE_DOUBLE)
        for name in ("@eaDir", ".ipynb_checkpoints", "__MACOSX"):
            file.with_name(name).mkdir(exist_ok=True)
            (file.with_name(name) / file.name).write_bytes(APPLE_DOUBLE)
        for name in (".DS_Store", "Thumbs.db", f".hidden{file.suffix}", f"~${file.name}"):
            file.with_name(name).write_bytes(APPLE_DOUBLE)
    stores = []
    for folder in (clean, littered):
        done = import_recording(folder, folder.with_name("store"), workers=1, progress=False)
        assert done.skipped == ()
        stores.append(done.store)
    np.testing.assert_array_equal(stores[0].frames, stores[1].frames)
    assert stores[0].meta.origin | {"path": ""} == stores[1].meta.origin | {"path": ""}
