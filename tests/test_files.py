"""Atomic writes: whatever fails, the old file stays and nothing else is left."""

import errno
import os
from pathlib import Path

import pytest

from lewm import files
from lewm.files import atomic_path, plain_os_error, write_text


def test_replaces_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old é")
    inode = path.stat().st_ino
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".json"
        assert temporary.parent == tmp_path
        assert path.read_text(encoding="utf-8") == "old é"
    assert path.read_text() == "new"
    assert path.stat().st_ino != inode
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_any_exception_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_a_kill_leaves_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("x")
    temporary.write_text("left by a kill")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("primitive", ["fsync", "replace"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, primitive: str) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, primitive, full)
        with pytest.raises(OSError, match="disk full; the file is as it was, free some space") as error:
            write_text(path, "new")
    assert error.value.errno == errno.ENOSPC
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.txt"
    with pytest.raises(FileNotFoundError, match=r"a\.txt: cannot be written \(No such file or directory\)"):
        write_text(path, "new")


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError, match="mine"), plain_os_error(Path("p"), "kept"):
        raise KeyError("mine")
