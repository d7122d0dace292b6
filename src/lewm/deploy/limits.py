"""What a robot's actions must obey, whatever was planned; no torch."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from lewm.config.checks import shown
from lewm.deploy.manifest import Manifest
from lewm.run_spec import RunSpec


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Bounds of an environment's actions, and of their rate.

    Args:
        low: (A,) smallest values; empty for discrete actions.
        high: (A,) largest values.
        change: (A,) how far an action may change from one environment step to the next; None for any.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    change: NDArray[np.float32] | None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        low: npt.ArrayLike | None,
        high: npt.ArrayLike | None,
        max_change: npt.ArrayLike | None,
    ) -> "Limits":
        """Check what a user gives; None takes that of the training episodes, and any rate.

        Raises:
            ValueError: If the numbers do not fit the actions.
        """
        space = manifest.space
        if space.kind == "discrete":
            if not (low is None and high is None and max_change is None):
                raise ValueError("low, high, max_change: discrete actions have no limits; leave them out")
            return cls(np.zeros(0, np.float32), np.zeros(0, np.float32), None)
        size = len(space.env_low)
        least = _numbers("low", space.env_low if low is None else low, size)
        most = _numbers("high", space.env_high if high is None else high, size)
        if (least > most).any() or (least == most).all():
            raise ValueError(f"low={least.tolist()}: must be below high={most.tolist()}; give the range of each entry")
        change = None if max_change is None else _numbers("max_change", max_change, size)
        if change is not None and (change <= 0).any():
            raise ValueError(f"max_change={change.tolist()}: must be positive; leave it out for no limit")
        if change is not None and manifest.sizes.batch > 1 and not space.relative:
            raise ValueError(f"max_change={change.tolist()}: is for one robot; export with --batch 1")
        return cls(least, most, change)

    def told(self, command: npt.ArrayLike, manifest: Manifest) -> NDArray[np.float32]:
        """Check what each robot was told last, or where its joints are, and give it as (B, A).

        Raises:
            ValueError: If it is none, or is far beyond what the training episodes command.
        """
        space = manifest.space
        if space.kind == "discrete":
            raise ValueError("command: discrete actions have none; leave it out")
        given, shape = _floats("command", command), (manifest.sizes.batch, len(self.low))
        given = given[None] if given.ndim == 1 else given
        if given.shape != shape or not np.isfinite(given).all():
            raise ValueError(
                f"command={shown(given.tolist())}: must be finite numbers of shape {shape}; give one row a robot"
            )
        low, high = np.minimum(self.low, space.env_low), np.maximum(self.high, space.env_high)
        if ((given < low - (high - low)) | (given > high + (high - low))).any():  # a joint may be a little beyond
            raise ValueError(
                f"command={shown(given.tolist())}: is far beyond {shown(low.tolist())} to {shown(high.tolist())}, "
                "which the training episodes command; give it in the recording's own unit"
            )
        return given

    def obeyed_by(self, actions: NDArray[Any], last: NDArray[np.float32] | None) -> NDArray[Any]:
        """Bring actions (B, L, A) within the limits, after the action (B, A) that was carried out last."""
        actions = np.clip(actions, self.low, self.high)
        if self.change is None or last is None:
            return actions
        for k in range(actions.shape[1]):
            actions[:, k] = last = np.clip(actions[:, k], last - self.change, last + self.change)
        return actions


def _numbers(name: str, value: npt.ArrayLike, size: int) -> NDArray[np.float32]:
    given = _floats(name, value)
    if given.shape not in ((), (1,), (size,)) or not np.isfinite(given).all():
        raise ValueError(
            f"{name}={shown(given.tolist())}: must be {size} finite numbers, or one for all; give one an entry"
        )
    return np.broadcast_to(given, (size,)).copy()


def _floats(name: str, value: npt.ArrayLike) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused as such
            return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={shown(value)}: must be numbers; give one an entry") from None


def positions(manifest: Manifest, spec: RunSpec) -> bool:
    """Whether actions are positions, so that a robot stands still only if it is told where it is."""
    return manifest.space.relative or (spec.control_mode == "position" and manifest.space.kind == "continuous")


def number(value: Any) -> float:
    """Return a number as such, and NaN for anything else."""
    try:
        return float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        return math.nan


def looks_of(delay: float, manifest: Manifest, spec: RunSpec) -> int:
    """Return a delay in looks.

    Raises:
        ValueError: If it is none, or longer than a plan.
    """
    if not 0 <= number(delay) < math.inf:
        raise ValueError(f"delay={shown(delay)}: must be seconds, at least 0; use 0 for none")
    if delay == 0:
        return 0
    if spec.model_fps is None:
        raise ValueError(f"delay={delay}: the run's data does not say how fast it was recorded; leave it out")
    looks = min(delay * spec.model_fps / manifest.plan.execute, float(manifest.plan.horizon + 1))
    if round(looks) * manifest.plan.execute > manifest.plan.horizon:
        raise ValueError(f"delay={delay}: is beyond the horizon of a plan; give less, or export a longer horizon")
    return round(looks)
