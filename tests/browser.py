"""A headless Chromium, driven through its DevTools protocol."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_STARTS_WITHIN = 120.0


class Tab:
    """One page of a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[str] = []
        """What scripts of the page have thrown."""
        self.call("Page.enable")
        self.call("Runtime.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._socket.recv(60))
            if said.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(said["params"]["exceptionDetails"])[:500])
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]

    def open(self, url: str, *, width: int = 1100, height: int = 800, dark: bool = False) -> None:
        """Open an address in a window of some size."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression comes to."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str, seconds: float) -> Any:
        """Wait until an expression is true, and return it."""
        until = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < until, f"after {seconds} s not yet: {expression}; {self.errors}"
            time.sleep(0.1)
        return found

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Press, move or release the mouse: mousePressed, mouseMoved or mouseReleased."""
        down = 0 if kind == "mouseReleased" else 1
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=down, clickCount=1)

    def place(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """Return where a part of an element lies in the window."""
        box = self.value(
            f"(b => [b.left, b.top, b.width, b.height])(document.querySelector('{selector}').getBoundingClientRect())"
        )
        return box[0] + x * box[2], box[1] + y * box[3]

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click into an element."""
        at = self.place(selector, x, y)
        self.mouse("mousePressed", *at)
        self.mouse("mouseReleased", *at)

    def shoot(self, path: Path) -> None:
        """Write a picture of the page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """Start a browser whose files are in a folder, and yield its page."""
    assert CHROMIUM is not None
    options = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
    )
    command = [CHROMIUM, *options, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told, until = folder / "DevToolsActivePort", time.monotonic() + _STARTS_WITHIN
        while not (told.is_file() and len(told.read_text(encoding="utf-8").splitlines()) == 2):
            assert time.monotonic() < until, "Chromium did not start"
            time.sleep(0.1)
        port = told.read_text(encoding="utf-8").splitlines()[0]
        with connect(
            f"ws://127.0.0.1:{port}{told.read_text(encoding='utf-8').splitlines()[1]}", max_size=None
        ) as browser:
            browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            while (said := json.loads(browser.recv(60))).get("id") != 1:
                pass
            target = next(one["targetId"] for one in said["result"]["targetInfos"] if one["type"] == "page")
        with connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_size=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(30)
