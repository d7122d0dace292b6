"""What is shown fits its terminal: no number is cut, and what is read by programs has no width."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

import lewm.progress
from lewm.cli import main
from lewm.cli.numbers import HEADS
from lewm.cli.show import print_table
from lewm.progress import progress_bars

ROWS = [
    ("Error ratio, 1 step ahead", "0.09", "1.00 (copy or mean)"),
    ("CEM success, 200 episodes", "38% (32% to 45%)", "4% (2% to 8%) (random)"),
    ("", "", "36% (29% to 42%) (moving straight)"),
    ("Success of 129 starts that moving straight does not solve", "8% (4% to 14%)", "0% (0% to 3%) (random)"),
    ("Held-out R² of [joint]", "0.81", "0 (the mean)"),
]
TITLE = "/a/run/of/a/name/that/is/longer/than/forty/columns on held-out episodes"


def shown(text: str) -> list[str]:
    """Return the values of a table or of lines, in order."""
    cells = [cell.strip() for line in text.splitlines() for cell in re.split("[│┃|]|this run:|trivial rival:", line)]
    values = {value for row in ROWS for value in row[1:] if value}
    return [cell for cell in cells if cell in values]


@pytest.mark.parametrize("columns", [30, 40, 60, 73, 79, 80, 100, 200])
def test_tables_show_every_value_in_any_width(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(TITLE, HEADS, ROWS)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == TITLE  # a path stays whole
    text = "\n".join(lines)
    assert shown(text) == [value for row in ROWS for value in row[1:] if value]
    assert "…" not in text
    assert "[joint]" in text
    if columns >= 80:
        assert max(map(cell_len, lines)) <= columns
        assert "┃" in text
    if columns < 73:
        assert "┃" not in text


def test_a_pipe_has_no_width(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "a name of a measure " * 8
    print_table(TITLE, HEADS, [*ROWS, (long, "1.00", "2.00")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(rows) == len(ROWS) + 1  # nothing is folded
    assert long.strip() in rows[-1]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_narrow_terminal_shows_every_number(columns: int) -> None:
    done = in_terminal(["info", "--preset", "tiny"], columns)
    for number in ("579,336", "162,656", "4,608", "746,600", "164,608"):
        assert number in done
    assert max(map(cell_len, done.splitlines())) <= columns


def in_terminal(argv: list[str], columns: int) -> str:
    """Run a command in a terminal of so many columns, and return all that it shows."""
    parent, child = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    command = [sys.executable, "-m", "lewm", *argv]
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    out = b""
    try:
        while part := os.read(parent, 65536):
            out += part
    except OSError:  # the terminal is closed at the other end
        pass
    os.close(parent)
    process.wait(timeout=60)
    return re.sub(r"\x1b\[[0-9;]*m|\r", "", out.decode())


@pytest.mark.parametrize("columns", [40, 60, 79, 80])
def test_progress_shows_every_number(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()

    def console(**_: bool) -> Console:
        return Console(file=out, width=columns, force_terminal=True, color_system=None)

    monkeypatch.setattr(lewm.progress, "Console", console)
    parts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}")
    bars = progress_bars(*parts, TimeRemainingColumn(), TextColumn("left"), show=True)
    bars.update(bars.add_task("train two-room", total=20000, loss="loss 0.1234"), completed=1234)
    bars.console.print(bars.get_renderable())
    words = " ".join(out.getvalue().split())
    assert "1234/20000 loss 0.1234 -:--:-- left" in words
    assert max(map(len, out.getvalue().splitlines())) <= columns
    assert ("━" in words) == (columns >= 80)


def test_errors_stay_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    folder = tmp_path / ("a-long-name-" * 5)
    assert main(["check", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
