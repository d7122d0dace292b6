"""The tasks by name."""

from typing import TYPE_CHECKING

from lewm.config import choices
from lewm.envs.task import Task
from lewm.names import did_you_mean
from lewm.run_spec import RunSpec

if TYPE_CHECKING:
    from lewm.data.store import StoreMeta

TASKS: dict[str, type[Task]] = {name: choices.chosen(choices.TASKS, name) for name in choices.TASKS}
"""The tasks that come with the package, by name."""


def known_task(described: "RunSpec | StoreMeta") -> type[Task] | None:
    """Return the task that a run or a store is of; None if it is of another robot, even one that is called the same."""
    task = TASKS.get(described.task)
    if task is None or described.state_names not in ((), task.state_names):
        return None
    same = (described.action_kind, described.action_size) == (task.action_kind, task.action_size)
    return task if same else None


def make_task(name: str, image_size: int | None = None) -> Task:
    """Make a task by its name.

    Args:
        name: One of `TASKS`.
        image_size: Height and width of a frame in pixels; None takes the task's own.

    Raises:
        ValueError: If there is no such task, or the image size is out of range.
    """
    if name not in TASKS:
        remedy = did_you_mean(name, TASKS, "give one of them")
        raise ValueError(f"task={name}: must be one of {', '.join(TASKS)}; {remedy}")
    return TASKS[name](TASKS[name].default_image_size if image_size is None else image_size)
