"""The speed of transforms of the training images, on one thread.

    python -m benchmarks.transforms      # a minute

Random colour images in batches of 64, the normalising included; the best of several epochs counts,
because other work on the machine only adds time.
"""

import time

import torch

from runner.data import Augmentation, Batches, Split
from runner.transforms import build_transforms

SIZE, ROUNDS = 64, 3
IMAGES = {32: 1024, 224: 128}
PIXELS = Augmentation(crop=4, flip=True)
TRANSFORMS = {
    "RandomResizedCrop": ["RandomResizedCrop"],
    "TrivialAugmentWide": ["TrivialAugmentWide"],
    "RandAugment": ["RandAugment"],
    "RandomRotation and ColorJitter": [
        {"RandomRotation": {"degrees": 10}},
        {"ColorJitter": {"brightness": 0.3, "hue": 0.05}},
    ],
    "AugMix": ["AugMix"],
}


def rate(side, augmentation, names):
    """Return the images per second of an epoch, the best of several."""
    images = torch.randint(0, 256, (IMAGES[side], 3, side, side), dtype=torch.uint8)
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    statistics = torch.full((3,), 0.5), torch.full((3,), 0.25)
    made = build_transforms(names, images[0])
    batches = Batches(split, SIZE, *statistics, augmentation, shuffle=True, transforms=made)
    spent = []
    for epoch in range(ROUNDS):
        start = time.perf_counter()
        for _ in batches.epoch(epoch):
            pass
        spent.append(time.perf_counter() - start)
    return len(images) / min(spent)


def main():
    """Print a row for each list of transforms, with a column for each size."""
    torch.set_num_threads(1)
    plain = {"nothing": (Augmentation(), []), "crop and flip": (PIXELS, [])}
    rows = plain | {name: (Augmentation(), names) for name, names in TRANSFORMS.items()}
    print(f"{'images/s':32}" + "".join(f"{side} x {side}".rjust(12) for side in IMAGES))
    for name, (augmentation, names) in rows.items():
        rates = [rate(side, augmentation, names) for side in IMAGES]
        print(f"{name:32}" + "".join(f"{each:12,.0f}" for each in rates))


if __name__ == "__main__":
    main()
