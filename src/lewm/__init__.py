"""Compact action-conditioned JEPA world models: collect or import, train, evaluate, plan.

Every name here is loaded when it is first used, so that importing the package needs neither torch nor a simulator.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lewm.config import Config as Config
    from lewm.data import ClipSampler as ClipSampler
    from lewm.data import Store as Store
    from lewm.data import StoreMeta as StoreMeta
    from lewm.data import StoreWriter as StoreWriter
    from lewm.data.cameras import CameraFitter as CameraFitter
    from lewm.data.check.store_check import check_store as check_store
    from lewm.data.fit import FrameFit as FrameFit
    from lewm.data.fit import FrameFitter as FrameFitter
    from lewm.data.importers.source import ImportOptions as ImportOptions
    from lewm.data.importing import import_recording as import_recording
    from lewm.data.lag import measure_lag as measure_lag
    from lewm.envs import TASKS as TASKS
    from lewm.envs import Recorder as Recorder
    from lewm.envs import Task as Task
    from lewm.envs import collect as collect
    from lewm.envs import make_task as make_task
    from lewm.envs import record as record
    from lewm.evaluate import evaluate_env as evaluate_env
    from lewm.evaluate import evaluate_run as evaluate_run
    from lewm.evaluate import plan_once as plan_once
    from lewm.evaluate import plan_run as plan_run
    from lewm.families import preset as preset
    from lewm.families.family import WorldModel as WorldModel
    from lewm.plan import LatentController as LatentController
    from lewm.plan import action_space as action_space
    from lewm.pretrained import load_pretrained as load_pretrained
    from lewm.report.run_report import write_report as write_report
    from lewm.run_spec import RunSpec as RunSpec
    from lewm.run_spec import load_spec as load_spec
    from lewm.train import LoadedRun as LoadedRun
    from lewm.train import distill_run as distill_run
    from lewm.train import load_run as load_run
    from lewm.train import resume as resume_run  # noqa: F401
    from lewm.train import train as train_run  # noqa: F401
    from lewm.version import __version__ as __version__

# Where each public name lives. `lewm.train` is the room of that name, so its function is `train_run` here.
_HOMES = {
    "TASKS": ("lewm.envs", "TASKS"),
    "CameraFitter": ("lewm.data.cameras", "CameraFitter"),
    "ClipSampler": ("lewm.data", "ClipSampler"),
    "Config": ("lewm.config", "Config"),
    "FrameFit": ("lewm.data.fit", "FrameFit"),
    "FrameFitter": ("lewm.data.fit", "FrameFitter"),
    "ImportOptions": ("lewm.data.importers.source", "ImportOptions"),
    "LatentController": ("lewm.plan", "LatentController"),
    "LoadedRun": ("lewm.train", "LoadedRun"),
    "Recorder": ("lewm.envs", "Recorder"),
    "RunSpec": ("lewm.run_spec", "RunSpec"),
    "Store": ("lewm.data", "Store"),
    "StoreMeta": ("lewm.data", "StoreMeta"),
    "StoreWriter": ("lewm.data", "StoreWriter"),
    "Task": ("lewm.envs", "Task"),
    "WorldModel": ("lewm.families.family", "WorldModel"),
    "__version__": ("lewm.version", "__version__"),
    "action_space": ("lewm.plan", "action_space"),
    "check_store": ("lewm.data.check.store_check", "check_store"),
    "collect": ("lewm.envs", "collect"),
    "distill_run": ("lewm.train", "distill_run"),
    "evaluate_env": ("lewm.evaluate", "evaluate_env"),
    "evaluate_run": ("lewm.evaluate", "evaluate_run"),
    "import_recording": ("lewm.data.importing", "import_recording"),
    "load_pretrained": ("lewm.pretrained", "load_pretrained"),
    "load_run": ("lewm.train", "load_run"),
    "load_spec": ("lewm.run_spec", "load_spec"),
    "make_task": ("lewm.envs", "make_task"),
    "measure_lag": ("lewm.data.lag", "measure_lag"),
    "plan_once": ("lewm.evaluate", "plan_once"),
    "plan_run": ("lewm.evaluate", "plan_run"),
    "preset": ("lewm.families", "preset"),
    "record": ("lewm.envs", "record"),
    "resume_run": ("lewm.train", "resume"),
    "train_run": ("lewm.train", "train"),
    "write_report": ("lewm.report.run_report", "write_report"),
}


def __getattr__(name: str) -> Any:
    """Load a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lewm' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *_HOMES])
