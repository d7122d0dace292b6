"""The tasks: true dynamics, frames, goals, the policies that collect episodes; and recording elsewhere."""

from lewm.envs.arm import Arm
from lewm.envs.collect import collect
from lewm.envs.push_t import PushT
from lewm.envs.reacher import Reacher
from lewm.envs.record import Recorder, record
from lewm.envs.registry import TASKS, make_task
from lewm.envs.rule import PosePart, Rule
from lewm.envs.task import Behaviour, Task
from lewm.envs.two_room import TwoRoom, TwoRoomDiscrete

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
