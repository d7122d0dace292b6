"""Batches of clips on the device that trains: gathered there where the store fits, or gathered here and sent."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.sampler import ClipSampler
from lewm.data.store import Store
from lewm.device import free_memory
from lewm.families.family import Batch

RESIDENT_SHARE = 0.5  # of the free memory; the rest is for training
_BLOCK_BYTES = 64 * 2**20  # of rows moved to the device at once


Batches = Callable[[int], Batch]
"""The batch of a training step, from 0."""


def batches_on(device: torch.device, sampler: ClipSampler, *, goal_within: int = 0) -> Batches:
    """Return a sampler's batches on a device, the same ones wherever they are gathered.

    A device with memory of its own takes the whole store into it, if half of what is free holds it: a step then sends
    row numbers instead of frames, and waits for no disk.

    Args:
        device: Where training computes.
        sampler: Draws the clips.
        goal_within: Draw a goal for every clip too, 1 to so many environment steps ahead of its first frame and in the
            same episode, by torch's global generator; 0 draws none.
    """
    store = sampler.store
    fits = store.frames.nbytes + store.actions.nbytes <= RESIDENT_SHARE * free_memory(device)
    batches = resident_batches(device, sampler) if fits else sent_batches(device, sampler)
    if not goal_within:
        return batches

    def batch(step: int) -> Batch:
        clips = batches(step)
        ahead = _draw_ahead(store, clips.index, goal_within)
        goal = _send(store.frames[clips.index + ahead], device)
        return replace(clips, goal=goal, goal_steps=_send(ahead, device))

    return batch


def _draw_ahead(store: Store, index: NDArray[np.int64], within: int) -> NDArray[np.int64]:
    """Draw how many environment steps (B,) each clip's goal lies ahead of its first frame."""
    episode = np.searchsorted(store.episodes.start, index, side="right") - 1
    last = store.episodes.start[episode] + store.episodes.length[episode] - 1
    furthest = np.minimum(within, last - index)
    return 1 + np.floor(torch.rand(len(index)).double().numpy() * furthest).astype(np.int64)


def sent_batches(device: torch.device, sampler: ClipSampler) -> Batches:
    """Gather in the store and send the clips."""

    def batch(step: int) -> Batch:
        clips = sampler.batch(step)
        states = None if clips.states is None else _send(clips.states, device)
        return Batch(_send(clips.frames, device), _send(clips.actions, device), clips.index, states=states)

    return batch


def resident_batches(device: torch.device, sampler: ClipSampler) -> Batches:
    """Move the store's frames, actions and states to the device, and gather there."""
    store = sampler.store
    frames, actions = (_move(array, device) for array in (store.frames, store.actions))
    states = None if store.states is None else _move(store.states, device)

    def batch(step: int) -> Batch:
        index = sampler.index(step)
        frame_rows, action_rows = (_send(rows, device) for rows in sampler.rows(index))
        there = None if states is None else states[frame_rows]
        return Batch(frames[frame_rows], actions[action_rows].flatten(2), index, states=there)

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
