"""Random crops, flips and cutouts: drawn per sample, applied to whole batches. Other transforms.

In this order: crop, flip, the other transforms, normalising, cutout.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from runner.errors import UserError

Transform = Callable[[Tensor], Tensor]
"""An image [C, H, W] to one of the same shape and type; it draws from torch's global generator."""


class Draw(NamedTuple):
    """The random numbers for a batch of N samples."""

    offsets: Tensor
    """[2, N]: the first row and column of the crop in the padded image."""
    flips: Tensor
    """[N], bool: which crops are mirrored."""
    centres: Tensor
    """[2, N]: row and column of the centre of the cutout."""

    def at(self, places: Sequence[slice]) -> "Draw":
        """Return those of some images."""
        return Draw(*(pick(numbers, places, -1) for numbers in self))


def pick(tensor: Tensor, places: Sequence[slice], dim: int = 0) -> Tensor:
    """Return the parts of a tensor at some places of a dimension."""
    moved = tensor.movedim(dim, 0)
    parts = [moved[place] for place in places]
    return (parts[0] if len(parts) == 1 else torch.cat([moved[:0], *parts])).movedim(0, dim)


@dataclass(frozen=True)
class Augmentation:
    """How the training images are augmented; not at all by default.

    Fields:
        crop: Pixels of black padding on each side; a random crop of the original size is taken
            from the padded image. He et al., https://arxiv.org/abs/1512.03385, section 4.2, use 4.
        flip: Whether to mirror left and right, with probability 1/2.
        cutout: Side in pixels of a square that is blanked out around a random pixel, clipped at
            the border; DeVries and Taylor, https://arxiv.org/abs/1708.04552.
        transforms: Other transforms by name, as `runner.transforms.read` has it.

    The config checks that both numbers are >= 0.
    """

    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    cutout: Annotated[int, Field(ge=0)] = 0
    transforms: Sequence[Any] = ()

    @property
    def draws(self) -> bool:
        """Whether anything is drawn for a whole batch; transforms have numbers of their own."""
        return bool(self.crop or self.flip or self.cutout)

    def draw(self, count: int, size: Sequence[int], generator: torch.Generator) -> Draw:
        """Draw the random numbers for a number of images of one size, (H, W).

        All of them are drawn, used or not, so that switching one augmentation on does not change
        the draws of another.
        """
        height, width = size

        def below(bound: int) -> Tensor:
            return torch.randint(bound, (count,), generator=generator, device=generator.device)

        offsets = torch.stack([below(2 * self.crop + 1), below(2 * self.crop + 1)])
        flips = below(2).bool() if self.flip else below(2) < 0
        return Draw(offsets, flips, torch.stack([below(height), below(width)]))


def crop_and_flip(images: Tensor, padding: int, offsets: Tensor, flips: Tensor) -> Tensor:
    """Pad images [N, C, H, W] with black, crop each to its old size, and mirror some.

    Args:
        images: [N, C, H, W].
        padding: Pixels of padding on each side, >= 0.
        offsets: [2, N], the first row and column of the crop, in [0, 2 * padding].
        flips: [N], bool: which crops to mirror left and right.

    >>> image = torch.tensor([[1, 2], [3, 4]]).view(1, 1, 2, 2)
    >>> crop_and_flip(image, 1, torch.tensor([[0], [1]]), torch.tensor([True])).squeeze()
    tensor([[0, 0],
            [2, 1]])
    """
    if not len(images):  # of a last batch that is too small for all ranks
        return images
    count, channels, height, width = images.shape
    # the same bits: torch gathers no uint16 on a card
    plain = images.view(torch.int16) if images.dtype == torch.uint16 else images
    image, channel, row = (
        torch.arange(size, device=images.device) for size in (count, channels, height)
    )
    mirrored = torch.cat([plain, plain.flip(3)]).index_select(0, image + count * flips)
    padded = F.pad(mirrored, (padding,) * 4)
    tall, wide = padded.shape[2:]
    column = torch.where(flips, 2 * padding - offsets[1], offsets[1])
    corners = image * (channels * tall * wide) + offsets[0] * wide + column  # [N]
    starts = corners[:, None] + ((channel[:, None] * tall + row) * wide).view(-1)  # [N, C * H]
    # whatever place a row of pixels starts at, it is copied at once
    rows = padded.view(-1).as_strided((padded.numel() - width + 1, width), (1, 1))
    return rows.index_select(0, starts.view(-1)).view(images.shape).view(images.dtype)


def transform(images: Tensor, transforms: Sequence[Transform], seeds: Iterable[int]) -> Tensor:
    """Pass each image through all transforms, with random numbers of its own.

    On a CPU, one image at a time. The global generator is afterwards where it was.

    Args:
        images: [N, C, H, W], on any device.
        transforms: In the order of application.
        seeds: [N], from which torch's global generator begins anew for each image.

    Raises:
        UserError: If a transform changes shape or type.
    """
    done = torch.empty_like(images, device="cpu", memory_format=torch.contiguous_format)
    with torch.random.fork_rng([]):
        for image, out, seed in zip(images.cpu(), done, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            for apply in transforms:
                image = apply(image)
                if describe(image) != describe(out):
                    whole = getattr(apply, "func", apply)  # of a function with keywords
                    raise UserError(
                        f"{getattr(whole, '__name__', type(whole).__name__)} must give back an "
                        f"image as it gets it, {describe(out)}, got {describe(image)}."
                    )
            out.copy_(image)
    return done.to(images.device)


def describe(image: object) -> str:
    """Write the type and the shape of an image."""
    if not isinstance(image, Tensor):
        return type(image).__name__
    return f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"


def cut_out_(inputs: Tensor, side: int, centres: Tensor) -> None:
    """Set a square of each of the normalised inputs [N, C, H, W] to 0, their mean, in place.

    Differs from the authors' code for an odd side, which is a pixel shorter there.

    Args:
        inputs: [N, C, H, W].
        side: Side of the square in pixels; it covers rows [r - side // 2, r - side // 2 + side).
        centres: [2, N], its row r and its column; it is clipped at the border.

    >>> inputs = torch.ones(1, 1, 2, 3)
    >>> cut_out_(inputs, 2, torch.tensor([[1], [1]]))
    >>> inputs.squeeze()
    tensor([[0., 0., 1.],
            [0., 0., 1.]])
    """

    def covered(centre: Tensor, size: int) -> Tensor:
        place = torch.arange(size, device=inputs.device) - (centre[:, None] - side // 2)
        return (place >= 0) & (place < side)

    rows, columns = (covered(c, s) for c, s in zip(centres, inputs.shape[2:], strict=True))
    inputs.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0.0)
