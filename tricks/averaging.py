"""Averages of weights: how they are added to, put in place, and given statistics of batch norm.

Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992,
https://doi.org/10.1137/0330046. What `Ema`, `Swa` and `LookAhead` have in common.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from tricks.layers import listed, unwrapped
from tricks.tracing import is_compiled

State = dict[str, Tensor]
"""Weights and buffers by their names in the model; a shared tensor has the first of its names."""


@torch.no_grad()
def average_(averages: State, model: nn.Module, share: float) -> None:
    """Move averages towards a model's weights and buffers: a += share * (w - a).

    With a share of 1/n at the n-th call the average is the equal one. The first call takes a copy,
    whatever the share. Half precision is averaged in float32, where small steps do not round away.
    What is no floating-point number, as the count of batches of a batch norm, is taken over.

    Args:
        averages: By name; {} before the first call.
        model: The model; of a compiled or parallel one, the module inside.
        share: What the model's weights count, from 0 to 1.

    Raises:
        ValueError: If the share is out of its range, or the averages are those of another model.

    >>> model, averages = nn.Linear(1, 1, bias=False), {}
    >>> for count, weight in enumerate((1.0, 2.0, 3.0), start=1):
    ...     _ = nn.init.constant_(model.weight, weight)
    ...     average_(averages, model, 1 / count)
    >>> averages["weight"]
    tensor([[2.]])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}.")
    tensors = state_of(model)
    if averages:
        require_part(averages, tensors, whole=True)
        move_(averages, tensors, share)
    else:
        averages.update(copy_of(tensors))


@contextmanager
def swap_state(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other weights and buffers in place within a block; after it the own ones are back.

    The parameters stay the same objects in the same memory: optimizers and compiled models hold
    them. They come back to the bit, with the buffers that the block changed, also after an error.

    Args:
        model: The model; of a compiled or parallel one, the module inside.
        state: Such as `average_` makes; what it does not name stays in place.

    Raises:
        ValueError: If the state is empty or that of another model.

    >>> model = nn.Linear(1, 1, bias=False).requires_grad_(False)
    >>> own = model.weight.clone()
    >>> with swap_state(model, {"weight": torch.tensor([[5.0]])}):
    ...     print(model(torch.ones(1)))
    tensor([5.])
    >>> torch.equal(model.weight, own)
    True
    """
    tensors = state_of(model)
    require_part(state, tensors)
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        copy_(tensors, state)
        yield
    finally:
        copy_(tensors, own)


def recompute_batch_norm_(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Compute the statistics of batch norm anew, as the mean over batches of training inputs.

    By `torch.optim.swa_utils.update_bn`, but in evaluation mode except for the batch norms: they
    see maps without dropout, as at the evaluation. With dropout on, torch's variances are too
    large (https://arxiv.org/abs/1801.05134). No random number of a global generator is used up,
    and every module is left in its mode. A model without batch norm is left alone.

    Args:
        model: The model, with the weights to evaluate with in place.
        inputs: [N, C, H, W] each, normalised, batch by batch in random order.

    Raises:
        ValueError: If there is no batch; the statistics are then as before.

    >>> norm = nn.BatchNorm2d(1)
    >>> recompute_batch_norm_(norm, [torch.full((2, 1, 2, 2), 3.0), torch.full((2, 1, 2, 2), 5.0)])
    >>> norm.running_mean
    tensor([4.])
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    batches = iter(inputs)
    if (first := next(batches, None)) is None:
        raise ValueError(
            "inputs must hold at least one batch of training inputs, got none. Batch norm has no "
            "statistics for these weights without them."
        )
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    devices = {tensor.device for tensor in norms[0].buffers() if tensor.is_cuda}
    try:
        with torch.random.fork_rng(devices=devices), _uncompiled(model):
            update_bn(chain([first], batches), _BatchNorms(norms, model))
    finally:
        for norm in norms:
            norm.momentum = momenta[norm]
        for module, mode in modes.items():
            module.training = mode
        torch.clear_autocast_cache()  # it keeps the casts of these weights


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Pass inputs without the compiler, which would compile again for each count of batches."""
    compiled = any(map(is_compiled, model.modules()))
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield


class _BatchNorms(nn.ModuleList):
    """The batch norms of a model, which alone are set to training; called, the whole is."""

    def __init__(self, norms: Iterable[nn.Module], whole: nn.Module) -> None:
        super().__init__(norms)
        self.call = whole.__call__  # no module of this one, so that it stays in its mode

    def forward(self, inputs: Tensor) -> Tensor:
        """Pass inputs through the whole model."""
        outputs: Tensor = self.call(inputs)
        return outputs


def state_of(model: nn.Module, buffers: bool = True) -> State:
    """Give back the weights and buffers of a model, or its weights: not copied, without a graph."""
    model = unwrapped(model)
    named = *model.named_parameters(), *(model.named_buffers() if buffers else ())
    return {name: tensor.detach() for name, tensor in named}


def copy_of(state: Mapping[str, Tensor]) -> State:
    """Copy weights and buffers, those in half precision to float32."""
    return {name: tensor.to(_precision(tensor), copy=True) for name, tensor in state.items()}


@torch.no_grad()
def move_(averages: State, tensors: Mapping[str, Tensor], share: float) -> None:
    """Move averages towards tensors of the same names, a += share * (t - a)."""
    means, values = [], []
    for name, value in tensors.items():
        mean = averages[name] = averages[name].to(value.device)  # a checkpoint may be on the CPU
        if mean.is_floating_point() or mean.is_complex():
            means.append(mean)
            values.append(value.to(mean.dtype))
        else:
            mean.copy_(value)
    if means:
        torch._foreach_lerp_(means, values, share)


@torch.no_grad()
def copy_(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy what the source has into a model's tensors, in place."""
    for name, tensor in source.items():
        target[name].copy_(tensor)
    torch.clear_autocast_cache()  # which keeps casts of the weights that were


def require_part(
    state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], whole: bool = False
) -> None:
    """Refuse a state that is no part of a model's, by its names and shapes, or not the whole."""
    ours, theirs = ({n: t.shape for n, t in each.items()} for each in (tensors, state))
    wrong = dict(theirs.items() - ours.items()) or (whole and dict(ours.items() - theirs.items()))
    if wrong or not theirs:
        names = f"others at {listed(sorted(wrong))}" if wrong and theirs else "none"
        raise ValueError(
            f"The averages must be those of this model, got {names}. Begin them with this model."
        )


def _precision(tensor: Tensor) -> torch.dtype:
    low = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    return torch.float32 if low else tensor.dtype
