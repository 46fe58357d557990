"""The speed of making batches on one thread, beside torchvision's pipeline.

    python -m benchmarks.input           # ten seconds

CIFAR-shaped images in memory, batch 128, random crop with 4 pixels of padding, flip, normalisation:
our batches against torchvision's transforms, applied to one PIL image after another and stacked.
Then a batch of 64 digits without augmentation. All take turns; the best round counts, because other
work on the machine only adds time.
"""

import time

import torch
from torchvision import transforms

from runner.data import Augmentation, Batches, Split, digits, split_source

ROUNDS, BATCHES, SIZE = 15, 40, 128


def ours(split, mean, std):
    """Return a function that makes the batches of one epoch."""
    batches = Batches(split, SIZE, mean, std, Augmentation(crop=4, flip=True), shuffle=True)

    def make():
        for batch in batches.epoch(0):
            assert batch.inputs.shape[1:] == (3, 32, 32)

    return make


def theirs(split, mean, std):
    """Return a function that makes one batch, image by image."""
    to_picture = transforms.ToPILImage()
    pictures = [to_picture(image) for image in split.images[:SIZE]]
    pipeline = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean.tolist(), std.tolist()),
        ]
    )

    def make():
        assert torch.stack([pipeline(picture) for picture in pictures]).shape == (SIZE, 3, 32, 32)

    return make


def seconds(make):
    """Time one call."""
    start = time.perf_counter()
    make()
    return time.perf_counter() - start


def main():
    """Print the images per second of both, their ratio, and the time of a batch of digits."""
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (BATCHES * SIZE, 3, 32, 32), dtype=torch.uint8)
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    arguments = (split, torch.full((3,), 0.5), torch.full((3,), 0.25))
    data = split_source(digits(), 0.1, seed=0)
    small = Batches(data.train, 64, data.mean, data.std, shuffle=True)
    makers = (ours(*arguments), theirs(*arguments), lambda: list(small.epoch(0)))
    rounds = [[seconds(make) for make in makers] for _ in range(ROUNDS)]
    epoch, batch, small_epoch = map(min, zip(*rounds, strict=True))
    ours_rate, theirs_rate = len(images) / epoch, SIZE / batch
    print(f"ours          {ours_rate:10,.0f} images/s")
    print(f"torchvision   {theirs_rate:10,.0f} images/s")
    print(f"ratio         {ours_rate / theirs_rate:10.1f}   (target: 20)")
    microseconds = small_epoch / len(small) * 1e6
    print(f"64 digits     {microseconds:10.0f} microseconds per batch, not augmented")


if __name__ == "__main__":
    main()
