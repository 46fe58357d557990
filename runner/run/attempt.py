"""One attempt at a run: from its last checkpoint, or from nothing, to its result."""

import dataclasses
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from runner.auto import AUTO, decide, is_open, settle
from runner.build import Bench, build, build_data
from runner.config import Settings
from runner.cores import usable_cores
from runner.data.seen import first_sheet
from runner.names import label
from runner.run import checkpoint, mistakes, model_file
from runner.run.choice import Choice
from runner.run.fingerprint import fingerprint
from runner.run.lines import beginning, progress
from runner.run.log import RunLog
from runner.run.process import isolated
from runner.run.result import (
    accuracy_on_test,
    changed_since,
    evaluate_on_test,
    evaluate_on_validation,
    finished,
    write_predictions,
    write_result,
)
from runner.run.resume import begun_with, device_begun_with, environment, restore
from runner.run.status import Status, clear, conclude, recorded, tidy, write_config
from runner.signals import defer_signals, raise_if_stopping, stop_requested
from runner.store.files import flush_files, remove_leftovers, write_json
from runner.store.lock import lock_folder
from runner.store.runs import CONFIG, FLUSHED_LATER, MACHINE, STATUS
from runner.texts import printable, say
from runner.tiles import encode

WORTH = 100.0
"""At an epoch's end, the last checkpoint must be so many times as old as writing it took."""


def resume_or_run(folder: Path, settings: Settings, quiet: bool) -> dict[str, Any]:
    """Give back the result of a run: read it if the run is done; else resume or start it.

    What the config leaves at `auto` is as the run was begun, for cores and cards differ by machine.

    Args:
        folder: The folder of the run.
        settings: The config.
        quiet: Whether to print no progress, as in a sweep.

    Raises:
        UserError: If the folder belongs to another run, or as `attempt` does.
    """
    with isolated():
        return _resume_or_run(folder, settings, quiet)


def _resume_or_run(folder: Path, settings: Settings, quiet: bool) -> dict[str, Any]:
    given = settings.threads
    settings = settle(settings, begun_with(folder))
    if (result := finished(folder, settings)) is None:
        device = device_begun_with(folder, settings)
        moved = given == AUTO and settings.threads not in (AUTO, *range(usable_cores() + 1))
        kept = [f"threads={settings.threads}"] * moved
        kept += [f"device={device}"] * (device != settings.device)
        if kept:
            say(f"{label(folder)}  resumes with {' and '.join(kept)}, as it was begun")
        here = dataclasses.replace(settings, device=device)
        data = build_data(here) if is_open(here) else None
        here = decide(here, data) if data else here
        chosen = dataclasses.replace(here, device=settings.device)
        return attempt(folder, chosen, build(here, data), quiet)
    # it may have been killed after result.json
    conclude(folder, "done", replaces=("running", "stopped", "failed"))
    tidy(folder, settings.keep)
    for key in changed_since(folder, settings):
        say(f"{label(folder)}  note: {key} has changed since; again=true makes the run anew")
    return result


def attempt(folder: Path, settings: Settings, bench: Bench, quiet: bool) -> dict[str, Any]:
    """Lock the folder, and make one attempt at the run.

    Args:
        folder: The folder of the run; it exists.
        settings: The config.
        bench: What `build` made of it.
        quiet: Whether to print no progress, as in a sweep.

    Raises:
        UserError: If another process has locked the folder, the run cannot resume here, there is
            no room for its files, or it diverged.
        Stopped: If a signal asked for it; a checkpoint of the last update is saved.
    """
    with lock_folder(folder):
        # which refuses a folder of another config
        if (result := finished(folder, settings)) is not None:
            return result  # another process was quicker
        remove_leftovers(folder)
        if settings.again:
            clear(folder)
        with recorded(folder, settings, bench) as status:
            result = Attempt(folder, settings, bench, status, quiet).run()
        checkpoint.tidy(folder, settings.keep)
        return result


class Attempt:
    """A run under way: what is read and written between its updates.

    Args:
        folder: The folder of the run, locked.
        settings: The config.
        bench: What `build` made of it.
        status: Told how far the run has come.
        quiet: Whether to print no progress.
    """

    def __init__(
        self, folder: Path, settings: Settings, bench: Bench, status: Status, quiet: bool
    ) -> None:
        self.folder, self.settings, self.bench = folder, settings, bench
        self.status, self.quiet = status, quiet
        self.training, self.updates_per_epoch = bench.training, len(bench.batches)
        self.machine = fingerprint(settings, self.training.device, self.training.model)
        self.environment = environment(bench, self.machine)
        self.changes: list[str] = []  # of the environment, since the run began
        self.start, self.first = time.perf_counter(), 0
        self.saved, self.cost = time.monotonic(), 0.0  # the last checkpoint, what writing it took
        self.seconds, self.images = 0.0, 0  # of training, since the last evaluation

    def run(self) -> dict[str, Any]:
        """Resume or start, train, and evaluate on the test set."""
        lines = self.resume()
        with RunLog(self.folder, lines, self.training.updates) as self.log:
            if not self.quiet and not lines:  # of a sweep it would be a page for each run
                self.log.text("config", (self.folder / CONFIG).read_text())
                given = self.bench.batches, self.training.micro_batch_size, self.training.classes
                sheet = Image.fromarray(first_sheet(*given).permute(1, 2, 0).numpy())
                self.log.pictures(0, {"images/train": encode(sheet)})
            self.train()
            return self.finish()

    def finish(self) -> dict[str, Any]:
        """Test the weights that `result` names, and write what is left of the run.

        result.json is the last file: a run that is killed before it does all of this again, to the
        same bits.
        """
        if self.settings.keep == "best":
            self.choice.write_best()
        with self.choice.chosen() as chosen:  # the weights that are tested are in the model
            result, found = evaluate_on_test(self.bench, self.settings, self.log.lines)
            result |= chosen
            tested = {key: value for key, value in result.items() if key.startswith("test/")}
            self.log.scalars(result["updates"], tested)
            write_predictions(self.folder, found)
            pictures = mistakes.write(self.folder, self.bench, found.logits)
            self.log.pictures(result["updates"], pictures)
            model_file.write(self.folder, self.settings, self.bench)
            return write_result(self.folder, result, found, self.log.lines)

    def resume(self) -> list[str]:
        """Restore the last checkpoint, if there is one; give back the log's lines of then."""
        lines, saved = list[str](), None
        self.status.update, self.status.checkpoint = 0, None
        if (state := checkpoint.load(self.folder)) is not None:
            self.changes = restore(self.folder, self.settings, self.bench, state, self.environment)
            lines = str(state.get("metrics", "")).splitlines(keepends=True)
            saved = state.get("best")
            self.first = self.status.update = self.status.checkpoint = self.training.updates
        self.choice = Choice(self.folder, self.settings, self.bench, lines, saved)
        self.print_start(resumed=state is not None)
        write_config(self.folder, self.settings)
        facts = {**self.machine, "data": self.environment["data"][:16]}
        changes = {"moves": self.changes} if self.changes else {}
        write_json(self.folder / MACHINE, {**facts, **changes}, lasts=False)
        return lines

    def print_start(self, resumed: bool) -> None:
        """Print what the run is about to do, in one line; in a sweep only where it resumes."""
        line = label(self.folder)
        if not self.quiet:
            line = f"{beginning(self.settings, self.bench, self.machine)} -> {line}"
        if resumed:
            line += f"  resuming at update {self.first} of {self.status.total}"
        if resumed or not self.quiet:
            say(printable(line))

    def train(self) -> None:
        """Train what is left; at the end of each epoch, evaluate and save when that is due.

        The last one may be cut short.
        """
        training, count, total = self.training, self.updates_per_epoch, self.status.total
        others = (path.parent for path in self.folder.parent.glob(f"seed=*/{STATUS}"))
        if not self.quiet or {*others} <= {self.folder}:  # once for the seeds of a sweep
            caveats = training.trick.caveats(total, count)
            for caveat in (*self.bench.notes, *caveats):
                say(f"{label(self.folder)}  note: {caveat}")
        try:
            with defer_signals():
                while training.updates < total and not self.choice.has_stopped:
                    epoch = training.updates // count
                    self.epoch(epoch)
                    done = epoch + 1 if training.updates % count == 0 else total / count
                    counts = epoch + (self.settings.last_evaluations or 1) >= -(-total // count)
                    if counts or done % self.settings.evaluate_every == 0:
                        self.evaluate(done, test=counts and training.updates < total)
                    is_last = training.updates >= total or self.choice.has_stopped
                    if is_last or self.must_save(at_end=True):
                        self.save()
        finally:
            self.status.update = training.updates
        if training.updates < total:
            self.status.stopped_early = self.choice.epoch
            self.status.write("running")
            if not self.quiet:
                say(f"{label(self.folder)}  {self.choice.why()}")

    def epoch(self, epoch: int) -> None:
        """Train what is left of an epoch; save in the middle of it when that is due."""
        training, count = self.training, self.updates_per_epoch
        start, last = training.updates % count, min(self.status.total, (epoch + 1) * count)
        begun = time.perf_counter()
        hidden = True if self.quiet else None  # None: shown on a terminal alone
        with tqdm(total=count, initial=start, disable=hidden, leave=False, unit="update") as bar:
            for batch in islice(self.bench.batches.epoch(epoch, start), last - training.updates):
                training.step(batch)
                self.images += len(batch.targets)
                bar.update()
                if self.must_save() and training.updates < last:  # else the evaluation is first
                    self.save()
            if training.device.type == "cuda":
                torch.cuda.synchronize()
            training.settle()
        self.seconds += time.perf_counter() - begun

    def evaluate(self, epoch: float, test: bool) -> None:
        """Evaluate on the validation split, and log all numbers since the last evaluation.

        Args:
            epoch: The epochs done.
            test: Whether to evaluate on the test set too; at the end `run` does so.
        """
        needed = test or len(self.bench.validation) > 0
        with self.training.evaluation() if needed else nullcontext():
            numbers = {
                **self.training.recent.take(),
                "train/skipped": self.training.skipped,
                **evaluate_on_validation(self.bench, self.settings.metrics),
                **({"test/accuracy": accuracy_on_test(self.bench)} if test else {}),
                "time/seconds": self.seconds,
                "time/images_per_second": self.images / self.seconds,
            }
            self.seconds, self.images = 0.0, 0
            self.log.write(epoch, self.training.updates, numbers)
            self.choice.add(self.log.lines[-1])
        if not self.quiet:
            updates, total = self.training.updates, self.status.total
            pace = (time.perf_counter() - self.start) / (updates - self.first)
            say(progress(self.settings, epoch, numbers, left=pace * (total - updates)))

    def must_save(self, at_end: bool = False) -> bool:
        """Whether the last checkpoint is old, or a signal asks to stop.

        Args:
            at_end: Whether an epoch has ended: there it is old when saving costs a hundredth of
                the time. So a short run saves after its first epoch and its last.
        """
        age, oldest = time.monotonic() - self.saved, self.settings.checkpoint_seconds
        return age >= (min(oldest, WORTH * self.cost) if at_end else oldest) or stop_requested()

    def save(self) -> None:
        """Save a checkpoint.

        Raises:
            Stopped: Afterwards, if a signal asks to stop.
        """
        content = {
            "training": self.training.state_dict(),
            "made_with": self.environment,
            "moves": self.changes,
            "metrics": "".join(self.log.lines),
            **self.choice.state_dict(),
        }
        begun = time.monotonic()
        flush_files(self.folder, FLUSHED_LATER)
        checkpoint.save(self.folder, content)
        self.status.checkpoint, self.saved = self.training.updates, time.monotonic()
        self.cost = self.saved - begun
        raise_if_stopping()
