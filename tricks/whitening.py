"""Whitening: the first convolution begins with filters that whiten the patches of the images.

Page, "How to Train Your ResNet 8: Bag of Tricks", 2019,
https://github.com/davidcpage/cifar10-fast; with frozen filters and their negatives: Jordan, "94% on
CIFAR-10 in 3.29 Seconds on a Single GPU", https://arxiv.org/abs/2404.00498, whose code is
https://github.com/KellerJordan/cifar10-airbench.

Where we differ: the covariance is that about the mean (airbench's is about zero, which is the same
where the images are normalised), of the patches that the convolution sees within an image (there at
stride 1), in float64; the sign of each filter is fixed; and with less room than for all filters,
those of the largest eigenvalues are taken with their negatives.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from tricks.layers import find_first, unwrapped
from tricks.patches import eigen
from tricks.trick import Time, Trick
from tricks.weight_standardization import is_plain


@torch.no_grad()
def whiten_(
    convolution: nn.Conv2d,
    inputs: Tensor | Iterable[Tensor],
    eps: float = 5e-4,
    samples: int = 5000,
    frozen: bool = True,
) -> None:
    """Give a convolution the filters that whiten the patches of its inputs, in place.

    With the covariance of the patches, in numbers D = in * kh * kw, its eigenvalues l_1 >= l_2 ...
    and eigenvectors e_i, the largest number of each positive, the filters are

        w_1, -w_1, w_2, -w_2, ...       w_i = e_i / sqrt(l_i + eps)

    as many as there are outputs: before eps, the outputs w_1 to w_D over the patches have the
    identity as their covariance. With less than 2 D outputs those of the smallest eigenvalues are
    left out; with more, the others stay as they were. The patches are those at the convolution's
    stride and dilation that lie within an image, without its padding. The bias stays as it was;
    in airbench it is trained for 3 epochs.

    Args:
        convolution: A plain `nn.Conv2d`, of one group.
        inputs: Normalised training images [N, in, H, W], or such batches, of all classes.
        eps: Added to each eigenvalue, >= 0.
        samples: How many images count, the first ones, >= 1.
        frozen: Whether the weight is not trained any more: all of it, also other filters.

    Raises:
        ValueError: If an argument is out of its range, the layer is another, or the images have no
            more patches than numbers, or patches that vary in less than D directions. The layer is
            unchanged then.

    >>> convolution = nn.Conv2d(1, 4, (1, 2))
    >>> whiten_(convolution, torch.randn(100, 1, 4, 4))
    >>> outputs = convolution(torch.randn(100, 1, 4, 4))
    >>> torch.equal(convolution.weight[0], -convolution.weight[1])
    True
    """
    _check("", eps, samples)
    _require_plain(type(convolution).__name__, convolution)
    batches = [inputs] if isinstance(inputs, Tensor) else inputs
    values, vectors = eigen(convolution, _first(batches, samples))
    filters = vectors / (values + eps).sqrt()
    pairs = torch.stack([filters.T, -filters.T], 1).flatten(0, 1)[: convolution.out_channels]
    weight = convolution.weight
    weight[: len(pairs)] = pairs.view(-1, *weight.shape[1:]).to(weight)
    if frozen:
        weight.requires_grad_(False)
    vars(convolution)["is_whitened"] = True  # for what changes convolutions later


@final
@dataclass(eq=False)
class Whitening(Trick):
    """Whiten the patches of the images in the first convolution (`initialize`), by `whiten_`.

    The weight is frozen, as in airbench, and the bias, if there is one, is trained for some epochs
    and then stands still to the bit: it has no gradient, so no weight decay and no momentum move
    it. What the convolution sees of the images is found by running the model, in evaluation mode,
    up to it.

    Attributes:
        eps: Added to each eigenvalue, >= 0.
        samples: How many training images count, the first ones, >= 1.
        frozen: Whether the weight is not trained.
        bias_epochs: For how many epochs the bias is trained, >= 0; infinity for all.

    Raises:
        ValueError: If a value is out of its range; in `model`, unless the model begins with one
            convolution, plain and of one group; in `initialize`, where `whiten_` refuses the
            images.

    >>> model, trick = nn.Sequential(nn.Conv2d(3, 24, 2), nn.ReLU()), Whitening()
    >>> trick.initialize(trick.model(model), [torch.randn(50, 3, 8, 8)])
    >>> model[0].weight.requires_grad, model[0].bias.requires_grad
    (False, True)
    """

    eps: float = 5e-4
    samples: int = 5000
    frozen: bool = True
    bias_epochs: float = 3.0

    def __post_init__(self) -> None:
        _check("Whitening.", self.eps, self.samples)
        if not self.bias_epochs >= 0:
            raise ValueError(
                f"Whitening.bias_epochs must be >= 0 (epochs), got {self.bias_epochs}. Write .inf "
                "to train the bias all along."
            )
        self._begin()

    def _begin(self) -> None:
        self._convolution, self._directions = "", (0, 0)
        self._bias_is_frozen = False

    def model(self, model: nn.Module) -> nn.Module:
        """Find the convolution, and freeze what is never trained; the model stays as it is."""
        self._begin()
        name, convolution = _find(model)
        self._convolution = name
        numbers = convolution.weight[0].numel()
        self._directions = min(-(-convolution.out_channels // 2), numbers), numbers
        if self.frozen:
            convolution.weight.requires_grad_(False)
        vars(convolution)["is_whitened"] = True
        if self.bias_epochs == 0:
            self._freeze_bias(model)
        return model

    def initialize(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:
        """Set the filters."""
        inner = unwrapped(model)
        convolution = inner.get_submodule(self._convolution)
        assert isinstance(convolution, nn.Conv2d)
        _require_plain(f"{type(inner).__name__}.{self._convolution}", convolution)
        with closing(_seen_by(convolution, inner, _first(inputs, self.samples))) as seen:
            whiten_(convolution, seen, self.eps, self.samples, self.frozen)

    def backward(self, compute: Callable[[], Tensor], model: nn.Module) -> Tensor:
        """Compute no gradient for a bias that is frozen, also after a resume."""
        if self._bias_is_frozen:
            self._freeze_bias(model)
        return compute()

    def gradients(self, model: nn.Module, optimizer: Optimizer, loss: Tensor) -> None:  # noqa: ARG002
        """Drop the gradient of a frozen bias, where it had to be computed."""
        if self._bias_is_frozen:
            self._freeze_bias(model)

    def weights(self, model: nn.Module, time: Time) -> None:
        """Freeze the bias when its epochs are over."""
        if time.update >= self.bias_epochs * time.updates_per_epoch:
            self._freeze_bias(model)

    def _freeze_bias(self, model: nn.Module) -> None:
        self._bias_is_frozen = True
        bias = unwrapped(model).get_submodule(self._convolution).bias
        if isinstance(bias, Tensor):
            bias.grad = None
            if not isinstance(model, DistributedDataParallel):  # which waits for every gradient
                bias.requires_grad_(False)

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:  # noqa: ARG002
        """Tell if the filters leave directions of the patches out."""
        kept, numbers = self._directions
        if kept == numbers:
            return []
        return [
            f"the filters keep {kept} of {numbers} directions of a patch, those of the largest "
            f"variance; {2 * numbers} outputs would keep all"
        ]

    def state_dict(self) -> dict[str, Any]:
        """Give back whether the bias is frozen."""
        return {"bias_is_frozen": self._bias_is_frozen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back; the next update acts on it."""
        super().load_state_dict(state)
        self._bias_is_frozen = bool(state["bias_is_frozen"])


def _find(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Find the convolution that gets the image."""
    kind = type(unwrapped(model)).__name__
    try:
        names = find_first(model)
    except ValueError as error:
        raise ValueError(
            f"{error}. Whitening cannot find its first convolution. Call whiten_ on it in a loop "
            "of your own, or drop the trick."
        ) from error
    layers = [dict(unwrapped(model).named_modules()).get(name) for name in names]
    if len(layers) != 1 or not isinstance(layers[0], nn.Conv2d):
        raise ValueError(
            f"Whitening needs one convolution that gets the image, but {kind} begins with "
            f"{' and '.join(names) or 'none'}. Use a model that begins with one nn.Conv2d, or drop "
            "the trick."
        )
    _require_plain(f"{kind}.{names[0]}", layers[0])
    return names[0], layers[0]


def _require_plain(where: str, layer: nn.Module) -> None:
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or not is_plain(layer):
        raise ValueError(
            f"{where} must be a plain nn.Conv2d of one group, to be whitened, got {layer}; its "
            "weight must not be standardized, parametrized, pruned or lazy, and its padding be "
            "torch's. Make it one, or drop whitening."
        )


def _first(batches: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """Run through the batches as far as the first samples."""
    for batch in batches:
        yield batch[:samples]
        samples -= len(batch)
        if samples <= 0:
            return


def _seen_by(
    convolution: nn.Conv2d, model: nn.Module, batches: Iterable[Tensor]
) -> Generator[Tensor, None, None]:
    """Give what a convolution sees of each batch: the model runs no further."""
    modes = [(module, module.training) for module in model.modules()]
    seen = list[Tensor]()

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _Reached

    hook = convolution.register_forward_pre_hook(stop)
    try:
        model.eval()
        for batch in batches:
            with torch.random.fork_rng(devices=[]), suppress(_Reached):
                model(batch.to(convolution.weight))
            yield seen.pop()
    finally:
        hook.remove()
        for module, mode in modes:
            module.training = mode


class _Reached(Exception):
    """The convolution was reached."""


def _check(where: str, eps: float, samples: int) -> None:
    if not 0 <= eps < math.inf:
        raise ValueError(f"{where}eps must be >= 0 and finite, got {eps}. airbench takes 5e-4.")
    if samples < 1:
        raise ValueError(f"{where}samples must be >= 1 (images), got {samples}. 5000 is usual.")
