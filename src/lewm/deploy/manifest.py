"""What is in an export folder: `manifest.json`, which a runtime reads and believes only after checking every file.

This module imports neither torch nor ONNX.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lewm.config import PlanConfig
from lewm.config.typed import as_field, build, misfit
from lewm.files import shorten, write_text
from lewm.run_spec import SPEC, RunSpec, load_spec

MANIFEST = "manifest.json"
EXPORT_VERSION = 1
Target = Literal["onnx", "openvino", "executorch", "tensorrt"]
Precision = Literal["float32", "bfloat16", "float16", "int8"]
_BLOCK = 1 << 20
_REMEDY = "export the run again, or copy the whole folder again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Letters of the shapes."""

    batch: int
    """B, environments driven at once."""
    image_size: int
    """Height and width of a frame in pixels."""
    history: int
    """T, frames that the model sees."""
    tokens: int
    """N, tokens of a frame."""
    width: int
    """D, numbers of a token."""
    model_action: int
    """f*A, or f if discrete: numbers of a model action."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """What is searched for every model step; see `lewm.plan.ActionSpace`."""

    kind: Literal["continuous", "discrete"]
    size: int
    """a, entries searched for a step."""
    low: tuple[float, ...]
    """(a,) smallest values."""
    high: tuple[float, ...]
    """(a,) largest values."""
    env_low: tuple[float, ...]
    """(A,) smallest environment action; empty if discrete."""
    env_high: tuple[float, ...]
    """(A,) largest environment action."""
    num_actions: int
    """V, number of discrete actions."""
    frame_skip: int
    """f, environment steps of a model step."""
    relative: bool
    """Whether changes of the present command are searched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateGoals:
    """What goals given by the state are made of; all empty where the data has no states."""

    labels: tuple[str, ...] = ()
    """(S',) what is read from representations: a variable, or an angle's sine or cosine."""
    r2: tuple[float, ...] = ()
    """(S',) how well each is read on held-out frames, R^2; -1 where it has no value."""
    angles: tuple[str, ...] = ()
    """Variables that are angles."""
    full_turns: tuple[float, ...] = ()
    """A full turn of each of them, in its unit."""

    @property
    def turns(self) -> dict[str, float]:
        """A full turn of each variable that is an angle, by name."""
        return dict(zip(self.angles, self.full_turns, strict=False))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensors:
    """Shapes and types of the named tensors that go into a graph, or come out of it."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFile:
    """A graph: its file, and what goes in and out."""

    file: str
    inputs: Tensors
    outputs: Tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Smaller:
    """What `precision` made smaller; all else is computed in float32."""

    how: Literal["none", "bfloat16", "float16", "dynamic", "static"] = "none"
    """`bfloat16`: products are computed so, of what is stored in float32. `float16`: weights are stored so.
    `dynamic`, `static`: products of 8-bit numbers, whose scales are of each run, or of held-out frames."""
    graphs: tuple[str, ...] = ()
    """Graphs that it changed."""
    operators: int = 0
    """Weights or operators that it changed, of all graphs together."""
    seven_bits: bool = False
    """Whether 8-bit weights have 7 bits only, so that sums overflow on no processor."""
    frames: int = 0
    """Held-out frames that scales were taken from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All that a runtime knows of an export."""

    target: Target
    precision: Precision
    smaller: Smaller = Smaller()
    sizes: Sizes
    space: SearchSpace
    plan: PlanConfig
    """How it plans; `plan.iterations` is the full budget of a look."""
    correction: float
    """Weight of the newest prediction's error in what predictions are corrected by; 0 for none."""
    state_goals: StateGoals
    graphs: dict[str, GraphFile]
    surprise: dict[str, float]
    """Quantiles of the error of one prediction, as the root of the mean square over N*D, on held-out transitions."""
    measured: dict[str, Any]
    """What was measured when it was written: parity, success, times, machine."""
    versions: dict[str, str]
    """Versions of what wrote it."""
    files: dict[str, str]
    """SHA-256 of every other file of the folder that the runtime reads."""
    export_version: int = EXPORT_VERSION


def sha256(path: Path) -> str:
    """Return the digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically, with the digest of every file that is in the folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    names = [name for name in names if not name.startswith(".")]
    manifest = dataclasses.replace(manifest, files={name: sha256(folder / name) for name in names})
    write_text(folder / MANIFEST, json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")


def read_manifest(folder: str | Path) -> tuple[Manifest, RunSpec]:
    """Read and check an export folder: the manifest, the robot's description, and the digest of every file.

    Raises:
        ValueError: If something is missing, changed, or of another version.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ValueError(f"export={folder}: no such folder; give the --out folder of `lewm export`")
    if not path.is_file():
        raise ValueError(f"export={folder}: has no {MANIFEST}; give the --out folder of `lewm export`")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(shorten(f"{path}: is no JSON ({error}); {_REMEDY}")) from None
    if not isinstance(raw, dict) or raw.get("export_version") != EXPORT_VERSION:
        found = shorten(repr(raw.get("export_version") if isinstance(raw, dict) else raw), 40)
        raise ValueError(
            f"{path}: export_version={found}: must be {EXPORT_VERSION}; export the run again with this version of lewm"
        )
    manifest = _manifest(raw, str(path))
    for name, digest in manifest.files.items():
        if not re.fullmatch(r"[\w][\w.-]{0,99}", name):
            raise ValueError(f"{path}: files={shorten(repr(name), 60)}: must be a name in the folder; {_REMEDY}")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: is missing; {_REMEDY}")
        if sha256(folder / name) != digest:
            raise ValueError(f"{folder / name}: is not the file that was exported, its SHA-256 differs; {_REMEDY}")
    for needed in (SPEC, *(graph.file for graph in manifest.graphs.values())):
        if needed not in manifest.files:
            raise ValueError(f"{path}: files: has no digest of {shorten(needed, 60)}; {_REMEDY}")
    return manifest, load_spec(folder)


def _manifest(raw: dict[str, Any], source: str) -> Manifest:
    """Build the manifest of JSON values; every name and every type is checked."""
    raw = dict(raw)
    graphs = raw.pop("graphs", None)
    if not isinstance(graphs, dict) or not graphs:
        raise ValueError(f"{source}: graphs={shorten(repr(graphs), 40)}: must name the graphs; {_REMEDY}")
    parts = {
        "smaller": Smaller,
        "sizes": Sizes,
        "space": SearchSpace,
        "plan": PlanConfig,
        "state_goals": StateGoals,
    }
    values: dict[str, Any] = {name: build(cls, raw.pop(name, None), source, f"{name}.") for name, cls in parts.items()}
    values["graphs"] = {name: _graph(graph, source, f"graphs.{shorten(name, 40)}.") for name, graph in graphs.items()}
    hints = {"target": Target, "precision": Precision, "correction": float, "export_version": int}
    for name, hint in hints.items():
        value = as_field(raw.pop(name, None), hint)
        if wrong := misfit(value, hint):
            raise ValueError(f"{source}: {name}={shorten(repr(value), 40)}: {wrong}; {_REMEDY}")
        values[name] = value
    for name, kind in (("surprise", float), ("measured", object), ("versions", str), ("files", str)):
        found = raw.pop(name, None)
        if not isinstance(found, dict) or not all(isinstance(value, kind) for value in found.values()):
            raise ValueError(f"{source}: {name}={shorten(repr(found), 40)}: must be values by name; {_REMEDY}")
        values[name] = found
    for name in raw:
        raise ValueError(f"{source}: {shorten(name, 40)}: is not known; export the run again with this version of lewm")
    return Manifest(**values)


def _graph(raw: Any, source: str, prefix: str) -> GraphFile:
    if not isinstance(raw, dict) or raw.keys() != {"file", "inputs", "outputs"} or not isinstance(raw["file"], str):
        raise ValueError(f"{source}: {prefix}file: must have file, inputs and outputs; {_REMEDY}")
    return GraphFile(
        file=raw["file"], **{part: _tensors(raw[part], source, f"{prefix}{part}") for part in ("inputs", "outputs")}
    )


def _tensors(raw: Any, source: str, name: str) -> Tensors:
    fields = ("names", "shapes", "dtypes")
    if not isinstance(raw, Mapping) or raw.keys() != set(fields) or not all(isinstance(raw[f], list) for f in fields):
        raise ValueError(f"{source}: {name}: must have names, shapes and dtypes; {_REMEDY}")
    shapes_fit = all(isinstance(shape, list) and all(type(n) is int for n in shape) for shape in raw["shapes"])
    texts_fit = all(isinstance(text, str) for text in (*raw["names"], *raw["dtypes"]))
    if not (shapes_fit and texts_fit and len(raw["names"]) == len(raw["shapes"]) == len(raw["dtypes"])):
        raise ValueError(f"{source}: {name}: must be as many texts, shapes and texts; {_REMEDY}")
    return Tensors(
        names=tuple(raw["names"]),
        shapes=tuple(tuple(shape) for shape in raw["shapes"]),
        dtypes=tuple(raw["dtypes"]),
    )


TARGETS: tuple[str, ...] = get_args(Target)
PRECISIONS: tuple[str, ...] = get_args(Precision)
