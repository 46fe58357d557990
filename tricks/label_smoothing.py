"""Label smoothing: train on class probabilities that leave a little to every class.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", section 7,
https://arxiv.org/abs/1512.00567.

Where we differ: not in the loss of any sample, which is that of torch's
`cross_entropy(label_smoothing=...)`; but it is in the targets, so that what follows (flooding) sees
the loss that is minimised. So torch's means differ where it divides by less than all samples: with
class weights, or where targets are ignored.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from tricks.trick import Batch, Trick

IGNORED = -100
"""The class id that torch's cross-entropy ignores by default."""


def smooth_labels(
    targets: Tensor, smoothing: float = 0.1, num_classes: int | None = None
) -> Tensor:
    """Give back (1 - smoothing) * p + smoothing / K, p the targets as class probabilities.

    The cross-entropy with them is, for each sample, torch's own with `label_smoothing`. Targets of
    -100 are ignored, as by torch: zeros, whose loss is 0. A mean over all then counts them, where
    torch's does not; and with class weights torch's mean over ids divides by the weights of the
    targets, over probabilities by their number.

    Args:
        targets: Class ids, integers [N] or [N, d1, ...]; or class probabilities, floats [N, K] or
            [N, K, d1, ...] of K >= 2 classes.
        smoothing: The share that is spread over all K classes, from 0 to 1.
        num_classes: K; for class ids alone.

    Returns:
        Class probabilities, [N, K] or [N, K, d1, ...].

    Raises:
        ValueError: If there are class ids and no number of classes, an id is out of range (looked
            at on a CPU alone), or the targets are neither ids nor probabilities of classes.

    >>> smooth_labels(torch.tensor([1]), smoothing=0.1, num_classes=2)
    tensor([[0.0500, 0.9500]])
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be from 0 to 1, got {smoothing}.")
    if _are_ids(targets):
        probabilities, ignored = _probabilities(targets, num_classes)
        smoothed = (1 - smoothing) * probabilities + smoothing / probabilities.shape[-1]
        # classes come second, as for cross_entropy
        return smoothed.masked_fill_(ignored, 0.0).movedim(-1, min(1, targets.ndim))
    return (1 - smoothing) * targets + smoothing / targets.shape[1]


def _are_ids(targets: object) -> bool:
    """Whether targets are class ids; no if they are class probabilities; refuse others."""
    if not isinstance(targets, Tensor):
        kind, remedy = f"a {type(targets).__name__}", ""
    elif targets.is_floating_point() and targets.ndim > 1 and targets.shape[1] > 1:
        return False
    elif targets.is_floating_point() or targets.dtype is torch.bool or targets.is_complex():
        kind = f"{str(targets.dtype).removeprefix('torch.')} of shape {list(targets.shape)}"
        remedy = (
            " Of two classes give ids, targets.long(), for cross-entropy; for a binary loss smooth "
            "them yourself: (1 - smoothing) * targets + smoothing / 2."
        )
    else:
        return True
    raise ValueError(
        "targets must be a tensor of class ids (integers [N, ...]) or class probabilities (floats "
        f"[N, K, ...] with K >= 2), got {kind}.{remedy}"
    )


def _probabilities(ids: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """Give back class ids as probabilities [N, ..., K], and which are ignored [N, ..., 1]."""
    if num_classes is None:
        raise ValueError(
            "Targets that are class ids need num_classes. Give it, or give class probabilities."
        )
    ids = ids.long()
    ignored = ids == IGNORED
    classes = ids.masked_fill(ignored, 0)
    wrong = (classes < 0) | (classes >= num_classes)
    if ids.device.type == "cpu" and wrong.any():  # elsewhere one_hot fails, without waiting here
        first = ids[wrong][0].item()
        raise ValueError(
            f"targets must be class ids from 0 to {num_classes - 1}, or {IGNORED} for what is "
            f"ignored, got {first}. If that is an id to ignore, write "
            f"targets.long().masked_fill(targets == {first}, {IGNORED})."
        )
    dtype = torch.get_default_dtype()
    return F.one_hot(classes, num_classes).to(dtype), ignored.unsqueeze(-1)


@final
@dataclass(frozen=True)
class LabelSmoothing(Trick):
    """Smooth the targets (`batch`), class ids or class probabilities as `smooth_labels` takes.

    The lowest loss is then no longer 0: it is .50 nats for 10 classes at .1.

    Attributes:
        smoothing: The share of each target that is spread over all classes, between 0 and 1.

    Raises:
        ValueError: If `smoothing` is out of its range; in `batch`, if the targets are neither class
            ids nor class probabilities, or are class ids of unknown number.
    """

    after: ClassVar[tuple[str, ...]] = ("Mixup", "Cutmix")

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.smoothing < 1:
            raise ValueError(
                f"LabelSmoothing.smoothing must be > 0 and < 1, got {self.smoothing}. "
                "To train on the targets as they are, switch the trick off."
            )

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """Smooth the targets."""
        if _are_ids(batch.targets) and batch.classes is None:
            raise ValueError(
                "LabelSmoothing needs the number of classes for targets that are class ids. Write "
                "Batch(inputs, targets, classes)."
            )
        return batch._replace(targets=smooth_labels(batch.targets, self.smoothing, batch.classes))
