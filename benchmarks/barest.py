"""The digits as one would train them without a bench: the barest script with TensorBoard.

    python -m benchmarks.barest FOLDER [SEED]

ResNet-8 of width 8, 15 epochs of SGD under a cosine, the validation split after each, the test set
at the end: what `python -m runner` does by default, without its checkpoints, checks and report.
"""

import sys
from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

EPOCHS, BATCH, WIDTH = 15, 64, 8


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.two = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm_one, self.norm_two = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Pass maps."""
        out = self.norm_two(self.two(F.relu(self.norm_one(self.one(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(x, (0, 0, 0, 0, 0, self.more)))


def resnet8() -> nn.Module:
    """Make the network."""
    first = nn.Conv2d(1, WIDTH, 3, padding=1, bias=False)
    blocks = [Block(WIDTH, WIDTH, 1), Block(WIDTH, 2 * WIDTH, 2), Block(2 * WIDTH, 4 * WIDTH, 2)]
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * WIDTH, 10)
    return nn.Sequential(first, nn.BatchNorm2d(WIDTH), nn.ReLU(), *blocks, *ends)


def digits() -> list[tuple[Tensor, Tensor]]:
    """Read the three splits."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images).float().view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    rest, test = train_test_split(range(len(y)), test_size=0.2, random_state=0, stratify=y)
    train, validation = train_test_split(rest, test_size=0.1, random_state=0, stratify=y[rest])
    mean, std = x[train].mean(), x[train].std()
    return [((x[part] - mean) / std, y[part]) for part in (train, validation, test)]


def batches(x: Tensor, y: Tensor, shuffle: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a split into batches."""
    order = torch.randperm(len(y)) if shuffle else torch.arange(len(y))
    for part in order.split(BATCH):
        yield x[part], y[part]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Evaluate a split."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in batches(x, y, shuffle=False))
    model.train()
    return right / len(y)


def main() -> None:
    """Train."""
    from torch.utils.tensorboard import SummaryWriter

    folder, seed = sys.argv[1], int((sys.argv[2:] or ["0"])[0])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    train, validation, test = digits()
    model = resnet8()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    log = SummaryWriter(folder)
    for epoch in range(EPOCHS):
        total = 0.0
        for x, y in batches(*train, shuffle=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        schedule.step()
        log.add_scalar("train/loss", total / len(train[1]), epoch)
        log.add_scalar("validation/accuracy", accuracy(model, *validation), epoch)
    log.add_scalar("test/accuracy", accuracy(model, *test), EPOCHS)
    log.close()
    torch.save(model.state_dict(), f"{folder}/model.pt")


if __name__ == "__main__":
    main()
