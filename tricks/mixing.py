"""What mixup and CutMix share: a coefficient and a partner for each sample, and soft targets."""

import torch
from torch import Tensor

from tricks.label_smoothing import smooth_labels


def draw_beta(alpha: float, uniform: Tensor) -> Tensor:
    """Give back numbers from Beta(alpha, alpha), [N], made of uniform ones from [0, 1), [2, N].

    With u and v uniform and q = u^(1/alpha), it is

        (1 + c sqrt((1 - q) / (q + (1 - q) c^2))) / 2,    c = cos(2 pi v)

    This is Student's t with 2 alpha degrees of freedom in polar form (Bailey 1994,
    https://doi.org/10.2307/2153537), mapped to the unit interval. It draws by nothing but `rand`,
    which takes a generator on every device, and is exact for an alpha however small or large.
    """
    u, v = uniform
    log_q = u.log() / alpha
    cosine, rest = torch.cos(2 * torch.pi * v), -torch.expm1(log_q)
    root = torch.sqrt(rest / (log_q.exp() + rest * cosine.square()))
    return ((1 + cosine * root) / 2).clamp(0, 1)


def draw(
    rows: int, inputs: Tensor, generator: torch.Generator | None, left: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Give back uniform numbers from [0, 1), [rows, N], and the samples' partners, [N].

    The partners are a random cycle: each sample has another one. Those that are left alone, [N],
    stand outside and have themselves. All is drawn where the generator is, and comes to the device
    of the inputs.
    """
    device = inputs.device if generator is None else generator.device
    uniform = torch.rand(rows, len(inputs), generator=generator, device=device)
    cycle = torch.randperm(len(inputs), generator=generator, device=device).to(inputs.device)
    before = cycle.roll(1)
    if left is not None:  # those that are left stand at the end; no size depends on them
        cycle = cycle[left[cycle].to(torch.uint8).argsort(stable=True)]
        places = torch.arange(len(inputs), device=inputs.device)
        count = len(inputs) - left.sum()
        previous = torch.where(places > 0, places - 1, (count - 1).clamp(min=0))
        before = torch.where(places < count, cycle[previous], cycle)
    return uniform.to(inputs.device), torch.empty_like(cycle).scatter_(0, cycle, before)


def are_others(partners: Tensor) -> Tensor:
    """Give back which samples have another one as their partner, [N]."""
    return partners != torch.arange(len(partners), device=partners.device)


def check_mixing(alpha: float, probability: float, who: str = "") -> None:
    """Refuse an alpha or a probability that is out of its range."""
    if not 0 < alpha < float("inf"):
        raise ValueError(f"{who}alpha must be > 0 and finite, got {alpha}.")
    if not 0 < probability <= 1:
        raise ValueError(
            f"{who}probability must be > 0 and <= 1, got {probability}. "
            "To train on the images as they are, switch the trick off."
        )


def check_images(inputs: Tensor, who: str) -> None:
    """Refuse images that are integers, as they are before normalisation."""
    if not inputs.is_floating_point():
        kind = str(inputs.dtype).removeprefix("torch.")
        raise ValueError(
            f"{who} mixes images after their normalisation, floats [N, ...], got {kind} "
            f"{list(inputs.shape)}. Normalise them first."
        )


def as_probabilities(targets: Tensor, classes: int | None, who: str) -> Tensor:
    """Give back targets as class probabilities, without any smoothing.

    Raises:
        ValueError: If they are neither class ids nor class probabilities, or are ids of an unknown
            number of classes.
    """
    if classes is None and isinstance(targets, Tensor) and targets.dtype in _IDS:
        raise ValueError(
            f"{who} makes class probabilities of class ids, and must know the number of classes. "
            "Give it, Batch(inputs, targets, classes), or give class probabilities [N, K]."
        )
    return smooth_labels(targets, 0.0, classes)


_IDS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
