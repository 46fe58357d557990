"""Test-time views: predict the mean over an image, its mirror image and small shifts of both.

As `infer_mirror_translate` of airbench, https://github.com/KellerJordan/cifar10-airbench
(airbench94_muon.py), described in Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024,
https://arxiv.org/abs/2404.00498; multi-crop testing: https://arxiv.org/abs/1409.4842.

Where we differ: not at the defaults; the size of the shift and the border can be chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tricks.blur_pool import is_known
from tricks.trick import Trick, require_one_of

PaddingMode = Literal["reflect", "zeros"]


class Views(nn.Module):
    """A model that answers the weighted mean of its logits over views of each image.

    The image as it is counts half; the image shifted up and left, and down and right, a quarter
    each. With `flip` half of each is that of the mirror image, left to right: six views.

    `model` must be in evaluation mode, where it takes each image by itself. It is a part of this
    module (`model`), not copied. It has no weights of its own. It can be exported, by
    `torch.export` and to ONNX, for any number and size of images.

    Args:
        model: Inputs [N, C, H, W], normalised, to logits [N, K].
        flip: Whether to mirror.
        shift: By how many pixels to shift, down and across; 0 for none.
        padding_mode: What comes in at the border: `reflect`, or `zeros`, the mean colour.

    Raises:
        ValueError: If an argument is out of its range; when called, if a side of the images is
            not longer than the shift.

    >>> ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    >>> Views(lambda x: x[:, 0, 0, :1], shift=0)(ramp)  # (0 + 3) / 2
    tensor([[1.5000]])
    """

    def __init__(
        self,
        model: nn.Module,
        flip: bool = True,
        shift: int = 1,
        padding_mode: PaddingMode = "reflect",
    ) -> None:
        super().__init__()
        _check("Views", flip, shift, padding_mode)
        self.model, self.flip, self.shift, self.padding_mode = model, flip, shift, padding_mode

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the mean logits [N, K], in float32 where the model's are of half precision."""
        views = [(share, self._answer(view)) for share, view in self._shifted(inputs)]
        return torch.stack([share * logits for share, logits in views]).sum(0)

    def _answer(self, inputs: Tensor) -> Tensor:
        """Give the logits, mean over both mirror images."""
        logits = _precise(self.model(inputs))
        if self.flip:
            logits = 0.5 * logits + 0.5 * _precise(self.model(inputs.flip(-1)))
        return logits

    def _shifted(self, inputs: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Run through the image and its shifts, each with its share."""
        if not self.shift:
            yield 1.0, inputs
            return
        height, width = inputs.shape[-2:]
        if is_known(inputs.shape) and min(height, width) <= self.shift:
            raise ValueError(
                f"The images must be of more than {self.shift} pixels a side to be shifted by "
                f"{self.shift}, got {height} x {width}. Lower shift."
            )
        mode = "reflect" if self.padding_mode == "reflect" else "constant"
        padded = F.pad(inputs, (self.shift,) * 4, mode)
        yield 0.5, inputs
        for start in (0, 2 * self.shift):
            rows = padded.narrow(-2, start, height)
            yield 0.25, rows.narrow(-1, start, width)


@final
@dataclass(frozen=True)
class TestTimeViews(Trick):
    """Predict the mean over views of each image (`prediction`), by `Views`.

    The training is the same to the bit: what this changes is the answer of the trained model, at
    two to six times the cost of each.

    Attributes:
        flip: Whether to mirror, left to right; only where a mirrored image keeps its class.
        shift: By how many pixels to shift, down and across; 0 for none.
        padding_mode: What comes in at the border: `reflect`, or `zeros`, the mean colour.

    Raises:
        ValueError: If a value is out of its range, or there is one view alone.
    """

    __test__: ClassVar[bool] = False  # no test, whatever its name begins with

    flip: bool = True
    shift: int = 1
    padding_mode: PaddingMode = "reflect"

    def __post_init__(self) -> None:
        _check("TestTimeViews", self.flip, self.shift, self.padding_mode)

    def prediction(self, model: nn.Module) -> nn.Module:
        """Wrap the model."""
        return Views(model, self.flip, self.shift, self.padding_mode)

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:  # noqa: ARG002
        """Say what the gain is not, and what it costs.

        >>> TestTimeViews(shift=0).caveats(updates=10, updates_per_epoch=5)
        ['it changes no training: what it gains is of the prediction, which costs 2 times as much;
        a mirrored image must keep its class (flip).']
        """
        count = (3 if self.shift else 1) * (2 if self.flip else 1)
        mirrored = "; a mirrored image must keep its class (flip)" if self.flip else ""
        gain = "it changes no training: what it gains is of the prediction, which costs"
        return [f"{gain} {count} times as much{mirrored}."]


def _check(where: str, flip: bool, shift: int, padding_mode: str) -> None:
    if shift < 0:
        raise ValueError(f"{where}.shift must be >= 0 (pixels), got {shift}.")
    if not flip and not shift:
        raise ValueError(
            f"{where} has one view alone with flip=False and shift=0, got both. Set one of them, "
            "or drop the trick."
        )
    require_one_of(f"{where}.padding_mode", padding_mode, PaddingMode)


def _precise(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
