"""Evaluation of a model: accuracy, loss, and consistency of its predictions under small shifts.

No trick acts here: the loss is the plain cross-entropy with the class ids.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runner.data import Batches
from runner.ranks import ALONE, Ranks
from tricks import derive_seed


class Evaluation(NamedTuple):
    """The loss and the predictions of a model on one split."""

    loss: float
    """Mean cross-entropy, nats."""
    correct: Tensor
    """[N] bool: whether each prediction is right, in the order of the split."""
    logits: Tensor
    """[N, K] float32, in the same order; on the CPU, as is all of this."""
    labels: Tensor
    """[N] int64."""

    @property
    def accuracy(self) -> float:
        """The share of correct predictions."""
        return self.correct.double().mean().item()


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, ranks: Ranks = ALONE) -> Evaluation:
    """Evaluate a model in evaluation mode, and leave it in training mode.

    Args:
        model: Inputs [N, C, H, W] to logits [N, K].
        batches: Batches in the order of their split.
        ranks: Those that share the batches; each of them gets the whole evaluation.
    """
    model.eval()
    own = list[tuple[Tensor, Tensor, Tensor, Tensor]]()
    for batch in batches.epoch(0, ranks.rank, ranks.count):
        outputs, targets = model(batch.inputs).float(), batch.targets
        losses = F.cross_entropy(outputs, targets, reduction="none")
        own.append((losses, outputs.argmax(1) == targets, outputs.cpu(), targets.cpu()))
    model.train()
    if ranks.count > 1:  # where each has a card of its own
        own = [(losses.cpu(), right.cpu(), o, t) for losses, right, o, t in own]
    found = ranks.merge(own)
    losses, correct, logits, labels = (torch.cat(each) for each in zip(*found, strict=True))
    return Evaluation(losses.double().mean().item(), correct.cpu(), logits, labels)


@torch.no_grad()
def shift_consistency(model: nn.Module, batches: Batches, seed: int, ranks: Ranks = ALONE) -> float:
    """Return how often two random shifts of an image get the same prediction, right or wrong.

    Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019,
    https://arxiv.org/abs/1904.11486, section 4: E[1{argmax f(shift_a x) = argmax f(shift_b x)}].
    Each image is shifted by up to an eighth of its side in each direction. The shifts are
    circular, as usual on CIFAR: they invent no content, and only the edge moves to the other side.
    The model is left in training mode.

    Args:
        model: Inputs [N, C, H, W] to logits [N, K].
        batches: Batches in the order of their split.
        seed: Seed of the shifts.
        ranks: As for `evaluate`.

    Returns:
        The share of the images, in [0, 1].
    """
    model.eval()
    agree, total = 0, 0
    for index, batch in enumerate(batches.epoch(0, ranks.rank, ranks.count)):
        inputs = batch.inputs
        generator = torch.Generator(inputs.device)
        number = ranks.rank + index * ranks.count
        generator.manual_seed(derive_seed(seed, "shifts", number))
        one, other = (model(_shift(inputs, generator)).argmax(1) for _ in range(2))
        agree += int((one == other).sum())
        total += len(inputs)
    model.train()
    found = ranks.gather((agree, total))
    return sum(agree for agree, _ in found) / sum(total for _, total in found)


def _shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Roll each image [C, H, W] of a batch by its own random offset."""
    count, _, height, width = images.shape
    rows, columns = (_rolled(count, size, generator) for size in (height, width))
    sample = torch.arange(count, device=images.device)[:, None, None]
    # indices around a slice put the channels last
    shifted = images[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.empty_like(images).copy_(shifted)  # in the memory format of the images


def _rolled(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return indices [count, size] that shift circularly by up to an eighth of the size."""
    most = max(1, size // 8)
    device = generator.device
    offset = torch.randint(-most, most + 1, (count, 1), generator=generator, device=device)
    return (torch.arange(size, device=device) + offset) % size
