"""The error that a user can correct, and the nearest known word to a mistyped one."""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can correct; the command prints it as one line, without a traceback.

    Its text says what is wrong, where, and what to do.
    """


class Unfit(UserError):
    """This machine cannot do the run: no card, no room, or another library than before."""


_LACKED = re.compile(
    "allocate memory|out of memory|No space left|map segment|can't start new thread|ECC error|"
    "DataLoader worker|device.*(?:busy|unavailable|lost)",
    re.IGNORECASE,
)
"""What torch says, as a RuntimeError, of a machine without memory or with a card that is gone."""


def cause_of(error: BaseException) -> str:
    """Give back what ended a run: `machine`, if it lacked memory, room, a file or a device.

    Anything else is an `exception`, of its own code or about its config.
    """
    for link in causes(error):
        lacking = isinstance(link, OSError | MemoryError | Unfit)
        if lacking or (isinstance(link, RuntimeError) and _LACKED.search(str(link))):
            return "machine"
    return "exception"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Run through an error and what it was raised from, or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Write ` Did you mean X?` where something known is near, else nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
