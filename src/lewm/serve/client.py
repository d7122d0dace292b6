"""A client of `lewm serve`, to copy: it needs websockets, msgpack and NumPy, and nothing else of this package."""

import time
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: dict) -> Any:
    return np.ndarray(value[b"shape"], value[b"dtype"], value[b"data"]) if b"__ndarray__" in value else value


class Client:
    """Ask a server for actions. After a lost connection the next call goes on with the same history and goal."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0, **options: Any) -> None:
        options["additional_headers"] = {"Authorization": f"Api-Key {token}"} if token else None
        self._options = {"max_size": None, "compression": None, **options}
        self.url, self.timeout, self._goal = url.rstrip("/"), timeout, {}
        self.metadata: dict[str, Any] = {"session": ""}
        self._connect()

    def _connect(self) -> None:
        self._socket = connect(f"{self.url}/?session={self.metadata['session']}", **self._options).__enter__()
        self.metadata, self.close = msgpack.unpackb(self._socket.recv(self.timeout)), self._socket.close

    def infer(self, **message: Any) -> dict:
        """Send a frame, a goal or a reset, and return the answer; a ValueError says what was wrong with them."""
        self._goal |= {name: message[name] for name in ("goal", "command") if name in message}
        until, again = time.monotonic() + self.timeout, False
        while True:
            try:
                if again:
                    self._connect()
                self._socket.send(msgpack.packb({**self._goal, **message} if again else message, default=_pack))
                if isinstance(answer := self._socket.recv(self.timeout), str):
                    raise ValueError(answer)
                return msgpack.unpackb(answer, object_hook=_unpack)
            except (ConnectionClosed, OSError):
                if time.monotonic() > until:
                    raise
                again = True
                time.sleep(0.2)
