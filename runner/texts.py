"""Strings for a terminal or a page: foreign text is shown as printable text, and lines printed."""

import codecs
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

LONGEST = 400  # characters; a path is shorter, nearly always
LONGEST_TEXT = 4000  # characters of an error or a warning


PLAIN = {"±": "+-", "…": "..", "\u00d7": "x", "\u2013": "-", "\u2018": "'", "\u2019": "'"}
"""What is written where a terminal does not know the character."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Write other characters for those that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("plain", _plain)


def typeable(text: str, stream: TextIO | None = None) -> str:
    """Write a text in the characters that the terminal, or another stream, can show."""
    known = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(known, "plain").decode(known)


_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


class _Lost:
    """Whether something printed was lost, because there is no room where it goes."""

    is_true = False


def output_was_lost() -> bool:
    """Whether something printed was lost; a closed pipe, as of `| head`, does not count."""
    return _Lost.is_true


def say(*lines: str, coloured: bool = False) -> None:
    """Print lines as plain text, in characters that the terminal can show.

    Where printing fails the program continues: training is worth more.

    Args:
        lines: What to print.
        coloured: Whether to leave colours as they are, in what rich laid out.
    """
    for line in lines:
        parts = _COLOUR.split(line) if coloured else [line]
        plain = (
            part if n % 2 else "\n".join(map(printable, part.expandtabs().split("\n")))
            for n, part in enumerate(parts)
        )
        _write(sys.stdout, "".join(plain))


def complain(line: str) -> None:
    """Print a line where errors are printed."""
    _write(sys.stderr, printable(line))


def _write(stream: TextIO | None, line: str) -> None:
    try:
        print(typeable(line, stream), file=stream, flush=True)
    except (OSError, ValueError) as error:  # ValueError: it is closed
        drop(stream, error)


def drop(stream: TextIO | None, error: Exception) -> None:
    """Print nothing more into a stream that failed; Python would complain again as it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        _Lost.is_true = True
        if stream is not sys.stderr:
            complain(f"What is printed cannot be written: {reason(error)}.")


def printable(text: object, most: int | None = None) -> str:
    r"""Write anything in one line, without what a terminal or a browser would act on.

    Args:
        text: What to write.
        most: The characters it may have, at least 3; the middle of a longer text is cut out,
            since names often differ in their ends.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    >>> printable("clipping-max_norm=0.1", 11)
    'clipp…m=0.1'
    """
    whole = str(text)
    if most is not None and len(whole) > 2 * most:  # else there would be much to escape in vain
        whole = whole[:most] + whole[-most:]
    line = whole
    if not whole.isprintable():
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in whole)
    if most is None or len(line) <= most:
        return line
    tail = (most - 1) // 2
    return f"{line[: most - 1 - tail]}…{line[-tail:]}"


def printable_lines(text: object) -> list[str]:
    """Write anything in lines; of a very long text its end, where an error says what it is."""
    return [printable(line.expandtabs()) for line in str(text)[-LONGEST_TEXT:].splitlines()]


def short(thing: object) -> str:
    """Write the name of something as one printable line of a usual length."""
    return printable(thing, LONGEST)


def reason(error: BaseException) -> str:
    """Write why something failed; of a system's error without the path, which messages add."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return short(" ".join(text.split()).rstrip(".") or type(error).__name__)


def in_one_line(error: BaseException) -> str:
    """Write an exception in one line, with its type where the text alone would say little."""
    text = " ".join(str(error).split())
    if text and isinstance(error, ValueError | RuntimeError | TypeError | OverflowError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def same_command(again: bool) -> str:
    """Write which command resumes what was begun; with `again=true` it would restart."""
    return "the same command without again=true" if again else "the same command"


def listed(names: Sequence[str], most: int = 10) -> str:
    """List the first names, and count the rest."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(short, names[:most])) + rest


def size(count: float) -> str:
    """Write a number of bytes.

    >>> size(950), size(5_100), size(2.3e9)
    ('950 bytes', '5.1 kB', '2.3 GB')
    """
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
