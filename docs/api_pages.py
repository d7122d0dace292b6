"""Write a page for every public object of the package into docs/api, for `make docs` to render.

    python docs/api_pages.py

The names are those of `lewm.__init__`, so that a new one has a page by itself.
"""

import inspect
from pathlib import Path

from api_examples import EXAMPLES

import lewm

FOLDER = Path(__file__).parent / "api"
NAMES = sorted(name for name in lewm._HOMES if not name.startswith("__"))
INTRODUCTION = """# API

Every public name of `lewm` has a page: signature, shapes, units, errors and an example. In shapes, B is a batch, T the
frames of a clip, L those of an episode, N the tokens of a frame, D their width, f the frame-skip, A the length of an
action and H the model steps ahead.

The examples assume a store `data/two-room` and a run `runs/two-room`, as the [quickstart](../quickstart.md) makes them.

| name | what it is or does |
| --- | --- |
"""


def place_of(name: str) -> str:
    """Return where an object is defined: a room may give it by another name, or have a module of that name."""
    value = getattr(lewm, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return ".".join(lewm._HOMES[name])


def summary_of(name: str) -> str:
    """Return the first line of an object's docstring."""
    value = getattr(lewm, name)
    documented = inspect.isclass(value) or inspect.isfunction(value)
    return (inspect.getdoc(value) or "").partition("\n")[0] if documented else "The tasks that come with the package."


def page_of(name: str) -> str:
    """Return an object's page."""
    options = f"    options:\n      heading: lewm.{name}\n      toc_label: {name}\n"
    if not callable(getattr(lewm, name)):
        options += "      show_attribute_values: false\n"
    return f"::: {place_of(name)}\n{options}\n## Example\n\n```python\nimport lewm\n\n{EXAMPLES[name].strip()}\n```\n"


def main() -> None:
    """Write the pages and their index."""
    FOLDER.mkdir(exist_ok=True)
    for page in FOLDER.glob("*.md"):
        page.unlink()
    for name in NAMES:
        (FOLDER / f"{name}.md").write_text(page_of(name), encoding="utf-8")
    rows = "".join(f"| [`{name}`]({name}.md) | {summary_of(name)} |\n" for name in NAMES)
    (FOLDER / "index.md").write_text(INTRODUCTION + rows, encoding="utf-8")


if __name__ == "__main__":
    main()
