"""The numbers of the updates: their means, and the first update with one that is not finite.

On a card they stay there until they are asked for, since reading one waits for all that is queued.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Averages:
    """Running means of named numbers since they were last taken, in float64."""

    def __init__(self) -> None:
        self.sums: dict[str, float | Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, numbers: Mapping[str, float | Tensor]) -> None:
        """Take in one update's numbers; those that are on a card are added there."""
        away: dict[str, Tensor] = {}
        for name, number in numbers.items():
            self.counts[name] = self.counts.get(name, 0) + 1
            if isinstance(number, Tensor) and number.device.type != "cpu":
                away[name] = number
            else:
                self.sums[name] = self.sums.get(name, 0.0) + float(number)
        if away:  # in one operation: each of them is a launch
            more = torch.stack([*away.values()])
            sums = [_on(more.device, self.sums.get(name, 0.0)) for name in away]
            self.sums.update(zip(away, (torch.stack(sums) + more).unbind(), strict=True))

    def means(self) -> dict[str, float]:
        """Give back the means."""
        return {name: float(self.sums[name]) / self.counts[name] for name in self.sums}

    def take(self) -> dict[str, float]:
        """Give back the means, and reset them."""
        means = self.means()
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Give back the sums, and of how many numbers they are."""
        return {"sums": {n: float(s) for n, s in self.sums.items()}, "counts": {**self.counts}}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Take back what `state_dict` gave."""
        self.sums = {**state["sums"]}
        self.counts = {name: int(count) for name, count in state["counts"].items()}


class FirstNotFinite:
    """Finds the first update with a number that is not finite, without waiting for the device."""

    MOST = 10_000
    """Updates after which it looks by itself, so that what is kept stays small."""

    def __init__(self) -> None:
        self.noted: list[tuple[int, tuple[str, ...], Tensor]] = []
        self.first: tuple[int, str, float] | None = None

    def note(self, update: int, numbers: Mapping[str, Tensor]) -> None:
        """Keep an update's numbers on the device, until `found` looks at them."""
        self.noted.append((update, (*numbers,), torch.stack([*numbers.values()])))
        if len(self.noted) >= self.MOST:
            self.found()

    def found(self) -> tuple[int, str, float] | None:
        """Give back that update, the name of the number, and the number; None if there is none."""
        values = [value for *_, value in self.noted]
        if self.first is None and values and not bool(torch.cat(values).isfinite().all()):
            each = ((u, zip(n, v.cpu().tolist(), strict=True)) for u, n, v in self.noted)
            wrong = ((u, first_not_finite(dict(numbers))) for u, numbers in each)
            self.first = next((u, *found) for u, found in wrong if found is not None)
        self.noted.clear()
        return self.first


def first_not_finite(numbers: Mapping[str, float]) -> tuple[str, float] | None:
    """Give back the first number that is not finite, with its name; None if there is none."""
    return next((each for each in numbers.items() if not math.isfinite(each[1])), None)


def _on(device: torch.device, number: float | Tensor) -> Tensor:
    """Give back a sum as a tensor on the device; a number is filled in there, not copied."""
    if isinstance(number, Tensor):
        return number
    return torch.full((), number, dtype=torch.float64, device=device)
