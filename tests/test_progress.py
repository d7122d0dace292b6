"""What is shown of progress: bars in a terminal, lines of text elsewhere."""

import pytest
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from lewm import progress
from lewm.progress import progress_bars

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))


def shown(capsys: pytest.CaptureFixture[str], *, show: bool = True) -> list[str]:
    with progress_bars(*COLUMNS, show=show) as bars:
        task = bars.add_task("train", total=4, loss="")
        for step in range(1, 4):
            bars.update(task, completed=step, loss=f"loss 0.{step}")
        bars.advance(task)
        bars.update(task, completed=4)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_without_a_terminal_only_the_end_is_told_of_what_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys) == ["train 4/4 loss 0.3"]


def test_without_a_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert shown(capsys)[:4] == ["train 1/4 loss 0.1", "train 2/4 loss 0.2", "train 3/4 loss 0.3", "train 4/4 loss 0.3"]


def test_nothing_is_shown_unless_wanted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert shown(capsys, show=False) == []


def test_a_terminal_gets_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert any("━" in line or "-" in line for line in shown(capsys))
