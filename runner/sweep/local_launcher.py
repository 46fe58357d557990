"""The local launcher: runs side by side on this machine."""

from collections.abc import Callable, Sequence

from hydra.core.utils import JobReturn

from runner.sweep.composed import ComposedLauncher
from runner.sweep.side_by_side import Limits, SideBySide


class LocalLauncher(ComposedLauncher):
    """Hydra's launcher of that name; see `LOCAL` in runner/cli/plugins.py for its settings."""

    def __init__(
        self, workers: int | str, per_card: int, timeout: float | None, prepare: Callable[[], None]
    ) -> None:
        self.limits, self.prepare = Limits(workers, per_card, timeout), prepare

    def _launch(self) -> Sequence[JobReturn]:
        given = self.runs, self.task, self.context, self.limits, self.prepare
        return SideBySide(*given, self._show).do()
