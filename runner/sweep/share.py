"""A share of a sweep's runs: what is sent to a job of a cluster, and done there.

A job does its share as the local launcher would, by workers of its own; what becomes of a run is
in the run's folder, as ever. So whoever sent the share reads it there.
"""

import os
import pickle
import platform
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import cloudpickle
from hydra.types import HydraContext, TaskFunction

from runner.signals import stoppable
from runner.store.runs import read_status
from runner.sweep.composed import Composed
from runner.sweep.ends import ENDED
from runner.sweep.hydra_state import HydraState
from runner.sweep.side_by_side import Limits, SideBySide
from runner.terminal import show_as_text
from runner.texts import say

LATEST = 60.0  # seconds until a network file system shows what was written on another machine


@dataclass(frozen=True)
class Share:
    """What one job does, once it is called; it can be called again, and does what is left."""

    work: bytes
    """The composed runs, what does one, and Hydra's context; pickled and compressed."""
    folders: tuple[str, ...]
    """Those of the runs."""
    before: tuple[Mapping[str, Any], ...]
    """The status of each run when the share was made; another one is of this share's doing."""
    folder: str
    """Where the command was given; the folders of the runs lie below it."""
    mark: str
    """A file that was written there just now."""
    path: tuple[str, ...]
    """Where Python looked for modules."""
    limits: Limits
    state: HydraState
    """What Hydra has to know before the runs are unpickled."""

    @classmethod
    def make(
        cls,
        runs: Sequence[Composed],
        task: TaskFunction,
        context: HydraContext,
        mark: Path,
        limits: Limits,
        prepare: Callable[[], None],
    ) -> Self:
        """Make a share of composed runs."""
        light = replace(context, config_loader=None)  # type: ignore[arg-type]
        content = runs, task, light
        return cls(
            work=zlib.compress(cloudpickle.dumps(content), level=1),
            folders=tuple(str(run.folder) for run in runs),
            before=tuple(read_status(run.folder) for run in runs),
            folder=os.getcwd(),
            mark=str(mark),
            path=tuple(sys.path),
            limits=limits,
            state=HydraState.of(prepare),
        )

    def __call__(self) -> str | None:
        """Do the runs that have not ended yet.

        Returns:
            Why this machine can do none of them; None if it can.

        Raises:
            Stopped, KeyboardInterrupt: If a signal asked to stop; every run has saved a checkpoint.
        """
        if complaint := self._complaint():
            return complaint
        sys.path.extend(place for place in self.path if place not in sys.path)
        self.state.take()
        show_as_text()
        runs, task, context = pickle.loads(zlib.decompress(self.work))
        pairs = zip(runs, self.before, strict=True)
        left = [run for each, before in pairs if (run := _left_of(each, before))]
        if left:
            with stoppable():
                show: Callable[[str, int], None] = lambda text, n: say(  # noqa: E731
                    f"[{n}/{len(left)}] {text.rstrip()}"
                )
                SideBySide(left, task, context, self.limits, self.state.prepare, show).do()
        return None

    def failed(self) -> list[str]:
        """Name the folders of runs that have failed, or diverged."""
        states = {folder: read_status(Path(folder)).get("status") for folder in self.folders}
        return [folder for folder, state in states.items() if state in ("failed", "diverged")]

    def _complaint(self) -> str | None:
        """Why the folder is not the one where the command was given."""
        deadline = time.monotonic() + LATEST
        try:
            os.chdir(self.folder)
            while not os.path.exists(self.mark):
                os.scandir(os.path.dirname(self.mark)).close()  # has NFS look again
                if time.monotonic() > deadline:
                    raise FileNotFoundError
                time.sleep(1.0)
        except OSError:
            return (
                f"{platform.node()} does not see what was written to {self.folder}. Give the "
                "command in a folder on a file system that all nodes share."
            )
        return None


def _left_of(run: Composed, before: Mapping[str, Any]) -> Composed | None:
    """Give back what is to be done of a run: nothing if it has ended in an earlier call.

    One that was begun there resumes: with `again` it would be begun anew each time.
    """
    status = read_status(run.folder)
    if status == before:
        return run
    return None if status.get("status") in ENDED else run.to_resume()
