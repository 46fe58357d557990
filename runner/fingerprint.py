"""Where and with what a run was made: what its bits depend on beside its config."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from runner.config import Settings
from runner.files import digest

LIBRARIES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "tensorboard")


def fingerprint(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Give back what `run.json` holds."""
    cuda = device.type == "cuda"
    return {
        "config": digest(settings.to_dict()),
        "code": {"version": _version("biscuits-bench"), "commit": _commit()},
        "libraries": {name: _version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cuda.get_device_name(device) if cuda else _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "precision": settings.precision,
        "channels_last": settings.channels_last,
    }


def digest_tensors(state: dict[str, torch.Tensor]) -> str:
    """Give back a hash of the names and the bits of tensors."""
    total = hashlib.sha256()
    for name, tensor in state.items():
        total.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that the code runs from, with a plus if it was changed since."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def _processor() -> str:
    """The processor's name, which `platform` does not tell on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
