"""The runs of some folders as pandas tables, for questions that the report does not answer."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from runner.ablation.find import find_ablations, find_loose_runs, find_own_runs, names_of
from runner.ablation.plan import find_plan
from runner.ablation.table import planned
from runner.errors import UserError
from runner.names import flatten
from runner.store.parameters import parameters
from runner.store.runs import PREDICTIONS, Run, evaluations, number, read_run

FIRST = ("name", "variant", "seed")


class Frames(NamedTuple):
    """Two tables; both name each run by `name`, `variant` and `seed`."""

    runs: pd.DataFrame
    """A row for each run: `state`, a column for each factor of its ablation with the run's level,
    every number of result.json, `seconds`, `peak_memory` (bytes), `error`, and a column
    `config.KEY` for each setting, such as `config.tricks.clipping.max_norm`."""
    evaluations: pd.DataFrame
    """A row for each evaluation: `epoch`, `update`, and every number of its line."""


class Predictions(NamedTuple):
    """What a run answered on its test split, in its order."""

    table: pd.DataFrame
    """A row for each sample: `sample` (its place), `label` and `prediction` (names of classes),
    `probability` (of the prediction), and whether it is `right`."""
    logits: NDArray[np.float32]
    """[N, K]."""
    labels: NDArray[np.int64]
    """[N], the places of the classes."""
    classes: tuple[str, ...]
    """K names; numbers where the run has not recorded them."""


class Found(NamedTuple):
    """A run, and what is known of it."""

    name: str
    """Of its folder."""
    run: Run
    levels: Mapping[str, str]
    """Of each factor of its ablation."""
    config: Mapping[str, Any]
    """By dotted keys; {} if it is not known."""


def read_frames(*folders: str | Path) -> Frames:
    """Read the runs below folders into tables; also while they are still being written.

    The `name` of a run is that of the folder of its variants: what lies below `outputs`, or else
    its last part, or more of it where two would have the same name. A run that is found twice has
    one row. What a run does not have is NA, as are the parameters of tricks
    that are off. Numbers of a damaged file are missing, and `state` says `damaged`; so it does of a
    run of another config than its ablation's plan has.

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
    unique: dict[Path, Found] = {}
    for each in _find(folders):
        unique.setdefault(each.run.folder.resolve(), each)
    found = list(unique.values())
    if not found:
        raise UserError(
            f"{' '.join(map(str, folders)) or 'read_frames()'}: no runs there. "
            "Expected a folder that a run wrote into."
        )
    lines = [{**_numbers(line), **_key(each)} for each in found for line in evaluations(each.run)]
    return Frames(run_frame(found), _frame(lines, ("epoch", "update")))


def read_predictions(run: str | Path) -> Predictions:
    """Read what a finished run answered on its test split, for any metric that one may want.

    Args:
        run: The folder of the run, as outputs/NAME/VARIANT/seed=0.

    Raises:
        UserError: If there are none, or they are damaged.

    >>> from tempfile import TemporaryDirectory
    >>> from sklearn.metrics import cohen_kappa_score
    >>> with TemporaryDirectory() as folder:
    ...     logits = np.float32([[2, 0], [0, 1], [0, 3], [1, 0]])
    ...     np.savez(Path(folder, "predictions.npz"), logits=logits, labels=[0, 1, 1, 1])
    ...     _ = Path(folder, "result.json").write_text('{"classes": ["cat", "dog"]}')
    ...     table, logits, labels, classes = read_predictions(folder)
    >>> table.round(2)
       sample label prediction  probability  right
    0       0   cat        cat         0.88   True
    1       1   dog        dog         0.73   True
    2       2   dog        dog         0.95   True
    3       3   dog        cat         0.73  False
    >>> cohen_kappa_score(table.label, table.prediction)
    0.5
    """
    folder = Path(run)
    found = read_run(folder, folder.parent.name)
    predictions = found.predictions()
    if found.result is None or predictions is None:
        missing = f"{PREDICTIONS} is damaged, or not there"
        why = found.damage or (missing if found.result else f"the run is not done ({found.state})")
        raise UserError(
            f"{folder}: no predictions: {why}. Expected the folder of a finished run, as "
            "outputs/NAME/VARIANT/seed=0."
        )
    logits, labels = predictions
    classes = found.classes() or ()
    classes = (*classes, *map(str, range(len(classes), logits.shape[1])))
    shares = softmax(logits.astype(np.float64), axis=1)
    names, chosen = np.array(classes, dtype=object), logits.argmax(1)
    table = pd.DataFrame(
        {
            "sample": np.arange(len(labels)),
            "label": names[labels],
            "prediction": names[chosen],
            "probability": shares.max(1),
            "right": chosen == labels,
        }
    )
    return Predictions(table, logits, labels, classes)


def run_frame(found: Iterable[Found]) -> pd.DataFrame:
    """Make the table of runs."""
    return _frame([{**_about(each), **_key(each)} for each in found], ("state",))


def _key(found: Found) -> dict[str, Any]:
    seed = found.run.seed
    known = int(seed) if seed.isdecimal() and len(seed) < 19 else None
    return {"name": found.name, "variant": found.run.variant, "seed": known}


def _find(folders: Sequence[str | Path]) -> Iterator[Found]:
    """Iterate over the runs; one that lies below several folders comes again."""
    places = [Path(os.path.abspath(folder)) for folder in folders]
    roots = [root for place in places for root in find_ablations(place)]
    loose = [run for place in places for run in find_loose_runs(place)]
    names = names_of({*roots, *(run.folder.parent.parent for run in loose)})
    for root in roots:
        plan = find_plan(root)
        factors = [factor.name for factor in plan.factors]
        settled = {
            variant: (
                dict(zip(factors, levels, strict=False)),
                dict(flatten(plan.config_of(variant, plan.seeds[0]))),
            )
            for variant, levels in plan.variants.items()
        }
        digests = {variant: plan.digests(variant) for variant in plan.variants}
        for run in find_own_runs(root):
            seed = int(run.seed) if run.seed.isdecimal() else -1
            digest = digests.get(run.variant, {}).get(seed)
            run = planned(run, digest) if digest else run
            if digest is None or run.foreign:
                yield Found(names[root], run, {}, run.config)
            else:
                yield Found(names[root], run, *settled[run.variant])
    for run in loose:
        run = replace(run, variant=run.folder.parent.name)
        yield Found(names[run.folder.parent.parent], run, {}, run.config)


def _about(found: Found) -> dict[str, Any]:
    run = found.run
    return {
        **found.levels,
        **_numbers(run.result or {}),
        "state": run.state,  # also where a level or a number has this name
        "seconds": number(run.status.get("seconds")),
        "peak_memory": number(run.status.get("peak_memory")),
        "error": run.damage or (str(error) if (error := run.status.get("error")) else None),
        **{f"config.{key}": value for key, value in parameters(found.config).items()},
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
