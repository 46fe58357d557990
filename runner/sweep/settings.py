"""What a config says of an ablation, checked; and the factors and levels that it means."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, with_config

from runner.ablation.decide import plan_looks
from runner.ablation.designs import OFF, Factor
from runner.ablation.plan import Question
from runner.ablation.statistics import FEWEST_SEEDS
from runner.ablation.wording import is_share
from runner.errors import UserError, did_you_mean
from runner.names import flatten, write_label, write_value
from runner.quoting import literal
from runner.sweep.metrics import check_metric, falls, is_own
from runner.validation import STRICT, validate

HALF_A_POINT = 0.005
"""The margin of a share, where none is given."""

Levels = Mapping[str, tuple[str, ...]]
"""For each level of a factor, by its label, the overrides that it means."""

Varied = dict[str, list[Any] | dict[str, dict[str, Any]]]
"""For each key its values; or for each name the levels, by theirs."""


@with_config(STRICT)
@dataclasses.dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """The keys of `ablation`, which conf/ablation_settings.yaml documents."""

    design: str
    tricks: list[str] | None
    factors: Varied | None
    across: Varied | None
    seeds: Annotated[int, Field(ge=1, le=10_000)] | list[Annotated[int, Field(ge=0)]]
    metric: str
    goal: Literal["auto", "maximize", "minimize"]
    margin: Annotated[float, Field(ge=0)] | None
    alpha: Annotated[float, Field(gt=0, lt=1)]
    spread: Literal["shared", "own"]
    until: Literal["fixed", "looks", "decided"]
    most_seeds: Annotated[int, Field(ge=1)]
    at: Literal["epochs", "multiply_adds", "time"]
    tune: dict[str, list[Any]] | None
    trials: Annotated[int, Field(ge=2, le=100_000)] | None
    dry_run: bool

    @property
    def question(self) -> Question:
        """What is asked, and how surely it has to be answered."""
        count, goal = len(self.numbers(0)), self.goal
        if goal == "auto":
            goal = "minimize" if falls(self.metric) else "maximize"
        return Question(
            design=self.design,
            metric=self.metric,
            goal=goal,
            margin=HALF_A_POINT if self.margin is None else float(self.margin),
            alpha=float(self.alpha),
            until=self.until,
            spread="own" if self.until == "decided" else self.spread,
            looks=plan_looks(count, self.most_seeds) if self.until == "looks" else (),
            most_seeds=count if self.until == "fixed" else self.most_seeds,
            at=self.at,
            tune={key: tuple(values) for key, values in (self.tune or {}).items()},
            trials=self.trials or 0,
        )

    def numbers(self, first: int) -> tuple[int, ...]:
        """Give back the seeds, a number of them counted from the first."""
        if isinstance(self.seeds, int):
            return tuple(range(first, first + self.seeds))
        return tuple(self.seeds)


def check_settings(node: Mapping[str, Any], metrics: Sequence[str] = ()) -> AblationSettings:
    """Check the node `ablation` of a config.

    Args:
        node: The node.
        metrics: The setting `metrics` of the same config.

    Raises:
        UserError: If a key is unknown, or a value of a wrong type or out of range.
    """
    settings = validate(AblationSettings, node, "ablation")
    check_metric(settings.metric, metrics)
    seeds = settings.numbers(0)
    if len(set(seeds)) < len(seeds) or not seeds:
        raise UserError(
            f"ablation.seeds must be different numbers, got {list(seeds)}. "
            "The same seed gives the same run again, and no further evidence."
        )
    if settings.margin is None and (is_own(settings.metric) or not is_share(settings.metric)):
        unit = "of your own" if is_own(settings.metric) else "in nats per sample"
        raise UserError(
            f"ablation.margin must be given with ablation.metric={settings.metric}, which is "
            f"{unit}: name the smallest difference that matters to you, such as "
            "ablation.margin=0.02 (0 if every one does)."
        )
    if settings.until != "fixed" and settings.most_seeds < len(seeds):
        raise UserError(
            f"ablation.most_seeds must be >= the {len(seeds)} seeds to begin with, got "
            f"{settings.most_seeds}. Raise it, or lower ablation.seeds."
        )
    if settings.until != "fixed" and not isinstance(settings.seeds, int):
        raise UserError(
            f"ablation.seeds must be a number with ablation.until={settings.until}, which adds the "
            f"next seeds, got {list(seeds)}."
        )
    if settings.until == "looks" and len(seeds) < FEWEST_SEEDS:
        raise UserError(
            f"ablation.seeds must be >= {FEWEST_SEEDS} with ablation.until=looks, the fewest for a "
            f"verdict, got {len(seeds)}."
        )
    if settings.trials and not settings.tune:
        raise UserError(
            f"ablation.trials={settings.trials} needs ablation.tune, the settings to try: "
            "'ablation.tune={optimizer.lr:[0.05,0.1,0.2]}'."
        )
    return settings


def find_factors(
    settings: AblationSettings, tricks: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[Factor, ...], dict[str, Levels]]:
    """Find what is varied: the factors, and for each its levels.

    Args:
        settings: The ablation's.
        tricks: The tricks of the config by name, as far as they are on or off there.

    Raises:
        UserError: If a trick does not exist, a factor has fewer than two values, or two levels
            have one name.
    """
    levels: dict[str, Levels] = {}
    varied = settings.factors or {}
    if settings.design != "calibration":
        for name in _tricks_to_judge(settings, tricks):
            key = f"tricks.{name}.enabled"
            levels[name] = {OFF: (f"{key}=false",), name: (f"{key}=true",)}
        levels |= read_levels(varied, tricks, "ablation.factors")
    _refuse_twice([label for each in levels.values() for label in each if label != OFF])
    return tuple(Factor(name, tuple(each)) for name, each in levels.items()), levels


def read_levels(
    varied: Varied, tricks: Mapping[str, Mapping[str, Any]], where: str
) -> dict[str, Levels]:
    """Read the levels of each key of `ablation.factors`, or of another such setting.

    Raises:
        UserError: If one has fewer than two values or two of one name, or lies within another.
    """
    for key, group in itertools.permutations(varied, 2):
        if key.startswith(f"{group}."):
            raise UserError(
                f"{key} lies within {group}, and cannot be varied beside it: each value of {group} "
                f"has its own. Name levels of both: {{NAME: {{{group}: ..., {key}: ...}}, ...}}."
            )
    return {key: _values(key, given, tricks, where) for key, given in varied.items()}


def _tricks_to_judge(
    settings: AblationSettings, tricks: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    for name in settings.tricks or ():
        if name not in tricks:
            raise UserError(
                f"ablation.tricks names {name}, which is no trick.{did_you_mean(name, tricks)} "
                f"There are: {', '.join(tricks)}."
            )
    if settings.tricks is not None:
        return settings.tricks
    varied = [f"{key}." for key, _ in flatten(settings.factors or {})]
    on = [name for name, node in tricks.items() if node.get("enabled")]
    return [name for name in on if not any(f"tricks.{name}." in key for key in varied)]


def _values(
    key: str,
    given: Any,  # noqa: ANN401
    tricks: Mapping[str, Mapping[str, Any]],
    where: str,
) -> Levels:
    if key == "seed":
        raise UserError(
            "seed cannot be a factor, nor a setting to judge across: all variants have the same "
            "seeds. Set ablation.seeds."
        )
    if len(given) < 2:
        first = ", the baseline's first" if where == "ablation.factors" else ""
        raise UserError(
            f"{where}.{key} must have two values or more{first}, got {json.dumps(given)}."
        )
    trick = key.split(".")[1] if key.startswith("tricks.") else ""
    if trick in tricks and not tricks[trick].get("enabled") and not key.endswith(".enabled"):
        raise UserError(
            f"{where}.{key} would change nothing, since {trick} is off. "
            f"Switch it on, as with tricks.{trick}.enabled=true."
        )
    short = key.removeprefix("tricks.")
    if isinstance(given, Mapping):
        labels = [write_label(str(label)) for label in given]
        levels = [tuple(f"{k}={literal(v)}" for k, v in each.items()) for each in given.values()]
    else:
        labels = [write_label(f"{short}={write_value(value)}") for value in given]
        levels = [(f"{key}={literal(value)}",) for value in given]
    _refuse_twice(labels, where)
    return dict(zip(labels, levels, strict=True))


def _refuse_twice(labels: Sequence[str], where: str = "ablation.factors") -> None:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(
            f"{where} must have levels of different names, got {twice[0]} twice. "
            "Name the levels: {FACTOR: {NAME: {KEY: VALUE}, ...}}."
        )
