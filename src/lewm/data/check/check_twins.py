"""Episodes and images that come twice, and those of them that training and evaluation share."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lewm.data.check.check_frames import MOST_BYTES, View, frames_in
from lewm.data.check.findings import Finding, Span, count_frames, first_of, join_spans
from lewm.data.store import Store
from lewm.data.thumbnails import thumbnails

MOST_COMPARED = 1000  # episodes compared with each other
PLACES, MORE_PLACES = 4, 32  # frames by which episodes are compared: all with all, and then those that are alike
ALIKE = 2.0  # grey levels in any cell at any of the places: the rounding of another video codec
ALIKE_SHARE = 0.1  # of what changes within the episode, for a scene in which little does
OVERLAPPING = 0.8  # share of the longer episode that the shorter one must reach
DISTINCT = 0.5  # share of the episodes that must differ
MOST_PAIRS = 5  # in a message

_LEAKED = "leave them out: what is measured on them is remembered and not learnt"
_DOUBLED = "leave them out: they only weigh more"


def equal_episodes(store: Store) -> tuple[list[list[int]], int]:
    """Find groups of episodes that are nearly equal, frame by frame, and say how many were compared."""
    chosen, lengths = _to_compare(store), store.episodes.length
    # The same places of all episodes, so that one that ends a little earlier is still found.
    last = max(int(OVERLAPPING * np.quantile(lengths[chosen], 0.1)) - 1, 0)
    places = np.unique(np.linspace(0, last, PLACES).astype(np.int64))
    looks = np.stack([_pictures(store, e, np.minimum(places, lengths[e] - 1)) for e in chosen.tolist()])
    groups: dict[int, list[int]] = {}  # by the first episode of each, all by their place in `chosen`
    for k in range(len(chosen)):
        near, gap = np.array(list(groups), dtype=np.int64), np.zeros(len(groups))
        for p in range(len(places)):
            gap = np.maximum(gap, np.abs(looks[near, p] - looks[k, p]).max(axis=(1, 2), initial=0.0))
            near, gap = near[gap <= ALIKE], gap[gap <= ALIKE]
        # Only the nearest is looked at again: where little changes, many are near.
        leader = int(near[np.argmin(gap)]) if len(near) else k
        if leader != k and not _alike(store, int(chosen[leader]), int(chosen[k])):
            leader = k
        groups.setdefault(leader, []).append(k)
    return [chosen[group].tolist() for group in groups.values() if len(group) > 1], len(chosen)


def check_equal_episodes(
    store: Store, groups: Sequence[Sequence[int]], compared: int, training: npt.NDArray[np.bool_]
) -> Iterator[Finding]:
    """Report episodes that come twice: those that training and evaluation share, and others.

    Args:
        store: the data.
        groups: episodes that are nearly equal.
        compared: how many episodes were compared.
        training: (E,) whether an episode is trained on.
    """
    leaked, doubled = [], []
    for group in groups:
        keeper = next((e for e in group if training[e]), group[0])
        for e in group:
            if e != keeper:
                (leaked if training[keeper] and not training[e] else doubled).append((e, keeper))
    distinct = compared - len(leaked) - len(doubled)
    if distinct < DISTINCT * compared:
        message = f"only {distinct} of {compared} episodes compared differ"
        yield Finding("warning", "few-distinct-episodes", (), message, "record from other starts, or other actions")
    for name, pairs, text, remedy in (
        ("leakage", leaked, "held-out episode {} nearly equals training episode {}", _LEAKED),
        ("equal-episodes", doubled, "episode {} nearly equals episode {}", _DOUBLED),
    ):
        if pairs:
            pairs = sorted(pairs)
            where = tuple(Span(e, 0, int(store.episodes.length[e])) for e, _ in pairs)
            message = "; ".join(text.format(*pair) for pair in pairs[:MOST_PAIRS])
            message += f" ({len(pairs)} of {compared} episodes compared)"
            yield Finding("warning", name, where, message, remedy, repairable=True)


def check_equal_images(views: Sequence[View], training: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    """Report images that come twice: those that training and evaluation share, and others.

    Args:
        views: what was seen, with digests.
        training: (E,) whether an episode is trained on.
    """
    seen: dict[bytes, Span] = {}
    leaked, doubled = set(), set()
    for view in sorted(views, key=lambda view: not training[view.episode]):  # those of training are kept
        for k, digest in enumerate(view.digests):
            image = view.span(k, k + 1)
            twin = seen.setdefault(digest, image)
            if twin != image:
                (leaked if training[twin.episode] and not training[image.episode] else doubled).add(image)
    for name, images, text, remedy in (
        ("leakage", leaked, "held-out images equal training images", _LEAKED),
        ("equal-images", doubled, "images equal others", _DOUBLED),
    ):
        if images:
            where = join_spans(list(images))
            message = f"{count_frames(where)} {text}, {first_of(where)} ({frames_in(views):,} compared)"
            yield Finding("warning", name, where, message, remedy, repairable=True)


def _to_compare(store: Store) -> npt.NDArray[np.int64]:
    """Choose the episodes to compare: all, or first those whose actions another one has as well."""
    count = int(min(MOST_COMPARED, max(MOST_BYTES // (2 * PLACES * store.frames[0].nbytes), 2)))
    if store.num_episodes <= count:
        return np.arange(store.num_episodes)
    seen: dict[bytes, int] = {}
    twice = np.zeros(store.num_episodes, dtype=bool)
    for e in range(store.num_episodes):
        digest = hashlib.blake2b(store.actions[store.episode(e)].tobytes(), digest_size=16).digest()
        first = seen.setdefault(digest, e)
        if first != e:
            twice[[first, e]] = True
    order = np.random.default_rng(0).permutation(store.num_episodes)
    return np.sort(order[np.argsort(~twice[order], kind="stable")][:count])


def _pictures(store: Store, episode: int, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return thumbnails(store.frames[int(store.episodes.start[episode]) + places])


def _alike(store: Store, one: int, other: int) -> bool:
    """Compare two episodes at more places."""
    lengths = store.episodes.length[[one, other]]
    if lengths.min() < OVERLAPPING * lengths.max():
        return False
    places = np.unique(np.linspace(0, lengths.min() - 1, MORE_PLACES).astype(np.int64))
    first, second = _pictures(store, one, places), _pictures(store, other, places)
    varies = np.ptp(first, axis=0).max()
    return bool(np.abs(first - second).max() <= min(ALIKE, ALIKE_SHARE * varies))
