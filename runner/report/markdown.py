"""report.md: what belongs into a pull request."""

import re
from collections.abc import Iterable, Sequence

from runner.ablation.verdicts import Findings
from runner.report import sections, story, words
from runner.report.rows import rows
from runner.store.runs import Run

ENTITIES = (
    *(("<", "&lt;"), ("@", "&#64;"), ("$", "&#36;")),
    *(("://", "&#58;//"), ("www.", "www&#46;")),
)
"""What Markdown, as GitHub has it, would make tags, calls to people, formulas and links of."""


def escape(text: object) -> str:
    """Write anything so that Markdown shows it as it is, in one line."""
    escaped = re.sub(r"([\\`*_\[\]>|#~])", r"\\\1", words.printable(text).replace("&", "&amp;"))
    for text_, entity in ENTITIES:
        escaped = escaped.replace(text_, entity)
    return escaped


def begin(text: object) -> str:
    """Write what begins a line: it makes no list, rule or heading."""
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", escape(text))


def code(text: str) -> list[str]:
    """Write a command as a block of lines; a fence inside it closes nothing."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [fence, text, fence]


def table(heads: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Write a table; every cell is escaped."""
    head, *rows = (f"| {' | '.join(escape(cell) for cell in row)} |" for row in (heads, *body))
    return [head, f"|{' --- |' * len(heads)}", *rows]


def page(findings: Findings) -> str:
    """Write the Markdown of an ablation."""
    plan = findings.plan
    unit = words.unit(plan.question.metric)
    lines = [f"## {escape(plan.name)}", "", begin(story.sentence(plan))]
    if (progress := story.progress(findings)) is not None:
        lines += ["", f"**{escape(progress)}**"]
    if findings.effects:
        heads = ["effect", "verdict", f"difference, {unit}", "seeds better"]
        body = [
            [r.effect, r.verdict, r.plus_minus, r.better, r.time, r.memory, r.reason]
            for r in rows(findings)
        ]
        lines += ["", *table([*heads, "time", "memory", "reason"], body)]
    if calibration := sections.calibration(findings):
        lines += ["", *table(calibration[0], calibration[1:])]
    lines += remarks(findings.runs.values(), story.notes(findings))
    lines += ["", *code(words.printable(plan.command))]
    return "\n".join(lines) + "\n"


def remarks(runs: Iterable[Run], warnings: Sequence[str] = (), most: int = 40) -> list[str]:
    """List the runs that failed, and what must be known."""
    items = [f"{p.state}: {p.run}: {words.shorten(p.last, 200)}" for p in story.problems(runs)]
    items += warnings
    lines = [f"- {begin(item)}" for item in items[:most]]
    if (more := len(items) - most) > 0:
        lines.append(f"- ... and {more:,} more; report.json has them all.")
    return ["", *lines] if lines else []
