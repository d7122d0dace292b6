"""The guide from a recording to a plan, docs/data.md, step by step on a small recording."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import lewm
from lerobot_fixture import write_lerobot
from lewm import cli
from test_readme import ROOT, blocks

LENGTHS = (90,) * 22
SMALL = {
    "train": "--train.steps 3 --train.cost-steps 2 --train.batch-size 4 --train.checkpoint-every 3 --eval.clips 8"
    " --eval.probe-frames 60 --plan.candidates 8 --plan.elites 2 --plan.iterations 1",
}
"""What is added to a command of the guide, so that it takes seconds."""


def moving_disc(number: int) -> np.ndarray:
    """A frame (48, 64, 3) with a disc that goes round."""
    y, x = np.mgrid[:48, :64]
    angle = number / 15
    disc = np.hypot(x - 32 - 18 * np.cos(angle), y - 24 - 14 * np.sin(angle)) < 6
    return np.where(disc[..., None], [200, 60, 40], [230, 230, 220]).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guide")
    write_lerobot(
        folder / "recordings" / "so100",
        cameras={"observation.images.top": "h264"},
        lengths=LENGTHS,
        action_size=6,
        shape=(48, 64),
        frames=(moving_disc(number) for number in range(sum(LENGTHS))),
    )
    return folder


@pytest.mark.slow
def test_every_step_of_the_guide(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    guide = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## The store")[0]
    commands = [line for block in blocks(ROOT / "docs" / "data.md", "bash") for line in block.splitlines()]
    *commands, of_demonstrations = commands
    assert of_demonstrations.split()[1:5] == ["collect", "push-t", "--behaviour", "demos"]  # which nobody has here
    assert [command.split()[1] for command in commands] == ["import", "check", "train", "eval", "plan"]
    for command in commands:
        assert command in guide
        words = shlex.split(command)[1:]
        assert cli.main([*words, *SMALL.get(words[0], "").split()]) == 0, capsys.readouterr()
    store = lewm.Store(folder / "data" / "so100")
    assert store.episodes.length.tolist() == list(LENGTHS)
    assert store.meta.action_size == 6
    assert (store.path / "check.html").is_file()
    assert (folder / "runs" / "so100" / "report.html").is_file()
    (block,) = [block for block in blocks(ROOT / "docs" / "data.md", "python") if "so100" in block]
    capsys.readouterr()
    exec(compile(block, "docs/data.md", "exec"), {})
    printed = capsys.readouterr().out.partition("]]")[0]
    rows = np.array(re.sub(r"[\[\]]", " ", printed).split(), dtype=np.float64).reshape(-1, 6)
    assert len(rows) == 2 * 6  # two model steps of six recorded ones are carried out before the next plan
    assert (store.actions.min(axis=0) - 1e-4 <= rows).all()
    assert (rows <= store.actions.max(axis=0) + 1e-4).all()
    for goal in ("state:0.3,0.5", "state:state_0=0.3", "region:state_0=0.2..0.4,state_1=0.5.."):
        assert cli.main(["plan", "runs/so100", "--goal", goal]) == 0, capsys.readouterr()
        assert "Held-out R² of state_0" in capsys.readouterr().out
