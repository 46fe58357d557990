"""Hydra's sweeper of plain sweeps, which ends with their table, how many runs failed, and why."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from runner.names import OUTPUTS
from runner.report.end import show_sweep
from runner.sweep.composed import ComposedLauncher
from runner.sweep.failures import cause_in_words, exit_with_failures


class PlainSweeper(BasicSweeper):
    """Chosen by `-m`, where no other sweeper is."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands to a sweeper, with a launcher that reports failures itself."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.launcher = _Reporting(self.launcher, config)


class _Reporting(Launcher):
    """A launcher that ends the sweep with its table and all that failed; Hydra shows one error."""

    def __init__(self, launcher: Launcher, config: DictConfig) -> None:
        self.launcher, self.config = launcher, config

    def setup(self, **_: Any) -> None:  # noqa: ANN401
        """Nothing: it is."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Launch the jobs, and show what they gave.

        Raises:
            SystemExit: With how many failed and why, if some did.
        """
        ends = self.launcher.launch(job_overrides, initial_job_idx)
        names = (str((end.cfg or self.config).name) for end in ends)  # of Hydra's launchers
        if isinstance(self.launcher, ComposedLauncher):
            names = (run.name for run in self.launcher.runs)
        for name in dict.fromkeys(names):
            show_sweep(Path(OUTPUTS, name))
        failed = [e for e in ends if e.status is JobStatus.FAILED]
        causes = [cause_in_words(end._return_value) for end in failed]
        exit_with_failures(causes, len(ends), bool(self.config.again))
        return ends
