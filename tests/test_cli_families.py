"""Every family on the command line: which settings it has, and what it does from training to a plan."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lewm.families.presets
import lewm.train.loop
from lewm.cli import main
from lewm.config import EvalConfig, PlanConfig
from lewm.families.presets import PRESETS
from lewm.train.checkpoint import load_config
from tiny import ARTICLE, IMAGE, rival, tiny

SMALL = dataclasses.replace(
    tiny(data__frame_skip=2, data__held_out=0.34, train__steps=6, train__checkpoint_every=2, train__cost_steps=2),
    plan=PlanConfig(horizon=2, candidates=4, elites=2, iterations=1),
    eval=EvalConfig(
        episodes=3, split_episodes=2, goal_offset=5, budget=6, horizons=(1, 2), clips=8, probe_frames=40
    ),
)  # fmt: skip
MODELS = {"tiny": SMALL.model, "literal": ARTICLE.model, **{name: rival(name).model for name in ("tdmpc2", "gcbc")}}


@pytest.fixture(autouse=True)
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make presets of each kind train in milliseconds."""
    for name, model in MODELS.items():
        small = dataclasses.replace(SMALL, preset=name, model=model)
        monkeypatch.setitem(lewm.families.presets.PRESETS, name, small)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("families") / "store")
    few = ("--episodes", "6", "--episode-length", "20", "--image-size", str(IMAGE), "--workers", "1")
    assert main(["collect", "two-room", "--out", path, *few]) == 0
    return path


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            "train --preset tiny --model.mask-scale 0.1 0.2",
            "--model.mask-scale: is a setting of article (--preset literal), and the family here is compact; leave it "
            "out, or start from a preset that has it",
        ),
        (
            "train --model.no-mask-tokens",
            "--model.no-mask-tokens: is a setting of article (--preset literal), and the family here is ",
        ),
        (
            "train --preset=literal --model.target-gradient",
            "--model.target-gradient: is a setting of compact (--preset tiny or base or large), and ",
        ),
        (
            "info --preset gcbc --model.residual --json",
            "--model.residual: is a setting of compact (--preset tiny or base or large) and article (--preset literal)",
        ),
        ("eval runs/a --model.residual", "--model.residual: is fixed once a run is trained; leave it out, or train"),
        ("plan runs/a --data.held-out 0.2", "--data.held-out: is fixed once a run is trained; leave it out, or train"),
        (
            "train --preset tdmpc2 --model.chunk 3",
            "is a setting of gcbc (--preset gcbc), and the family here is tdmpc2; leave it out",
        ),
        (
            "train --preset gcbc --model.chunc 3",
            "--model.chunc: is not an option of lewm train; did you mean --model.ch",
        ),
    ],
)
def test_a_setting_of_another_family_is_refused_with_its_name(
    argv: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--json" in argv:
        assert main(argv.split()) == 1
        line = json.loads(capsys.readouterr().out)["error"]
    else:
        with pytest.raises(SystemExit) as stopped:
            main(argv.split())
        assert stopped.value.code == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        line = err.removeprefix("error: ").rstrip()
    assert told in line
    assert len(line) <= 300


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "frozen"])  # without its encoder, it has no sizes
def test_info_of_every_preset(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--preset", name, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    model, counts = PRESETS[name].model, info["parameters"]
    assert (info["preset"], info["family"]) == (name, model.family)
    assert (info["tokens"], info["width"], info["clip_frames"]) == (
        model.num_tokens,
        model.token_width,
        model.clip_frames,
    )
    apart = {"total", "target_encoder", "steps_to_go"}
    assert counts["total"] == sum(count for part, count in counts.items() if part not in apart)
    assert counts.get("target_encoder", counts["encoder"]) == counts["encoder"]
    assert ("target_encoder" in counts) == (model.family in ("article", "compact"))
    assert ("steps_to_go" in counts) == model.plans
    assert main(["info", "--preset", name]) == 0
    assert f"preset {name}: parameters" in capsys.readouterr().out


def stopped_and_gone_on_with(name: str, store: str, run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Train a preset, stopped at the third step and gone on with; returns what was said on standard error."""
    step, calls = lewm.train.loop.train_step, []

    def stop_at_third(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lewm.train.loop, "train_step", stop_at_third)
        assert main(["train", "--preset", name, "--data", store, "--out", str(run)]) == 1
    assert f"stopped at step 3; go on with `lewm train --resume {run}`" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--json"]) == 0
    assert len(calls) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["step"] == 6
    assert load_config(run).model == MODELS[name]
    return err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["literal", "tdmpc2"])
def test_world_models_of_other_families_do_it_all(
    name: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    stopped_and_gone_on_with(name, store, run, capsys)
    assert (run / "cost.safetensors").is_file()
    assert main(["eval", str(run), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results["prediction"]["error_ratio"]) == 2
    with np.load(run / "eval.npz") as arrays:
        assert np.isfinite(arrays["cost_steps_to_go"]).all()
    assert main(["plan", str(run), "--json", "--episodes", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2


@pytest.mark.slow
def test_a_policy_is_trained_and_measured_and_makes_no_plans(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that the table breaks no line
    run = tmp_path / "run"
    assert "warning" not in stopped_and_gone_on_with("gcbc", store, run, capsys)  # no threshold is missed
    assert not (run / "cost.safetensors").exists()
    assert main(["eval", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "Policy's success, standard, 3 episodes" in shown
    assert "(moving straight)" in shown
    assert "Error ratio" not in shown
    results = json.loads((run / "eval.json").read_text(encoding="utf-8"))
    assert shown.splitlines()[-1] == results["verdict"]
    assert results["verdict"].startswith("3 episodes are too few to tell whether the policy learnt: it reaches ")
    assert [results[part] for part in ("spectrum", "prediction", "probe", "cost", "learnt")] == [None] * 5
    page = (run / "report.html").read_text(encoding="utf-8")
    reason = "this run is a policy, of which the closed loop alone is measured"
    assert f"Not measured: prediction, probe, spectrum, cost: {reason}." in page
    assert "No planned episodes: this run is a policy, which makes no plans." in page
    assert "Success in closed loop" in page
    for more in ([], ["--goal", "region:x=0.1..0.9"], ["--goal", "frame:0:3", "--start", "frame:0:1"]):
        assert main(["plan", str(run), *more]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[-1] == (
            f"error: run={run}: is a policy of the family gcbc, which makes no plans; measure it by `lewm eval {run}`"
        )
