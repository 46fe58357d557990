"""Selective backward: train on the samples of the largest losses alone.

Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers",
https://arxiv.org/abs/1910.00762. A forward pass is cheaper than a forward and a backward: the
samples that the model gets right already are left out of the second.

Where we differ: the largest losses are taken, as https://github.com/KellerJordan/cifar10-airbench
does, where the paper draws samples with a probability that grows with the loss. The pass that
chooses leaves nothing behind; elsewhere batch norm takes its statistics twice.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DataParallel, DistributedDataParallel

from tricks.passes import keep_buffers, keep_random_state
from tricks.trick import Batch, Time, Trick

LEAST = 2
"""Samples that batch norm needs to train on maps of one pixel."""


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give back the cross-entropy of each sample, [N], in nats; of maps, the mean over pixels."""
    losses = F.cross_entropy(outputs.float(), targets, reduction="none")
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


@torch.no_grad()
def select_hardest(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    keep: float = 0.5,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tensor:
    """Give back the places of the samples with the largest losses, ascending.

    Of N samples there are `keep` * N, rounded, but not fewer than 2, which batch norm needs. The
    model is passed once, in the mode that it is in, without gradients; its buffers and torch's
    global generators are then put back to the bit.

    Args:
        model: The model in training.
        inputs: [N, ...].
        targets: Class ids [N], or class probabilities [N, K].
        keep: The share to give back, > 0 and <= 1.
        loss: Outputs and targets to the losses of the samples, [N].

    Raises:
        ValueError: If `keep` is out of its range.

    >>> model = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.eye_(model.weight)
    >>> inputs, ids = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([0, 1, 1, 0])
    >>> hard = select_hardest(model, inputs, ids, keep=0.5)
    >>> hard
    tensor([1, 2])
    >>> loss = F.cross_entropy(model(inputs[hard]), ids[hard])
    """
    _check_keep("", keep)
    count = len(inputs)
    kept = min(count, max(LEAST, round(keep * count)))
    places = torch.arange(count, device=inputs.device)
    if kept == count:
        return places
    with keep_buffers(model), keep_random_state(model):
        losses = loss(model(inputs), targets)
    torch.clear_autocast_cache()  # no weight that is cast here is taken for one with a gradient
    return losses.sort(descending=True, stable=True).indices[:kept].sort().values


@final
@dataclass(eq=False)
class SelectiveBackward(Trick):
    """Leave out the samples of a micro-batch with the smallest losses (`batch`).

    They are chosen by `select_hardest` and the cross-entropy, whatever the loss to train with. It
    acts from `start` to `end` of the training, told the time by `weights`. Where the gradients of
    an update are computed more than once, as by `Sam`, the samples are chosen once.

    Within that time the logged training loss is that of the samples that are kept.

    Reports `left_out_share`: of the samples of the last update, the share that was left out.

    Attributes:
        keep: The share of each micro-batch to train on, > 0 and < 1; at least 2 samples.
        start: When to begin, as a share of the training, from 0 to less than `end`.
        end: When to stop, as a share of the training, to 1.

    Raises:
        ValueError: If a value is out of its range; in `batch`, if `model` was not called before.
    """

    varies_in_cost: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = (
        *("AntiAliasing", "SqueezeExcite", "ZeroInit", "DiracInit"),
        *("Whitening", "WeightStandardization", "GhostBatchNorm"),
        *("TrivialAugment", "RandAugment", "RandomErasing", "ProgressiveResizing"),
        *("Mixup", "Cutmix", "LabelSmoothing"),
    )
    activity: ClassVar[str | None] = "left_out_share"

    keep: float = 0.5
    start: float = 0.5
    end: float = 0.9

    def __post_init__(self) -> None:
        _check_keep("SelectiveBackward.", self.keep)
        if self.keep == 1:
            raise ValueError("SelectiveBackward.keep must be < 1, got 1.0. Switch the trick off.")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                "SelectiveBackward.start and end must be shares of the training with "
                f"0 <= start < end <= 1, got {self.start} and {self.end}."
            )
        self._model: nn.Module | None = None
        self._begin()

    def _begin(self) -> None:
        self._update, self._updates = 0, 1  # done, and of the whole training
        self._chosen: list[Tensor] = []  # of each micro-batch of the update
        self._again: Iterator[Tensor] | None = None  # those, if its gradients are computed again
        self._given = 0  # samples of the update
        self._share: float | None = None  # left out of the last update

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training; the model stays as it is."""
        self._begin()
        self._model = model
        return model

    @property
    def _is_on(self) -> bool:
        return self.start <= self._update / self._updates < self.end

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """Leave out the samples with the smallest losses, while it is time."""
        if not self._is_on:
            return batch
        if self._model is None:
            raise ValueError(
                "SelectiveBackward has seen no model to find losses with. Call its `model` once "
                "before training."
            )
        inputs, targets = batch.inputs, batch.targets
        if self._again is None:
            self._chosen.append(select_hardest(self._model, inputs, targets, self.keep))
            self._given += len(inputs)
        places = self._chosen[-1] if self._again is None else next(self._again)
        mixed = None if batch.mixed is None else batch.mixed[places]
        return batch._replace(inputs=inputs[places], targets=targets[places], mixed=mixed)

    def backward(self, compute: Callable[[], Tensor], model: nn.Module) -> Tensor:  # noqa: ARG002
        """Choose the samples; compute the gradients again with those that were chosen."""
        self._again = iter(self._chosen) if self._chosen else None
        return compute()

    def weights(self, model: nn.Module, time: Time) -> None:
        """Take note of the time; the weights stay as they are."""
        self._model = model
        if isinstance(model, DataParallel | DistributedDataParallel):
            self._model = cast(nn.Module, model.module)
        self._update, self._updates = time.update, time.updates
        kept = sum(map(len, self._chosen))
        self._share = 1 - kept / self._given if self._given else 0.0
        self._forget()

    def _forget(self) -> None:
        self._chosen, self._again, self._given = [], None, 0

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:  # noqa: ARG002
        """Say of which samples the logged training loss is."""
        if not any(self.start <= update / updates < self.end for update in range(updates)):
            return [
                f"no update of {updates} begins between {self.start} and {self.end} of the "
                "training; nothing is left out."
            ]
        return [
            f"from {self.start} to {self.end} of the training the logged training loss is that of "
            f"the samples that are kept, the largest {self.keep} of the losses."
        ]

    def report(self) -> dict[str, float]:
        """Give back the share of the last update that was left out."""
        return {} if self._share is None else {"left_out_share": self._share}

    def state_dict(self) -> dict[str, Any]:
        """Give back the time: updates done and of the whole training."""
        return {"update": self._update, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, at the beginning of an update."""
        super().load_state_dict(state)
        self._update, self._updates = state["update"], state["updates"]
        self._forget()


def _check_keep(where: str, keep: float) -> None:
    if not 0 < keep <= 1:
        raise ValueError(f"{where}keep must be > 0 and <= 1, got {keep}.")
