"""The result of a run: measured on the test set, written, read, and printed in one line."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from runner.build import Bench
from runner.config import Settings
from runner.errors import UserError
from runner.evaluate import Evaluation, evaluate, shift_consistency
from runner.metrics import MEASURED, is_built_in, measure
from runner.names import label
from runner.run.fingerprint import digest_tensors
from runner.run.status import is_run_of
from runner.store.answers import digest_answers, digest_predictions
from runner.store.files import flush_files, read_json, write_atomically, write_json
from runner.store.packed import is_packed, look
from runner.store.runs import (
    CHECKPOINTS,
    CONFIG,
    CORRECT,
    FLUSHED_LATER,
    METRICS,
    PREDICTIONS,
    RESULT,
    digest_metrics,
    read_line,
)
from runner.texts import printable
from runner.train import Diverged

MOST_CLASSES = 1000
"""Whose names are in result.json."""


def evaluate_on_validation(bench: Bench, metrics: Sequence[str] = ()) -> dict[str, float]:
    """Evaluate on the validation split; {} if there is none."""
    if len(bench.data.validation.labels) == 0:
        return {}
    with bench.training.autocast():
        found = evaluate(bench.training.predictor, bench.validation, bench.training.ranks)
    more = measure(metrics, found.logits, found.labels)
    return {
        "validation/accuracy": found.accuracy,
        "validation/loss": found.loss,
        **{f"validation/{name}": value for name, value in more.items()},
    }


def accuracy_on_test(bench: Bench) -> float:
    """Give back the test accuracy of a model in training, which stays as it is."""
    with bench.training.autocast():
        return evaluate(bench.training.predictor, bench.test, bench.training.ranks).accuracy


def evaluate_on_test(
    bench: Bench, settings: Settings, lines: Sequence[str] = ()
) -> tuple[dict[str, Any], Evaluation]:
    """Give back the result of a trained model, and what it answers on the test split.

    No time is in it: the same run gives the same bits.

    Args:
        bench: The run, trained.
        settings: The config.
        lines: Those of metrics.jsonl, with the test accuracies before the end, if there are any.

    Raises:
        Diverged: If the test loss is not finite.
        UserError: If a metric of the user's own is not.
    """
    training = bench.training
    with training.autocast():
        predictor = training.predictor
        found = evaluate(predictor, bench.test, training.ranks)
        if not math.isfinite(found.loss):
            raise Diverged(f"the test loss is not finite ({found.loss}) after the last update")
        consistency = shift_consistency(predictor, bench.test, settings.seed, training.ranks)
    measured = measure(settings.metrics, found.logits, found.labels)
    for name, value in measured.items():
        if not math.isfinite(value):
            raise UserError(
                f"metrics: {name} is {value} on the test split; it must be finite. Correct it, and "
                "repeat the command with resume=anywhere: the trained weights are kept."
            )
    validation = evaluate_on_validation(bench, settings.metrics)
    reported = training.whole.means()
    named = zip(training.trick.names, training.trick, strict=True)
    activities = {name: trick.activity for name, trick in named if trick.activity}
    inactive = [n for n, key in activities.items() if reported.get(f"tricks/{n}/{key}") == 0]
    logged = [line.get("test/accuracy") for line in (read_line(each, METRICS) for each in lines)]
    tested = [accuracy for accuracy in logged if accuracy is not None]
    result = {
        "test/accuracy": found.accuracy,
        **({"test/mean_accuracy": fmean([*tested, found.accuracy])} if tested else {}),
        "test/loss": found.loss,
        "test/shift_consistency": consistency,
        **{f"test/{name}": value for name, value in measured.items()},
        **{key: value if math.isfinite(value) else None for key, value in validation.items()},
        **reported,
        "inactive": inactive,
        "updates": training.updates,
        "skipped": training.skipped,
        "weights": digest_tensors(training.model.state_dict()),
    }
    names = bench.data.classes
    classes = {"classes": [*names]} if len(names) <= MOST_CLASSES else {}
    return {**result, **classes}, found


def write_predictions(folder: Path, found: Evaluation) -> None:
    """Write what the tested weights answer: correct.npy and predictions.npz."""
    correct, logits, labels = (t.numpy() for t in (found.correct, found.logits, found.labels))
    write_atomically(folder / CORRECT, lambda file: np.save(file, correct), lasts=False)
    write_atomically(
        folder / PREDICTIONS, lambda file: np.savez(file, logits=logits, labels=labels), lasts=False
    )


def write_result(
    folder: Path, result: dict[str, Any], found: Evaluation, lines: Sequence[str]
) -> dict[str, Any]:
    """Write result.json, with digests of the answers and of the log's lines, when they last.

    Returns:
        The result with the digests.
    """
    digests = {
        METRICS: digest_metrics(read_line(line, METRICS) for line in lines),
        CORRECT: digest_answers(found.correct.numpy()),
        PREDICTIONS: digest_predictions(found.logits.numpy(), found.labels.numpy()),
    }
    result = {**result, "digests": digests}
    flush_files(folder, FLUSHED_LATER)
    write_json(folder / RESULT, result)
    return result


def finished(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """Give back the result of a finished run; None if it is new, stopped, or to be done again.

    Raises:
        UserError: If the folder holds a run with another config, or what is no result, or if a
            packed one is to be done again.
    """
    if not is_run_of(folder, settings):
        return None
    if settings.again:
        if is_packed(folder):
            raise UserError(
                f"{label(folder)} is packed, and is not done again there. Unpack it: "
                f"python -m runner.pack --unpack {label(folder.parent)}"
            )
        return None
    result, problem = read_json(folder / RESULT)
    if result is not None and not _is_result(result):
        problem = f"{RESULT} is not the result of a run"
    if problem:
        there = any((folder / name).exists() for name in CHECKPOINTS)
        how = "resumes from its checkpoint" if there else "is done again: it kept no checkpoint"
        raise UserError(
            f"{label(folder)}/{problem}. Remove that file and repeat the command: the run {how}."
        )
    return result


def changed_since(folder: Path, settings: Settings) -> list[str]:
    """Name the settings whose files have changed since a finished run was begun.

    By their times, since reading them would take as long as a run may. Of a folder of images those
    of its folders count, which a file that comes or goes renews.
    """
    if (about := look(folder / CONFIG)) is None:
        return []
    begun = about.modified
    named = {f"data.{key}": settings.data.get(key) for key in ("root", "file")}
    named["model.weights"] = settings.model.get("weights")
    return [
        key
        for key, value in named.items()
        if isinstance(value, str) and any(_time(path) > begun for path in _parts(Path(value)))
    ]


def _parts(path: Path) -> Iterator[Path]:
    path = path.expanduser()
    yield from (*path.glob("*/"), *path.glob("*/*/")) if path.is_dir() else (path,)


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it is gone: a finished run does not need it
        return 0.0


def _is_result(content: dict[str, Any]) -> bool:
    """Whether a file has at least what `summary` needs."""
    numbers = [content.get(f"test/{key}") for key in ("accuracy", "loss", "shift_consistency")]
    names = content.get("inactive")
    named = isinstance(names, list) and all(isinstance(n, str) and n.isidentifier() for n in names)
    return named and all(isinstance(n, float) and math.isfinite(n) for n in numbers)


def objective(result: dict[str, Any]) -> float:
    """What a sweep that searches is told: the accuracy on the validation split, if there is one."""
    return float(result.get("validation/accuracy", result["test/accuracy"]))


def summary(result: dict[str, Any]) -> str:
    """Write a result in half a line."""
    accuracy, consistency = result["test/accuracy"], result["test/shift_consistency"]
    words = [
        f"test accuracy {100 * accuracy:.2f} %",
        f"loss {result['test/loss']:.4f}",
        f"shift consistency {100 * consistency:.2f} %",
    ]
    for key, value in result.items():
        split, _, name = key.partition("/")
        if split == "test" and name not in MEASURED and isinstance(value, float):
            percent = f"{100 * value:.2f} %" if is_built_in(name) else f"{value:.4g}"
            words.append(f"{name.replace('_', ' ')} {percent}")
    if "epoch" in result:
        words.append(f"after epoch {result['epoch']:g}")
    if names := ", ".join(result["inactive"]):
        words.append(f"by their own count inactive: {names}")
    return printable("  ".join(words))
