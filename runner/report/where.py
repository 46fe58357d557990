"""Where a model errs, in words and tables: each class, and which is taken for which."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from runner.ablation.verdicts import Findings
from runner.report import answers
from runner.report import format as fmt
from runner.report.answers import Answers, Confusion
from runner.report.tables import Table
from runner.store.runs import Run
from runner.texts import printable
from runner.tiles import LABELLED, drawable, percent

LISTED = 15  # confusions, of more classes than a matrix holds
FEW = 3  # confusions, or changed classes, in a sentence
NAME, HEAD = 60, 24  # characters of a class's name, and of one above a column
NUMBERED = 20  # classes in a picture whose names are written below it
LARGEST = 100  # classes of a matrix in report.json

MEASURES = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    f"top{answers.TOP}_accuracy": f"top-{answers.TOP} accuracy",
    "calibration_error": "calibration error",
}
"""What they are called, by their names in `runner.metrics`."""


@dataclass(frozen=True)
class Where:
    """The answers of the variants that were read, the reference first."""

    found: Mapping[str, Answers]
    references: Mapping[str, str]
    """For each variant the one that it is compared with; a reference has itself."""
    variants: int
    """How many there are, read or not."""

    def __bool__(self) -> bool:
        return bool(self.found)

    def pairs(self) -> Iterator[tuple[str, Answers, Answers | None]]:
        """Iterate over variants and their answers, with those of the reference if comparable."""
        for name, own in self.found.items():
            other = self.found.get(self.references[name])
            alike = other is not None and other is not own and other.names == own.names
            yield name, own, other if alike else None


def of_ablation(findings: Findings) -> Where:
    """Read the answers of an ablation: the baselines, then the variants of the largest effects."""
    settings = findings.plan.settings().values()
    references = {name: names[0] for names in settings for name in names}
    sizes = {
        name: abs(effect.mean or 0.0)
        for effect in findings.effects
        if len(effect.contrast.weights) == 2
        for name in effect.contrast.weights
    }
    order = sorted(references, key=lambda v: (references[v] != v, -sizes.get(v, 0.0)))
    groups: dict[str, list[Run]] = {name: [] for name in order}
    for (variant, _), run in findings.runs.items():
        if variant in groups:
            groups[variant].append(run)
    return Where(answers.read_all(groups), references, len(groups))


def of_groups(groups: Mapping[str, Sequence[Run]]) -> Where:
    """Read the answers of variants, of which the first is the reference."""
    return Where(
        answers.read_all(groups), dict.fromkeys(groups, next(iter(groups), "")), len(groups)
    )


def sections(where: Where) -> list[dict[str, Any]]:
    """Give back what the page shows of each variant."""
    return [
        {
            "title": printable(f"{name}, {fmt.count(own.seeds, 'seed')}"),
            "measures": measures(own),
            "often": often(own, FEW if len(own.names) <= LABELLED else LISTED),
            "matrix": _matrix(own) if len(own.names) <= LABELLED else None,
            "classes": class_table(own, other),
            "changed": None if other is None else changed(own, other),
            "picture": own.picture and base64.b64encode(own.picture).decode(),
            "numbered": _numbered(own) if own.picture else "",
            "problems": [printable(problem, 300) for problem in own.problems],
        }
        for name, own, other in where.pairs()
    ]


def remark(where: Where) -> str:
    """Say what the numbers are, and what was not read."""
    several = any(own.seeds > 1 for own in where.found.values())
    text = "From the predictions on the test set"
    text += ", added up over the seeds. " if several else ". "
    text += answers.limits(where.found, where.variants)
    if len(where.found) > 1:
        text += (
            "How a class changes against the first one is not judged: of many, some change by "
            "chance. "
        )
    return text.rstrip()


def measures(own: Answers) -> str:
    """Write the numbers over all classes."""
    accuracy = own.counts.trace() / own.counts.sum()
    means = {MEASURES[name]: value for name, value in own.means.items()}
    shown = {"accuracy": accuracy, **means}
    return ", ".join(f"{name} {_share(value)} %" for name, value in shown.items())


def often(own: Answers, most: int = FEW) -> list[str]:
    """Write the most frequent confusions, a line each."""
    return [confused(own, each) for each in own.confusions(most)]


def confused(own: Answers, found: Confusion) -> str:
    """Write a confusion: `cat taken for dog: 12.0 % (120 of 1,000)`."""
    true, predicted = (printable(own.names[n], NAME) for n in (found.true, found.predicted))
    total = own.classes[found.true].support
    return f"{true} taken for {predicted}: {_share(found.share)} % ({found.times:,} of {total:,})"


def _share(value: float | None) -> str:
    """Write a share in percent; `-` if it is not known."""
    return "-" if value is None else f"{100 * value:.1f}"


def class_table(own: Answers, other: Answers | None = None) -> Table:
    """List the classes; beside those of a reference the ones that differ most come first.

    Without a reference they are in their order or, if they are many, the lowest recall comes first.
    """
    changes = dict(enumerate(_changes(own, other))) if other else {}
    rows = list(enumerate(own.classes))
    if other:
        rows.sort(key=lambda pair: -abs(changes[pair[0]] or 0.0))
    elif len(rows) > LABELLED:
        rows.sort(key=lambda pair: 2.0 if pair[1].recall is None else pair[1].recall)
    heads = ["Class", "Test images", "Recall, %", "Precision, %", "F1, %"]
    return [
        [*heads, *(["Recall against the first, points"] if other else [])],
        *(
            [
                printable(row.name, NAME),
                f"{row.support / own.seeds:,.0f}",
                *map(_share, (row.recall, row.precision, row.f1)),
                *([_points(changes[number])] if other else []),
            ]
            for number, row in rows
        ),
    ]


def _changes(own: Answers, other: Answers) -> list[float | None]:
    """Give by how much the recall of each class is above that of the reference, in points."""
    pairs = ((n.recall, b.recall) for n, b in zip(own.classes, other.classes, strict=True))
    return [None if now is None or was is None else 100 * (now - was) for now, was in pairs]


def _points(change: float | None) -> str:
    return "-" if change is None else f"{round(change, 1) or 0.0:+.1f}"


def changed(own: Answers, other: Answers) -> str:
    """Name the classes that changed most: `recall of truck +3.1, cat -2.0 points`."""
    changes = _changes(own, other)
    order = sorted(range(len(changes)), key=lambda n: -abs(changes[n] or 0.0))
    found = [n for n in order[:FEW] if round(changes[n] or 0.0, 1)]
    words = [f"{printable(own.names[n], HEAD)}: {_points(changes[n])}" for n in found]
    return f"recall of {', '.join(words)} points" if words else "recall as the first one's"


class Cell(NamedTuple):
    """A cell of the matrix."""

    text: str
    sign: str
    """The colour: `plus` where the answer is right."""
    strength: float
    title: str


def _matrix(own: Answers) -> dict[str, Any]:
    """Lay out the matrix: the heads of its columns, and its rows."""
    totals = own.counts.sum(1)
    rows = []
    for true, name in enumerate(own.names):
        cells = []
        for predicted, count in enumerate(own.counts[true].tolist()):
            share = count / totals[true] if count else 0.0
            told = confused(own, Confusion(true, predicted, count, share))
            sign, strength = "plus" if true == predicted else "minus", round(0.6 * share**0.5, 2)
            cells.append(Cell(percent(share) if count else "", sign, strength, told))
        rows.append((printable(name, HEAD), cells))
    return {"heads": [printable(name, HEAD) for name in own.names], "rows": rows}


def _numbered(own: Answers) -> str:
    """Say which classes have a number in the picture, whose font lacks their characters."""
    pairs = zip(drawable(own.names), own.names, strict=True)
    texts = [f"{drawn} is {printable(name, HEAD)}" for drawn, name in pairs if drawn != name]
    numbered = [text for text in texts if text.startswith("class ")]
    more = f" and {len(numbered) - NUMBERED} more" if len(numbered) > NUMBERED else ""
    return ", ".join(numbered[:NUMBERED]) + more


def terminal_lines(where: Where) -> Iterator[str]:
    """Write where a single run errs, in a few lines."""
    for own in where.found.values():
        found = often(own)
        yield (
            f"Where it errs, of {own.counts.sum():,} test images:"
            if found
            else "No test image is answered wrong."
        )
        yield from (f"  {line}" for line in found)
        known = [row for row in own.classes if row.recall is not None]
        if found and (worst := min(known, key=lambda row: row.recall or 0.0)):
            name = printable(worst.name, NAME)
            yield f"  lowest recall: {name}, {_share(worst.recall)} %"


def per_class(where: Where) -> dict[str, Any]:
    """Give back what report.json has of each variant."""
    return {
        name: {
            "seeds": own.seeds,
            **own.means,
            "classes": [row._asdict() for row in own.classes],
            "confusion": own.counts.tolist() if len(own.names) <= LARGEST else None,
            "confusions": [
                {
                    **each._asdict(),
                    "true": own.names[each.true],
                    "predicted": own.names[each.predicted],
                }
                for each in own.confusions(LISTED)
            ],
        }
        for name, own in where.found.items()
    }
