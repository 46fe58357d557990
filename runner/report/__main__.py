"""The command `python -m runner.report DIR [DIR ...]`: what the runs below these folders came to.

For an ablation the verdicts; for other runs a table of mean and spread. Each folder gets its
report.html, report.md and report.json; also while a sweep still runs.
"""

import argparse
import sys
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path

from runner.ablation.find import find_ablations, find_folders, find_loose_runs
from runner.ablation.plan import find_plan
from runner.ablation.verdicts import Findings, judge
from runner.errors import UserError
from runner.report import verdict_table, write_report
from runner.report.events import rebuild
from runner.report.multirun import Multirun, table
from runner.report.story import path
from runner.report.words import count
from runner.store.files import Damaged
from runner.store.lock import lock_folder
from runner.store.runs import read_run
from runner.texts import printable, shorten

MOST_RUNS = 1000
"""Of which TensorBoard's views are rebuilt; it grows slow from some 250 on."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write the reports into the folders."""
    parser = argparse.ArgumentParser(
        prog="python -m runner.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="outputs/NAME, a part of it, or outputs",
    )
    parser.add_argument(
        "--rebuild-events",
        action="store_true",
        help="also write TensorBoard's event files of each run again, from its metrics.jsonl",
    )
    judged: list[Findings] = []
    plain: list[Multirun] = []
    mistakes: list[str] = []
    given = parser.parse_args(arguments)
    for folder in given.folders:
        if given.rebuild_events:
            mistakes += _rebuild_events(folder)
        roots = list(find_ablations(folder))
        for root in roots:
            try:
                judged.append(_judge(root))
            except UserError as error:
                mistakes.append(shorten(str(error), 1000))
        if runs := list(find_loose_runs(folder)):
            plain.append(Multirun(folder, runs))
        elif not roots:
            what = "got none" if folder.is_dir() else "got none: it does not exist"
            mistakes.append(
                f"{printable(folder)} must hold runs, {what}. Give a folder that a run wrote into."
            )
    mistakes += _tell(judged, plain)
    if mistakes:
        sys.exit("\n".join(mistakes))


def _judge(root: Path) -> Findings:
    return judge(root, find_plan(root))


def _tell(judged: Sequence[Findings], plain: Sequence[Multirun]) -> list[str]:
    """Print and write everything; give back what could not be written."""
    if judged:
        print("\n".join(verdict_table(*judged)))
    for multirun in plain:
        print("\n".join(["", path(multirun.root), *table(multirun)]))
    print()
    mistakes = []
    reports: list[Findings | Multirun] = [*judged, *plain]
    for found in reports:
        try:
            page, *others = write_report(found)
        except UserError as error:
            mistakes.append(shorten(str(error), 1000))
            continue
        print(f"{path(page)}, with {' and '.join(other.name for other in others)} beside it")
        if isinstance(found, Findings):
            try:
                _show_in_tensorboard(found)
            except UserError as error:
                mistakes.append(shorten(str(error), 1000))
    return mistakes


def _show_in_tensorboard(found: Findings) -> None:
    """Rebuild the views, as long as TensorBoard could show so many runs at all."""
    if len(found.runs) > MOST_RUNS:
        print(f"TensorBoard: left as it is, being too slow for {len(found.runs)} runs")
        return
    from runner.report.tensorboard import write_views  # imports torch

    write_views(found)
    print(f"TensorBoard: tensorboard --logdir {path(found.root)}")


def _rebuild_events(folder: Path) -> list[str]:
    """Write the events of the runs below a folder again; give back those that could not be."""
    mistakes, done = [], 0
    for place in find_folders(folder):
        try:
            with lock_folder(place):
                rebuild(read_run(place, place.parent.name))
            done += 1
        except (Damaged, OSError, UserError) as error:
            told = shorten(f"{relpath(place)}: {error}", 1000)
            mistakes.append(f"{told} Its events are left as they are.")
    print(f"TensorBoard: the events of {count(done, 'run')} rebuilt from metrics.jsonl")
    return mistakes


if __name__ == "__main__":
    main()
