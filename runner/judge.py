"""The command `python -m runner.judge FILE`: the verdicts of an ablation, for scores made anywhere.

FILE is a table with a row for each run: its variant, its seed, its score (CSV, TSV, JSON lines, a
JSON list); the record of a loop that keeps what scored better (results.tsv); an export of W&B or
MLflow; a folder of TensorBoard's events; or - for standard input.

    python -m runner.judge scores.csv --baseline plain --margin 0.005
    python -m runner.judge results.tsv --score val_bpb --lower-is-better --margin 0.002
    python -m runner.judge runs/ --tag test/accuracy --until decided --json

It exits with 0 if every variant is decided, BROKEN ones too; with 3 if some are open, and then says
which runs to make next, if any would help; with 1 if the table cannot be judged; and with 2 if the
command lacks something, or names what is not there. docs/judge.md tells the rest.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from runner.ablation.scores import judge_records
from runner.ablation.scores.columns import Options, Unsaid
from runner.ablation.scores.files import STDIN, read_records
from runner.ablation.scores.next_runs import Next, next_runs
from runner.ablation.verdicts import Findings
from runner.errors import UserError
from runner.report import as_json, html, verdict_table
from runner.report.sentences import path
from runner.report.text import lines
from runner.store.files import write_text
from runner.terminal import terminal
from runner.texts import complain, printable, say

LONGEST = 1000  # characters of an error
LISTED = 20  # runs to make next
DECIDED, UNUSABLE, USAGE, OPEN = 0, 1, 2, 3


@terminal()
def main(arguments: Sequence[str] | None = None) -> None:
    """Judge a table, and exit with what came of it."""
    given = _parser().parse_args(arguments)
    if given.guide:
        say(*(files("runner") / "guide.txt").read_text("utf-8").splitlines())
        return
    if given.file is None:
        _parser().error("FILE is missing. Give a table, a folder of runs, or - for standard input.")
    try:
        findings = _judge(given, ["python", "-m", "runner.judge", *(arguments or sys.argv[1:])])
        then = next_runs(findings)
        if given.report is not None:
            write_text(given.report, html.page(findings))
    except UserError as error:
        complain(printable(error, LONGEST))
        sys.exit(USAGE if isinstance(error, Unsaid) else UNUSABLE)
    code = DECIDED if findings.decided else OPEN
    if given.json:
        say(json.dumps(_plain(findings, then, code), indent=2))
    else:
        _show(findings, then, given.report)
    if code:
        sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runner.judge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="a table, a folder of runs, or -")
    add("--baseline", metavar="NAME", help="the variant that the others are compared with")
    add("--margin", type=float, metavar="X", help="the smallest difference that matters")
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument("--lower-is-better", dest="lower", action="store_true", default=None)
    direction.add_argument("--higher-is-better", dest="lower", action="store_false", default=None)
    add("--variant", metavar="COLUMN", help="the column that names the variant")
    add("--seed", metavar="COLUMN", help="the column of the seeds; none: without them")
    add("--score", metavar="COLUMN", help="the column of the scores")
    add("--status", metavar="COLUMN", help="the column that says how a run ended")
    add("--failed", metavar="A,B", default="", help="values of it that mean failed, besides crash")
    add("--split", metavar="REGEX", help="groups variant and seed, for names that hold both")
    add("--tag", help="the tag of TensorBoard's that is the score")
    add("--samples", type=int, metavar="N", help="the test samples that an accuracy counts")
    add("--alpha", type=float, default=0.05, metavar="X", help="accepted rate of false verdicts")
    add(
        "--until",
        choices=("fixed", "decided"),
        default="fixed",
        help="fixed: the number of runs was settled before; decided: they are added until all is",
    )
    add("--json", action="store_true", help="print everything as JSON")
    add("--report", type=Path, metavar="FILE.html", help="also write one page with pictures")
    add("--guide", action="store_true", help="print a page: which command for which job")
    return parser


def _judge(given: argparse.Namespace, command: Sequence[str]) -> Findings:
    """Read and judge.

    Raises:
        UserError: If the table cannot be judged, or the command lacks something.
    """
    return judge_records(
        read_records(given.file, given.tag),
        Options(
            variant=given.variant,
            seed=given.seed,
            score=given.score or given.tag,
            status=given.status,
            baseline=given.baseline,
            failed=[value for value in given.failed.split(",") if value],
            split=given.split,
        ),
        margin=given.margin,
        lower_is_better=given.lower,
        alpha=given.alpha,
        until=given.until,
        samples=given.samples,
        root=Path("standard input" if given.file == STDIN else given.file),
        command=shlex.join(command),
    )


def _show(findings: Findings, then: Next, report: Path | None) -> None:
    """Print the table, and what to do next."""
    say(*verdict_table(findings), coloured=True)
    if then.why:
        say("", *lines(then.why))
    say(*(f"  {variant}  seed {seed}" for variant, seed in then.runs[:LISTED]))
    if (more := len(then.runs) - LISTED) > 0:
        say(f"  ... and {more} more; --json lists them all.")
    if report is not None:
        say("", f"Report: {path(report)}")


def _plain(findings: Findings, then: Next, code: int) -> dict[str, Any]:
    """Give back what an ablation's report.json has, without the runs; and what to do next."""
    content = as_json.content(findings)
    plan = content.pop("plan")
    plan["question"].pop("at")  # what was held equal is not known
    content.pop("runs")
    runs = [{"variant": name, "seed": seed} for name, seed in then.runs]
    return {
        **content,
        "kind": "scores",
        "exit_code": code,
        "baseline": next(iter(plan["variants"])),
        **{name: plan[name] for name in ("question", "seeds", "command")},
        "next": {"runs": runs, "why": then.why},
    }


if __name__ == "__main__":
    main()
