"""What a run chooses by its validation split: the weights that are tested, and when it stops.

Both follow from the lines of metrics.jsonl alone, so that a run which resumes chooses alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor

from runner.build import Bench
from runner.config import Settings
from runner.errors import UserError
from runner.names import label
from runner.run import model_file
from runner.run.status import command
from runner.store.runs import BEST, METRICS, read_line
from runner.texts import say


class Best:
    """The best evaluation so far: of the highest accuracy, then the lowest loss, then the first.

    >>> best = Best()
    >>> scores = (0.7, 0.9), (0.9, 0.6), (0.9, 0.5), (0.9, 0.5), (0.8, 0.1)
    >>> for epoch, (accuracy, loss) in enumerate(scores, start=1):
    ...     numbers = {"validation/accuracy": accuracy, "validation/loss": loss}
    ...     _ = best.add({"epoch": epoch, "update": 10 * epoch, **numbers})
    >>> best.epoch, best.update, best.worse
    (3, 30, 2)
    """

    def __init__(self) -> None:
        self.epoch: float = 0
        self.update = 0
        self.accuracy = 0.0
        self.worse = 0
        """Evaluations since then."""
        self._rank = -inf, -inf

    def add(self, line: Mapping[str, Any]) -> bool:
        """Take in an evaluation; give back whether it is the best so far."""
        accuracy, loss = line.get("validation/accuracy"), line.get("validation/loss")
        if accuracy is None:  # there is no validation split
            return False
        rank = accuracy, -inf if loss is None else -loss
        if self.update and not rank > self._rank:
            self.worse += 1
            return False
        self.epoch, self.update, self.accuracy = line["epoch"], line["update"], accuracy
        self.worse, self._rank = 0, rank
        return True


class Choice:
    """What `result`, `patience` and `keep` choose, with the weights that they need.

    Args:
        folder: The folder of the run.
        settings: The config.
        bench: The run.
        lines: Those of metrics.jsonl so far.
        saved: What a checkpoint has of the best weights, if it has.

    Raises:
        UserError: If the best weights are to be tested, and the checkpoint lacks them.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        bench: Bench,
        lines: Sequence[str] = (),
        saved: object = None,
    ) -> None:
        self.folder, self.settings, self.bench = folder, settings, bench
        self.best, self.epoch = Best(), 0.0
        for line in lines:
            self._take_in(line)
        self.weights = self._fitting(saved)
        if settings.result == "best" and self.best.update and self.weights is None:
            raise UserError(
                f"Cannot resume {label(folder)}: its checkpoint lacks the weights of its best "
                f"evaluation, after epoch {self.best.epoch:g}. "
                f"To restart it: {command(folder, 'again=true')}"
            )

    def add(self, line: str) -> None:
        """Take in an evaluation, as it was logged; keep its weights if it is the best so far."""
        if self._take_in(line):
            wanted = "best" in (self.settings.result, self.settings.keep)
            self.weights = self._copy() if wanted else None

    def state_dict(self) -> dict[str, Any]:
        """Give back what a checkpoint keeps: nothing if nothing chooses the best weights."""
        if self.weights is None:
            return {}
        return {"best": {"update": self.best.update, "model": self.weights}}

    @property
    def has_stopped(self) -> bool:
        """Whether there were `patience` evaluations without a better one."""
        patience = self.settings.patience
        return patience is not None and self.best.worse >= patience

    def why(self) -> str:
        """Write why it has stopped."""
        count = self.best.worse
        evaluations = "one evaluation" if count == 1 else f"{count} evaluations"
        return (
            f"stopped early, after epoch {self.epoch:g} of {self.settings.epochs:g}: {evaluations} "
            f"without a better one than {100 * self.best.accuracy:.2f} % after epoch "
            f"{self.best.epoch:g}"
        )

    @contextmanager
    def chosen(self) -> Iterator[dict[str, Any]]:
        """Hold the weights that are tested in the model.

        Yields:
            The epochs and updates that they had; nothing if there was no choice.
        """
        if self.settings.result == "best":
            self._put(self.weights)  # as they were evaluated
            yield {"epoch": self.best.epoch, "updates": self.best.update}
            return
        with self.bench.training.evaluation():
            yield {} if self.settings.patience is None else {"epoch": self.epoch}

    def write_best(self) -> None:
        """Write best.pt; the model stays as it is."""
        if self.weights is None:
            say(
                f"{label(self.folder)}  note: keep=best: the weights after epoch "
                f"{self.best.epoch:g}, the best, are gone, for keep was another when the run was "
                "there; the last checkpoint is kept"
            )
            return
        last = self._copy()
        self._put(self.weights)
        model_file.write(self.folder, self.settings, self.bench, BEST)
        self._put(last)

    def _take_in(self, line: str) -> bool:
        content = read_line(line, METRICS)
        self.epoch = content["epoch"]
        return self.best.add(content)

    def _fitting(self, saved: object) -> dict[str, Tensor] | None:
        """Give back saved weights if they are the best ones, and fit the model."""
        content: dict[str, Any] = saved if isinstance(saved, dict) else {}
        weights = content.get("model")
        if not isinstance(weights, dict) or content.get("update") != self.best.update:
            return None
        known = {k: (v.shape, v.dtype) for k, v in self.bench.training.model.state_dict().items()}
        found = {k: (v.shape, v.dtype) for k, v in weights.items() if isinstance(v, Tensor)}
        return weights if found == known and len(weights) == len(known) else None

    def _copy(self) -> dict[str, Tensor]:
        state = self.bench.training.model.state_dict()
        return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}

    def _put(self, weights: dict[str, Tensor] | None) -> None:
        assert weights is not None
        self.bench.training.model.load_state_dict(weights)
