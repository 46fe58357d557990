"""Batch norm by the statistics of all ranks, on any device.

Torch's `nn.SyncBatchNorm` runs on cards alone, and is a new module, without the hooks in which
tricks live. Here every module stays what it is: of a pass, the calls of `F.batch_norm` are other
ones. So it holds for a batch norm with an activation of its own, as timm has, too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Synchronised(TorchFunctionMode):
    """Lets batch norms take the statistics of all ranks, within; each rank passes a part."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `F.batch_norm`, by the mean m and the variance v of all N values of a channel.

        m = sum x / N,  v = sum (x - m)^2 / N,  y = (x - m) / sqrt(v + eps) * weight + bias

    in float32, [N, C, ...] to the same. The running variance takes v N / (N - 1). Gradients go
    through m and v to all ranks.
    """
    if not training:
        given = running_mean, running_var, weight, bias, training, momentum, eps
        return F.batch_norm(input, *given)
    x = input.float()
    channels, over = x.shape[1], [dim for dim in range(x.ndim) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(x.ndim)]
    own_count = x.new_full((1,), x.numel() / channels)
    total, count = _sum(torch.cat([x.sum(over), own_count])).split([channels, 1])
    count = count.detach()
    mean = total / count
    centred = x - mean.view(shape)
    variance = _sum(centred.square().sum(over)) / count
    found = mean.detach(), variance.detach() * (count / (count - 1))
    with torch.no_grad():
        for running, new in zip((running_mean, running_var), found, strict=True):
            if running is not None:
                running.add_(momentum * (new.to(running.dtype) - running))
    y: Tensor = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y.to(input.dtype)


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
