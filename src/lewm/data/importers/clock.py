"""Whether the times of a table are in the unit that its column says, beside a video whose times are known."""

import numpy as np
import numpy.typing as npt

from lewm.data.importers.tables import TIMES

_UNITS = {"_s": "seconds", "_ms": "milliseconds", "_us": "microseconds", "_ns": "nanoseconds"}
_NEAR = 0.1  # share by which numbers of rows and frames may differ and be of the same moments
_SHARED = 0.5  # of the longer of two spans: less is suspicious


def check_clock(
    column: str, times: npt.NDArray[np.float64], frames: npt.NDArray[np.float64], step: float, where: str
) -> None:
    """Refuse times that hardly meet those of the frames, and would if they were of another unit.

    Times that meet the frames badly in every unit are of another clock, or of a longer recording, and no matter of
    units.

    Args:
        column: name of the table's column.
        times: (N,) seconds of the rows, as the column's name says, ascending.
        frames: (F,) seconds of the frames from the first, ascending.
        step: interval of the frames in seconds.
        where: names the table in the error.

    Raises:
        ValueError: another unit fits.
    """
    said = _shared(times, frames, step)
    if said >= _SHARED:
        return
    numbers = times / TIMES[column]
    name = column if column in ("timestamp", "time", "t") else column.rpartition("_")[0]
    fits = {unit: _shared(numbers * TIMES[name + unit], frames, step) for unit in _UNITS}
    best = max(fits, key=lambda unit: fits[unit])
    spans = f"{where}: {column} is {times[0]:.6g} to {times[-1]:.6g} s beside a video of {frames[-1] + step:.6g} s"
    as_many = abs(len(times) - len(frames)) <= max(_NEAR * len(frames), 1)
    if as_many and len(times) > 1 and np.array_equal(np.unique(np.diff(numbers)), [1.0]):
        raise ValueError(f"{spans}; these are numbers of frames, so give seconds: divide them by {1 / step:.6g}")
    if fits[best] >= _SHARED:
        raise ValueError(f"{spans}; name the column {name}{best}, if its times are {_UNITS[best]}")
    ratio = (frames[-1] - frames[0]) / max(times[-1] - times[0], 1e-12)
    if as_many and len(times) > 2 and not _SHARED <= ratio <= 1 / _SHARED:
        raise ValueError(
            f"{spans}, and has as many rows as that has frames; correct the video's frame rate, or multiply the times "
            f"by {ratio:.4g}"
        )


def _shared(times: npt.NDArray[np.float64], frames: npt.NDArray[np.float64], step: float) -> float:
    """Return the part of the longer of the spans of rows and frames that lies in the other one.

    A row or a frame lasts until the next one.
    """
    end = times[-1] + (times[-1] - times[0]) / max(len(times) - 1, 1)
    last = frames[-1] + step
    both = min(end, last) - max(times[0], frames[0])
    longer = max(end - times[0], last - frames[0])
    return max(float(both / longer), 0.0)
