"""`lewm import-model`: a run folder of a released model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from lewm.cli.options import Json, parse
from lewm.cli.show import counted, print_result
from lewm.files import check_folder

Dir = Annotated[Path, tyro.conf.arg(metavar="DIR")]


@dataclass(frozen=True, kw_only=True)
class ImportModel:
    """Make a run folder of a released model of the published LeWM (arXiv 2603.19312); it is used like any other.

    Nothing in the released folder is executed. The mean and the standard deviation of the actions come from a store.
    """

    folder: Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Released folder, with config.json and weights.pt, of the authors' collection quentinll/lewm on Hugging Face."""
    data: Dir
    """Store of the model's task, with frames of the model's size."""
    out: Dir
    """New run folder."""
    json: Json = False
    """Print one line of JSON and nothing else."""


def command(argv: list[str]) -> None:
    args = parse("import-model", ImportModel, argv)
    check_folder(args.out, "out")
    from lewm.train.released_run import import_model

    config = import_model(args.folder, args.out, args.data)
    result = {"run": str(args.out), "image_size": config.model.image_size, "frame_skip": config.data.frame_skip}
    print_result(
        args.json,
        result,
        lambda: print(
            f"{args.out}: takes frames of {config.model.image_size} px; a model step is "
            f"{counted(config.data.frame_skip, 'environment step')}"
        ),
    )
