"""A run under way: its updates, and what is read and written between them."""

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from runner.build import Bench
from runner.config import Settings
from runner.data.seen import first_sheet
from runner.names import label
from runner.ranks import WHOLE
from runner.run import checkpoint, mistakes, model_file
from runner.run.choice import Choice
from runner.run.fingerprint import fingerprint
from runner.run.lines import beginning, progress
from runner.run.log import RunLog, UnwrittenLog
from runner.run.result import (
    accuracy_on_test,
    evaluate_on_test,
    evaluate_on_validation,
    write_predictions,
    write_result,
)
from runner.run.resume import environment, restore
from runner.run.status import Status, write_config
from runner.signals import defer_signals, raise_stop, signal_to_stop
from runner.store.files import flush_files, write_json
from runner.store.runs import CONFIG, FLUSHED_LATER, MACHINE, STATUS
from runner.texts import printable, say
from runner.tiles import encode

WORTH = 100.0
"""At an epoch's end, the last checkpoint must be so many times as old as writing it took."""

SAVE = 1
"""The wish to save a checkpoint; a larger one is the number of a signal that asks to stop."""


class Course:
    """A run under way: what happens between its updates, as the first rank does it.

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
        self.ranks = bench.training.ranks
        self.machine = fingerprint(settings, self.training.device, self.training.model)
        self.environment = environment(bench, self.machine)
        self.changes: list[str] = []  # of the environment, since the run began
        self.start, self.first = time.perf_counter(), 0
        self.saved, self.cost = time.monotonic(), 0.0  # the last checkpoint, what writing it took
        self.seconds, self.images = 0.0, 0  # of training, since the last evaluation
        self.wished = 0  # by any rank: see `wish`

    def run(self) -> dict[str, Any]:
        """Resume or start, train, and evaluate on the test set."""
        with self.ranks.talking():
            self.ranks.refuse_differences(self.environment)
            lines = self.resume()
            with self.open_log(lines) as self.log:
                self.train()
                return self.finish()

    def open_log(self, lines: list[str]) -> RunLog:
        """Begin to log, after the lines of earlier attempts; at first what is trained on."""
        log = RunLog(self.folder, lines, self.training.updates)
        if not self.quiet and not lines:  # of a sweep it would be a page for each run
            log.text("config", (self.folder / CONFIG).read_text())
            whole, size = replace(self.bench.batches, parts=WHOLE), self.training.parts.size
            given = whole, size, self.training.classes
            sheet = Image.fromarray(first_sheet(*given).permute(1, 2, 0).numpy())
            log.pictures(0, {"images/train": encode(sheet)})
        return log

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
        state = self.ranks.from_first(partial(checkpoint.load, self.folder))
        if state is not None:
            self.changes = restore(self.folder, self.settings, self.bench, state, self.environment)
            lines = str(state.get("metrics", "")).splitlines(keepends=True)
            saved = state.get("best")
            self.first = self.status.update = self.status.checkpoint = self.training.updates
        self.choice = Choice(self.folder, self.settings, self.bench, lines, saved)
        self.announce(resumed=state is not None)
        return lines

    def announce(self, resumed: bool) -> None:
        """Write what the run is about to do; print it in one line, in a sweep if it resumes."""
        write_config(self.folder, self.settings)
        facts = {**self.machine, "data": self.environment["data"][:16]}
        changes = {"moves": self.changes} if self.changes else {}
        write_json(self.folder / MACHINE, {**facts, **changes}, lasts=False)
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
            with defer_signals(), self.ranks.talking():  # before a signal is obeyed
                while training.updates < total and not self.choice.has_stopped:
                    epoch = training.updates // count
                    self.epoch(epoch)
                    done = epoch + 1 if training.updates % count == 0 else total / count
                    counts = epoch + (self.settings.last_evaluations or 1) >= -(-total // count)
                    if counts or done % self.settings.evaluate_every == 0:
                        self.evaluate(done, test=counts and training.updates < total)
                    is_last = training.updates >= total or self.choice.has_stopped
                    self.wished = max(self.ranks.gather(self.wish_at_end()))
                    if self.wished or is_last:
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
                samples = self.bench.batches.samples(training.updates % count)
                training.step(batch, samples)
                self.images += samples
                bar.update()
                self.wished = self.ranks.agree(self.wish())
                if self.wished and training.updates < last:  # else the evaluation is first
                    self.save()
            if training.device.type == "cuda":
                torch.cuda.synchronize(training.device)
            training.settle()
        training.passes.refuse_drift(training.updates)
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

    def wish(self) -> int:
        """Give back the signal that asks to stop; `SAVE` if the last checkpoint is old; else 0."""
        age = time.monotonic() - self.saved
        return signal_to_stop() or SAVE * (age >= self.settings.checkpoint_seconds)

    def wish_at_end(self) -> int:
        """The same at the end of an epoch, where saving may cost a hundredth of the time.

        So a short run saves after its first epoch and its last.
        """
        age = time.monotonic() - self.saved
        return max(self.wished, self.wish(), SAVE * (age >= WORTH * self.cost))

    def save(self) -> None:
        """Save a checkpoint.

        Raises:
            Stopped: Afterwards, if a signal asks to stop; of several ranks all, or none.
        """
        self.training.passes.refuse_drift(self.training.updates)
        self.write_checkpoint()
        self.ranks.take_as_done()
        self.saved, wished, self.wished = time.monotonic(), self.wished, 0
        number = wished if self.ranks.count > 1 else signal_to_stop()
        if number > SAVE:
            raise_stop(number)

    def write_checkpoint(self) -> None:
        """Write a checkpoint of the last update."""
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
        self.status.checkpoint, self.cost = self.training.updates, time.monotonic() - begun


class Follower(Course):
    """The same as another rank than the first does it: it trains and evaluates, and writes nothing.

    It comes to the same decisions, since it has the same numbers.
    """

    def announce(self, resumed: bool) -> None:
        """Leave it to the first rank."""

    def open_log(self, lines: list[str]) -> RunLog:
        """Keep the lines, by which the best weights are chosen."""
        return UnwrittenLog(lines)

    def wish_at_end(self) -> int:
        """Leave it to the first rank when to save; stop as a signal asks."""
        return max(self.wished, signal_to_stop())

    def write_checkpoint(self) -> None:
        """Leave it to the first rank."""

    def finish(self) -> dict[str, Any]:
        """Test this rank's part of the test set."""
        with self.choice.chosen() as chosen:
            return evaluate_on_test(self.bench, self.settings, self.log.lines)[0] | chosen
