"""The peak memory of a run: of this process on a CPU, of the card on CUDA."""

from contextlib import suppress
from pathlib import Path

import torch

from runner.heap import release


def reset_peak(device: torch.device) -> None:
    """Reset the measurement, where the system allows it: a warm worker does many runs.

    What the run before has freed is not this one's.
    """
    release()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # not Linux, or not allowed: then its peak so far counts
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int | None:
    """Give back the most bytes that were held at once; None where that is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    return None if kilobytes is None else 1024 * int(kilobytes)
