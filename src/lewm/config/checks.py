"""Checks of values of settings, and their one form of error: `field=value: constraint; remedy`."""

from collections.abc import Callable
from typing import Any

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


def at_least(settings: Any, group: str, least: int, *names: str, remedy: str = "") -> None:
    """Raise ValueError for the first of some settings that is below `least`; the usual remedy is its default."""
    for name in names:
        value, usual = getattr(settings, name), settings.__dataclass_fields__[name].default
        constraint = "must not be negative" if least == 0 else f"must be at least {least}"
        require(value >= least, f"{group}.{name}".lstrip("."), value, constraint, remedy or f"use {usual}")


def positive_range(settings: Any, group: str, name: str) -> None:
    """Raise ValueError unless a setting is a pair of smallest and largest, both above 0."""
    low, high = getattr(settings, name)
    usual = " ".join(map(str, settings.__dataclass_fields__[name].default))
    require(0 < low <= high, f"{group}.{name}", (low, high), "must be smallest and largest, above 0", f"use {usual}")
