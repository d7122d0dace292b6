"""Jobs on a Ray cluster of two machines' worth of processes: this process writes what they measured."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablation_fixture import TABLE
from lewm.research.jobs import Done, run_jobs
from lewm.research.results import read

ray = pytest.importorskip("ray", reason="ray is not installed; it is in the extra `ray`")
pytest.importorskip("ray.data", reason="ray[data] is not installed; it is in the extra `ray`")

from ray.cluster_utils import Cluster  # noqa: E402  # pyright: ignore[reportMissingImports]

# Ray's settings warn of each other.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]


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


def test_jobs_run_on_the_cluster(tmp_path: Path, cluster: str) -> None:
    jobs = [job for job in TABLE.jobs() if job.seed == 0]
    out, told = tmp_path / "out.jsonl", []
    assert run_jobs(TABLE, jobs, out=out, work=tmp_path / "work", ray=cluster, tell=told.append) == Done(3, ())
    lines = read(out)
    assert {line["key"] for line in lines} == {job.key for job in jobs}
    assert len(lines) == 4
    assert all(line["eval"]["planning"]["episodes"] == 3 for line in lines)
    assert list((tmp_path / "work" / "runs").iterdir()) == []
    assert not ray.is_initialized()


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^address=nowhere: no Ray cluster") as error:
        run_jobs(TABLE, TABLE.jobs(), out=tmp_path / "out.jsonl", work=tmp_path / "work", ray="nowhere")
    assert "\n" not in str(error.value)
