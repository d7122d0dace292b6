"""Batches of clips on the device that trains: gathered there where the store fits, or gathered here and sent."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.sampler import ClipSampler
from lewm.device import free_memory

RESIDENT_SHARE = 0.5  # of the free memory; the rest is for training
_BLOCK_BYTES = 64 * 2**20  # of rows moved to the device at once


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of B clips of T frames, ready to train on.

    Args:
        frames: (B, T, height, width, 3) uint8.
        actions: (B, T-1, f*A) float32, or (B, T-1, f) int64 for discrete actions.
        index: (B,) int64, each clip's first frame in the store; not on the device.
    """

    frames: Tensor
    actions: Tensor
    index: NDArray[np.int64]


Batches = Callable[[int], Batch]
"""The batch of a training step, from 0."""


def batches_on(device: torch.device, sampler: ClipSampler) -> Batches:
    """Return a sampler's batches on a device, the same ones wherever they are gathered.

    A device with memory of its own takes the whole store into it, if half of what is free holds it: a step then sends
    row numbers instead of frames, and waits for no disk.
    """
    store = sampler.store
    fits = store.frames.nbytes + store.actions.nbytes <= RESIDENT_SHARE * free_memory(device)
    return resident_batches(device, sampler) if fits else sent_batches(device, sampler)


def sent_batches(device: torch.device, sampler: ClipSampler) -> Batches:
    """Gather in the store and send the clips."""

    def batch(step: int) -> Batch:
        clips = sampler.batch(step)
        return Batch(_send(clips.frames, device), _send(clips.actions, device), clips.index)

    return batch


def resident_batches(device: torch.device, sampler: ClipSampler) -> Batches:
    """Move the store's frames and actions to the device, and gather there."""
    frames, actions = (_move(array, device) for array in (sampler.store.frames, sampler.store.actions))

    def batch(step: int) -> Batch:
        index = sampler.index(step)
        frame_rows, action_rows = (_send(rows, device) for rows in sampler.rows(index))
        return Batch(frames[frame_rows], actions[action_rows].flatten(2), index)

    return batch


def _send(array: NDArray, device: torch.device) -> Tensor:
    # The copy out of pageable memory is staged before the call returns; only the device would be waited for.
    return torch.from_numpy(array).to(device, non_blocking=device.type == "cuda")


def _move(array: NDArray, device: torch.device) -> Tensor:
    """Copy an array of a store, block by block, because it may be larger than the memory here."""
    moved = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), device=device)
    rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for first in range(0, len(array), rows):
        moved[first : first + rows] = torch.from_numpy(np.array(array[first : first + rows]))
    return moved
