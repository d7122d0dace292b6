"""Any value for any setting of any family: it is taken and survives JSON, or it is refused in one line."""

import dataclasses
import json
import re
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lewm.config import Config, setting_types
from lewm.families.presets import PRESETS, from_json, to_json, with_settings

SETTINGS = [(name, field) for name, config in PRESETS.items() for field in setting_types(config) if field != "model"]
HUGE = 10**400
"""No float holds it."""

NUMBERS = st.one_of(
    st.integers(-3, 20),
    st.integers(),
    st.sampled_from([2**63, -(2**63), HUGE, 10**5000]),
    st.floats(0, 1),
    st.floats(),
    st.booleans(),
    st.builds(np.float32, st.floats(0, 1)),
    st.builds(np.int64, st.integers(0, 9)),
)
ONE = st.one_of(st.none(), NUMBERS, st.text(max_size=400), st.binary(max_size=4))
ANYTHING = st.one_of(
    ONE,
    st.lists(NUMBERS, max_size=4),
    st.lists(NUMBERS, max_size=4).map(tuple),
    st.lists(ONE, max_size=40),
    st.dictionaries(st.text(max_size=4), ONE, max_size=2),
    st.builds(np.array, st.lists(st.text(max_size=2), max_size=3)),
    st.builds(lambda: PRESETS["tiny"].plan),
)
JSON_ONE = st.none() | st.booleans() | st.integers() | st.just(HUGE) | st.floats() | st.text(max_size=400)
JSON = JSON_ONE | st.lists(JSON_ONE, max_size=4) | st.dictionaries(st.text(max_size=4), JSON_ONE, max_size=2)


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Values of the type of a setting, so that more than types is tried."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    return st.from_type(hint) if get_args(hint) or hint is str else NUMBERS


def strict(text: str) -> Any:
    """Read JSON as others read it, who know neither NaN nor Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def one_line(error: ValueError, given: str) -> None:
    """Check that an error has its one form, after what was `given`."""
    text = str(error)
    assert re.fullmatch(rf"({given}): .+; .+", text), text
    assert len(text) <= 300, text


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=300, derandomize=True, deadline=None, database=None)
def test_any_value_is_taken_and_read_back_or_refused(data: st.DataObject) -> None:
    preset, name = data.draw(st.sampled_from(SETTINGS))
    config = PRESETS[preset]
    value = data.draw(ANYTHING | of_type(setting_types(config)[name]))
    try:
        changed = with_settings(config, {name: value})
    except ValueError as error:
        # Two settings that do not go together: the error may name the other one. A mapping holds settings of its own.
        one_line(error, r"[\w.]+=.*" if not isinstance(value, dict) else rf"{re.escape(name)}.*=.*")
        return
    text = to_json(changed)
    strict(text)
    assert from_json(text, "f") == changed
    assert with_settings(changed, {name: value}) == changed


@given(data=st.data())
@settings(max_examples=100, derandomize=True, deadline=None, database=None)
def test_any_value_in_a_file_is_read_or_refused(data: st.DataObject) -> None:
    preset, name = data.draw(st.sampled_from(SETTINGS))
    raw = json.loads(to_json(PRESETS[preset]))
    group, _, field = name.rpartition(".")
    (raw[group] if group else raw)[field] = data.draw(JSON)
    try:
        config = from_json(json.dumps(raw), "f")
    except ValueError as error:
        one_line(error, r"f: [\w.]+(=.*)?")
        return
    strict(to_json(config))
    assert from_json(to_json(config), "f") == config


@given(cut=st.integers(0, 5000), put=st.binary(max_size=8), length=st.integers(0, 40))
@settings(max_examples=100, derandomize=True, deadline=None, database=None)
def test_a_damaged_file_is_read_or_refused(cut: int, put: bytes, length: int) -> None:
    text = to_json(PRESETS["tiny"]).encode()
    damaged = (text[:cut] + put + text[cut + length :]).decode("utf-8", "replace")
    try:
        config = from_json(damaged, "f")
    except ValueError as error:
        one_line(error, r"f(: [\w.]+=.*)?")
        return
    assert from_json(to_json(config), "f") == config


@given(name=st.text(max_size=400) | st.integers() | st.none() | st.tuples(st.text(max_size=3)), value=ONE)
@settings(max_examples=100, derandomize=True, deadline=None, database=None)
def test_any_other_name_is_refused(name: Any, value: Any) -> None:
    try:
        with_settings(PRESETS["tiny"], {name: value})
    except ValueError as error:
        one_line(error, r".*=.*")
    else:
        pytest.fail(f"{name!r} is a setting")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"train.learning_rate": float("inf")}, "train.learning_rate=inf: must be finite; use a value such as "),
        ({"model.slowness": float("nan")}, "model.slowness=nan: must be finite; use a value such as "),
        ({"plan.max_change": float("inf")}, "plan.max_change=inf: must be finite; use a value such as "),
        ({"plan.reached_below": float("nan")}, "plan.reached_below=nan: must be finite; use a value such as "),
        ({"action.low": (0.0, float("nan"))}, "action.low=(0.0, nan): must be finite; leave it out"),
        ({"train.eps": HUGE}, f"train.eps=1{'0' * 27}...{'0' * 29}: must have at most 64 bits; use a value such as "),
        ({"model.width": 2**63}, "model.width=9223372036854775808: must have at most 64 bits; use a value such as "),
        ({"seed": 10**5000}, "seed=a very long number: must have at most 64 bits; use a value such as "),
        ({"eval.horizons": list(range(1, 100))[::-1]}, "eval.horizons=(99, 98, 97, "),
        (
            {"plan.planner": np.array(["cem", "mppi"])},
            "plan.planner=['cem' 'mppi']: must be one of cem, mppi, proposal; use a value such as cem",
        ),
        ({"plan.planner": "ce\nm"}, "plan.planner=ce m: must be one of cem, mppi, proposal; use a value such as "),
        ({"train.steps": "1" * 400}, f"train.steps={'1' * 28}...{'1' * 29}: must be int; use a value such as "),
        ({5: 1}, "5=1: is not a setting; see `lewm train --help`"),
        ({"x" * 400: 1}, f"{'x' * 28}...{'x' * 29}=1: is not a setting"),
    ],
)
def test_what_no_setting_holds_is_refused_in_one_line(settings: dict[Any, Any], told: str) -> None:
    with pytest.raises(ValueError, match=r"^.*$") as error:
        with_settings(PRESETS["tiny"], settings)
    assert str(error.value).startswith(told)
    one_line(error.value, r".*=.*")


@pytest.mark.parametrize("text", ["[" * 100_000, f'{{"schema_version": {"2" * 5000}}}'])
def test_a_file_that_python_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^f: not JSON \([^\n]*\); restore the file or train again$"):
        from_json(text, "f")


def test_every_setting_is_tried() -> None:
    """The list that the others draw from names all there is."""
    for preset, config in PRESETS.items():
        groups = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}
        for group, value in groups.items():
            fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
            names = {f"{group}.{field.name}" for field in fields} or {group}
            assert names <= {name for of, name in SETTINGS if of == preset}
