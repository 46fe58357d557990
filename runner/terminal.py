"""What every command does about the terminal: nothing foreign acts on it, and it may be gone.

Lines of our own are printed by `say` of runner/texts.py; here is what Python and libraries print.
"""

import argparse
import atexit
import errno
import gc
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

from runner.errors import UserError, did_you_mean
from runner.texts import complain, drop, output_was_lost, printable, printable_lines, reason

LONGEST = 1000  # characters of an error


@contextmanager
def terminal() -> Iterator[None]:
    """Do a command: what is printed is text alone, and what fails outside of it is one line.

    Raises:
        SystemExit: With 1, if there is too little memory, or what was printed could not be
            written; without a word if its reader closed the pipe, as `head` does.
    """
    _open_closed_streams()
    show_as_text()
    atexit.register(gc.freeze)  # Python would look through all that torch has made, half a second
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="plain")  # of runner/texts.py
    try:
        yield
        if sys.stdout:
            sys.stdout.flush()
    except (OSError, MemoryError, ImportError, RuntimeError) as error:
        if not _is_ours(error):
            raise
        sys.exit(1)
    if output_was_lost():
        sys.exit(1)


TOO_LITTLE = ("map segment", "allocate memory", "can't start new thread")
"""What the linker, torch and Python say where there is too little memory."""


@contextmanager
def in_a_line() -> Iterator[None]:
    """End a command in a line and with 1 where the user can correct it, and with 130 at Ctrl-C."""
    try:
        yield
    except UserError as error:
        complain(printable(error, LONGEST))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _is_ours(error: Exception) -> bool:
    """Report an error about memory or the terminal; False for any other, as about a file."""
    code = error.errno if isinstance(error, OSError) else None
    lacking = code == errno.ENOMEM or any(words in str(error) for words in TOO_LITTLE)
    if lacking or isinstance(error, MemoryError):
        complain(f"There is too little memory: {reason(error)}. Free some, or raise its limit.")
        return True
    if code in (errno.EPIPE, errno.ENOSPC) and getattr(error, "filename", None) is None:
        drop(sys.stdout, error)
        return True
    return False


def show_as_text() -> None:
    """Show warnings, logs and tracebacks as text; needed once in every process."""
    if warnings.formatwarning is not _format_warning:
        warnings.formatwarning = _format_warning
        sys.excepthook = _show_traceback
        logging.setLogRecordFactory(_Record)
        logging.raiseExceptions = False  # a closed pipe would print a traceback for each line


_plain_format = warnings.formatwarning


def _format_warning(*arguments: Any, **named: Any) -> str:  # noqa: ANN401
    return "\n".join(printable_lines(_plain_format(*arguments, **named))) + "\n"


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    for line in printable_lines("".join(traceback.format_exception(kind, error, trace))):
        complain(line)


class Parser(argparse.ArgumentParser):
    """A parser of options that says what an unknown one may have meant."""

    def __init__(self, prog: str, description: str | None) -> None:
        how = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, formatter_class=how, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, and exit with 2."""
        known = [option for action in self._actions for option in action.option_strings]
        words = message.partition("unrecognized arguments: ")[2].split()
        near = next(filter(None, (did_you_mean(word.split("=")[0], known) for word in words)), "")
        super().error(f"{printable(message)}{near and f'.{near}'}")


class _Record(logging.LogRecord):
    """A record of a log, whose message is printable."""

    def getMessage(self) -> str:
        return "\n".join(printable_lines(super().getMessage()))


def _open_closed_streams() -> None:
    """Where the terminal is closed (`>&-`), put nothing: else a file would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
