"""The plan of an ablation: `sweep.yaml`, every run resolved before the first one starts."""

import copy
import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml

from runner.ablation.designs import Contrast, Factor
from runner.errors import UserError
from runner.store.files import FORMAT, Damaged, digest, parse_yaml, write_text

PLAN = "sweep.yaml"
MOST_RUNS = 10**6
LONGEST = 1000  # characters of a name

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was settled before the first run: the measure, and how sure a verdict has to be."""

    design: str
    metric: str
    """A number of result.json, such as `test/accuracy`."""
    goal: Literal["maximize", "minimize"]
    margin: float
    """The smallest difference that matters, in the metric's unit."""
    alpha: float
    """The accepted rate of false verdicts, over all the effects of the ablation together."""
    until: Literal["fixed", "decided"]
    """`fixed`: all seeds, then one look. `decided`: seeds are added until every verdict stands."""
    most_seeds: int
    """Where `decided` gives up; the number of seeds where `fixed`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An ablation, frozen."""

    name: str
    question: Question
    seeds: tuple[int, ...]
    """The seeds planned so far; `decided` adds to them."""
    factors: tuple[Factor, ...]
    variants: Mapping[str, tuple[str, ...]]
    """For each variant the level of each factor."""
    contrasts: tuple[Contrast, ...]
    config: Values
    """The resolved config of the first variant, by dotted keys, without seed and variant."""
    changes: Mapping[str, Values]
    """For each variant the dotted keys in which its config differs from the first one's; `~key`
    for one that it does not have."""
    command: str
    """What was typed."""
    format: int = field(default=FORMAT)

    def runs(self) -> Iterator[tuple[int, str]]:
        """Run through all runs, seed by seed: a stopped sweep is whole blocks."""
        for seed in self.seeds:
            for variant in self.variants:
                yield seed, variant

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
        config = self.config_of(variant, self.seeds[0])
        return {seed: digest({**config, "seed": seed}) for seed in self.seeds}


def save_plan(root: Path, plan: Plan) -> None:
    """Write `sweep.yaml` into the ablation's folder."""
    plain = dataclasses.asdict(plan)
    content = {"format": plain.pop("format"), **_plain(plain)}
    content = {"checksum": digest(content), **content}  # first, so that no end can be cut off
    text = yaml.dump(content, Dumper=_DUMPER, sort_keys=False, width=100, allow_unicode=True)
    write_text(root / PLAN, text)


def load_plan(root: Path) -> Plan | None:
    """Read the plan of a folder; None if no ablation was planned there.

    Raises:
        UserError: If it is damaged, of a newer format, or is not a plan.
    """
    path = root / PLAN
    try:
        return _check(path, parse_yaml(path))
    except FileNotFoundError:
        return None
    except Damaged as error:
        raise UserError(
            f"{path} must be a whole plan of this version, got one that {error}. Put it back as "
            "it was, or read it with the version that wrote it."
        ) from error


def find_plan(root: Path) -> Plan:
    """Read the plan of a folder in which there is one.

    Raises:
        UserError: If there is none after all, or as `load_plan` does.
    """
    if (plan := load_plan(root)) is None:
        raise UserError(f"{root / PLAN} must be a plan, got a link to nothing. Put it back.")
    return plan


def _check(path: Path, content: Mapping[str, Any]) -> Plan:
    """Make a plan of what a file says, whoever wrote it."""
    from pydantic import TypeAdapter, ValidationError  # slow to import, and not for --help

    problem = None
    try:
        plan = TypeAdapter(Plan).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))[:LONGEST]}: {first['msg']}"
    else:
        found = chain(_odd_runs(plan), _odd_factors(plan), _odd_contrasts(plan))
        problem = next(found, None)
    if problem:
        raise UserError(
            f"{path} must be the plan of an ablation, got something else ({problem}). "
            "Put it back as it was, or give the ablation another name=NAME."
        )
    return plan


def _odd_runs(plan: Plan) -> Iterator[str]:
    """Tell what does not fit together of the runs, or would lead out of the ablation's folder."""
    if not plan.variants or not plan.seeds or set(plan.changes) != set(plan.variants):
        yield "it needs seeds, and variants with their changes"
    if len(plan.variants) * len(plan.seeds) > MOST_RUNS:
        yield f"it has more than {MOST_RUNS:,} runs"
    if not 0 <= min(plan.seeds) <= max(plan.seeds) < 2**63 or _repeat(plan.seeds):
        yield "seeds are whole numbers from 0 to 2**63, each once"
    for variant, changes in plan.changes.items():
        if not _is_folder_name(variant):
            yield f"{variant[:80]!r} is no name of a folder"
        keys = {*plan.config, *changes}
        keys = {key for key in keys if not key.startswith("~") and f"~{key}" not in keys}
        for key in keys:
            parts = key.split(".", MOST_PARTS)
            parents = [".".join(parts[:depth]) for depth in range(1, len(parts))]
            if len(parts) > MOST_PARTS or not keys.isdisjoint(parents):
                yield f"{key[:80]!r} is no key of a config beside the others"


MOST_PARTS = 12  # of a dotted key


def _is_folder_name(name: str) -> bool:
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        return False
    return name not in (".", "..") and not {"/", "\0"} & {*name} and 0 < size <= 255


def _repeat(values: Collection[object]) -> bool:
    return len(set(values)) < len(values)


def _odd_factors(plan: Plan) -> Iterator[str]:
    """Tell what does not fit together of the question, the factors and their levels."""
    question = plan.question
    if not (0 < question.alpha < 1 and 0 <= question.margin < 1e9):
        yield "alpha is a share, and margin a size"
    names = [factor.name for factor in plan.factors]
    texts = [question.metric, question.design, plan.name, *names]
    texts += [level for factor in plan.factors for level in factor.levels]
    if _repeat(names) or max(map(len, texts)) > LONGEST:
        yield f"factors have names of their own, and no name has more than {LONGEST} characters"
    if not all(factor.levels for factor in plan.factors):
        yield "a factor needs levels"
    for variant, row in plan.variants.items():
        if len(row) != len(plan.factors):
            yield f"{variant} needs a level of each factor"


def _odd_contrasts(plan: Plan) -> Iterator[str]:
    """Tell what does not fit together of the contrasts."""
    names = {factor.name for factor in plan.factors}
    for contrast in plan.contrasts:
        name, weights = contrast.name[:80], contrast.weights.values()
        if len(contrast.name) > LONGEST:
            yield f"no name has more than {LONGEST} characters"
        elif not weights or not set(contrast.weights) <= set(plan.variants):
            yield f"{name} must weigh variants"
        elif not contrast.factors or not set(contrast.factors) <= names:
            yield f"{name} must be about factors"
        elif not (1e9 > max(weights) > 0 > min(weights) and abs(sum(weights)) < 1e-9):
            yield f"the weights of {name} must sum to 0"


def _plain(node: Any) -> Any:  # noqa: ANN401
    """Lists for tuples, which YAML would tag."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(value) for value in node] if isinstance(node, list | tuple) else node


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, where it was built in
