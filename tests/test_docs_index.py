"""The index of the docs: every page is linked, every room is listed, and what it says is somewhere is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "lewm"
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
PLACES = re.findall(r"^\| (.*?) \| (`src/.*?) \| (.*?) \|$", INDEX, re.MULTILINE)


def test_every_page_is_linked_and_in_the_menu_of_the_site() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in INDEX, page
        assert f": {page.name}\n" in menu, page
        assert readme.count(f"\n| [{page.stem.replace('-', ' ')}](docs/{page.name}) |") == 1, page


def test_every_room_is_listed() -> None:
    rooms = {f"lewm.{folder.parent.name}" for folder in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"^\| `(lewm[\w.]+)` \|", INDEX, re.MULTILINE))


@pytest.mark.parametrize("row", PLACES, ids=lambda row: row[0])
def test_it_is_where_the_index_says(row: tuple[str, str, str]) -> None:
    _, files, names = row
    text = "".join((ROOT / file).read_text(encoding="utf-8") for file in re.findall(r"`([^`]+)`", files))
    for name in re.findall(r"`([^`]+)`", names):
        assert re.search(rf"^ *(?:def |class )?{name}\b ?[(:=]", text, re.MULTILINE), name


def test_there_are_places() -> None:
    assert len(PLACES) > 15
