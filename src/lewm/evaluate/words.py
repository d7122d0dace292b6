"""Numbers in words, as the report and the video say them."""


def number(value: float | None, *, digits: int = 3) -> str:
    """Return a number with that many digits behind the point, fewer for large ones."""
    if value is None:
        return "–"
    size = 0 if abs(value) < 10 else 1 if abs(value) < 100 else 2
    return f"{value:.{max(digits - size, 0)}f}"


def percent(value: float | None) -> str:
    """Return a share as a percentage."""
    return "–" if value is None else f"{100 * value:.0f}%"


def counted(count: float | None, noun: str) -> str:
    """Return a count and what is counted."""
    return f"{number(count, digits=0)} {noun}{'' if count == 1 else 's'}"


def rate(value: float | None, interval: tuple[float, float] | None) -> str:
    """Return a rate with its interval, if it has one."""
    return percent(value) + (f" ({percent(interval[0])} to {percent(interval[1])})" if interval else "")


def outcome(solved_at: int, steps: int) -> str:
    """Say how an episode of at most so many environment steps ended; `solved_at` is -1 where the goal was missed."""
    return f"reached at step {solved_at}" if solved_at >= 0 else f"not reached in {counted(steps, 'step')}"
