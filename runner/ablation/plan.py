"""The plan of an ablation: `sweep.yaml`, every run resolved before the first one starts."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from runner.ablation.designs import Contrast, Factor
from runner.errors import UserError
from runner.files import FORMAT, digest, write_text

PLAN = "sweep.yaml"

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
    text = yaml.dump(content, Dumper=_DUMPER, sort_keys=False, width=100, allow_unicode=True)
    write_text(root / PLAN, text)


def load_plan(root: Path) -> Plan | None:
    """Read the plan of a folder; None if no ablation was planned there.

    Raises:
        UserError: If it is of a newer format, or is not a plan.
    """
    path = root / PLAN
    try:
        content = yaml.load(path.read_bytes(), Loader=_LOADER)
    except FileNotFoundError:
        return None
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path} must be YAML, got {told}. Put it back as it was.") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        content = {}
    if content.get("format", 0) > FORMAT:
        raise UserError(
            f"{path} must be of format {FORMAT} or older, got {content['format']}. "
            "Go on with the newer version that wrote it."
        )
    return _check(path, content)


def _check(path: Path, content: Mapping[str, Any]) -> Plan:
    """Make a plan of what a file says, whoever wrote it."""
    from pydantic import TypeAdapter, ValidationError  # slow to import, and not for --help

    problem = None
    try:
        plan = TypeAdapter(Plan).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    else:
        problem = _problem(plan)
    if problem:
        raise UserError(
            f"{path} must be the plan of an ablation, got something else ({problem}). "
            "Put it back as it was, or give the ablation another name=NAME."
        )
    return plan


def _problem(plan: Plan) -> str | None:
    """What does not fit together, or would lead out of the ablation's folder."""
    if not plan.variants or not plan.seeds or set(plan.changes) != set(plan.variants):
        return "it needs seeds, and variants with their changes"
    for variant, row in plan.variants.items():
        if "/" in variant or variant in ("", ".", ".."):
            return f"{variant!r} is no name of a folder"
        if len(row) != len(plan.factors):
            return f"{variant} needs a level of each factor"
    for contrast in plan.contrasts:
        weights = contrast.weights.values()
        if not contrast.weights or not set(contrast.weights) <= set(plan.variants):
            return f"{contrast.name} must weigh variants"
        if not max(weights) > 0 > min(weights) or abs(sum(weights)) > 1e-9:
            return f"the weights of {contrast.name} must sum to 0"
    return None


def _plain(node: Any) -> Any:  # noqa: ANN401
    """Lists for tuples, which YAML would tag."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(value) for value in node] if isinstance(node, list | tuple) else node


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it was built in
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
