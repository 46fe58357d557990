"""The folder of a run: whose it is, who holds it, what has become of it."""

import os
import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from runner.config import NOT_IN_CONFIG_HASH, Settings
from runner.errors import UserError
from runner.names import flatten, label
from runner.run import checkpoint
from runner.run.memory import peak, reset_peak
from runner.signals import Stopped
from runner.store.files import (
    FORMAT,
    Damaged,
    parse_yaml,
    read_json,
    write_json,
    write_text,
)
from runner.store.lock import lock_folder
from runner.store.runs import CORRECT, MACHINE, METRICS, RESULT, STATUS, read_status
from runner.texts import say
from runner.train import Diverged

CONFIG = "config.yaml"


def finished(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """Give back the result of a finished run; None for a new or a stopped one.

    Raises:
        UserError: If the folder holds a run with another config.
    """
    saved = _saved_config(folder)
    if saved is None:
        return None
    ours = dict(flatten(settings.to_dict()))
    if differing := [key for key in {**saved, **ours} if saved.get(key) != ours.get(key)]:
        listed = ", ".join(f"{k} is {saved.get(k)}, not {ours.get(k)}" for k in differing[:5])
        if differing == ["threads"]:  # which `auto` takes from the cores that are here
            listed += f"; to go on with it, give threads={saved.get('threads')}"
        raise UserError(
            f"{label(folder)} must be a run of this config, got one where {listed}. "
            "Give this one a name of its own (name=NAME), or remove that folder."
        )
    return None if settings.again else _read_result(folder / RESULT)


def _read_result(path: Path) -> dict[str, Any] | None:
    """Read a result, which has at least what a line about it tells."""
    result = read_json(path)
    told = ("test/accuracy", "test/loss", "test/shift_consistency")
    numbers = [result.get(key) for key in told] if result else []
    names = result.get("inactive") if result else []
    if not all(isinstance(n, float) and isfinite(n) for n in numbers) or not _is_names(names):
        raise UserError(
            f"{label(path)} must be the result of a run, got something else. Remove that file "
            "and give the same command: the run goes on from its checkpoint."
        )
    return result


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v.isidentifier() for v in value)


def _saved_config(folder: Path) -> dict[str, Any] | None:
    """The config of the run that lies there, by dotted keys, without what changes no bit of it."""
    try:
        saved = dict(flatten(parse_yaml(folder / CONFIG)))
    except FileNotFoundError:
        return None
    except Damaged as error:
        raise UserError(
            f"{label(folder / CONFIG)} must be the config of a run, got one that {error}. "
            "Put it back as it was, or remove that folder."
        ) from None
    return {
        key: value for key, value in saved.items() if key not in ("format", *NOT_IN_CONFIG_HASH)
    }


def write_config(folder: Path, settings: Settings) -> None:
    """Write config.yaml: the whole run, resolved, with the number of its format."""
    content = {"format": FORMAT, **settings.to_dict()}
    write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(content)))


@dataclass
class Progress:
    """How far an attempt has come, as status.json tells it."""

    update: int = 0
    checkpoint: int | None = None
    """The update of the last good checkpoint."""

    def __str__(self) -> str:
        if self.checkpoint is None:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is of update {self.checkpoint}"


@contextmanager
def tracked(folder: Path, device: torch.device) -> Iterator[Progress]:
    """Keep status.json true to what happens within, and what it takes in time and memory."""
    before = read_status(folder)
    progress = Progress(before.get("update", 0), before.get("checkpoint"))  # until one is read
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
        come = {} if status == "running" else vars(progress)
        write_json(folder / STATUS, {"status": status, **entry, **cost, **come, "error": error})

    def end(status: str, error: str | None = None) -> None:
        with suppress(UserError):  # a full disk must not hide why the run ended
            write(status, error)

    write("running")
    try:
        yield progress
    except Diverged as error:
        told = f"{error}; {progress}"
        end("diverged", told)
        raise UserError(
            f"{label(folder)} diverged: {told}. Lower optimizer.lr, clip the gradients with "
            "'tricks=[clipping]', or leave such updates out with not_finite=skip."
        ) from error
    except UserError as error:
        end("failed", str(error))
        raise
    # a trick's, about its first batch; torch's, about a model and images that do not fit
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        end("failed", traceback.format_exc())
        told = " ".join(str(error).split())
        raise UserError(f"{told} ({label(folder / STATUS)} has the traceback.)") from error
    except (KeyboardInterrupt, Stopped):
        end("stopped")
        say(f"\n{label(folder)} stopped at update {progress.update}; {progress}.")
        say("The same command, without again=true, goes on.")
        raise
    except BaseException:
        end("failed", traceback.format_exc())
        raise
    write("done")


def conclude(
    folder: Path,
    status: str,
    error: str | None,
    since: float = 0.0,
    ours: Sequence[str] = ("running",),
) -> None:
    """Record what became of a run that could not do so itself: killed, timed out, never begun.

    A run that told its own end, or that another process holds, is left as it is.

    Args:
        folder: The folder of the run.
        status: What became of it.
        error: Why, in full.
        since: When it was begun; what it told before that is of an earlier attempt.
        ours: What it may have told since then that this takes the place of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = read_status(folder)
    told, path = before.get("status", "running"), folder / STATUS
    if told in ("done", "diverged"):
        return
    if told not in ours and path.stat().st_mtime >= since:
        return
    with suppress(UserError), lock_folder(folder):
        write_json(folder / STATUS, {**before, "status": status, "error": error})


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
