"""Scores made elsewhere: what the cells of a row say, the score and the state of its run."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from runner.errors import UserError
from runner.store.runs import number
from runner.texts import printable

Cell = object
"""Text, a number, or None for an empty one."""


class Score(NamedTuple):
    """What a row says of a run."""

    variant: str
    seed: str | None
    """None where the table has no seeds."""
    value: float
    """NaN if it has none."""
    state: str
    """`done`; `failed` or `diverged`, which count against the variant; `killed` or `running`,
    which do not."""
    place: str
    word: str
    """Why it has no score, in words."""

    @property
    def done(self) -> bool:
        """Whether it has a score that counts."""
        return self.state == "done"


FAILED = (
    *("failed", "fail", "failure", "crash", "diverged", "error", "broken", "nan"),
    *("oom", "out_of_memory", "exception"),
)
DONE = (
    *("", "done", "finished", "complete", "completed", "success", "succeeded", "successful", "ok"),
    *("passed", "keep", "kept", "discard", "discarded", "revert", "reverted", "baseline"),
    *("accept", "accepted", "reject", "rejected", "best", "improved", "true"),
)
"""Of runs that ended by themselves, whether a loop kept them or not."""
UNFINISHED = {
    **dict.fromkeys(("running", "pending", "scheduled", "queued", "started"), "running"),
    **dict.fromkeys(("crashed", "killed", "preempted", "preempting", "timeout", "timed_out"), ""),
    **dict.fromkeys(("cancelled", "canceled", "stopped", "interrupted", "aborted"), ""),
}
"""No evidence: W&B calls a run crashed that it lost sight of."""

EMPTY = ("", "nan", "none", "null", "na", "n/a", "inf", "-inf", "+inf", "infinity", "-infinity")


def is_known(status: str, failing: set[str]) -> bool:
    """Whether it is clear what a status means."""
    word = _word(status)
    return word in DONE or word in UNFINISHED or word in failing or status.lower() in failing


def _word(status: str) -> str:
    return re.sub(r"[\s-]+", "_", status.lower())


def read_state(status: str, failing: set[str], value: float, cell: str) -> tuple[str, str]:
    """Give the state of a run, and why it has no score."""
    word = _word(status)
    if word in failing or status.lower() in failing:
        return "failed", f"its status is {status}"
    if word in UNFINISHED:
        return UNFINISHED[word] or "killed", f"its status is {status}"
    if value == value:
        return "done", ""
    return "diverged", (
        f"its score is {cell}{_why_unusable(cell)}" if cell else "its score is empty"
    )


def _why_unusable(cell: str) -> str:
    return "" if cell.lower() in EMPTY else ", too large a number to be judged"


def is_number(cell: Cell) -> bool:
    """Whether a cell can be read as a number."""
    if isinstance(cell, bool):
        return False
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


def text_of(cell: Cell) -> str:
    """Give what stands in a cell; nothing for an empty one."""
    return "" if cell is None else str(cell).strip()


def read_number(cell: Cell, place: str) -> float:
    """Read a score; NaN if there is none.

    Raises:
        UserError: If it is other text.
    """
    text = text_of(cell)
    if text.lower() in EMPTY:
        return float("nan")
    if not is_number(cell):
        advice = "Write 0.93 with a dot" if re.fullmatch(r"-?\d+,\d+", text) else "Write a number"
        advice = "Write 93.1 without the sign" if re.fullmatch(r"[\d.]+ ?%", text) else advice
        raise UserError(
            f"{place}: must be a number, got {printable(text, 60)}. {advice}; nothing, or nan, "
            "stands for a run that failed."
        )
    known = number(float(text))
    return float("nan") if known is None else known


def by_variant(rows: Sequence[Score]) -> Mapping[str, list[Score]]:
    """Group rows by variant, in their order."""
    groups: dict[str, list[Score]] = {}
    for row in rows:
        groups.setdefault(row.variant, []).append(row)
    return groups
