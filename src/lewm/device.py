"""The one place that decides where to compute."""

import os

import torch


def resolve_device(name: str) -> torch.device:
    """Return the device of a setting: `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: If that device is not here.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in here.items() if available)
    if not here[name]:
        raise ValueError(f"device={name}: this machine or this PyTorch build has none; use cpu or auto")
    return torch.device(name)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device's own memory; 0 where it has none of its own."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def gpus() -> list[str]:
    """Return the names by which the environment's CUDA_VISIBLE_DEVICES gives each GPU to a process."""
    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(number) for number in range(count)]
