"""The operations of the augmentations, drawn as the test likes, beside torchvision's own."""

import torch

from tricks.operations import NAMES, SIGNED, Draw, apply

UNTOUCHED = {"Identity", "AutoContrast", "Equalize"}
"""Without a magnitude."""


def pictures(count, *shape, seed=0):
    """Noise, of which every third picture has little contrast, and every fifth is of one color."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    images[::3] = images[::3] // 3 + 40
    images[::5] = images[::5, :, :1, :1]
    return images


def every_draw(bins):
    """Each operation with each strength and each sign once."""
    triples = torch.cartesian_prod(torch.arange(len(NAMES)), torch.arange(bins), torch.arange(2))
    operations, places, negative = triples.unbind(1)
    return Draw(operations, places, negative.bool())


def theirs(reference, image, drawn, index, bins, interpolation):
    """One image after torchvision's own operation."""
    name = NAMES[drawn.operations[index]]
    table, is_signed = reference._AUGMENTATION_SPACE[name]
    magnitudes = table(bins, *image.shape[1:])
    amount = 0.0 if magnitudes is None else float(magnitudes[drawn.bins[index]])
    assert is_signed == (name in SIGNED)
    if is_signed and drawn.negative[index]:
        amount = -amount
    return reference()._apply_image_or_video_transform(
        image, name, amount, interpolation=interpolation, fill={torch.Tensor: None}
    )


def check_every_operation(reference, space, shape, bins, interpolation):
    """Compare all draws with torchvision's operations: the same pixels."""
    drawn = every_draw(bins)
    images = pictures(len(drawn.bins), *shape)
    kept = images.clone()
    ours = apply(images, drawn, space, bins, interpolation)
    assert torch.equal(images, kept)
    for index, image in enumerate(images):
        expected = theirs(reference, image, drawn, index, bins, interpolation)
        name = NAMES[drawn.operations[index]]
        assert torch.equal(ours[index], expected), (name, drawn.bins[index], drawn.negative[index])


def at_strength_zero(space, images):
    """The images after each operation at its smallest strength, by its name."""
    count = len(images)
    for place, name in enumerate(NAMES):
        drawn = Draw(torch.full((count,), place), torch.zeros(count).long(), torch.zeros(count) > 0)
        yield name, apply(images, drawn, space, 31, "nearest")
