"""Names that were mistyped: the one that was meant, where that can be told."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from operator import itemgetter

_TYPO = 0.75  # of a name's last part: one letter of four, two of eight
_TYPO_OF_ALL = 0.9  # of a group and a name: one group makes any two of its names rather alike


def did_you_mean(name: str, names: Iterable[str], otherwise: str, *, before: str = "", after: str = "") -> str:
    """Return the remedy for an unknown name: the one that it is nearly the same as, or `otherwise` where none is.

    Nearly the same are a typo, another separator (`train.learning_rate`), the last part alone (`learning-rate`), and a
    longer or shorter form (`evaluate` for `eval`). A name that is merely the least unlike is not proposed.

    Args:
        name: What was given.
        names: What there is.
        otherwise: The remedy where nothing is near: a list or a help text.
        before: What stands before a name that is proposed.
        after: What stands after it.
    """
    near = [(score, known) for known in names if (score := _nearness(name, known)) > 0.0]
    return f"did you mean {before}{max(near, key=itemgetter(0))[1]}{after}?" if near else otherwise


def _nearness(name: str, known: str) -> float:
    """Return how near a name is to a known one, 0 where it is another."""
    whole, known_whole = _plain(name), _plain(known)
    last, known_last = (_plain(text.rpartition(".")[2]) for text in (name, known))
    alike = SequenceMatcher(None, whole, known_whole).ratio()
    if whole == known_whole:
        return 4.0
    if last == known_last:
        return 2.0 + alike
    ratio = SequenceMatcher(None, last, known_last).ratio()
    swapped = any(last[:i] + last[i + 1] + last[i] + last[i + 2 :] == known_last for i in range(len(last) - 1))
    if swapped or ratio >= _TYPO:
        return 1.0 + 0.5 * (ratio + alike)
    if alike >= _TYPO_OF_ALL:
        return 1.0 + alike
    short, long = sorted((last, known_last), key=len)
    return 0.5 * ratio if len(short) > 2 and long.startswith(short) else 0.0


def _plain(text: str) -> str:
    """Return a name without what separates its words, nor upper case."""
    return re.sub(r"[\s._-]+", "-", text.strip(" -").lower())
