"""What the report says in sentences: what was compared, how far it has come, what went wrong."""

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.ablation.plan import Plan, Values
from runner.ablation.table import find_damage
from runner.ablation.verdicts import Findings, Verdict
from runner.report import words
from runner.store.runs import Run

DESIGNS = {
    "one_at_a_time": "{what}, each alone, against the baseline",
    "leave_one_out": "{what}: all together, against all but each one",
    "both": "{what}: each alone against the baseline, and each added to all the others",
    "pairs": "{what}: each alone, and every two together, against the baseline",
    "factorial": "every combination of {what}",
    "fractional": "a balanced fraction of all combinations of {what}",
    "calibration": "the baseline against itself, where every difference is chance",
}

BAD = ("failed", "diverged", "damaged")

LISTED = 8  # names that a sentence holds


def sentence(plan: Plan) -> str:
    """Say in plain words what was compared, on what, how it was measured, and what matters."""
    question, config = plan.question, plan.config
    compared = DESIGNS.get(question.design, f"{words.printable(question.design)} of {{what}}")
    epochs = config.get("epochs")
    parts = [
        compared.replace("{what}", _what(plan)) + ".",
        f"Trained was {_part(config, 'model')} on {_part(config, 'data')}"
        + (f", {words.shorten(str(epochs), 20)} epochs" if epochs is not None else "")
        + f", with {words.count(len(plan.seeds), 'seed')}.",
        f"The measure is {words.spaced(question.metric)}, "
        + ("more" if question.goal == "maximize" else "less")
        + " is better; a difference below "
        + f"{words.with_unit(question.margin, question.metric)} does not matter.",
    ]
    text = words.printable(" ".join(parts))
    return text[:1].upper() + text[1:]


def _what(plan: Plan) -> str:
    tricks = all(f.levels[1:] == (f.name,) for f in plan.factors)
    counted = words.count(len(plan.factors), "trick" if tricks else "factor")
    names = [words.shorten(f.name, 40) for f in plan.factors[:LISTED]]
    more = len(plan.factors) - len(names)
    return f"{counted} ({', '.join([*names, f'and {more} more'] if more else names)})"


def _part(config: Values, group: str) -> str:
    """Name the data or the model: the last part of its target, and what it was given."""
    target = str(config.get(f"{group}._target_", f"an unknown {group}")).rpartition(".")[2]
    shown = ("name", "root", "file") if group == "data" else None
    given = [
        f"{key.rpartition('.')[2]} {value}"
        for key, value in config.items()
        if key.startswith(f"{group}.")
        and key.count(".") == 1
        and not key.endswith("._target_")
        and value is not None
        and (shown is None or key.rpartition(".")[2] in shown)
    ]
    return words.shorten(f"{target} ({', '.join(given)})" if given else target, 120)


def rules(plan: Plan) -> str:
    """Say how sure a verdict is, and when the seeds were settled."""
    question = plan.question
    rate = f"The chance of any false verdict among them is {100 * question.alpha:.3g} % at most"
    if question.until == "decided":
        most = f"Seeds are added until every verdict stands, {question.most_seeds} at most."
        return f"{most} {rate}, however often one looks."
    return f"The seeds were settled before the first run. {rate}."


def progress(findings: Findings) -> str | None:
    """Say how far the ablation has come; None if every run is done."""
    planned = len(findings.plan.seeds) * len(findings.plan.variants)
    states = Counter(run.state for run in findings.runs.values())
    if states["done"] >= planned:
        return None
    others = [f"{n:,} {words.shorten(s, 20)}" for s, n in sorted(states.items()) if s != "done"]
    if (waiting := planned - states.total()) > 0:
        others.append(f"{waiting:,} not begun")
    return f"{states['done']:,} of {words.count(planned, 'run')} done: {', '.join(others)}."


def summary(findings: Findings) -> str:
    """Count the verdicts: `2 HELPS, 1 HURTS`."""
    if not findings.effects:
        return words.printable(findings.plan.question.design)
    counts = Counter(finding.verdict for finding in findings.effects)
    return ", ".join(f"{counts[v]} {v}" for v in Verdict if counts[v])


@dataclass(frozen=True)
class Problem:
    """A run that came to nothing, or whose files are damaged."""

    run: str
    state: str
    last: str
    """The last line of what went wrong."""
    full: str
    """All of it; empty if the last line is all."""


def problems(runs: Iterable[Run]) -> Iterator[Problem]:
    """Run through the runs that failed, diverged or are damaged."""
    for run in runs:
        if run.state not in BAD and not run.damage:
            continue
        error = run.status.get("error")
        if run.state in ("damaged", "done"):
            error = run.damage or "; ".join(find_damage(run))
        lines = words.printable_lines(error or "Nothing was written about it.")
        said = [line for line in lines if line.strip()] or ["Nothing was written about it."]
        yield Problem(
            run=words.printable(f"{run.variant}/{run.folder.name}"),
            state="damaged" if run.damage else run.state,
            last=said[-1].strip(),
            full="\n".join(lines) if len(said) > 1 else "",
        )


def notes(findings: Findings) -> list[str]:
    """Give back the warnings, but for those of runs that `problems` tells of."""
    told = tuple(f"{problem.run}: " for problem in problems(findings.runs.values()))
    warnings = (words.printable(warning) for warning in findings.warnings)
    return [warning for warning in warnings if not warning.startswith(told)]


def fingerprints(runs: Iterable[Run]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Give back for each part of the fingerprint the values that were met, and in how many runs.

    The config's hash, which each run has its own of, is left to `report.json`.
    """
    met: dict[str, Counter[str]] = {}
    for run in runs:
        for name, value in _leaves(run.machine):
            if name not in ("format", "config"):
                met.setdefault(name, Counter())[words.shorten(str(value), 80)] += 1
    return [(words.shorten(name, 40), values.most_common()) for name, values in met.items()]


def _leaves(node: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        if isinstance(value, dict):
            prefix = "" if key == "libraries" else f"{key} "
            yield from ((f"{prefix}{name}", leaf) for name, leaf in value.items())
        else:
            yield key, value


def path(folder: Path) -> str:
    """Write a folder as short as it can be told, from here if it lies below, ready for a shell."""
    absolute = folder.resolve()
    below = absolute.is_relative_to(Path.cwd())
    return words.printable(shlex.quote(os.path.relpath(absolute) if below else str(absolute)))


def commands(folder: Path, command: str | None, run: Run | None) -> list[tuple[str, str]]:
    """Give back what to type, each with what it does."""
    place = path(run.folder) if run else f"{path(folder)}/VARIANT/seed=SEED"
    typed = [("The runs, again or on from where they stopped", words.printable(command))]
    return [
        *(typed if command else []),
        ("This report, again from the files", f"python -m runner.report {path(folder)}"),
        ("The curves in TensorBoard", f"tensorboard --logdir {path(folder)}"),
        ("One run again, compared bit for bit", f"python -m runner.verify {place}"),
    ]
