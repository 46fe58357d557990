"""What the folders of runs assume of a file system that several machines share.

Another machine is a process that calls itself by another host name, and to which every lock is
granted: so it is where a lock holds on one machine alone.
"""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf

from runner.errors import UserError
from runner.run.status import conclude
from runner.store import lock
from runner.store.files import Damaged, flush_folder, read_bytes, write_text
from runner.store.lock import Locked, lock_folder
from runner.sweep.composed import Composed
from runner.sweep.ends import has_ended
from tests.builders import read_status, write_status
from tests.conftest import ROOT, biscuits, few

HOLDER = """
import fcntl, os, socket, sys, time
from pathlib import Path
from runner.store import lock
folder, host = Path(sys.argv[1]), sys.argv[2]
if host:
    socket.gethostname = lambda: host
    fcntl.flock = lambda *those: None
if host:
    lock.BEAT, lock.LEASE = 0.2, 1.5
with lock.lock_folder(folder):
    print("held", flush=True)
    time.sleep(120)
"""
SHORT = ("epochs=1", "threads=1")
APART = [-86400.0, 86400.0]


@pytest.fixture
def impatient(monkeypatch):
    """Seconds instead of a minute."""
    monkeypatch.setattr(lock, "BEAT", 0.2)
    monkeypatch.setattr(lock, "LEASE", 1.5)


@pytest.fixture
def hold(tmp_path):
    """Have another process lock the folder, of this machine or of one that is called so."""
    processes = []

    def start(host=""):
        command = [sys.executable, "-c", HOLDER, str(tmp_path), host]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def refuse_locks(monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("impatient")
def test_a_lock_of_another_machine_is_noticed_where_locks_hold_on_one_alone(tmp_path, hold, faults):
    process = hold("elsewhere")
    with pytest.raises(Locked, match=f"process {process.pid} on elsewhere"), lock_folder(tmp_path):
        pass
    faults("locks that hold on one machine alone")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("apart", few(APART, APART[1:]))
def test_a_machine_that_is_gone_loses_its_lock_whatever_its_clock_said(
    tmp_path, hold, apart, capsys, faults
):
    process = hold("elsewhere")
    process.kill()
    process.wait()
    when = time.time() + apart
    os.utime(tmp_path / lock.MARKER, (when, when))
    start = time.monotonic()
    with lock_folder(tmp_path):
        assert time.monotonic() - start >= lock.LEASE
    assert f"process {process.pid} on elsewhere has locked it, and may be gone" in (
        capsys.readouterr().out
    )
    assert not (tmp_path / lock.MARKER).exists()
    faults("machines gone with a lock")


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(tmp_path, hold, monkeypatch):
    process = hold()
    process.kill()
    process.wait()
    assert (tmp_path / lock.MARKER).exists()
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
    with lock_folder(tmp_path):
        pass


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_where_a_file_system_has_no_locks_the_marker_locks(
    tmp_path, hold, monkeypatch, number, faults
):
    refuse_locks(monkeypatch, number)
    with lock_folder(tmp_path):
        assert (tmp_path / lock.MARKER).exists()
    process = hold("elsewhere")
    with pytest.raises(Locked, match=f"process {process.pid} on elsewhere"), lock_folder(tmp_path):
        pass
    faults("file systems without locks")


def test_another_error_of_a_lock_is_told(tmp_path, monkeypatch):
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(UserError, match=r"\.lock cannot be written: Input/output error"):
        lock_folder(tmp_path).__enter__()


@pytest.mark.usefixtures("impatient")
def test_who_was_away_for_too_long_ends_when_it_finds_its_folder_taken(tmp_path, hold, faults):
    process = hold("elsewhere")
    process.send_signal(signal.SIGSTOP)
    with lock_folder(tmp_path):
        process.send_signal(signal.SIGCONT)
        _, complaint = process.communicate(timeout=30)
        assert process.returncode == 1
        assert complaint.endswith("another process took it over. The process ends.\n")
        assert (tmp_path / lock.MARKER).exists()
    faults("machines that come back too late")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "content", ["", "\0", "filelock/2\npid=1\nhost=x\nmode=lease\nduration=9\n"]
)
def test_what_is_no_marker_of_ours_is_told(tmp_path, content):
    (tmp_path / lock.MARKER).write_text(content)
    with pytest.raises(UserError, match=r"\.lock\.held is not one of this version.*remove it"):
        lock_folder(tmp_path).__enter__()


@pytest.mark.usefixtures("impatient")
def test_the_end_of_a_run_on_a_machine_that_is_gone_is_recorded(tmp_path, hold):
    write_status(tmp_path, "running")
    process = hold("elsewhere")
    process.kill()
    process.wait()
    conclude(tmp_path, "failed", "its machine is gone", cause="killed")
    assert read_status(tmp_path)["status"] == "failed"


def test_a_file_that_another_machine_replaces_while_it_is_read_is_read_again(
    tmp_path, monkeypatch, faults
):
    write_text(tmp_path / "status.json", "new")
    answers = [errno.ESTALE, errno.ESTALE]
    real = os.fstat

    def fstat(handle):
        if answers:
            raise OSError(answers.pop(), "Stale file handle")
        return real(handle)

    monkeypatch.setattr(os, "fstat", fstat)
    assert read_bytes(tmp_path / "status.json") == b"new"
    answers[:] = 3 * [errno.ESTALE]
    with pytest.raises(Damaged, match="cannot be read"):
        read_bytes(tmp_path / "status.json")
    faults("files replaced while they are read", 2)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_a_file_system_that_flushes_no_folders_is_written_to(tmp_path, monkeypatch, number):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    flush_folder(tmp_path)


@pytest.mark.slow
def test_a_run_is_the_same_to_the_bit_on_a_file_system_without_locks(tmp_path):
    """In a process of its own, whose locks all fail."""
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, fcntl, os\n"
        "def flock(*_):\n    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))\n"
        "fcntl.flock = flock\n"
    )
    found = []
    for name, path in (("with", ROOT), ("without", f"{tmp_path}{os.pathsep}{ROOT}")):
        code, _, complaint = biscuits(tmp_path, *SHORT, f"name={name}", PYTHONPATH=str(path))
        assert code == 0, complaint
        (result,) = (tmp_path / "outputs" / name).rglob("result.json")
        found.append(result.read_bytes())
    assert found[0] == found[1]


def test_a_run_whose_result_is_seen_late_has_not_ended_before(tmp_path, faults):
    run = tmp_path / "baseline" / "seed=0"
    run.mkdir(parents=True)
    sweep = {"dir": str(tmp_path), "subdir": "baseline/seed=0"}
    hydra = {"sweep": sweep, "overrides": {"task": []}}
    given = Composed.of(OmegaConf.create({"hydra": hydra}))
    write_status(run, "done")
    assert not has_ended(given, {})
    (run / "result.json").write_text("{}")
    assert has_ended(given, {})
    faults("renames seen late")
