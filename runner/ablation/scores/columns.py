"""Scores made elsewhere: which columns of a table hold them, and what each row says of a run."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from runner.ablation.scores.cells import (
    EMPTY,
    FAILED,
    Cell,
    Score,
    is_known,
    is_number,
    read_number,
    read_state,
    text_of,
)
from runner.errors import UserError, did_you_mean
from runner.texts import listed, printable


class Unsaid(UserError):
    """Something is missing or wrong in the command: an option, or a name in one."""


@dataclass
class Records:
    """A table as it was found."""

    columns: dict[str, list[Cell]]
    places: Sequence[str]
    """What each row is called, such as `line 7`."""
    notes: Sequence[str] = ()
    """What a reader must know of it."""


@dataclass
class Options:
    """The names of the columns, and how to read them; None for what is to be guessed."""

    variant: str | None = None
    seed: str | None = None
    score: str | None = None
    status: str | None = None
    baseline: str | None = None
    failed: Sequence[str] = ()
    """Values of the status that count as failures, besides `FAILED`."""
    split: str | None = None
    """A regular expression with the groups `variant` and `seed`, for names that hold both."""


@dataclass
class Scores:
    """The runs of a table, in its order."""

    rows: list[Score]
    metric: str
    first: str | None = None
    """The variant that a loop started from, where the table is the record of one."""
    notes: list[str] = field(default_factory=list)
    """What was guessed, a line each."""


NONE = "none"
"""What `--seed` is given where the seeds of a table shall not count."""

VARIANTS = (
    *("variant", "arm", "trick", "method", "condition", "treatment", "group"),
    *("run_name", "runname", "name", "run", "commit", "experiment", "algorithm", "model", "config"),
)
SEEDS = ("seed", "random_seed", "rng_seed", "manual_seed", "random_state", "rng")
STATUSES = ("status", "state")
SCORES = ("score", "accuracy", "test_accuracy", "acc", "test_acc", "val_accuracy", "val_acc")
OTHERS = re.compile(
    r"(^|_)(step|epoch|iteration|update|time|runtime|seconds|duration|created|start|end|memory|mem|"
    r"memory_gb|vram|gpu|params|parameters|flops|lr|batch_size|timestamp|id|index|unnamed_0)(_|$)"
)
"""Columns of numbers that are no scores."""

SPLIT = r"(?P<variant>.*?)(?:^|[/_.\s-]+)(?:random_?)?(?:seed|rng|s)[=_:-]?(?P<seed>\d+)"
"""How a name ends that holds a seed: `clipping/seed=3`, `clipping-s3`, `clipping_seed_3`."""


def plain(name: str) -> str:
    """Give a column's name without where it was exported from: `params.seed` is `seed`."""
    short = re.sub(r"^(params|metrics|config|summary|tags\.mlflow|tags|args)[./]", "", name.strip())
    return re.sub(r"\W+", "_", short).strip("_").lower()


def read_scores(records: Records, options: Options) -> Scores:
    """Find the columns, and read each row.

    Raises:
        Unsaid: If a column cannot be guessed, or is not there.
        UserError: If a cell cannot be read.
    """
    if not records.places:
        raise UserError("There are no rows. Expected a head, and below it a row for each run.")
    if (wide := _widened(records, options)) is not None:
        records, options = wide
    status = _find(records, "status", options.status, STATUSES, lambda _: True)
    seed = None
    if options.seed != NONE:
        seed = _find(records, "seed", options.seed, SEEDS, lambda _: True)
        ends = [name for name in records.columns if plain(name).endswith("_seed")]
        seed = seed or (ends[0] if len(ends) == 1 else None)
    score = _score_column(records, options.score, {seed, status})
    variant = _variant_column(records, options, {seed, status, score})
    found = f"variant from {variant}, score from {score}"
    names = [text_of(cell) for cell in records.columns[variant]]
    seeds: list[str | None] = [None] * len(names)
    if seed is not None:
        seeds = _seeds(records, seed)
        found += f", seed from {seed}"
    elif options.seed != NONE and (parts := _split(names, options.split)):
        names, seeds = parts
        found += f", seed from the ends of {variant}"
    else:
        found += ", no seeds"
    failing = {value.strip().lower() for value in (*FAILED, *options.failed)}
    states = records.columns[status] if status else [None] * len(names)
    rows = []
    columns = zip(records.columns[score], states, records.places, strict=True)
    for name, seed_, (cell, state, place) in zip(names, seeds, columns, strict=True):
        if not name:
            raise UserError(f"{place}, column {variant}: must be the name of a variant, is empty.")
        value = read_number(cell, f"{place}, column {score}")
        kind, word = read_state(text_of(state), failing, value, text_of(cell))
        rows.append(
            Score(name, seed_, value if kind == "done" else float("nan"), kind, place, word)
        )
    found += f", status from {status}" if status else ""
    notes = [f"Read: {printable(found, 300)}."] if (variant, score) != ("variant", "score") else []
    if unknown := dict.fromkeys(t for s in states if not is_known(t := text_of(s), failing)):
        notes.append(
            f"Taken for runs that are done: those whose {status} is {listed(list(unknown), 5)}. If "
            f"it means that they failed: --failed {printable(next(iter(unknown)), 40)}."
        )
    metric = re.sub(r"^(metrics|summary)[./]", "", score)
    return Scores(rows, metric, _first(records, names), [*records.notes, *notes])


def _widened(records: Records, options: Options) -> tuple[Records, Options] | None:
    """Make a long table of one with a column for each variant; None if it is not such a one."""
    names = {plain(name): name for name in records.columns}
    asked = options.variant or options.score
    baseline = options.baseline if options.baseline in records.columns else names.get("baseline")
    if asked or baseline is None or any(word in names for word in ("variant", "score")):
        return None
    seed = options.seed if options.seed in records.columns else None
    seed = seed or next((names[word] for word in SEEDS if word in names), None)
    arms = [n for n in records.columns if n == baseline or (n != seed and _is_numeric(records, n))]
    arms = [n for n in arms if n == baseline or not OTHERS.search(plain(n))]
    long: dict[str, list[Cell]] = {"variant": [], "score": [], **({"seed": []} if seed else {})}
    places = []
    for row, place in enumerate(records.places):
        for arm in arms:
            long["variant"].append(arm)
            long["score"].append(records.columns[arm][row])
            if seed:
                long["seed"].append(records.columns[seed][row])
            places.append(f"{place}, column {arm}")
    note = f"Read: a column for each of {len(arms)} variants, a row for each seed."
    return Records(long, places, [note]), Options(baseline=baseline, failed=options.failed)


def _find(
    records: Records,
    what: str,
    given: str | None,
    known: Sequence[str],
    fits: Callable[[str], bool],
) -> str | None:
    """Find a column: the one that was given, or the first that is called so; None if none is."""
    if given is not None:
        if given not in records.columns:
            near = did_you_mean(given, records.columns)
            there = listed(list(records.columns), 20)
            raise Unsaid(f"--{what}: no column {printable(given, 80)}.{near} There are: {there}.")
        return given
    names = {plain(name): name for name in reversed(records.columns)}
    return next((names[word] for word in known if word in names and fits(names[word])), None)


def _score_column(records: Records, given: str | None, taken: set[str | None]) -> str:
    if found := _find(records, "score", given, SCORES[:1], lambda _: True):
        return found
    numeric = [n for n in records.columns if n not in taken and _is_numeric(records, n)]
    named = [n for n in numeric if re.match(r"(metrics|summary)[./]", n)] or numeric
    kept = [
        n for n in named if not OTHERS.search(plain(n)) and not re.match(r"(params|config)\.", n)
    ]
    if len(kept) > 1:
        kept = [n for n in kept if plain(n) in SCORES] or kept
    if len(kept) == 1:
        return kept[0]
    there = listed(kept or list(records.columns), 20)
    what = "which column is it, of" if kept else "no column of numbers among"
    raise Unsaid(f"--score: {what} {there}? Name it: --score COLUMN.")


def _variant_column(records: Records, options: Options, taken: set[str | None]) -> str:
    """Find the column of the variants: of those that are called so one in which names repeat."""

    def repeats(name: str) -> bool:
        cells = [text_of(cell) for cell in records.columns[name]]
        return name not in taken and len({*cells}) < len(cells)

    if options.variant is None and (found := _find(records, "variant", None, VARIANTS, repeats)):
        return found
    there = _find(records, "variant", options.variant, VARIANTS, lambda name: name not in taken)
    if there is None:
        rest = [name for name in records.columns if name not in taken]
        raise Unsaid(
            f"--variant: which column names the variant, of {listed(rest, 20)}? "
            "Name it: --variant COLUMN."
        )
    return there


def _seeds(records: Records, column: str) -> list[str | None]:
    seeds: list[str | None] = []
    for cell, place in zip(records.columns[column], records.places, strict=True):
        text = text_of(cell)
        if not text:
            raise UserError(
                f"{place}, column {column}: must be a seed, is empty. Fill it in; or take "
                f"--seed {NONE}, to judge the runs without their seeds."
            )
        seeds.append(re.sub(r"^(-?\d+)\.0+$", r"\1", text))
    return seeds


def _split(names: Sequence[str], pattern: str | None) -> tuple[list[str], list[str | None]] | None:
    """Split names into variants and seeds; None if they hold none.

    Raises:
        Unsaid: If an expression was given that is none, or does not fit all names.
    """
    try:
        expression = re.compile(SPLIT if pattern is None else pattern)
    except re.error as error:
        raise Unsaid(f"--split must be a regular expression, got {pattern}: {error}.") from None
    if not {"variant", "seed"} <= {*expression.groupindex}:
        raise Unsaid(
            "--split must have groups variant and seed, got "
            f"{printable(pattern, 80)}. As in '(?P<variant>.+)-(?P<seed>[0-9]+)'."
        )
    found = [expression.fullmatch(name) for name in names]
    missed = [name for name, match in zip(names, found, strict=True) if match is None]
    if missed and pattern is not None:
        raise Unsaid(f"--split does not match {printable(missed[0], 80)} as a whole.")
    if missed:
        return None
    parts = [match.group("variant", "seed") for match in found if match]
    return [name or "run" for name, _ in parts], [seed for _, seed in parts]


def _first(records: Records, names: Sequence[str]) -> str | None:
    """Find what a loop started from: the row that its description calls the baseline."""
    for column, cells in records.columns.items():
        if plain(column) in ("description", "notes", "idea", "hypothesis"):
            rows = zip(cells, names, strict=True)
            return next((n for c, n in rows if text_of(c).lower().startswith("baseline")), None)
    return None


def _is_numeric(records: Records, name: str) -> bool:
    """Whether a column holds numbers, and some that are known."""
    known = [cell for cell in records.columns[name] if text_of(cell).lower() not in EMPTY]
    return bool(known) and all(is_number(cell) for cell in known)
