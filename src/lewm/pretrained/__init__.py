"""Trained models that come with the package: a folder each, named after the task, that holds a run's files.

`config.json`, `spec.json`, `weights.safetensors`, and `metrics.json`, what was measured when it was made. If there is a
`starts-PROTOCOL.json`, it lists where to plan from; otherwise episodes are collected for it. Loading executes nothing.
"""

from pathlib import Path

from lewm.config import EvalProtocol
from lewm.names import did_you_mean
from lewm.train.checkpoint import CONFIG, LoadedRun, load_run

FOLDER = Path(__file__).parent


def pretrained_names() -> tuple[str, ...]:
    """List the models that there are."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}")))


def pretrained_run(name: str) -> Path:
    """Return the run folder of a model.

    Raises:
        ValueError: If there is no model of that name.
    """
    names = pretrained_names()
    if name not in names:
        if not names:
            raise ValueError(f"pretrained={name}: no model comes with this package; train one with `lewm train`")
        remedy = did_you_mean(name, names, "give one of them")
        raise ValueError(f"pretrained={name}: must be one of {', '.join(names)}; {remedy}")
    return FOLDER / name


def pretrained_starts(name: str, protocol: EvalProtocol) -> Path | None:
    """Return the list of starts that comes with a model for a protocol; None where episodes are collected instead."""
    path = pretrained_run(name) / f"starts-{protocol}.json"
    return path if path.is_file() else None


def load_pretrained(name: str, device: str | None = None) -> LoadedRun:
    """Load a model that comes with the package, for inference.

    Args:
        name: One of `pretrained_names()`, the name of its task.
        device: auto, cpu, cuda or mps; None takes the configuration's setting.

    Raises:
        ValueError: If there is no model of that name, or its files are damaged.
    """
    return load_run(pretrained_run(name), device)
