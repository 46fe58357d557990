"""With what a run was made, as run.json records it: code, libraries, processor, device."""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from runner.config import Settings
from runner.store.files import digest

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf", "tensorboard")
HERE = Path(__file__).resolve().parent.parent
TRAINING_CODE = (
    *("build.py", "data/*.py", "evaluate.py", "fit.py", "models.py", "optimizers.py"),
    *("schedulers.py", "train.py", "weights.py"),
    *("run/attempt.py", "run/result.py", "../tricks/*.py"),
)
"""The files, seen from `runner/`, that the bits of a run come from."""


def fingerprint(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Give back what `run.json` holds."""
    cuda = device.type == "cuda"
    return {
        "config": digest(settings.to_dict()),
        "code": {
            "version": _version("biscuits-bench"),
            "commit": _commit(),
            "digest": _digest_code(),
            "own": _digest_own(settings),
        },
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


def bits_depend_on(machine: Mapping[str, Any], model: str) -> dict[str, str]:
    """Pick out of a fingerprint what changes the bits of a run.

    Args:
        machine: The fingerprint.
        model: The function that makes the model; the version of a library of models counts
            only if the model is from that library.
    """
    libraries = machine["libraries"]
    used = ["torch", *(name for name in ("torchvision", "timm") if name in model)]
    found = {
        "device": machine["device"].partition(":")[0],
        **{key: machine[key] for key in ("processor", "capability")},
        "code": machine["code"]["digest"],
        "code of your own": machine["code"]["own"],
        **{name: libraries[name] for name in used},
    }
    return {key: str(value) for key, value in found.items()}


@lru_cache
def _digest_code() -> str:
    """Hash the code that trains; a new report or launcher moves no bit of a run."""
    files = [file for pattern in TRAINING_CODE for file in sorted(HERE.glob(pattern))]
    content = b"".join(file.name.encode() + b"\0" + file.read_bytes() + b"\0" for file in files)
    return hashlib.sha256(content).hexdigest()[:16]


def _digest_own(settings: Settings) -> str | None:
    """Hash the files of the user's own classes and functions; None if there are none."""
    nodes = (settings.data, settings.model, settings.optimizer, settings.scheduler)
    on = [node for node in settings.tricks.values() if node["enabled"]]
    modules = {str(node["_target_"]).rpartition(".")[0] for node in (*nodes, *on)}
    own = sorted(n for n in modules if n.partition(".")[0] not in ("runner", "torch", "tricks"))
    # imported when it was built
    files = [(name, getattr(sys.modules.get(name), "__file__", None) or "") for name in own]
    read = [n.encode() + b"\0" + Path(f).read_bytes() for n, f in files if Path(f).is_file()]
    return hashlib.sha256(b"".join(read)).hexdigest()[:16] if read else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that the code runs from, with a plus if it was changed since."""
    command = ("git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    options: dict[str, Any] = {"cwd": HERE, "text": True, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.check_output(command, timeout=10, **options).strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    """The processor, with its family and stepping: on clouds many have the same name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:  # not on Linux
        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (ln.partition(":") for ln in lines)}
    keys = ("cpu family", "model", "stepping", "cache size")
    details = ", ".join(facts[key] for key in keys if key in facts)
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({details})" if details else name
