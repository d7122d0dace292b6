"""The rooms of the package: who may import whom, and what stays free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "lewm"
ROOMS = (
    "names",
    *(
        "version",
        "files",
        "config",
        "run_spec",
        "progress",
        "processes",
        "data",
        "envs",
        "frames_in",
        "device",
        "distributed",
        "model",
        "objective",
        "families",
        "plan",
        "train",
        "pretrained",
        "evaluate",
        "report",
    ),
    *("research", "deploy", "serve", "cli"),
)
# The public surface may reach into every room (lazily); no room may import the surface.
SURFACE = "__init__"
ORDER = {room: rank for rank, room in enumerate((*ROOMS, SURFACE, "__main__"))}
TORCH_FREE = ("version", "names", "config", "files", "run_spec", "progress", "processes", "data", "envs", "frames_in")
# Where a device may be named: what turns the setting into a device, or into a provider of ONNX Runtime.
MAY_NAME_CUDA = {"device.py", "deploy/sessions.py"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    """Return the room that a source file stands in."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> list[str]:
    """Return the full name of every module, or name in a module, that a source imports at any depth."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # A relative import hides its room; keep its dots, so that the check below refuses it.
            module = "." * node.level + (node.module or "")
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def back_edges(room: str, source: str) -> list[str]:
    """Return the imports of a source in `room` that lead to a lower room, to no room, or are relative."""
    bad = []
    for name in imports(source):
        head, *rest = name.split(".")
        if head == "lewm":
            target = rest[0] if rest and rest[0] in ROOMS else SURFACE
            if ORDER[target] > ORDER[room]:
                bad.append(name)
        elif not head:
            bad.append(name)
    return bad


def module_of(file: Path) -> str:
    """Return the full name of the module that a source file is."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph() -> dict[str, set[str]]:
    """Return which modules each module imports, at any depth; a package's `__init__` only collects names."""
    modules = {module_of(file): file for file in FILES if file.name != "__init__.py"}
    graph = {}
    for module, file in modules.items():
        wanted = imports(file.read_text(encoding="utf-8"))
        # `lewm.a.b.name` is the module `lewm.a.b`, or a name that its package collects
        graph[module] = {m for name in wanted for m in (name, name.rpartition(".")[0]) if m in modules} - {module}
    return graph


def test_no_circle_of_imports() -> None:
    graph, order = import_graph(), []
    while free := [module for module, wanted in graph.items() if not wanted - set(order)]:
        order += free
        graph = {module: wanted for module, wanted in graph.items() if module not in order}
    assert not graph, "these import each other"


def test_a_file_name_is_found_once() -> None:
    names = [file.name for file in FILES if file.name != "__init__.py"]
    repeated = {name for name in names if names.count(name) > 1}
    # every family has settings and a model
    outside = {file.name for file in FILES if room_of(file) != "families"}
    assert repeated <= {"settings.py", "model.py"} - outside


def test_the_store_knows_neither_importers_nor_checks() -> None:
    for module, wanted in import_graph().items():
        if module.startswith("lewm.data.") and module.count(".") == 2 and module != "lewm.data.importing":
            assert not [name for name in wanted if name.startswith(("lewm.data.check", "lewm.data.importers"))], module
        if module.startswith("lewm.data.check."):
            assert not [name for name in wanted if name.startswith("lewm.data.importers")], module


def names_cuda(source: str) -> bool:
    """Say whether a source chooses a device by a string such as 'cuda' or 'cuda:0', or by calling `.cuda()`.

    A docstring, the choices of a `Literal` and a comparison choose nothing.
    """
    tree = ast.parse(source)
    harmless: set[int] = set()
    for node in ast.walk(tree):
        is_literal = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal"
        if is_literal or isinstance(node, ast.Compare):
            harmless |= {id(part) for part in ast.walk(node)}
        elif isinstance(node, ast.Expr):
            harmless.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            return True
        text = node.value if isinstance(node, ast.Constant) and id(node) not in harmless else None
        if isinstance(text, str) and (text == "cuda" or text.startswith("cuda:")):
            return True
    return False


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_room_imports_only_rooms_above(file: Path) -> None:
    room = room_of(file)
    assert room in ORDER, f"{room} is no room of {ROOMS}"
    bad = back_edges(room, file.read_text(encoding="utf-8"))
    assert not bad, f"lewm.{room} may import only rooms above it, and imports {', '.join(bad)}"


def test_back_edges_are_found() -> None:
    assert back_edges("plan", "from lewm.evaluate.probe import fit") == ["lewm.evaluate.probe.fit"]
    assert back_edges("data", "def f():\n    import lewm.cli") == ["lewm.cli"]
    assert back_edges("data", "from lewm import Config") == ["lewm.Config"]
    assert back_edges("data", "from . import store") == ["..store"]
    assert back_edges("plan", "import numpy\nfrom lewm import config\nfrom lewm.model import WorldModel") == []


def test_device_names_are_found() -> None:
    assert names_cuda("x = torch.zeros(3, device='cuda:0')")
    assert names_cuda("model.cuda()")
    assert names_cuda("def train(device: str = 'cuda'): ...")
    assert not names_cuda("'''cuda'''\nok = torch.cuda.is_available()")
    assert not names_cuda("device: Literal['cpu', 'cuda'] = 'cpu'")
    assert not names_cuda("name = a if device.type == 'cuda' else b")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_device_is_hard_coded(file: Path) -> None:
    if str(file.relative_to(PACKAGE)) not in MAY_NAME_CUDA:
        assert not names_cuda(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("room", TORCH_FREE)
def test_room_names_no_torch(room: str) -> None:
    files = [file for file in FILES if room_of(file) == room]
    assert files
    for file in files:
        names = imports(file.read_text(encoding="utf-8"))
        assert not [name for name in names if name.split(".")[0] == "torch"], file


@pytest.mark.parametrize("modules", ["lewm, lewm.config", "lewm.data", "lewm.envs"])
def test_import_leaves_torch_out(modules: str) -> None:
    code = f"import sys\nimport {modules}\nsys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr or "torch was imported"


ON_A_ROBOT = (
    *("runtime", "manifest", "sessions", "processor", "searching", "memory", "limits", "goals", "watch", "trial"),
    "consistent",
)


def test_a_server_names_no_torch() -> None:
    for file in (PACKAGE / "serve").glob("*.py"):
        names = imports(file.read_text(encoding="utf-8"))
        deploys = {name.split(".")[2] for name in names if name.startswith("lewm.deploy.")}
        assert deploys <= set(ON_A_ROBOT), file
        assert not [name for name in names if name.split(".")[0] in ("torch", "onnx")], file


@pytest.mark.parametrize("name", ON_A_ROBOT)
def test_what_runs_on_a_robot_names_no_torch(name: str) -> None:
    source = (PACKAGE / "deploy" / f"{name}.py").read_text(encoding="utf-8")
    rooms = {module.split(".")[1] for module in imports(source) if module.startswith("lewm.")} - {"deploy"}
    assert not [module for module in imports(source) if module.split(".")[0] in ("torch", "onnx")]
    assert rooms <= set(TORCH_FREE)
