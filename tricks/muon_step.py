"""Muon's step: the momentum of matrices, orthogonalized, beside another optimizer's step.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim import Optimizer

from tricks.groups import Group
from tricks.weights import Matrix

Scale = Literal["original", "match_rms_adamw", "spectral_unclamped"]

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Those of the post: steep at zero, so that small singular values grow fast."""


@torch.no_grad()
def orthogonalize(
    matrices: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Bring the singular values of matrices near 1, and keep their singular vectors.

    Each matrix M = U S V' becomes about U V': X = M / max(|M|, eps), with the Frobenius norm, and
    in each step, with coefficients a, b, c,

        A = X X'
        X = a X + (b A + c A A) X

    After five steps of the published coefficients, singular values from .003 of the norm on are
    between .68 and 1.21. They need not be 1, says their author. A matrix of zeros stays one.

    Args:
        matrices: [..., m, n]; leading dimensions are computed together.
        steps: The steps, >= 0.
        coefficients: a, b, c.
        eps: The least norm to divide by, > 0.
        dtype: The type to compute in; None for bfloat16 on CUDA, float32 elsewhere, and float64
            for float64.

    Returns:
        [..., m, n], in the type of the matrices.

    >>> orthogonalize(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), steps=30, coefficients=(2, -1.5, 0.5))
    tensor([[1., 0.],
            [0., 1.]])
    """
    if dtype is None:
        dtype = torch.bfloat16 if matrices.is_cuda else torch.float32
        dtype = torch.float64 if matrices.dtype is torch.float64 else dtype
    rows, columns = matrices.shape[-2:]
    x = matrices.reshape(-1, rows, columns).to(dtype)
    x = x.mT if rows > columns else x
    x = x / vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.mT if rows > columns else x
    return x.to(matrices.dtype).reshape(matrices.shape)


class MuonAndRest(Optimizer):
    """Muon for some parameters and another optimizer for the others, as one optimizer.

    Its groups are those of the other optimizer, the same dictionaries, and behind them Muon's. A
    group that is added later is the other optimizer's.

    Args:
        matrices: What Muon trains.
        rest: The optimizer of all else; its groups may be empty.
        options: Of Muon's group: lr, momentum, nesterov, weight_decay, steps, coefficients, scale
            and normalize, as in `Muon`.
    """

    rest: Optimizer | None = None

    def __init__(self, matrices: Iterable[Matrix], rest: Optimizer, options: Group) -> None:
        self.matrices: dict[Tensor, Matrix] = {matrix.parameter: matrix for matrix in matrices}
        super().__init__([{"params": [*self.matrices], **options}], {})
        self.rest = rest
        self.state.update(rest.state)
        self._join(rest.param_groups, self.param_groups)

    def _join(self, others: Sequence[Group], own: Sequence[Group]) -> None:
        assert self.rest is not None
        self.rest.param_groups, self.param_groups = [*others], [*others, *own]
        self.rest.state = self.state

    def add_param_group(self, param_group: Group) -> None:
        """Add a group to the other optimizer."""
        if self.rest is None:  # still being built
            super().add_param_group(param_group)
            return
        count = len(self.rest.param_groups)
        own = self.param_groups[count:]
        self.rest.add_param_group(param_group)
        added = self.rest.param_groups[-1]
        if not self.matrices.keys().isdisjoint(added["params"]):
            self.rest.param_groups.pop()
            raise ValueError("some parameters appear in more than one parameter group")
        self._join(self.rest.param_groups, own)

    def __getstate__(self) -> dict[str, Any]:
        """Give back what a copy needs; as in every optimizer of torch, hooks are left out."""
        state: dict[str, Any] = super().__getstate__()
        return {**state, "matrices": self.matrices, "rest": self.rest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take back what `__getstate__` or `load_state_dict` gives."""
        super().__setstate__(state)
        assert self.rest is not None
        count = len(self.rest.param_groups)
        self.rest.__setstate__({"state": self.state, "param_groups": self.param_groups[:count]})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Make one update of all parameters that have a gradient."""
        assert self.rest is not None
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups[len(self.rest.param_groups) :]:
            self._update(group)
        if self.rest.param_groups:
            self.rest.step()
        return loss

    def _update(self, group: Group) -> None:
        parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        rate, momentum = float(group["lr"]), group["momentum"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        buffers = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            buffers.append(state["momentum_buffer"])
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        moved = torch._foreach_lerp(gradients, buffers, momentum) if group["nesterov"] else buffers
        if group["normalize"]:
            _normalize_([self.matrices[p] for p in parameters])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        alike = defaultdict[Any, list[tuple[Matrix, Tensor]]](list)
        for parameter, update in zip(parameters, moved, strict=True):
            matrix = self.matrices[parameter]
            cut = matrix.cut(update)
            alike[cut.shape[1:], cut.dtype, cut.device].append((matrix, cut))
        for ((rows, columns), *_), each in alike.items():
            all_at_once = torch.cat([cut for _, cut in each])
            done = orthogonalize(all_at_once, group["steps"], tuple(group["coefficients"]))
            alpha = -rate * scale_of(rows, columns, group["scale"])
            parts = done.split([len(cut) for _, cut in each])
            for (matrix, _), update in zip(each, parts, strict=True):
                matrix.parameter.add_(matrix.join(update), alpha=alpha)


def scale_of(rows: int, columns: int, scale: Scale) -> float:
    """Give back what an orthogonalized matrix is multiplied by, beside the learning rate.

    >>> scale_of(256, 64, "original"), scale_of(64, 256, "original")
    (2.0, 1.0)
    """
    if scale == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    ratio = rows / columns
    return math.sqrt(ratio if scale == "spectral_unclamped" else max(1.0, ratio))


def _normalize_(matrices: Sequence[Matrix]) -> None:
    parameters: list[Tensor] = [matrix.parameter for matrix in matrices]
    units = [matrix.groups * matrix.cut(matrix.parameter).shape[1] for matrix in matrices]
    norms = torch._foreach_norm(parameters)
    each = zip(units, norms, strict=True)
    factors = [math.sqrt(count) / norm.clamp(min=1e-7) for count, norm in each]
    torch._foreach_mul_(parameters, factors)
