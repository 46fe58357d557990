"""The runs of some folders as pandas tables, for questions that the report does not answer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from runner.ablation.find import find_ablations, find_loose_runs
from runner.ablation.plan import find_plan
from runner.errors import UserError
from runner.store.runs import Run, evaluations, find_runs, number

FIRST = ("name", "variant", "seed")


class Frames(NamedTuple):
    """Two tables; both name each run by `name`, `variant` and `seed`."""

    runs: pd.DataFrame
    """A row for each run: `state`, a column for each factor of its ablation with the run's level,
    every number of result.json, `seconds`, `peak_memory` (bytes), `error`."""
    evaluations: pd.DataFrame
    """A row for each evaluation: `epoch`, `update`, and every number of its line."""


def read_frames(*folders: str | Path) -> Frames:
    """Read the runs below folders into tables; also while they are still being written.

    The `name` of a run is that of its ablation's folder, or of the folder that was given. What a
    run does not have is NA. Numbers of a damaged file are missing, and `state` says `damaged`.

    Args:
        folders: As outputs/NAME, or outputs.

    Raises:
        UserError: If there is no run, or a plan is damaged.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for seed, accuracy in enumerate((0.92, 0.94)):
    ...         run = Path(folder, "clipping", f"seed={seed}")
    ...         run.mkdir(parents=True)
    ...         _ = (run / "status.json").write_text('{"status": "done", "seconds": 4.5}')
    ...         _ = (run / "result.json").write_text('{"test/accuracy": %f}' % accuracy)
    ...     runs, evaluations = read_frames(folder)
    >>> runs[["variant", "seed", "state", "test/accuracy", "seconds"]]
        variant  seed state  test/accuracy  seconds
    0  clipping     0  done           0.92      4.5
    1  clipping     1  done           0.94      4.5
    >>> runs.groupby("variant")["test/accuracy"].mean()
    variant
    clipping    0.93
    Name: test/accuracy, dtype: float64
    """
    found = list(_find(folders))
    if not found:
        raise UserError(
            f"{' '.join(map(str, folders)) or 'read_frames()'}: no runs there. "
            "Expected a folder that a run wrote into."
        )
    lines = [
        {**_numbers(line), **_key(name, run)} for name, run, _ in found for line in evaluations(run)
    ]
    return Frames(run_frame(found), _frame(lines, ("epoch", "update")))


def run_frame(found: Iterable[tuple[str, Run, Mapping[str, str]]]) -> pd.DataFrame:
    """Make the table of runs.

    Args:
        found: For each run the name of its folder, the run, and its level of each factor.
    """
    rows = [{**_about(run, levels), **_key(name, run)} for name, run, levels in found]
    return _frame(rows, ("state",))


def _key(name: str, run: Run) -> dict[str, Any]:
    seed = int(run.seed) if run.seed.isdecimal() and len(run.seed) < 19 else None
    return {"name": name, "variant": run.variant, "seed": seed}


def _find(folders: Sequence[str | Path]) -> Iterator[tuple[str, Run, Mapping[str, str]]]:
    """Iterate over the runs: the name of each one's folder, the run, its level of each factor."""
    for folder in map(Path, folders):
        for root in find_ablations(folder):
            plan = find_plan(root)
            factors = [factor.name for factor in plan.factors]
            for run in find_runs(root):
                levels = plan.variants.get(run.variant, ())
                yield plan.name, run, dict(zip(factors, levels, strict=False))
        for run in find_loose_runs(folder):
            yield folder.resolve().name, run, {}


def _about(run: Run, levels: Mapping[str, str]) -> dict[str, Any]:
    return {
        **levels,
        **_numbers(run.result or {}),
        "state": run.state,  # also where a level or a number has this name
        "seconds": number(run.status.get("seconds")),
        "peak_memory": number(run.status.get("peak_memory")),
        "error": run.damage or (str(error) if (error := run.status.get("error")) else None),
    }


def _numbers(content: Mapping[str, Any]) -> dict[str, float | int]:
    """Keep the numbers; integers stay integers where a table can hold them."""
    kept = ((k, v) for k, v in content.items() if k not in ("format", *FIRST))
    found = ((k, v, number(v)) for k, v in kept)
    return {
        k: v if isinstance(v, int) and abs(v) < 2**63 else n for k, v, n in found if n is not None
    }


def _frame(rows: Sequence[Mapping[str, Any]], next_ones: Sequence[str]) -> pd.DataFrame:
    """Make a table whose first columns are there even if no run has them."""
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=list(dict.fromkeys([*FIRST, *next_ones, *frame.columns])))
    return frame.astype({"seed": "Int64"})  # which knows NA
