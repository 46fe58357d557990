"""Ghost batch norm: in training, normalise small parts of a batch each by its own statistics.

Hoffer et al., "Train longer, generalize better", NeurIPS 2017, https://arxiv.org/abs/1705.08741

Where we differ: the running statistics move once a batch, by the mean of those of the parts, and so
as fast as in plain batch norm. In the paper they move once for each part, and Composer
(https://github.com/mosaicml/composer) divides the momentum by the number of parts, so that later
parts weigh more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tricks.derived import Derived, derive_
from tricks.trick import Batch, Time, Trick


def ghost_batch_norm(model: nn.Module, size: int = 32) -> nn.Module:
    """Let the batch norms of a model normalise parts of a batch in training, and give it back.

    A batch [N, C, ...] is cut into ceil(N / size) parts in a row, whose numbers of samples differ
    by one at most; fewer, where a part would have a single value of a channel, as where maps have
    shrunk to a pixel. Each part is normalised by its own mean and variance. With n_i samples of N
    in part i, its mean m_i and unbiased variance v_i, and the layer's momentum a, the running
    statistics become

        mean = (1 - a) mean + a sum_i n_i / N m_i       var = (1 - a) var + a sum_i n_i / N v_i

    A batch of at most `size` samples gives what plain batch norm gives, to the bit, and so does a
    layer in evaluation mode. `momentum=None` averages over batches, as ever. A micro-batch, and the
    batch of a rank, is a batch: those smaller than `size` are one part.

    The layers are changed in place, before the model is compiled or wrapped; parameters, buffers
    and `state_dict` keys stay what they are. A subclass with a forward of its own, such as timm's
    `BatchNormAct2d`, is called with one part after the other.

    Args:
        model: Any module with `nn.BatchNorm1d`, `2d` or `3d`.
        size: The most samples that are normalised together, >= 2.

    Raises:
        ValueError: If the size is out of its range, or the model has no batch norm, has ghosts
            already, or a batch norm that cannot be cut: one over ranks, or one that is lazy. The
            model is unchanged then.

    >>> norm = ghost_batch_norm(nn.BatchNorm1d(1), size=2)
    >>> norm(torch.tensor([[0.0], [2.0], [10.0], [12.0]])).flatten().round(decimals=3)
    tensor([-1.,  1., -1.,  1.], grad_fn=<RoundBackward1>)
    """
    _check_size("size", size)
    norms = [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm)]
    for name, norm in norms:
        where = ".".join(filter(None, (type(model).__name__, name)))
        if isinstance(norm, _Ghosts):
            raise ValueError(f"{where} is a ghost batch norm already. Change a model only once.")
        if isinstance(norm, nn.SyncBatchNorm):
            raise ValueError(
                f"{where} is a {type(norm).__name__}, which normalises the batches of all ranks "
                "together; ghosts are parts of the batch of one. Use nn.BatchNorm2d, or drop "
                "ghost_batch_norm."
            )
        if isinstance(norm, nn.modules.lazy.LazyModuleMixin):
            raise ValueError(
                f"{where} is a {type(norm).__name__}, without its number of channels. Pass a batch "
                "through the model first."
            )
    if not norms:
        kind = type(model).__name__
        raise ValueError(
            f"GhostBatchNorm found no batch norm in {kind}. Use a model with nn.BatchNorm1d, 2d or "
            "3d, or drop the trick."
        )
    for _, norm in norms:
        derive_(norm, _Ghosts, ghost_size=size)
    return model


class _Ghosts(Derived):
    """A batch norm, called with one part of a batch after the other."""

    ghost_size: int
    momentum: float | None
    num_batches_tracked: Tensor | None
    track_running_stats: bool

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...] to the same."""
        sizes = self._parts(input) if self.training else []
        if len(sizes) < 2:
            return super().forward(input)  # type: ignore[no-any-return]
        momentum, batches = self.momentum, self.num_batches_tracked
        seen = None if batches is None else batches + 1
        average = momentum
        if average is None:
            average = 1 / float(seen) if seen is not None and self.track_running_stats else 0.0
        waiting = len(input)
        outputs: list[Tensor] = []  # torch.compile cannot trace list[Tensor]()
        try:
            for part in input.split(sizes):
                # the parts that wait will scale this one's weight down to average * share
                waiting -= len(part)
                self.momentum = average * len(part) / (len(input) - average * waiting)
                outputs.append(super().forward(part))
        finally:
            self.momentum = momentum
        if batches is not None and seen is not None and self.track_running_stats:
            batches.copy_(seen)
        return torch.cat(outputs)

    def _parts(self, input: Tensor) -> list[int]:
        """Give back the sizes of a batch's parts, each of two values of a channel or more."""
        samples = len(input)
        is_single = input[:1].numel() == input.shape[1]  # a sample has one value of a channel
        count = min(-(-samples // self.ghost_size), samples // 2 if is_single else samples)
        return [(samples + i) // count for i in range(count)]

    def extra_repr(self) -> str:
        """Write the size too."""
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"


@final
@dataclass(eq=False)
class GhostBatchNorm(Trick):
    """Normalise parts of a batch (`model`), by `ghost_batch_norm`.

    Reports `cut_share`: of the micro-batches of the last update, the share that had more than
    `size` samples. Where it stays 0 the trick did nothing.

    Attributes:
        size: The most samples that are normalised together, >= 2; the paper's is 128.

    Raises:
        ValueError: If the size is out of its range; in `model`, where `ghost_batch_norm` refuses
            it.

    >>> model = GhostBatchNorm(size=16).model(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    >>> model[1].ghost_size
    16
    """

    activity: ClassVar[str | None] = "cut_share"

    size: int = 32

    def __post_init__(self) -> None:
        _check_size("GhostBatchNorm.size", self.size)
        self._begin()

    def _begin(self) -> None:
        self._cut = list[bool]()  # of the micro-batches since the last update
        self._share: float | None = None  # of the last update

    def model(self, model: nn.Module) -> nn.Module:
        """Give back the same model, with ghosts."""
        self._begin()
        return ghost_batch_norm(model, self.size)

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """Note whether the micro-batch will be cut; it stays as it is."""
        self._cut.append(len(batch.inputs) > self.size)
        return batch

    def weights(self, model: nn.Module, time: Time) -> None:  # noqa: ARG002
        """End the update."""
        cut, self._cut = self._cut, []
        self._share = sum(cut) / len(cut) if cut else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin at the beginning of an update: batches of one that was left out do not count."""
        super().load_state_dict(state)
        self._cut = []

    def report(self) -> dict[str, float]:
        """Give back the share of the last update's micro-batches that were cut."""
        return {} if self._share is None else {"cut_share": self._share}


def _check_size(where: str, size: int) -> None:
    if size < 2:
        raise ValueError(
            f"{where} must be >= 2 (samples), got {size}: one sample alone is no batch. "
            "The paper takes 128."
        )
