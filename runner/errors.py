"""The error that a user can correct, and the nearest known word to a mistyped one."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can correct; the command prints it as one line, without a traceback.

    Its text says what is wrong, where, and what to do.
    """


class Unfit(UserError):
    """The machine does not let a run go on: no card, no room, or another library than before."""


_LACKING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT),
}


def cause_of(error: BaseException) -> str:
    """Tell what ended a run: `machine`, if it lacked memory, room or a fit, else `exception`."""
    link: BaseException | None = error
    while link is not None:
        lacking = isinstance(link, OSError) and link.errno in _LACKING
        # torch's are of its own types
        memory = isinstance(link, MemoryError) or type(link).__name__ == "OutOfMemoryError"
        if lacking or memory or isinstance(link, Unfit) or "can't allocate memory" in str(link):
            return "machine"
        link = link.__cause__ or link.__context__
    return "exception"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Write ` Did you mean X?` where something known is near, else nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
