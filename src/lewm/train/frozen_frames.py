"""Frames of whole training episodes as frozen representations, in memory: what heads are fitted to after training."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.store import Store
from lewm.families.family import WorldModel

CACHE_VALUES = 2**27  # representation values kept in memory, as float16: 256 MiB
ENCODE_BATCH = 256


@dataclass(frozen=True, slots=True)
class FrozenFrames:
    """M frames of whole episodes.

    Args:
        tokens: (M, N, D) float16 on the model's device.
        index: (M,) their numbers in the store.
        end: (M,) for each the row here where its episode ends.
    """

    tokens: Tensor
    index: NDArray[np.int64]
    end: NDArray[np.int64]


def freeze(
    model: WorldModel,
    store: Store,
    episodes: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    most: int = CACHE_VALUES,
    on_frames: Callable[[int, int], None] = lambda done, total: None,
) -> FrozenFrames:
    """Represent the frames of episodes, of as many as `most` values hold.

    Args:
        model: In evaluation mode.
        store: Where the trajectories are, as `model.inputs` gives it.
        episodes: Of which some are chosen, if need be.
        rng: Chooses.
        most: Values of representations that are kept.
        on_frames: Called after every batch of frames with how many are done, of how many; for progress, and to stop.
    """
    values = model.config.model.num_tokens * model.config.model.token_width
    start, length = store.episodes.start[episodes], store.episodes.length[episodes]
    order = rng.permutation(len(episodes))
    fitting = max(1, int((length[order].cumsum() * values <= most).sum()))
    start, length = start[order[:fitting]], length[order[:fitting]]
    index = np.concatenate([np.arange(s, s + n) for s, n in zip(start, length, strict=True)])
    return FrozenFrames(_represent(model, store, index, on_frames), index, np.repeat(length.cumsum(), length))


@torch.no_grad()
def _represent(
    model: WorldModel, store: Store, index: NDArray[np.int64], on_frames: Callable[[int, int], None]
) -> Tensor:
    # they are kept as float16, so the precision of training is enough for them
    half = torch.autocast(model.device.type, torch.bfloat16, enabled=model.config.train.precision == "bfloat16")
    tokens = []
    for i in range(0, len(index), ENCODE_BATCH):
        frames = torch.from_numpy(store.frames[index[i : i + ENCODE_BATCH]])
        with half:
            tokens.append(model.represent_inputs(frames.to(model.device)).half())
        on_frames(min(i + ENCODE_BATCH, len(index)), len(index))
    return torch.cat(tokens)
