"""Equal cost: the epochs that each variant trains for, so that all of them cost the same."""

from collections.abc import Mapping
from itertools import count
from typing import Protocol

import torch

from runner.ablation.plan import Plan
from runner.errors import UserError
from runner.run.process import isolated
from runner.schedulers import total_updates
from runner.sweep.cost import Cost, multiply_adds, seconds

SECONDS = 3.0  # that each variant is timed for


class Maker(Protocol):
    """What lays out the plan: `Draft.plan`, with all but the epochs."""

    def __call__(self, *, epochs: Mapping[str, float] = ...) -> Plan:
        """Give back the plan, in which some variants train for other epochs than the config's."""


def at_equal_cost(make: Maker, before: Plan | None) -> Plan:
    """Lay out a plan in which the training of every variant costs what the reference's does.

    To the nearest update. The reference, the first variant of a setting, trains for the epochs of
    its config.

    Args:
        make: Lays it out.
        before: The plan that the folder holds: its epochs are kept, and nothing is measured again.

    Raises:
        UserError: If the epochs are varied, or a variant cannot be trained, or has no cost.
    """
    plan = make()
    at, references = plan.question.at, plan.references()
    if at == "epochs":
        return plan
    if any(plan.epochs_of(one) != plan.epochs_of(other) for one, other in references.items()):
        raise UserError(
            f"ablation.at={at} sets the epochs of each variant, but ablation.factors varies epochs "
            "too. Drop it there, or take ablation.at=epochs."
        )
    if any({**plan.config, **plan.changes[name]}.get("patience") for name in plan.variants):
        raise UserError(
            f"ablation.at={at} sets how long each variant trains, and patience stops some before. "
            "Drop patience, or take ablation.at=epochs."
        )
    others = [variant for variant, reference in references.items() if variant != reference]
    if before:
        known = {name: before.epochs_of(name) for name in others if name in before.variants}
        return make(epochs=known)
    with isolated():
        costs = seconds(plan, SECONDS) if at == "time" else multiply_adds(plan)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # the runs are done in other processes
    if free := [variant for variant, cost in costs.items() if not cost.epoch]:
        raise UserError(
            f"ablation.at={at}: torch counts no multiply-adds in {free[0]}. Take ablation.at=time."
        )
    firsts = {name: (costs[references[name]], plan.epochs_of(references[name])) for name in others}
    return make(epochs={name: epochs(costs[name], *firsts[name]) for name in others})


def epochs(cost: Cost, reference: Cost, length: float) -> float:
    """Give back for how many epochs a variant trains.

    The fewest digits that give its number of updates; a whole number is an int.

    Args:
        cost: Of an epoch of the variant.
        reference: Of an epoch of the one that sets the budget.
        length: Its epochs.

    >>> epochs(Cost(epoch=130.0, updates=21), Cost(epoch=100.0, updates=21), 15)  # 242 updates
    11.5
    """
    budget = reference.epoch * total_updates(length, reference.updates) / reference.updates
    updates = total_updates(budget / cost.epoch, cost.updates)
    whole, rest = divmod(updates, cost.updates)
    if not rest:
        return whole
    rounded = (round(updates / cost.updates, digits) for digits in count(1))
    return next(n for n in rounded if n and total_updates(n, cost.updates) == updates)
