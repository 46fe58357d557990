"""The metric of an ablation, and what a run must do to have it."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from runner.ablation.sampling import MEAN_ACCURACY
from runner.errors import UserError

LAST_EVALUATIONS = 3
"""The evaluations of `test/mean_accuracy`, where the config leaves them open."""


def needed_for(metric: str, config: DictConfig) -> list[str]:
    """Give back the overrides with which all runs measure what decides."""
    if metric == MEAN_ACCURACY and config.last_evaluations is None:
        return [f"last_evaluations={LAST_EVALUATIONS}"]
    return []


def refuse_unmeasured(metric: str, flat: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a metric that a variant would not have, before the first run.

    Raises:
        UserError: If it would not.
    """
    for variant, values in flat.items():
        if metric.startswith("validation/") and not values["data.validation"]:
            raise UserError(
                f"ablation.metric={metric} needs a validation split, but {variant} has "
                "data.validation=0. Use test/accuracy, or data.validation=0.1."
            )
        if metric == MEAN_ACCURACY and not values["last_evaluations"]:
            raise UserError(
                f"ablation.metric={metric} needs last_evaluations, but {variant} has "
                f"last_evaluations=null. Set last_evaluations={LAST_EVALUATIONS}."
            )
