"""Stochastic depth: in training, leave out residual branches at random, the later the more often.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, https://arxiv.org/abs/1603.09382

Where we differ: a branch is left out for each sample by itself, as
https://github.com/huggingface/pytorch-image-models and torchvision do (`mode="batch"`: for all of
them, as in the paper), and a branch that stays is scaled in training, by 1 / (1 - p), where the
paper scales it in evaluation; there the network is the plain one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from tricks.residual import Block, attach_, drop_rate, exit_of, find_blocks
from tricks.residual_sums import DROPS
from tricks.trick import Batch, Time, Trick, number, require_one_of

Mode = Literal["row", "batch"]


def stochastic_depth(model: nn.Module, rate: float = 0.2, mode: Mode = "row") -> nn.Module:
    """Let the residual branches of a model be left out in training, and give the model back.

    Branch l of L, in the order of the computation, is left out with the probability

        p_l = l / L * rate,

    so that the last one is with `rate` and the first one with `rate` / L. With m_l a mask of ones
    and zeros, a block is

        shortcut(x) + m_l / (1 - p_l) * branch(x)      in training
        shortcut(x) + branch(x)                        in evaluation

    Hooks multiply; each block gets a module `stochastic_depth` without parameters. The model stays
    an ordinary module, with the same parameters and `state_dict` keys. The masks of all blocks are
    drawn before each pass in training mode, from torch's global generator of the inputs' device, as
    dropout's are. Every branch is computed, and its batch norms see all samples.

    A block is what `find_blocks` finds: in a transformer, the attention and the perceptron each.

    Args:
        model: Any module with residual blocks that `torch.fx` can trace, not yet compiled or
            wrapped.
        rate: The probability of the last branch, between 0 and 1.
        mode: `row` draws for each sample, `batch` one mask for all of them.

    Raises:
        ValueError: If a value is out of its range, or the model has no residual block, drops
            branches already, or has a branch that no hook reaches. It is unchanged then.

    >>> from torchvision.models import resnet18
    >>> model = stochastic_depth(resnet18(), rate=0.5)
    >>> [block.stochastic_depth.p for block in (model.layer1[0], model.layer4[1])]
    [0.0625, 0.5]
    """
    _change(model, rate, mode)
    return model


@final
@dataclass(eq=False)
class StochasticDepth(Trick):
    """Leave out residual branches (`model`), by masks that `batch` draws for the next pass.

    A pass in training mode that no `batch` came before leaves nothing out: one in which batch norm
    is calibrated, or samples are chosen. In a loop of your own call `batch` before each pass, or
    use `stochastic_depth`. The masks depend on the generator alone: a second call with the same one
    draws the same.

    Reports `dropped`: the share of the branches that the last update left out.

    Attributes:
        rate: The probability of the last branch, between 0 and 1.
        mode: `row` draws for each sample, `batch` one mask for all of a micro-batch.

    Raises:
        ValueError: If a value is out of its range; in `model`, where `stochastic_depth` refuses it.

    >>> from torchvision.models import resnet18
    >>> trick = StochasticDepth(rate=0.5)
    >>> model = trick.model(resnet18(num_classes=10))
    >>> batch = Batch(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
    >>> batch = trick.batch(batch, torch.Generator().manual_seed(0))
    >>> model(batch.inputs).shape
    torch.Size([2, 10])
    """

    after: ClassVar[tuple[str, ...]] = (
        "AntiAliasing", "GhostBatchNorm", "SelectiveBackward", "SqueezeExcite",
    )  # fmt: skip
    activity: ClassVar[str | None] = "dropped"

    rate: float = 0.2
    mode: Mode = "row"

    def __post_init__(self) -> None:
        _check("StochasticDepth.", self.rate, self.mode)
        self._begin()

    def _begin(self) -> None:
        self._masks: Masks | None = None
        self._drawn: tuple[float | Tensor, int] = 0.0, 0  # shares left out since the last update
        self._share: float | Tensor | None = None  # of the last update

    def model(self, model: nn.Module) -> nn.Module:
        """Give back the same model, with the hooks."""
        self._begin()
        self._masks = _change(model, self.rate, self.mode)
        self._masks.are_given = True
        return model

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Draw the masks of the next pass; the samples stay as they are."""
        if self._masks is None:
            raise ValueError(
                "StochasticDepth has seen no model. Call its `model` once before training."
            )
        masks = self._masks.draw(len(batch.inputs), generator.device, generator)
        self._masks.next = masks
        left_out, count = self._drawn
        self._drawn = left_out + 1 - masks.float().mean(), count + 1
        return batch

    def weights(self, model: nn.Module, time: Time) -> None:  # noqa: ARG002
        """Note the share of the update; the weights stay as they are."""
        left_out, count = self._drawn
        self._share, self._drawn = left_out / max(count, 1), (0.0, 0)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin at the beginning of an update: masks of one that was left out do not count."""
        super().load_state_dict(state)
        self._drawn = 0.0, 0
        if self._masks is not None:
            self._masks.next = None

    def report(self) -> dict[str, float | Tensor]:
        """Give back the share of the branches that the last update left out."""
        return {} if self._share is None else {"dropped": number(self._share)}


@dataclass(eq=False)
class Masks:
    """Which branches stay, [L, N] or, for the whole batch, [L, 1]; the hooks of a model share it.

    As a hook of the model it begins a pass.
    """

    rates: tuple[float, ...]
    mode: Mode
    are_given: bool = False
    """Whether the masks of a pass come from a trick, or are drawn when it begins."""
    next: Tensor | None = None
    """Those of the next pass."""
    now: Tensor | None = None
    """Those of this pass, and of what its backward computes again."""

    def draw(
        self, samples: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the masks of all blocks."""
        columns = samples if self.mode == "row" else 1
        blocks = len(self.rates)
        rates = torch.linspace(self.rates[0], self.rates[-1], blocks, device=device)
        draws = torch.rand(blocks, columns, generator=generator, device=device)
        return draws >= rates.unsqueeze(1)

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a pass."""
        if not model.training:
            return
        if self.are_given:
            self.now, self.next = self.next, None
        else:
            images = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
            self.now = self.draw(len(images), images.device)


class BranchDrop(nn.Module):
    """Leaves out the results of a branch, for the samples that its mask names, in training.

    It is a module so that it knows whether its block trains, also where norms are frozen.
    """

    def __init__(self, masks: Masks, place: int) -> None:
        super().__init__()
        self.masks, self.place = masks, place
        self.p = masks.rates[place]

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] to the same."""
        if not self.training or self.masks.now is None:
            return x
        stays = self.masks.now[self.place]
        if len(stays) not in (1, len(x)):
            raise ValueError(
                f"StochasticDepth drew masks for {len(stays)} samples, got a map of {len(x)}. Call "
                "`batch` with the samples of the next pass, on each device by itself."
            )
        return torch.where(stays.view(-1, *[1] * (x.ndim - 1)), x / (1 - self.p), 0)

    def extra_repr(self) -> str:
        """Write the probability and the mode."""
        return f"p={self.p:.4g}, mode={self.masks.mode}"


def _change(model: nn.Module, rate: float, mode: Mode) -> Masks:
    """Attach the hooks."""
    _check("", rate, mode)
    name = type(model).__name__
    for inner, module in model.named_modules():
        if isinstance(module, BranchDrop):
            raise ValueError(f"{name} has stochastic depth already. Call stochastic_depth once.")
        if type(module).__name__.lower() in DROPS and (own := drop_rate(module)):
            raise ValueError(
                f"{name}.{inner} is a {type(module).__name__} that drops its branch already, with "
                f"probability {own:.4g}: it would be dropped twice. Build the model with "
                "drop_path_rate=0 (timm) or stochastic_depth_prob=0 (torchvision), or switch "
                "stochastic_depth off."
            )
    blocks = find_blocks(model, "StochasticDepth", "stochastic_depth")
    ends = [_end(name, block) for block in blocks]
    masks = Masks(tuple((k + 1) / len(blocks) * rate for k in range(len(blocks))), mode)
    for place, (block, end) in enumerate(zip(blocks, ends, strict=True)):
        drop = BranchDrop(masks, place).train(model.training)
        attach_(model, block, end, "stochastic_depth", drop)
    model.register_forward_pre_hook(masks, with_kwargs=True)
    return masks


def _end(name: str, block: Block) -> str:
    """Give back the module whose result is multiplied."""
    end = exit_of(block, name)
    if end.calls > 1:
        raise ValueError(
            f"{name}.{end.name} ends {end.calls} branches, of which each needs a mask of its own. "
            "Give each a module of its own."
        )
    return end.name


def _check(where: str, rate: float, mode: str) -> None:
    if not 0 < rate < 1:
        raise ValueError(
            f"{where}rate must be > 0 and < 1, got {rate}. To leave out nothing, switch the trick "
            "off."
        )
    require_one_of(f"{where}mode", mode, Mode)
