"""Label smoothing: train on class probabilities that leave a little to every class.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", section 7,
https://arxiv.org/abs/1512.00567.

Where we differ: not at all; the same as torch's `CrossEntropyLoss(label_smoothing=...)`, in the
targets instead of the loss, so that what follows (flooding) sees the loss that is minimised.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tricks.trick import Batch, Trick


def smooth_labels(
    targets: Tensor, smoothing: float = 0.1, num_classes: int | None = None
) -> Tensor:
    """Give back (1 - smoothing) * p + smoothing / K, p the targets as class probabilities, [N, K].

    Args:
        targets: [N] class ids, or [N, K] class probabilities.
        smoothing: The share that is spread over all K classes, from 0 to 1.
        num_classes: K; for class ids alone.

    Raises:
        ValueError: If there are class ids and no number of classes.

    >>> smooth_labels(torch.tensor([1]), smoothing=0.1, num_classes=2)
    tensor([[0.0500, 0.9500]])
    """
    if not targets.is_floating_point():
        if num_classes is None:
            raise ValueError(
                "Targets that are class ids need num_classes. Give it, or give class probabilities."
            )
        targets = F.one_hot(targets, num_classes).to(torch.get_default_dtype())
    return (1 - smoothing) * targets + smoothing / targets.shape[1]


@final
@dataclass(eq=False)
class LabelSmoothing(Trick):
    """Smooth the targets (`batch`).

    How many classes there are is read off the model's classifier (`model`): the last linear layer
    or convolution. The lowest loss is then no longer 0: it is .50 nats for 10 classes at .1.

    Attributes:
        smoothing: The share of each target that is spread over all classes, between 0 and 1.

    Raises:
        ValueError: If `smoothing` is out of its range; in `batch`, if the targets are class ids
            and no model with a classifier was seen.
    """

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.smoothing < 1:
            raise ValueError(
                f"LabelSmoothing.smoothing must be > 0 and < 1, got {self.smoothing}. "
                "To train on the targets as they are, switch the trick off."
            )
        self._classes: int | None = None

    def model(self, model: nn.Module) -> nn.Module:
        """Read off how many classes there are; the model stays as it is."""
        self._classes = None
        for module in model.modules():
            if isinstance(module, nn.Linear):
                self._classes = module.out_features
            elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                self._classes = module.out_channels
        return model

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """Smooth the targets."""
        if self._classes is None and not batch.targets.is_floating_point():
            raise ValueError(
                "LabelSmoothing does not know the number of classes: it has seen no model with a "
                "linear layer or a convolution. Call its `model` once before training, or give it "
                "class probabilities."
            )
        return batch._replace(targets=smooth_labels(batch.targets, self.smoothing, self._classes))
