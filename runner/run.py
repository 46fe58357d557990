"""One run, from its config to its result; a run knows nothing of the sweep that it is part of."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from runner import checkpoint
from runner.build import Bench, build
from runner.config import Settings, check
from runner.errors import UserError
from runner.evaluate import evaluate, shift_consistency
from runner.files import write_atomically, write_json, write_text
from runner.fingerprint import digest_tensors, fingerprint
from runner.folder import (
    CONFIG,
    clear,
    finished,
    label,
    owned,
    remove_empty,
    tracked,
)
from runner.log import RunLog
from runner.runs import CORRECT, MACHINE, RESULT
from runner.train import Diverged


def run(cfg: DictConfig) -> float:
    """Do the run that a config describes, or go on with it, or tell its result if it is done.

    Returns:
        The accuracy on the validation split, for a sweep that searches; on the test set where
        there is no validation split.

    Raises:
        UserError: If the config is wrong, the folder belongs to another run, or it diverged.
    """
    hydra = HydraConfig.get()
    folder, sweep = Path(hydra.runtime.output_dir), hydra.mode is RunMode.MULTIRUN
    try:
        settings = check(cfg, hydra.overrides.task)
        result = finished(folder, settings)
        if result is None or settings.again:
            result = attempt(folder, settings, build(settings), quiet=sweep)
    except UserError as error:
        remove_empty(folder)
        if sweep:  # Hydra shows the first error of a sweep alone, and at its end
            told = str(error).removeprefix(label(folder)).lstrip()
            print(f"{label(folder)}  {told}", flush=True)
        raise
    print(f"{label(folder)}  {summary(result)}", flush=True)
    return float(result.get("validation/accuracy", result["test/accuracy"]))


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


def attempt(folder: Path, settings: Settings, bench: Bench, quiet: bool) -> dict[str, Any]:
    """Take hold of the folder, and go from what is there to the result.

    Args:
        folder: The folder of the run; it exists.
        settings: The config.
        bench: What `build` made of it.
        quiet: Whether to leave the progress to others, as in a sweep.

    Raises:
        UserError: If another process holds the folder, or the run diverged.
    """
    with owned(folder):
        result = finished(folder, settings)  # which refuses a folder of another config
        if result is not None and not settings.again:
            return result  # another process was quicker
        if settings.again:
            clear(folder)
        made_with = _made_with(bench)
        state = checkpoint.load(folder)
        if state is not None:
            _refuse_other(folder, state["made_with"], made_with)
            bench.training.load_state_dict(state["training"])
        write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(settings.to_dict())))
        write_json(folder / MACHINE, fingerprint(settings, bench.training.device))
        with tracked(folder, bench.training.device), RunLog(folder, bench.training.updates) as log:
            _train(folder, settings, bench, log, quiet, made_with)
            result, correct = _result(bench, settings)
            tested = {k: v for k, v in result.items() if k.startswith("test/")}
            log.scalars(bench.training.updates, tested)
            write_atomically(folder / CORRECT, lambda file: np.save(file, correct))
            write_json(folder / RESULT, result)
    return result


def _made_with(bench: Bench) -> dict[str, str]:
    """What a stopped run must find again, beside its config, to end as if it had never stopped."""
    splits = (bench.data.train, bench.data.validation, bench.data.test)
    tensors = {f"{i}/{name}": t for i, s in enumerate(splits) for name, t in s._asdict().items()}
    return {"data": digest_tensors(tensors), "device": bench.training.device.type}


def _refuse_other(folder: Path, saved: dict[str, str], here: dict[str, str]) -> None:
    for what, value in saved.items():
        if here[what] != value:
            raise UserError(
                f"{label(folder)} must go on with the {what} that it began with, got another: "
                f"{value[:12]} then, {here[what][:12]} now. Begin anew with again=true."
            )


def _train(
    folder: Path,
    settings: Settings,
    bench: Bench,
    log: RunLog,
    quiet: bool,
    made_with: dict[str, str],
) -> None:
    """Train the epochs that are left; each ends in a checkpoint."""
    training, done = bench.training, bench.training.updates // len(bench.batches)
    for caveat in training.trick.caveats(settings.epochs * len(bench.batches), len(bench.batches)):
        print(f"{label(folder)}  note: {caveat}", flush=True)
    seconds, passes, began = 0.0, 0, time.perf_counter()
    for epoch in range(done, settings.epochs):
        seconds, passes = seconds + _epoch(bench, epoch, quiet), passes + 1
        numbers: dict[str, float] = {}
        if (epoch + 1) % settings.evaluate_every == 0 or epoch + 1 == settings.epochs:
            speed = passes * len(bench.data.train.labels) / seconds
            numbers = {
                **training.recent.take(),
                "train/skipped": training.skipped,
                **_validate(bench),
                "time/seconds": seconds,
                "time/images_per_second": speed,
            }
            log.write(epoch + 1, training.updates, numbers)
            seconds, passes = 0.0, 0
        state = {"training": training.state_dict(), "made_with": made_with}
        checkpoint.save(folder, state)
        if numbers and not quiet:
            an_epoch = (time.perf_counter() - began) / (epoch + 1 - done)
            left = an_epoch * (settings.epochs - epoch - 1)
            print(_progress(epoch + 1, settings.epochs, numbers, left), flush=True)


def _epoch(bench: Bench, epoch: int, quiet: bool) -> float:
    """Train for one epoch; give back the seconds that it took."""
    start = time.perf_counter()
    shown = None if not quiet else True  # None: shown on a terminal alone
    with tqdm(total=len(bench.batches), disable=shown, leave=False, unit="update") as bar:
        for batch in bench.batches.epoch(epoch):
            bench.training.step(batch)
            bar.update()
    if bench.training.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
