"""What is wrong with a command line, in one line: the parser explains it in a box of many."""

import re
from collections.abc import Sequence
from itertools import dropwhile, takewhile

from lewm.config import Config, setting_types
from lewm.families.presets import PRESETS, of_another_family
from lewm.names import did_you_mean


def explain(
    command: str, argv: Sequence[str], explained: str, options: Sequence[str], settings: Config | None = None
) -> str:
    """Say what is wrong with a command line and what remedies it.

    Args:
        command: Name of the command.
        argv: Its arguments.
        explained: What the parser says.
        options: The options that the command has.
        settings: Those that the command starts from, if it takes settings of a model.
    """
    see = f"see `lewm {command} --help`"
    for argument in argv:
        option = argument.partition("=")[0]
        if option.startswith("--") and option.replace("_", "-") not in options:
            name = option.removeprefix("--").replace("-", "_").replace("model.no_", "model.")
            if settings is not None and (told := of_another_family(name, settings)):
                return f"{option}: {told}"
            if settings is None and name.startswith(("model.", "train.", "data.")):
                return (
                    f"{option}: is fixed once a run is trained; leave it out, or train a new run with it: `lewm train`"
                )
            return f"{option}: is not an option of lewm {command}; {did_you_mean(option, options, see)}"
    lines = _inside(explained)
    text = " ".join(" ".join(lines).split())
    if found := re.match(r"Error parsing (\S+): .*(int\(\)|float).*: ('.*')", text):
        option, kind, value = found.groups()
        return f"{option}: {value} is not a {'whole ' if kind == 'int()' else ''}number; {see}"
    if found := re.match(r"Missing value for argument '(.*?)'", text):
        return f"{found[1]}: needs a value; {see}"
    if found := re.match(r"Error parsing (\S+): no type matching", text):
        return f"{found[1]}: the values given do not fit it; {see}"
    if found := re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of [({](.*)[)}]", text):
        value, option, listed = found.groups()
        if option == "--model.family":
            return f"{option}={value}: the preset chooses the family; leave it out, and give --preset; {see}"
        choices = sorted(set(re.findall(r"'([^']*)'", listed)) - {"None"})
        remedy = did_you_mean(value, choices, "give one of them")
        return f"{option}={value}: must be one of {', '.join(choices)}; {remedy}"
    if text.startswith("Missing from"):
        names = [line.split()[0] for line in lines[1:] if re.match(r" {4}\S", line)]
        return f"lewm {command}: needs {', '.join(names)}; {see}"
    if found := re.match(r"Unrecognized options: (.*)", text):
        return f"{found[1]}: stands where lewm {command} expects nothing; {see}"
    return f"{text or 'wrong usage'}; {see}"


def as_options(line: str) -> str:
    """Write the settings that an error's remedy names as they are typed: `plan.cost=tokens` as --plan.cost tokens."""
    wrong, semicolon, remedy = line.partition("; ")
    known = {name for config in PRESETS.values() for name in setting_types(config)}

    def option(found: re.Match[str]) -> str:
        name, switch, value = found.groups()
        if name not in known:
            return found[0]
        group, _, field = name.replace("_", "-").rpartition(".")
        return f"--{group}.{'no-' if switch == 'False' else ''}{field}{f' {value}' if value else ''}"

    return wrong + semicolon + re.sub(r"(?<![-\w./])(\w+\.\w+)(?:[= ](True|False)|=([^\s;,]+))?", option, remedy)


def _inside(explained: str) -> list[str]:
    """Return the lines of a box up to its first rule; without Unicode its frame is of spaces."""

    def is_rule(line: str) -> bool:
        return re.fullmatch("[─╯-]*", line) is not None

    lines = [line[2:].rstrip(" │") for line in explained.splitlines()[1:]]  # below the title
    return list(takewhile(lambda line: not is_rule(line), dropwhile(is_rule, lines)))
