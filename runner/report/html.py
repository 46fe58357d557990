"""report.html: one self-contained page, without scripts."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from runner.ablation.decide import Verdict
from runner.ablation.designs import ALL, BASELINE
from runner.ablation.plan import Question
from runner.ablation.verdicts import Findings
from runner.ablation.wording import with_unit
from runner.report import format as fmt
from runner.report import sentences, tables
from runner.report.curves import curves
from runner.report.format import SHOWN, largest, ranked
from runner.report.plots import costs, forest
from runner.store.runs import Run
from runner.texts import printable

SYMBOLS = {
    Verdict.HELPS: "▲",
    Verdict.HURTS: "▼",
    Verdict.NEGLIGIBLE: "■",
    Verdict.UNDECIDED: "●",
    Verdict.INACTIVE: "◆",
    Verdict.BROKEN: "✕",
    Verdict.NONE: "○",
}
"""The shape of each verdict, here and in the pictures."""

CURVES_NOTE = (
    "The line is the mean over the seeds, the band their range. The first quarter of the accuracy "
    "may lie below the picture."
)

SECTIONS = (
    *("rules", "progress", "rows", "rows_more", "scores", "warnings", "calibration", "effects"),
    *("curves", "matrix", "interactions", "shares", "trick_metrics", "figures_behind"),
    *("problems", "problems_more", "environment", "hashes"),
)
"""What a page may have; one without a value is left out."""


def render(**values: Any) -> str:  # noqa: ANN401
    """Fill in the page's template."""
    folder = files("runner.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    css = (folder / "page.css").read_text("utf-8")
    return (
        template.render({**dict.fromkeys(SECTIONS), "css": css, "symbols": SYMBOLS, **values})
        + "\n"
    )


def page(findings: Findings) -> str:
    """Write the page of an ablation."""
    plan, metric = findings.plan, findings.plan.question.metric
    pictures = [picture.svg() for picture in (forest(findings), costs(findings)) if picture]
    runs, rows = list(findings.runs.values()), fmt.rows(findings)
    return render(
        title=printable(f"{plan.name}: {sentences.summary(findings)}"),
        sentence=sentences.sentence(plan),
        rules=sentences.rules(plan),
        progress=sentences.progress(findings),
        rows=[row for row in rows if row.shown],
        rows_more=[row for row in rows if not row.shown],
        heads=[f"Difference, {fmt.unit(metric)}", "Seeds better", "Detectable", "Time", "Memory"],
        reading=_reading(findings),
        warnings=sentences.notes(findings),
        calibration=tables.calibration(findings),
        legend=legend(plan.question),
        effects=pictures,
        effects_note=_effects_note(findings),
        curves=[picture.svg() for picture in curves(*_drawn(findings))],
        curves_note=CURVES_NOTE + _left_out(len(plan.variants), "variants"),
        matrix=tables.matrix(findings),
        interactions=tables.interactions(findings),
        interactions_note=_interactions_note(findings),
        shares=tables.shares(findings),
        shares_note=SHARES_NOTE,
        trick_metrics=tables.trick_metrics(findings),
        figures_behind=tables.figures_behind(findings),
        **problem_list(runs),
        environment=environment_table(runs),
        hashes=tables.hashes(findings, 200),
        commands=sentences.commands(findings.root, plan.command, next(iter(runs), None)),
    )


def problem_list(runs: Sequence[Run]) -> dict[str, Any]:
    """Give back the first runs that failed, and how many more there are."""
    found = list(sentences.problems(runs))
    more = len(found) - SHOWN
    text = f"... and {more:,} more; report.json lists them all." if more > 0 else None
    return {"problems": found[:SHOWN], "problems_more": text}


def environment_table(runs: Sequence[Run]) -> list[list[str]]:
    """Write what the runs were made with; where they differ, how many had what."""
    table = []
    for name, values in sentences.environments(runs):
        counted = [f"{value} ({fmt.count(n, 'run')})" for value, n in values[:5]]
        several = f"These differ: {'; '.join(counted)}{' ...' if len(values) > 5 else ''}"
        table.append([name, several if len(values) > 1 else values[0][0]])
    return table


def legend(question: Question) -> list[tuple[Verdict, str]]:
    """Say what each verdict means, with this ablation's margin."""
    margin = with_unit(question.margin, question.metric)
    return [
        (Verdict.HELPS, "Better with it, by more than chance."),
        (Verdict.HURTS, "Worse with it, by more than chance."),
        (Verdict.NEGLIGIBLE, f"Its effect is smaller than {margin} in either direction."),
        (
            Verdict.UNDECIDED,
            "More seeds are needed to tell. This does not mean that it has no effect.",
        ),
        (Verdict.INACTIVE, "It changed nothing: the runs with it equal those without it."),
        (Verdict.BROKEN, "Runs with it failed or diverged, and those without it did not."),
        (Verdict.NONE, "Too few seeds, unfinished runs, or nothing to compare with."),
    ]


def _reading(findings: Findings) -> str:
    """Say how to read the table."""
    question = findings.plan.question
    turned = "" if question.goal == "maximize" else ", with the sign turned so that + is better"
    return (
        f"Difference: with it minus without it, the mean over the seeds{turned}. Below it is the "
        f"{100 * (1 - question.alpha):.3g} % confidence interval of this effect alone; the verdict "
        "also allows for the number of effects. "
        "Detectable: the smallest effect that this many seeds would find in 8 of 10 ablations. "
        "Time and memory: with it, as a multiple of without it."
    )


def _effects_note(findings: Findings) -> str:
    margin = with_unit(findings.plan.question.margin, findings.plan.question.metric)
    return (
        "Small dots are the seeds, the large mark is their mean, the line its interval. In the "
        f"grey band, {margin} in either direction, a difference does not matter. An arrow at the "
        "edge stands for seeds beyond it." + _left_out(len(findings.effects), "effects")
    )


def _left_out(there: int, what: str) -> str:
    return f" The {SHOWN} largest of {there:,} {what} are drawn." if there > SHOWN + 1 else ""


def _interactions_note(findings: Findings) -> str:
    unit = fmt.unit(findings.plan.question.metric)
    if findings.plan.question.design == "both":
        text = f"How much more (+) or less (-) each adds to all the others than alone, in {unit}."
    else:
        text = (
            f"How much better (+) or worse (-) two are together than the sum of their effects "
            f"alone, in {unit}, with the interval; bold is more than chance."
        )
    if len(findings.interactions) > SHOWN and not tables.matrix(findings):
        text += f" The {SHOWN} largest of {len(findings.interactions):,} are listed."
    return text


SHARES_NOTE = (
    "The Shapley value of each trick: the mean of what it adds alone and what it adds to all the "
    "others. It is exact where no three tricks interact. Then the shares sum to the gain of all "
    "together; a large difference between the last two lines shows that they do interact."
)


def _drawn(findings: Findings) -> tuple[Mapping[str, Sequence[Run]], str]:
    """Choose the variants whose curves are drawn, and which of them is the reference."""
    variants = list(findings.plan.variants)
    reference = next((name for name in (BASELINE, ALL) if name in variants), variants[0])
    if len(variants) > SHOWN + 1:
        effects = largest(ranked(findings.effects))
        direct = {v for f in effects if len(f.contrast.weights) == 2 for v in f.contrast.weights}
        chosen = [v for v in variants if v in direct or not direct]
        variants = [reference, *(v for v in chosen if v != reference)][: SHOWN + 1]
    groups: dict[str, list[Run]] = {name: [] for name in variants}
    for (variant, _), run in findings.runs.items():
        if variant in groups:
            groups[variant].append(run)
    return groups, reference
