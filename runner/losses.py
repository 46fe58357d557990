"""The losses that a model is trained with: logits and targets to the losses of the samples."""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, [N], in nats.

    Args:
        logits: [N, K].
        targets: [N] class ids, or [N, K] probabilities.
    """
    return F.cross_entropy(logits, targets, reduction="none")
