"""Atomic writes: whatever fails, the old file stays and nothing else is left. What cannot be written is seen early."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lewm import files
from lewm.files import (
    LONGEST_MESSAGE,
    atomic_path,
    check_file,
    check_folder,
    check_space,
    plain_os_error,
    write_text,
)


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


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refusal(call: Callable[..., None], *arguments: object) -> str:
    """Return the one line that a check refuses with."""
    with pytest.raises(ValueError, match=r"^out=[^\n]*: [^\n]*; [^\n]*$") as error:
        call(*arguments)
    assert len(str(error.value)) <= LONGEST_MESSAGE
    return str(error.value)


def test_what_can_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.txt").write_text("old")
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), tmp_path, Path("new"), tmp_path / "new" / "deeper"):
        check_folder(folder, "out")
        check_file(folder / "old.txt", "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("path", "as_file", "as_folder"),
    [
        ("folder", "is a folder; give a file", None),
        ("file", None, "file is no folder; give another path"),
        ("file/a/b.txt", "file is no folder; give another path", "file is no folder; give another path"),
        ("link/b.txt", "link is no folder; give another path", "link is no folder; give another path"),
        ("new/" + 300 * "a" + "/b", "cannot be written (File name too long)", "cannot be written (File name too long)"),
        (253 * "a", "cannot be written (File name too long)", None),  # the temporary name is longer
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, path: str, as_file: str | None, as_folder: str | None
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    before = tree(tmp_path)
    for check, told in ((check_file, as_file), (check_folder, as_folder)):
        if told is None:
            check(tmp_path / path, "out")
        else:
            assert told in refusal(check, tmp_path / path, "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_the_reason_of_a_disk_is_told(tmp_path: Path, unwritable: Callable[[Path, int], None], number: int) -> None:
    unwritable(tmp_path, number)
    for check in (check_file, check_folder):
        assert f"out={tmp_path}/new/a: cannot be written ({os.strerror(number)}); see to the disk" in refusal(
            check, tmp_path / "new" / "a", "out"
        )
    assert not list(tmp_path.iterdir())


def test_space_is_told_in_a_line(tmp_path: Path, free_space: Callable[[float], None]) -> None:
    out = tmp_path / "new" / "store"
    free_space(1.0e9)
    check_space(out, 1.0e9, "out", "fewer --episodes")
    assert refusal(check_space, out, 1.0e9 + 1, "out", "fewer --episodes") == (
        f"out={out}: needs about 1.1 GB and 1.0 GB are free; give a folder on another disk, or fewer --episodes"
    )
    free_space(31.96e6)
    assert "needs about 1,234.0 GB and 31.9 MB are free" in refusal(check_space, out, 1.234e12, "out", "free some")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_tells_nothing_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: files.shutil._ntuple_diskusage(0, 0, 0))
    check_space(tmp_path, 1e12, "out", "free some")
