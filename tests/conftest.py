"""Settings of every test: they must be in the environment before torch or pygame is imported."""

import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads must not spin on a small machine
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads only wait for each other
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # Push-T draws without a screen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a CUDA device where there is none."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    import torch  # only here: most test files need no torch, and importing it takes seconds

    if not torch.cuda.is_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
