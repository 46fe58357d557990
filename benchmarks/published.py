"""The published recipe of airbench94 in a plain loop, on a folder of images: accuracy and cost.

    python -m benchmarks.published FOLDER                      # five seeds of four epochs
    python -m benchmarks.published FOLDER --seeds 7 --epochs 9.9 --out published.csv
    python -m benchmarks.published FOLDER --time               # one update: seconds, multiply-adds

It is written from the description in Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
https://arxiv.org/abs/2404.00498, with the settings of `legacy/airbench94.py` in
https://github.com/KellerJordan/cifar10-airbench, so that `experiment=cifar10_fast` can be compared
with it on the same files. It uses none of our tricks and none of the runner but the network and the
reading of the images. A row of the table is a variant, a seed, and its score on the test images, as
`python -m runner.judge` takes it; a seed that is there already is not trained again.

What differs: it computes in autocast, with float32 weights, where the authors' weights are float16;
and the whitening takes 5,000 training images at random, where theirs are the first, which in a
folder are of one class.
"""

import argparse
import csv
import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from runner.data import image_folder
from runner.models import airbench
from tricks import derive_seed

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH, RATE, MOMENTUM, DECAY, BIAS_FACTOR = 1024, 11.5, 0.85, 0.0153, 64.0
SMOOTHING, TRANSLATE, BIAS_EPOCHS, PATCH_IMAGES, EPS = 0.2, 2, 3, 5000, 5e-4
KILOSTEP = 1024 * (1 + 1 / (1 - MOMENTUM))
"""By so much momentum enlarges the steps of 1,024 samples; rate and decay are given without it."""


def normalised(images):
    """Give back images [N, 3, H, W], uint8 to float32, in channels_last."""
    shape = 1, 3, 1, 1
    mean, std = (torch.tensor(each, device=DEVICE).view(shape) for each in (MEAN, STD))
    pixels = images.to(torch.float32, memory_format=torch.channels_last)
    return pixels.div_(255).sub_(mean).div_(std)


class Images:
    """The training images, augmented: mirrored in every other epoch, and shifted."""

    def __init__(self, split, seed):
        self.images = split.images_of(torch.arange(len(split.labels))).to(DEVICE)
        self.labels = split.labels.to(DEVICE)
        self.generator = torch.Generator(DEVICE).manual_seed(derive_seed(seed, "published"))
        self.drawn = {"generator": self.generator, "device": DEVICE}
        self.mirrored = torch.rand(len(self.labels), **self.drawn) < 0.5
        self.updates = len(self.labels) // BATCH

    def epoch(self, number):
        """Yield the batches of an epoch; what is left over is dropped."""
        order = torch.randperm(len(self.labels), **self.drawn)
        for chosen in order[: self.updates * BATCH].split(BATCH):
            inputs = normalised(self.images.index_select(0, chosen))
            mirrored = self.mirrored[chosen] ^ bool(number % 2)
            inputs = torch.where(mirrored.view(-1, 1, 1, 1), inputs.flip(-1), inputs)
            yield self._shifted(inputs), self.labels[chosen]

    def _shifted(self, inputs):
        """Shift each image by up to two pixels each way, reflected at the border."""
        height, width = inputs.shape[2:]
        padded = F.pad(inputs, (TRANSLATE,) * 4, "reflect")
        steps = 2 * TRANSLATE + 1
        shifts = torch.randint(steps**2, (len(inputs),), **self.drawn)
        shifted = torch.empty_like(inputs)
        for shift in range(steps**2):
            row, column = divmod(shift, steps)
            here = (shifts == shift).nonzero().squeeze(1)
            part = padded[here, :, row : row + height, column : column + width]
            shifted.index_copy_(0, here, part)
        return shifted


def whiten(conv, images):
    """Set the first convolution to the eigenvectors of the patches, scaled, and their negatives."""
    size = conv.kernel_size
    patches = F.unfold(images, size).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + EPS).sqrt()).T.flip(0)
    weights = torch.cat([filters, -filters]).view(conv.weight.shape)
    with torch.no_grad():
        conv.weight.copy_(weights)
        conv.bias.zero_()
    conv.weight.requires_grad_(False)


def make_network(images, seed):
    """Give back the network, initialised from the training images."""
    torch.manual_seed(derive_seed(seed, "published", "weights"))
    model = airbench(channels=3, classes=int(images.labels.max()) + 1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.dirac_(module.weight.data[: module.in_channels])
    model = model.to(DEVICE)
    chosen = torch.randperm(len(images.labels), **images.drawn)[:PATCH_IMAGES]
    whiten(model.conv, normalised(images.images.index_select(0, chosen)))
    return model.to(memory_format=torch.channels_last).train()


def make_optimizer(model):
    """Give back SGD with rates of their own for the biases of norms, and the same decay."""
    rate, decay = RATE / KILOSTEP, DECAY * BATCH / KILOSTEP
    norms = [m.bias for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    kinds = {id(bias) for bias in norms}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in kinds]
    fast = rate * BIAS_FACTOR
    groups = [
        {"params": norms, "lr": fast, "weight_decay": decay / fast, "base": fast},
        {"params": others, "lr": rate, "weight_decay": decay / rate, "base": rate},
    ]
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True)


def factor(update, updates):
    """Give back the factor on the rates: from .2 to 1 in 23 % of the training, and down to .07."""
    rise = int(0.23 * updates)
    if update < rise:
        return 0.2 + 0.8 * update / rise
    return 1 - 0.93 * (update - rise) / (updates - rise)


class Average:
    """Slow weights and statistics, from which the training goes on after each merging."""

    def __init__(self, model):
        self.values = [v for v in model.state_dict().values() if v.is_floating_point()]
        self.slow = [value.clone() for value in self.values]

    def merge(self, decay):
        """Move the slow values to the fast ones, but for a share, and put them in their place."""
        torch._foreach_lerp_(self.slow, self.values, 1 - decay)
        torch._foreach_copy_(self.values, self.slow)


def update(model, optimizer, inputs, targets, precision):
    """Make one update."""
    with autocast(precision):
        outputs = model(inputs)
    loss = F.cross_entropy(outputs.float(), targets, label_smoothing=SMOOTHING, reduction="sum")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def autocast(precision):
    return torch.autocast(DEVICE, getattr(torch, precision), enabled=precision != "float32")


def train(images, seed, epochs, precision):
    """Train a network; give it back."""
    model = make_network(images, seed)
    optimizer, average = make_optimizer(model), Average(model)
    updates, done = math.ceil(epochs * images.updates), 0
    for epoch in range(math.ceil(epochs)):
        model.conv.bias.requires_grad_(epoch < BIAS_EPOCHS)
        for inputs, targets in images.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * factor(done, updates)
            update(model, optimizer, inputs, targets, precision)
            done += 1
            if done % 5 == 0:
                average.merge(0.95**5 * (done / updates) ** 3)
            if done == updates:
                average.merge(1.0)
                return model
    raise AssertionError


@torch.no_grad()
def accuracies(model, split, precision):
    """Give back the accuracy on single images, and on six views: mirrored and shifted by one."""
    model.eval()
    right = torch.zeros(2, device=DEVICE)
    for chosen in torch.arange(len(split.labels)).split(1000):
        images, labels = (
            each.to(DEVICE) for each in (split.images_of(chosen), split.labels[chosen])
        )
        inputs = normalised(images)
        height, width = inputs.shape[2:]
        padded = F.pad(inputs, (1,) * 4, "reflect")
        moved = [padded[:, :, r : r + height, r : r + width] for r in (0, 2)]
        with autocast(precision):
            plain = model(inputs).float()
            logits = 0.25 * (plain + model(inputs.flip(-1)).float())
            for view in moved:
                logits += 0.125 * (model(view).float() + model(view.flip(-1)).float())
        right += torch.stack([(x.argmax(1) == labels).sum() for x in (plain, logits)])
    return (right / len(split.labels)).tolist()


def measure(images, precision):
    """Time an update, and count its multiply-adds, forwards and backwards."""
    model = make_network(images, 0)
    optimizer, batches = make_optimizer(model), images.epoch(0)
    update(model, optimizer, *next(batches), precision)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        update(model, optimizer, *next(batches), precision)
        times.append(time.perf_counter() - start)
    with FlopCounterMode(display=False) as counter:
        update(model, optimizer, *next(batches), precision)
    return sorted(times)[2], counter.get_total_flops() // 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path("published.csv"))
    parser.add_argument("--time", action="store_true", help="only measure an update")
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = image_folder(given.folder)
    if given.time:
        seconds, count = measure(Images(source.train, 0), given.precision)
        print(f"{given.precision}: {seconds:.2f} s an update of {BATCH}, {count:.4g} multiply-adds")
        return
    done = given.out.read_text().splitlines() if given.out.exists() else []
    with given.out.open("a", newline="") as file:
        table = csv.writer(file)
        if not done:
            table.writerow(["variant", "seed", "accuracy", "views", "seconds"])
        for seed in given.seeds:
            if any(line.startswith(f"published,{seed},") for line in done):
                continue
            start, images = time.process_time(), Images(source.train, seed)
            model = train(images, seed, given.epochs, given.precision)
            seconds = time.process_time() - start
            scores = accuracies(model, source.test, given.precision)
            table.writerow(["published", seed, *(f"{s:.4f}" for s in scores), f"{seconds:.0f}"])
            file.flush()
            print(f"seed {seed}: {scores[0]:.4f}, with views {scores[1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
