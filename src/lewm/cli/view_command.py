"""`lewm view`: a model drives its simulated task, on a page where one sets goals."""

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional

from lewm.cli.options import parse
from lewm.cli.show import announce


@dataclass(frozen=True, kw_only=True)
class View:
    """Show how a model drives its simulated task, on a page of this machine: click on the picture to set a goal.

    A model that comes with the package is exported first, once; the page is there meanwhile.
    """

    name: Annotated[Positional[str], tyro.conf.arg(metavar="NAME")]
    """Model that comes with the package, or the folder of an export of one of the package's tasks."""
    port: int = 8000
    """Port; 0 takes a free one."""
    rate: float = 30.0
    """Environment steps a second."""
    deadline: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Seconds that a look may take; by default four fifths of the time that its actions take."""
    seed: int = 0
    """Seed of starts and goals."""


def command(argv: list[str]) -> None:
    args = parse("view", View, argv)
    from lewm.deploy.manifest import read_manifest
    from lewm.envs.registry import known_task
    from lewm.serve.access import Access
    from lewm.serve.board import Board
    from lewm.serve.client_session import Policy
    from lewm.serve.server import PolicyServer, address_of
    from lewm.serve.shipped import export_of, is_whole, shipped_names, write_export
    from lewm.serve.simulated import Simulated

    if not 0 <= args.port < 65536:
        raise ValueError(f"port={args.port}: must be 0 to 65535; use 8000")
    if not 1 <= args.rate <= 200:
        raise ValueError(f"rate={args.rate}: must be 1 to 200 steps a second; use 30")
    folder, shipped = export_of(args.name), args.name in shipped_names()
    task = args.name
    if not shipped:
        _, spec = read_manifest(folder)
        if known_task(spec) is None:
            raise ValueError(f"name={args.name}: is of no task of this package, so nothing simulates it; lewm serve it")
        task = spec.task
    logging.getLogger("lewm.deploy").setLevel(logging.ERROR)  # the page shows events
    board, over = Board(), threading.Event()
    what = "comes with the package" if shipped else folder.name
    board.show({"title": task, "of": f"{what}, {args.rate:g} steps a second", "state": "preparing"})
    simulated = Simulated(task, board, rate=args.rate, seed=args.seed)

    def prepare() -> None:
        try:
            if shipped and not is_whole(folder):
                simulated.tell("The model is exported for this machine; this is done once, and takes a minute or more.")
                write_export(args.name, folder, tell=lambda line: simulated.tell(f"Exporting: {line}"), over=over)
            simulated.tell("")
            policy = Policy.load(folder)
            manifest = policy.manifest
            steps = manifest.plan.execute * manifest.space.frame_skip
            deadline = 0.8 * steps / args.rate if args.deadline is None else args.deadline
            controller = policy.controller()
            controller.deadline = deadline
            simulated.drive_by(controller)
        except (ValueError, OSError) as error:
            announce(f"error: {error}")
            simulated.fail(str(error))

    access = Access(host="127.0.0.1")
    server = PolicyServer(None, board, access, command=simulated.do)

    async def run() -> None:
        async with server.listen(args.port) as listening:
            announce(f"{task} at {address_of(access, listening)}; Ctrl-C ends it")
            await listening.wait_closed()

    simulated.start()
    threading.Thread(target=prepare, name="lewm-prepare", daemon=True).start()
    try:
        asyncio.run(run())
    finally:
        over.set()
        time.sleep(0.05)  # for the exporting process to be told
        simulated.stop()
