"""The tasks: true dynamics, frames, goals, the policies that collect episodes; and recording elsewhere.

What collects and records needs the clip store, and so PyArrow. It is loaded when it is first used: a robot's computer
runs a task without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lewm.envs.arm import Arm
from lewm.envs.push_t import PushT
from lewm.envs.reacher import Reacher
from lewm.envs.registry import TASKS, make_task
from lewm.envs.rule import PosePart, Rule
from lewm.envs.task import Behaviour, Task
from lewm.envs.two_room import TwoRoom, TwoRoomDiscrete

if TYPE_CHECKING:
    from lewm.envs.collector import collect
    from lewm.envs.recorder import Recorder, record

_LATER = {"collect": "lewm.envs.collector", "Recorder": "lewm.envs.recorder", "record": "lewm.envs.recorder"}

__all__ = [
    "TASKS",
    "Arm",
    "Behaviour",
    "PosePart",
    "PushT",
    "Reacher",
    "Recorder",
    "Rule",
    "Task",
    "TwoRoom",
    "TwoRoomDiscrete",
    "collect",
    "make_task",
    "record",
]


def __getattr__(name: str) -> Any:
    """Load what needs the clip store."""
    if name not in _LATER:
        raise AttributeError(f"module 'lewm.envs' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
