"""The plan of an ablation: `sweep.yaml`, every run resolved before the first one starts."""

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, with_config

from runner.ablation.designs import Contrast, Factor
from runner.ablation.tuning import Tuned
from runner.errors import UserError
from runner.store.files import DEEPEST, FORMAT, Damaged, checked, digest, write_text
from runner.store.identity import renamed, what_counts
from runner.store.runs import number
from runner.store.values import read_values
from runner.validation import STRICT, validate

PLAN = "sweep.yaml"
MOST_RUNS = 10**6
LONGEST = 1000  # characters of a name

SCORES = "scores"
"""The design of what was made elsewhere, and is judged by a table of its scores."""

Values = Mapping[str, Any]
Name = Annotated[str, Field(max_length=LONGEST)]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was settled before the first run: the measure, and how sure a verdict has to be."""

    design: Name
    metric: Name
    """A number of result.json, such as `test/accuracy`."""
    goal: Literal["maximize", "minimize"]
    margin: Annotated[float, Field(ge=0, lt=1e9)]
    """The smallest difference that matters, in the metric's unit."""
    alpha: Annotated[float, Field(gt=0, lt=1)]
    """The accepted rate of false verdicts, over all the effects of the ablation together."""
    until: Literal["fixed", "looks", "decided"]
    """`fixed`: all seeds, then one look. `looks`: seeds are added, and looked at a few times.
    `decided`: seeds are added one by one until every verdict stands."""
    most_seeds: int
    """Where `looks` and `decided` give up; the number of seeds where `fixed`."""
    spread: Literal["shared", "own"] = "own"
    """Whether an effect's spread is partly that of all, where there are three or more."""
    looks: tuple[int, ...] = ()
    """The numbers of seeds at which `looks` looks, rising."""
    at: Literal["epochs", "multiply_adds", "time"] = "epochs"
    """What all variants have the same of: the epochs, or what training takes."""

    tune: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """The settings that every variant was tuned in before, and their values; {} if in none."""
    trials: int = 0
    """Of each variant, when it was tuned; 0: as many as the largest grid has settings."""

    @property
    def grows(self) -> bool:
        """Whether seeds are added with an eye on the verdicts."""
        return self.until != "fixed"

    @property
    def shares(self) -> bool:
        """Whether spreads are shared: an e-value takes each effect's own, whatever was asked."""
        return self.spread == "shared" and self.until != "decided"


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Plan:
    """An ablation, frozen."""

    name: Name
    question: Question
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]
    """The seeds planned so far; `decided` adds to them."""
    factors: tuple[Factor, ...]
    variants: Annotated[Mapping[str, tuple[str, ...]], Field(min_length=1)]
    """For each variant the level of each factor."""
    contrasts: tuple[Contrast, ...]
    config: Values
    """The resolved config of the first variant, by dotted keys, without seed and variant."""
    changes: Mapping[str, Values]
    """For each variant the dotted keys in which its config differs from the first one's; `~key`
    for one that it does not have. Where they are at equal cost, its epochs are among them."""
    command: str
    """What was typed."""
    across: tuple[str, ...] = ()
    """The factors that are not judged: all others are, in each combination of their levels."""
    tuned: Mapping[str, Tuned] = field(default_factory=dict)
    """For each variant that was tuned what it tried; its own values are among its changes."""
    repeats: Mapping[str, int] = field(default_factory=dict)
    """For each variant that gets the first seeds alone, how many."""
    notes: tuple[str, ...] = ()
    """What a reader must know of what was there before: seeds used, earlier ablations."""
    origin: str = ""
    """A hash of all that it was composed from; empty if that is not known."""
    format: int = field(default=FORMAT)

    def references(self) -> dict[str, str]:
        """Give for each variant the first one of its setting: the baseline, if there is one."""
        return {name: some[0] for some in self.settings().values() for name in some}

    def epochs_of(self, variant: str) -> float:
        """Give back for how many epochs a variant trains."""
        return float(self.changes[variant].get("epochs", self.config["epochs"]))

    def runs(self) -> Iterator[tuple[int, str]]:
        """Run through all runs, seed by seed: a stopped sweep is whole blocks."""
        for place, seed in enumerate(self.seeds):
            for variant in self.variants:
                if place < self.repeats.get(variant, len(self.seeds)):
                    yield seed, variant

    def more_seeds(self) -> range:
        """Give back the seeds to add next: one, or those up to the next look; none at the end."""
        question, count = self.question, len(self.seeds)
        looks = question.looks or range(question.most_seeds + 1)
        wanted = next((n for n in looks if n > count), count)
        return range(self.seeds[-1] + 1, self.seeds[-1] + 1 + wanted - count)

    @property
    def judged(self) -> tuple[Factor, ...]:
        """The factors that are judged; their levels come first in the rows of the variants."""
        return tuple(factor for factor in self.factors if factor.name not in self.across)

    def settings(self) -> dict[str, list[str]]:
        """Give for each setting its variants, the first one first; `` is the name of a sole one."""
        found: dict[str, list[str]] = {}
        for variant, row in self.variants.items():
            found.setdefault(", ".join(row[len(self.judged) :]), []).append(variant)
        return found

    def folder(self, root: Path, variant: str, seed: int) -> Path:
        """Give back the folder of a run, below the ablation's."""
        return root / variant / f"seed={seed}"

    def config_of(self, variant: str, seed: int) -> dict[str, Any]:
        """Give back the whole config of a run, as its config.yaml holds it."""
        changes = self.changes[variant]
        whole: dict[str, Any] = {"name": self.name, "variant": variant, "seed": seed}
        for key, value in {**self.config, **changes, "again": False}.items():
            if key.startswith("~") or f"~{key}" in changes:
                continue
            *path, last = key.split(".")
            node = whole
            for part in path:
                node = node.setdefault(part, {})
            node[last] = copy.deepcopy(value)
        return whole

    def digests(self, variant: str) -> dict[int, str]:
        """Give back for each seed the hash of the run's config, as its run.json holds it."""
        if variant not in self._digests:
            config = what_counts(self.config_of(variant, self.seeds[0]))
            self._digests[variant] = {s: digest({**config, "seed": s}) for s in self.seeds}
        return self._digests[variant]

    @cached_property
    def _digests(self) -> dict[str, dict[int, str]]:
        return {}


def save_plan(root: Path, plan: Plan) -> None:
    """Write `sweep.yaml` into the ablation's folder."""
    plain = json.loads(json.dumps(dataclasses.asdict(plan)))  # lists for tuples
    content = {"format": plain.pop("format"), **plain}
    content = {"checksum": digest(content), **content}  # first, so that no end can be cut off
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, where it was built in
    text = yaml.dump(content, Dumper=dumper, sort_keys=False, width=100, allow_unicode=True)
    write_text(root / PLAN, text)


def load_plan(root: Path) -> Plan | None:
    """Read the plan of a folder; None if no ablation was planned there.

    Raises:
        UserError: If it is damaged, of a newer format, or is not a plan.
    """
    path = root / PLAN
    try:
        content = checked(read_values(path))
    except FileNotFoundError:
        return None
    except Damaged as error:
        raise UserError(
            f"{path} {error}. Put it back as it was, or read it with the version that wrote it."
        ) from error
    try:
        plan = _renamed(validate(Plan, content))
        for mistake in _mistakes(plan):
            raise UserError(mistake)
    except UserError as error:
        raise UserError(
            f"{path} is not the plan of an ablation: {error} Put it back as it was, or give the "
            "ablation another name=NAME."
        ) from None
    return plan


def _renamed(plan: Plan) -> Plan:
    """Give the settings of a plan of any version the names of this one."""
    changes = {variant: renamed(values) for variant, values in plan.changes.items()}
    return dataclasses.replace(plan, config=renamed(plan.config), changes=changes)


def find_plan(root: Path) -> Plan:
    """Read the plan of a folder in which there is one.

    Raises:
        UserError: If there is none after all, or as `load_plan` does.
    """
    if (plan := load_plan(root)) is None:
        raise UserError(f"{root / PLAN} is a link to nothing. Put the plan back.")
    return plan


def _mistakes(plan: Plan) -> Iterator[str]:
    """Find what does not fit together, or would lead out of the ablation's folder."""
    names = [factor.name for factor in plan.factors]
    texts = [*names, *(c.name for c in plan.contrasts), *chain(*(f.levels for f in plan.factors))]
    if max(map(len, texts), default=0) > LONGEST:
        yield f"A name has more than {LONGEST} characters."
    if len(plan.variants) * len(plan.seeds) > MOST_RUNS:
        yield f"It has more than {MOST_RUNS:,} runs."
    if plan.across != tuple(names[len(plan.judged) :]):
        yield "Its settings are not the last of its factors."
    if len({*plan.seeds}) < len(plan.seeds) or len({*names}) < len(names):
        yield "A seed or a factor is there twice."
    lengths = [{**plan.config, **changes}.get("epochs") for changes in plan.changes.values()]
    if plan.question.at != "epochs" and not all(number(length) for length in lengths):
        yield "The epochs of a variant are not a number."
    if set(plan.changes) != set(plan.variants) or not all(f.levels for f in plan.factors):
        yield "It lacks the changes of a variant, or the levels of a factor."
    if not {*plan.tuned, *plan.repeats} <= {*plan.variants}:
        yield "A variant that was tuned is not there."
    for tuned in plan.tuned.values():
        if not 0 <= tuned.chosen < len(tuned.tried) or not all(t.scores for t in tuned.tried):
            yield "A setting that was chosen was not tried."
    for variant, row in plan.variants.items():
        if not _is_folder_name(variant) or len(row) != len(plan.factors):
            yield f"{variant[:80]!r} does not name a folder, or has not one level of each factor."
        if not _has_plain_keys(plan, variant):
            yield f"The keys of {variant!r} are not those of a config."
    settings = plan.settings()
    for contrast in plan.contrasts:
        weights = contrast.weights.values()
        if not (contrast.factors and weights and {*contrast.factors} <= {*names}):
            yield f"{contrast.name!r} does not compare variants by factors."
        elif not {*contrast.weights} <= {*settings.get(contrast.setting, ())}:
            yield f"{contrast.name!r} compares variants that are not there, or not in its setting."
        elif not (1e9 > max(weights) > 0 > min(weights) and abs(sum(weights)) < 1e-9):
            yield f"The weights of {contrast.name!r} do not sum to 0."


def _has_plain_keys(plan: Plan, variant: str) -> bool:
    """Whether none of a variant's dotted keys is too deep, or lies within another."""
    keys = {"name", "variant", "seed", *plan.config, *plan.changes[variant]}
    keys = {key for key in keys if not key.startswith("~") and f"~{key}" not in keys}
    parts = [key.split(".", DEEPEST) for key in keys]
    outer = {parent for part in parts for parent in accumulate(part[:-1], "{}.{}".format)}
    return max(map(len, parts)) <= DEEPEST and keys.isdisjoint(outer)


def _is_folder_name(name: str) -> bool:
    return name not in (".", "..") and not {"/", "\0"} & {*name} and 0 < len(name.encode()) <= 255
