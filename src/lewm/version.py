"""The package's version, in a source tree as well as installed."""

import tomllib
from importlib import metadata
from pathlib import Path


def _version() -> str:
    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():  # what is installed beside a source tree may be older
        own = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if own.get("name") == "lewm":
            return own["version"]
    return metadata.version("lewm")


__version__ = _version()
