"""Starts the ranks of a run, by torchrun or without it, and reads what they print."""

import os
import re
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import torch

from tests.conftest import ROOT, start

SETTINGS = ("threads=1", "memory_format=contiguous", "name=ours")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
NOISE = re.compile(
    r"^(\*|Setting OMP|\[|W\d{4}|E\d{4}|Traceback| |-{9}|={9})|FAILED|Fail|Cause|Child"
)
"""Lines of torchrun's own."""


def on_cards(count=2):
    """What differs of ranks on cards, if there are too few: each is a machine with the first one.

    NCCL refuses two ranks of one machine on one card, and knows a machine by its `NCCL_HOSTID`.
    """
    if torch.cuda.device_count() >= count:
        return {}
    alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NCCL_SOCKET_IFNAME": "lo"}
    return {n: {"environment": {**alone, "NCCL_HOSTID": f"machine{n}"}} for n in range(count)}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_ranks(folder, *arguments, count=2, port=None, module="runner", each=None, **more):
    """Start ranks; `each` gives what differs: of a rank its folder, arguments and environment."""
    port, found = port or free_port(), []
    for rank in range(count):
        own = (each or {}).get(rank, {})
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **more,
            **own.get("environment", {}),
        }
        given = (*arguments, *own.get("arguments", ()))
        found.append(start(own.get("folder", folder), *given, module=module, **variables))
    return found


def ended(processes, timeout=240):
    """Wait for ranks; give back their exit codes and what each printed."""
    pairs = [process.communicate(timeout=timeout) for process in processes]
    codes = [process.returncode for process in processes]
    return SimpleNamespace(codes=codes, out=[o for o, _ in pairs], err=[e for _, e in pairs])


def run_ranks(folder, *arguments, **options):
    """Do a run over ranks; give back what they printed."""
    return ended(start_ranks(folder, *SETTINGS, *arguments, **options))


def lines(text):
    """The lines that are not torchrun's."""
    return [line for line in text.splitlines() if line.strip() and not NOISE.search(line)]


def torchrun(folder, *arguments, more=("--nproc-per-node=2",), **variables):
    """Start ranks by torchrun, two unless `more` says otherwise."""
    return subprocess.Popen(
        [*TORCHRUN, *more, "-m", "runner", *SETTINGS, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ranks_of(process):
    """The process numbers of the ranks that torchrun started, in order."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(number) for number in found.stdout.split()]


def wait_for_epochs(folder, count, process, seconds=120):
    """Wait until the run of a folder has logged so many evaluations."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        logs = [*folder.glob("outputs/ours/*/seed=0/metrics.jsonl")]
        if logs and len(logs[0].read_text().splitlines()) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it has not come so far in time")
