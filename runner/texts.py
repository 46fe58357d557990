"""Strings for a terminal: what others wrote is shown as printable text, and lines are printed."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

LONGEST = 400  # characters; a path is shorter, nearly always
LONGEST_TEXT = 4000  # characters of an error or a warning


def say(line: str) -> None:
    """Print a line; a closed pipe, as after `| head`, is no reason to stop."""
    try:
        print(line, flush=True)
    except OSError:
        with suppress(OSError, ValueError):  # else Python would complain again as it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: object) -> str:
    """Write anything in one line, without what a terminal or a browser would act on."""
    plain = " ".join(str(text).split())
    return "".join(char if char.isprintable() else "?" for char in plain)


def printable_lines(text: object) -> list[str]:
    """Write anything in lines; of a very long text its end, where an error says what it is."""
    lines = str(text)[-LONGEST_TEXT:].splitlines()
    return ["".join(c if c.isprintable() else "?" for c in line.expandtabs()) for line in lines]


def shorten(text: str, width: int) -> str:
    """Cut out the middle of what is too long, since names often differ in their ends."""
    text = printable(text)
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


def tell(thing: object) -> str:
    r"""Write something as one printable line, cut short where it is very long.

    >>> tell("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    text = str(thing)
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:LONGEST])
    return line + ("..." if len(text) > LONGEST else "")


def reason(error: BaseException) -> str:
    """Write why something failed; of the system's errors without the path, which is told beside."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return tell(" ".join(text.split()).rstrip(".") or type(error).__name__)


def listed(names: Sequence[str], most: int = 10) -> str:
    """List the first names, and count the rest."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(tell, names[:most])) + rest
