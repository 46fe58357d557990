"""The end of a sweep, or of the command of the report: what was written, and what to type."""

from pathlib import Path

from runner.ablation.find import find_loose_runs
from runner.ablation.verdicts import Findings
from runner.report import write_report
from runner.report.html import MEANS_ADDRESS, MOST_IN_TENSORBOARD
from runner.report.multirun import Multirun, table
from runner.report.sentences import path
from runner.texts import say

MOST_RUNS = 1000
"""With more runs TensorBoard's views are not written; it grows slow from about 250 on."""


def say_where(found: Findings | Multirun, name: str | None = None) -> None:
    """Write the reports and TensorBoard's views, and say where they are.

    Raises:
        UserError: If the folder cannot be written into.
    """
    page, *others = write_report(found)
    say(f"Report: {path(page)} (also {' and '.join(other.name for other in others)})")
    if len(found.runs) > MOST_RUNS:
        say(f"TensorBoard: not updated, because {len(found.runs):,} runs are too many for it")
        return
    from runner.report.tensorboard import write_views  # imports torch, which takes seconds

    write_views(found, name)
    say(f"TensorBoard: tensorboard --logdir {path(found.root)}")
    if len(found.runs) > MOST_IN_TENSORBOARD:
        say(
            f"  With more than {MOST_IN_TENSORBOARD} runs its pages SCALARS and CUSTOM SCALARS "
            f"open empty: add {MEANS_ADDRESS} to its address."
        )


def show_sweep(folder: Path) -> None:
    """Show the runs of a sweep at its end, as the command of the report does; none: nothing.

    Raises:
        UserError: If the folder cannot be written into.
    """
    if runs := list(find_loose_runs(folder)):
        sweep = Multirun(folder, runs)
        say("", *table(sweep), "")
        say_where(sweep)
        say(f"The same again: python -m runner.report {path(folder)}")
