"""Verdicts for anybody's scores: a table with a variant, a seed and a score in each row.

files -> columns (and cells) -> here (and table) -> verdicts. With the same
seeds in all variants it is judged as an ablation is; otherwise by `unpaired`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from runner.ablation.designs import BASELINE, Contrast, Factor
from runner.ablation.plan import SCORES, Plan, Question
from runner.ablation.scores.cells import Score, by_variant
from runner.ablation.scores.columns import Options, Records, Scores, Unsaid, read_scores
from runner.ablation.scores.counted import as_counted
from runner.ablation.scores.table import (
    is_paired,
    lay_out,
    left_out,
    seed_numbers,
    suspicions,
    unlikely_units,
    without_repeats,
)
from runner.ablation.scores.unpaired import judge_groups
from runner.ablation.verdicts import Findings, judge_table
from runner.ablation.wording import is_share
from runner.errors import UserError, did_you_mean
from runner.texts import listed, printable

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 0.005
"""Of shares, where none is given: half a point of accuracy."""

LOWER = {
    *("loss", "error", "err", "bpb", "bpc", "nll", "ppl", "perplexity", "rmse", "mse", "mae"),
    *("wer", "cer", "fid", "regret", "cost", "latency", "brier", "ece"),
}
"""Words in the name of a score of which less is better, most likely."""

Goal = Literal["maximize", "minimize"]
Until = Literal["fixed", "decided"]


def judge_scores(
    frame: "pd.DataFrame",
    baseline: str | None = None,
    margin: float | None = None,
    *,
    variant: str | None = None,
    seed: str | None = None,
    score: str | None = None,
    status: str | None = None,
    failed: Sequence[str] = (),
    split: str | None = None,
    lower_is_better: bool | None = None,
    alpha: float = 0.05,
    until: Until = "fixed",
    samples: int | None = None,
) -> Findings:
    """Judge a table of scores that were made anywhere.

    Args:
        frame: A row for each run; a row without a score is a run that failed. Or a column for each
            variant, one of them named by `baseline`, and a row for each seed. Levels of the index
            that have a name are columns too.
        baseline: The variant that the others are compared with; `baseline`, if there is one.
        margin: The smallest difference that matters, in the unit of the scores. Without it 0.005,
            if all scores are shares from 0 to 1.
        variant: Its column; guessed, as are the next three.
        seed: Its column; `none` for runs whose seeds say nothing.
        score: Its column.
        status: Its column, if there is one.
        failed: Values of the status that count as failures, besides such as `failed` and `crash`.
        split: A regular expression with the groups `variant` and `seed`, for names that hold both.
        lower_is_better: Whether it is; must be given where the name of the score is a loss's.
        alpha: The accepted rate of false verdicts, over all variants together.
        until: `fixed`: the number of runs was settled before. `decided`: runs are added with an eye
            on the verdicts, in the order of the rows.
        samples: How many test samples an accuracy is counted on, if that is known.

    Raises:
        UserError: If a cell cannot be read, or the scores cannot be compared.
        Unsaid: If an argument is missing that cannot be guessed, or names nothing in the table.

    >>> import pandas as pd
    >>> good, bad = (0.93, 0.94, 0.93, 0.95, 0.94), (0.90, 0.91, 0.90, 0.92, 0.90)
    >>> rows = [("mine", s, x) for s, x in enumerate(good)]
    >>> rows += [("baseline", s, x) for s, x in enumerate(bad)]
    >>> found = judge_scores(pd.DataFrame(rows, columns=["variant", "seed", "accuracy"]))
    >>> [(f.contrast.name, f.verdict.value, f.reason) for f in found.effects]
    [('mine', 'HELPS', '+3.20 points, more than chance')]
    """
    places = [f"row {index}" for index in frame.index]
    levels = [name for name in frame.index.names if name is not None and name not in frame.columns]
    frame = frame.reset_index(levels)  # such as the seeds, after a pivot
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"Two columns are called {printable(str(twice), 60)!r}. Rename one.")
    cells = frame.astype(object).where(frame.notna(), None)
    records = Records(
        {str(name): cells[name].tolist() for name in cells.columns},
        places,
    )
    named = None if baseline is None else str(baseline)
    options = Options(variant, seed, score, status, named, failed, split)
    asked = {"alpha": alpha, "until": until, "samples": samples}
    return judge_records(records, options, margin, lower_is_better, **asked)  # type: ignore[arg-type]


def judge_records(
    records: Records,
    options: Options,
    margin: float | None = None,
    lower_is_better: bool | None = None,
    *,
    alpha: float = 0.05,
    until: Until = "fixed",
    samples: int | None = None,
    root: Path = Path("scores"),
    command: str = "",
) -> Findings:
    """Judge a table as it was read; see `judge_scores`.

    Args:
        records: The table.
        options: Its columns.
        margin: The smallest difference that matters.
        lower_is_better: Whether it is.
        alpha: The accepted rate of false verdicts.
        until: When runs end being added.
        samples: Of the test set.
        root: Where the table came from, for the head of a report.
        command: What was typed.
    """
    _check(alpha, until)
    scores = read_scores(records, options)
    notes = list(scores.notes)
    rows, counted_on = _counted(without_repeats(scores.rows, notes), samples)
    groups = by_variant(rows)
    baseline = _baseline(scores, groups, options.baseline, notes)
    others = [name for name in groups if name != baseline]
    goal = _goal(scores.metric, lower_is_better)
    known = _known(scores.metric, rows)
    paired = is_paired(groups, baseline, others)
    question = Question(
        design=SCORES,
        metric=scores.metric + (" (%)" if is_share(scores.metric) and max(known) > 1 else ""),
        goal=goal,
        margin=_margin(margin, scores.metric, known, goal, notes),
        alpha=alpha,
        until=until,
        most_seeds=max(map(len, groups.values())),
        spread="shared" if paired and until == "fixed" else "own",
    )
    seeds = seed_numbers(rows) if paired else {}
    plan = _plan(question, baseline, others, list(seeds.values()), str(root), command)
    table = lay_out(root, plan, groups, seeds)
    notes += [*suspicions(groups, baseline), *unlikely_units(rows, question.margin)]
    if paired:
        found = judge_table(root, plan, table, counted_on)
        return dataclasses.replace(found, warnings=(*notes, *left_out(plan, table)))
    return Findings(
        root=root,
        plan=plan,
        effects=judge_groups(plan, groups, counted_on),
        interactions=(),
        shares=(),
        calibration=(),
        runs=table.runs,
        warnings=(*notes, UNPAIRED),
    )


def _check(alpha: float, until: str) -> None:
    if not 0 < alpha < 1:
        raise Unsaid(f"--alpha must be between 0 and 1, got {alpha:g}.")
    if until not in get_args(Until):
        raise Unsaid(f"--until must be fixed or decided, got {printable(str(until), 40)}.")


def _plan(
    question: Question,
    baseline: str,
    others: Sequence[str],
    seeds: Sequence[int],
    name: str,
    command: str,
) -> Plan:
    return Plan(
        name=name,
        question=question,
        seeds=tuple(seeds) or tuple(range(question.most_seeds)),
        factors=tuple(Factor(other, (baseline, other)) for other in others),
        variants={name: () for name in (baseline, *others)},
        contrasts=tuple(
            Contrast(name, "effect", (name,), {name: 1.0, baseline: -1.0}) for name in others
        ),
        config={},
        changes={},
        command=command,
    )


UNPAIRED = (
    "Unpaired: the variants do not share at least three seeds, and half of their runs, with the "
    "baseline. So two groups of runs are compared, by Welch's t with the degrees of freedom of the "
    "smaller one."
)


def _baseline(
    scores: Scores, groups: Mapping[str, Sequence[Score]], given: str | None, notes: list[str]
) -> str:
    """Find the variant that the others are compared with."""
    if len(groups) < 2:
        raise UserError(
            f"There is one variant only, {printable(next(iter(groups)), 80)}: nothing to compare "
            "it with. Add the runs of others, or name another column: --variant COLUMN."
        )
    if given is not None:
        if given in groups:
            return given
        near = did_you_mean(given, groups)
        there = listed(list(groups), 20)
        known = f"--baseline: no variant {printable(given, 80)}.{near} There are: {there}."
        if all(re.fullmatch(r".+\D\d+", name) for name in groups):
            known += " If they end in a seed, say so: --split '(?P<variant>.+)_(?P<seed>[0-9]+)'."
        raise Unsaid(known)
    if same := [name for name in groups if name.lower() == BASELINE]:
        return same[0]
    if scores.first is not None:
        notes.append(f"The baseline is {printable(scores.first, 80)}, as its description says.")
        return scores.first
    raise Unsaid(
        f"--baseline: which variant is it, of {listed(list(groups), 20)}? Name it: --baseline NAME."
    )


def _counted(rows: Sequence[Score], samples: int | None) -> tuple[list[Score], float | None]:
    """Write accuracies as the exact shares of test samples that they are; see `as_counted`."""
    done = [row.value for row in rows if row.state == "done"]
    exact, counted_on = as_counted(done, samples)
    left = iter(exact)
    new = [row._replace(value=next(left)) if row.state == "done" else row for row in rows]
    return new, counted_on


def _goal(metric: str, lower_is_better: bool | None) -> Goal:
    """Say which scores are the better ones; a loss has to be told."""
    if lower_is_better is None and LOWER.intersection(re.split(r"[^a-z]+", metric.lower())):
        raise Unsaid(
            f"--lower-is-better or --higher-is-better: {printable(metric, 60)} looks like a number "
            "of which less is better. Say which."
        )
    return "minimize" if lower_is_better else "maximize"


def _margin(
    given: float | None, metric: str, known: Sequence[float], goal: Goal, notes: list[str]
) -> float:
    """Give the margin; of what is no share only the user can say it."""
    if given is not None:
        if not 0 <= given < 1e9:
            raise Unsaid(f"--margin must be 0 or more, got {given:g}.")
        return given
    if goal == "minimize" or min(known) < 0 or max(known) > 1:
        raise Unsaid(
            f"--margin: what is the smallest difference in {printable(metric, 60)} that matters? "
            "Say it before you look at the scores: --margin X; --margin 0 if every one does."
        )
    notes.append(
        f"No --margin was given, and all scores are shares from 0 to 1: differences below {MARGIN} "
        "do not matter."
    )
    return MARGIN


def _known(metric: str, rows: Sequence[Score]) -> list[float]:
    """Give the scores of the runs that have one.

    Raises:
        UserError: If none has, or if they are accuracies of which some are shares and some percent.
    """
    known = [row for row in rows if row.state == "done"]
    if not known:
        raise UserError(f"No run has a score: {rows[0].place}, {rows[0].word}.")
    named = any(word.startswith("acc") for word in re.split(r"[^a-z]+", metric.lower()))
    small = next((row for row in known if 0 < row.value <= 1), None)
    large = next((row for row in known if 1.5 < row.value <= 100), None)
    if (named or is_share(metric)) and small and large:
        raise UserError(
            f"{printable(metric, 60)} is a share in {small.place} ({small.value:g}) and percent in "
            f"{large.place} ({large.value:g}). Write all of them alike."
        )
    return [row.value for row in known]
