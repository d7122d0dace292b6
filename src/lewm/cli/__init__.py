"""The command line: `lewm collect | import | import-model | check | train | distill | eval | plan | export | bench |
serve | view | info | report | ablate | demo`.

A file each; `main` imports that of the command it runs. Progress and errors go to standard error, results to standard
output. Commands import what they need when they run: torch takes seconds to load, and a machine that only shows a help
text need not have it.
"""

import ctypes
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from lewm.names import did_you_mean
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
        return _fail(f"{name}: is not a command of {', '.join(COMMANDS)}; {remedy}", as_json="--json" in rest, status=2)
    _prepare_process()
    fail = partial(_fail, as_json="--json" in rest)
    try:
        return import_module(COMMANDS[name][1]).command(rest) or 0
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return fail(f'{error.name} is not installed; pip install "lewm[{extra}]"')
    except BrokenPipeError:  # whoever reads the output has had enough, as in `lewm info | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except ValueError as error:
        from lewm.cli.usage import as_options

        return fail(str(error) if name == "ablate" else as_options(str(error)))  # a table's settings are no options
    except SystemExit as stopped:
        if not isinstance(stopped.code, str):
            raise
        return fail(stopped.code)
    except KeyboardInterrupt as stopped:  # a command that was stopped at a point of its own says how to go on
        return fail(str(stopped) or f"stopped; {COMMANDS[name][2]}", status=130)


def _fail(message: str, *, as_json: bool, status: int = 1) -> int:
    """Say in one line what went wrong: on standard error, or as JSON where a program reads."""
    line = " ".join(message.split())
    if as_json:
        print(json.dumps({"error": line}))
        return status if status == 130 else 1
    print(line if status == 130 else f"error: {line}", file=sys.stderr)
    return status


def _overview() -> str:
    lines = (f"  {name:<13}{summary}" for name, (summary, *_) in COMMANDS.items())
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


_GOES_ON = "the same command goes on with what is not done yet"
_NOTHING = "nothing was written; give the same command again"
# What each command is for; the module whose `command` does it, where a number that it returns is the exit status; and
# what Ctrl-C leaves.
COMMANDS = {
    "collect": ("episodes of a task into a store", "lewm.cli.collect_command", _GOES_ON),
    "import": ("a recording of a robot, or images, into a store", "lewm.cli.import_command", _GOES_ON),
    "import-model": (
        "a released model of the published LeWM into a run folder",
        "lewm.cli.import_model_command",
        _NOTHING,
    ),
    "check": ("a store for what would spoil training; writes check.html", "lewm.cli.check_command", _NOTHING),
    "train": ("a world model on a store; resumes", "lewm.cli.train_command", _NOTHING),
    "distill": (
        "a run's data into a proposal: plans at once, or shorter searches",
        "lewm.cli.distill_command",
        _NOTHING,
    ),
    "eval": (
        "everything that can be measured, beside trivial rivals; writes eval.json and report.html",
        "lewm.cli.eval_command",
        _NOTHING,
    ),
    "plan": (
        "by search or proposal: in closed loop, beside a random policy, or once",
        "lewm.cli.plan_command",
        _NOTHING,
    ),
    "export": ("a run into a folder that a robot runs without PyTorch", "lewm.cli.export_command", _NOTHING),
    "bench": ("how fast an export is on this machine", "lewm.cli.bench_command", _NOTHING),
    "serve": (
        "an export behind a websocket, to robots' clients, with a page that shows it",
        "lewm.cli.serve_command",
        "clients find their way back when the same command runs again",
    ),
    "view": ("a model that drives a simulated task, on a page where one sets goals", "lewm.cli.view_command", _NOTHING),
    "info": ("sizes and parameter counts of a run or a preset", "lewm.cli.info_command", _NOTHING),
    "report": ("report.html of a run folder", "lewm.cli.report_command", _NOTHING),
    "ablate": ("variants of a table of studies, side by side; resumes", "lewm.cli.ablate_command", _GOES_ON),
    "demo": ("all of it on Two-Room, from nothing", "lewm.cli.demo_command", _GOES_ON),
}
# Modules that are not in the base install, and the extra that brings them.
_EXTRA_OF = {
    **dict.fromkeys(("torch", "pyarrow", "tensorboard", "rich", "av", "h5py", "filelock"), "train"),
    **dict.fromkeys(("gymnasium", "gym_pusht", "pymunk", "pygame"), "env"),
    **dict.fromkeys(("mujoco", "dm_control"), "mujoco"),
    **dict.fromkeys(("matplotlib", "PIL", "imageio"), "report"),
    **dict.fromkeys(("websockets", "msgpack", "prometheus_client"), "serve"),
    "ray": "ray",
    **dict.fromkeys(("zarr", "numcodecs"), "zarr"),
}
