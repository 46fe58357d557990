"""One question over several settings: the design, laid out again in each of them."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from runner.ablation.designs import Design, Factor
from runner.errors import UserError
from runner.names import shorten
from runner.sweep.settings import AblationSettings, Levels, read_levels


def find_across(
    settings: AblationSettings,
    tricks: Mapping[str, Mapping[str, Any]],
    judged: Mapping[str, Levels],
) -> dict[str, Levels]:
    """Find what the settings of `ablation.across` are; {} if there is one setting alone.

    Args:
        settings: The ablation's.
        tricks: The tricks of the config by name, as far as they are on or off there.
        judged: The levels of each factor.

    Raises:
        UserError: If a key has fewer than two values, is judged too, or there is nothing to judge.
    """
    if not settings.across:
        return {}
    if settings.design == "calibration":
        raise UserError(
            "ablation=calibration judges nothing that could be judged in several settings. "
            "Drop ablation.across."
        )
    levels = read_levels(settings.across, tricks, "ablation.across")
    for key in sorted(_keys(levels) & _keys(judged)):
        raise UserError(
            f"{key} is in ablation.across and is judged too. Drop it from ablation.across, or "
            "from what is judged (ablation.tricks, ablation.factors)."
        )
    labels = [label for each in (*levels.values(), *judged.values()) for label in each]
    if twice := [label for each in levels.values() for label in each if labels.count(label) > 1]:
        raise UserError(f"ablation.across must have names of its own, got {twice[0]} twice.")
    return levels


def lay_out_across(laid_out: Design, across: Mapping[str, Levels]) -> Design:
    """Repeat a design in each combination of the settings; without any it stays as it is.

    The variants of a setting begin with its levels, as in `model=resnet20+clipping`; each row ends
    with them. An effect's contrasts follow each other.
    """
    if not across:
        return laid_out
    settings = {", ".join(labels): labels for labels in product(*across.values())}
    names = {
        (setting, variant): shorten("+".join([*labels, variant]))
        for setting, labels in settings.items()
        for variant in laid_out.variants
    }
    variants = {
        names[setting, variant]: (*row, *labels)
        for setting, labels in settings.items()
        for variant, row in laid_out.variants.items()
    }
    contrasts = [
        replace(
            contrast,
            name=f"{contrast.name}, {setting}",
            setting=setting,
            weights={names[setting, name]: weight for name, weight in contrast.weights.items()},
        )
        for contrast in laid_out.contrasts
        for setting in settings
    ]
    return Design(variants, tuple(contrasts))


def as_factors(across: Mapping[str, Levels]) -> tuple[Factor, ...]:
    """Give the settings as factors of the plan, which no contrast is about."""
    return tuple(Factor(key, tuple(levels)) for key, levels in across.items())


def _keys(levels: Mapping[str, Levels]) -> set[str]:
    """The keys of the config that levels set."""
    overrides = [o for each in levels.values() for level in each.values() for o in level]
    return {override.partition("=")[0] for override in overrides}
