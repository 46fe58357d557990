"""Random erasing: a rectangle of an image is replaced by noise, by black or by the mean.

Zhong et al., "Random Erasing Data Augmentation", https://arxiv.org/abs/1708.04896.

Where we differ: the rectangle lies anywhere where it fits, as in the authors' code, in timm and in
torchvision; in the paper's algorithm places are drawn until it does. Its aspect ratio is uniform as
a logarithm, as in timm and torchvision: the authors' are more often high than wide. It is at least
a pixel. Noise is of bytes, as the paper has it; in timm and torchvision it is normal, after
normalisation, as here if the images are normalised already. By default the area is up to .4, as the
authors have it, where timm and torchvision have 1/3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from tricks.trick import Batch, Time, Trick, require_one_of

Fill = Literal["noise", "black", "mean"]
ATTEMPTS = 100  # rectangles that are drawn for each image; the first that fits is taken
BOUNDS = {torch.uint8: 256, torch.uint16: 65536}


def random_erase(
    images: Tensor,
    generator: torch.Generator,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    ratio: float = 0.3,
    fill: Fill = "noise",
) -> Tensor:
    """Give back images of which some have a rectangle erased, each another one.

    Its area is uniform in `area`, the logarithm of height / width in that of [ratio, 1 / ratio],
    its place among those where it fits.

    Args:
        images: [N, C, H, W]; integers (uint8, uint16), or floats that are normalised.
        generator: Source of the random numbers, on the device of the images.
        probability: With which an image has a rectangle.
        area: Least and largest share of the image.
        ratio: Least aspect ratio, to 1.
        fill: `noise`: each value of each pixel is drawn, uniform integers or standard normal
            floats; `black`: 0, of integers alone; `mean`: 0, of floats alone, whose mean it is.

    Returns:
        [N, C, H, W].

    Raises:
        ValueError: If the images are of another type, or `fill` is not for it.

    >>> images = torch.ones(2, 1, 4, 4)
    >>> erased = random_erase(images, torch.Generator().manual_seed(0), probability=1, fill="mean")
    >>> erased.sum((1, 2, 3)).int().tolist()
    [12, 10]
    """
    _check(images, fill)
    erased = _rectangles(images.shape, generator, probability, area, ratio)
    if images.is_floating_point():
        if fill == "mean":
            return images.masked_fill(erased, 0.0)
        noise = torch.randn(
            images.shape, generator=generator, dtype=images.dtype, device=images.device
        )
        return torch.where(erased, noise, images)
    plain = images.view(torch.int16) if images.dtype == torch.uint16 else images
    if fill == "black":
        return plain.masked_fill(erased, 0).view(images.dtype)
    bound = BOUNDS[images.dtype]
    noise = torch.randint(bound, images.shape, generator=generator, device=images.device)
    if plain.dtype == torch.int16:  # the same bits
        noise -= bound * (noise >= bound // 2)
    return torch.where(erased, noise.to(plain.dtype), plain).view(images.dtype)


def _check(images: Tensor, fill: Fill) -> None:
    """Refuse a fill that images of this type cannot have."""
    kind = str(images.dtype).removeprefix("torch.")
    if not images.is_floating_point() and images.dtype not in BOUNDS:
        raise ValueError(
            f"images to erase must be uint8, uint16 or normalised floats, got {kind}. Convert them."
        )
    if images.is_floating_point() and fill == "black":
        raise ValueError(
            f"fill=black needs images as integers, got {kind}: what is black after normalisation "
            "is not known. Erase them before, or give fill=mean."
        )
    if not images.is_floating_point() and fill == "mean":
        raise ValueError(
            f"fill=mean needs normalised images, whose mean is 0, got {kind}. Erase them after "
            "normalisation, or give fill=black."
        )


def _rectangles(
    shape: Sequence[int],
    generator: torch.Generator,
    probability: float,
    area: tuple[float, float],
    ratio: float,
) -> Tensor:
    """Draw where images of a shape [N, C, H, W] are erased, bool [N, 1, H, W]."""
    count, _, height, width = shape
    device = generator.device

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    areas = (area[0] + (area[1] - area[0]) * uniform(ATTEMPTS, count)) * (height * width)
    ratios = torch.exp((1 - 2 * uniform(ATTEMPTS, count)) * math.log(ratio))
    heights = (areas * ratios).sqrt().round().clamp_(min=1)
    widths = (areas / ratios).sqrt().round().clamp_(min=1)
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(0, keepdim=True)
    is_erased = fits.any(0) & (uniform(count) < probability)

    def covered(lengths: Tensor, side: int) -> Tensor:
        length = lengths.gather(0, first)[0].unsqueeze(1)
        # of the places where it fits; a number close to 1 may be rounded to 1
        start = (uniform(count, 1) * (side - length + 1)).floor().minimum(side - length)
        place = torch.arange(side, device=device)
        return (place >= start) & (place < start + length)

    rows, columns = covered(heights, height), covered(widths, width)
    return (rows[:, None, :, None] & columns[:, None, None, :]) & is_erased[:, None, None, None]


@final
@dataclass(frozen=True)
class RandomErasing(Trick):
    """Erase a rectangle of some training images (`images`; with the mean in `batch`).

    Attributes:
        probability: With which an image has a rectangle, > 0 and <= 1.
        area: Least and largest share of the image, > 0 and < 1.
        ratio: Least aspect ratio of the rectangle, > 0 and <= 1; the largest is its inverse.
        fill: What is put there: `noise`, a random value for each pixel and channel; `black`; or
            `mean`, the training set's.

    Raises:
        ValueError: If a parameter is out of its range; in its hooks, if no such rectangle is lower
            and narrower than the images.
    """

    after: ClassVar[tuple[str, ...]] = ("AlternatingFlip", "TrivialAugment", "RandAugment")

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    ratio: float = 0.3
    fill: Fill = "noise"

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(
                f"RandomErasing.probability must be > 0 and <= 1, got {self.probability}. "
                "To erase nothing, switch the trick off."
            )
        if len(self.area) != 2 or not 0 < self.area[0] <= self.area[1] < 1:
            raise ValueError(
                "RandomErasing.area must be two shares > 0 and < 1, the least and the largest, "
                f"got {[*self.area]}. The paper has [0.02, 0.4]."
            )
        if not 0 < self.ratio <= 1:
            raise ValueError(
                f"RandomErasing.ratio must be > 0 and <= 1, got {self.ratio}. "
                "The paper has 0.3: from 0.3 to 1 / 0.3."
            )
        require_one_of("RandomErasing.fill", self.fill, Fill)

    def images(
        self,
        images: Tensor,
        samples: Tensor,  # noqa: ARG002
        time: Time,  # noqa: ARG002
        generator: torch.Generator,
    ) -> Tensor:
        """Erase with noise or black."""
        return images if self.fill == "mean" else self._erase(images, generator)

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Erase with the mean, which is 0 after normalisation."""
        if self.fill != "mean":
            return batch
        return batch._replace(inputs=self._erase(batch.inputs, generator))

    def _erase(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        least = self.area[0] * height * width
        # a length of half a pixel less than a side is rounded to less than the side
        highest, widest = (min(1 / self.ratio, (s - 0.5) ** 2 / least) for s in (height, width))
        if min(height, width) < 2 or highest * widest < 1:
            raise ValueError(
                f"RandomErasing finds no room in images of {height} x {width} pixels for a "
                f"rectangle of {self.area[0]:g} of the area, lower and narrower than they are, "
                f"with ratio={self.ratio:g}. Lower area or ratio, or switch the trick off."
            )
        return random_erase(images, generator, self.probability, self.area, self.ratio, self.fill)
