"""Batch norm by the statistics of all ranks, on any device.

Torch's `nn.SyncBatchNorm` runs on cards alone, and is a new module, without the hooks in which
tricks live. Here a batch norm stays the module that it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from tricks.derived import Derived, derive_


class _Where:
    """Whether batch norms are called by all ranks at once, as in the passes of an update."""

    is_shared = False


@contextmanager
def synchronised() -> Iterator[None]:
    """Let batch norms take the statistics of all ranks, within; each rank passes a part."""
    _Where.is_shared = True
    try:
        yield
    finally:
        _Where.is_shared = False


def synchronise_batch_norms_(model: nn.Module) -> None:
    """Let the batch norms of a model take the statistics of all ranks, in place.

    A batch norm that a trick has changed, as to ghosts, stays as it is.
    """
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, Derived):
            derive_(layer, _Synchronised)


class _Synchronised(Derived):
    """A batch norm by the mean m and the variance v of all N values of a channel, on all ranks.

        m = sum x / N,  v = sum (x - m)^2 / N,  y = (x - m) / sqrt(v + eps) * weight + bias

    in float32. The running variance takes v N / (N - 1). Gradients go through m and v to all ranks.
    """

    momentum: float | None
    eps: float
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...] to the same."""
        if not (_Where.is_shared and self.training):
            return super().forward(input)  # type: ignore[no-any-return]
        x = input.float()
        channels, over = x.shape[1], [dim for dim in range(x.ndim) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(x.ndim)]
        own_count = x.new_full((1,), x.numel() / channels)
        total, count = _sum(torch.cat([x.sum(over), own_count])).split([channels, 1])
        count = count.detach()
        mean = total / count
        centred = x - mean.view(shape)
        variance = _sum(centred.square().sum(over)) / count
        self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        y: Tensor = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics by what was found."""
        if self.running_mean is None or self.running_var is None:
            return
        momentum: float | Tensor = 0.0 if self.momentum is None else self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1 / self.num_batches_tracked
        for running, found in ((self.running_mean, mean), (self.running_var, variance)):
            running.add_(momentum * (found.to(running.dtype) - running))


def _sum(tensor: Tensor) -> Tensor:
    """Add up the tensors of all ranks; the gradients of all ranks go to each."""
    added: Tensor = _Sum.apply(tensor)
    return added


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:  # noqa: ANN401, ARG004
        whole = tensor.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401, ARG004
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        return whole
