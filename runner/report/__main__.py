"""The command `python -m runner.report DIR [DIR ...]`: the results of the runs below these folders.

An ablation gets its verdicts, other runs a table of mean and spread. Each folder gets its
report.html, report.md and report.json, also while a sweep is still running.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os.path import relpath
from pathlib import Path

from runner.ablation.find import (
    find_ablations,
    find_folders,
    find_loose_runs,
    find_own_runs,
    names_of,
)
from runner.ablation.plan import find_plan
from runner.ablation.tuning import TUNING
from runner.ablation.verdicts import Findings, judge
from runner.errors import UserError
from runner.report import verdict_table
from runner.report.end import say_where
from runner.report.format import count
from runner.report.multirun import Multirun, table
from runner.report.sentences import path
from runner.store.files import Damaged
from runner.store.lock import lock_folder
from runner.store.packed import is_packed
from runner.store.runs import read_run
from runner.terminal import terminal
from runner.texts import printable, say

LONGEST = 1000  # characters of an error


@terminal()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write the reports into the folders."""
    parser = argparse.ArgumentParser(
        prog="python -m runner.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = "outputs/NAME, a part of it, or outputs"
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help=where)
    parser.add_argument(
        "--rebuild-events",
        action="store_true",
        help="also rewrite TensorBoard's event files of each run from its metrics.jsonl",
    )
    found: list[Findings | Multirun] = []
    mistakes: list[str] = []
    given = parser.parse_args(arguments)
    for folder in dict.fromkeys(Path(os.path.abspath(folder)) for folder in given.folders):
        if given.rebuild_events:
            mistakes += _rebuild_events(folder)
        roots = list(find_ablations(folder))
        for root in roots:
            if root not in [each.root for each in found if isinstance(each, Findings)]:
                with _noted(mistakes):
                    found += _read(root, alone=root.parent not in roots)
        if runs := list(find_loose_runs(folder)):
            found.append(Multirun(folder, runs))
        elif not roots:
            what = "no runs there" if folder.is_dir() else "no such folder"
            wanted = "Expected a folder that a run wrote into."
            mistakes.append(f"{printable(relpath(folder))}: {what}. {wanted}")
    _show(found, mistakes)
    if mistakes:
        sys.exit("\n".join(mistakes))


def _read(root: Path, alone: bool) -> list[Findings | Multirun]:
    """Judge an ablation; trials that tuned one are listed, where they are not in its report."""
    plan = find_plan(root)
    if plan.question.design != TUNING:
        return [judge(root, plan)]
    return [Multirun(root, runs)] if alone and (runs := list(find_own_runs(root))) else []


@contextmanager
def _noted(mistakes: list[str]) -> Iterator[None]:
    """Note an error and continue with the next folder."""
    try:
        yield
    except UserError as error:
        mistakes.append(printable(error, LONGEST))


def _show(found: Sequence[Findings | Multirun], mistakes: list[str]) -> None:
    """Print and write everything; note what could not be written."""
    judged = [each for each in found if isinstance(each, Findings)]
    names = names_of([each.root for each in judged])
    if judged:
        say(*verdict_table(*judged), coloured=True)
    for each in found:
        if isinstance(each, Multirun):
            say("", path(each.root), *table(each), coloured=True)
    say("")
    for each in found:
        with _noted(mistakes):
            say_where(each, names.get(each.root) if isinstance(each, Findings) else None)


def _rebuild_events(folder: Path) -> list[str]:
    """Rewrite the events of the runs below a folder; give back an error for each that failed."""
    from runner.report.events import rebuild  # imports torch, which takes seconds

    mistakes, packed, done = list[str](), 0, 0
    for place in find_folders(folder):
        if is_packed(place):
            packed += 1
            continue
        try:
            with lock_folder(place):
                rebuild(read_run(place, place.parent.name))
            done += 1
        except (Damaged, OSError, UserError) as error:
            text = printable(f"{relpath(place)}: {error}", LONGEST)
            mistakes.append(f"{text} Its events are unchanged.")
    if packed:
        say(f"TensorBoard: the events of {count(packed, 'packed run')} are left in its archive")
    say(f"TensorBoard: the events of {count(done, 'run')} rewritten from metrics.jsonl")
    return mistakes


if __name__ == "__main__":
    main()
