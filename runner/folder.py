"""The folder of a run: whose it is, who holds it, what has become of it."""

import os
import platform
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from runner import checkpoint
from runner.compose import flatten
from runner.config import Settings
from runner.errors import UserError
from runner.files import read_json, write_json
from runner.memory import peak, reset_peak
from runner.runs import CORRECT, MACHINE, METRICS, RESULT, STATUS
from runner.train import Diverged

CONFIG = "config.yaml"


def finished(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """Give back the result of a finished run; None for a new or a stopped one.

    Raises:
        UserError: If the folder holds a run with another config.
    """
    if not (folder / CONFIG).exists():
        return None
    saved = dict(flatten(OmegaConf.to_container(OmegaConf.load(folder / CONFIG))))
    ours = dict(flatten(settings.to_dict()))
    if differing := [key for key in {**saved, **ours} if saved.get(key) != ours.get(key)]:
        listed = ", ".join(f"{k} is {saved.get(k)}, not {ours.get(k)}" for k in differing[:5])
        raise UserError(
            f"{label(folder)} must be a run of this config, got one where {listed}. "
            "Give this one a name of its own (name=NAME), or remove that folder."
        )
    return read_json(folder / RESULT)


def label(folder: Path) -> str:
    """Write a run's folder as short as it can be told: from here, if it lies below."""
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the folder; the lock dies with its owner."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        status = read_json(folder / STATUS) or {}
        raise UserError(
            f"{label(folder)} must be free, got held by process {status.get('process')} on "
            f"{status.get('host')}. Wait for it, or stop it."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def tracked(folder: Path, device: torch.device) -> Iterator[None]:
    """Keep status.json true to what happens within, and what it takes in time and memory."""
    before = _told(folder)
    entry = {
        "attempts": before.get("attempts", 0) + 1,
        "process": os.getpid(),
        "host": platform.node(),
    }
    start = time.time()
    reset_peak(device)

    def write(status: str, error: str | None = None) -> None:
        seconds = before.get("seconds", 0.0) + time.time() - start
        cost = {"seconds": seconds, "peak_memory": peak(device)}
        write_json(folder / STATUS, {"status": status, **entry, **cost, "error": error})

    write("running")
    try:
        yield
    except Diverged as error:
        write("diverged", str(error))
        raise UserError(
            f"{label(folder)} diverged: {error}. Lower optimizer.lr, clip the gradients with "
            "'tricks=[clipping]', or leave such updates out with not_finite=skip."
        ) from error
    # a trick's, about its first batch; torch's, about a model and images that do not fit
    except (ValueError, RuntimeError, TypeError) as error:
        write("failed", traceback.format_exc())
        told = " ".join(str(error).split())
        raise UserError(f"{told} ({label(folder / STATUS)} has the traceback.)") from error
    except KeyboardInterrupt:
        write("stopped")
        print(f"\n{label(folder)} stopped; the same command, without again=true, goes on.")
        raise
    except BaseException:
        write("failed", traceback.format_exc())
        raise
    write("done")


def conclude(folder: Path, status: str, error: str | None, since: float = 0.0) -> None:
    """Record what became of a run that could not do so itself: killed, timed out, never begun.

    A run that told its own end, or that another process holds, is left as it is.

    Args:
        folder: The folder of the run.
        status: What became of it.
        error: Why, in full.
        since: When it was begun; what it told before that is of an earlier attempt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = _told(folder)
    told, path = before.get("status", "running"), folder / STATUS
    if told in ("done", "diverged"):
        return
    if told != "running" and path.stat().st_mtime >= since:
        return
    with suppress(UserError), owned(folder):
        write_json(folder / STATUS, {**before, "status": status, "error": error})


def _told(folder: Path) -> dict[str, Any]:
    """What status.json says; nothing if it is damaged, for it is about to be written anew."""
    try:
        return read_json(folder / STATUS) or {}
    except UserError:
        return {}


def clear(folder: Path) -> None:
    """Remove a run's own files, and nothing else; the config last, which tells whose they are."""
    own = (RESULT, *checkpoint.FILES, METRICS, CORRECT, STATUS, MACHINE)
    for path in (*(folder / name for name in own), *folder.glob("events.out.tfevents.*")):
        path.unlink(missing_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Take back the folders that Hydra made before the config was checked."""
    with suppress(OSError):
        for path in (folder, folder.parent, folder.parent.parent):
            path.rmdir()
