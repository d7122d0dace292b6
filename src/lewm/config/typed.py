"""Dataclasses from JSON values: every name and every type is checked."""

import dataclasses
import sys
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal

from lewm.config.checks import shown
from lewm.names import did_you_mean


def build(
    cls: type,
    raw: Any,
    source: str,
    prefix: str = "",
    *,
    unions: Mapping[str, Mapping[str, type]] | None = None,
    later: Collection[str] = (),
) -> Any:
    """Build a dataclass from JSON values.

    Args:
        cls: The dataclass; a field that is a dataclass too is built likewise.
        raw: What was read.
        source: Names the file in errors.
        prefix: Stands before the names in errors.
        unions: Fields whose class is chosen by what they hold, by full name: classes by the value of their `family`.
        later: Full names of fields that came later: where they are missing they have their defaults.

    Raises:
        ValueError: If a name is unknown or missing, or a value is of another type or out of range.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{source}: {prefix.rstrip('.')}={shown(raw, repr)}: must be an object; restore the file")
    hints = {field.name: typing.get_type_hints(cls)[field.name] for field in dataclasses.fields(cls)}
    for name in raw:
        if name not in hints:
            remedy = did_you_mean(name, hints, "leave it out", before=prefix)
            raise ValueError(f"{source}: {prefix}{shown(name)}: is not a setting; {remedy}")
    values = {}
    for name, hint in hints.items():
        if name not in raw:
            if prefix + name in later:
                continue
            raise ValueError(f"{source}: {prefix}{name}: is missing; restore the file or train again")
        if unions and prefix + name in unions:
            hint = _member(raw[name], unions[prefix + name], source, prefix + name)
        if dataclasses.is_dataclass(hint):
            values[name] = build(typing.cast(type, hint), raw[name], source, f"{prefix}{name}.", later=later)
            continue
        value = as_field(raw[name], hint)
        if wrong := misfit(value, hint):
            raise ValueError(f"{source}: {prefix}{name}={shown(value, repr)}: {wrong}; restore the file")
        values[name] = value
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _member(raw: Any, classes: Mapping[str, type], source: str, name: str) -> type:
    """Return the class that a value's `family` names."""
    if not isinstance(raw, dict):
        raise ValueError(f"{source}: {name}={shown(raw, repr)}: must be an object; restore the file")
    tag = raw.get("family")
    if not isinstance(tag, str) or tag not in classes:
        raise ValueError(
            f"{source}: {name}.family={shown(tag, repr)}: must be one of {', '.join(classes)}; restore the file"
        )
    return classes[tag]


def as_field(value: Any, hint: Any) -> Any:
    """Return a JSON value in the form of a field: a tuple for a list, a float for a whole number where one is meant."""
    if isinstance(value, list) and typing.get_origin(hint) is tuple:
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.maxsize:
        return float(value)
    return value


def misfit(value: Any, hint: Any) -> str:
    """Say what a value of a field must be; nothing where it is of the field's type, and finite."""
    if not fits(value, hint):
        return f"must be {expected(hint)}"
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int) and abs(number) > sys.maxsize:
            return "must have at most 64 bits"
        if isinstance(number, float) and not abs(number) <= sys.float_info.max:
            return "must be finite"
    return ""


def expected(hint: Any) -> str:
    """Say what type of value a field takes."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    return str(hint) if arguments else hint.__name__


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value has the type of a field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(type(value) is type(argument) and value == argument for argument in arguments)
    if origin is types.UnionType:
        return any(fits(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))
