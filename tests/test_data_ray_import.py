"""Import on a Ray cluster of two machines' worth of processes: the store is that of one process, byte for byte."""

import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from lerobot_fixture import write_lerobot
from lewm.data import Store
from lewm.data.importing import ImportOptions, import_recording

ray = pytest.importorskip("ray", reason="ray is not installed; it is in the extra `ray`")
pytest.importorskip("ray.data", reason="ray[data] is not installed; it is in the extra `ray`")

from ray.cluster_utils import Cluster  # noqa: E402  # pyright: ignore[reportMissingImports]

from lewm.data.importers import ray_import  # noqa: E402
from lewm.data.importers.ray_import import import_with_ray  # noqa: E402

# Ray's settings warn of each other.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

OPTIONS = ImportOptions(image_size=16)
LENGTHS = (5, 3, 8, 4)


@pytest.fixture(autouse=True, scope="module")
def _signals_as_they_were() -> Iterator[None]:
    """Undo the handler of SIGTERM that Ray sets in this process, which other tests look at."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes with one processor each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster()
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
        assert cluster.address
        try:
            yield cluster.address
        finally:
            cluster.shutdown()


def write_hdf5(path: Path) -> Path:
    """Write episodes of which the second is bad."""
    frames = np.arange(sum(LENGTHS))
    actions = np.stack([frames, -frames], axis=1).astype(np.float32)
    actions[LENGTHS[0]] = np.nan
    with h5py.File(path, "w") as file:
        file["pixels"] = np.broadcast_to(frames[:, None, None, None], (len(frames), 16, 16, 3)).astype(np.uint8)
        file["action"] = actions
        file["state"] = actions[:, :1] * 0
        file["ep_len"] = np.array(LENGTHS)
        file["ep_offset"] = np.cumsum((0, *LENGTHS[:-1]))
    return path


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def test_store_is_that_of_one_process(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_import, "_CHUNK_BYTES", 1000)  # an episode comes in several parts
    path = write_hdf5(tmp_path / "recording.h5")
    expected = import_recording(path, tmp_path / "expected", options=OPTIONS, workers=1, progress=False)
    done = import_with_ray(path, tmp_path / "store", options=OPTIONS, address=cluster, progress=False)
    assert contents(tmp_path / "store") == contents(tmp_path / "expected")
    assert done.store.episodes.length.tolist() == [5, 8, 4]
    assert (done.skipped, done.fitted) == (expected.skipped, expected.fitted)
    assert [number for number, _ in done.skipped] == [1]
    assert not ray.is_initialized()


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_goes_on_where_it_stopped(tmp_path: Path, cluster: str, version: str) -> None:
    path, out = tmp_path / "recording", tmp_path / "store"
    write_lerobot(path, version)
    import_recording(path, tmp_path / "expected", options=OPTIONS, workers=1, progress=False)
    ray.init(address=cluster, log_to_driver=False)
    try:
        import_with_ray(path, out, options=OPTIONS, max_episodes=1, progress=False)
        assert Store(out).num_episodes == 1
        import_with_ray(path, out, options=OPTIONS, progress=False)
        assert ray.is_initialized()  # the caller's connection is left as it was
        again = import_with_ray(path, out, options=OPTIONS, progress=False)  # has nothing to do
    finally:
        ray.shutdown()
    assert contents(out) == contents(tmp_path / "expected")
    assert again.store.num_episodes == 4


def test_a_mended_episode_comes_behind_the_others(tmp_path: Path, cluster: str) -> None:
    path, out = tmp_path / "recording", tmp_path / "store"
    write_lerobot(path, "v2.1")
    video = next(path.rglob("episode_000001.mp4"))
    kept = video.read_bytes()
    video.write_bytes(b"not yet copied")
    done = import_with_ray(path, out, options=OPTIONS, address=cluster, progress=False)
    assert [number for number, _ in done.skipped] == [1]
    video.write_bytes(kept)
    done = import_with_ray(path, out, options=OPTIONS, address=cluster, progress=False)
    assert (done.skipped, done.store.episodes.seed.tolist()) == ((), [0, 2, 3, 1])


def test_failed_task_is_one_line(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(row: dict, **settings: object) -> list[dict]:
        raise OSError("the disk of a machine is full")

    fail.__module__ = "__main__"  # sent as it is, because no machine can import this file
    monkeypatch.setattr(ray_import, "_decode", fail)
    path = write_hdf5(tmp_path / "recording.h5")
    with pytest.raises(RuntimeError, match=r"^episode=0 or one after it: .*the disk of a machine is full") as error:
        import_with_ray(path, tmp_path / "store", options=OPTIONS, address=cluster, progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "recording.h5")
    with pytest.raises(RuntimeError, match=r"^address=nowhere: no Ray cluster") as error:
        import_with_ray(path, tmp_path / "store", options=OPTIONS, address="nowhere", progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()
