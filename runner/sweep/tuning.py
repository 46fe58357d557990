"""Tuning before judging: the trials as a plan of their own, and what they chose."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any

from runner.ablation.designs import Factor
from runner.ablation.plan import Plan, load_plan
from runner.ablation.table import is_evidence
from runner.ablation.tuning import (
    APART,
    TUNING,
    Tried,
    Tuned,
    choose,
    measure_of,
    schedule,
    setting,
    size_of,
)
from runner.config import check
from runner.errors import UserError, did_you_mean
from runner.names import shorten, write_label, write_value
from runner.store.runs import number, read_run
from runner.sweep.draft import Draft, difference, flat_values, write_overrides
from runner.sweep.freeze import refuse_other

UNUSED = "-"
"""The level of a setting that a variant does not use."""


def find_trials(root: Path, draft: Draft, plan: Plan) -> Plan | None:
    """Plan the trials of an ablation that is not judged yet, or go on with those in its folder.

    Args:
        root: Its folder.
        draft: What was laid out.
        plan: Its plan, untuned.

    Raises:
        UserError: If nothing can be tuned so, or the folder has trials of another ablation.
    """
    before = load_plan(root / TUNING)
    if plan.question.tune:
        trials = plan_trials(draft, plan, before)
        return refuse_other(root / TUNING, before, trials) if before else trials
    if before:
        raise UserError(
            f"{root} holds another ablation, which was tuned first, in {root / TUNING}. Give this "
            "one a name of its own (name=NAME), or remove that folder."
        )
    return None


def plan_trials(draft: Draft, plan: Plan, before: Plan | None) -> Plan:
    """Lay out the trials of every variant: a plan without questions, in a folder of its own.

    Args:
        draft: The ablation's.
        plan: Its plan, untuned. Where it is at equal cost, a trial has its variant's epochs.
        before: The trials that its folder holds, whose epochs are kept.

    Raises:
        UserError: If nothing uses a setting that is to be tuned, one of its values is wrong, or
            there is no validation split to choose by.
    """
    question, seeds = plan.question, tuning_seeds(plan)
    metric, goal = measure_of(question.metric, question.goal)
    _refuse_untunable(plan, metric)
    grids = _grids(draft, plan)
    sizes = {arm: size_of(grid) for arm, grid in grids.items()}
    first = next(seeds)
    tried = schedule(sizes, question.trials or None, first)
    rows, repeats, arms = dict[str, list[str]](), dict[str, int](), dict[str, tuple[str, ...]]()
    for arm, places in tried.items():
        for place, times in places.items():
            values = setting(grids[arm], place)
            name = shorten("+".join([arm, *_words(values)]))
            rows[name] = [*draft.rows[arm], *write_overrides(values)]
            if question.at != "epochs":
                known = before if before and name in before.variants else None
                length = known.epochs_of(name) if known else plan.epochs_of(arm)
                rows[name].append(f"epochs={length}")
            repeats[name] = times
            levels = (write_value(values[k]) if k in values else UNUSED for k in question.tune)
            arms[name] = (arm, *levels)
    flat = {name: flat_values(settings) for name, settings in draft.check(rows).items()}
    base = next(iter(flat.values()))
    most = max(repeats.values())
    return dataclasses.replace(
        plan,
        name=f"{plan.name}/{TUNING}",
        question=dataclasses.replace(
            question,
            design=TUNING,
            metric=metric,
            goal=goal,
            until="fixed",
            looks=(),
            most_seeds=most,
        ),
        seeds=(first, *islice(seeds, most - 1)),
        factors=(
            Factor("tuned", tuple(plan.variants)),
            *(Factor(key, tuple(map(write_value, each))) for key, each in question.tune.items()),
        ),
        across=(),
        variants=arms,
        contrasts=(),
        config=base,
        changes={name: difference(base, values) for name, values in flat.items()},
        repeats=repeats,
    )


def tuning_seeds(plan: Plan) -> Iterator[int]:
    """Iterate over seeds that the ablation will never judge with."""
    listed, added = {*plan.seeds}, range(plan.seeds[0], plan.seeds[0] + plan.question.most_seeds)
    candidates = count(min(listed) + APART)
    return (seed for seed in candidates if seed not in listed and seed not in added)


def _refuse_untunable(plan: Plan, metric: str) -> None:
    if plan.question.at != "epochs" and "epochs" in plan.question.tune:
        raise UserError(
            f"ablation.at={plan.question.at} sets the epochs of each variant. Drop epochs from "
            "ablation.tune, or take ablation.at=epochs."
        )
    for variant in plan.variants:
        if not {**plan.config, **plan.changes[variant]}["data.validation"]:
            raise UserError(
                f"ablation.tune chooses by {metric}, but {variant} has data.validation=0. "
                "Set data.validation=0.1: to choose by the test set would spoil the verdicts."
            )


def _grids(draft: Draft, plan: Plan) -> Mapping[str, Mapping[str, Sequence[Any]]]:
    """Give back for each variant the settings that it uses, with their values.

    Raises:
        UserError: If a value is wrong, or nothing uses a setting.
    """
    probes: dict[tuple[str, str], list[str]] = {}
    for arm in plan.variants:
        known = {**plan.config, **plan.changes[arm]}
        for key, values in plan.question.tune.items():
            if key in known and f"~{key}" not in known:
                probes[arm, key] = [write_overrides({key: value})[0] for value in values]
    rows = {
        f"{arm} {override}": [*draft.rows[arm], override]
        for (arm, _), overrides in probes.items()
        for override in overrides
    }
    composed = draft.compose(rows)
    for config in composed.values():
        check(config)
    grids: dict[str, dict[str, Sequence[Any]]] = {arm: {} for arm in plan.variants}
    for (arm, key), (override, *_) in probes.items():
        with suppress(UserError):  # as typed alone it would be refused, if nothing uses it
            check(composed[f"{arm} {override}"], [override])
            grids[arm][key] = plan.question.tune[key]
    for key in plan.question.tune:
        if not any(key in grid for grid in grids.values()):
            raise UserError(_unused(key, plan))
    return grids


def _unused(key: str, plan: Plan) -> str:
    """Say why no variant uses a setting."""
    known = {key for changes in (plan.config, *plan.changes.values()) for key in changes}
    if within := [name for name in known if name.startswith(f"{key}.")]:
        usual = next((name for name in within if name == f"{key}.lr"), min(within))
        return (
            f"ablation.tune names {key}, which is a group of settings. Name one of them, such as "
            f"{usual}. Options of a group are compared as ablation.factors."
        )
    if key not in known:
        near = did_you_mean(key, known)
        return f"ablation.tune names {key}, which is no setting.{near}"
    trick = key.split(".")[1] if key.startswith("tricks.") else ""
    if trick:
        return (
            f"ablation.tune names {key}, but {trick} is off in every variant. Switch it on, as "
            f"with 'tricks=[{trick}]'."
        )
    return f"ablation.tune names {key}, which no variant uses. Drop it."


def _words(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield write_label(f"{key.removeprefix('tricks.')}={write_value(value)}")


def read_trials(root: Path, plan: Plan) -> dict[str, Tuned]:
    """Read what the trials came to, and choose the best setting of each variant.

    Args:
        root: The folder of the trials.
        plan: Their plan.

    Raises:
        UserError: If a trial is not done and did not fail by itself either.
    """
    tried: dict[str, list[Tried]] = {}
    for name, (arm, *levels) in plan.variants.items():
        known = {**plan.config, **plan.changes[name]}
        keys = zip(plan.question.tune, levels, strict=True)
        values = {key: known[key] for key, level in keys if level != UNUSED}
        seeds = plan.seeds[: plan.repeats[name]]
        scores = tuple(_score(plan.folder(root, name, seed), name, plan) for seed in seeds)
        tried.setdefault(arm, []).append(Tried(values, scores))
    goal = plan.question.goal
    return {
        arm: Tuned(tuple(each), choose(each, goal), plan.seeds[: max(len(t.scores) for t in each)])
        for arm, each in tried.items()
    }


def _score(folder: Path, name: str, plan: Plan) -> float | None:
    run = read_run(folder, name)
    if run.result is None:
        if is_evidence(run):
            return None
        raise UserError(f"{folder} is not done ({run.state}). Give the same command to go on.")
    return number(run.result.get(plan.question.metric))
