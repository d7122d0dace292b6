"""docs/first-look.md prints what it shows: shapes and words exactly, numbers nearly.

Run as a script, this file writes what the page shows anew: `python tests/test_first_look.py`.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "first-look.md"
STEP = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d*")
NEAR: dict[str, Any] = {"rel": 0.2, "abs": 0.08}
"""Another machine adds up in another order, and training magnifies that."""


def printed() -> Iterator[tuple[str, str]]:
    """Run the page's code in the working directory; yield what each step shows, and what it prints."""
    names: dict[str, object] = {}
    for code, shown in STEP.findall(PAGE.read_text(encoding="utf-8")):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(PAGE), "exec"), names)
        yield shown, out.getvalue()


@pytest.mark.slow
def test_every_step_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    steps = list(printed())
    assert len(steps) == PAGE.read_text(encoding="utf-8").count("```python\n") == 10
    for shown, told in steps:
        assert NUMBER.sub("#", told).split() == NUMBER.sub("#", shown).split()
        assert [float(n) for n in NUMBER.findall(told)] == pytest.approx(
            [float(n) for n in NUMBER.findall(shown)], **NEAR
        )


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        told = iter([text for _, text in printed()])
        os.chdir(before)
    PAGE.write_text(STEP.sub(lambda m: f"```python\n{m[1]}```\n\n```text\n{next(told)}```", page), encoding="utf-8")
