"""The public surface: what `lewm` gives by name, pinned, and that every function that takes a path takes a string.

Run as a script, this file writes the list of public names anew: `python tests/test_surface.py`.
"""

import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lewm

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "surface.txt"


def parameters(function: Any) -> str:
    """Return the names of a function's parameters, `*` before those that must be named; a default is shown as `=`."""
    shown, star = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        has_default = parameter.default is not inspect.Parameter.empty
        shown.append(parameter.name + ("=" if has_default else ""))
    return f"({', '.join(name for name in shown if name != 'self')})"


def described(name: str, value: Any) -> Iterator[str]:
    """Describe a public name in one line, and in one more each public member of a class."""
    if not callable(value):
        yield f"{name}: {type(value).__name__}"
        return
    yield f"{name}{parameters(value)}"
    if not inspect.isclass(value):
        return
    own = [cls for cls in value.__mro__ if cls.__module__.startswith("lewm")]
    members = {member: kind for cls in reversed(own) for member, kind in vars(cls).items()}
    for member, kind in sorted(members.items()):
        if not member.startswith("_"):
            function = kind.__func__ if isinstance(kind, classmethod | staticmethod) else kind
            yield f"{name}.{member}{parameters(function) if inspect.isfunction(function) else ''}"


def surface() -> str:
    """Return the whole public surface as text, one name a line."""
    return "".join(f"{line}\n" for name in sorted(lewm._HOMES) for line in described(name, getattr(lewm, name)))


def test_surface_is_that_of_the_golden_list() -> None:
    assert surface() == GOLDEN.read_text(encoding="utf-8"), "if this is meant, run: python tests/test_surface.py"


def test_public_names_load_from_their_rooms() -> None:
    for name, (module, attribute) in lewm._HOMES.items():
        assert getattr(lewm, name) is getattr(sys.modules[module], attribute)
        assert name in dir(lewm)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lewm.nothing


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert lewm.__version__ == project["version"]


def test_version_of_an_installation(tmp_path: Path) -> None:
    package = tmp_path / "lib" / "site" / "lewm"
    package.mkdir(parents=True)
    (package / "version.py").write_bytes((ROOT / "src" / "lewm" / "version.py").read_bytes())
    (package / "__init__.py").touch()
    info = package.parent / "lewm-9.8.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lewm\nVersion: 9.8\n", encoding="utf-8")
    (tmp_path / "lib" / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "1"\n', encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import lewm.version as v; print(v.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "9.8\n"


if __name__ == "__main__":
    GOLDEN.write_text(surface(), encoding="utf-8")
