"""What our launchers have in common: the runs are composed, before the first of them begins."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from runner.signals import stoppable
from runner.texts import say


def folder_of(config: DictConfig) -> Path:
    """Give back the folder of a composed run."""
    return Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))


class ComposedLauncher(Launcher):
    """A launcher of ours; `_launch` does the runs in `self.configs`."""

    configs: Sequence[DictConfig] = ()
    show: Callable[[str], None] | None = None
    """Prints the lines of a run that has ended; None: after how many have."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands to a launcher before it is used."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def check(self) -> None:
        """Refuse what cannot be, before anything is planned."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Compose the runs, and do them; give back what became of each.

        Ctrl-C, or a scheduler's signal, stops every run after its update, with a checkpoint; a
        second Ctrl-C ends them at once.
        """
        with stoppable():
            numbered = enumerate(job_overrides, initial_job_idx)
            self.configs = [self._compose(list(overrides), n) for n, overrides in numbered]
            return self._launch()

    def _launch(self) -> Sequence[JobReturn]:
        raise NotImplementedError

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return config

    def _show(self, text: str, ended: int) -> None:
        """Print the lines of a run; the number of those that have ended comes first."""
        if self.show is not None:
            self.show(text)
        else:
            say(f"[{ended}/{len(self.configs)}] {text.rstrip()}")
