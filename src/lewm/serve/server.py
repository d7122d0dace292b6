"""The server: clients' websocket, the page and its websocket, health and metrics, all on one port; no torch."""

import asyncio
import contextlib
import http
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from lewm.serve.access import Access, asked
from lewm.serve.board import Board
from lewm.serve.client_session import ClientSession, Policy
from lewm.serve.counters import Counters
from lewm.serve.session_pool import PoolFullError, Seat, SessionPool
from lewm.serve.wire import FRAME_KEYS, MOST_MESSAGE, pack, unpack

LOG = logging.getLogger("lewm.serve")
PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
POLICY_PATH, LIVE_PATH = "/", "/live"
MOST_CLIENTS = 64
_MOST_PAGES = 16
_MOST_ERRORS = 5  # messages in a row that are none, before the connection is ended
_LONGEST_LOOK = 30.0  # seconds
_SENT_WITHIN = 10.0  # seconds in which a client takes an answer
_IDLE = 600.0  # seconds without a message
_SOONEST = 0.005  # seconds from one message of a client to the next
_PAGE_PERIOD = 1 / 30
_PAGE_SIGN_OF_LIFE = 0.5
_PLAIN = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_POLICY_OF_PAGE = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PolicyServer:
    """Serve an export to robots, and a page that shows what it does.

    Args:
        policy: What clients drive with; None for a page alone.
        board: What the page shows.
        access: Who may connect.
        command: Takes what a page's user does, as a map; None where pages only watch.
        most_clients: Sessions at a time.
    """

    def __init__(
        self,
        policy: Policy | None,
        board: Board,
        access: Access,
        *,
        command: Callable[[dict[str, Any]], None] | None = None,
        most_clients: int = MOST_CLIENTS,
    ) -> None:
        self._policy, self._board, self._access, self._command = policy, board, access, command
        self.counters = Counters()
        workers = os.cpu_count() or 1
        self._looking = ThreadPoolExecutor(workers, thread_name_prefix="lewm-look")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="lewm-read")
        self._pool = SessionPool(self._new_session, most_clients)

    def _new_session(self) -> ClientSession:
        assert self._policy is not None
        return ClientSession(self._policy, self._board)

    @contextlib.asynccontextmanager
    async def listen(self, port: int) -> AsyncIterator[Server]:
        """Listen on a port of the host; 0 takes a free one.

        Raises:
            ValueError: If the port cannot be had.
        """
        options: dict[str, Any] = {
            "process_request": self._http,
            "ssl": self._access.tls,
            "compression": None,  # pictures do not shrink, and what unpacks to much more is an attack
            "max_size": MOST_MESSAGE,
            "max_queue": 2,
            "open_timeout": 10,
            "ping_interval": 20,
            "ping_timeout": 20,
            "close_timeout": 5,
            "server_header": None,
            "logger": LOG,
        }
        try:
            server = await serve(self._connected, self._access.host, port, **options)
        except OSError as error:
            told = error.strerror or str(error)
            raise ValueError(
                f"port={port}: cannot listen on {self._access.host} ({told}); give another --port"
            ) from None
        forgetting = asyncio.create_task(self._forget())
        try:
            yield server
        finally:
            forgetting.cancel()
            server.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await server.wait_closed()
            self._looking.shutdown(wait=False, cancel_futures=True)
            self._reading.shutdown(wait=False, cancel_futures=True)

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(5)
            self._pool.forget_old()
            self.counters.sessions.set(len(self._pool))

    # HTTP.

    def _http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request that asks for no websocket, or refuse one; None lets a websocket through."""
        path, headers = urlsplit(request.path).path, request.headers
        if self._access.refuses_origin(headers):
            return self._refuse(connection, http.HTTPStatus.FORBIDDEN, "another site")
        wants_socket = headers.get("Upgrade", "").lower() == "websocket"
        if path in ("/health", "/healthz"):
            told = {"status": "ok", "sessions": len(self._pool)}
            return _respond(connection, json.dumps(told) + "\n", "application/json")
        if path == "/" and not wants_socket:
            response = _respond(connection, PAGE, "text/html; charset=utf-8")
            response.headers["Content-Security-Policy"] = _POLICY_OF_PAGE
            return response
        if path not in ("/metrics", POLICY_PATH, LIVE_PATH):
            return self._refuse(connection, http.HTTPStatus.NOT_FOUND, "no such path")
        if not self._access.knows(headers, request.path):
            return self._refuse(connection, http.HTTPStatus.UNAUTHORIZED, "token")
        if path == "/metrics":
            return _respond(connection, self.counters.text(), "text/plain; version=0.0.4; charset=utf-8")
        if path == POLICY_PATH and self._policy is None:
            return self._refuse(connection, http.HTTPStatus.NOT_FOUND, "no robots here")
        if path == LIVE_PATH and self._board.watchers >= _MOST_PAGES:
            return self._refuse(connection, http.HTTPStatus.SERVICE_UNAVAILABLE, "too many pages")
        return None

    def _refuse(self, connection: ServerConnection, status: http.HTTPStatus, why: str) -> Response:
        self.counters.refused.labels(why).inc()
        return connection.respond(status, f"{why}\n")

    async def _connected(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        path = connection.request.path
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            if urlsplit(path).path == LIVE_PATH:
                await self._page(connection)
            else:
                await self._client(connection, asked(path, "session"))

    # Clients.

    async def _client(self, connection: ServerConnection, key: str | None) -> None:
        """Serve a client until it leaves."""
        try:
            seat, resumed = await self._pool.take(key)
        except PoolFullError:
            await self._end(connection, 1013, "too many clients")
            return
        keep = True
        try:
            with self.counters.connected.track_inprogress():
                self.counters.sessions.set(len(self._pool))
                assert self._policy is not None
                told = self._policy.metadata() | {"session": seat.session.key, "resumed": resumed}
                await _send(connection, pack(told))
                keep = await self._serve(connection, seat)
        finally:
            self._pool.leave(seat, keep=keep)
            self.counters.sessions.set(len(self._pool))

    async def _serve(self, connection: ServerConnection, seat: Seat) -> bool:
        """Answer messages; return whether the session is worth keeping."""
        inbox = _Inbox()
        tasks = [
            asyncio.create_task(self._read(connection, inbox)),
            asyncio.create_task(self._answer(connection, inbox, seat.session)),
            asyncio.create_task(seat.leave.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[2] in done:
                await self._end(connection, 4001, "the client came back by another connection")
            for task in done:
                if isinstance(error := task.exception(), _EndedError):
                    await self._end(connection, error.code, error.why)
                    return error.code != 1011
                if error is not None and not isinstance(error, ConnectionClosed | TimeoutError):
                    raise error
            return True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, connection: ServerConnection, inbox: "_Inbox") -> None:
        """Take messages as they come: the newest picture waits, and one that waited before it is forgotten."""
        loop, errors = asyncio.get_running_loop(), 0
        while True:
            try:
                async with asyncio.timeout(_IDLE):
                    data = await connection.recv()
            except TimeoutError:
                raise _EndedError(1000, "no message for long") from None
            began = time.perf_counter()
            try:
                if isinstance(data, str):
                    raise ValueError("message: is a text; send msgpack, as openpi-client does")
                message = await loop.run_in_executor(self._reading, unpack, data)
            except ValueError as error:
                errors += 1
                await self._tell(connection, str(error))
                if errors >= _MOST_ERRORS:
                    raise _EndedError(1008, "messages that cannot be read") from None
                continue
            errors = 0
            if inbox.put(message, began):
                self.counters.superseded.inc()
            await asyncio.sleep(max(0.0, _SOONEST - (time.perf_counter() - began)))

    async def _answer(self, connection: ServerConnection, inbox: "_Inbox", session: ClientSession) -> None:
        loop = asyncio.get_running_loop()
        events = dict(session.controller.events.counts)
        while True:
            message, began = await inbox.take()
            # shielded: a look that was begun is finished by its thread, and the seat is not given away before
            look = asyncio.ensure_future(loop.run_in_executor(self._looking, session.answer, message))
            try:
                answer = await asyncio.wait_for(asyncio.shield(look), _LONGEST_LOOK)
            except TimeoutError:
                raise _EndedError(1011, "a look took too long") from None
            except asyncio.CancelledError:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(look, _LONGEST_LOOK)
                raise
            except ValueError as error:
                await self._tell(connection, str(error))
                continue
            except Exception as error:  # of a runtime's own kinds: a client must be told something
                LOG.exception("a message was not answered")
                await self._tell(connection, f"server: {type(error).__name__}; see its log")
                continue
            await _send(connection, pack(answer))
            took = time.perf_counter() - began
            session.took(1e3 * took)
            self.counters.answers.observe(took)
            for kind, count in session.controller.events.counts.items():
                self.counters.events.labels(kind).inc(count - events.get(kind, 0))
                events[kind] = count

    async def _tell(self, connection: ServerConnection, wrong: str) -> None:
        """Tell a client what was wrong: as a text, as openpi's server does."""
        self.counters.errors.inc()
        await _send(connection, " ".join(wrong.split())[:300])

    async def _end(self, connection: ServerConnection, code: int, why: str) -> None:
        self.counters.closed.labels(why).inc()
        await connection.close(code, why)

    # Pages.

    async def _page(self, connection: ServerConnection) -> None:
        """Send a page what is shown, as fast as it takes it and no faster than it changes; take what its user does."""
        self._board.watchers += 1
        listening = asyncio.create_task(self._listen_to_page(connection))
        try:
            with self.counters.pages.track_inprogress():
                sent, sent_at, pictures = -1, 0.0, {}
                while not listening.done():
                    shown, now = self._board.shown, time.monotonic()
                    for k, (name, (number, picture)) in enumerate(sorted(shown.pictures.items())):
                        if pictures.get(name) != number:
                            pictures[name] = number
                            await _send(connection, bytes([k]) + picture)
                    if shown.number != sent or now - sent_at > _PAGE_SIGN_OF_LIFE:
                        sent, sent_at = shown.number, now
                        status = shown.status | {
                            "pictures": sorted(shown.pictures),
                            "steers": self._command is not None,
                        }
                        await _send(connection, json.dumps(status))
                    await asyncio.sleep(_PAGE_PERIOD)
        finally:
            self._board.watchers -= 1
            listening.cancel()

    async def _listen_to_page(self, connection: ServerConnection) -> None:
        async for data in connection:
            if self._command is None or not isinstance(data, str) or len(data) > 2000:
                continue
            try:
                said = json.loads(data)
                if isinstance(said, dict):
                    self._command(said)
            except (ValueError, RecursionError) as error:
                await _send(connection, json.dumps({"wrong": str(error)[:300]}))


class _Inbox:
    """One message that waits; a newer one takes its place, but takes over a goal that was not set yet."""

    def __init__(self) -> None:
        self._waiting: dict[str, Any] | None = None
        self._since = 0.0
        self._there = asyncio.Event()

    def put(self, message: dict[str, Any], since: float) -> bool:
        """Put a message in; return whether a picture was superseded."""
        older = self._waiting or {}
        kept = {name: value for name, value in older.items() if name not in FRAME_KEYS}
        self._waiting, self._since = {**kept, **message}, since
        self._there.set()
        return any(name in FRAME_KEYS for name in older)

    async def take(self) -> tuple[dict[str, Any], float]:
        """Wait for a message, and return it and when it came."""
        await self._there.wait()
        assert self._waiting is not None
        message, self._waiting = self._waiting, None
        self._there.clear()
        return message, self._since


class _EndedError(Exception):
    """A connection is to be ended."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(code, why)
        self.code, self.why = code, why


async def _send(connection: ServerConnection, message: str | bytes) -> None:
    async with asyncio.timeout(_SENT_WITHIN):
        await connection.send(message)


def _respond(connection: ServerConnection, text: str, kind: str) -> Response:
    response = connection.respond(http.HTTPStatus.OK, text)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = kind
    for name, value in _PLAIN.items():
        response.headers[name] = value
    return response


def address_of(access: Access, listening: Server) -> str:
    """Return the address that a browser opens."""
    host, port = next(iter(listening.sockets)).getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"{'http' if access.tls is None else 'https'}://{name}:{port}"
