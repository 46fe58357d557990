"""The operations of TrivialAugment and RandAugment, each image with a magnitude of its own.

They are torchvision's, on tensors of uint8, to the bit on a CPU: there a batch gets one draw, and
here each of its images. All images that drew the same operation go through it at once.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Interpolation = Literal["nearest", "bilinear"]
Operation = Callable[[Tensor, Tensor], Tensor]
"""Images [n, C, H, W] and a number or a map for each of them to images."""

GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
ENHANCING = ("Brightness", "Color", "Contrast", "Sharpness")
NAMES = ("Identity", *GEOMETRIC, *ENHANCING, "Posterize", "Solarize", "AutoContrast", "Equalize")
SIGNED = frozenset((*GEOMETRIC, *ENHANCING))
"""Operations whose magnitude is drawn with a sign."""

AT_ONCE = 2**19
"""Pixels that an operation gets at once on a CPU, whose caches hold them."""


class Space(NamedTuple):
    """The largest magnitudes of the operations; the smallest change nothing."""

    shear: float
    """The tangent of the angle."""
    translate: tuple[float, float]
    """Pixels: a share of the side, and a number that is added."""
    rotate: float
    """Degrees."""
    enhance: float
    """What is added to the factor 1 of brightness, color, contrast and sharpness."""
    posterize: int
    """Bits that are taken away, of 8."""

    def magnitudes(self, bins: int, height: int, width: int) -> dict[str, Tensor]:
        """Give back the magnitudes of each operation that has some, float64 [bins]."""

        def upto(most: float, least: float = 0.0) -> Tensor:
            return torch.linspace(least, most, bins).double()  # float32, as torchvision has them

        share, pixels = self.translate
        # there by an angle, whose last bit decides between two pixels halfway
        angles = [math.radians(math.degrees(math.atan(s))) for s in upto(self.shear).tolist()]
        along_x = torch.tensor([math.tan(a) for a in angles], dtype=torch.float64)
        along_y = torch.tensor([math.sin(a) / math.cos(a) for a in angles], dtype=torch.float64)
        bits = 8 - torch.arange(bins) / ((bins - 1) / self.posterize)
        return {
            "ShearX": along_x,
            "ShearY": along_y,
            "TranslateX": upto(share * width + pixels).trunc(),
            "TranslateY": upto(share * height + pixels).trunc(),
            "Rotate": upto(self.rotate),
            **{name: upto(self.enhance) for name in ENHANCING},
            "Posterize": bits.round().double(),
            "Solarize": upto(0.0, 1.0),
        }


class Draw(NamedTuple):
    """One operation for each of N images, on the CPU."""

    operations: Tensor
    """[N], int64: places in `NAMES`."""
    bins: Tensor
    """[N], int64: how strong it is."""
    negative: Tensor
    """[N], bool: whether the magnitude is negative, where it has a sign."""


def draw(count: int, bins: int, generator: torch.Generator) -> Draw:
    """Draw an operation, a magnitude and a sign for each of so many images."""

    def below(bound: int) -> Tensor:
        return torch.randint(bound, (count,), generator=generator, device=generator.device)

    # one wait for a card
    operations, places, signs = torch.stack([below(len(NAMES)), below(bins), below(2)]).cpu()
    return Draw(operations, places, signs.bool())


def on_cpu(generator: torch.Generator) -> torch.Generator:
    """Give back a fresh generator's like on the CPU: what it draws need not be waited for."""
    if generator.device.type == "cpu":
        return generator
    return torch.Generator().manual_seed(generator.initial_seed())


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def check_images(images: Tensor, who: str) -> None:
    """Refuse what is not a batch of grey or color images of uint8.

    Raises:
        ValueError: If it is not.
    """
    kind = str(images.dtype).removeprefix("torch.")
    if images.dtype != torch.uint8:
        remedy = "Give 8 bits, or switch it off."
        if images.is_floating_point():
            remedy = "Call it before the images are converted and normalised."
        raise ValueError(f"{who} takes images of uint8, got {kind}. {remedy}")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"{who} takes images [N, C, H, W] of 1 or 3 channels, got {list(images.shape)}. "
            "Its changes of color are defined for no others: leave it out."
        )


def check_bins(name: str, bins: int) -> None:
    """Refuse fewer than two strengths."""
    if bins < 2:
        raise ValueError(f"{name} must be >= 2, got {bins}. The papers have 31.")


def apply(
    images: Tensor, drawn: Draw, space: Space, bins: int, interpolation: Interpolation
) -> Tensor:
    """Pass each image through the operation that was drawn for it.

    Args:
        images: [N, C, H, W], uint8, C 1 or 3, on any device.
        drawn: For each of them.
        space: The range of each operation's magnitudes.
        bins: How many magnitudes there are.
        interpolation: How the geometric operations find a pixel's value.
    """
    from torchvision.transforms.v2 import functional  # takes two seconds

    height, width = images.shape[2:]
    tables, changed = space.magnitudes(bins, height, width), images.clone()
    signs = 1 - 2 * drawn.negative.double()
    values = torch.zeros(len(images), dtype=torch.float64)
    for place, name in enumerate(NAMES):
        if name in tables:
            chosen = drawn.operations == place
            picked = tables[name][drawn.bins[chosen]]
            values[chosen] = picked * signs[chosen] if name in SIGNED else picked
    moved = drawn.operations.unsqueeze(1).eq(torch.arange(1, 1 + len(GEOMETRIC))).any(1)
    maps = _inverse_maps(drawn.operations, values, height, width)  # of the others unused
    values = values.view(-1, 1, 1, 1)
    sample = partial(_sample, interpolation=interpolation)
    groups: list[tuple[Operation, Tensor, Tensor]] = [(sample, maps, moved)]  # one for all five
    for name, operation in _pixelwise(functional).items():
        groups.append((operation, values, drawn.operations == NAMES.index(name)))
    most = len(images) if images.is_cuda else max(1, AT_ONCE // math.prod(images.shape[1:]))
    for operation, numbers, members in groups:
        for index in members.nonzero().flatten().split(most):
            there = send(index, images.device)
            result = operation(images.index_select(0, there), send(numbers[index], images.device))
            changed.index_copy_(0, there, result)
    return changed


def _pixelwise(
    functional: ModuleType,
) -> Mapping[str, Operation]:
    """The operations that move no pixel: images [n, C, H, W] and magnitudes [n, 1, 1, 1]."""

    def color(images: Tensor, amounts: Tensor) -> Tensor:
        grey = functional.adjust_saturation(images, 0.0)
        return images if images.shape[1] == 1 else _blend(images, grey.float(), amounts)

    def contrast(images: Tensor, amounts: Tensor) -> Tensor:
        grey = functional.adjust_saturation(images, 0.0)[:, :1]
        return _blend(images, grey.float().mean((1, 2, 3), keepdim=True), amounts)

    def sharpness(images: Tensor, amounts: Tensor) -> Tensor:
        pixels, blurred = images.double(), _blurred(images).double()
        return _to_uint8(blurred.sub_(pixels).mul_(_float32(-amounts)).add_(pixels))

    def solarize(images: Tensor, shares: Tensor) -> Tensor:
        return torch.where(images >= (255 * shares).float(), ~images, images)

    return {
        "Brightness": lambda images, amounts: _to_uint8(images * (1 + amounts).float()),
        "Color": color,
        "Contrast": contrast,
        "Sharpness": sharpness,
        "Posterize": lambda images, bits: images & (256 - 2 ** (8 - bits)).to(torch.uint8),
        "Solarize": solarize,
        "AutoContrast": lambda images, _: functional.autocontrast(images),
        "Equalize": lambda images, _: functional.equalize(images),
    }


def _float32(numbers: Tensor) -> Tensor:
    """Round to float32, and compute on in float64."""
    return numbers.float().double()


def _to_uint8(pixels: Tensor) -> Tensor:
    return pixels.float().clamp_(0, 255).to(torch.uint8)


def _blurred(images: Tensor) -> Tensor:
    """As torchvision's `adjust_sharpness` by 0, which copies its kernel from the processor."""
    channels, height, width = images.shape[1:]
    if height <= 2 or width <= 2:
        return images
    kernel = torch.full((3, 3), 1.0 / 13.0, device=images.device)
    kernel[1:2, 1:2] = 5.0 / 13.0  # a number in one place would be copied too
    pixels = images.to(torch.float32, copy=True)
    blurred = F.conv2d(pixels, kernel.expand(channels, 1, 3, 3), groups=channels).round_()
    inner = pixels[..., 1:-1, 1:-1]
    inner.add_(blurred.sub_(inner))
    return pixels.clamp_(0, 255).to(torch.uint8)


def _blend(images: Tensor, others: Tensor, amounts: Tensor) -> Tensor:
    """Mix images and others, float32, with factors 1 + amount and -amount.

    torch fuses the multiplication and the addition, without rounding between: so does float64.
    """
    scaled = images * (1 + amounts).float()
    return _to_uint8(scaled.double().add_(others.double().mul_(_float32(1 - (1 + amounts)))))


def _inverse_maps(operations: Tensor, values: Tensor, height: int, width: int) -> Tensor:
    """Give back where each output pixel comes from, float32 [n, 2, 3], in pixels off the centre.

    A shear leaves the upper left corner where it is, a rotation the centre.
    """
    is_shear_x, is_shear_y, is_move_x, is_move_y, is_turn = (
        operations == NAMES.index(name) for name in GEOMETRIC
    )
    turns = values.remainder(360).deg2rad().where(is_turn, torch.zeros(()))
    x, y = width / 2, height / 2
    zero = torch.zeros_like(values)
    along_x, along_y = values * y, (values * x - y) + y  # rounded as there
    rows = [
        turns.cos(),
        torch.where(is_shear_x, values, -turns.sin()),
        torch.where(is_shear_x, along_x, torch.where(is_move_x, -values, zero)),
        torch.where(is_shear_y, values, turns.sin()),
        turns.cos(),
        torch.where(is_shear_y, along_y, torch.where(is_move_y, -values, zero)),
    ]
    return torch.stack(rows, 1).view(-1, 2, 3).float()


def _sample(images: Tensor, maps: Tensor, interpolation: Interpolation) -> Tensor:
    """Read images [n, C, H, W] where their maps [n, 2, 3] point to; black beyond the border."""
    count, _, height, width = images.shape
    y, x = (
        torch.linspace((1.0 - side) * 0.5, (side - 1.0) * 0.5, side, device=images.device)
        for side in (height, width)
    )
    places = torch.stack(
        [*torch.meshgrid(x, y, indexing="xy"), torch.ones_like(x).expand(height, width)], -1
    )
    size = send(torch.tensor([0.5 * width, 0.5 * height]), images.device)
    grid = places.view(1, -1, 3).expand(count, -1, -1).bmm(maps.transpose(1, 2) / size)
    read = F.grid_sample(
        images.float(),
        grid.view(count, height, width, 2),
        mode=interpolation,
        padding_mode="zeros",
        align_corners=False,
    )
    return read.round_().to(torch.uint8)
