"""A Slurm of one node, in a folder of its own: `python -m tests.cluster.slurm FOLDER` to try it.

It needs root, since slurmd does, and the packages slurm-wlm and munge; no systemd, no accounts. All
state is in the folder, and the ports are free ones, so that it disturbs no other Slurm.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of linux/prctl.h

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun")

CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1,requeue_setup_env_fail
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
MinJobAge=60
SlurmctldTimeout=30
SlurmdTimeout=30
ReturnToService=2
MaxArraySize={longest_array}
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 PriorityTier=1 GraceTime=20 State=UP
PartitionName=urgent Nodes={host} MaxTime=60 PriorityTier=2 PreemptMode=OFF State=UP
PartitionName=closed Nodes={host} State=DOWN
"""


def missing() -> str:
    """Why there can be no Slurm here; nothing if there can."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"{absent[0]} is not installed: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "slurmd must be started by root"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Slurm:
    """Its folder, and its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, socket.gethostname().split(".")[0]
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *command: str, check: bool = True) -> str:
        """Give back what one of its commands prints."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def update_node(self, state: str) -> None:
        self.ask("scontrol", "update", f"NodeName={self.host}", f"State={state}", "Reason=test")

    def jobs(self, *states: str) -> list[str]:
        """Give back the jobs in the queue, of all states or of these."""
        some = [f"--states={','.join(states)}"] if states else []
        return self.ask("squeue", "-r", "-h", "-o", "%i", *some).split()

    def node_is(self, *states: str) -> bool:
        return self.ask("sinfo", "-h", "-o", "%T", check=False).split("\n")[0].strip("*") in states


def _start(stack: ExitStack, *command: str, **variables: str) -> None:
    """Start a daemon that ends with the stack, or with this process where that is killed."""
    with open(variables.pop("log"), "ab") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )

    def end() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


@contextmanager
def slurm(folder: Path, cpus: int = 2, longest_array: int = 10):
    """Start a Slurm, and stop it again with all of its jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    found = Slurm(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    ports = {"controller_port": free_port(), "node_port": free_port()}
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            host=found.host, folder=folder, cpus=cpus, longest_array=longest_array, **ports
        )
    )
    with ExitStack() as stack:
        log = str(folder / "daemons.log")
        files = ("socket", "key", "pid", "log", "seed")
        names = {"socket": "munge.socket", "key": "munge.key"}
        options = {"socket": "--socket", **{name: f"--{name}-file" for name in files[1:]}}
        given = [f"{options[f]}={folder / names.get(f, f'munged.{f}')}" for f in files]
        _start(stack, "munged", "--foreground", "--force", *given, log=log)
        wait_until(lambda: (folder / "munge.socket").exists(), 20)
        _start(stack, "slurmctld", "-D", "-i", log=log, **found.variables)
        _start(stack, "slurmd", "-D", "-N", found.host, log=log, **found.variables)
        stack.callback(_cancel_all, found)
        wait_until(lambda: found.node_is("idle"), 60)
        yield found


def _cancel_all(found: Slurm) -> None:
    found.ask("scancel", "-u", "root", check=False)
    deadline = time.monotonic() + 40
    while found.jobs() and time.monotonic() < deadline:
        time.sleep(0.5)


def wait_until(condition, seconds: float) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.2)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with slurm(Path(sys.argv[1]).resolve()) as started:
        print(
            f"export SLURM_CONF={started.variables['SLURM_CONF']}    # Ctrl-C ends it", flush=True
        )
        while True:
            time.sleep(1)
