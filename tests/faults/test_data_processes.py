"""Processes that decode images and die, stop, meet a full disk, or come together."""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from runner.data import cache as cached
from runner.data import image_folder
from runner.data import images as images_module
from tests.conftest import ROOT
from tests.faults.images import CACHES, NAMES, assert_right, cache_file

SIDE = 256  # of the decoded images: so that a cache takes a while to write

CHILD = f"""
import hashlib, os, resource, signal, sys
from runner.data import image_folder

def load(root, cache):
    source = image_folder(root=root, cache=cache, size={SIDE})
    blocks = [*source.train.chunks(), *source.test.chunks()]
    print(hashlib.sha256(b"".join(b.numpy().tobytes() for b in blocks)).hexdigest(), flush=True)

def forked(*work):
    child = os.fork()
    if child == 0:
        try:
            for call, *arguments in work:
                call(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return child

root, cache = sys.argv[2:4]
"""


def child(script, *arguments):
    """Begin a Python process that can load a folder and fork."""
    command = [sys.executable, "-W", "ignore", "-c", CHILD + script, script.strip(), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def digest(source):
    blocks = [*source.train.chunks(), *source.test.chunks()]
    return hashlib.sha256(b"".join(block.numpy().tobytes() for block in blocks)).hexdigest()


@pytest.fixture
def written(read, cache):
    """What a folder reads as, and the size of its cache, which is removed again."""
    wanted = digest(read(size=SIDE))
    whole = cache_file(cache).stat().st_size
    shutil.rmtree(cache)
    return wanted, whole


@pytest.mark.slow
def test_a_kill_at_any_tenth_of_the_write_leaves_no_cache_and_in_the_end_no_trace(
    folder, read, cache, written, faults
):
    wanted, whole = written
    # the kernel kills at the very byte (SIGXFSZ), where Python does not ask it not to
    script = """
for limit in map(int, sys.argv[4:]):
    child = forked(
        (signal.signal, signal.SIGXFSZ, signal.SIG_DFL),
        (resource.setrlimit, resource.RLIMIT_CORE, (0, 0)),
        (resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
        (load, root, cache),
    )
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
    limits = [100, *(whole * tenth // 10 for tenth in range(1, 10)), whole - 1]
    out, _ = child(script, folder, cache, *limits).communicate(timeout=60)
    assert out.split() == [str(int(signal.SIGXFSZ))] * len(limits)
    assert cache_file(cache).suffix == ".tmp"  # the last one's; each start removed another's
    assert digest(read(size=SIDE)) == wanted
    assert cache_file(cache).suffix == ".npy"  # alone
    faults(CACHES, len(limits))


def test_a_full_disk_at_any_tenth_of_the_write_costs_the_cache_and_nothing_else(
    folder, cache, written, faults
):
    wanted, whole = written
    script = """
for limit in map(int, sys.argv[4:]):
    child = forked(
        (resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)), (load, root, cache)
    )
    assert os.waitpid(child, 0)[1] == 0
"""
    limits = [0, 1, 100, *(whole * tenth // 10 for tenth in range(1, 10)), whole - 1]
    out, err = child(script, folder, cache, *limits).communicate(timeout=60)
    assert re.findall("[0-9a-f]{64}", out) == [wanted] * len(limits), err
    told = [line for line in err.splitlines() if not line.startswith(("Decoding the 5 ", "5 of"))]
    assert len(told) == len(limits)
    for line in told:
        assert re.match(r"The decoded images are not cached: cannot write .*: File too ", line)
    assert list(cache.iterdir()) == []
    faults(CACHES, len(limits))


def test_a_process_stopped_in_the_write_keeps_its_file_and_killed_loses_it(
    folder, read, cache, capfd, faults
):
    script = """
from runner.data import cache as cached
line = cached._line  # the last that is written
cached._line = lambda *those: (os.kill(os.getpid(), signal.SIGSTOP), line(*those))[1]
load(root, cache)
"""
    process = child(script, folder, cache)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    left = cache_file(cache)
    assert left.name.endswith(f".{process.pid}.tmp")
    source = read(size=SIDE)
    assert left.exists()  # it lives
    process.kill()
    process.communicate()
    assert left.exists()
    capfd.readouterr()
    assert digest(read(size=SIDE)) == digest(source)
    assert capfd.readouterr().err == ""  # from the cache
    assert cache_file(cache).suffix == ".npy"  # alone
    faults(CACHES, 2)


def test_processes_that_decode_at_once_get_the_same_images_and_leave_one_cache(
    folder, read, cache, faults
):
    script = """
children = [forked((load, root, cache)) for _ in range(4)]
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""
    out, err = child(script, folder, cache).communicate(timeout=60)
    assert re.findall("[0-9a-f]{64}", out) == [digest(read(size=SIDE))] * 4, err
    assert cache_file(cache).suffix == ".npy"
    assert "not cached" not in err
    faults(CACHES, 4)


def test_ctrl_c_in_the_write_leaves_nothing(read, cache, monkeypatch, faults):
    def press(*those):
        os.kill(os.getpid(), signal.SIGINT)
        return line(*those)

    line = cached._line  # the last that is written
    with monkeypatch.context() as patch:
        patch.setattr(cached, "_line", press)
        with pytest.raises(KeyboardInterrupt):
            read()
    assert list(cache.iterdir()) == []
    assert_right(read())
    faults(CACHES)


def test_ctrl_c_while_decoding_does_not_wait_for_all_images(folder, cache, monkeypatch, faults):
    begun = []

    def read_and_press(path, reading):
        begun.append(path)
        if len(begun) == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return read_one(path, reading)

    read_one = images_module.read_pixels
    monkeypatch.setattr(images_module, "read_pixels", read_and_press)
    for number in range(2000):
        (folder / f"train/cat/{number}.png").symlink_to(folder / NAMES[0])
    with pytest.raises(KeyboardInterrupt):
        image_folder(root=str(folder), cache=str(cache), size=64)
    assert len(begun) < 1500
    assert list(cache.iterdir()) == []
    faults(CACHES)


def test_only_leftovers_of_the_dead_are_removed(read, cache):
    cache.mkdir()
    names = (".images-0.npy.1.tmp", ".images-1.npz.2.tmp", ".other.3.tmp", "images-2.npz")
    for name in names:
        (cache / name).write_bytes(b"half")
    with (cache / names[0]).open("rb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        assert_right(read())
        assert [(cache / name).exists() for name in names] == [True, False, True, True]
    assert_right(read())
    assert [(cache / name).exists() for name in names] == [False, False, True, True]


def test_a_file_that_is_made_and_not_locked_yet_is_left_to_its_maker(read, cache):
    cache.mkdir()
    new = cache / ".images-0.npy.1.tmp"
    new.touch()
    assert_right(read())
    assert new.exists()
    os.utime(new, (0, 0))
    assert_right(read())
    assert not new.exists()
