"""The tasks: true dynamics, frames, goals, and the policies that collect episodes."""

from lewm.envs.collect import collect
from lewm.envs.push_t import PushT
from lewm.envs.registry import TASKS, make_task
from lewm.envs.task import Behaviour, Task
from lewm.envs.two_room import TwoRoom, TwoRoomDiscrete

__all__ = ["TASKS", "Behaviour", "PushT", "Task", "TwoRoom", "TwoRoomDiscrete", "collect", "make_task"]
