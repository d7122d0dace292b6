"""Recordings as folders of pictures with a table of actions.

    run0/000.png, 001.png, ...          a folder a film: its pictures, or a folder of pictures a camera,
    run0/actions.csv                    and its table, CSV or Parquet, in it or beside it (run0.csv): one row a picture
    all.csv                             or one table for all, with a column that names the picture of each row

Rows and pictures are matched by a column of texts, `image`, `frame`, `picture`, `file` or the like, else in their
order, `2.png` before `10.png`; then a table may lack the last row, because no action leads out of a film. The columns
are those of tables beside videos. A time is not needed; where there is one, it gives the frame rate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data.fit import Frame
from lewm.data.importers.images import is_image
from lewm.data.importers.listing import glance, listed, natural_key, visible
from lewm.data.importers.pictures import read_image
from lewm.data.importers.source import ImportOptions, Recording, Source, SourceInfo
from lewm.data.importers.tables import (
    TABLES,
    TIMES,
    Columns,
    check_inside,
    choose_columns,
    group_rows,
    numbers,
    read_table,
)

_PICTURES = ("image", "frame", "picture", "file", "filename", "file_name", "image_path", "frame_path", "path")
_EPISODE = "episode"
_HEADER = 2**16  # bytes of a table that are looked at
_MOST_FOLDERS = 20  # that are looked at


@dataclass(frozen=True, slots=True)
class _Film:
    """One episode.

    Args:
        name: what to call it.
        pictures: its pictures by camera, in the order of its rows; a camera without a name is "".
        columns: its actions and states, as many as there are pictures, or one less.
        step: seconds between two rows, if the table says so.
    """

    name: str
    pictures: dict[str, list[Path]]
    columns: Columns
    step: float | None


class FrameFolderSource(Source):
    """Folders of pictures, each with a table of actions, or one such folder.

    Args:
        path: the folder.
        options: the wanted cameras, and the columns of the action and the state.

    Raises:
        ValueError: nothing can be imported.
    """

    format: ClassVar[str] = "frames"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Look for pictures and a table whose columns begin with action."""
        if not path.is_dir():
            return False
        folders = [path, *(Path(entry) for entry in glance(path) if entry.is_dir())][:_MOST_FOLDERS]
        tables = [table for folder in folders for table in _tables(folder)]
        return any(map(_tells_actions, tables[:_MOST_FOLDERS])) and any(_cameras(folder) for folder in folders)

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self._root = path
        self._films: list[_Film | str] = []
        good: _Film | None = None
        for film in _films(path, options):
            try:
                if isinstance(film, str):
                    raise ValueError(film)
                film = _with_cameras(film, options.cameras)
                names = film.columns.action_names, film.columns.state_names
                if good and names != (good.columns.action_names, good.columns.state_names):
                    raise ValueError(f"{film.name}: its table has other columns than those before; import it alone")
                good = good or film
                self._films.append(film)
            except ValueError as error:
                self._films.append(str(error))
        if good is None:
            said = next((film for film in self._films if isinstance(film, str)), None)
            raise ValueError(said or f"{path}: has no pictures with a table of actions beside them; see docs/data.md")
        films = [film for film in self._films if isinstance(film, _Film)]
        self._discrete = all(film.columns.discrete for film in films)
        steps = [film.step for film in films if film.step]
        largest = max(film.columns.actions.max() for film in films)
        self._info = SourceInfo(
            task=path.resolve().name,
            action_kind="discrete" if self._discrete else "continuous",
            action_size=int(largest) + 1 if self._discrete else len(good.columns.action_names),
            action_names=() if self._discrete else good.columns.action_names,
            state_names=good.columns.state_names,
            fps=1 / float(np.median(steps)) if len(steps) == len(films) else None,
            origin={"folders": len(self._films), "pictures": sum(len(film.columns.actions) for film in films)},
        )

    @property
    def info(self) -> SourceInfo:
        """What the tables say."""
        return self._info

    @property
    def num_episodes(self) -> int:
        """Films."""
        return len(self._films)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the films."""
        return tuple("" if isinstance(film, str) else film.name for film in self._films)

    def length(self, index: int) -> int:
        """Return the number of pictures of a film."""
        film = self._films[index]
        return 0 if isinstance(film, str) else len(next(iter(film.pictures.values())))

    def episode(self, index: int) -> Recording:
        """Open one film; a picture that cannot be read leaves it out."""
        film = self._films[index]
        if isinstance(film, str):
            raise ValueError(film)
        length = self.length(index)
        actions, states = film.columns.actions, film.columns.states
        if len(actions) < length:  # no action leads out of the film
            actions = np.append(actions, np.zeros((1, actions.shape[1])), axis=0)
            states = np.append(states, states[-1:], axis=0)
        return Recording(
            frames=_frames(film, self._root),
            actions=actions[:, 0].astype(np.int64) if self._discrete else actions.astype(np.float32),
            states=states.astype(np.float32) if film.columns.state_names else None,
            source=film.name,
        )


def _films(root: Path, options: ImportOptions) -> Iterator[_Film | str]:
    """Yield the films of a folder, or why one cannot be imported."""
    tables = _tables(root)
    folders = [folder for folder in visible(root) if folder.is_dir()]
    own = {folder: [*_tables(folder), *(table for table in tables if table.stem == folder.name)] for folder in folders}
    if not any(own.values()):
        if len(tables) != 1:
            what = f"{len(tables)} tables, {listed(table.name for table in tables)}" if tables else "no table"
            raise ValueError(f"{root}: has {what} for its pictures; give one table for all, or one a folder")
        check_inside(tables[0], root)
        table = read_table(tables[0], options, also=(*_PICTURES, _EPISODE))
        if _names_pictures(table) is None and (pictures := _cameras(root)):
            yield from _films_of_a_folder(root.resolve().name, pictures, table, tables[0].name, options)
        else:
            yield from _films_of_one_table(root, table, tables[0].name, options)
        return
    for folder in folders:
        pictures = _cameras(folder)
        if not pictures and not own[folder]:
            continue
        try:
            check_inside(folder, root)
            if len(own[folder]) != 1 or not pictures:
                what = f"{len(own[folder])} tables" if pictures else "a table and no pictures"
                raise ValueError(f"{folder.name}: has {what}; give one table and the pictures of its rows")
            check_inside(own[folder][0], root)
            table = read_table(own[folder][0], options, also=(*_PICTURES, _EPISODE))
            where = f"{folder.name}/{own[folder][0].name}"
            yield from _films_of_a_folder(folder.name, pictures, table, where, options)
        except ValueError as error:
            yield str(error)


def _films_of_one_table(root: Path, table: pa.Table, where: str, options: ImportOptions) -> Iterator[_Film | str]:
    """Yield the films that one table describes: its episodes, or the folders of its pictures."""
    key = _names_pictures(table)
    if key is None:
        raise ValueError(
            f"{where}: has the columns {listed(table.column_names)}; must have a column image that names the picture "
            "of each row, or lie in the folder of its pictures"
        )
    names = _texts(table, key, where)
    if _EPISODE in table.column_names:
        groups = group_rows(table, _EPISODE, where)
    else:
        folders = pa.array([name.replace("\\", "/").rpartition("/")[0] for name in names], pa.string())
        groups = group_rows(pa.table({"folder": folders}), "folder", where)
    for group, rows in sorted(groups.items(), key=lambda item: natural_key(item[0])):
        name = group or root.resolve().name
        try:
            part = table.take(rows)
            columns = choose_columns(part, f"{where}, {name}", options)
            pictures = [_picture(root, names[row], f"{where}, {name}") for row in rows]
            yield _Film(name, {"": pictures}, columns, _step(part, f"{where}, {name}"))
        except ValueError as error:
            yield str(error)


def _films_of_a_folder(
    name: str, pictures: dict[str, list[Path]], table: pa.Table, where: str, options: ImportOptions
) -> Iterator[_Film]:
    """Yield the film of a folder's own table, or the episodes that the table tells apart."""
    film = _film(name, pictures, table, where, options)
    groups = group_rows(table, _EPISODE, where) if _EPISODE in table.column_names else {}
    if len(groups) < 2:
        yield film
        return
    for group, rows in sorted(groups.items(), key=lambda item: natural_key(item[0])):
        part = table.take(rows)
        yield _Film(
            f"{name} episode {group}",
            {camera: [files[row] for row in rows] for camera, files in film.pictures.items()},
            choose_columns(part, where, options),
            _step(part, where),
        )


def _film(name: str, pictures: dict[str, list[Path]], table: pa.Table, where: str, options: ImportOptions) -> _Film:
    """Match the rows of a film's own table with its pictures."""
    columns = choose_columns(table, where, options)
    key = _names_pictures(table)
    if key is not None:
        wanted = [text.replace("\\", "/").rpartition("/")[2] for text in _texts(table, key, where)]
        pictures = {camera: _by_name(files, wanted, where) for camera, files in pictures.items()}
    for camera, files in pictures.items():
        if len(files) - table.num_rows not in (0, 1):
            raise ValueError(
                f"{where}: has {table.num_rows} rows for {len(files)} pictures{camera and f' of {camera}'}; give one "
                "row a picture, or a column image that names it"
            )
    if len({len(files) for files in pictures.values()}) > 1:
        counts = ", ".join(f"{camera} {len(files)}" for camera, files in pictures.items())
        raise ValueError(f"{where}: its cameras have other numbers of pictures ({counts}); make them as many")
    return _Film(name, pictures, columns, _step(table, where))


def _by_name(files: list[Path], wanted: Sequence[str], where: str) -> list[Path]:
    found = {file.stem: file for file in files} | {file.name: file for file in files}
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f"{where}: names {missing[0]!r}, which is none of its pictures; put it there or remove the row"
        )
    return [found[name] for name in wanted]


def _picture(root: Path, name: str, where: str) -> Path:
    """Return the picture that a row of a table for all names, by its path in the folder of the table."""
    file = root / name.replace("\\", "/")
    if not file.is_file() or not is_image(file.name):
        raise ValueError(f"{where}: names {name!r}, which is no picture in {root.name}; put it there or remove the row")
    check_inside(file, root)
    return file


def _with_cameras(film: _Film, wanted: tuple[str, ...]) -> _Film:
    """Leave the wanted cameras."""
    names = [name for name in film.pictures if name]
    if missing := [name for name in wanted if name not in names]:
        has = listed(names) if names else "pictures without a camera's name"
        raise ValueError(f"cameras={missing[0]}: {film.name} has {has}; name one of its folders, or none")
    if not wanted and len(film.pictures) > 1:
        raise ValueError(f"cameras: {film.name} has {listed(names)}; name those to import")
    pictures = {name: film.pictures[name] for name in wanted or film.pictures}
    return _Film(film.name, pictures, film.columns, film.step)


def _frames(film: _Film, root: Path) -> Iterator[Frame | tuple[Frame, ...]]:
    for files in zip(*film.pictures.values(), strict=True):
        for file in files:
            check_inside(file, root)
        views = tuple(read_image(file, f"{film.name}: {file.name}") for file in files)
        yield views[0] if len(views) == 1 else views


def _cameras(folder: Path) -> dict[str, list[Path]]:
    """Return the pictures of a folder, or else those of the folders in it, in the order of their names."""
    entries = visible(folder)
    direct = [entry for entry in entries if is_image(entry.name) and entry.is_file()]
    if direct:
        return {"": direct}
    found = {}
    for entry in entries:
        files = [file for file in visible(entry) if is_image(file.name) and file.is_file()] if entry.is_dir() else []
        if files:
            found[entry.name] = files
    return found


def _tables(folder: Path) -> list[Path]:
    return [entry for entry in visible(folder) if entry.suffix.lower() in TABLES and entry.is_file()]


def _tells_actions(table: Path) -> bool:
    """Tell by its first line or its schema whether a table has columns of actions."""
    try:
        if table.suffix.lower() == ".csv":
            with open(table, "rb") as file:
                names = file.read(_HEADER).split(b"\n")[0].decode("utf-8-sig", errors="replace").split(",")
        else:
            names = pq.read_schema(table).names
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return False
    return any(name.strip().strip('"').startswith("action") for name in names)


def _names_pictures(table: pa.Table) -> str | None:
    """Return the column of texts that names the picture of each row; whole numbers only count rows."""
    texts = [name for name in _PICTURES if name in table.column_names and pa.types.is_string(table[name].type)]
    return texts[0] if texts else None


def _texts(table: pa.Table, key: str, where: str) -> list[str]:
    """Return the cells of a column as texts."""
    texts = table[key].to_pylist()
    if None in texts:
        raise ValueError(f"{where}: its column {key} has empty cells; name the picture of each row")
    return texts


def _step(table: pa.Table, where: str) -> float | None:
    """Return the median seconds between rows, where the table has a time."""
    clocks = [name for name in table.column_names if name in TIMES]
    if len(clocks) != 1 or table.num_rows < 2:
        return None
    steps: npt.NDArray[np.float64] = np.diff(numbers(table, clocks, where)[:, 0]) * TIMES[clocks[0]]
    if (back := np.flatnonzero(steps < 0)).size:
        raise ValueError(f"{where}: {clocks[0]} goes back in row {back[0] + 2}; sort the rows, or split the recording")
    step = float(np.median(steps))
    return step if step > 0 else None
