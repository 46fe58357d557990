"""The runs of some folders as pandas tables, for questions that the report does not ask."""

from collections.abc import Iterator, Mapping, Sequence
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
    """A row for each run: `state`, a column for each factor of its ablation with the level that
    it had, every number of result.json, `seconds`, `peak_memory` (bytes), `error`."""
    evaluations: pd.DataFrame
    """A row for each evaluation: `epoch`, `update`, and every number of its line."""


def read_frames(*folders: str | Path) -> Frames:
    """Read the runs below folders into tables; also while they are still being written.

    The `name` of a run is that of its ablation's folder, or of the folder that was given. What a
    run does not have is NA. A file that is damaged leaves its numbers out, and `state` tells.

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
    runs: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for name, run, levels in _find(folders):
        key = {"name": name, "variant": run.variant, "seed": _integer(run.seed)}
        runs.append({**_about(run, levels), **key})
        lines += [{**key, **_numbers(line)} for line in evaluations(run)]
    if not runs:
        raise UserError(
            f"{' '.join(map(str, folders)) or 'read_frames()'} must hold runs, got none. "
            "Give a folder that a run wrote into."
        )
    return Frames(_frame(runs, ("state",)), _frame(lines, ("epoch", "update")))


def _find(folders: Sequence[str | Path]) -> Iterator[tuple[str, Run, Mapping[str, str]]]:
    """Run through the runs: the name of each one's folder, the run, its level of each factor."""
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
        "state": run.state,  # whatever a level or a number is called
        "seconds": number(run.status.get("seconds")),
        "peak_memory": number(run.status.get("peak_memory")),
        "error": run.damage or (str(error) if (error := run.status.get("error")) else None),
    }


def _numbers(content: Mapping[str, Any]) -> dict[str, float | int]:
    """Keep what is a number; integers stay so, as far as a table has room for them."""
    kept = ((k, v) for k, v in content.items() if k not in ("format", *FIRST))
    found = ((k, v, number(v)) for k, v in kept)
    return {
        k: v if isinstance(v, int) and abs(v) < 2**63 else n for k, v, n in found if n is not None
    }


def _integer(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _frame(rows: Sequence[Mapping[str, Any]], next_ones: Sequence[str]) -> pd.DataFrame:
    """Make a table whose first columns are there even if no run has them."""
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=list(dict.fromkeys([*FIRST, *next_ones, *frame.columns])))
    return frame.astype({"seed": "Int64"})  # which knows NA
