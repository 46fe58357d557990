"""What became of a composed run that another machine did, read from its folder alone."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from runner.auto import settle
from runner.config import check
from runner.errors import UserError
from runner.run.result import finished, objective, summary
from runner.run.resume import begun_with
from runner.run.status import conclude
from runner.store.packed import is_there
from runner.store.runs import RESULT, read_run, read_status
from runner.sweep.composed import Composed
from runner.sweep.worker import STOPPED
from runner.texts import same_command

MOST = 64  # runs of a job whose ends are recorded at the same time
ENDED = ("done", "failed", "diverged")


def has_ended(run: Composed, before: Mapping[str, Any]) -> bool:
    """Whether a run has ended since its status was `before`, and all that it wrote is seen here."""
    status = read_status(run.folder)
    if status.get("status") == "done" and not is_there(run.folder / RESULT):
        os.scandir(run.folder).close()  # a network file system may show it later: it looks again
        return False
    return status.get("status") in ENDED and status != before


def record_ends(runs: Sequence[tuple[Composed, Mapping[str, Any]]], reason: str) -> None:
    """Record that runs were killed which could not do so themselves; each with its status before.

    At the same time: a folder that a machine locked which is gone is free after a while alone.
    """
    with ThreadPoolExecutor(MOST) as pool:
        for run, before in runs:
            pool.submit(conclude, run.folder, "failed", reason, before, cause="killed")


def is_done(run: Composed) -> bool:
    """Whether there is nothing to do; what is wrong with a run that is there, its job says."""
    if not run.again and is_there(run.folder / RESULT):
        with suppress(UserError):
            return _finished(run) is not None
    return False


def end_of(
    composed: Composed, before: Mapping[str, Any], reason: str = ""
) -> tuple[JobReturn, str]:
    """Give back what became of a run, also in a line.

    Args:
        composed: The run.
        before: Its status before it was sent.
        reason: What is recorded where the run has recorded nothing since.
    """
    if reason:
        conclude(composed.folder, "failed", reason, before, cause="killed")
    run = read_run(composed.folder, composed.variant)
    end = JobReturn(overrides=composed.overrides)
    if run.state == "done" and run.result is not None:
        end.status, end.return_value = JobStatus.COMPLETED, objective(run.result)
        return end, summary(run.result)
    again = same_command(composed.again)
    unknown = STOPPED.format(again) if run.state == "stopped" else reason
    text = str(run.damage or run.status.get("error") or unknown or "no reason is recorded").strip()
    end.status, end.return_value = JobStatus.FAILED, UserError(text)
    return end, f"{run.state}: {text.splitlines()[-1]}"


def refuse_other(end: JobReturn, run: Composed) -> None:
    """Have a run count as failed if it is done, but is of another config than was asked for."""
    if end.status is JobStatus.COMPLETED:
        try:
            _finished(run)
        except UserError as error:
            end.status, end.return_value = JobStatus.FAILED, error


def _finished(run: Composed) -> dict[str, Any] | None:
    """Give back the result of a run, if it is done.

    Raises:
        UserError: If its folder holds another run.
    """
    config = run.config()
    settings = check(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    return finished(run.folder, settle(settings, begun_with(run.folder)))
