"""What our launchers have in common: the runs are composed, before the first of them begins."""

import pickle
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from tqdm import tqdm

from runner.signals import stoppable
from runner.sweep import ahead
from runner.texts import say


@dataclass(frozen=True)
class Composed:
    """A composed run, made small: a config takes a quarter of a megabyte, and a sweep has many."""

    folder: Path
    name: str
    """Of the sweep."""
    variant: str
    device: str
    again: bool
    """Whether it is to be done anew."""
    overrides: tuple[str, ...]
    content: bytes
    """The config, with Hydra's node; pickled and compressed."""

    @classmethod
    def of(cls, config: DictConfig) -> Self:
        """Take what is asked of a config often, and pack it."""
        return cls(
            folder=Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)),
            name=str(config.get("name")),
            variant=str(config.get("variant")),
            device=str(config.get("device", "auto")),
            again=bool(config.get("again")),
            overrides=tuple(config.hydra.overrides.task),
            content=zlib.compress(pickle.dumps(config), level=1),
        )

    def config(self) -> DictConfig:
        """Unpack the config."""
        config: DictConfig = pickle.loads(zlib.decompress(self.content))  # our own, from memory
        return config

    def to_resume(self) -> Self:
        """Give back the run as one that goes on with what there is."""
        config = self.config()
        config.again = False
        return type(self).of(config)


class ComposedLauncher(Launcher):
    """A launcher of ours; `_launch` does `self.runs`."""

    runs: Sequence[Composed] = ()
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
            composing = tqdm(  # shown on a terminal alone
                job_overrides, "composing", leave=False, unit="run", delay=2.0, disable=None
            )
            numbered = enumerate(composing, initial_job_idx)
            self.runs = [self._compose(list(overrides), n) for n, overrides in numbered]
            with ahead.importing():
                return self._launch()

    def _launch(self) -> Sequence[JobReturn]:
        raise NotImplementedError

    def _compose(self, overrides: list[str], number: int) -> Composed:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return Composed.of(config)

    def _show(self, text: str, ended: int) -> None:
        """Print the lines of a run; the number of those that have ended comes first."""
        if self.show is not None:
            self.show(text)
        else:
            say(f"[{ended}/{len(self.runs)}] {text.rstrip()}")
