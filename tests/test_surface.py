"""The public surface: what `lewm` gives by name, pinned, and that every function that takes a path takes a string.

Run as a script, this file writes the list of public names anew: `python tests/test_surface.py`.
"""

import dataclasses
import inspect
import json
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

import lewm
from lewm.config import Config, EvalConfig, PlanConfig
from tiny import IMAGE, tiny

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "surface.txt"
ROOMS = ("data", "envs", "families", "train", "pretrained", "plan", "evaluate", "report", "research")
SMALL = dataclasses.replace(
    tiny(data__held_out=0.34, train__steps=2),
    plan=PlanConfig(horizon=2, candidates=4, elites=2, iterations=1, cost="tokens"),
    eval=EvalConfig(
        episodes=2, split_episodes=0, goal_offset=5, budget=4, horizons=(1,), clips=4, probe_frames=40
    ),
)  # fmt: skip


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


def public_callables() -> Iterator[tuple[str, Any]]:
    """Yield every function and class that `lewm`, or a room of it, gives by name."""
    yield from ((f"lewm.{name}", getattr(lewm, name)) for name in lewm._HOMES if callable(getattr(lewm, name)))
    for room in ROOMS:
        module = import_module(f"lewm.{room}")
        for name in getattr(module, "__all__", ()):
            if callable(getattr(module, name)):
                yield f"lewm.{room}.{name}", getattr(module, name)


def test_what_takes_a_path_takes_a_string() -> None:
    found = set()
    for name, value in public_callables():
        if dataclasses.is_dataclass(value) or (inspect.isclass(value) and issubclass(value, Exception)):
            continue  # what functions return
        for parameter, hint in typing.get_type_hints(value.__init__ if inspect.isclass(value) else value).items():
            kinds = typing.get_args(hint) or (hint,)
            if parameter != "return" and Path in kinds:
                found.add(f"{name}.{parameter}")
                assert str in kinds, f"{name}: {parameter} takes a Path and no string"
    for name in ("Store.path", "train_run.data", "load_run.run", "evaluate_run.run", "plan_run.video", "collect.out"):
        assert f"lewm.{name}" in found


@pytest.mark.slow
def test_strings_in_place_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = lewm.collect("two-room", "store", episodes=4, image_size=IMAGE, episode_length=12, workers=1,
                         progress=False)  # fmt: skip
    assert lewm.Store("store").num_frames == 48
    assert lewm.check_store("store").num_episodes == 4
    lewm.train_run(SMALL, "store", "run", progress=False)
    with pytest.raises(ValueError, match="is a run already"):
        lewm.train_run(SMALL, "store", "run", progress=False)
    lewm.resume_run("run", progress=False)
    assert isinstance(lewm.load_run("run").config, Config)
    assert lewm.distill_run("run", data="store", steps=1, progress=False)["steps"] == 1
    results = lewm.evaluate_run("run", data="store", progress=False)
    assert results == json.loads(Path("run/eval.json").read_text(encoding="utf-8"))
    assert lewm.write_report("run") == Path("run/report.html")
    assert lewm.plan_run("run", data="store", progress=False)["episodes"] == 2
    with pytest.raises(ValueError, match=r"\.mp4"):
        lewm.plan_run("run", video="film.txt", progress=False)
    assert len(lewm.plan_once("run", data="store", goal="frame:1:3", progress=False)["actions"]) == 2
    with lewm.StoreWriter("copy", store.meta) as writer:
        writer.append(store.frames[:12], store.actions[:12], store.states[:12])  # pyright: ignore[reportOptionalSubscript]
    with gymnasium.make("CartPole-v1") as env, pytest.raises(ValueError, match=r"^render_mode=None"):
        lewm.record(env, "recorded", episodes=1)
    for kind in ("one", "two"):
        Path("pictures", kind).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), len(kind), np.uint8)).save(Path("pictures", kind, "0.png"))
    assert lewm.import_recording("pictures", "imported", workers=1, progress=False).store.num_frames == 2
    with pytest.raises(ValueError, match=r"^table=none\.py: no such file"):
        import_module("lewm.research").load_table("none.py")


if __name__ == "__main__":
    GOLDEN.write_text(surface(), encoding="utf-8")
