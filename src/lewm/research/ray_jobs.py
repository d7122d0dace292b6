"""Jobs on a Ray cluster: its machines collect, train and evaluate, and this one writes the results."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import ray  # pyright: ignore[reportMissingImports]

from lewm.data.importers.ray_import import connected

UNLIMITED = 1 << 30  # jobs handed over at once: Ray keeps them until a machine is free


@contextlib.contextmanager
def on_ray(address: str | None) -> Iterator[tuple[Executor, int]]:
    """Yield an executor whose calls run on a cluster, each on one processor and, where there are any, one GPU.

    Every machine has this package installed. With the work folder on a shared disk, a training that was stopped goes on
    on any machine; otherwise it begins anew.

    Raises:
        RuntimeError: If there is no such cluster.
    """
    with connected(address):
        yield _OnRay(num_gpus=1 if ray.cluster_resources().get("GPU") else 0), UNLIMITED


class _OnRay(Executor):
    def __init__(self, num_gpus: int) -> None:
        self._options = {"num_cpus": 1, "num_gpus": num_gpus}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return ray.remote(fn).options(**self._options).remote(*args, **kwargs).future()
