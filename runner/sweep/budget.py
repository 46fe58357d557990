"""Equal cost: the epochs that each variant trains for, so that all of them cost the same."""

import dataclasses
from collections.abc import Mapping
from itertools import count
from typing import Any

import torch

from runner.ablation.plan import Plan
from runner.errors import UserError
from runner.run.process import isolated
from runner.schedulers import total_updates
from runner.sweep.cost import Cost, multiply_adds, seconds

SECONDS = 3.0  # that each variant is timed for


def at_equal_cost(plan: Plan, before: Plan | None) -> Plan:
    """Set the epochs of each variant, so that its training costs what the reference's does.

    To the nearest update. The reference trains for the epochs of the config.

    Args:
        plan: The plan, in which every variant has the epochs of the config.
        before: The plan that the folder holds: its epochs are kept, and nothing is measured again.

    Raises:
        UserError: If the epochs are varied, or a variant cannot be trained, or has no cost.
    """
    at = plan.question.at
    if at == "epochs":
        return plan
    if any("epochs" in changes for changes in plan.changes.values()):
        raise UserError(
            f"ablation.at={at} sets the epochs of each variant, but ablation.factors varies epochs "
            "too. Drop it there, or take ablation.at=epochs."
        )
    if before:
        known = {name: changes.get("epochs") for name, changes in before.changes.items()}
        return _with_epochs(plan, known)
    if len(plan.variants) == 1:
        return plan
    with isolated():
        costs = seconds(plan, SECONDS) if at == "time" else multiply_adds(plan)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # the runs are done in other processes
    if free := [variant for variant, cost in costs.items() if not cost.epoch]:
        raise UserError(
            f"ablation.at={at}: torch counts no multiply-add in an update of {free[0]}. Take "
            "ablation.at=time."
        )
    return _with_epochs(plan, epochs(costs, plan.reference, plan.config["epochs"]))


def epochs(costs: Mapping[str, Cost], reference: str, length: float) -> dict[str, float]:
    """Give back how many epochs each variant gets.

    Args:
        costs: Of each variant.
        reference: The variant that sets the budget.
        length: Its epochs.

    >>> costs = {"baseline": Cost(epoch=100.0, updates=21), "slow": Cost(epoch=130.0, updates=21)}
    >>> epochs(costs, "baseline", 15)
    {'baseline': 15, 'slow': 11.5}
    """
    first = costs[reference]
    budget = first.epoch * total_updates(length, first.updates) / first.updates
    return {
        variant: length if variant == reference else _length(budget / cost.epoch, cost.updates)
        for variant, cost in costs.items()
    }


def _length(wanted: float, updates_an_epoch: int) -> float:
    """Give back the shortest number of epochs with as many updates; a whole one is an int."""
    updates = total_updates(wanted, updates_an_epoch)
    whole, rest = divmod(updates, updates_an_epoch)
    if not rest:
        return whole
    rounded = (round(updates / updates_an_epoch, digits) for digits in count(1))
    return next(n for n in rounded if total_updates(n, updates_an_epoch) == updates)


def _with_epochs(plan: Plan, epochs: Mapping[str, float | None]) -> Plan:
    """Change the epochs of variants; None leaves them."""
    changes: dict[str, Mapping[str, Any]] = dict(plan.changes)
    for variant, length in epochs.items():
        if variant in changes and length not in (None, plan.config["epochs"]):
            changes[variant] = {**changes[variant], "epochs": length}
    return dataclasses.replace(plan, changes=changes)
