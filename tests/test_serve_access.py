"""Who may reach a server, and with what."""

from pathlib import Path
from typing import Any

import pytest

from lewm.cli import main
from lewm.serve.access import Access, is_loopback

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("192.168.1.2", False), ("localhost.evil.example", False),
    ],
)  # fmt: skip
def test_which_hosts_are_this_machine_alone(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"host": "0.0.0.0"}, "can be reached by other machines, which needs --token, --certfile and --keyfile"),
        ({"host": "0.0.0.0", "token": TOKEN}, "can be reached by other machines"),
        ({"token": "short"}, "token: must be at least 16 printable ASCII characters"),
        ({"certfile": Path("a.pem")}, "certfile, keyfile: one is given alone"),
        ({"certfile": Path("a.pem"), "keyfile": Path("b.pem")}, "certfile=a.pem: cannot be used with keyfile=b.pem"),
    ],
)
def test_what_is_refused(given: dict[str, Any], told: str) -> None:
    wanted = {"host": "127.0.0.1", "token": None, "certfile": None, "keyfile": None} | given
    with pytest.raises(ValueError, match=told):
        Access.of(**wanted)


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Host": "localhost:8000"}, False),
        ({"Host": "[::1]:8000"}, False),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}, False),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:9000"}, True),
        ({"Host": "127.0.0.1:8000", "Origin": "null"}, True),
        ({"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}, True),
        ({}, True),
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str], refused: bool) -> None:
    assert Access(host="127.0.0.1").refuses_origin(headers) is refused


def test_a_token_may_be_shown_in_three_ways() -> None:
    access = Access(host="127.0.0.1", token=TOKEN)
    assert access.knows({"Authorization": f"Api-Key {TOKEN}"}, "/")
    assert access.knows({"Authorization": f"Bearer {TOKEN}"}, "/")
    assert access.knows({}, f"/live?token={TOKEN}")
    assert not access.knows({"Authorization": f"Basic {TOKEN}"}, "/")
    assert not access.knows({}, "/live?token=" + "&a=1" * 100)
    assert not access.knows({"Authorization": "Api-Key ä"}, "/")


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, told in (
        (["--host", "0.0.0.0"], "host=0.0.0.0: can be reached by other machines"),
        (["--port", "70000"], "port=70000: must be 0 to 65535; use 8000"),
        (["--clients", "0"], "clients=0: must be at least 1; use 64"),
        ([], "has no manifest.json; give the --out folder of `lewm export`"),
    ):
        assert main(["serve", str(tmp_path), *argv]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
