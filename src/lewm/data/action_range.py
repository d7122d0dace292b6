"""What values the actions of a store take, and how far they change from one row to the next."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lewm.data.store import Store


@dataclass(frozen=True, slots=True)
class ActionRange:
    """The range of each of the A entries of continuous actions.

    Args:
        low: (A,) smallest values; high: (A,) largest.
        max_change: (A,) how far an entry changes from one row to the next, at most, but for its rarest changes.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    max_change: tuple[float, ...]


def action_range(store: Store, episodes: npt.NDArray[np.int64], *, quantile: float) -> ActionRange:
    """Measure the range of continuous actions, and how far they change within an episode.

    Rows that leave an entry as it is do not count among its changes: a gripper that opens and closes twice in an
    episode does so at full width.

    Args:
        store: where the actions are; all finite.
        episodes: which of its episodes count.
        quantile: share of an entry's changes that are within its largest, in (0, 1].
    """
    parts = [np.asarray(store.actions[store.episode(episode)]) for episode in episodes.tolist()]
    changes = np.abs(np.concatenate([np.diff(part, axis=0) for part in parts]))
    moved = [changes[changes[:, k] > 0, k] for k in range(changes.shape[1])]
    largest = [float(np.quantile(column, quantile)) if len(column) else 0.0 for column in moved]
    low, high = np.min([part.min(0) for part in parts], axis=0), np.max([part.max(0) for part in parts], axis=0)
    return ActionRange(tuple(low.tolist()), tuple(high.tolist()), tuple(largest))
