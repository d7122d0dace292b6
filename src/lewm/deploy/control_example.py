"""Drive a robot with the export in this folder: `python control.py`. It needs `pip install lewm`, and no PyTorch."""

import time
from pathlib import Path

import numpy as np

from lewm.deploy.runtime import Controller

controller = Controller.load(Path(__file__).parent, fallback="stop")
size, rate = controller.manifest.sizes.image_size, controller.spec.model_fps or 10.0
controller.deadline = 0.8 / rate  # what is left goes to the camera and the motors


def camera() -> np.ndarray:
    """Return the newest picture, (size, size, 3) uint8 in the order red, green, blue. Put your camera here."""
    return np.zeros((size, size, 3), np.uint8)


def send(action: np.ndarray) -> None:
    """Carry an action out. Put your robot here."""


command = None  # where actions are positions: what the robot was told last, or where its joints are
if controller.needs_command:
    command = np.add(controller.spec.low, controller.spec.high) / 2
controller.set_goal(camera(), command=command)
for _ in range(100):  # as long as you like
    began = time.perf_counter()
    for action in controller.act(camera()):
        send(action)
    time.sleep(max(0.0, 1 / rate - (time.perf_counter() - began)))
print(controller.latency.summary(), dict(controller.events.counts))
