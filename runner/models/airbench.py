"""The small convolutional network by which CIFAR-10 is trained fastest."""

from collections.abc import Sequence

from torch import Tensor, nn

from runner.errors import UserError
from runner.models.networks import MAX_WEIGHTS


class Group(nn.Module):
    """A 3x3 convolution, 2x2 max-pooling, and another 3x3 convolution, each with norm and GELU."""

    def __init__(self, in_channels: int, channels: int, norm_momentum: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _norm(channels, norm_momentum)
        self.activation1 = nn.GELU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _norm(channels, norm_momentum)
        self.activation2 = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, channels, H // 2, W // 2]."""
        x = self.activation1(self.norm1(self.pool(self.conv1(x))))
        return self.activation2(self.norm2(self.conv2(x)))  # type: ignore[no-any-return]


class Airbench(nn.Module):
    """A 2x2 convolution, three groups, global max-pooling, a linear classifier, scaled."""

    def __init__(
        self,
        widths: Sequence[int],
        norm_momentum: float,
        logit_scale: float,
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        first = 2 * channels * 2 * 2  # each filter of whitened patches, and its negative
        self.conv = nn.Conv2d(channels, first, 2)
        self.activation = nn.GELU()
        inputs = (first, *widths[:-1])
        self.groups = nn.Sequential(
            *(Group(i, width, norm_momentum) for i, width in zip(inputs, widths, strict=True))
        )
        self.classifier = nn.Linear(widths[-1], classes, bias=False)
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to logits [N, classes]."""
        x = self.groups(self.activation(self.conv(x)))
        # amax: torch's adaptive max-pooling has no deterministic gradient on a card
        return self.classifier(x.amax((2, 3))) * self.logit_scale  # type: ignore[no-any-return]


def _norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad_(False)  # it stays 1
    return norm


def airbench(
    *,
    widths: Sequence[int] = (64, 256, 256),
    norm_momentum: float = 0.4,
    logit_scale: float = 1 / 9,
    channels: int,
    classes: int,
) -> nn.Module:
    """Build the network of airbench94: eight layers with weights, 1.97 million parameters.

    Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, section 3.1,
    https://arxiv.org/abs/2404.00498. A 2x2 convolution without padding, of 2 x 2 x 2 x `channels`
    filters, for the trick `whitening`; GELU; three groups of two 3x3 convolutions with batch norm
    and GELU, and a 2x2 max-pooling after the first convolution of each; global max-pooling; a
    linear layer without a bias, whose outputs are multiplied by `logit_scale`. The norms have a
    bias and no weight: it is 1 and frozen.

    Differs from the paper: the initialisation is torch's (the paper's is the tricks `dirac_init`
    and `whitening`), and the last pooling takes maps of any size, where the paper's takes 3x3. On
    images of 32x32 they are the same, but for the gradient at equal maxima, which share it here.

    Args:
        widths: Channels of each group; of three for airbench94, (128, 384, 384) for airbench95.
        norm_momentum: The weight of the new batch in the norms' running statistics (torch's
            momentum; the paper's is 1 minus it), > 0 and <= 1.
        logit_scale: The factor of the outputs, > 0.
        channels: Channels of the images.
        classes: Number of classes.

    Raises:
        UserError: If there is no such network.

    >>> import torch
    >>> model = airbench(widths=(4, 8, 8), channels=1, classes=10)
    >>> model(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    if not widths or min(widths) < 1:
        raise UserError(
            f"model.widths must be numbers of channels >= 1, one for each group, got "
            f"{list(widths)}. The paper uses [64, 256, 256]."
        )
    pairs = zip((8 * channels, *widths), widths, strict=False)
    if (weights := sum(9 * out * (into + out) for into, out in pairs)) > MAX_WEIGHTS:
        raise UserError(
            f"model.widths={list(widths)} make about {weights:.0e} weights, more than "
            f"{MAX_WEIGHTS:.0e}. Lower them."
        )
    if not 0 < norm_momentum <= 1:
        raise UserError(f"model.norm_momentum must be > 0 and <= 1, got {norm_momentum}. Use 0.4.")
    if not logit_scale > 0:
        raise UserError(f"model.logit_scale must be > 0, got {logit_scale}. Use 0.111.")
    return Airbench(widths, norm_momentum, logit_scale, channels, classes)
