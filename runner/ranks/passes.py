"""The passes of a model in training, and the sums of losses and gradients over the ranks."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from runner.errors import UserError
from runner.ranks.batch_norm import Synchronised
from runner.ranks.meeting import Ranks

DRIFT = (
    "A trick, an optimizer or a loss of your own has to change the weights alike on all ranks: "
    "docs/own.md says how."
)

OLDER = "broadcast_buffers"
"""How older versions of torch call it that a pass gives all ranks the first one's buffers."""


class Passes:
    """How a model is passed by one process, or by this one of several ranks.

    Several add up their gradients while the last part of each goes backward, by torch's
    `DistributedDataParallel`. It is told to add and not to average, since each part's loss is
    multiplied by its share of the update's samples.

    Args:
        model: The model, which stays as it is.
        ranks: Those that share the update.
        together: Whether batch norms take the statistics of all ranks.

    Raises:
        UserError: If several ranks have a model with lazy layers: their weights cannot be sent.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, together: bool = False) -> None:
        lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
        if lazy and ranks.count > 1:
            raise UserError(
                f"model: over ranks all weights are needed at the start, and {lazy[0]} is made in "
                "the first pass. Put layers with sizes in place of lazy ones."
            )
        self.model, self.ranks, self.together = model, ranks, together

    @cached_property
    def shared(self) -> DistributedDataParallel | None:
        """The model as the ranks share it; None for one process. Made when all ranks train."""
        if self.ranks.count == 1:
            return None
        # torch's own first exchange knows fewer types of buffers
        _send([*self.model.parameters(), *self.model.buffers()])
        options: dict[str, Any] = {"find_unused_parameters": True, "init_sync": False}
        # as newer versions of torch name it
        known = signature(DistributedDataParallel).parameters
        options["forward_sync_buffers" if "forward_sync_buffers" in known else OLDER] = False
        device = next(self.model.parameters()).device
        shared = DistributedDataParallel(_Part(self.model).to(device), **options)
        shared.register_comm_hook(None, _add_up)
        # of kernels of one pixel, whose strides may be anything
        warnings.filterwarnings("ignore", "Grad strides do not match")
        return shared

    def __call__(self, inputs: Tensor, is_last: bool) -> Tensor:
        """Pass one part of an update, [n, C, H, W], to logits [n, K].

        Args:
            inputs: Of the part.
            is_last: Whether it is this rank's last one.
        """
        if self.shared is None:
            return self.model(inputs)  # type: ignore[no-any-return]
        norms = Synchronised() if self.together else nullcontext()
        with nullcontext() if is_last else self.shared.no_sync(), norms:
            return self.shared(inputs)  # type: ignore[no-any-return]

    def sums(self, *losses: Sequence[Tensor]) -> list[Tensor]:
        """Add up the losses of all parts, when those of this rank have gone backward.

        Afterwards the buffers are those of the first rank, as with DistributedDataParallel.

        Args:
            losses: Of each part, scalars, in several kinds.
        """
        if self.shared is None:
            return [sum(each[1:], each[0]) for each in losses]
        if not losses[0]:  # there are fewer parts than ranks
            self.shared(None).backward()
        zero = torch.zeros((), device=next(self.model.parameters()).device)
        found = torch.stack([sum(each[1:], each[0]) if each else zero for each in losses])
        dist.all_reduce(found)
        _send([*self.model.buffers()])
        return [*found.unbind()]

    def refuse_drift(self, update: int) -> None:
        """Refuse ranks whose models differ after an update, of which the sums of all bytes tell.

        Raises:
            UserError: If they differ, on the first rank.
            Elsewhere: If they differ, on the others.
        """
        if self.ranks.count > 1:
            tensors = [*self.model.parameters(), *self.model.buffers()]
            total = int(torch.stack([_sum_of_bytes(tensor) for tensor in tensors]).sum())
            with self.ranks.talking():  # what NCCL has dropped on a card it tells in the next call
                dist.all_reduce(torch.zeros((), device=tensors[0].device))
            facts = {f"the sum of the model's bytes after update {update}": total}
            self.ranks.refuse_differences(facts, DRIFT)


def _sum_of_bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).sum()


class _Part(nn.Module):
    """A model that can also be passed no samples: then every gradient is 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.unused = nn.Parameter(torch.zeros(()))  # torch warns where every parameter is used

    def forward(self, inputs: Tensor | None) -> Tensor:
        if inputs is None:
            parts = [p.sum() * 0 for p in self.model.parameters() if p.requires_grad]
            return torch.stack(parts).sum()
        return self.model(inputs)  # type: ignore[no-any-return]


def _add_up(_: object, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    """Add up a bucket of gradients."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


@torch.no_grad()
def _send(tensors: Sequence[Tensor]) -> None:
    """Give all ranks the first one's tensors: those of a type in one piece."""
    kinds: dict[tuple[Any, Any], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        whole = torch.cat([tensor.reshape(-1) for tensor in alike])
        dist.broadcast(whole.view(torch.uint8), src=0)  # gloo knows few types
        parts = whole.split([tensor.numel() for tensor in alike])
        for tensor, part in zip(alike, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
