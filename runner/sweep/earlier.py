"""What was there before an ablation: runs with its seeds, and ablations of the same question."""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, groupby
from pathlib import Path
from typing import Any

from runner.ablation.plan import PLAN, Plan
from runner.ablation.tuning import TUNING, join
from runner.names import OUTPUTS, flatten
from runner.store.files import MOST, Damaged, read_bytes
from runner.store.packed import ARCHIVE, RUN, packed_runs
from runner.store.runs import CONFIG, RESULT
from runner.store.values import parse_values

MOST_RUNS = 20_000
"""Folders of runs that are looked at."""

BLOCK = 1000
"""Seeds that are offered start at a multiple of it."""

Node = dict[str, Any]
"""Settings by dotted keys."""


@dataclass
class Found:
    """What lies in `outputs` beside the ablation."""

    used: set[int] = field(default_factory=set)
    """The seeds of the plan with which finished runs have its data and model."""
    places: list[str] = field(default_factory=list)
    """The folders of these runs, below `outputs`, without the seeds'."""
    taken: set[int] = field(default_factory=set)
    """The seeds of all runs."""
    ablations: list[str] = field(default_factory=list)
    """The earlier ablations of the same question."""
    runs: int = 0
    """How many folders of runs were looked at."""


def look_back(root: Path, plan: Plan, listed: bool = False) -> tuple[str, ...]:
    """Say which seeds of a plan were used before, and which ablations asked the same.

    Runs and ablations count that have the data and the model of the plan.

    Args:
        root: The ablation's folder, which does not count.
        plan: The plan.
        listed: Whether its seeds were given as a list.

    Returns:
        A line for each of the two, if there is something to say.
    """
    seeds = planned_seeds(plan)
    found = look(Path(OUTPUTS), root, plan, seeds)
    beyond = f" Only {MOST_RUNS:,} runs were looked at." if found.runs >= MOST_RUNS else ""
    notes = []
    if found.used:
        notes.append(
            f"Seed{'s' * (len(found.used) > 1)} {write_seeds(found.used)} "
            f"{'were' if len(found.used) > 1 else 'was'} used before with the same data and model, "
            f"in {join(found.places)}. What was chosen by the scores of those runs looks better "
            f"with these seeds than it is. Fresh ones: {offer(plan, found.taken, listed)}.{beyond}"
        )
    if found.ablations:
        several = len(found.ablations) > 1
        notes.append(
            f"{len(found.ablations)} earlier ablation{'s' * several} of this question: "
            f"{join(found.ablations)}. The more often it is asked, the likelier is an answer that "
            f"is false.{beyond}"
        )
    return tuple(notes)


def planned_seeds(plan: Plan) -> set[int]:
    """Give back all seeds that an ablation may come to."""
    most = plan.question.most_seeds if plan.question.grows else 0
    return {*plan.seeds, *range(plan.seeds[0], plan.seeds[0] + most)}


def offer(plan: Plan, taken: Collection[int], listed: bool) -> str:
    """Write overrides with which the ablation has seeds that no run has used."""
    needed = len(planned_seeds(plan))
    starts = (n * BLOCK for n in count(1))
    start = next(s for s in starts if not any(n in taken for n in range(s, s + needed)))
    numbers = ",".join(str(start + n) for n in range(len(plan.seeds)))
    seeds = f"'ablation.seeds=[{numbers}]'" if listed else f"seed={start}"
    names = (f"{plan.name}-{n}" for n in count(2))
    return f"{seeds} name={next(n for n in names if not Path(OUTPUTS, n).exists())}"


def write_seeds(seeds: Collection[int]) -> str:
    """Write seeds in short.

    >>> write_seeds({0, 1, 2, 7})
    '0 to 2 and 7'
    """
    runs = groupby(enumerate(sorted(seeds)), lambda pair: pair[1] - pair[0])
    rows = [[seed for _, seed in run] for _, run in runs]
    few = [[str(seed) for seed in row] for row in rows]
    return join([t for row in few for t in (row if len(row) < 3 else [f"{row[0]} to {row[-1]}"])])


def look(outputs: Path, root: Path, plan: Plan, seeds: Collection[int]) -> Found:
    """Go once through the folders; of each variant one config is read, of each plan a part."""
    found = Found()
    own = {part: _node(plan.config, part) for part in ("data", "model")}
    asked = {factor.name for factor in plan.factors if factor.name not in plan.across}
    for place, below, names in os.walk(outputs):
        folder = Path(place)
        packed = _packed(folder) if ARCHIVE in names else []
        runs = {name: int(name[5:]) for name in (*below, *packed) if RUN.fullmatch(name)}
        below[:] = sorted(n for n in below if n not in runs and folder / n != root)
        where = os.path.relpath(folder, outputs)
        if PLAN in names and asked & set(_factors(folder / PLAN, own)):
            found.ablations.append(where)
        found.taken.update(runs.values())
        found.runs += len(runs)
        done = [n for n, seed in runs.items() if seed in seeds]
        done = [name for name in done if name in packed or _is_done(folder / name)]
        if done and _same(_blocks(folder / done[0] / CONFIG), own):
            found.used.update(runs[name] for name in done)
            found.places.append(where)
        if found.runs >= MOST_RUNS:
            break
    found.places.sort()
    return found


def _packed(variant: Path) -> list[str]:
    try:
        return packed_runs(variant)
    except Damaged:  # which the report names
        return []


def _is_done(folder: Path) -> bool:
    return (folder / RESULT).is_file() and not folder.is_symlink()


def _factors(path: Path, own: dict[str, Node]) -> Iterator[str]:
    """Iterate over the factors of a plan with the same data and model; trials ask nothing."""
    blocks = _blocks(path)
    config = _values(blocks.get("config", b"")).get("config")
    question = _values(blocks.get("question", b"")).get("question")
    factors = _values(blocks.get("factors", b"")).get("factors")
    if not isinstance(config, dict) or any(_node(config, part) != own[part] for part in own):
        return
    if isinstance(question, dict) and question.get("design") == TUNING:
        return
    for factor in factors if isinstance(factors, list) else ():
        if isinstance(factor, dict):
            yield str(factor.get("name"))


def _same(blocks: dict[str, bytes], own: dict[str, Node]) -> bool:
    """Whether a run's config has the data and the model of the plan."""
    return all(
        _node(dict(flatten(_values(blocks.get(part, b"")))), part) == node
        for part, node in own.items()
    )


def _node(config: Any, part: str) -> Node:  # noqa: ANN401
    """Give back what a group has; None counts as not there, as before a setting was added."""
    return {k: v for k, v in config.items() if k.startswith(f"{part}.") and v is not None}


def _blocks(path: Path) -> dict[str, bytes]:
    """Cut a YAML file at the keys of its top; {} if it cannot be read."""
    try:
        content = read_bytes(path, MOST)
    except (Damaged, OSError):
        return {}
    parts = re.split(rb"(?m)^(?=[A-Za-z])", content)
    return {part.partition(b":")[0].decode(errors="replace"): part for part in parts if part}


@lru_cache(maxsize=1000)
def _values(block: bytes) -> Node:
    """Read a block, each text once: the runs of a sweep have the same ones."""
    try:
        found = parse_values(block)
    except Damaged:
        return {}
    return found if isinstance(found, dict) else {}
