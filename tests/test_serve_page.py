"""The page in a browser: a click sets a goal that is reached, and it says when the model stops."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Tab, chromium
from lewm.deploy.runtime import Controller
from lewm.serve.board import Board
from lewm.serve.simulated import Simulated
from serving import running, shipped_policy

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]


@dataclass
class Shown:
    """A page that shows a task, and what drives it."""

    tab: Tab
    simulated: Simulated
    controller: Controller
    url: str


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def rooms(tab: Tab) -> Iterator[Shown]:
    board = Board()
    simulated = Simulated("two-room", board)
    board.show({"title": "two-room"})
    controller = shipped_policy("two-room").controller()
    with running(None, board=board, command=simulated.do) as server:
        simulated.start()
        yield Shown(tab, simulated, controller, server.http)
        simulated.stop()
    assert not tab.errors


STATE = "document.getElementById('state').textContent"


def test_a_click_sets_a_goal_that_is_reached(rooms: Shown) -> None:
    tab = rooms.tab
    tab.open(rooms.url)
    tab.wait(f"{STATE} == 'preparing'", 20)
    rooms.simulated.drive_by(rooms.controller)
    tab.wait(f"['running', 'goal reached'].includes({STATE})", 20)
    for k, (x, y) in enumerate(((0.2, 0.2), (0.8, 0.8))):  # one of them lies beyond the door
        tab.click("#stage", x, y)
        tab.wait(f"status.goals == {k + 2}", 5)
        tab.wait(f"{STATE} == 'goal reached'", 20)
        at = rooms.simulated._state
        assert abs(at[0] - x) < 0.08
        assert abs(at[1] - y) < 0.08
    assert tab.value("document.querySelector('#cost path').getAttribute('d').length") > 20
    assert tab.value("document.querySelector('#way').getAttribute('points').length") > 20
    pixels = "Array.from(pen.getImageData({x} * canvas.width, {y} * canvas.width, 1, 1).data)"
    x, y = rooms.simulated._state[:2].tolist()
    red, green, _, _ = tab.value(pixels.format(x=x, y=y))  # the disc is drawn there
    assert red > 180
    assert green < 120


def test_buttons_do_what_they_say(rooms: Shown) -> None:
    tab = rooms.tab
    tab.open(rooms.url)
    rooms.simulated.drive_by(rooms.controller)
    tab.wait("status.look > 0", 20)
    tab.click("#pause")
    tab.wait(f"{STATE} == 'paused'", 5)
    before = rooms.simulated._state
    tab.click("#random")
    tab.wait("status.goals == 2", 5)
    tab.click("#start")
    until = time.monotonic() + 5
    while (rooms.simulated._state == before).all():
        assert time.monotonic() < until
        time.sleep(0.05)
    looks = tab.value("status.look")
    tab.click("#step")
    tab.wait(f"status.look == {looks} + 1", 5)
    tab.click("#pause")
    tab.wait("status.state == 'running'", 5)
    tab.click("#hand")
    tab.wait(f"{STATE} == 'you drive'", 5)
    tab.mouse("mousePressed", *tab.place("#stage", 0.3, 0.3))
    tab.mouse("mouseMoved", *tab.place("#stage", 0.3, 0.32))
    tab.wait("status.rate_now > 0", 10)
    tab.mouse("mouseReleased", *tab.place("#stage", 0.3, 0.3))
    tab.click("#hand")
    tab.wait("status.state == 'running'", 5)


@pytest.mark.parametrize("how", ["hangs", "breaks", "is gone"])
def test_it_says_that_the_model_stopped(rooms: Shown, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = rooms.tab
    tab.open(rooms.url)
    rooms.simulated.drive_by(rooms.controller)
    tab.wait("status.look > 0", 20)
    released, act = threading.Event(), rooms.controller.act

    def stuck(frames: Any) -> Any:
        if how == "breaks":
            raise RuntimeError("out of memory")
        released.wait(60)
        return act(frames)

    if how == "is gone":
        rooms.simulated.stop()
    else:
        monkeypatch.setattr(rooms.controller, "act", stuck)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
    tab.wait(f"{STATE} == 'model stopped'", 15)
    assert tab.value("document.getElementById('why').hidden") is False
    if how == "breaks":
        assert "out of memory" in tab.value("document.getElementById('why').textContent")
    released.set()


def test_it_says_that_the_server_is_gone(tab: Tab) -> None:
    board = Board()
    board.show({"state": "waiting", "title": "two-room"})
    with running(None, board=board) as server:
        tab.open(server.http)
        tab.wait(f"{STATE} == 'waiting for a client'", 20)
        assert tab.value("document.getElementById('buttons').hidden")  # this page only watches
    tab.wait(f"{STATE} == 'no connection'", 20)


@pytest.mark.parametrize(("width", "height"), [(1100, 800), (390, 800)])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_can_be_read(rooms: Shown, width: int, height: int, dark: bool, tmp_path: Path) -> None:
    tab = rooms.tab
    tab.open(rooms.url, width=width, height=height, dark=dark)
    tab.wait("canvas.width > 300", 20)
    assert tab.value("document.documentElement.scrollWidth") <= width
    luminance = "getComputedStyle(document.body).{}.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"
    back, ink = tab.value(luminance.format("backgroundColor")), tab.value(luminance.format("color"))
    assert (back < 60) == dark
    assert abs(back - ink) > 150
    tab.shoot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5000
