"""A run's folder: whose it is, by config.yaml, and what became of the run, by status.json."""

import dataclasses
import os
import platform
import shlex
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from runner.build import Bench
from runner.config import Settings
from runner.errors import UserError, cause_of
from runner.names import flatten, label
from runner.run import checkpoint
from runner.run.memory import peak, reset_peak
from runner.signals import Stopped
from runner.store.files import FORMAT, Damaged, checked, remove_leftovers, write_json, write_text
from runner.store.identity import ADDED, NOT_IN_CONFIG_HASH, renamed, without_later_tricks
from runner.store.lock import lock_folder
from runner.store.packed import is_packed
from runner.store.runs import CONFIG, STATUS, WRITTEN, read_run, read_status
from runner.store.values import dump_values, read_values
from runner.texts import in_one_line, same_command, say
from runner.train import Diverged


def is_run_of(folder: Path, settings: Settings) -> bool:
    """Whether the folder holds this run; False if it holds none.

    Raises:
        UserError: If it holds a run with another config, with what differs.
    """
    try:
        found = flatten(renamed(without_later_tricks(checked(read_values(folder / CONFIG)))))
        saved = {k: v for k, v in found if k not in ("format", *NOT_IN_CONFIG_HASH)}
    except FileNotFoundError:
        return False
    except Damaged as error:
        raise UserError(
            f"{label(folder / CONFIG)} {error}. Put it back as it was, or remove that folder."
        ) from None
    given = dict(flatten(without_later_tricks(settings.to_dict())))
    before = {**ADDED, **saved}
    if differing := [key for key in {**saved, **given} if before.get(key) != given.get(key)]:
        listed = ", ".join(f"{k} is {saved.get(k)}, not {given.get(k)}" for k in differing[:5])
        raise UserError(
            f"{label(folder)} holds a run of another config: {listed}. Give this one a name of "
            f"its own (name=NAME), or remove that folder. That run itself: {command(folder)}"
        )
    return True


def command(folder: Path, *more: str) -> str:
    """Write the command for the run of a folder alone, whatever command it was begun with."""
    return " ".join(("python -m runner -cp", shlex.quote(label(folder)), "-cn config", *more))


def write_config(folder: Path, settings: Settings) -> None:
    """Write config.yaml: the whole run, resolved, with the number of its format.

    The settings that change no bit are there with their defaults, so that -cp can change them.
    """
    usual = {f.name: f.default for f in dataclasses.fields(Settings)}
    rest = {key: usual[key] for key in NOT_IN_CONFIG_HASH}
    content = {"format": FORMAT, **settings.to_dict(), **rest}
    write_text(folder / CONFIG, dump_values(content), lasts=False)


class Status:
    """The status.json of one attempt, with what it takes in time and memory.

    Args:
        folder: The folder of the run; what earlier attempts recorded there is counted in. None to
            write nothing.
        device: The device of the run.
        total: The updates of the whole run.
    """

    def __init__(self, folder: Path | None, device: torch.device, total: int) -> None:
        before = read_status(folder) if folder else {}
        self.path = folder / STATUS if folder else None
        self.device, self.total = device, total
        self.update: int = before.get("update", 0)
        self.checkpoint: int | None = before.get("checkpoint")
        self.attempts: int = before.get("attempts", 0) + 1
        self.stopped_early: float | None = None
        """The epochs after which it stopped, if it did before the end."""
        self.start = time.monotonic() - before.get("seconds", 0.0)
        reset_peak(device)

    def write(self, status: str, error: str | None = None, cause: str | None = None) -> None:
        """Write the file; a cause is one of `CAUSES`."""
        if self.path is None:
            return
        content: dict[str, Any] = {
            "status": status,
            "attempts": self.attempts,
            "process": os.getpid(),
            "host": platform.node(),
            "seconds": time.monotonic() - self.start,
            "peak_memory": peak(self.device),
        }
        if status != "running":
            content |= {"update": self.update, "checkpoint": self.checkpoint}
        if self.stopped_early is not None:
            content["stopped_early"] = self.stopped_early
        ended = {"error": error, "cause": cause}
        write_json(self.path, {**content, **ended}, lasts=status != "running")

    def end(self, status: str, error: str | None = None, cause: str | None = None) -> None:
        """Write the file, if there is room: a full disk must not hide why the run ended."""
        with suppress(UserError):
            self.write(status, error, cause)

    def last_checkpoint(self) -> str:
        """Write which update the last checkpoint is from."""
        if self.checkpoint is None:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is from update {self.checkpoint}"

    def stopped(self) -> str:
        """Write how far a run got that was stopped."""
        if self.checkpoint == self.update:
            return f"Stopped and saved at update {self.update} of {self.total}."
        return f"Stopped at update {self.update} of {self.total}; {self.last_checkpoint()}."


@contextmanager
def recorded(folder: Path, settings: Settings, bench: Bench) -> Iterator[Status]:
    """Record in status.json how an attempt goes and ends; errors leave as one line."""
    status = Status(folder, bench.training.device, settings.updates(len(bench.batches)))
    status.write("running")
    try:
        yield status
    except Diverged as error:
        what = f"{error}; {status.last_checkpoint()}"
        status.end("diverged", what)
        raise UserError(f"{label(folder)} diverged: {what}. {_advice(settings)}") from error
    except UserError as error:
        status.end("failed", str(error), cause_of(error))
        raise
    # a trick's, about its first batch; a model's, about images that it does not take
    except Exception as error:
        status.end("failed", traceback.format_exc(), cause_of(error))
        where = f"({label(folder / STATUS)} has the traceback.)"
        raise UserError(f"{in_one_line(error)} {where}") from error
    except (KeyboardInterrupt, Stopped):
        status.end("stopped")
        how = same_command(settings.again)
        say(f"\n{label(folder)}  {status.stopped()} Give {how} to go on.")
        raise
    except BaseException as error:
        status.end("failed", traceback.format_exc(), cause_of(error))
        raise
    status.write("done")


def _advice(settings: Settings) -> str:
    """Write what a run that diverged has not tried yet."""
    clipped = settings.tricks.get("clipping", {}).get("enabled")
    clip = "" if clipped else ", or clip the gradients with 'tricks=[clipping]'"
    skip = ", or skip such updates with not_finite=skip" if settings.not_finite == "error" else ""
    return f"Lower optimizer.lr{clip}{skip}."


def conclude(
    folder: Path,
    status: str,
    error: str | None = None,
    before: Mapping[str, Any] | None = None,
    replaces: Sequence[str] = ("running",),
    cause: str | None = None,
) -> None:
    """Record the end of a run that could not do so itself: killed, timed out, or never begun.

    A run that recorded its own end, or that another process has locked, is left as it is, and so
    is one that is packed.

    Args:
        folder: The folder of the run.
        status: What became of it.
        error: Why, in full.
        before: What `read_status` gave before this attempt; unchanged, it is no end of this one.
        replaces: The statuses of this attempt that are no end.
        cause: One of `CAUSES`, where it failed.
    """
    if is_packed(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(UserError), lock_folder(folder):
        remove_leftovers(folder)
        found = read_status(folder)
        state = found.get("status", "running")
        if state not in ("done", "diverged") and (state in replaces or found == before):
            ended = {"status": status, "error": error, "cause": cause}
            write_json(folder / STATUS, {**found, **ended})


def tidy(folder: Path, keep: str) -> None:
    """Remove what a finished run does not keep, if it was killed before it could do so itself.

    A run that is not finished is left as it is, and so is a folder that cannot be written.
    """
    if checkpoint.surplus(folder, keep) and read_run(folder, "").result is not None:
        with suppress(UserError, OSError), lock_folder(folder):
            checkpoint.tidy(folder, keep)


def clear(folder: Path) -> None:
    """Remove a run's own files, and nothing else; the config last, which says whose they are."""
    *others, last = (folder / name for name in WRITTEN)
    for path in (*others, *folder.glob("events.out.tfevents.*"), last):
        path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Take back the folders that Hydra made before the config was checked."""
    with suppress(OSError):
        for path in (folder, folder.parent, folder.parent.parent):
            path.rmdir()
