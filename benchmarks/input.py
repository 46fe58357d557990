"""The speed of making batches on one thread, beside torchvision's pipeline.

    python -m benchmarks.input           # half a minute

CIFAR-shaped images in memory, batch 128, random crop with 4 pixels of padding, flip, normalisation:
our batches against torchvision's transforms, applied to one PIL image after another and stacked,
and against an update of a ResNet-20. All take turns; the best round counts, because other work on
the machine only adds time.
"""

import time

import torch
from torch.nn import functional as F
from torchvision import transforms

from benchmarks.goals import Row
from runner.data import Augmentation, Batches, Split
from runner.models import cifar_resnet

ROUNDS, BATCHES, SIZE = 15, 40, 128


def ours(split, mean, std, memory_format):
    """Return a function that makes the batches of one epoch."""
    crops = Augmentation(crop=4, flip=True)
    options = {"shuffle": True, "memory_format": memory_format}
    batches = Batches(split, SIZE, mean, std, crops, **options)

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


def update(split, mean, std):
    """Return a function that makes one update."""
    model = cifar_resnet(depth=20, channels=3, classes=10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = Batches(split, SIZE, mean, std, memory_format=torch.channels_last)
    batch = next(batches.epoch(0))

    def make():
        optimizer.zero_grad()
        F.cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.step()

    return make


def seconds(make):
    """Time one call."""
    start = time.perf_counter()
    make()
    return time.perf_counter() - start


def rows():
    """Measure the images per second of both, and a batch beside the update of a ResNet-20."""
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (BATCHES * SIZE, 3, 32, 32), dtype=torch.uint8)
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    arguments = (split, torch.full((3,), 0.5), torch.full((3,), 0.25))
    makers = (
        ours(*arguments, torch.contiguous_format),
        ours(*arguments, torch.channels_last),
        theirs(*arguments),
        update(*arguments),
    )
    rounds = [[seconds(make) for make in makers] for _ in range(ROUNDS)]
    plain, last, batch, step = map(min, zip(*rounds, strict=True))
    theirs_rate = SIZE / batch
    for name, epoch in (("", plain), (", to channels_last", last)):
        rate = len(images) / epoch
        details = f"{rate:,.0f} and {theirs_rate:,.0f} images/s"
        what = f"crop, flip and normalise{name}, one thread"
        against = "torchvision on PIL images"
        yield Row(what, against, rate / theirs_rate, 30, "times", at_least=True, details=details)
    details = f"{1000 * last / BATCHES:.2f} ms and {1000 * step:.0f} ms"
    share = 100 * last / BATCHES / step
    yield Row("the same", "an update of ResNet-20 in channels_last", share, 1, "%", details=details)


if __name__ == "__main__":
    for row in rows():
        print(row.text(), flush=True)
