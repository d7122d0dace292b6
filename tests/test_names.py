"""Names that were mistyped: what is near is proposed, and nothing else."""

from pathlib import Path

import pytest

import lewm
from lewm.cli import main
from lewm.envs import make_task
from lewm.families import PRESETS
from lewm.names import did_you_mean
from lewm.plan import parse_goal

SETTINGS = (
    "train.steps",
    "train.learning-rate",
    "train.final-learning-rate",
    "model.image-size",
    "data",
    "out",
    "seed",
)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train.stpes", "train.steps"),
        ("train.step", "train.steps"),
        ("trian.steps", "train.steps"),
        ("steps", "train.steps"),
        ("model.steps", "train.steps"),
        ("learning-rate", "train.learning-rate"),
        ("learning_rate", "train.learning-rate"),
        ("Learning Rate", "train.learning-rate"),
        ("train.learning_rate", "train.learning-rate"),
        ("train-learning-rate", "train.learning-rate"),
        ("train-learing-rate", "train.learning-rate"),
        ("final-learning-rat", "train.final-learning-rate"),
        ("dta", "data"),
        ("data-dir", "data"),
        ("otu", "out"),
        ("SEED", "seed"),
    ],
)
def test_what_is_near_is_proposed(typed: str, meant: str) -> None:
    assert did_you_mean(typed, SETTINGS, "see the list") == f"did you mean {meant}?"
    assert did_you_mean(f"--{typed}", [f"--{name}" for name in SETTINGS], "") == f"did you mean --{meant}?"


@pytest.mark.parametrize(
    "typed", ["foo", "lr", "zzz", "", "-", "train.foo", "train.warmth", "model.depth", "x", "to", "rate"]
)
def test_what_is_not_near_is_not(typed: str) -> None:
    assert did_you_mean(typed, SETTINGS, "see the list") == "see the list"


def test_swapped_letters_of_a_short_name_are_near() -> None:
    assert did_you_mean("cme", ("cem", "mppi"), "") == "did you mean cem?"
    assert did_you_mean("z", ("x", "y"), "give x or y") == "give x or y"
    assert did_you_mean("stat", ("state", "region"), "", after=":x=1") == "did you mean state:x=1?"


def test_unknown_names_of_python_point_at_the_list() -> None:
    for call, told in (
        (lambda: lewm.preset("zzz"), f"preset=zzz: must be one of {', '.join(PRESETS)}; give one of them"),
        (lambda: lewm.preset("tiny", {"train.foo": 1}), "train.foo=1: is not a setting; see `lewm train --help`"),
        (
            lambda: lewm.preset("tiny", {"learning_rate": 1}),
            "learning_rate=1: is not a setting; did you mean train.lea",
        ),
        (lambda: make_task("zzz"), "task=zzz: must be one of two-room, two-room-discrete, push-t, reacher, arm; give "),
        (lambda: make_task("two_room"), "did you mean two-room?"),
        (lambda: lewm.load_pretrained("zzz"), "two-room; give one of them"),
        (
            lambda: parse_goal("state:elbow=1", ("x", "y")),
            "'elbow' is no state variable of the data; give some of x, y",
        ),
        (lambda: parse_goal("place:0.3", ("x",)), "is no state, region or frame; give state:x=0.3"),
    ):
        with pytest.raises(ValueError, match=r"[;:]") as raised:
            call()
        assert told in str(raised.value)
        assert len(str(raised.value)) <= 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ("train --foo 3", "--foo: is not an option of lewm train; see `lewm train --help`"),
        ("train --lr 3", "--lr: is not an option of lewm train; see `lewm train --help`"),
        (
            "train --learning-rate=3",
            "--learning-rate: is not an option of lewm train; did you mean --train.learning-rate?",
        ),
        ("train --train.stpes 3", "--train.stpes: is not an option of lewm train; did you mean --train.steps?"),
        ("collect two-room --outt x", "--outt: is not an option of lewm collect; did you mean --out?"),
        ("collect two-room", "lewm collect: needs --episodes, --out; see `lewm collect --help`"),
        ("check", "lewm check: needs DIR; see `lewm check --help`"),
        ("train extra", "extra: stands where lewm train expects nothing; see `lewm train --help`"),
        ("train --train.steps many", "--train.steps: 'many' is not a whole number; see `lewm train --help`"),
        ("train --train.learning-rate x", "--train.learning-rate: 'x' is not a number; see `lewm train --help`"),
        ("train --train.steps", "--train.steps: needs a value; see `lewm train --help`"),
        ("plan r --planner cme", "--planner=cme: must be one of cem, mppi, proposal; did you mean cem?"),
        ("plan r --planner zzz", "--planner=zzz: must be one of cem, mppi, proposal; give one of them"),
        ("train --device gpu", "--device=gpu: must be one of auto, cpu, cuda, mps; give one of them"),
        ("import a --out b --crop-box 1 2", "--crop-box: the values given do not fit it; see `lewm import --help`"),
    ],
)
@pytest.mark.parametrize("columns", ["40", "200"])
def test_wrong_usage_is_one_line(
    argv: str, told: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as stopped:
        main(argv.split())
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", f"error: {told}\n")


def test_names_with_underscores_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, run = str(tmp_path / "store"), str(tmp_path / "run")
    assert main(["train", "--train.learning_rate", "0.1", "--data", store, "--out", run]) == 1
    assert "store" in capsys.readouterr().err  # read on, to where there is no store
