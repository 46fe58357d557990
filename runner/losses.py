"""The losses that a model is trained with: logits and targets to the losses of the samples."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, [N], in nats.

    Args:
        logits: [N, K].
        targets: [N] class ids, or [N, K] probabilities.
    """
    return F.cross_entropy(logits, targets, reduction="none")


def weighted(
    loss: Callable[[Tensor, Tensor], Tensor], weights: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Multiply the loss of each sample by the weight of its class.

    loss_i -> w[y_i] loss_i; where the targets are probabilities, (targets @ w)_i loss_i. So the
    mean over a batch is that over its micro-batches, whatever classes are in them. The `weight` of
    torch's `cross_entropy` differs: its mean divides by the weights that are in the batch.

    Args:
        loss: Logits [N, K] and targets to the losses of the samples, [N].
        weights: [K], on the device of the targets.

    >>> import torch
    >>> double = weighted(cross_entropy, torch.tensor([1.0, 2.0]))
    >>> double(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor([0.6931, 1.3863])
    """

    def apply(logits: Tensor, targets: Tensor) -> Tensor:
        each = weights[targets] if targets.ndim == 1 else targets @ weights
        return each * loss(logits, targets)

    return apply


def class_weights(given: Sequence[float] | None, drawn: Tensor) -> Tensor:
    """Give back the weights of the classes, float32 [K], of mean 1 over the samples that are drawn.

    So a weighted loss is on average as large as one without weights, and the learning rate keeps
    its meaning. None weighs each class inversely to its number of samples: N / (K n_c), as
    scikit-learn's "balanced" does.

    Args:
        given: The weight of each class, >= 0, up to a factor, [K]; or None.
        drawn: How many samples of each class are drawn in an epoch, [K].

    Raises:
        ValueError: If all weights are 0.

    >>> import torch
    >>> class_weights(None, torch.tensor([90, 10]))
    tensor([0.5556, 5.0000])
    >>> class_weights([1, 3], torch.tensor([5, 5]))
    tensor([0.5000, 1.5000])
    """
    drawn = drawn.double()
    weights = 1 / drawn.clamp(min=1) if given is None else drawn.new_tensor(given)
    if not weights.any():
        raise ValueError("all are 0. Give at least one class a weight.")
    weights /= weights.max()  # so that no sum overflows
    return (weights / ((weights * drawn).sum() / drawn.sum())).float()
