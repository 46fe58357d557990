"""The error that a user can correct, and the nearest known word to a mistyped one."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can correct; the command prints it as one line, without a traceback.

    Its text says what is wrong, where, and what to do.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Write ` Did you mean X?` where something known is near, else nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
