"""Binary cross-entropy: a sigmoid loss for each class in place of the softmax over all.

Wightman et al., "ResNet strikes back", https://arxiv.org/abs/2110.00476, after Beyer et al., "Are
we done with ImageNet?", https://arxiv.org/abs/2006.07159. timm's form of it is
`timm.loss.BinaryCrossEntropy`, https://github.com/huggingface/pytorch-image-models.

Where we differ from timm: targets are not smoothed unasked, and may be ignored.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor
from torch.nn import functional as F

from tricks.label_smoothing import smooth_labels
from tricks.trick import Trick, require_one_of

Reduction = Literal["mean", "sum"]


def binary_cross_entropy(
    outputs: Tensor,
    targets: Tensor,
    reduction: Reduction = "mean",
    threshold: float | None = None,
) -> Tensor:
    """Give back the loss of each sample, [N], in nats: the mean or the sum over its classes.

        -p log(sigmoid(z)) - (1 - p) log(1 - sigmoid(z))

    with z the logit of a class and p its target. What is ignored has a loss of 0: class ids of
    -100, and rows of zeros, which `smooth_labels` makes of them.

    Args:
        outputs: Logits, floats [N, K].
        targets: Class ids, integers [N]; or class probabilities, floats [N, K].
        reduction: `mean` over the classes, as timm; or `sum`, K times as much, which is nearer to
            the cross-entropy in size.
        threshold: If given, from 0 to less than 1, a class whose probability is above it is taken
            as 1, others as 0: both classes of a mixture are there. It undoes label smoothing.

    Raises:
        ValueError: If a value is out of its range, an id is (looked at on a CPU alone), or the
            shapes do not fit.

    >>> import torch
    >>> binary_cross_entropy(torch.zeros(1, 4), torch.tensor([2]))
    tensor([0.6931])
    """
    _check("", reduction, threshold)
    if outputs.ndim != 2:
        raise ValueError(
            f"outputs must be logits [N, K], one for each class, got {list(outputs.shape)}. "
            "Binary cross-entropy here takes one target for each image."
        )
    wanted = smooth_labels(targets, 0.0, outputs.shape[1]).to(outputs.dtype)
    if wanted.shape != outputs.shape:
        raise ValueError(
            f"targets must be class ids [N] or class probabilities [N, K] for outputs "
            f"{list(outputs.shape)}, got {list(targets.shape)}."
        )
    ignored = ~wanted.any(1)
    if threshold is not None:
        wanted = (wanted > threshold).to(outputs.dtype)
    each = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
    losses = each.mean(1) if reduction == "mean" else each.sum(1)
    return losses.masked_fill(ignored, 0.0)


@final
@dataclass(frozen=True)
class BinaryCrossEntropy(Trick):
    """Put the binary cross-entropy in place of the loss (`loss`), as `binary_cross_entropy`.

    The mean over K classes, and its gradient, is smaller than the cross-entropy by about a factor
    of K: choose the learning rate anew, or take the sum. Evaluation still measures cross-entropy.

    Attributes:
        reduction: Over the classes: `mean` or `sum`.
        threshold: None, or from 0 to less than 1: above it a class of mixed targets is taken as 1.

    Raises:
        ValueError: If a value is out of its range; in `loss`, if the shapes do not fit.
    """

    replaces: ClassVar[tuple[str, ...]] = ("loss",)

    reduction: Reduction = "mean"
    threshold: float | None = None

    def __post_init__(self) -> None:
        _check("BinaryCrossEntropy.", self.reduction, self.threshold)

    def loss(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Put other losses in place."""
        return binary_cross_entropy(outputs, targets, self.reduction, self.threshold)


def _check(where: str, reduction: Reduction, threshold: float | None) -> None:
    require_one_of(f"{where}reduction", reduction, Reduction)
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(
            f"{where}threshold must be >= 0 and < 1, or None to take targets as they are, got "
            f"{threshold}."
        )
