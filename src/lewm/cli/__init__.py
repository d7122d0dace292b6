"""The command line: `lewm collect | import | check | train | eval | plan | info | report | ablate | demo`.

A file each; `main` imports that of the command it runs. Progress and errors go to standard error, results to standard
output. Commands import what they need when they run: torch takes seconds to load, and a machine that only shows a help
text need not have it.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from lewm.config import did_you_mean
from lewm.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 for an error of the user's or the machine's, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        print(f"lewm {__version__}")
        return 0
    if name not in COMMANDS:
        remedy = did_you_mean(name, COMMANDS, "see lewm --help", before="lewm ")
        return _fail(f"{name}: is not a command of {', '.join(COMMANDS)}; {remedy}", status=2)
    _prepare_process()
    try:
        return import_module(COMMANDS[name][1]).command(rest) or 0
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _fail(f'{error.name} is not installed; pip install "lewm[{extra}]"')
    except BrokenPipeError:  # whoever reads the output has had enough, as in `lewm info | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except ValueError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def _fail(message: str, *, status: int = 1) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return status


def _overview() -> str:
    lines = (f"  {name:<9}{summary}" for name, (summary, _) in COMMANDS.items())
    more = "`lewm COMMAND --help` lists the options of a command, `lewm --version` tells the version."
    return "\n".join(("usage: lewm COMMAND [OPTIONS]", "", *lines, "", more))


def _prepare_process() -> None:
    """Set what must be set before torch, OpenMP or SDL are loaded. What the user has set stays."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a small machine
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # Push-T draws without a screen
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # glibc gives large blocks back to the system at once, and every step pays for fetching them anew:
        # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        libc.mallopt(-3, 32 * 2**20)
        libc.mallopt(-1, 512 * 2**20)


# What each command is for, and the module whose `command` does it; a number that it returns is the exit status.
COMMANDS = {
    "collect": ("episodes of a task into a store", "lewm.cli.collect"),
    "import": ("a recording of a robot, or images, into a store", "lewm.cli.importing"),
    "check": ("a store for what would spoil training; writes check.html", "lewm.cli.check"),
    "train": ("a world model on a store; resumes", "lewm.cli.train"),
    "eval": (
        "everything that can be measured, beside trivial rivals; writes eval.json and report.html",
        "lewm.cli.eval",
    ),
    "plan": ("with CEM or MPPI: in closed loop, beside a random policy, or once", "lewm.cli.plan"),
    "info": ("sizes and parameter counts of a run or a preset", "lewm.cli.info"),
    "report": ("report.html of a run folder", "lewm.cli.report"),
    "ablate": ("variants of a table of studies, side by side; resumes", "lewm.cli.ablate"),
    "demo": ("all of it on Two-Room, from nothing", "lewm.cli.demo"),
}
# Modules that are not in the base install, and the extra that brings them.
_EXTRA_OF = {
    **dict.fromkeys(("torch", "pyarrow", "tensorboard", "rich", "av", "h5py", "filelock"), "train"),
    **dict.fromkeys(("gymnasium", "gym_pusht", "pymunk", "pygame"), "env"),
    **dict.fromkeys(("mujoco", "dm_control"), "mujoco"),
    **dict.fromkeys(("matplotlib", "PIL", "imageio"), "report"),
    "ray": "ray",
    **dict.fromkeys(("zarr", "numcodecs"), "zarr"),
}
