"""What a check of a store finds: where, how bad it is, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lewm.data.store import Store

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, order=True, slots=True)
class Span:
    """Frames `first` to `stop` - 1 of an episode; where both are equal, the cut before frame `first`."""

    episode: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a store, or may be."""

    severity: Severity
    """error: training fails or learns nothing; warning: it learns something else; note: worth a look."""
    name: str
    """What kind of defect it is; the same word for the same kind."""
    where: tuple[Span, ...]
    """The frames that it is about, in order; empty where it is about the whole."""
    message: str
    """What is wrong, in one line."""
    remedy: str
    """What to do, in one line."""
    repairable: bool = False
    """Whether `repair` leaves these frames out."""


def count_frames(where: Sequence[Span]) -> str:
    """Return how many frames some spans have, as text."""
    return f"{sum(span.stop - span.first for span in where):,}"


def first_of(where: Sequence[Span]) -> str:
    """Say where the first of some spans is."""
    return f"first at frame {where[0].first} of episode {where[0].episode}"


def find_runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first and stop of every run of true values (n,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def find_spans(store: Store, frames: npt.NDArray[np.int64]) -> tuple[Span, ...]:
    """Return frames of a store, ascending, as runs within episodes."""
    episodes = np.searchsorted(store.episodes.start, frames, side="right") - 1
    breaks = np.flatnonzero((np.diff(frames) > 1) | (np.diff(episodes) > 0)) + 1
    spans = []
    for run in np.split(np.arange(len(frames)), breaks):
        if len(run):
            episode = int(episodes[run[0]])
            first = int(frames[run[0]] - store.episodes.start[episode])
            spans.append(Span(episode, first, first + len(run)))
    return tuple(spans)


def join_spans(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Sort spans and join those that meet, as in overlapping windows."""
    joined: list[Span] = []
    for span in sorted(spans):
        last = joined[-1] if joined else None
        if last is not None and last.episode == span.episode and span.first <= last.stop:
            joined[-1] = Span(last.episode, last.first, max(last.stop, span.stop))
        else:
            joined.append(span)
    return tuple(joined)
