"""The cost of an update on a CUDA card, by setting, beside the barest loop in float32.

    python -m benchmarks.card                  # all networks and settings; several minutes
    python -m benchmarks.card resnet50         # one network

As in `benchmarks.step`: the runner's own epoch, with all logging, and the barest loop take turns. A
setting that pays has a ratio well below that of `contiguous`.
"""

import sys

import torch

from benchmarks.step import AUGMENTED, Case, measure

CIFAR = ("data=npz", "data.validation=0", *AUGMENTED)
NETWORKS = {
    "resnet8": Case("ResNet-8 of width 8, digits, batch 64", 0, 10, ("model=resnet8",)),
    "resnet20": Case(
        "ResNet-20, CIFAR's shapes, batch 128",
        0,
        5,
        ("model=resnet20", "batch_size=128", *CIFAR),
        images=12_800,
    ),
    "resnet18": Case(
        "ResNet-18 for CIFAR, batch 512",
        0,
        5,
        ("model=resnet18_cifar", "batch_size=512", *CIFAR),
        images=12_800,
    ),
    "resnet50": Case(
        "torchvision's ResNet-50, 224 pixels, batch 128",
        0,
        5,
        (
            *("model=torchvision", "model.name=resnet50"),
            *("batch_size=128", "data=npz", "data.validation=0", "data.augment.flip=true"),
        ),
        images=640,
        side=224,
    ),
}
SETTINGS = {
    "contiguous": (),
    "channels_last": ("memory_format=channels_last",),
    "tf32=all": ("tf32=all",),
    "bfloat16": ("precision=bfloat16",),
    "bfloat16, channels_last": ("precision=bfloat16", "memory_format=channels_last"),
    "compiled": ("compile=true",),
    "cuda_graphs": ("compile=cuda_graphs",),
    "bfloat16, channels_last, compiled": (
        *("precision=bfloat16", "memory_format=channels_last", "compile=true"),
    ),
}


def main() -> None:
    """Print a line for each network and setting.

    Raises:
        SystemExit: If there is no card.
    """
    if not torch.cuda.is_available():
        sys.exit("There is no CUDA card here.")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}", flush=True)
    for name in sys.argv[1:] or NETWORKS:
        case = NETWORKS[name]
        case = case._replace(overrides=(*case.overrides, "device=cuda"))
        times, memory = measure(case, SETTINGS)
        barest = times["barest"]
        print(f"{case.title}: the barest loop {1000 * barest:.2f} ms", flush=True)
        for setting in SETTINGS:
            print(
                f"    {setting}: {1000 * times[setting]:.2f} ms, ratio "
                f"{times[setting] / barest:.2f}; {memory[setting] / 2**20:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
