"""Batches on a device: the same ones, bit for bit, wherever they are gathered."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lewm.data import ClipSampler, Store
from lewm.train import batches as batches_module
from lewm.train.batches import batches_on, resident_batches, sent_batches
from tiny import labelled_images, moving_dot

CPU = torch.device("cpu")
STORES: dict[str, tuple[Callable[[Path], Store], int]] = {
    "continuous": (moving_dot, 1),
    "skipping": (moving_dot, 3),
    "discrete": (lambda path: moving_dot(path, discrete=True), 2),
    "images": (labelled_images, 1),
}


@pytest.mark.parametrize("clip_frames", [2, 4])
@pytest.mark.parametrize("kind", STORES)
def test_resident_batches_are_those_of_the_sampler(
    kind: str, clip_frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "_BLOCK_BYTES", 10_000)  # several blocks, the last one short
    make, frame_skip = STORES[kind]
    store = make(tmp_path / "store")
    for rank in range(2):
        sampler = ClipSampler(
            store, [0, 2, 3, 7], clip_frames=clip_frames, frame_skip=frame_skip, batch_size=8, rank=rank, world_size=2
        )
        resident, sent = resident_batches(CPU, sampler), sent_batches(CPU, sampler)
        for step in (0, 1, 2, 30, 1):
            clips, ours, theirs = sampler.batch(step), resident(step), sent(step)
            for batch in (ours, theirs):
                assert batch.index.tolist() == clips.index.tolist()
                for got, expected in ((batch.frames, clips.frames), (batch.actions, clips.actions)):
                    assert torch.equal(got, torch.from_numpy(expected))
                    assert got.dtype == torch.from_numpy(expected).dtype


def test_the_store_moves_where_half_of_the_free_memory_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = moving_dot(tmp_path / "store")
    sampler = ClipSampler(store, range(10), batch_size=8)
    size = store.frames.nbytes + store.actions.nbytes
    chosen = []
    monkeypatch.setattr(batches_module, "resident_batches", lambda *_: chosen.append("resident"))
    monkeypatch.setattr(batches_module, "sent_batches", lambda *_: chosen.append("sent"))
    for free in (2 * size, 2 * size - 1, 0):
        monkeypatch.setattr(batches_module, "free_memory", lambda device, free=free: free)
        batches_on(CPU, sampler)
    assert chosen == ["resident", "sent", "sent"]
