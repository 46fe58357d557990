"""Zero initialisation: each residual block begins as its shortcut alone.

Goyal et al., "Accurate, Large Minibatch SGD", section 5.1, https://arxiv.org/abs/1706.02677; one of
the steps of He et al., "Bag of Tricks", https://arxiv.org/abs/1812.01187.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tricks.residual import find_blocks
from tricks.trick import Trick


def zero_init_(model: nn.Module) -> None:
    """Set the weight (gamma) of the last norm of each residual branch to 0, in place.

    The norm gives gamma * z + beta, and beta begins at 0: then branch(x) = 0, and the block is its
    shortcut. Gamma has a gradient from the first update on, and the other weights of the branch
    from the second.

    The last norm is that whose result is added, perhaps scaled, dropped, gated by channel, or by
    way of an activation with a slope at 0. Where the branch ends otherwise, as in a ReLU or a
    convolution, such a gamma would learn nothing or there is none: the model is refused.

    Args:
        model: Any module with residual blocks that `torch.fx` can trace, not yet compiled or
            wrapped.

    Raises:
        ValueError: If the model has no residual block, or one without such a norm. It is unchanged
            then.

    >>> from torchvision.models import resnet18
    >>> model = resnet18()
    >>> zero_init_(model)
    >>> model.layer1[0].bn2.weight.abs().max().item()
    0.0
    """
    for weight in _weights(model):
        nn.init.zeros_(weight)


@final
@dataclass(frozen=True)
class ZeroInit(Trick):
    """Set the last norm's weight of each residual branch to 0 (`initialize`), by `zero_init_`.

    Raises:
        ValueError: In `initialize`, where `zero_init_` refuses the model, or if it begins so
            already, as the ResNets of timm do (`zero_init_last`).

    >>> from torchvision.models import resnet18
    >>> model = resnet18()
    >>> ZeroInit().initialize(model, [])
    >>> model.layer4[1].bn2.weight.count_nonzero().item()
    0
    """

    def initialize(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:  # noqa: ARG002
        """Set the weights to 0; the inputs are not read."""
        weights = _weights(model)
        if not any(weight.any() for weight in weights):
            raise ValueError(
                f"The last norms of {type(model).__name__} begin at 0 already: zero_init would do "
                "nothing. Build the model without (timm: zero_init_last=False), or drop the trick."
            )
        for weight in weights:
            nn.init.zeros_(weight)


def _weights(model: nn.Module) -> list[Tensor]:
    """List the weights of the last norms, once each."""
    found = dict[str, Tensor]()
    for block in find_blocks(model, "ZeroInit", "zero_init_"):
        where = ".".join(filter(None, (type(model).__name__, block.owner)))
        if block.norm is None:
            raise ValueError(
                f"The branch of {where} has no last norm, whose weight could begin at 0: it ends "
                f"in {block.last}. Use a network whose blocks end in a norm, as ResNets do, or "
                "drop the trick."
            )
        norm = model.get_submodule(block.norm)
        if parametrize.is_parametrized(norm, "weight"):
            raise ValueError(
                f"{where} ends in the norm {block.norm}, whose weight is parametrized, and so "
                "cannot be set. Remove the parametrization."
            )
        if not isinstance(norm.weight, Tensor):
            raise ValueError(
                f"{where} ends in the norm {block.norm}, which has no weight. Build it with "
                "affine=True (LayerNorm: elementwise_affine=True), or drop the trick."
            )
        found[block.norm] = norm.weight
    return list(found.values())
