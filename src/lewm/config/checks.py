"""Checks of values of settings, and their one form of error: `field=value: constraint; remedy`."""

from collections.abc import Callable

from lewm.files import shorten

_LONGEST_VALUE = 60  # characters of a value or a name in an error


def shown(value: object, form: Callable[[object], str] = str) -> str:
    """Return a value as an error shows it: in one line, a long one without its middle."""
    try:
        return shorten(form(value), _LONGEST_VALUE)
    except ValueError:  # Python prints no number of more than 4300 digits
        return "a very long number"


def require(ok: bool, field: str, value: object, constraint: str, remedy: str) -> None:
    """Raise ValueError unless a value is fine."""
    if not ok:
        raise ValueError(f"{field}={shown(value)}: {constraint}; {remedy}")


def at_least(settings: object, group: str, least: int, *names: str, remedy: str = "use a preset's value") -> None:
    """Raise ValueError for the first of some settings of a group that is below `least`."""
    for name in names:
        value = getattr(settings, name)
        constraint = "must not be negative" if least == 0 else f"must be at least {least}"
        require(value >= least, f"{group}.{name}".lstrip("."), value, constraint, remedy)


def positive_range(group: str, name: str, value: tuple[float, float]) -> None:
    """Raise ValueError unless a pair is smallest and largest, both above 0."""
    low, high = value
    require(0 < low <= high, f"{group}.{name}", value, "must be a positive range", "give smallest and largest")
