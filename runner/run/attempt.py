"""One attempt at a run: from its last checkpoint, or from nothing, to its result."""

import dataclasses
import os
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from runner.auto import AUTO, decide, is_open, settle
from runner.build import Bench, build, build_data
from runner.config import Settings
from runner.cores import usable_cores
from runner.heap import keep_freed
from runner.names import flatten, label
from runner.ranks import Ranks, joined
from runner.run import checkpoint
from runner.run.course import Course, Follower
from runner.run.process import isolated
from runner.run.result import changed_since, finished
from runner.run.resume import begun_with, device_begun_with
from runner.run.status import Status, clear, conclude, recorded, tidy
from runner.store.files import remove_leftovers
from runner.store.lock import lock_folder
from runner.texts import say


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
    keep_freed()
    with isolated(), joined() as ranks:
        if ranks.is_first:
            return _resume_or_run(folder, settings, quiet, ranks)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            return _resume_or_run(folder, settings, True, ranks)


def _resume_or_run(folder: Path, given: Settings, quiet: bool, ranks: Ranks) -> dict[str, Any]:
    ranks.together(lambda: None)  # another one may have found a mistake in its config
    ranks.refuse_differences(dict(flatten(dataclasses.asdict(given))))
    settings = ranks.from_first(
        lambda: settle(_as_restarted(given, folder, ranks), begun_with(folder))
    )
    if (result := ranks.from_first(lambda: finished(folder, settings))) is None:
        device = ranks.from_first(lambda: device_begun_with(folder, settings))
        usable = range(usable_cores() + 1)
        moved = given.threads == AUTO and settings.threads not in (AUTO, *usable)
        kept = [f"threads={settings.threads}"] * moved
        kept += [f"device={device}"] * (device != settings.device)
        if kept:
            say(f"{label(folder)}  resumes with {' and '.join(kept)}, as it was begun")
        here = dataclasses.replace(settings, device=device)
        data = ranks.together(lambda: build_data(here)) if is_open(here) else None
        here = ranks.from_first(lambda: decide(here, data)) if data else here
        chosen = dataclasses.replace(here, device=settings.device)
        return attempt(folder, chosen, ranks.together(lambda: build(here, data, ranks)), quiet)
    if ranks.is_first:
        # it may have been killed after result.json
        conclude(folder, "done", replaces=("running", "stopped", "failed"))
        tidy(folder, settings.keep)
    for key in changed_since(folder, settings):
        say(f"{label(folder)}  note: {key} has changed since; again=true makes the run anew")
    return result


def _as_restarted(given: Settings, folder: Path, ranks: Ranks) -> Settings:
    """Give back the settings, without `again` where ranks before these have begun the run anew.

    Torchrun has started these in their place, and they go on.
    """
    is_begun = ranks.words is not None and ranks.words.is_kept(_begun_anew(folder))
    return dataclasses.replace(given, again=given.again and not is_begun)


def _begun_anew(folder: Path) -> str:
    return f"begun anew: {folder.resolve()}"


def attempt(folder: Path, settings: Settings, bench: Bench, quiet: bool) -> dict[str, Any]:
    """Lock the folder, and make one attempt at the run; ranks but the first leave it alone.

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
    ranks, known = bench.training.ranks, partial(finished, folder, settings)
    if not ranks.is_first:
        if (result := ranks.from_first(known)) is not None:
            return result
        total = settings.updates(len(bench.batches))
        status = Status(None, bench.training.device, total)
        return Follower(folder, settings, bench, status, quiet).run()
    with lock_folder(folder):
        # which refuses a folder of another config
        if (result := ranks.from_first(known)) is not None:
            return result  # another process was quicker
        remove_leftovers(folder)
        if settings.again:
            clear(folder)
            if ranks.words is not None:
                ranks.words.keep(_begun_anew(folder))
        with recorded(folder, settings, bench) as status:
            result = Course(folder, settings, bench, status, quiet).run()
        checkpoint.tidy(folder, settings.keep)
        return result
