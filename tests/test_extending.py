"""docs/extending.md does what it says: its files and lines, added to a copy of the package, work by its commands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
ADDED = ("task", "regulariser", "planner", "importer", "family")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PLACE = re.compile(r"# (src/[\w/]+\.py)\n")
# Runs every further block of the page in one process, because PyTorch takes seconds to load.
_FOLLOW = """
import shlex, sys
from pathlib import Path
from lewm.cli import main
for number, kind in enumerate(sys.argv[1:]):
    text = Path(f"{number}.txt").read_text()
    if kind == "python":
        exec(compile(text, "extending.md", "exec"), {})
        continue
    for line in text.splitlines():
        print("$", line, flush=True)
        assert main(shlex.split(line)[1:]) in (0, None), line
"""
_HELPS = """
from lewm.cli import main
for command in ("collect", "import", "train", "plan"):
    try:
        main([command, "--help"])
    except SystemExit:
        pass
main(["info", "--preset", "residual", "--json"])
"""


def sections() -> dict[str, list[tuple[str, str]]]:
    """Return the blocks of each section that adds something, (language, text)."""
    parts = re.split(r"^## An? ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: _BLOCK.findall(part.partition("\n## ")[0]) for part in parts}


def run(package: Path, folder: Path, code: str, *arguments: str) -> str:
    """Run code beside a copy of the package; return what it printed."""
    known = {**os.environ, "PYTHONPATH": str(package.parent), "COLUMNS": "110", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package to which the page's files and lines are added."""
    root = tmp_path_factory.mktemp("extending")
    skip = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "src" / "lewm", root / "src" / "lewm", ignore=skip)
    for blocks in sections().values():
        for language, text in blocks:
            place = _PLACE.match(text)
            if place is None:
                continue
            file, body = root / place[1], text[place.end() :]
            if language == "diff":
                context, added = body.splitlines()
                source = file.read_text(encoding="utf-8")
                assert (context[0], added[0], source.count(f"{context[1:]}\n")) == (" ", "+", 1), body
                source = source.replace(f"{context[1:]}\n", f"{context[1:]}\n{added[1:]}\n")
                file.write_text(source, encoding="utf-8")
            else:
                assert not file.exists(), file
                file.parent.mkdir(exist_ok=True)
                file.write_text(body, encoding="utf-8")
    return root / "src" / "lewm"


def test_each_is_one_file_and_one_line() -> None:
    found = sections()
    assert tuple(found) == ADDED
    for name, blocks in found.items():
        files = [_PLACE.match(text) for language, text in blocks if language == "python"]
        lines = [text for language, text in blocks if language == "diff"]
        folders = {place[1].rpartition("/")[0] for place in files if place}
        assert (len([place for place in files if place]), len(folders)) == (2 if name == "family" else 1, 1)
        assert [text.count("\n+") for text in lines] == [1]


def test_a_file_stands_beside_those_that_do_the_same(extended: Path) -> None:
    """Each table of names leads into one room, the added line too, and the file that it names is there."""
    source = (extended / "config" / "choices.py").read_text(encoding="utf-8")
    tables = re.findall(r"^[A-Z]+ = \{\n(.*?)^\}", source, re.DOTALL | re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        modules = re.findall(r'"lewm\.([\w.]+):', table)
        rooms = {module.rpartition(".")[0] for module in modules}
        assert len(rooms) == 1, rooms
        for module in modules:
            place = extended / module.replace(".", "/")
            assert place.with_suffix(".py").is_file() or place.is_dir(), module


def test_files_are_in_the_style_of_the_package(extended: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed; it is in the extra `dev`")
    added = [extended.parents[1] / place for place in _PLACE.findall(PAGE.read_text(encoding="utf-8"))]
    config = f"--config={ROOT / 'pyproject.toml'}"
    where = extended.parents[1]  # `src` of the configuration is sought from here
    done = subprocess.run([ruff, "check", config, *added], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_option_lists_and_help_texts_know_the_new_names(extended: Path, tmp_path: Path) -> None:
    shown = run(extended, tmp_path, _HELPS)
    collect, import_, train, plan = re.split(r"(?=^usage: )", shown, flags=re.MULTILINE)[1:]
    assert "rail" in collect
    assert "npz" in import_
    assert re.search(r"--model.regulariser \{none,hinge,", train)
    assert re.search(r"--preset \{[^}]*residual", re.sub(r"[│\s]+", " ", train))
    assert re.search(r"--planner \{ranks,", plan)
    assert '"token_width"' in plan or '"width": 64' in plan  # of `lewm info`


@pytest.mark.slow
def test_commands_of_the_page_run(extended: Path, tmp_path: Path) -> None:
    blocks = [block for part in sections().values() for block in part]
    followed = [(language, text) for language, text in blocks if language != "diff" and not _PLACE.match(text)]
    for number, (_, text) in enumerate(followed):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    told = run(extended, tmp_path, _FOLLOW, *(language for language, _ in followed))
    assert told.count("$ lewm") == 8
    assert "random policy" in told
    from lewm.data import Store

    assert Store(tmp_path / "data" / "rail").meta.task == "rail"
    assert Store(tmp_path / "data" / "toy").num_episodes == 3
    assert (tmp_path / "runs" / "residual" / "eval.json").is_file()
