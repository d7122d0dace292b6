"""The policy server over real sockets, with graphs that PyTorch runs: what clients get, and what strangers do not."""

import contextlib
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from deploy_world import World
from lewm.serve.access import Access
from lewm.serve.client import Client
from lewm.serve.client_session import ClientSession, Policy
from lewm.serve.wire import pack
from serving import Running, running
from tiny import tiny

TOKEN = "0123456789abcdef"


def policy_of(world: World, **settings: Any) -> Policy:
    return Policy(manifest=world.manifest, spec=world.spec, graphs=world.sessions, settings=settings)


@pytest.fixture(scope="module")
def world() -> World:
    return World(tiny(data__frame_skip=2), states=True)


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[Running]:
    with running(policy_of(world)) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    found = Client(server.ws)
    yield found
    found.close()


def jpeg(picture: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=95)
    return out.getvalue()


def test_a_client_gets_what_a_controller_says(server: Running, world: World, client: Client) -> None:
    frames = world.frames
    own = policy_of(world).controller()
    own.set_goal(frames[0])
    assert client.metadata["task"] == world.spec.task
    assert client.metadata["actions"] == 2
    assert client.infer(goal=frames[0]) == {"goal": True}
    for frame in frames[1:4]:
        answer = client.infer(frame=frame, id=7)
        np.testing.assert_array_equal(answer["actions"], own.act(frame))
        assert answer["id"] == 7
        assert answer["trusted"]
        assert answer["server_timing"]["infer_ms"] > 0
    assert client.infer(goal=frames[0]) == {"goal": False}  # the same goal does not begin a new episode
    np.testing.assert_array_equal(client.infer(frame=frames[4])["actions"], own.act(frames[4]))
    own.restart()
    client.infer(reset=True)
    np.testing.assert_array_equal(client.infer(frame=frames[5])["actions"], own.act(frames[5]))


def test_goals_and_pictures_come_in_several_forms(server: Running, world: World, client: Client) -> None:
    frames = world.frames
    for goal in (jpeg(frames[0]), {"x": 0.2}, {"x": [0.1, None], "y": 0.3}):
        assert client.infer(goal=goal) == {"goal": True}
        for message in ({"image": jpeg(frames[1])}, {"observation/image": frames[1]}, {"frames": {"": frames[1]}}):
            assert client.infer(**message)["actions"].shape == (2, 2)
    assert "reached" in client.infer(frame=frames[1])  # a region says when one is in it


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"frame": np.zeros((3, 3), np.uint8)}, "frames: got uint8"),
        ({"frame": np.full((16, 16, 3), np.nan, np.float32)}, "frames: got float32 of nan to nan"),
        ({"frame": b"\xff\xd8 no picture"}, "frame: is no JPEG that can be read"),
        ({"frame": 3}, "frame: is no picture"),
        ({"goal": {"z": 1.0}}, "goal=z: is no variable that can be read"),
        ({"goal": "there"}, "goal: is no picture"),
        ({"prompt": "do it"}, "message: has none of frame, image"),
        ({"frames": {"left": 1}}, "frames: must be of the cameras"),
    ],
)
def test_what_is_wrong_is_told_and_the_connection_goes_on(
    world: World, client: Client, message: dict[str, Any], told: str
) -> None:
    client.infer(goal=world.frames[0])
    with pytest.raises(ValueError, match=told) as error:
        client.infer(**message)
    assert len(str(error.value)) <= 300
    assert client.infer(frame=world.frames[1])["trusted"]


def test_without_a_goal_there_is_no_action(server: Running, world: World, client: Client) -> None:
    with pytest.raises(ValueError, match=r"goal=None: there is no goal; call set_goal\(goal\) first"):
        client.infer(frame=world.frames[1])


def test_a_client_that_comes_back_has_its_history(server: Running, world: World, client: Client) -> None:
    frames, own = world.frames, policy_of(world).controller()
    own.set_goal(frames[0])
    client.infer(goal=frames[0])
    for k, frame in enumerate(frames[1:5]):
        if k == 2:
            client.close()  # cut off
        np.testing.assert_array_equal(client.infer(frame=frame)["actions"], own.act(frame))
    assert client.metadata["resumed"]
    # also while the server still believes in the old connection
    second = Client(server.ws)
    second.metadata["session"] = client.metadata["session"]
    second._connect()
    assert second.metadata["resumed"]
    np.testing.assert_array_equal(second.infer(frame=frames[5])["actions"], own.act(frames[5]))
    with pytest.raises(ConnectionClosed):
        client._socket.recv(5)
    assert not Client(server.ws).metadata["resumed"]


def test_a_client_goes_on_after_a_restart(world: World) -> None:
    with running(policy_of(world)) as first:
        client = Client(first.ws)
        client.infer(goal=world.frames[0])
    with running(policy_of(world)) as second:
        client.url = second.ws
        assert client.infer(frame=world.frames[1])["trusted"]  # its goal was sent again
        assert not client.metadata["resumed"]


def test_the_newest_picture_wins(
    server: Running, world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:

    own, frames = ClientSession.answer, world.frames
    looked: list[int] = []

    def slow(self: ClientSession, message: dict[str, Any]) -> dict[str, Any]:
        if "frame" in message:
            looked.append(message["id"])
            time.sleep(0.3)
        return own(self, message)

    monkeypatch.setattr(ClientSession, "answer", slow)
    before = server.count("lewm_superseded_total")
    send = client._socket.send
    send(pack({"goal": frames[0], "frame": frames[1], "id": 0}))
    time.sleep(0.1)
    for k in range(1, 5):
        send(pack({"frame": frames[k], "id": k}))
    answers = [msgpack.unpackb(client._socket.recv(10), strict_map_key=False)["id"] for _ in range(2)]
    assert answers == looked == [0, 4]
    assert server.count("lewm_superseded_total") - before == 3


def test_health_metrics_and_page(server: Running, world: World, client: Client) -> None:
    assert json.loads(server.get("/health"))["status"] == "ok"
    assert server.get("/healthz")
    before = server.count("lewm_answer_seconds_count")
    client.infer(goal=world.frames[0])
    deadline = time.monotonic() + 5
    while server.count("lewm_answer_seconds_count") == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.count("lewm_answer_seconds_count") == before + 1
    assert server.count("lewm_clients") >= 1
    page = server.get("/")
    assert page.startswith("<!doctype html>")
    assert "http://" not in page.replace("http://www.w3.org", "")  # no resource of another place
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.get("/etc/passwd")


def test_a_page_sees_the_looks_of_clients(server: Running, world: World, client: Client) -> None:
    frames = world.frames
    with connect(server.ws + "/live") as page:
        client.infer(goal=frames[0])
        client.infer(frame=frames[1])
        pictures, status = set(), {}
        while len(pictures) < 2 or "cost" not in status:
            said = page.recv(10)
            if isinstance(said, bytes):
                assert Image.open(io.BytesIO(said[1:])).size == frames.shape[1:3]
                pictures.add(said[0])
            else:
                status = json.loads(said)
    assert status["trusted"]
    assert status["age"] < 10


def test_other_sites_and_names_are_refused(server: Running) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example:8000"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            server.get("/health", **headers)
    with pytest.raises(InvalidStatus, match="403"):
        Client(server.ws, origin="http://evil.example")


def test_a_token_is_asked_for(world: World) -> None:
    with running(policy_of(world), access=Access(host="127.0.0.1", token=TOKEN)) as server:
        for token in (None, "wrong", TOKEN + "x"):
            with pytest.raises(InvalidStatus, match="401"):
                Client(server.ws, token)
        assert Client(server.ws, TOKEN).metadata["task"]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.get("/metrics")
        assert server.get(f"/metrics?token={TOKEN}")
        assert server.get("/health")
        with pytest.raises(InvalidStatus, match="401"), connect(server.ws + "/live"):
            pass


def test_there_are_so_many_clients_and_no_more(world: World) -> None:
    with running(policy_of(world), most_clients=2) as server:
        first, second = Client(server.ws), Client(server.ws)
        with pytest.raises(ConnectionClosed, match="too many clients"):
            Client(server.ws)
        first.close()
        time.sleep(0.2)
        third = Client(server.ws)  # takes the place of one that waits for its client
        assert {second.metadata["session"], third.metadata["session"]} == set(server.server._pool._seats)


def test_garbage_ends_a_connection_and_nothing_else(server: Running, world: World, client: Client) -> None:
    rng = np.random.default_rng(0)
    client.infer(goal=world.frames[0])
    with connect(server.ws) as bad:
        bad.recv(5)
        for _ in range(5):
            bad.send(rng.bytes(200))
            assert isinstance(bad.recv(5), str)
        with pytest.raises(ConnectionClosed, match="messages that cannot be read"):
            bad.recv(5)
    with connect(server.ws, max_size=None) as large:
        large.recv(5)
        with contextlib.suppress(ConnectionClosed):
            large.send(bytes(6 << 20))
        with pytest.raises(ConnectionClosed, match="1009"):
            large.recv(5)
    assert client.infer(frame=world.frames[1])["trusted"]
