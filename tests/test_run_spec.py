"""What a run says of its robot: written and read as it was, and damaged in every way refused in one line."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lewm.files import LONGEST_MESSAGE
from lewm.run_spec import SPEC, CameraSpec, RunSpec, check_spec, load_spec, save_spec
from tiny import plain_spec, tiny, tiny_article

CONFIG = tiny(data__frame_skip=2, action__size=4)
CAMERAS = (
    CameraSpec(name="top", fit="pad", crop_box=(8, 0, 100, 90), left=0, top=0, width=32, height=16),
    CameraSpec(name="wrist", fit="crop", crop_box=None, left=0, top=16, width=32, height=16),
)
ARM = plain_spec(
    CONFIG, task="so-101", action_names=("a+0", "g+0", "a+1", "g+1"), control_mode="position", low=(-1.5, 0, -1.5, 0),
    high=(1.5, 0, 1.5, 0), max_change=(0.1, 0.0, 0.1, 0.0), fps=30, steps_in_row=2, state_names=("joint", "grip"),
    cameras=CAMERAS, origin={"format": "lerobot", "name": "pick", "robot_type": "so101"},
)  # fmt: skip


def told(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        call()
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= LONGEST_MESSAGE
    return text


def damaged(run: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Return what is told of a description in which something was changed."""
    save_spec(run, ARM)
    values = json.loads((run / SPEC).read_text(encoding="utf-8"))
    change(values)
    (run / SPEC).write_text(json.dumps(values), encoding="utf-8")
    text = told(lambda: load_spec(run))
    assert text.startswith(f"{run / SPEC}: ")
    assert text.endswith("; restore the file, or remove it and give `lewm train --resume` the run")
    return text.removeprefix(f"{run / SPEC}: ").rpartition("; ")[0]


@pytest.mark.parametrize(
    "spec",
    [
        ARM,
        plain_spec(tiny()),
        plain_spec(tiny(action__kind="discrete", action__size=5), fps=12.5),
        plain_spec(tiny_article(action__kind="none", action__size=0)),
    ],
)
def test_round_trip(tmp_path: Path, spec: RunSpec) -> None:
    save_spec(tmp_path, spec)
    assert load_spec(tmp_path) == spec
    assert next(iter(json.loads((tmp_path / SPEC).read_text(encoding="utf-8")))) == "spec_version"
    assert [file.name for file in tmp_path.iterdir()] == [SPEC]


def test_rates() -> None:
    assert (ARM.fps, ARM.steps_in_model_step, ARM.model_fps) == (30, 4, 7.5)
    assert plain_spec(CONFIG).model_fps is None


def test_in_words() -> None:
    assert ARM.in_words() == {
        "task": "so-101",
        "actions": "4 numbers, position: a+0 -1.5 to 1.5, g+0 0 to 0, a+1 -1.5 to 1.5, g+1 0 to 0",
        "rate": "30 environment steps a second, 7.5 model steps",
        "cameras": "top (pad), wrist (crop)",
        "states": "joint, grip",
        "data": "lerobot pick so101",
    }
    assert plain_spec(tiny(action__kind="discrete", action__size=5)).in_words() == {
        "task": "dot", "actions": "one of 5", "rate": "not known", "cameras": "one (square as it is)",
    }  # fmt: skip


def test_a_run_of_an_earlier_version_is_told_what_writes_it(tmp_path: Path) -> None:
    assert told(lambda: load_spec(tmp_path)) == (
        f"run={tmp_path}: has no spec.json (made by an older version); `lewm train --resume {tmp_path}` writes it, "
        "with --data STORE if the store was moved"
    )
    gone = tmp_path / "gone"
    assert told(lambda: load_spec(gone)) == f"run={gone}: no such folder; give the --out folder of `lewm train`"
    deep = tmp_path.joinpath(*["long" * 20] * 5)
    deep.mkdir(parents=True)
    assert "--data STORE" in told(lambda: load_spec(deep))


@pytest.mark.parametrize("content", [b"", b"{]", b"\xff\xfe\x00", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SPEC).write_bytes(content)
    assert f"{SPEC}: is not JSON (" in told(lambda: load_spec(tmp_path))  # a long path is shortened


@pytest.mark.parametrize("content", ["[]", "null", "3", '"spec"'])
def test_what_is_no_object(tmp_path: Path, content: str) -> None:
    (tmp_path / SPEC).write_text(content, encoding="utf-8")
    assert told(lambda: load_spec(tmp_path)).startswith(f"{tmp_path / SPEC}: must be a JSON object; restore")


@pytest.mark.parametrize("version", [0, 2, None, "1", True, [1]])
def test_another_version(tmp_path: Path, version: Any) -> None:
    text = damaged(tmp_path, lambda values: values.update(spec_version=version, else_unknown=1))
    assert text == f"spec_version={version!r}: this version reads 1"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(RunSpec) if field.init])
def test_every_field_must_be_there_and_of_its_type(tmp_path: Path, name: str) -> None:
    assert damaged(tmp_path, lambda values: values.pop(name)) == f"{name}: is missing"
    for value in ({"a": {}}, True, [[True]], -(10**30)):
        text = damaged(tmp_path, lambda values, value=value: values.update({name: value}))
        assert text.startswith((f"{name}=", "cameras[0]="))
        assert ": must be " in text


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(CameraSpec)])
def test_every_field_of_a_camera_must_be_there_and_of_its_type(tmp_path: Path, name: str) -> None:
    assert damaged(tmp_path, lambda values: values["cameras"][1].pop(name)) == f"cameras[1].{name}: is missing"
    text = damaged(tmp_path, lambda values: values["cameras"][1].update({name: {}}))
    assert text.startswith(f"cameras[1].{name}={{}}: must be ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(lows=[1]), "lows: is no field of it (did you mean low?)"),
        (lambda values: values.update(unheard="of"), "unheard: is no field of it (it is of no use here)"),
        (lambda values: values["cameras"][0].update(fits="pad"), "cameras[0].fits: is no field of it "),
        (lambda values: values.update(action_kind="smooth"), "action_kind='smooth': must be one of continuous, "),
        (lambda values: values.update(action_size=0), "action_size=0: must be at least 1 of continuous actions"),
        (lambda values: values.update(action_size=3), "action_names: has 4 entries, must have 3 as the continuous"),
        (lambda values: values.update(low=[0.0]), "low: has 1 entries, must have 4 as the continuous action of size 4"),
        (lambda values: values.update(low=[]), "low: has 0 entries, must have 4"),
        (lambda values: values.update(low=[0, 1, 0, 0]), "low=1.0: must be finite and not above high=0.0 (entry 1)"),
        (lambda values: values.update(high=[float("nan")] * 4), "low=-1.5: must be finite and not above high=nan"),
        (lambda values: values.update(high=[float("inf")] * 4), "low=-1.5: must be finite and not above high=inf"),
        (lambda values: values.update(max_change=[-1] * 4), "max_change=-1.0: must be finite and not negative"),
        (lambda values: values.update(fps=0), "fps=0: must be environment steps a second"),
        (lambda values: values.update(fps=float("nan")), "fps=nan: must be environment steps a second"),
        (lambda values: values.update(steps_in_row=3), "steps_in_row=3: must divide action_size=4"),
        (lambda values: values.update(frame_skip=0), "frame_skip=0: must be at least 1"),
        (lambda values: values.update(held_out=1.0), "held_out=1.0: must lie between 0 and 1"),
        (lambda values: values.update(cameras=[]), "cameras=(): must be one camera or more"),
        (lambda values: values.update(cameras={}), "cameras={}: must be a list of cameras"),
        (lambda values: values.update(cameras=["top"]), "cameras[0]='top': must be an object"),
        (lambda values: values["cameras"][0].update(width=33), "cameras[0]: its tile must lie in the frame of 32x32"),
        (lambda values: values["cameras"][0].update(fit="zoom"), "cameras[0].fit='zoom': must be one of crop, pad, "),
        (lambda values: values["cameras"][0].update(crop_box=[1, 2, 3]), "cameras[0].crop_box=(1, 2, 3): must be a"),
        (lambda values: values["cameras"][0].update(crop_box=[0, 0, 0, 9]), "cameras[0].crop_box=(0, 0, 0, 9): must "),
        (lambda values: values.update(action_kind="discrete"), "action_names: has 4 entries, must have 0"),
    ],
)  # fmt: skip
def test_damage(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    assert damaged(tmp_path, change).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action__size": 2}, "action_size=4: config.json has 2"),
        ({"data__frame_skip": 3}, "frame_skip=2: config.json has 3"),
        ({"data__held_out": 0.5}, "held_out=0.2: config.json has 0.5"),
        ({"data__split_seed": 7}, "split_seed=0: config.json has 7"),
        ({"model__image_size": 64}, "image_size=32: config.json has 64"),
        ({"action__control_mode": "velocity"}, "control_mode=position: config.json has velocity"),
    ],
)
def test_settings_of_another_run(settings: dict[str, Any], message: str) -> None:
    check_spec(ARM, CONFIG, "here")
    other = tiny(**{"data__frame_skip": 2, "action__size": 4} | settings)
    assert told(lambda: check_spec(ARM, other, "here")) == f"here: {message}; restore the file of this run"


def test_a_fitter_of_the_cameras_is_that_of_the_import(tmp_path: Path) -> None:
    import numpy as np  # only here: the description itself needs no NumPy

    from lewm.data.cameras import CameraFitter
    from lewm.data.fit import FrameFit, FrameFitter

    rng = np.random.default_rng(0)
    top, wrist = rng.integers(0, 256, (90, 120, 3), np.uint8), rng.integers(0, 256, (48, 64, 3), np.uint8)
    frame = CameraFitter.of(ARM)(top, wrist)
    fitter = FrameFitter(FrameFit(image_size=32, fit="pad"), (16, 32))
    np.testing.assert_array_equal(frame[:16], fitter(np.ascontiguousarray(top[:, 8:108])))
    np.testing.assert_array_equal(frame[16:], FrameFitter(FrameFit(image_size=32), (16, 32))(wrist))
    assert told(lambda: CameraFitter.of(plain_spec(tiny()))).startswith("fit=None: the data of dot says no fit; ")
