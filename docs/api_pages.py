"""Write a page for every public object of the package into docs/api, for `make docs` to render.

    python docs/api_pages.py

The names are those of `lewm.__init__`, so that a new one has a page by itself.
"""

from pathlib import Path

from api_examples import EXAMPLES

import lewm

FOLDER = Path(__file__).parent / "api"


def main() -> None:
    """Write the pages and their index."""
    FOLDER.mkdir(exist_ok=True)
    for page in FOLDER.glob("*.md"):
        page.unlink()
    rows = [
        "# API",
        "",
        "Every public name, `lewm.NAME`, on a page of its own.",
        "",
        "| name | lives in |",
        "| --- | --- |",
    ]
    for name, (module, attribute) in sorted(lewm._HOMES.items()):
        if name.startswith("__"):
            continue
        example = f"## Example\n\n```python\nimport lewm\n\n{EXAMPLES[name].strip()}\n```\n"
        text = f"::: {module}.{attribute}\n\n{example}"
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
        rows.append(f"| [{name}]({name}.md) | `{module}` |")
    (FOLDER / "index.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
