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

    def reference(self, name: str) -> tuple[str, Answers] | None:
        """Give the name and the answers that a variant can be compared with."""
        other = self.references[name]
        found = self.found.get(other)
        alike = found is not None and other != name and found.names == self.found[name].names
        return (other, found) if found is not None and alike else None


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
    return [_section(name, own, where.reference(name)) for name, own in where.found.items()]


def _section(name: str, own: Answers, reference: tuple[str, Answers] | None) -> dict[str, Any]:
    few = len(own.names) <= LABELLED
    return {
        "title": printable(f"{name}, {fmt.count(own.seeds, 'seed')}"),
        "measures": measures(own),
        "often": often(own, FEW if few else LISTED),
        "matrix": _matrix(own) if few else None,
        "classes": class_table(own, reference),
        "changed": reference and changed(own, *reference),
        "picture": own.picture and base64.b64encode(own.picture).decode(),
        "numbered": _numbered(own) if own.picture else "",
        "problems": [printable(problem, 300) for problem in own.problems],
    }


def remark(where: Where) -> str:
    """Say what the numbers are, and what was not read."""
    several = any(own.seeds > 1 for own in where.found.values())
    text = "From the predictions on the test set"
    text += ", added up over the seeds. " if several else ". "
    text += answers.limits(where.found, where.variants)
    if len(where.found) > 1:
        text += (
            "How the recall of single classes changes is not judged: of many, some change by "
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


def class_table(own: Answers, reference: tuple[str, Answers] | None = None) -> Table:
    """List the classes; beside those of a reference the ones that differ most come first.

    Without a reference they are in their order or, if they are many, the lowest recall comes first.
    """
    rows = [(row, [_share(v) for v in (row.recall, row.precision, row.f1)]) for row in own.classes]
    heads = ["Class", "Test images", "Recall, %", "Precision, %", "F1, %"]
    if reference:
        name, other = reference
        heads.insert(3, f"Against {printable(name, NAME)}, points")
        changes = _changes(own, other)
        for (_, cells), change in zip(rows, changes, strict=True):
            cells.insert(1, _points(change))
        rows = [rows[place] for place in _by_size(changes)]
    elif len(rows) > LABELLED:
        rows.sort(key=lambda pair: 2.0 if pair[0].recall is None else pair[0].recall)
    images = [f"{row.support / own.seeds:,.0f}" for row, _ in rows]
    pairs = zip(rows, images, strict=True)
    return [heads, *([printable(row.name, NAME), n, *cells] for (row, cells), n in pairs)]


def _changes(own: Answers, other: Answers) -> list[float | None]:
    """Give by how much the recall of each class is above that of the reference, in points."""
    pairs = ((n.recall, b.recall) for n, b in zip(own.classes, other.classes, strict=True))
    return [None if now is None or was is None else 100 * (now - was) for now, was in pairs]


def _points(change: float | None) -> str:
    if change is None:
        return "-"
    return f"{change:+.1f}" if round(change, 1) else "0.0"


def _by_size(changes: Sequence[float | None]) -> list[int]:
    """Order the places of changes, the largest in either direction first."""
    return sorted(range(len(changes)), key=lambda place: -abs(changes[place] or 0.0))


def changed(own: Answers, name: str, other: Answers) -> str:
    """Name the classes that changed most: `recall of truck: +3.1, cat: -2.0 points`."""
    changes = _changes(own, other)
    found = [place for place in _by_size(changes)[:FEW] if round(changes[place] or 0.0, 1)]
    words = [f"{printable(own.names[n], HEAD)}: {_points(changes[n])}" for n in found]
    return f"recall of {', '.join(words)} points" if words else f"recall as {printable(name, NAME)}"


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
        if not (found := often(own)):
            yield "No test image is answered wrong."
            continue
        yield f"Where it errs, of {own.counts.sum():,} test images:"
        yield from (f"  {line}" for line in found)
        known = [(row.recall, row.name) for row in own.classes if row.recall is not None]
        recall, name = min(known, key=lambda pair: pair[0])
        yield f"  lowest recall: {printable(name, NAME)}, {_share(recall)} %"


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
