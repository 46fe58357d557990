"""Where a run computes: devices, and what is refused there."""

import os
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from runner.errors import Unfit, UserError
from runner.torchrun import counted, counted_here, local_rank


def find_device(name: str) -> torch.device:
    """Give back the device of that name; `auto` is CUDA where there is one.

    Of several ranks each has a card of its own, the n-th of the machine.
    """
    asked = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and counted() > 1:
        if not os.environ.get("LOCAL_RANK"):
            raise UserError(
                f"device={asked} over {counted()} ranks needs LOCAL_RANK, a rank's number on its "
                "machine. torchrun sets it; under srun: export LOCAL_RANK=$SLURM_LOCALID."
            )
        name = f"cuda:{local_rank()}"
    elif name.startswith("cuda:") and counted_here() > 1:
        raise UserError(
            f"device={name} is one card, and each of the {counted_here()} ranks here needs its own."
            " Use device=cuda; CUDA_VISIBLE_DEVICES chooses which cards those are."
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name}.")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        cards = f"{count} CUDA card{'s' * (count > 1)}" if count else "no CUDA card"
        remedy = "Use device=cpu or device=auto."
        if count and counted() > 1:
            cards = f"{cards} for {counted_here()} ranks"
            remedy = f"Start fewer (torchrun --nproc-per-node={count}), or use device=cpu."
        raise Unfit(
            f"device={asked}: torch sees {cards} here (torch {torch.__version__}). {remedy}"
        )
    return device


def compute_exactly(device: torch.device, threads: int, tf32: str = "convolutions") -> None:
    """Let torch compute the same bits each time.

    Args:
        device: Where.
        threads: Of a CPU.
        tf32: What a card may compute with the 10 bits of TF32 where the precision is float32:
            `none`, `all`, or `convolutions`, which leaves torch's flags as they are.

    Raises:
        Unfit: If there is no card for another `tf32`.
    """
    torch.set_num_threads(threads)
    if device.type == "cuda" and counted() > 1:
        torch.cuda.set_device(device)  # else torch puts some of each rank on the first card
    if tf32 != "convolutions":
        if device.type != "cuda":
            raise Unfit(
                f"tf32={tf32} needs a CUDA card, and the device is {device}. Leave it at "
                "tf32=convolutions, which changes nothing on a CPU."
            )
        backends: Any = torch.backends
        for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
            part.fp32_precision = "tf32" if tf32 == "all" else "ieee"
    if device.type == "cuda":  # on a CPU torch is deterministic, for a number of threads
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False


def refuse_emulated(device: torch.device, precision: str, allowed: bool) -> None:
    """Refuse a precision that is much slower here than float32, unless that is allowed."""
    capability = torch.backends.cpu.get_cpu_capability()
    emulated = device.type == "cpu" and precision != "float32"
    if emulated and "AVX512" not in capability and not allowed:
        raise Unfit(
            f"precision must be float32 on this processor ({capability}), which only emulates "
            f"{precision}, 20 to 40 times slower; got {precision}. "
            "To do it all the same, set allow_emulated=true."
        )


def to_channels_last_(model: nn.Module, device: torch.device) -> None:
    """Bring a model's maps into channels_last, but for what lazy modules make in their first pass.

    So does `model.to(memory_format=torch.channels_last)`, which fails on lazy modules.

    Raises:
        UserError: If a convolution has 4 channels on a CPU: torch crashes there, or takes minutes.
    """
    for name, module in model.named_modules():
        four = isinstance(module, nn.Conv2d) and 4 in (module.in_channels, module.out_channels)
        if four and device.type == "cpu":
            raise UserError(
                "memory_format must be contiguous for a convolution of 4 channels on a CPU, got "
                f"channels_last with {name}, on which torch crashes. Use another width."
            )
    for tensor in (*model.parameters(), *model.buffers()):
        if not is_lazy(tensor) and tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
