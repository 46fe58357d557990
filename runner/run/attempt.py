"""One run, from its config to its result; a run knows nothing of the sweep that it is part of."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from runner.build import Bench, build
from runner.config import Settings
from runner.evaluate import evaluate, shift_consistency
from runner.names import label
from runner.run import checkpoint
from runner.run.fingerprint import digest_tensors, fingerprint
from runner.run.log import RunLog
from runner.run.resume import environment, restore
from runner.run.status import (
    Progress,
    clear,
    conclude,
    finished,
    tracked,
    write_config,
)
from runner.signals import defer_signals
from runner.store.files import remove_leftovers, write_atomically, write_json
from runner.store.lock import lock_folder
from runner.store.runs import (
    CORRECT,
    MACHINE,
    METRICS,
    RESULT,
    digest_answers,
    digest_metrics,
    read_line,
)
from runner.texts import say
from runner.train import Diverged


def summary(result: dict[str, Any]) -> str:
    """Write a result in half a line."""
    words = [
        f"test accuracy {100 * result['test/accuracy']:.2f} %",
        f"loss {result['test/loss']:.4f}",
        f"shift consistency {100 * result['test/shift_consistency']:.2f} %",
    ]
    if result["inactive"]:
        words.append(f"INACTIVE, changed nothing: {', '.join(result['inactive'])}")
    return "  ".join(words)


def resume_or_run(folder: Path, settings: Settings, quiet: bool) -> dict[str, Any]:
    """Do a run, or resume it, or read its result if it is done.

    Raises:
        UserError: If the folder belongs to another run, or as `attempt` does.
    """
    result = finished(folder, settings)
    if result is None:
        return attempt(folder, settings, build(settings), quiet)
    # killed between result.json and status.json
    conclude(folder, "done", None, ours=("running", "stopped", "failed"))
    return result


def attempt(folder: Path, settings: Settings, bench: Bench, quiet: bool) -> dict[str, Any]:
    """Take hold of the folder, and go from what is there to the result.

    Args:
        folder: The folder of the run; it exists.
        settings: The config.
        bench: What `build` made of it.
        quiet: Whether to leave the progress to others, as in a sweep.

    Raises:
        UserError: If another process holds the folder, the run may not go on here, there is no
            room for its files, or it diverged.
        Stopped: If a signal asked for it; a checkpoint of the last update is saved.
    """
    with lock_folder(folder):
        result = finished(folder, settings)  # which refuses a folder of another config
        if result is not None:
            return result  # another process was quicker
        remove_leftovers(folder)
        if settings.again:
            clear(folder)
        with tracked(folder, bench.training.device) as progress:
            return _go(folder, settings, bench, progress, quiet)


def _go(
    folder: Path, settings: Settings, bench: Bench, progress: Progress, quiet: bool
) -> dict[str, Any]:
    """Go from the last checkpoint, or from nothing, to the result."""
    training = bench.training
    machine = fingerprint(settings, training.device)
    here = environment(settings, bench, machine)
    moves: list[str] = []
    lines: list[str] = []
    progress.update, progress.checkpoint = 0, None
    if (state := checkpoint.load(folder)) is not None:
        moves = restore(folder, settings, bench, state, here)
        lines = str(state.get("metrics", "")).splitlines(keepends=True)
        progress.update = progress.checkpoint = training.updates
    write_config(folder, settings)
    write_json(folder / MACHINE, {**machine, **({"moves": moves} if moves else {})})

    with RunLog(folder, lines, training.updates) as log:

        def save() -> None:
            content = {"training": training.state_dict(), "made_with": here, "moves": moves}
            checkpoint.save(folder, {**content, "metrics": "".join(log.lines)})
            progress.checkpoint = training.updates

        try:
            _train(folder, settings, bench, log, save, quiet)
        finally:
            progress.update = training.updates
        result, correct = _result(bench, settings)
        tested = {k: v for k, v in result.items() if k.startswith("test/")}
        log.scalars(training.updates, tested)
        write_atomically(folder / CORRECT, lambda file: np.save(file, correct))
        evaluations = [read_line(line, METRICS) for line in log.lines]
        digests = {METRICS: digest_metrics(evaluations), CORRECT: digest_answers(correct)}
        result["digests"] = digests
        write_json(folder / RESULT, result)
    return result


def _train(
    folder: Path,
    settings: Settings,
    bench: Bench,
    log: RunLog,
    save: Callable[[], None],
    quiet: bool,
) -> None:
    """Train the updates that are left; checkpoints at each epoch's end, and when they are due."""
    training, per_epoch = bench.training, len(bench.batches)
    for caveat in training.trick.caveats(settings.epochs * per_epoch, per_epoch):
        say(f"{label(folder)}  note: {caveat}")
    timer, began, before = Timer(), time.perf_counter(), training.updates
    with defer_signals() as asked:
        saver = checkpoint.Saver(save, settings.checkpoint_seconds, asked)
        for epoch in range(training.updates // per_epoch, settings.epochs):
            _epoch(bench, epoch, timer, saver, quiet)
            numbers: dict[str, float] = {}
            if (epoch + 1) % settings.evaluate_every == 0 or epoch + 1 == settings.epochs:
                numbers = {
                    **training.recent.take(),
                    "train/skipped": training.skipped,
                    **_validate(bench),
                    **timer.take(),
                }
                log.write(epoch + 1, training.updates, numbers)
            saver.save()
            if numbers and not quiet:
                an_update = (time.perf_counter() - began) / (training.updates - before)
                left = an_update * (settings.epochs * per_epoch - training.updates)
                say(_progress(epoch + 1, settings.epochs, numbers, left))


def _epoch(bench: Bench, epoch: int, timer: "Timer", saver: checkpoint.Saver, quiet: bool) -> None:
    """Train for what is left of an epoch."""
    training, count = bench.training, len(bench.batches)
    start = training.updates % count
    shown = None if not quiet else True  # None: shown on a terminal alone
    with (
        timer,
        tqdm(total=count, initial=start, disable=shown, leave=False, unit="update") as bar,
    ):
        for batch in bench.batches.epoch(epoch, start):
            training.step(batch)
            timer.images += len(batch.targets)
            bar.update()
            if saver.is_due() and training.updates % count:  # else the epoch is to be logged first
                saver.save()
        if training.device.type == "cuda":
            torch.cuda.synchronize()


class Timer:
    """The time spent in training since it was last taken; a context around each stretch of it."""

    def __init__(self) -> None:
        self.seconds, self.images = 0.0, 0

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.start

    def take(self) -> dict[str, float]:
        """Give back the seconds and the speed, and begin anew."""
        taken = {
            "time/seconds": self.seconds,
            "time/images_per_second": self.images / self.seconds,
        }
        self.seconds, self.images = 0.0, 0
        return taken


def _validate(bench: Bench) -> dict[str, float]:
    if len(bench.data.validation.labels) == 0:
        return {}
    with bench.training.autocast():
        found = evaluate(bench.training.model, bench.validation)
    return {"validation/accuracy": found.accuracy, "validation/loss": found.loss}


def _progress(epoch: int, epochs: int, numbers: dict[str, float], left: float) -> str:
    words = [f"epoch {epoch}/{epochs}"]
    if "train/loss" in numbers:  # not if every update was skipped
        words.append(f"loss {numbers['train/loss']:.4f}")
        words.append(f"lr {numbers['train/learning_rate']:.4f}")
    if "validation/accuracy" in numbers:
        words.append(f"accuracy {100 * numbers['validation/accuracy']:.2f} %")
    words.append(f"{numbers['time/images_per_second']:,.0f} images/s")
    return "  ".join([*words, f"{int(left) // 60}:{int(left) % 60:02d} left"])


def _result(bench: Bench, settings: Settings) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Touch the test set, this once. No time is in the result: the same run gives the same bits."""
    training = bench.training
    with training.autocast():
        found = evaluate(training.model, bench.test)
        if not math.isfinite(found.loss):
            raise Diverged(f"the test loss is not finite ({found.loss}) after the last update")
        consistency = shift_consistency(training.model, bench.test, settings.seed)
    reported = training.whole.means()
    inactive = [
        name
        for name, trick in zip(training.trick.names, training.trick, strict=True)
        if trick.activity and reported.get(f"tricks/{name}/{trick.activity}") == 0
    ]
    result = {
        "test/accuracy": found.accuracy,
        "test/loss": found.loss,
        "test/shift_consistency": consistency,
        **_validate(bench),
        **reported,
        "inactive": inactive,
        "updates": training.updates,
        "skipped": training.skipped,
        "weights": digest_tensors(training.model.state_dict()),
    }
    return result, found.correct.numpy()
