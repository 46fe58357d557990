"""What the blur costs on a CPU: ours against other ways to compute it, and a step of a network.

    python -m benchmarks.blur            # one thread; about a minute

Each line is forward and backward of a blur of 4 taps and stride 2, reflected at the border; the
times are the best of ten, in milliseconds, and the ways take turns, so that all meet the same
noise. `zeros` pads inside the convolution, with zeros: it is no blur of ours, but shows what the
padding costs. Then come two taps, the max-pool of ResNet-18 on 224x224 images at stride 1, which
its anti-aliasing needs, and a step of ResNet-20 on 32x32 images: plain, and anti-aliased.

Measured on one thread of an AMD EPYC (AVX512), torch 2.14.1, in three runs: ours takes .22 to .52
of the time of the padded convolution, in channels_last .32 to .93, but on the largest map
there .97 to 1.18, where two one-dimensional ones took .99 to 1.12; `zeros` is faster there.
Of two taps the average-pool takes .16 to .50 of the products. The max-pool takes 3 times as long at
stride 1. The anti-aliased step takes 1.13 to 1.19 of the plain one, denser convolutions included.
"""

import copy
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.models import cifar_resnet
from tricks import anti_alias
from tricks.blur_pool import _blur_matrix, blur_pool

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
SHAPES = [(64, 32, 8, 8), (64, 64, 16, 16), (64, 32, 32, 32), (16, 64, 112, 112)]
PADS = (1, 2, 1, 2)


def convolution(x: Tensor) -> Tensor:
    """Pad, then convolve each channel."""
    weight = torch.outer(TAPS, TAPS).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, PADS, "reflect"), weight, stride=2, groups=x.shape[1])


def two_convolutions(x: Tensor) -> Tensor:
    """Pad, then convolve each channel down and across."""
    down, across = (TAPS.view(shape).expand(x.shape[1], *shape) for shape in ((1, 4, 1), (1, 1, 4)))
    x = F.conv2d(F.pad(x, PADS, "reflect"), down, stride=(2, 1), groups=x.shape[1])
    return F.conv2d(x, across, stride=(1, 2), groups=x.shape[1])


def zeros(x: Tensor) -> Tensor:
    """Convolve each channel, padded with zeros as it goes."""
    weight = torch.outer(TAPS, TAPS).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, weight, stride=2, padding=2, groups=x.shape[1])


def products(x: Tensor) -> Tensor:
    """Two taps at stride 2, by the products that more taps need."""
    rows, columns = (_blur_matrix(n, n // 2, 2, 2, "reflect", x) for n in x.shape[-2:])
    y = rows @ x.permute(0, 2, 3, 1).flatten(2)
    y = y.reshape(len(x), len(rows), x.shape[3], x.shape[1])
    return (columns @ y).permute(0, 3, 1, 2)


def best(ways: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> dict[str, float]:
    """Time forward and backward of each way, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(11):
        for name, way in ways.items():
            start = time.perf_counter()
            y = way(x.detach().requires_grad_())
            y.backward(torch.ones_like(y))
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: min(measured[1:]) for name, measured in times.items()}


def report(title: str, times: Mapping[str, float], base: str) -> None:
    """Print the times, and their ratios to one of them."""
    columns = (f"{name} {t:.1f} ms ({t / times[base]:.2f})" for name, t in times.items())
    print(f"{title:32}", "  ".join(columns), flush=True)


def main() -> None:
    """Print every shape in both memory formats, then the step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ways = {"ours": blur_pool, "convolution": convolution, "two": two_convolutions}
    for shape in SHAPES:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape).contiguous(memory_format=memory_format)
            for way in ways.values():
                torch.testing.assert_close(way(x), blur_pool(x))
            title = f"{shape} {str(memory_format).removeprefix('torch.')}"
            report(title, best({**ways, "zeros": zeros}, x), "convolution")
    pairs = {"average-pool": partial(blur_pool, filter_size=2), "products": products}
    for shape in SHAPES:
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(products(x), blur_pool(x, 2))
        report(f"{shape} channels_last, two taps", best(pairs, x), "products")
    pools = {"stride 1": partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)}
    pools["stride 2"] = partial(F.max_pool2d, kernel_size=3, stride=2, padding=1)
    report("(8, 64, 112, 112), max-pool", best(pools, torch.randn(8, 64, 112, 112)), "stride 2")
    plain = cifar_resnet(depth=20, channels=3, classes=10)
    blurred = anti_alias(copy.deepcopy(plain))
    x = torch.randn(64, 3, 32, 32)
    report(
        "ResNet-20, (64, 3, 32, 32)", best({"plain": plain, "anti-aliased": blurred}, x), "plain"
    )


if __name__ == "__main__":
    main()
