"""A Ray cluster of this machine: a head that does nothing, and nodes that are processes of it."""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.slurm import wait_until

VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
"""For the nodes, and for the commands that are to use them."""
SMALL = "--object-store-memory=134217728"


def missing() -> str:
    """Why there can be no Ray here; nothing if there can."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        return f"{error}: pip install 'biscuits-bench[ray]'"
    return ""


def _end_with_parent() -> None:
    """Have a node end with tests that are killed; `ray start --block` takes all others with it."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Nodes:
    """The nodes by their names; each is a group of processes, which ends as its machine would."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str, *arguments: str, before: str = "") -> None:
        """Start a node, and wait until it is there; `before` is what its shell does first.

        Ray gives up where a machine is busy, or two nodes take one port at the same time.
        """
        for _ in range(3):
            self._start(name, *arguments, before=before)
            log, process = self.folder / f"{name}.log", self.processes[name]
            started = "Ray runtime started"
            wait_until(lambda: started in log.read_text() or process.poll() is not None, 120)  # noqa: B023
            if process.poll() is None:
                return
        raise AssertionError(log.read_text())

    def _start(self, name: str, *arguments: str, before: str) -> None:
        ray = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"
        command = [sys.executable, "-c", ray, "start", "--block", SMALL, *arguments]
        if before:
            command = ["unshare", "--mount", "sh", "-c", f'{before}; exec "$@"', "sh", *command]
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env={**os.environ, **VARIABLES},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def add(self, name: str, before: str = "", more: str = "{}") -> None:
        """Add a node with one core, and more resources."""
        given = (f"--address={self.address}", "--num-cpus=1", f"--resources={more}")
        self.start(name, *given, before=before)

    def members(self, name: str, called: str = "") -> list[int]:
        """The processes of a node, or those that are called so."""
        found, known = [self.processes[name].pid], {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                known.setdefault(parent, []).append(int(path.name))
        for process in found:
            found += known.get(process, [])
        return [p for p in found if Path(f"/proc/{p}/cmdline").read_text().startswith(called)]

    def kill(self, name: str) -> None:
        """End a node as a machine that loses its power."""
        for process in self.members(name):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.processes.pop(name).wait()


@contextmanager
def nodes(folder: Path, port: int):
    """Start a head; stop it again with all nodes."""
    found = Nodes(folder)
    try:
        found.start("head", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
        found.address = f"127.0.0.1:{port}"
        yield found
    finally:
        for name in list(found.processes):
            found.kill(name)
