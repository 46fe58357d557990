"""report.html: one page that needs nothing else, without a script."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from runner.ablation.designs import ALL, BASELINE
from runner.ablation.plan import Question
from runner.ablation.verdicts import Findings, Verdict
from runner.report import sections, story, words
from runner.report.curves import curves
from runner.report.plots import costs, forest
from runner.report.rows import SHOWN, largest, ranked, shown_rows
from runner.store.runs import Run

SYMBOLS = {
    Verdict.HELPS: "▲",
    Verdict.HURTS: "▼",
    Verdict.NEGLIGIBLE: "■",
    Verdict.UNDECIDED: "●",
    Verdict.INACTIVE: "◆",
    Verdict.BROKEN: "✕",
    Verdict.NONE: "○",
}
"""For each verdict the shape that it has in the pictures too."""

CURVES_NOTE = (
    "The line is the mean over the seeds, the band reaches from the least to the most. The first "
    "quarter of the accuracy may lie below the picture."
)


def render(**values: Any) -> str:  # noqa: ANN401
    """Fill the page's template; what a section has nothing for is left out."""
    folder = files("runner.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    css = (folder / "page.css").read_text("utf-8")
    empty = dict.fromkeys(SECTIONS)
    return template.render({**empty, "css": css, "symbols": SYMBOLS, **values}) + "\n"


SECTIONS = (
    *(
        "rules",
        "progress",
        "rows",
        "rows_more",
        "scores",
        "warnings",
        "calibration",
        "effects",
        "curves",
    ),
    *("matrix", "interactions", "shares", "did", "figures_behind", "problems", "problems_more"),
    *("fingerprints", "hashes"),
)


def page(findings: Findings) -> str:
    """Write the page of an ablation."""
    plan, metric = findings.plan, findings.plan.question.metric
    unit = words.unit(metric)
    pictures = [picture for picture in (forest(findings), costs(findings)) if picture]
    runs = list(findings.runs.values())
    shown, others = shown_rows(findings)
    return render(
        title=words.printable(f"{plan.name}: {story.summary(findings)}"),
        sentence=story.sentence(plan),
        rules=story.rules(plan),
        progress=story.progress(findings),
        rows=shown,
        rows_more=others,
        heads=[f"Difference, {unit}", "Seeds better", "Could show", "Time", "Memory"],
        reading=_reading(findings),
        warnings=story.notes(findings),
        calibration=sections.calibration(findings),
        legend=legend(plan.question),
        effects=pictures,
        effects_note=_effects_note(findings),
        curves=curves(*_drawn(findings)),
        curves_note=CURVES_NOTE + _left_out(len(plan.variants), "variants"),
        matrix=sections.matrix(findings),
        interactions=sections.interactions(findings),
        interactions_note=_interactions_note(findings),
        shares=sections.shares(findings),
        shares_note=SHARES_NOTE,
        did=sections.did(findings),
        figures_behind=sections.figures_behind(findings),
        **problem_list(runs),
        fingerprints=fingerprint_table(runs),
        hashes=sections.hashes(findings, 200),
        commands=story.commands(findings.root, plan.command, next(iter(runs), None)),
    )


def problem_list(runs: Sequence[Run]) -> dict[str, Any]:
    """Give back the first runs that failed, and how many more there are."""
    found = list(story.problems(runs))
    more = len(found) - SHOWN
    said = f"... and {more:,} more; report.json names them all." if more > 0 else None
    return {"problems": found[:SHOWN], "problems_more": said}


def fingerprint_table(runs: Sequence[Run]) -> list[list[str]]:
    """Write the fingerprints; where runs differ, how many had what."""
    table = []
    for name, values in story.fingerprints(runs):
        told = [f"{value} ({words.count(n, 'run')})" for value, n in values[:5]]
        several = f"These differ: {'; '.join(told)}{' ...' if len(values) > 5 else ''}"
        table.append([name, several if len(values) > 1 else values[0][0]])
    return table


def legend(question: Question) -> list[tuple[Verdict, str]]:
    """Say what each verdict means, with this ablation's margin."""
    margin = words.with_unit(question.margin, question.metric)
    return [
        (Verdict.HELPS, "Better with it, by more than chance."),
        (Verdict.HURTS, "Worse with it, by more than chance."),
        (Verdict.NEGLIGIBLE, f"Whatever it does, it is less than {margin} either way."),
        (
            Verdict.UNDECIDED,
            "The seeds so far allow either; it does not mean that it does nothing.",
        ),
        (Verdict.INACTIVE, "It changed nothing at all: the runs with it equal those without."),
        (
            Verdict.BROKEN,
            "Runs with it failed or diverged, and those without did not.",
        ),
        (Verdict.NONE, "Too few seeds, runs still to come, or nothing to compare with."),
    ]


def _reading(findings: Findings) -> str:
    """Say how to read the table."""
    question = findings.plan.question
    turned = "" if question.goal == "maximize" else ", turned so that + is better"
    return (
        f"Difference: with it minus without it, the mean over the seeds{turned}; below it the "
        f"interval that holds the true one with {100 * (1 - question.alpha):.3g} % certainty. "
        "It is each effect's own; a verdict also allows for how many effects were asked about. "
        "Could show: the smallest effect that this many seeds would find 8 times in 10. "
        "Time and memory: with it, as a multiple of without."
    )


def _effects_note(findings: Findings) -> str:
    margin = words.with_unit(findings.plan.question.margin, findings.plan.question.metric)
    return (
        "Small dots are the seeds, the line is the interval, the mark its mean; in the grey band, "
        f"{margin} either way, a difference does not matter. An arrow at the edge points to seeds "
        "beyond it." + _left_out(len(findings.effects), "effects")
    )


def _left_out(there: int, what: str) -> str:
    return f" Drawn are the {SHOWN} largest of {there:,} {what}." if there > SHOWN + 1 else ""


def _interactions_note(findings: Findings) -> str:
    unit = words.unit(findings.plan.question.metric)
    if findings.plan.question.design == "both":
        said = f"How much more (+) or less (-) each adds to all the others than alone, in {unit}."
    else:
        said = (
            f"How much better (+) or worse (-) two do together than the sum of what each does "
            f"alone, in {unit}, with the interval; bold is more than chance."
        )
    if len(findings.interactions) > SHOWN and not sections.matrix(findings):
        said += f" Listed are the {SHOWN} largest of {len(findings.interactions):,}."
    return said


SHARES_NOTE = (
    "What each trick adds, halfway between what it adds alone and what it adds to all the others: "
    "its Shapley value, exact where no three tricks interact. There the shares sum to what all "
    "together gain; where the last two lines differ by much, they do interact."
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


def report_folder(folder: Path) -> str:
    """Name a folder in a title."""
    return words.printable(folder.resolve().name)
