"""Sharpness-aware minimisation: descend by the gradient at the worst weights nearby.

Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
https://arxiv.org/abs/2010.01412. Adaptive: Kwon et al., "ASAM", ICML 2021,
https://arxiv.org/abs/2102.11600, https://github.com/SamsungLabs/ASAM.

Where we differ: the weights come back to the bit, buffers (the statistics of batch norm) are those
of the first pass, and both passes have the same dropout. Where several ranks average their
gradients in backward, as under DistributedDataParallel, the perturbation is that of all of them;
the papers take one a device.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from tricks.gradients import HALF
from tricks.passes import keep_buffers, random_state, set_random_state
from tricks.trick import Trick, number

RHO, ETA = 0.05, 0.01


def sharpness_aware(
    compute: Callable[[], Tensor],
    model: nn.Module,
    rho: float = RHO,
    *,
    adaptive: bool = False,
    eta: float = ETA,
) -> tuple[Tensor, Tensor]:
    """Put the gradients at w + e in place, and give back the losses at w and at w + e.

        e = rho g / |g|               g the gradients at w as one vector, |.| the 2-norm
        e = rho t^2 g / |t g|         adaptive; t = |w| + eta in weights, 1 in other parameters

    A weight is a parameter whose name says so, as in the authors' code: those of convolutions,
    linear layers and norms, not their biases. Adaptive, rho is about ten times as large.

    The weights w are put back to the bit. The second pass leaves no other trace: buffers are those
    after the first, and torch's global generators too, from which both draw the same numbers. If
    the norm is not finite (an overflow under a loss scaler, whose factor does not matter) or there
    is no gradient but 0, there is no second pass: gradients and both losses are those of the first.
    (On a card, where nothing waits for the norm, there is one, without a perturbation.)

    Args:
        compute: Zeroes the gradients, passes all micro-batches forward and backward, and gives back
            the mean loss; it is called twice.
        model: The model; under DistributedDataParallel or `torch.compile`, wrapped or not.
        rho: The size of the perturbation, > 0.
        adaptive: Make it relative to the weights.
        eta: Added to the size of each weight, >= 0; read if adaptive.

    Raises:
        ValueError: If `rho` or `eta` is out of its range.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> _ = nn.init.ones_(model.weight)
    >>> def compute():
    ...     optimizer.zero_grad()
    ...     loss = model(torch.ones(1, 1)).square().mean()
    ...     loss.backward()
    ...     return loss.detach()
    >>> sharpness_aware(compute, model, rho=0.5)
    (tensor(1.), tensor(2.2500))
    >>> model.weight.item(), model.weight.grad.item()
    (1.0, 3.0)
    >>> optimizer.step()
    """
    _check("", rho, eta)
    start = random_state(model)
    loss = compute()
    perturbations = _perturbations(model, rho, eta if adaptive else None)
    if not perturbations:
        return loss, loss
    end = random_state(model)
    weights = {parameter: parameter.detach().clone() for parameter in perturbations}
    with keep_buffers(model):
        try:
            _add_(perturbations)
            del perturbations
            set_random_state(model, start)
            worst = compute()
        finally:
            _put_back_(weights)
            set_random_state(model, end)
    return loss, worst


@torch.no_grad()
def _perturbations(model: nn.Module, rho: float, eta: float | None) -> dict[nn.Parameter, Tensor]:
    """Give back e, part by part; nothing if the gradients are not finite, or are 0."""
    named = [(name, p, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    scales = [_scale(name, p, eta) for name, p, _ in named]
    scaled = [_wide(g) * t for (_, _, g), t in zip(named, scales, strict=True)]
    if not scaled:
        return {}
    largest = get_total_norm(scaled, math.inf)  # divided by it first, no square is out of range
    waits = largest.device.type == "cpu"
    if waits and not 0 < largest.item() < math.inf:
        return {}
    scaled = [g / largest.to(g.device) for g in scaled]
    norm = get_total_norm(scaled)
    step = rho / norm.item() if waits else rho / norm.double()
    parts = [g * t * _at(step, g) for g, t in zip(scaled, scales, strict=True)]
    if not waits:  # a perturbation of 0 takes the place of none
        fine = (largest > 0) & largest.isfinite()
        parts = [torch.where(fine.to(e.device), e, 0.0) for e in parts]
    return {p: e for (_, p, _), e in zip(named, parts, strict=True)}


def _at(step: float | Tensor, gradient: Tensor) -> float | Tensor:
    return step.to(gradient.device) if isinstance(step, Tensor) else step


def _scale(name: str, parameter: Tensor, eta: float | None) -> Tensor | float:
    if eta is None or not _is_weight(name):
        return 1.0
    return _wide(parameter.detach()).abs() + eta


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALF else tensor


def _is_weight(name: str) -> bool:
    """Whether a parameter's own name says weight: also that of which a weight is computed."""
    *modules, own = name.split(".")
    return "weight" in own or "parametrizations.weight" in ".".join(modules[-2:])


@torch.no_grad()
def _add_(perturbations: Mapping[nn.Parameter, Tensor]) -> None:
    for parameter, perturbation in perturbations.items():
        parameter.add_(perturbation.to(parameter.dtype))
    torch.clear_autocast_cache()  # where both passes are within one autocast


@torch.no_grad()
def _put_back_(weights: Mapping[nn.Parameter, Tensor]) -> None:
    for parameter, weight in weights.items():
        parameter.copy_(weight)
    torch.clear_autocast_cache()


@final
@dataclass(eq=False)
class Sam(Trick):
    """Compute the gradients of an update at perturbed weights (`backward`), as `sharpness_aware`.

    The perturbation is that of the whole update, all its micro-batches together. The loss given
    back, which flooding and the log see, is that at the weights as they are. An update costs twice
    as much. The gradient is that of the loss: weight decay has no part in the perturbation.

    Reports `sharpness`: the loss at the perturbed weights less that at the weights.

    Attributes:
        rho: The size of the perturbation, > 0. The papers take .05 for CIFAR-10, adaptive .5.
        adaptive: Make the perturbation relative to the weights (ASAM).
        eta: Added to the size of each weight, >= 0; if adaptive.

    Raises:
        ValueError: If a value is out of its range, or `eta` is set and would not be read.
    """

    after: ClassVar[tuple[str, ...]] = ("SelectiveBackward",)
    activity: ClassVar[str | None] = "sharpness"

    rho: float = RHO
    adaptive: bool = False
    eta: float = ETA

    def __post_init__(self) -> None:
        _check("Sam.", self.rho, self.eta)
        if not self.adaptive and self.eta != ETA:
            raise ValueError(
                f"Sam.eta must stay {ETA} where adaptive is false, which does not read it, got "
                f"{self.eta}. Set adaptive to true."
            )
        self._sharpness: Tensor | None = None  # of the last update

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training; the model stays as it is."""
        self._sharpness = None
        return model

    def backward(self, compute: Callable[[], Tensor], model: nn.Module) -> Tensor:
        """Compute the gradients at the weights, and then at the perturbed ones."""
        loss, worst = sharpness_aware(
            compute, model, self.rho, adaptive=self.adaptive, eta=self.eta
        )
        self._sharpness = worst.detach() - loss.detach()
        return loss

    def report(self) -> dict[str, float | Tensor]:
        """Give back how much larger the loss was at the perturbed weights."""
        return {} if self._sharpness is None else {"sharpness": number(self._sharpness)}


def _check(where: str, rho: float, eta: float) -> None:
    if not 0 < rho < math.inf:
        raise ValueError(
            f"{where}rho must be > 0 and finite, got {rho}. "
            "To train without a perturbation, leave it out."
        )
    if not 0 <= eta < math.inf:
        raise ValueError(f"{where}eta must be >= 0 and finite, got {eta}.")
