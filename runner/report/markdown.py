"""report.md: what belongs into a pull request."""

import re
from collections.abc import Iterable, Sequence

from runner.ablation.verdicts import Findings
from runner.ablation.wording import tuning
from runner.report import across, problems, sentences, tables, text
from runner.report import format as fmt
from runner.report.noise import noise_in_words
from runner.report.where import Where, class_table, measures, often
from runner.store.runs import Run
from runner.texts import printable
from runner.tiles import LABELLED

ENTITIES = (
    *(("<", "&lt;"), ("@", "&#64;"), ("$", "&#36;"), ("~", "&#126;")),
    *(("://", "&#58;//"), ("www.", "www&#46;")),
)
"""What GitHub and TensorBoard would turn into tags, mentions, formulas and links."""


def escape(text: object) -> str:
    """Write anything so that Markdown shows it as it is, in one line."""
    escaped = re.sub(r"([\\`*_\[\]>|#])", r"\\\1", printable(text).replace("&", "&amp;"))
    for text_, entity in ENTITIES:
        escaped = escaped.replace(text_, entity)
    return escaped


def begin(text: object) -> str:
    """Write what begins a line: it makes no list, rule or heading."""
    return re.sub(r"^(\d*)([-+=.)])", lambda m: f"{m[1]}&#{ord(m[2])};", escape(text))


def code(text: str) -> list[str]:
    """Write a command as a block of lines; a fence inside it closes nothing."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [fence, text, fence]


def table(heads: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Write a table; every cell is escaped."""
    head, *rows = (f"| {' | '.join(escape(cell) for cell in row)} |" for row in (heads, *body))
    return [head, f"|{' --- |' * len(heads)}", *rows]


def page(findings: Findings, where: Where | None = None) -> str:
    """Write the Markdown of an ablation."""
    plan = findings.plan
    unit = fmt.unit(plan.question.metric)
    lines = [f"## {escape(fmt.name_of(findings))}", "", begin(sentences.sentence(plan))]
    if findings.effects:
        lines += ["", begin(sentences.rules(plan))]
    if (progress := sentences.progress(findings)) is not None:
        lines += ["", f"**{escape(progress)}**"]
    if findings.effects:
        heads = ["effect", "verdict", f"difference, {unit}", "seeds better"]
        body = [
            [r.effect, r.verdict, r.plus_minus, r.better, r.time, r.memory, r.reason]
            for r in fmt.rows(findings)
        ]
        lines += ["", *table([*heads, "time", "memory", "reason"], body)]
        noise = noise_in_words(findings)
        lines += ["", begin(" ".join(filter(None, [f"{text.interval(findings)}.", noise])))]
    if found := across.table(findings):
        lines += ["", *table(found[0], found[1:]), "", begin(across.generality(plan))]
    if found := tables.tuning(plan):
        lines += ["", begin(tuning(plan)), "", *table(found[0], found[1:])]
    for listed in (tables.interactions, tables.shares, tables.calibration):
        if found := listed(findings):
            lines += ["", *table(found[0], found[1:])]
    lines += where_it_errs(where)
    lines += remarks(findings.runs.values(), problems.notes(findings))
    lines += ["", *code(printable(plan.command))]
    return "\n".join(lines) + "\n"


def where_it_errs(where: Where | None) -> list[str]:
    """Write where the reference errs: the worst confusions and, if they are few, all classes."""
    if not where:
        return []
    name, own = next(iter(where.found.items()))
    lines = ["", f"**Where it errs** ({escape(name)}): {escape(measures(own))}."]
    if found := often(own):
        lines += ["", begin(f"Most often: {'; '.join(found)}.")]
    heads, *rows = class_table(own)
    return [*lines, "", *table(heads, rows)] if len(rows) <= LABELLED else lines


def remarks(runs: Iterable[Run], warnings: Sequence[str] = (), most: int = 40) -> list[str]:
    """List the runs that failed, and what else a reader must know."""
    items = [f"{p.state}: {p.run}: {printable(p.last, 200)}" for p in problems.problems(runs)]
    items += warnings
    lines = [f"- {begin(item)}" for item in items[:most]]
    if (more := len(items) - most) > 0:
        lines.append(f"- ... and {more:,} more; report.json has them all.")
    return ["", *lines] if lines else []
