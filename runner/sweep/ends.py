"""What became of a composed run that another machine did, read from its folder alone."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from runner.auto import settle
from runner.config import check
from runner.errors import UserError
from runner.run.result import finished, objective, summary
from runner.run.resume import begun_with
from runner.run.status import conclude
from runner.store.packed import is_there
from runner.store.runs import RESULT, read_run, read_status
from runner.sweep.composed import folder_of
from runner.sweep.worker import STOPPED
from runner.texts import same_command

MOST = 64  # runs of a job whose ends are recorded at the same time
ENDED = ("done", "failed", "diverged")


def has_ended(config: DictConfig, before: Mapping[str, Any]) -> bool:
    """Whether a run has ended since its status was `before`, and all that it wrote is seen here."""
    folder = folder_of(config)
    status = read_status(folder)
    if status.get("status") == "done" and not is_there(folder / RESULT):
        os.scandir(folder).close()  # a network file system may show it later: it looks again
        return False
    return status.get("status") in ENDED and status != before


def record_ends(runs: Sequence[tuple[DictConfig, Mapping[str, Any]]], reason: str) -> None:
    """Record that runs were killed which could not do so themselves; each with its status before.

    At the same time: a folder that a machine locked which is gone is free after a while alone.
    """
    with ThreadPoolExecutor(MOST) as pool:
        for config, before in runs:
            pool.submit(conclude, folder_of(config), "failed", reason, before, cause="killed")


def is_done(config: DictConfig) -> bool:
    """Whether there is nothing to do; what is wrong with a run that is there, its job says."""
    if not config.get("again") and is_there(folder_of(config) / RESULT):
        with suppress(UserError):
            return _finished(config) is not None
    return False


def end_of(
    config: DictConfig, before: Mapping[str, Any], reason: str = ""
) -> tuple[JobReturn, str]:
    """Give back what became of a run, also in a line.

    Args:
        config: The run.
        before: Its status before it was sent.
        reason: What is recorded where the run has recorded nothing since.
    """
    folder = folder_of(config)
    if reason:
        conclude(folder, "failed", reason, before, cause="killed")
    run = read_run(folder, str(config.get("variant")))
    end = JobReturn(overrides=list(config.hydra.overrides.task), cfg=config)
    if run.state == "done" and run.result is not None:
        end.status, end.return_value = JobStatus.COMPLETED, objective(run.result)
        return end, summary(run.result)
    again = same_command(bool(config.get("again")))
    unknown = STOPPED.format(again) if run.state == "stopped" else reason
    text = str(run.damage or run.status.get("error") or unknown or "no reason is recorded").strip()
    end.status, end.return_value = JobStatus.FAILED, UserError(text)
    return end, f"{run.state}: {text.splitlines()[-1]}"


def refuse_other(end: JobReturn) -> None:
    """Have a run count as failed if it is done, but is of another config than was asked for."""
    if end.status is JobStatus.COMPLETED:
        try:
            _finished(end.cfg)
        except UserError as error:
            end.status, end.return_value = JobStatus.FAILED, error


def _finished(config: DictConfig | None) -> dict[str, Any] | None:
    """Give back the result of a run, if it is done.

    Raises:
        UserError: If its folder holds another run.
    """
    assert config is not None
    settings = check(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    folder = folder_of(config)
    return finished(folder, settle(settings, begun_with(folder)))
