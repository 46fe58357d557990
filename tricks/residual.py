"""The residual blocks of a model, and where hooks reach the results of their branches."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from tricks.layers import is_weight
from tricks.residual_sums import DROPS, NORMS, SCALING, Sum, Sums
from tricks.shapes import SAMPLES

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Exit(NamedTuple):
    """A module whose result is that of a branch, but for a scale, and flows nowhere else."""

    name: str
    shape: torch.Size
    """Of its result, of `SAMPLES` samples."""
    calls: int
    """How often it is called, always at the end of a branch."""
    dropped: bool
    """Whether in training its result is one from which units or samples were dropped."""


@dataclass(frozen=True)
class Block:
    """A residual block: `shortcut(x) + branch(x)`."""

    owner: str
    """The name of the module in whose forward the addition stands."""
    layers: tuple[str, ...]
    """The names of the modules that the branch calls, in order."""
    exits: tuple[Exit, ...]
    """Where hooks reach the branch's result, the last module first."""
    norm: str | None
    """The branch's last norm, if the branch is 0, and still learns, when the norm's weight is 0."""
    closed: str
    """Where there is no exit, why."""
    last: str
    """Where there is no such norm, what the branch ends in."""


def find_blocks(model: nn.Module, trick: str, call: str) -> list[Block]:
    """List the residual blocks of a model, in the order of the computation.

    A block is the sum of two maps of one shape. One, the shortcut, is the block's input, perhaps by
    way of one convolution, norms and pools; the other, the branch, has more layers on its way from
    there. No block is a sum of three, and none on whose branch a map is enlarged. Where blocks are
    nested, the outer one counts if it holds one other, else the inner ones.

    Args:
        model: Any module that `torch.fx` can trace; it is read in evaluation mode, and not changed.
        trick: The trick that asks, for the messages.
        call: Its function, for the messages.

    Raises:
        ValueError: If the model cannot be traced, or has no residual block.
    """
    sums = Sums(model, call)
    found = sums.find()
    if not found:
        partly = (
            f" Its maps could be followed only in part: {sums.problem}." if sums.problem else ""
        )
        raise ValueError(
            f"{trick} found no residual block in {type(model).__name__}: nowhere is the result of "
            f"layers added to their input.{partly} ResNets have such blocks; use one, or drop the "
            "trick."
        )
    tails = [list(_tail(sums, each)) for each in found]
    reached = {node for tail in tails for node in tail}
    return [_block(sums, *both, reached) for both in zip(found, tails, strict=True)]


def exit_of(block: Block, model: str) -> Exit:
    """Give back the exit nearest to the addition.

    Raises:
        ValueError: If there is none.
    """
    if not block.exits:
        where = ".".join(filter(None, (model, block.owner)))
        raise ValueError(
            f"No hook reaches the branch of {where} alone: it ends in {block.closed}. Let it end "
            "in a module that is called once, such as nn.Identity()."
        )
    return block.exits[0]


@dataclass
class Through:
    """A hook that passes the result of a branch through a module of the same shape."""

    module: nn.Module

    def __call__(self, _: nn.Module, __: object, output: Tensor) -> Tensor:
        """Give back what flows on in place of the module's result."""
        return self.module(output)  # type: ignore[no-any-return]


def attach_(model: nn.Module, block: Block, end: str, name: str, module: nn.Module) -> None:
    """Pass the result of a branch through a module, which the owner of the block holds.

    A container would call what it holds: then what holds the container does, or else the end.

    Args:
        model: The model.
        block: A block of it.
        end: The name of the module whose result is passed on.
        name: What the new module is called, if the owner has none of that name yet.
        module: The new module.
    """
    holder = block.owner
    while isinstance(model.get_submodule(holder), CONTAINERS):
        holder = holder.rpartition(".")[0] if holder else end
    owner, own, number = model.get_submodule(holder), name, 1
    while hasattr(owner, own):
        number += 1
        own = f"{name}_{number}"
    owner.add_module(own, module)
    model.get_submodule(end).register_forward_hook(Through(module))


def drop_rate(module: nn.Module) -> float:
    """Give back the share that a module drops of branches or units in training; 0 of others."""
    kind = type(module).__name__.lower()
    if kind not in DROPS and not kind.startswith("dropout"):
        return 0.0
    rate = getattr(module, "drop_prob", getattr(module, "p", 0.0))
    return rate if isinstance(rate, float | int) else 0.0


def _block(sums: Sums, each: Sum, tail: list[fx.Node], reached: set[fx.Node]) -> Block:
    stack = list(each.node.meta.get("nn_module_stack", {}).values())
    calls = [node for node in sums.between(each.start, each.branch) if node.op == "call_module"]
    exits, closed = list[Exit](), ""
    for place, node in enumerate(tail):
        earlier = [sums.modules[str(n.target)] for n in tail[place:] if n.op == "call_module"]
        dropped = any(map(drop_rate, earlier))
        own = (n for n in sums.callers[node] if reached.issuperset(sums.calls[n]))
        if (name := next(own, None)) and sums.shapes[node][0] == SAMPLES:
            exits.append(Exit(name, sums.shapes[node], len(sums.calls[name]), dropped))
    if not tail:
        others = [user for user in sums.users(each.branch) if user is not each.node]
        closed = f"{sums.name(each.branch)}, which feeds {sums.name(others[0])} too"
    elif not exits:
        elsewhere = "that is called elsewhere too" if sums.callers[tail[0]] else "no module"
        closed = f"{sums.name(tail[0])}, {elsewhere}"
    norm, last = _last_norm(sums, each)
    owner = stack[-1][0] if stack else ""
    names = tuple(dict.fromkeys(str(node.target) for node in calls))
    return Block(owner, names, tuple(exits), norm, closed, last)


def _tail(sums: Sums, each: Sum) -> Iterator[fx.Node]:
    """Follow a branch up from its addition, as long as one map alone is scaled or dropped."""
    node, user = each.branch, each.node
    while sums.users(node) == [user]:
        yield node
        inputs = sums.inputs(node)
        if sums.operation(node) not in SCALING or len(inputs) != 1:
            return
        node, user = inputs[0], node


def _last_norm(sums: Sums, each: Sum) -> tuple[str | None, str]:
    """Follow a branch up to a norm whose weight, at 0, makes it 0 and still has a gradient."""
    node, user = each.branch, each.node
    while True:
        inputs = sums.inputs(node)
        module = sums.modules[str(node.target)] if node.op == "call_module" else None
        if others := [n for n in sums.users(node) if not sums.above[user] & sums.bit[n]]:
            return None, f"{sums.name(node)}, which feeds {sums.name(others[0])} too"
        if isinstance(module, NORMS):
            channels = sums.shapes[node][1]
            own = [m for name, m in module.named_children() if name != "parametrizations"]
            if all(_learns_at_zero(child, channels) for child in own):
                return str(node.target), ""
        elif module is not None:
            passes = node in sums.shapes and _learns_at_zero(module, sums.shapes[node][1])
            inputs = inputs if passes else []
        elif sums.operation(node) not in SCALING:
            inputs = []
        if len(inputs) == 2 and sums.above[inputs[1]] & sums.bit[inputs[0]]:
            inputs = inputs[:1]  # x * gate(x)
        elif len(inputs) == 2 and sums.above[inputs[0]] & sums.bit[inputs[1]]:
            inputs = inputs[1:]
        if len(inputs) != 1 or isinstance(module, NORMS):
            return None, sums.name(node)
        node, user = inputs[0], node


def _learns_at_zero(module: nn.Module, channels: int) -> bool:
    """Whether a module gives 0 for 0, and has a gradient there: an activation, not ReLU; a drop."""
    if any(map(is_weight, module.parameters())):
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            x = torch.zeros(1, channels, 1, 1, requires_grad=True)
            y = copy.deepcopy(module).cpu().float().eval()(x * 1)  # it may work in place
            (slope,) = torch.autograd.grad(y.sum(), x)
    except Exception:  # whatever its own code raises
        return False
    return bool((y == 0).all() and (slope != 0).all())
