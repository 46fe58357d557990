"""Each trick in a plain PyTorch loop: three lines at most, torch alone underneath.

python -m examples.plain_loop     # installed: runner.examples.plain_loop
"""

import torch
from torch import nn
from torch.nn import functional as F

from tricks import (
    anti_alias,
    centralize_,
    clip_gradients_,
    flood,
    scale_learning_rates_,
    warm_restarts,
)

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(8, 16, 3, stride=2, padding=1),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 10),
)
anti_alias(model)  # the strided convolution: stride 1, and a blur that strides after its ReLU
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
inputs, targets = torch.randn(64, 1, 16, 16), torch.randint(10, (64,))

for update in range(30):
    factor = warm_restarts(update, T_0=10, T_mult=2, T_up=2)  # restarts at updates 10 and 28
    scale_learning_rates_(optimizer, factor)  # of every group's own rate
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs), targets)
    flood(loss, level=2.26).backward()  # below 2.26 nats the descent becomes an ascent
    centralize_(model)  # each filter's gradient sums to zero
    norm = clip_gradients_(model.parameters(), limit=0.1)  # and all together are no longer than 0.1
    optimizer.step()
    print(f"update {update}  loss {loss.item():.3f}  norm {norm.item():.3f}  lr {0.1 * factor:.4f}")
