"""The API reference: every public name has an example, and those that are soon done run."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lewm
from tiny import untrained_run

EXAMPLES: dict[str, str] = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "api_examples.py"))["EXAMPLES"]
PUBLIC = {name for name in lewm._HOMES if not name.startswith("__")}
# what trains, needs a recording or an environment of the reader's, or takes minutes
READ_ONLY = {
    "evaluate_env", "evaluate_run", "import_recording", "plan_once", "plan_run", "record", "Recorder", "resume_run",
    "train_run", "write_report",
}  # fmt: skip


def test_every_public_name_has_an_example_that_names_it() -> None:
    assert EXAMPLES.keys() == PUBLIC
    for name, code in EXAMPLES.items():
        compile(code, name, "exec")
        shown = {"LoadedRun": "load_run", "RunSpec": "load_spec", "WorldModel": "rollout", "Config": "config"}
        assert shown.get(name, f"lewm.{name}") in code or name == "Task", name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lewm.collect("two-room", "data/two-room", episodes=4, image_size=64, episode_length=30, workers=1, progress=False)
    untrained_run(tmp_path / "runs" / "two-room", lewm.preset("tiny"), cost=True)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", sorted(PUBLIC - READ_ONLY))
def test_example_runs(name: str) -> None:
    names: dict[str, Any] = {"lewm": lewm, "np": np}
    exec(compile(EXAMPLES[name], name, "exec"), names)
