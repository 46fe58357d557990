"""The patches of images that a convolution sees, and the eigenvectors of their covariance."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SINGULAR = 1e-12  # of the variance of all numbers; the rounding of float32 images is about 1e-17
NUMBERS = 2**22  # of patches at once: 32 MB


def eigen(convolution: nn.Conv2d, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Give back what whitens the patches of images, in float64.

    Args:
        convolution: Its kernel, stride and dilation say what a patch is, without its padding.
        batches: Images [N, C, H, W].

    Returns:
        The eigenvalues of the covariance of the patches, [D], in decreasing order, and the
        eigenvectors [D, D], one a column, the largest number of each positive.

    Raises:
        ValueError: If images are too small or not finite, there are no more patches than numbers
            in one, or the patches vary in fewer directions.
    """
    numbers = convolution.weight[0].numel()
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        _require_maps(convolution, batch)
        for images in batch.split(max(1, NUMBERS // (numbers * batch[:1, 0].numel()))):
            patches = F.unfold(
                images.double(),
                convolution.kernel_size,
                convolution.dilation,
                stride=convolution.stride,
            ).transpose(1, 2).reshape(-1, numbers)  # fmt: skip
            count += len(patches)
            total = total.to(patches) + patches.sum(0)
            square = square.to(patches) + patches.T @ patches
    if count <= numbers:
        raise ValueError(
            f"Whitening needs more patches than a patch has numbers, got {count} patches of "
            f"{numbers} numbers. Take more samples, or drop whitening."
        )
    mean = total / count
    covariance = square / count - torch.outer(mean, mean)
    if not covariance.isfinite().all():
        raise ValueError("Whitening needs finite images, got some that are not. Correct the data.")
    values, vectors = torch.linalg.eigh(covariance)
    if (varying := int((values > SINGULAR * square.trace() / count).sum())) < numbers:
        raise ValueError(
            f"Whitening needs patches that vary in all of their {numbers} directions, got "
            f"{varying}: the images are constant, or their channels equal each other, as those of "
            "grey images in three channels, or they were enlarged. Take images that vary (grey "
            "ones in one channel), a smaller kernel, or drop whitening."
        )
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values.flip(0), (vectors * largest.sign()).flip(1)


def _require_maps(convolution: nn.Conv2d, batch: Tensor) -> None:
    """Refuse what has no patch for the convolution."""
    sides = zip(convolution.kernel_size, convolution.dilation, strict=True)
    least = [dilation * (side - 1) + 1 for side, dilation in sides]
    channels = convolution.in_channels
    small = batch.ndim != 4 or batch.shape[1] != channels
    if small or any(side < low for side, low in zip(batch.shape[2:], least, strict=True)):
        raise ValueError(
            f"Whitening needs images [N, {channels}, H, W] of at least {least[0]}x{least[1]}, the "
            f"kernel's size, got {list(batch.shape)}. Pass such images, or drop whitening."
        )
