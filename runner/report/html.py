"""report.html: one self-contained page, without scripts."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from runner.ablation.decide import Verdict
from runner.ablation.verdicts import Findings
from runner.ablation.wording import tuning, with_unit
from runner.report import across, problems, sentences, tables
from runner.report import format as fmt
from runner.report.curves import curves
from runner.report.drawing import Picture
from runner.report.format import SHOWN, largest, name_of, ranked
from runner.report.noise import noise_in_words
from runner.report.plots import costs, forest
from runner.report.staircase import staircases
from runner.report.where import Where, remark, sections
from runner.store.runs import Run
from runner.texts import printable

MOST_IN_TENSORBOARD = 40
"""With more runs TensorBoard's pages SCALARS and CUSTOM SCALARS open without any."""
MEANS_ADDRESS = "#custom_scalars&regexInput=means"

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

SECTIONS = (
    *("rules", "progress", "rows", "rows_more", "scores", "folders", "warnings", "calibration"),
    *("agreement", "generality", "stairs", "effects", "curves", "matrix", "interactions"),
    *("shares", "trick_metrics", "figures_behind"),
    *("tuning", "tuning_rule", "where", "where_remark"),
    *("problems", "problems_more", "environment", "hashes"),
    *("effects_more", "curves_more", "interactions_more", "question", "unit", "margin", "noise"),
)
"""What a page may have; one without a value is left out."""


def render(**values: Any) -> str:  # noqa: ANN401
    """Fill in the page's template."""
    folder = files("runner.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    css = (folder / "page.css").read_text("utf-8")
    known = {**dict.fromkeys(SECTIONS), "css": css, "symbols": SYMBOLS}
    return template.render({**known, **values}) + "\n"


def page(findings: Findings, where: Where | None = None) -> str:
    """Write the page of an ablation."""
    plan, question = findings.plan, findings.plan.question
    pictures = [picture.svg() for picture in (forest(findings), costs(findings)) if picture]
    stairs = [picture.svg() for picture in staircases(findings)]
    runs, rows = list(findings.runs.values()), fmt.rows(findings)
    matrix, several = tables.matrix(findings), len(findings.interactions)
    return render(
        title=printable(f"{name_of(findings)}: {sentences.summary(findings)}"),
        sentence=sentences.sentence(plan),
        rules=sentences.rules(plan),
        progress=sentences.progress(findings),
        rows=[row for row in rows if row.shown],
        rows_more=[row for row in rows if not row.shown],
        question=question,
        unit=fmt.unit(question.metric),
        margin=with_unit(question.margin, question.metric),
        noise=noise_in_words(findings),
        warnings=problems.notes(findings),
        calibration=tables.calibration(findings),
        agreement=across.table(findings),
        generality=across.generality(plan),
        stairs=stairs,
        tuning=tables.tuning(plan),
        tuning_rule=tuning(plan),
        effects=pictures,
        effects_more=_left_out(len(findings.effects), "effects are drawn"),
        curves=[picture.svg() for picture in _curves(findings)],
        curves_more=_left_out(len(plan.variants), "variants are drawn"),
        **errs(where),
        matrix=matrix,
        interactions=tables.interactions(findings),
        interactions_more=None if matrix else _left_out(several, "are listed"),
        shares=tables.shares(findings),
        trick_metrics=tables.trick_metrics(findings),
        figures_behind=tables.figures_behind(findings),
        **problem_list(runs),
        environment=environment_table(runs),
        hashes=tables.hashes(findings),
        commands=commands(findings.root, plan.command, runs),
    )


def errs(where: Where | None) -> dict[str, Any]:
    """Give back what the page says of where the models err; nothing without predictions."""
    return {"where": sections(where), "where_remark": remark(where)} if where else {}


def commands(root: Path, command: str | None, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Give back the commands to type, with a word on TensorBoard where it opens empty."""
    more = f"; with more than {MOST_IN_TENSORBOARD} runs, add {MEANS_ADDRESS} to its address"
    return [
        (what + (more if "tensorboard" in typed and len(runs) > MOST_IN_TENSORBOARD else ""), typed)
        for what, typed in sentences.commands(root, command, next(iter(runs), None))
    ]


def problem_list(runs: Sequence[Run]) -> dict[str, Any]:
    """Give back the first runs that failed, and how many more there are."""
    found = list(problems.problems(runs))
    more = len(found) - SHOWN
    text = f"... and {more:,} more; report.json lists them all." if more > 0 else None
    return {"problems": found[:SHOWN], "problems_more": text}


def environment_table(runs: Sequence[Run]) -> list[list[str]]:
    """Write what the runs were made with; where they differ, how many had what."""
    table = []
    for name, values in problems.environments(runs):
        counted = [f"{value} ({fmt.count(n, 'run')})" for value, n in values[:5]]
        several = f"These differ: {'; '.join(counted)}{' ...' if len(values) > 5 else ''}"
        table.append([name, several if len(values) > 1 else values[0][0]])
    return table


def _left_out(there: int, what: str) -> str | None:
    return f"The {SHOWN} largest of {there:,} {what}." if there > SHOWN + 1 else None


def _curves(findings: Findings) -> Iterator[Picture]:
    """Draw the curves of each setting."""
    for place, (setting, variants) in enumerate(findings.plan.settings().items()):
        yield from curves(*_drawn(findings, variants), setting, place)


def _drawn(findings: Findings, variants: list[str]) -> tuple[Mapping[str, Sequence[Run]], str]:
    """Choose the variants whose curves are drawn, and which of them is the reference."""
    reference = variants[0]
    if len(variants) > SHOWN + 1:
        effects = largest(ranked(findings))
        direct = {v for f in effects if len(f.contrast.weights) == 2 for v in f.contrast.weights}
        chosen = [v for v in variants if v in direct or not direct]
        variants = [reference, *(v for v in chosen if v != reference)][: SHOWN + 1]
    groups: dict[str, list[Run]] = {name: [] for name in variants}
    for (variant, _), run in findings.runs.items():
        if variant in groups:
            groups[variant].append(run)
    return groups, reference
