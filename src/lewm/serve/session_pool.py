"""Sessions of clients: as many as may be, and those whose client was cut off wait for it for a while."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lewm.serve.client_session import ClientSession

KEPT = 60.0
"""Seconds that a session waits for its client."""


class PoolFullError(Exception):
    """No session is left for another client."""


@dataclass(slots=True, eq=False)
class Seat:
    """A session and who uses it."""

    session: ClientSession
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the connection that uses it."""
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when another connection of the same client wants it."""
    since: float = 0.0
    """When its client left."""


class SessionPool:
    """Keep sessions by their key."""

    def __init__(self, make: Callable[[], ClientSession], most: int) -> None:
        self._make, self._most = make, most
        self._seats: dict[str, Seat] = {}

    def __len__(self) -> int:
        return len(self._seats)

    async def take(self, key: str | None) -> tuple[Seat, bool]:
        """Return a seat that is now this connection's, and whether it has the history of an earlier one.

        Raises:
            PoolFullError: If there are too many clients.
            TimeoutError: If the client's earlier connection does not leave.
        """
        self.forget_old()
        seat = self._seats.get(key) if key is not None else None
        if seat is not None:  # also while its earlier connection seems to be alive, as after a network's failure
            seat.leave.set()
            async with asyncio.timeout(10):
                await seat.lock.acquire()
            seat.leave = asyncio.Event()
            self._seats[seat.session.key] = seat
            return seat, True
        if len(self._seats) >= self._most:
            self._forget_oldest()
        seat = Seat(self._make())
        await seat.lock.acquire()
        self._seats[seat.session.key] = seat
        return seat, False

    def leave(self, seat: Seat, *, keep: bool) -> None:
        """Give a seat back; it is kept for its client, or forgotten."""
        seat.since = time.monotonic()
        seat.lock.release()
        if not keep:
            self._seats.pop(seat.session.key, None)

    def forget_old(self) -> None:
        """Forget sessions whose client did not come back in time."""
        now = time.monotonic()
        for key, seat in list(self._seats.items()):
            if not seat.lock.locked() and now - seat.since > KEPT:
                del self._seats[key]

    def _forget_oldest(self) -> None:
        waiting = [seat for seat in self._seats.values() if not seat.lock.locked()]
        if not waiting:
            raise PoolFullError
        del self._seats[min(waiting, key=lambda seat: seat.since).session.key]
