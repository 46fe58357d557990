"""The end of a sweep in which runs failed: how many of how many, and each cause once."""

import re
import sys
from collections.abc import Sequence

from runner.errors import UserError
from runner.names import OUTPUTS
from runner.texts import LONGEST_TEXT, in_one_line, printable, same_command

MOST = 20  # causes that are listed
_FOLDER = re.compile(rf"{OUTPUTS}/.+?/seed=\d+")


def exit_with_failures(causes: Sequence[str], total: int, again: bool) -> None:
    """End the command, if runs failed.

    Args:
        causes: Why each of them failed, in a line; the folder of the run may stand in it.
        total: The runs of the sweep.
        again: Whether the command says `again=true`.

    Raises:
        SystemExit: With a line on how many failed, and one for each cause.
    """
    if not causes:
        return
    found: dict[str, list[tuple[str, str]]] = {}
    for cause in causes:
        line = re.sub(r" \(?\S+/status\.json has the traceback\.\)", "", " ".join(cause.split()))
        match = _FOLDER.search(line)
        folder = match[0] if match else ""
        text = line.removeprefix(folder).removeprefix(":").strip()
        found.setdefault(text.replace(folder, "") if folder else text, []).append((folder, text))
    lines = [_line(*runs[0], len(runs) - 1) for runs in found.values()]
    rest = [f"  and {len(lines) - MOST} causes more"] if len(lines) > MOST else []
    head = f"{len(causes)} of {total} runs failed or were stopped."
    head += f" To try them again, give {same_command(again)}."
    sys.exit("\n".join([head, *lines[:MOST], *rest]))


def _line(folder: str, text: str, others: int) -> str:
    run = f"{folder}: " if folder else ""
    more = f" (and {others} more)" if others else ""
    return "  " + printable(f"{run}{text}{more}", LONGEST_TEXT)


def cause_in_words(error: object) -> str:
    """Give back what an error says, of a traceback its last line."""
    text = str(error).strip()
    if text.startswith("Traceback"):
        return text.splitlines()[-1]
    if isinstance(error, Exception) and not isinstance(error, UserError):
        return in_one_line(error)
    return text.splitlines()[-1] if text else "no reason is recorded"
