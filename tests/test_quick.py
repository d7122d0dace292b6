"""`make quick` leaves out the slow tests alone: it still enters every room, and no long test is in it."""

import ast
from pathlib import Path

import pytest

import conftest

HERE = Path(__file__).parent
ROOMS = sorted(folder.parent.name for folder in (HERE.parent / "src" / "lewm").glob("*/__init__.py"))


def is_slow(node: ast.stmt) -> bool:
    """Tell whether a decorator, or a file's `pytestmark`, says `pytest.mark.slow`."""
    marks = node.decorator_list if isinstance(node, ast.FunctionDef) else [node]
    return any("pytest.mark.slow" in ast.unparse(mark) for mark in marks)


def marks_in(source: str) -> dict[str, bool]:
    """Return the tests of a file, and whether each is slow."""
    tree = ast.parse(source).body
    whole = any(is_slow(node) for node in tree if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node))
    tests = [node for node in tree if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {test.name: whole or is_slow(test) for test in tests}


def test_marks_are_found() -> None:
    marked = "@pytest.mark.slow\ndef test_a():\n    pass\n\ndef test_b():\n    pass\n\ndef help():\n    pass\n"
    assert marks_in(marked) == {"test_a": True, "test_b": False}
    assert marks_in("pytestmark = [pytest.mark.slow]\ndef test_a():\n    pass\n") == {"test_a": True}


@pytest.mark.parametrize("room", ROOMS)
def test_most_tests_of_every_room_are_quick(room: str) -> None:
    files = [*HERE.glob(f"test_{room}.py"), *HERE.glob(f"test_{room}_*.py")]
    slow = [slow for file in files for slow in marks_in(file.read_text(encoding="utf-8")).values()]
    assert len(slow) >= 2
    assert sum(slow) < len(slow) / 2


@pytest.mark.parametrize(("took", "mark", "fails"), [(5.5, None, True), (5.5, "slow", False), (4.5, None, False)])
def test_a_long_test_that_is_not_marked_fails(
    monkeypatch: pytest.MonkeyPatch, took: float, mark: str | None, fails: bool
) -> None:
    class Item:
        def get_closest_marker(self, name: str) -> bool:
            return name == mark

    clock, item = iter([3.0, 3.0 + took]), Item()
    with monkeypatch.context() as patch:  # the test itself is watched too, until its end
        patch.setattr(conftest, "processor_seconds", lambda: next(clock))
        running = conftest.refuse_long(item)  # pyright: ignore[reportArgumentType]
        next(running)
        with pytest.raises(pytest.fail.Exception if fails else StopIteration):
            running.send(None)
