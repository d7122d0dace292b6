"""`lewm import`: a recording into a store."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from lewm.cli.options import Json, parse
from lewm.cli.show import content, control, counted, print_result
from lewm.config.choices import FORMATS, FormatName

_NAMED = 20  # pictures left out


@dataclass(frozen=True, kw_only=True)
class Import:
    """Import a recording into a store, in parallel; goes on after the episodes that the store already has.

    LeRobot data sets, HDF5 of robomimic or of published world models, a folder of videos with tables of actions, and
    images: a folder a class, or WebDataset shards.
    """

    source: Annotated[Positional[Path], tyro.conf.arg(metavar="SRC")]
    """File or folder of the recording."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the store."""
    format: Annotated[
        FormatName | None,
        tyro.conf.arg(metavar="FORMAT", help=f"One of {', '.join(FORMATS)}; by default it is detected."),
    ] = None
    cameras: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Cameras to take, tiled in one frame if several; needed where the recording has more than one."""
    action: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Features, columns or datasets that are the action, concatenated in this order; by default they are detected."""
    state: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Features, columns or datasets that are the state, concatenated in this order; by default they are detected."""
    image_size: int = 64
    """Height and width of the stored frames in pixels."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """Cut the longer side to its middle, put black beside the shorter one, or change the proportions."""
    crop_box: Annotated[tuple[int, int, int, int] | None, tyro.conf.arg(metavar="LEFT TOP WIDTH HEIGHT")] = None
    """Pixels of the camera's frame that are kept, before anything else."""
    control_mode: Annotated[
        Literal["position", "displacement", "velocity"] | None,
        tyro.conf.arg(metavar="{position,displacement,velocity}"),
    ] = None
    """What the actions command: where to be, how far or how fast to move; by default it is guessed."""
    frame_skip: int = 1
    """Keep every n-th frame; an action is then the n actions between two of them, concatenated."""
    episodes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Import the first episodes only."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processes; by default one a core."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Decode on a Ray cluster, whose machines all have the recording under the same path."""
    json: Json = False
    """Print one line of JSON and nothing else."""


def command(argv: list[str]) -> None:
    args = parse("import", Import, argv)
    from lewm.data.importing import ImportOptions, import_recording

    options = ImportOptions(**{f.name: getattr(args, f.name) for f in dataclasses.fields(ImportOptions)})
    try:
        if args.ray is not None:
            from lewm.data.importers.ray_import import import_with_ray

            done = import_with_ray(
                args.source,
                args.out,
                options=options,
                format_=args.format,
                max_episodes=args.episodes,
                address=args.ray,
            )
        else:
            done = import_recording(
                args.source,
                args.out,
                options=options,
                format_=args.format,
                max_episodes=args.episodes,
                workers=args.workers,
            )
    except RuntimeError as error:  # a worker failed; the message says what is left to do
        raise ValueError(str(error)) from error
    store = done.store
    summary = {
        "store": str(args.out),
        "format": store.meta.origin["format"],
        "episodes": store.num_episodes,
        "frames": store.num_frames,
        "image_size": store.meta.image_size,
        "action_size": store.meta.action_size,
        "control_mode": store.meta.control_mode,
        "control_evidence": store.meta.control_evidence,
        "frames_fitted": done.fitted,
        "skipped": [{"episode": index, "reason": reason} for index, reason in done.skipped],
        "left_out": done.left_out,
    }

    def show() -> None:
        for index, reason in done.skipped:
            print(f"skipped episode {index}: {reason}", file=sys.stderr)
        for reason in done.left_out[:_NAMED]:
            print(f"left out: {reason}", file=sys.stderr)
        print(content(store))
        if done.fitted:
            print(f"frames: {done.fitted}")
        if store.meta.control_evidence:
            print(control(store.meta.control_mode, store.meta.control_evidence))
        for note in store.meta.origin.get("notes", []):
            print(f"note: {note}")
        if done.skipped:
            print(f"skipped: {counted(len(done.skipped), 'episode')}, named above; run again to add what is mended")
        if done.left_out:
            named = "named above" if len(done.left_out) <= _NAMED else f"the first {_NAMED} named above"
            print(f"left out: {counted(len(done.left_out), 'single picture')}, {named}")

    print_result(args.json, summary, show)
