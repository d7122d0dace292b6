"""Tables: which columns are the action and the state, by default and by name."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from lewm.data.importers.tables import choose_columns, read_table
from lewm.data.importing import ImportOptions

COLUMNS = {
    "t": [0.0, 1.0], "action.left.x": [1.0, 2.0], "action.left.y": [3.0, 4.0], "action_grip": [5, 6],
    "observation.state.q": [7.0, 8.0], "state_x": [9.0, 10.0], "left": [0.5, 0.5], "step": [2, 0],
}  # fmt: skip


def write(path: Path, columns: dict[str, list[Any]] = COLUMNS) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize(
    ("action", "state", "actions", "states"),
    [
        ((), (), ("action.left.x", "action.left.y", "action_grip"), ("observation.state.q", "state_x")),
        (("left", "action_grip"), (), ("left", "action_grip"), ("observation.state.q", "state_x")),
        (("action.left",), ("state",), ("action.left.x", "action.left.y"), ("state_x",)),
        (("action_grip", "action"), ("t",), ("action_grip", "action.left.x", "action.left.y"), ("t",)),
    ],
)
def test_columns(
    tmp_path: Path, name: str, action: tuple[str, ...], state: tuple[str, ...], actions: tuple[str, ...],
    states: tuple[str, ...],
) -> None:  # fmt: skip
    options = ImportOptions(action=action, state=state)
    found = choose_columns(read_table(write(tmp_path / name), options), name, options)
    assert (found.action_names, found.state_names, found.discrete) == (actions, states, False)
    assert found.actions.T.tolist() == [COLUMNS[column] for column in actions]
    assert found.states.T.tolist() == [COLUMNS[column] for column in states]


def test_one_named_column_of_whole_numbers_is_discrete(tmp_path: Path) -> None:
    options = ImportOptions(action=("step",))
    assert choose_columns(read_table(write(tmp_path / "a.csv"), options), "a.csv", options).discrete


@pytest.mark.parametrize("kind", ["action", "state"])
def test_a_name_that_is_no_column(tmp_path: Path, kind: str) -> None:
    options = ImportOptions(**{kind: ("action_grip", "joint")})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=rf"^{kind}=joint: a.csv has the columns t, action.left.x, .*; name some of"):
        choose_columns(read_table(write(tmp_path / "a.csv"), options), "a.csv", options)


def test_no_action(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", {"t": [0.0], "left": [1.0]}), ImportOptions())
    with pytest.raises(ValueError, match=r"^a.csv: has the columns t, left; must have some that begin with action, or"):
        choose_columns(table, "a.csv", ImportOptions())
