"""With what a run was made, as run.json records it: code, libraries, processor, device."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.config import Settings
from runner.metrics import is_built_in, own_metrics
from runner.run.own_code import digest_own
from runner.run.process import unusual_flags
from runner.store.identity import digest_config
from runner.torchrun import counted
from runner.transforms import targets
from runner.versions import version_of

LIBRARIES = (
    *("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn"),
    *("hydra-core", "omegaconf", "tensorboard"),
)
VARIABLES = re.compile(
    "(ONEDNN|DNNL|MKL|OMP|KMP|ATEN|CUBLAS|CUBLASLT|CUDNN|OPENBLAS|TORCH|TORCHINDUCTOR|TORCHDYNAMO)_"
    "|(NVIDIA_TF32_OVERRIDE|NPY_DISABLE_CPU_FEATURES|GLIBC_TUNABLES)$"
)
HARMLESS = re.compile(
    "VERBOSE|LOG|TRACE|PROFIL|DISPLAY|WARNINGS|SETTINGS|_DIR$|CACHE|_HOME|STACKSIZE"
    "|^(OMP|MKL|OPENBLAS)_NUM_THREADS$"  # torch is given its threads
    "|PLACES|PROC_BIND|WAIT_POLICY|AFFINITY|BLOCKTIME|HW_SUBSET|DUPLICATE_LIB|INIT_AT_FORK"
    "|^TORCH_(NCCL|DISTRIBUTED|SHOW|FORCE_(NO_)?WEIGHTS|CUDA_ARCH_LIST|DISABLE_ADDR2LINE)"
)
"""Of the variables, those that move no bit: about printing, files, and where threads run."""
HERE = Path(__file__).resolve().parent.parent
TRAINING_CODE = (
    *("begin.py", "build.py", "compiled.py", "data/*.py", "device.py", "eager.py", "evaluate.py"),
    *("fit.py", "losses.py", "metrics.py", "micro_batches.py", "models/*.py", "nodes.py"),
    *("observed.py", "optimizers.py", "ranks/*.py", "schedulers.py", "train.py", "transforms.py"),
    *("run/attempt.py", "run/choice.py", "run/course.py", "run/result.py"),
    *("store/archive.py", "../tricks/*.py"),
)
"""The files, seen from `runner/`, that the bits of a run come from."""


def fingerprint(
    settings: Settings, device: torch.device, model: nn.Module | None = None
) -> dict[str, Any]:
    """Give back what `run.json` holds."""
    cuda = device.type == "cuda"
    return {
        "config": digest_config(settings.to_dict()),
        "code": {
            "version": version_of("biscuits-bench"),
            "commit": _commit(),
            "digest": _digest_code(),
            "own": digest_own(_own_modules(settings)),
        },
        "libraries": {name: version_of(name) for name in LIBRARIES},
        "made of": {name: version_of(name) for name in sorted(_libraries(settings, model))},
        "variables": _variables() or None,
        "flags": unusual_flags() or None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cuda.get_device_name(device) if cuda else processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "ranks": counted(),
        "precision": settings.precision,
        "memory_format": settings.memory_format,
    }


def digest_tensors(state: Mapping[str, Tensor | Iterable[Tensor]]) -> str:
    """Give back a hash of the names and the bits of tensors, whole or in pieces."""
    total = hashlib.sha256()
    for name, given in state.items():
        total.update(name.encode())
        for tensor in (given,) if isinstance(given, Tensor) else given:
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


def bits_depend_on(machine: Mapping[str, Any]) -> dict[str, str]:
    """Pick out of a fingerprint what changes the bits of a run.

    The versions of torch and of the libraries that its parts are from count. Those that only the
    data come through do not: the images themselves are compared.
    """
    found = {
        "device": machine["device"].partition(":")[0],
        "processor": machine["processor"],
        "capability": machine["capability"],
        "code": machine["code"]["digest"],
        "code of your own": machine["code"]["own"],
        **machine["made of"],
        "torch": machine["libraries"]["torch"],
        "ranks": machine.get("ranks", 1),
        "variables": machine["variables"],
        "flags": machine["flags"],
    }
    return {key: str(value) for key, value in found.items()}


@lru_cache
def _digest_code() -> str:
    """Hash the code that trains; a new report or launcher moves no bit of a run."""
    files = [file for pattern in TRAINING_CODE for file in sorted(HERE.glob(pattern))]
    content = b"".join(file.name.encode() + b"\0" + file.read_bytes() + b"\0" for file in files)
    return hashlib.sha256(content).hexdigest()[:16]


def _own_modules(settings: Settings) -> set[str]:
    """The modules of the classes and functions that a config names."""
    nodes = (settings.data, settings.model, settings.optimizer, settings.scheduler, settings.loss)
    on = [node for node in settings.tricks.values() if node["enabled"]]
    named = [*own_metrics(settings.metrics), *(node["_target_"] for node in (*nodes, *on))]
    named += [target for target, _ in targets(settings.data["augment"]).values()]
    return {str(name).rpartition(".")[0] for name in named}


def _libraries(settings: Settings, model: nn.Module | None) -> set[str]:
    """The packages that the parts of a run come from, beside ours and Python's."""
    named = {type(module).__module__ for module in model.modules()} if model else set()
    tops = {name.partition(".")[0] for name in (*named, *_own_modules(settings))}
    measuring = {"scikit-learn"} if any(map(is_built_in, settings.metrics)) else set()
    return (tops | measuring) - {"runner", "tricks", "torch", "__main__"} - sys.stdlib_module_names


def _variables() -> str:
    """The variables of the environment that change how the libraries below torch compute."""
    found = {k: v for k, v in os.environ.items() if VARIABLES.match(k) and not HARMLESS.search(k)}
    return " ".join(f"{name}={found[name]}" for name in sorted(found))


@lru_cache
def _commit() -> str | None:
    """The commit of the checkout that the code runs from, with a plus if it was changed since.

    Asked once: a process keeps the code that it has imported.
    """
    command = ("git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    options: dict[str, Any] = {"cwd": HERE, "text": True, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.check_output(command, timeout=10, **options).strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def processor() -> str:
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
