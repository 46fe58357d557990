"""TensorBoard as a view over an ablation, to be rebuilt from its other files at any time.

Beside the events that each run writes by itself, one file in each of these folders:

    .                 the experiment of the HParams plugin: the factors and the metrics as columns
    VARIANT/seed=S/   a run that has ended: its levels, and how it ended; grouped by variant
    means/            the charts of the means, the effects as a figure, the verdicts as a table
    means/VARIANT/    mean, lower and upper over the seeds that are done

A run that has not ended has none: a reader that goes through a folder file by file would turn to
it, and see no more of what the run goes on to write. Where TensorBoard has more than 40 runs it
draws none of them on its older pages, until it is asked: `#custom_scalars&regexInput=means`, or
`--logdir NAME/means`.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeGuard

from matplotlib.figure import Figure
from scipy.stats import t as student
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, STATUS_UNKNOWN
from tensorboard.plugins.hparams.metadata import (
    NULL_TENSOR,
    SESSION_END_INFO_TAG,
    create_summary_metadata,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard.summary import custom_scalars, text

from runner.ablation.designs import Factor
from runner.ablation.plan import Plan
from runner.ablation.verdicts import Finding, Findings, Verdict
from runner.errors import UserError
from runner.report.events import VIEWS, Logged, replace_view
from runner.store.files import Damaged
from runner.store.runs import METRICS, STATUS, Run
from runner.texts import printable, shorten

MEANS = "means"
CURVES = ("validation/accuracy", "validation/loss", "train/loss")
MOST_VARIANTS = 100  # with a mean; TensorBoard grows slow with the number of its runs
COLUMNS = ("test/accuracy", "test/loss", "test/shift_consistency", "validation/accuracy")
ENDINGS = {"done": STATUS_SUCCESS, "failed": STATUS_FAILURE, "diverged": STATUS_FAILURE}


def write_views(findings: Findings) -> None:
    """Write what TensorBoard shows of an ablation, in the place of what an earlier call wrote.

    A TensorBoard that is open keeps the first ending of a run that it read, and shows another, of
    a run that was tried again, when it is started anew.

    Args:
        findings: What the ablation came to so far.

    Raises:
        UserError: If the plan or a link would have files written outside the ablation's folder,
            or it cannot be written to.
    """
    try:
        _write_views(findings)
    except OSError as error:
        raise UserError(
            f"{findings.root} must be a folder for TensorBoard's views, got {error}. Remove what "
            "is in the way."
        ) from error


def _write_views(findings: Findings) -> None:
    root, plan = findings.root, findings.plan
    replace_view(root, root, 0.0, [(0, _experiment(plan))])  # always the same; of no time
    done: dict[str, list[Run]] = {variant: [] for variant in list(plan.variants)[:MOST_VARIANTS]}
    for (variant, _), run in findings.runs.items():
        ended = _changed(run.folder / STATUS)
        session = _session(plan, variant, run, ended) if run.state != "running" else ()
        replace_view(root, run.folder, ended, [(0, part) for part in session])
        if run.state == "done" and variant in done:
            done[variant].append(run)
    newest = max((_changed(run.folder / STATUS) for run in findings.runs.values()), default=0.0)
    replace_view(root, root / MEANS, newest, _summary(findings), restart=True)
    for variant, runs in done.items():
        newest = max((_changed(run.folder / METRICS) for run in runs), default=0.0)
        means = list(_means(runs, plan.question.alpha))
        replace_view(root, root / MEANS / variant, newest, means, restart=True)
    kept = [root / MEANS, *(root / MEANS / variant for variant in done)]
    for path in list((root / MEANS).rglob(VIEWS)):
        if path.parent not in kept and not path.is_dir():  # of a variant that is no more
            path.unlink()
            with suppress(OSError):  # it stays if anything else is in it
                path.parent.rmdir()


def _experiment(plan: Plan) -> Summary:
    """The columns of HParams, told once; told by every run, all but one run's would be lost."""
    factors = [
        hparams.HParam(
            printable(f.name),
            hparams.Discrete([True, False] if _is_switch(f) else [*map(printable, f.levels)]),
        )
        for f in plan.factors
    ]
    tags = dict.fromkeys((printable(plan.question.metric), *COLUMNS))
    return hparams.hparams_config_pb(factors, [hparams.Metric(tag) for tag in tags], 0.0)


def _is_switch(factor: Factor) -> bool:
    """Whether it is a trick that is on or off, and nothing more; one that is on bears its name."""
    return len(factor.levels) == 2 and factor.name in factor.levels


def _session(plan: Plan, variant: str, run: Run, ended: float) -> Iterator[Summary]:
    """What a run was, and how it ended; nothing of its end if it may go on.

    The seed is in the run's name alone: of a group HParams shows the values of one session, so a
    column of seeds would say the same seed, any one, for all of them.
    """
    levels = zip(plan.factors, plan.variants[variant], strict=True)
    values = {
        printable(f.name): level == f.name if _is_switch(f) else printable(level)
        for f, level in levels
    }
    seconds = run.status.get("seconds")
    began = ended - seconds if _is_number(seconds) else ended
    yield hparams.hparams_pb(values, trial_id=printable(variant), start_time_secs=began)
    if (status := ENDINGS.get(run.state, STATUS_UNKNOWN)) != STATUS_UNKNOWN:
        end = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=ended))
        metadata = create_summary_metadata(end)
        value = Summary.Value(tag=SESSION_END_INFO_TAG, metadata=metadata, tensor=NULL_TENSOR)
        yield Summary(value=[value])


def _means(runs: Iterable[Run], alpha: float) -> Iterator[Logged]:
    """Mean and t interval of the mean at each evaluation, over the runs with a number there."""
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for run in runs:
        for line in _lines(run):
            for tag in CURVES:
                if _is_number(line.get(tag)):
                    found[line["update"], tag].append(line[tag])
    for (update, tag), values in sorted(found.items()):
        numbers = {"mean": statistics.fmean(values)}
        if len(values) > 1:
            half = _quantile(alpha, len(values)) * statistics.stdev(values) / len(values) ** 0.5
            numbers |= {"lower": numbers["mean"] - half, "upper": numbers["mean"] + half}
        for name, number in numbers.items():
            if _is_number(number):
                value = Summary.Value(tag=f"{MEANS}/{tag}/{name}", simple_value=number)
                yield update, Summary(value=[value])


def _lines(run: Run) -> list[dict[str, Any]]:
    """The evaluations of a run; none if its file is damaged."""
    try:
        return run.metrics if all(0 <= line["update"] < 2**63 for line in run.metrics) else []
    except Damaged:
        return []


def _is_number(value: object) -> TypeGuard[float]:
    """Whether it is one, and finite as TensorBoard keeps it, in 32 bits."""
    return isinstance(value, int | float) and abs(value) < 3e38


@lru_cache
def _quantile(alpha: float, count: int) -> float:
    return float(student.ppf(1 - alpha / 2, count - 1))


def _summary(findings: Findings) -> Iterator[Logged]:
    """What stands over the means: their charts, the effects and the verdicts."""
    done = sum(run.state == "done" for run in findings.runs.values())
    charts = {
        tag: ["Margin", [f"{MEANS}/{tag}/{name}" for name in ("mean", "lower", "upper")]]
        for tag in reversed(CURVES)  # TensorBoard shows the last one first
    }
    yield 0, custom_scalars({"mean and interval over the seeds": charts})
    yield done, text("verdicts", _table(findings))
    if findings.effects:
        content = BytesIO()
        figure = _forest(findings)
        figure.savefig(content, format="png")
        width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
        image = Summary.Image(
            width=width, height=height, colorspace=4, encoded_image_string=content.getvalue()
        )
        yield done, Summary(value=[Summary.Value(tag="effects", image=image)])


def _table(findings: Findings) -> str:
    """The verdicts in Markdown."""
    question = findings.plan.question
    lines = [
        f"**{_escape(question.metric)}** ({question.goal}), a difference of "
        f"{question.margin:g} matters, alpha {question.alpha:g}; differences are turned so that "
        "more is better.",
        "",
    ]
    if found := (*findings.effects, *findings.interactions, *findings.shares):
        lines += [
            "| | verdict | mean difference | interval | seeds | |",
            "|---|---|---|---|---|---|",
        ]
        lines += [*(f"| {' | '.join(map(_escape, _cells(one)))} |" for one in found), ""]
    lines += [
        f"* the baseline against itself, {c.seeds} seeds a side, {c.draws} draws: HELPS or HURTS "
        f"in {100 * c.false:.3g} %, NEGLIGIBLE in {100 * c.negligible:.3g} %"
        for c in findings.calibration
    ]
    return "\n".join([*lines, "", *(f"* {_escape(warning)}" for warning in findings.warnings)])


def _cells(found: Finding) -> tuple[str, ...]:
    mean = "" if found.mean is None else f"{found.mean:+.4g}"
    interval = "" if found.interval is None else "{:+.4g} to {:+.4g}".format(*found.interval)
    verdict = found.verdict or found.contrast.kind
    return found.contrast.name, verdict, mean, interval, str(len(found.differences)), found.reason


def _escape(words: str) -> str:
    """Text as Markdown that says the same; what was found in a folder is no markup."""
    plain = " ".join(words.split())
    return re.sub(r"[^\w .,:=-]|_", lambda found: f"&#{ord(found[0])};", plain)


def _changed(path: Path) -> float:
    """When a file was last written; 0 if it is not there."""
    return path.stat().st_mtime if path.exists() else 0.0


def _forest(findings: Findings) -> Figure:
    """Draw each effect: its seeds as strokes, its mean and its interval, and the margin in grey."""
    shown, question = findings.effects[::-1], findings.plan.question
    figure = Figure(figsize=(6, 1.1 + 0.3 * len(shown)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(-question.margin, question.margin, color="0.92")
    axes.axvline(0, color="0.5", linewidth=0.8)
    for row, found in enumerate(shown):
        color = _COLORS.get(found.verdict, "0.3")
        seeds = list(found.differences.values())
        axes.plot(seeds, [row] * len(seeds), "|", color="0.6", markersize=8)
        if found.interval is not None:
            axes.plot(found.interval, [row, row], color=color, linewidth=2)
        if found.mean is not None:
            axes.plot(found.mean, row, "o", color=color)
    names = [f"{shorten(found.contrast.name, 60)}  {found.verdict or ''}" for found in shown]
    axes.set_yticks(range(len(names)), names, parse_math=False)  # a name is no formula
    axes.set_ylim(-0.6, len(names) - 0.4)
    metric = shorten(question.metric, 60)
    words = f"difference in {metric}, more is better; in the grey it does not matter"
    figure.supxlabel(words, fontsize="medium", parse_math=False)
    return figure


_COLORS: dict[Verdict | None, str] = {
    Verdict.HELPS: "tab:green",
    Verdict.HURTS: "tab:red",
    Verdict.NEGLIGIBLE: "tab:blue",
}
