"""`lewm collect`: episodes of a task into a store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from lewm.cli.options import Json, parse
from lewm.cli.show import content, print_result
from lewm.config.choices import TASKS


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Collect episodes of a task into a store, in parallel; goes on after the episodes that the store already has."""

    task: Annotated[Positional[str], tyro.conf.arg(metavar="TASK", help=f"One of {', '.join(TASKS)}.")]
    episodes: int
    """Episodes that the store has in the end."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the store."""
    image_size: int | None = None
    """Height and width of a frame in pixels; if not given, the task's own."""
    episode_length: int = 100
    """Frames of an episode."""
    behaviour: Literal["scripted", "demos"] = "scripted"
    """Who acts: the task's own policy, or noisy replays of human demonstrations (push-t)."""
    demos: Annotated[Path | None, tyro.conf.arg(metavar="ZARR")] = None
    """The demonstrations to replay: the public pusht_cchi_v7_replay.zarr."""
    seed: int = 0
    """Seed of everything that is drawn."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processes; by default one a core."""
    json: Json = False
    """Print one line of JSON and nothing else."""


def command(argv: list[str]) -> None:
    args = parse("collect", Collect, argv)
    from lewm.envs import collect

    try:
        store = collect(
            args.task,
            args.out,
            episodes=args.episodes,
            image_size=args.image_size,
            episode_length=args.episode_length,
            behaviour=args.behaviour,
            demos=args.demos,
            seed=args.seed,
            workers=args.workers,
        )
    except RuntimeError as error:  # a worker failed; the message says what is left to do
        raise ValueError(str(error)) from error
    summary = {
        "store": str(args.out),
        "task": args.task,
        "episodes": store.num_episodes,
        "frames": store.num_frames,
        "image_size": store.meta.image_size,
    }
    print_result(args.json, summary, lambda: print(content(store)))
