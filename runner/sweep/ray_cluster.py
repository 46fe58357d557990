"""A Ray cluster as our launcher finds it: whether it answers, and whether its machines can do runs.

Where no cluster answers Ray itself waits for many minutes, and hears no signal. So a process of its
own tries first.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

from runner.cores import usable_cores
from runner.errors import UserError
from runner.texts import in_one_line, listed

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it when it starts

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

OLDEST, NEWER = (2, 40), (3,)
ANSWER = 90.0  # seconds in which a cluster must answer, and each of its machines
KNOCK = 10.0  # seconds in which something must listen there
QUIET = {"log_to_driver": False, "logging_level": "ERROR"}
START = {"include_dashboard": False, "object_store_memory": 2**27}  # what is sent is small

_TRY = """
import os, sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit(str(error))
os._exit(0)
"""


def check_version() -> None:
    """Refuse a release of Ray that is not supported."""
    found = metadata.version("ray")
    if not OLDEST <= tuple(map(int, found.split(".")[:2])) < NEWER:
        raise UserError(
            f"hydra/launcher=ray works with Ray {'.'.join(map(str, OLDEST))} and later, and not "
            f"with 3; this is {found}. Run pip install 'biscuits-bench[ray]'."
        )


def connect(address: str | None) -> None:
    """Connect to a cluster, or start one of this machine; does nothing the second time.

    Args:
        address: `auto`, HOST:PORT, or None to start one.

    Raises:
        UserError: If none answers there, or it is of another version.
    """
    if ray.is_initialized():
        return
    if address is not None:
        _try(address)
    start: dict[str, Any] = {}
    if address is None:
        start = {**START, "num_cpus": usable_cores()}
        # else Ray writes one into the home of the user
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    before = signal.getsignal(signal.SIGTERM)
    ray.init(address=address or "local", **start, **QUIET)
    signal.signal(signal.SIGTERM, before)  # Ray takes that one


def _try(address: str) -> None:
    """Refuse an address at which no cluster answers that can be used."""
    what = f"hydra.launcher.address={address}"
    if "://" in address:
        raise UserError(
            f"{what}: Ray's clients are not supported. Give the command on a machine of the "
            "cluster, with address=auto or address=HOST:PORT."
        )
    how = _answer(address)
    if (at := how.find("ersion mismatch")) >= 0:
        raise UserError(f"{what}: another version runs there: V{how[at:]}")
    if "AuthToken" in how or "RAY_AUTH_TOKEN" in how:
        raise UserError(
            f"{what}: that cluster wants its token. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN as "
            "it is set there, in the environment."
        )
    if how:
        raise UserError(
            f"{what}: no Ray cluster there ({how[-200:]}). Start one with `ray start --head`, or "
            "leave the address out: then one of this machine is started."
        )


def _answer(address: str) -> str:
    """Connect in another process, which can be ended; give back why that fails, if it does."""
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=KNOCK).close()
        command = (sys.executable, "-c", _TRY, address)
        found = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER)
    except (OSError, OverflowError) as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWER:.0f} seconds"
    return " ".join(found.stderr.split()) if found.returncode else ""


GONE = (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError)
"""What becomes of a task for a machine that is no longer there."""


def machines() -> list[dict[str, Any]]:
    """Give back what Ray knows of the machines that are there."""
    return [node for node in ray.nodes() if node["Alive"]]


def check_machines(look: Callable[[], str | None]) -> None:
    """Have each machine of the cluster say whether it can do runs.

    One that leaves the cluster meanwhile is not needed: Ray shows a dead one for half a minute.

    Args:
        look: Called there; gives back why it cannot.

    Raises:
        UserError: If one cannot, or gives no answer.
    """
    asked = {}
    for node in machines():
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=where)(_call)
        asked[ask.remote(look)] = node["NodeID"], str(node["NodeName"])
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER)
    for answer in late:
        ray.cancel(answer, force=True)
    there = {node["NodeID"] for node in machines()}
    if silent := [name for node, name in map(asked.__getitem__, late) if node in there]:
        raise UserError(f"{listed(silent)} of the Ray cluster: no answer within {ANSWER:.0f} s.")
    for answer in answered:
        node, name = asked[answer]
        try:
            complaint = ray.get(answer)
        except ray.exceptions.RayError as error:
            if isinstance(error, GONE) or node not in there:
                continue
            complaint = f"{name} of the Ray cluster can do no runs: {in_one_line(error)}"
        if complaint:
            raise UserError(complaint)


def _call(look: Callable[[], str | None]) -> str | None:
    return look()
