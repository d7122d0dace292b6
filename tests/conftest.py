"""Settings of every test: they must be in the environment before torch or pygame is imported."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads must not spin on a small machine
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads only wait for each other
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # Push-T draws without a screen

MOST_SECONDS = 5.0
"""Processor time that a test may take without the marker `slow`: ten times what the marker is for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a CUDA device where there is none."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    import torch  # only here: most test files need no torch, and importing it takes seconds

    if not torch.cuda.is_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def processor_seconds() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def refuse_long(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test, or what it is given, that takes long and is not marked: `make quick` would no longer be quick.

    On a busy machine the time on the clock would tell little; processor time tells nearly the same.
    """
    before = processor_seconds()
    result = yield
    took = processor_seconds() - before
    if took > MOST_SECONDS and not item.get_closest_marker("slow") and not item.get_closest_marker("gpu"):
        pytest.fail(f"took {took:.1f} s of processor time; make it faster or mark it: @pytest.mark.slow", pytrace=False)
    return result


pytest_runtest_setup = pytest.hookimpl(wrapper=True)(refuse_long)
pytest_runtest_call = pytest.hookimpl(wrapper=True)(refuse_long)


@pytest.fixture(autouse=True)
def threads_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of whole programs must not decide about ONNX Runtime's threads in the process of all tests."""
    monkeypatch.setattr("lewm.deploy.sessions.share_threads", lambda threads: None)


@pytest.fixture
def free_space(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that leaves so many bytes free on every disk."""
    return lambda count: monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1e15, free=count))


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Return a function that lets files fail with an error number when they are to be made in a folder."""
    make = tempfile.TemporaryFile

    def fail_in(folder: Path, number: int) -> None:
        def fail(*arguments: Any, dir: Path, **settings: Any) -> Any:
            if Path(dir).resolve() == folder.resolve():
                raise OSError(number, os.strerror(number))
            return make(*arguments, dir=dir, **settings)

        monkeypatch.setattr(tempfile, "TemporaryFile", fail)

    return fail_in


@pytest.fixture(scope="session")
def lerobot_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Data sets of one camera, by version and kind of camera."""
    from lerobot_fixture import write_lerobot  # only here: few test files need it

    folder = tmp_path_factory.mktemp("lerobot")
    roots = {(v, kind): folder / v / kind for v in ("v2.1", "v3.0") for kind in ("h264", "av1", "image")}
    for (version, kind), root in roots.items():
        write_lerobot(root, version, cameras={"observation.images.top": kind})
    return roots


@pytest.fixture
def lerobot_v2(lerobot_sets: dict[tuple[str, str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(lerobot_sets["v2.1", "h264"], tmp_path / "v2"))


@pytest.fixture
def lerobot_v3(lerobot_sets: dict[tuple[str, str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(lerobot_sets["v3.0", "h264"], tmp_path / "v3"))


@pytest.fixture
def lerobot_images(lerobot_sets: dict[tuple[str, str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(lerobot_sets["v3.0", "image"], tmp_path / "images"))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C come through, also where the tests run in the background of a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
