"""The API reference: every public name has a page, and an example that runs."""

import dataclasses
import re
import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import lewm
import lewm.families.presets
from lerobot_fixture import write_lerobot
from lewm.config import EvalConfig, PlanConfig
from tiny import IMAGE, tiny

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES: dict[str, str] = runpy.run_path(str(DOCS / "api_examples.py"))["EXAMPLES"]
PUBLIC = sorted(name for name in lewm._HOMES if not name.startswith("__"))
GIVEN_BY = {"LoadedRun": "load_run", "RunSpec": "load_spec", "WorldModel": "load_pretrained", "Config": "preset"}
"""What gives an object that nobody makes by its class."""
SMALL = dataclasses.replace(
    tiny(data__frame_skip=3, data__held_out=0.34, train__steps=2, train__cost_steps=2),
    plan=PlanConfig(horizon=2, candidates=4, elites=2, iterations=1),
    eval=EvalConfig(
        episodes=2, split_episodes=0, goal_offset=5, budget=6, horizons=(1, 2), clips=4, probe_frames=40
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the pages."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        written = runpy.run_path(str(DOCS / "api_pages.py"))
    written["main"].__globals__["FOLDER"] = folder / "api"
    written["main"]()
    return folder / "api"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the examples assume, in small."""
    path = tmp_path_factory.mktemp("examples")
    write_lerobot(path / "recordings" / "so100")
    lewm.collect(
        "two-room",
        path / "data" / "two-room",
        episodes=6,
        image_size=IMAGE,
        episode_length=20,
        progress=False,
        workers=1,
    )
    lewm.train_run(SMALL, path / "data" / "two-room", path / "runs" / "two-room", progress=False)
    return path


def test_every_public_name_has_an_example_that_shows_it() -> None:
    assert sorted(EXAMPLES) == PUBLIC
    for name, code in EXAMPLES.items():
        assert f"lewm.{GIVEN_BY.get(name, name)}" in code or name == "Task", name


@pytest.mark.parametrize("name", PUBLIC)
def test_page_is_of_the_object(pages: Path, name: str) -> None:
    text = (pages / f"{name}.md").read_text(encoding="utf-8")
    place = re.match(r"::: ([\w.]+)\n", text)
    assert place is not None
    module, _, attribute = place[1].rpartition(".")
    assert getattr(import_module(module), attribute) is getattr(lewm, name)
    assert f"heading: lewm.{name}\n" in text
    assert EXAMPLES[name].strip() in text
    assert f"| [`{name}`]({name}.md) | " in (pages / "index.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_example_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(lewm.families.presets.PRESETS, "tiny", SMALL)
    names: dict[str, Any] = {"lewm": lewm}
    exec(compile(EXAMPLES[name], name, "exec"), names)
