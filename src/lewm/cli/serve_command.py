"""`lewm serve`: an export behind a websocket that robots' clients speak, and a page to watch it."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from lewm.cli.options import parse
from lewm.cli.show import announce


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve an export: clients of openpi connect by websocket, and a browser shows a page at the same address.

    Each client has a session of its own. GET /health and /metrics say how it is.
    """

    export: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Export folder."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines reach needs a token and TLS."""
    port: int = 8000
    """Port; 0 takes a free one."""
    token: Annotated[str | None, tyro.conf.arg(metavar="STR")] = None
    """What clients must show, `Authorization: Api-Key TOKEN`. The environment's LEWM_TOKEN is seen by fewer."""
    certfile: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """TLS certificate, PEM."""
    keyfile: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Its private key, PEM."""
    deadline: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Seconds that a look may take; by default as long as it needs."""
    fallback: Literal["stop", "hold"] = "stop"
    """What a client is told when the model is not trusted: to stand still, or its last action."""
    delay: float = 0.0
    """Seconds from the picture to the moment at which its action takes effect."""
    provider: Literal["cpu", "cuda", "tensorrt", "openvino"] = "cpu"
    """Where graphs run."""
    threads: int = 1
    """Threads of one look; looks of several clients run at once."""
    clients: int = 64
    """Sessions at a time."""


def command(argv: list[str]) -> None:
    args = parse("serve", Serve, argv)
    from lewm.deploy import sessions
    from lewm.serve.access import Access
    from lewm.serve.board import Board
    from lewm.serve.client_session import Policy
    from lewm.serve.server import PolicyServer, address_of

    token = args.token or os.environ.get("LEWM_TOKEN") or None
    access = Access.of(args.host, token, args.certfile, args.keyfile)
    if not 0 <= args.port < 65536:
        raise ValueError(f"port={args.port}: must be 0 to 65535; use 8000")
    if args.clients < 1:
        raise ValueError(f"clients={args.clients}: must be at least 1; use 64")
    settings = {"deadline": args.deadline, "fallback": args.fallback, "delay": args.delay}
    sessions.share_threads(args.threads)
    policy = Policy.load(args.export, provider=args.provider, threads=args.threads, **settings)
    board = Board()
    board.show({"state": "waiting", "title": policy.spec.task, "of": str(args.export.name)})
    server = PolicyServer(policy, board, access, most_clients=args.clients)

    async def run() -> None:
        async with server.listen(args.port) as listening:
            announce(f"{policy.spec.task} at {address_of(access, listening)}; Ctrl-C ends it")
            await listening.wait_closed()

    asyncio.run(run())
