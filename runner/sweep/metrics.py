"""The metric of an ablation, and what a run must do to have it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig

from runner import allowed
from runner.ablation.sampling import MEAN_ACCURACY
from runner.errors import UserError, did_you_mean
from runner.metrics import BUILT_IN, LISTED, LOWER_IS_BETTER, is_built_in, short_name

LAST_EVALUATIONS = 3
"""The evaluations of `test/mean_accuracy`, where the config leaves them open."""

ALWAYS = (
    *("test/accuracy", MEAN_ACCURACY, "test/loss", "test/shift_consistency"),
    *("validation/accuracy", "validation/loss"),
)
"""The metrics that need no mention in `metrics`."""


def check_metric(metric: str, listed: Iterable[str] = ()) -> None:
    """Check the name of the metric that decides.

    Args:
        metric: As `test/accuracy`.
        listed: The setting `metrics` of the config.

    Raises:
        UserError: If no run could have it.
    """
    split, _, name = metric.partition("/")
    own = {short_name(each) for each in (*listed, *allowed.USERS) if "." in each}
    known = is_built_in(name) or name in own
    if metric in ALWAYS or (split in ("test", "validation") and known):
        return
    names = (*BUILT_IN, "top5_accuracy", *sorted(own))
    more = [f"{split}/{name}" for split in ("test", "validation") for name in names]
    raise UserError(
        f"ablation.metric must be {', '.join(ALWAYS)}; or test/NAME or validation/NAME, where NAME "
        f"is {LISTED}, or a function of your own in metrics; got {metric}."
        f"{did_you_mean(metric, [*ALWAYS, *more])}"
    )


def listed_metrics(config: DictConfig) -> list[str]:
    """Give back the setting `metrics`; nothing if it is no list, which is told later."""
    node = config.get("metrics")
    return [str(each) for each in node] if isinstance(node, ListConfig) else []


def falls(metric: str) -> bool:
    """Whether less of a metric is better, as far as that is known."""
    return metric.partition("/")[2] in LOWER_IS_BETTER


def is_own(metric: str) -> bool:
    """Whether a metric is a function of the user's own."""
    return metric not in ALWAYS and not is_built_in(metric.partition("/")[2])


def needed_for(metric: str, config: DictConfig) -> list[str]:
    """Give back the overrides with which all runs measure what decides.

    Raises:
        UserError: If several functions of the user's own have its name.
    """
    if metric == MEAN_ACCURACY and config.last_evaluations is None:
        return [f"last_evaluations={LAST_EVALUATIONS}"]
    listed, name = listed_metrics(config), metric.partition("/")[2]
    if metric in ALWAYS or name in map(short_name, listed):
        return []
    own = sorted(each for each in allowed.USERS if short_name(each) == name)
    found = [name] if is_built_in(name) else own
    if len(found) > 1:
        raise UserError(
            f"ablation.metric={metric} may be {' or '.join(found)}. Name one of them: "
            f"'metrics=[{found[0]}]'."
        )
    return [f"metrics=[{','.join([*listed, *found])}]"]


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
        names: Sequence[str] = [short_name(each) for each in values["metrics"]]
        if metric not in ALWAYS and metric.partition("/")[2] not in names:
            raise UserError(
                f"ablation.metric={metric} is not among the metrics of {variant}, {names}. "
                "Set metrics for all variants alike."
            )
