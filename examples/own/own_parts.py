"""A trick, a model, an optimizer, a data set, a loss, a metric and a transform of one's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from runner.data import Source, Split
from tricks import Trick


@final
@dataclass(frozen=True)
class UnitGradients(Trick):
    """Normalised gradient descent: the gradient is divided by its norm, g / |g|.

    Hazan, Levy, Shalev-Shwartz, "Beyond Convexity", NIPS 2015, https://arxiv.org/abs/1507.02030
    """

    length: float = 1.0

    def gradients(self, model: nn.Module, optimizer: Optimizer, loss: Tensor) -> None:  # noqa: ARG002
        """Scale all gradients to the length."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        for gradient in gradients:
            gradient.mul_(self.length / norm)


class SignSGD(Optimizer):
    """Steps of one length: w - lr * sign(g)."""

    def __init__(self, params: list[Tensor], lr: float = 0.001) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Step each weight."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.sub_(weight.grad.sign(), alpha=group["lr"])


class Brightest(nn.Module):
    """The maximum over the image; `AdaptiveMaxPool2d` has no deterministic gradient on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C]."""
        return x.amax((2, 3))


def shallow(*, width: int = 16, channels: int, classes: int) -> nn.Module:
    """Give back a network of one convolution; `channels` and `classes` come from the data."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3),
        nn.ReLU(),
        Brightest(),
        nn.Linear(width, classes),
    )


def stripes(*, images: int = 600, size: int = 12) -> Source:
    """Give back images of stripes, lying or standing, under noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (images,), generator=generator)
    lying = (torch.arange(size) % 2 * 120)[None, :, None].expand(images, size, size)
    pixels = torch.where(labels[:, None, None] == 1, lying.transpose(1, 2), lying)
    noise = torch.randint(0, 136, pixels.shape, generator=generator)
    pictures = (pixels + noise).to(torch.uint8).unsqueeze(1)
    train, test = (Split(pictures[part], labels[part]) for part in (slice(500), slice(500, None)))
    return Source(train=train, test=test, classes=("lying", "standing"))


def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Give back the focal loss of each sample, [N]: -sum over k of t_k (1 - p_k)^gamma log(p_k).

    Lin et al., "Focal Loss for Dense Object Detection", https://arxiv.org/abs/1708.02002

    Args:
        logits: [N, K].
        targets: [N] class ids, or [N, K] probabilities.
        gamma: 0 for the cross-entropy.
    """
    logs = logits.log_softmax(1)
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1])
    return -(targets * (1 - logs.exp()) ** gamma * logs).sum(1)


def cohen_kappa(logits: Tensor, labels: Tensor) -> float:
    """Give back the agreement of predictions and labels beyond chance, (p - e) / (1 - e).

    Args:
        logits: [N, K].
        labels: [N].
    """
    predicted, classes = logits.argmax(1), logits.shape[1]
    agreed = (predicted == labels).double().mean()
    shares = (x.bincount(minlength=classes).double() / len(x) for x in (predicted, labels))
    by_chance = torch.stack([*shares]).prod(0).sum()
    return float((agreed - by_chance) / (1 - by_chance))


class Speckle:
    """Black out pixels at random, a share of them."""

    def __init__(self, share: float = 0.1) -> None:
        self.share = share

    def __call__(self, image: Tensor) -> Tensor:
        """[C, H, W], uint8, to the same."""
        return image * (torch.rand(image.shape[1:]) >= self.share)
