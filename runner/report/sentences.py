"""The sentences of a report: what was compared, how far it is, what failed, what to type."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.ablation.decide import Verdict
from runner.ablation.estimates import shares_spreads
from runner.ablation.plan import SCORES, Plan, Question, Values
from runner.ablation.verdicts import Findings
from runner.ablation.wording import EQUAL, with_unit
from runner.report import format as fmt
from runner.store.runs import Run
from runner.texts import printable

DESIGNS = {
    "one_at_a_time": "{what}, each alone, against the baseline",
    "leave_one_out": "{what}: all together, against all but one",
    "both": "{what}: each alone against the baseline, and each added to all the others",
    "pairs": "{what}: each alone, and each pair together, against the baseline",
    "cumulative": "{what}, added one after the other in this order: each step against the one "
    "before it, and all together against the baseline",
    "factorial": "every combination of {what}",
    "fractional": "a balanced fraction of all combinations of {what}",
    "calibration": "the baseline against itself, where every difference is chance",
}

LISTED = 8  # names in a sentence


def sentence(plan: Plan) -> str:
    """Say what was compared, on what, how it was measured, and which difference matters."""
    question, config = plan.question, plan.config
    if question.design == SCORES:
        baseline = printable(next(iter(plan.variants)), 60)
        made = f"{_what(plan)}, each against {baseline}, by the scores in {printable(plan.name)}."
        return f"{made} {_measure(question)}"
    compared = DESIGNS.get(question.design, f"{printable(question.design)} of {{what}}")
    first_ones = [variants[0] for variants in plan.settings().values()]
    configs = [{**config, **plan.changes.get(variant, {})} for variant in first_ones]
    epochs = _listed([str(c["epochs"]) for c in configs if "epochs" in c])
    models, data = (_listed([_part(c, group) for c in configs]) for group in ("model", "data"))
    parts = [
        compared.replace("{what}", _what(plan)) + _where(plan) + ".",
        f"{models} {'were' if ' and ' in models else 'was'} trained on {data}"
        + (f" for {epochs} epoch{'' if epochs == '1' else 's'}" if epochs else "")
        + f", with {fmt.count(len(plan.seeds), 'seed')}.",
        _measure(question),
        *compared_at(plan),
    ]
    text = printable(" ".join(parts))
    return text[:1].upper() + text[1:]


def _measure(question: Question) -> str:
    return (
        f"The measure is {fmt.spaced(question.metric)}, where "
        + ("higher" if question.goal == "maximize" else "lower")
        + " is better; a difference below "
        + f"{with_unit(question.margin, question.metric)} does not matter."
    )


def compared_at(plan: Plan) -> Iterator[str]:
    """Say what all variants had the same of, unless it is their epochs, and for how long each ran.

    Those that ran as long as the first one are not named.
    """
    if (at := plan.question.at) == "epochs":
        return
    settings, parts = [*plan.settings().values()], []
    for first, *others in settings:
        usual = plan.epochs_of(first)
        lengths = ((name, plan.epochs_of(name)) for name in others)
        found = [f"{n:g} of {printable(name, 40)}" for name, n in lengths if n != usual]
        if len(found) > LISTED:
            found[LISTED:] = [f"others of {len(found) - LISTED} more"]
        whose = printable(first, 40) if found or len(settings) > 1 else "every variant"
        epochs = "epoch" if usual == 1 else "epochs"
        parts.append(", ".join([f"{usual:g} {epochs} of {whose}", *found]))
    more = [f"and {len(parts) - LISTED} more"] if len(parts) > LISTED else []
    yield f"The verdicts are at {EQUAL[at]}: {'; '.join([*parts[:LISTED], *more])}."


def _where(plan: Plan) -> str:
    """Name the settings, if there are several."""
    settings = [*plan.settings()]
    if len(settings) < 2:
        return ""
    return f", in each of {len(settings)} settings ({_listed(settings)})"


def _listed(names: Sequence[str]) -> str:
    """Write `a, b and c`, each once; of many the first ones."""
    names = [printable(name, 120) for name in dict.fromkeys(names)]
    if len(names) > LISTED:
        names = [*names[:LISTED], f"{len(names) - LISTED} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _what(plan: Plan) -> str:
    tricks = all(f.levels[1:] == (f.name,) for f in plan.judged)
    kind = "variant" if plan.question.design == SCORES else "trick" if tricks else "factor"
    counted = fmt.count(len(plan.judged), kind)
    names = [printable(f.name, 40) for f in plan.judged[:LISTED]]
    more = len(plan.judged) - len(names)
    return f"{counted} ({', '.join([*names, f'and {more} more'] if more else names)})"


def _part(config: Values, group: str) -> str:
    """Name the data or the model: the last part of its target, and what it was given."""
    own = {k.removeprefix(f"{group}."): v for k, v in config.items() if k.startswith(f"{group}.")}
    target = str(own.pop("_target_", f"an unknown {group}")).rpartition(".")[2]
    shown = ("name", "root", "file") if group == "data" else [key for key in own if "." not in key]
    given = [f"{key} {value}" for key, value in own.items() if value is not None and key in shown]
    return printable(f"{target} ({', '.join(given)})" if given else target, 120)


def rules(plan: Plan) -> str:
    """Say which verdicts have an error rate, on what it rests, and when the seeds were chosen."""
    question, decided = plan.question, plan.question.until == "decided"
    seeds = "The number of seeds was fixed before the first run."
    if question.design == SCORES:
        seeds = "The number of runs has to be settled before the first one."
        if decided:
            seeds = "Runs may be added until every verdict is final."
    elif question.grows:
        seeds = f"Seeds are added until every verdict is final, {question.most_seeds} at most."
    if question.looks:
        *most, last = map(str, question.looks)
        seeds += f" Verdicts are made with {', '.join(most)} and {last} seeds." if most else ""
    kinds = {contrast.kind for contrast in plan.contrasts}
    if "effect" not in kinds:
        return seeds
    rate, looks = f"{100 * question.alpha:.3g} %", ", however often one looks" if decided else ""
    test = "" if question.grows else ", by Fisher's exact test"
    lines = [
        seeds,
        f"If scores are roughly normal, the chance that any HELPS, HURTS or NEGLIGIBLE is false is "
        f"at most {rate}{looks}.",
        f"For BROKEN it is another {rate}, if runs fail independently of each other{test}.",
    ]
    if shares_spreads(plan):
        every = "all in its setting" if len(plan.settings()) > 1 else "all effects"
        lines.append(f"The spread of an effect is partly its own, and partly that of {every}.")
    if "interaction" in kinds:
        lines.append(f"Interactions are a family of their own, with a further {rate}.")
    return " ".join(lines)


def progress(findings: Findings) -> str | None:
    """Say how many runs are done; None if all are, or if nobody planned them."""
    if findings.plan.question.design == SCORES:
        return None
    planned = sum(1 for _ in findings.plan.runs())
    states = Counter(run.state for run in findings.runs.values())
    if states["done"] >= planned:
        return None
    others = [f"{n:,} {printable(s, 20)}" for s, n in sorted(states.items()) if s != "done"]
    if (waiting := planned - states.total()) > 0:
        others.append(f"{waiting:,} not started")
    return f"{states['done']:,} of {fmt.count(planned, 'run')} done: {', '.join(others)}."


def summary(findings: Findings) -> str:
    """Count the verdicts: `2 HELPS, 1 HURTS`."""
    if not findings.effects:
        return printable(findings.plan.question.design)
    counts = Counter(finding.verdict for finding in findings.effects)
    few = sorted({finding.seeds for finding in findings.effects if finding.few})
    mark = f" (on {' and '.join(map(str, few))} seeds only)" if few else ""
    at = findings.plan.question.at
    held = f" at {EQUAL[at]}" if at != "epochs" else ""
    return ", ".join(f"{counts[v]} {v}" for v in Verdict if counts[v]) + mark + held


def path(folder: Path) -> str:
    """Write a folder for a shell: relative if it is below the current one, else absolute."""
    absolute = folder.resolve()
    below = absolute.is_relative_to(Path.cwd())
    return printable(shlex.quote(os.path.relpath(absolute) if below else str(absolute)))


def commands(folder: Path, command: str | None, run: Run | None) -> list[tuple[str, str]]:
    """Give back commands to type, each with what it does."""
    if run is not None and run.elsewhere:  # a row of a table
        return [("Judge these scores again", printable(command))] if command else []
    place = path(run.folder) if run else f"{path(folder)}/VARIANT/seed=SEED"
    typed = [("Run again, or resume what was stopped", printable(command))]
    return [
        *(typed if command else []),
        ("Write this report again from the files", f"python -m runner.report {path(folder)}"),
        ("Show the curves in TensorBoard", f"tensorboard --logdir {path(folder)}"),
        ("Repeat one run and compare it bit for bit", f"python -m runner.verify {place}"),
    ]
