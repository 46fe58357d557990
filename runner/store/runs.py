"""Runs as their files tell them: read, never executed; also while they are still being written."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.names import flatten
from runner.store.answers import (
    Answers,
    Predictions,
    digest_answers,
    digest_predictions,
    read_answers,
    read_predictions,
)
from runner.store.files import Damaged, checked, digest, read_bytes, read_json
from runner.store.identity import digest_config, renamed
from runner.store.packed import CONFIG as CONFIG
from runner.store.packed import problem
from runner.store.values import read_values

RESULT, STATUS, MACHINE = "result.json", "status.json", "run.json"
METRICS, CORRECT = "metrics.jsonl", "correct.npy"
MISTAKES_TAG, CONFUSION_TAG = "images/mistakes", "images/confusion"  # in TensorBoard
PREDICTIONS, MISTAKES = "predictions.npz", "mistakes.png"
MODEL, BEST = "model.pt", "best.pt"
CHECKPOINTS = "checkpoint.pt", "checkpoint.before.pt", "checkpoint.new.pt"
"""The last one, the one before it, and one that was not renamed yet."""
WRITTEN = (
    *(RESULT, *CHECKPOINTS, METRICS, CORRECT, PREDICTIONS, MISTAKES, MODEL, BEST),
    *(STATUS, MACHINE, CONFIG),
)
"""The files that a run writes, beside TensorBoard's: as they are removed, the last says whose."""
FLUSHED_LATER = (CONFIG, STATUS, MACHINE, METRICS, CORRECT, PREDICTIONS, MISTAKES)
"""The files that a run flushes to the disk together, before a checkpoint and before its result."""
CAUSES = ("exception", "killed", "timeout", "machine")
"""What makes a run fail; the last three are no fault of what is being tried."""
MOST_BYTES = 2**28  # that are read of either
LARGEST = 3e38  # about what a 32-bit float holds; a larger number is no measurement


@dataclass(frozen=True)
class Run:
    """The files of one run; the larger ones are read when they are asked for."""

    folder: Path
    variant: str
    seed: str
    """As the folder is called: `0`, or `2` of `seed=2`."""
    status: dict[str, Any]
    """{} if status.json is missing or damaged."""
    result: dict[str, Any] | None
    """None if the run is not done, or result.json is missing or damaged."""
    damage: str | None
    """What could not be read, in words; None if all could."""
    foreign: bool = False
    """Whether it is of another config than the plan has; then nothing that it measured counts."""
    elsewhere: bool = False
    """Whether its folder is a link out of the sweep's; nothing of it is read."""

    @property
    def state(self) -> str:
        """`done`, `running`, `stopped`, `failed`, `diverged`; `damaged` if it is unknown."""
        if self.result is not None:
            return "done"
        found = str(self.status.get("status", "damaged"))
        return "damaged" if found == "done" or self.damage else found

    @property
    def cause(self) -> str | None:
        """What made it fail; None if it did not, or is of a version that did not record it.

        `exception`: its own code, or the config. `killed`: a signal, or the process is gone.
        `timeout`: the launcher's. `machine`: too little memory or room, or another card or library.
        """
        found = self.status.get("cause")
        return found if self.state == "failed" and found in CAUSES else None

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Its evaluations.

        Raises:
            Damaged: If they cannot be read, or are not those that the run ended with.
        """
        if self.foreign:
            raise Damaged(str(self.damage))
        if self.elsewhere:
            return []
        lines = read_metrics(self.folder)
        self._refuse_others(METRICS, digest_metrics(lines))
        return lines

    def forget(self) -> None:
        """Drop the evaluations that were read: of many runs they take much memory."""
        vars(self).pop("metrics", None)

    @cached_property
    def machine(self) -> dict[str, Any]:
        """run.json: with what it was made."""
        return {} if self.elsewhere else read_json(self.folder / MACHINE)[0] or {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml by dotted keys; {} if it cannot be read, or is not that of the run."""
        if self.elsewhere:
            return {}
        try:
            content = checked(read_values(self.folder / CONFIG))
        except (Damaged, FileNotFoundError):
            return {}
        content.pop("format", None)
        try:
            is_own = self.machine.get("config") == digest_config(content)
            return dict(flatten(renamed(content))) if is_own else {}
        except (TypeError, ValueError):  # such as a date, which is no JSON
            return {}

    def correct(self) -> Answers | None:
        """[N] bool: which test samples were answered right; None if that cannot be read."""
        if self.elsewhere:
            return None
        try:
            found = read_answers(self.folder / CORRECT)
            self._refuse_others(CORRECT, digest_answers(found))
        except Exception:  # one made by hand can fail in any way
            return None
        return found

    def predictions(self) -> Predictions | None:
        """Logits float32 [N, K] and labels int64 [N] of the test split, in its order.

        None if they cannot be read, or the run is of a version that did not write them.
        """
        if self.elsewhere:
            return None
        try:
            found = read_predictions(self.folder / PREDICTIONS)
            self._refuse_others(PREDICTIONS, digest_predictions(*found))
        except Exception:  # one made by hand can fail in any way
            return None
        return found

    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes; None if they are not recorded, as of more than 1000."""
        found = (self.result or {}).get("classes")
        known = isinstance(found, list) and all(isinstance(name, str) for name in found)
        return tuple(found) if isinstance(found, list) and known else None

    def _refuse_others(self, name: str, found: str) -> None:
        """Compare a file with the digest that result.json has of it; older ones have none."""
        digests = (self.result or {}).get("digests")
        if isinstance(digests, dict) and digests.get(name, found) != found:
            raise Damaged(f"{name} is damaged (it is not the one that {RESULT} tells of)")


def digest_metrics(lines: Iterable[dict[str, Any]]) -> str:
    """Give back a hash of evaluations, without the time that they took."""
    kept = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]
    return digest({"lines": kept})


def read_run(folder: Path, variant: str) -> Run:
    """Read a run's folder; what is missing or damaged is reported in it, not raised."""
    seed = folder.name.partition("=")[2]
    if leads_out(folder):
        outside = "its folder is a link out of here"
        return Run(folder, variant, seed, {}, None, outside, elsewhere=True)
    if unread := problem(folder):
        return Run(folder, variant, seed, {}, None, unread)
    status, broken = read_json(folder / STATUS)
    result, cut = read_json(folder / RESULT)
    damage = "; ".join(text for text in (broken, cut) if text) or None
    return Run(folder, variant, seed, status or {}, result, damage)


def leads_out(folder: Path) -> bool:
    """Whether the folder of a run, or of its variant, is a link to what is not of its sweep."""
    if not folder.is_symlink() and not folder.parent.is_symlink():
        return False
    try:
        return not folder.resolve().is_relative_to(folder.parent.parent.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return True


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the evaluations of a run; a last line cut short by a crash is left out.

    Raises:
        Damaged: If a line cannot be read, or is of a newer format.
    """
    try:
        *lines, _ = read_bytes(folder / METRICS, MOST_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    except Damaged as error:
        raise Damaged(f"{METRICS} {error}") from error
    return [read_line(line, f"{METRICS}, line {n}") for n, line in enumerate(lines, start=1)]


def read_line(line: str | bytes, where: str) -> dict[str, Any]:
    """Read one line of metrics.jsonl.

    Raises:
        Damaged: If it is no evaluation, or is of a newer format.
    """
    try:
        content = checked(json.loads(line))
        content.pop("format", None)
        epoch = content["epoch"]
        known = isinstance(epoch, int) or number(epoch) is not None
        if not (known and isinstance(content["update"], int)):
            raise Damaged("has no number of epochs, or no whole number of updates")
    except (ValueError, LookupError, RecursionError) as error:
        problem = str(error) if isinstance(error, Damaged) else f"is damaged ({error})"
        raise Damaged(f"{where} {problem}") from error
    return content


def read_status(folder: Path) -> dict[str, Any]:
    """Read status.json; {} if it is missing or damaged, since it is about to be written again."""
    status = read_json(folder / STATUS)[0] or {}
    numbers = {"attempts": int, "seconds": int | float, "update": int, "checkpoint": int | None}
    sound = all(isinstance(status[key], kind) for key, kind in numbers.items() if key in status)
    return status if sound else {}


def number(value: object) -> float | None:
    """Give back a value from a file if it is a usable number, else None.

    It is finite, and small enough to be squared, drawn, and shown by TensorBoard.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        return None
    return float(value)


def evaluations(run: Run) -> list[dict[str, Any]]:
    """Give back the evaluations of a run; none if the file is damaged."""
    try:
        return run.metrics
    except Damaged:
        return []
