"""What is freed stays in the process for the next update, and is given back before the next run."""

import os
import subprocess
import sys

import pytest

from runner import heap
from tests.conftest import ROOT

DEFINITIONS = """
import resource
import numpy as np
from runner.heap import keep_freed, release

def allocate():  # in pages of 4 KiB, written to and freed at once; glibc maps what is over 32 MiB
    small = [np.ones(2**22, np.float32) for _ in range(4)]
    large = np.ones(2**24, np.float32)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        allocate()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
"""
PAGES = 5 * 2**27 // 4096
A_RUN = """
import tempfile
from pathlib import Path
from runner.cli.task import register
from runner.run.attempt import resume_or_run
from tests.conftest import settings
register()
with tempfile.TemporaryDirectory() as folder:
    resume_or_run(Path(folder), settings("epochs=1", "model.width=2"), quiet=True)
"""


def measured(code: str, **variables: str) -> list[int]:
    """Give the numbers that a new process prints after the definitions."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    own = {"PYTHONPATH": str(ROOT), "NUMPY_MADVISE_HUGEPAGE": "0"}  # large pages are few
    done = subprocess.run(
        [sys.executable, "-c", DEFINITIONS + code],
        env={**usual, **own, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


def has_glibc() -> bool:
    """Whether the C library is the one whose heap is set."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):  # Windows; macOS
        return False


needs_glibc = pytest.mark.skipif(not has_glibc(), reason="the heap of another C library")


@needs_glibc
@pytest.mark.parametrize("begin", ["keep_freed()", A_RUN], ids=["keep_freed", "a run"])
def test_pages_that_were_freed_are_not_asked_for_again(begin):
    before, after = measured(f"print(faults())\n{begin}\nallocate()\nprint(faults())")
    assert before > 0.9 * PAGES
    assert after < PAGES // 100


@needs_glibc
def test_what_the_user_sets_of_the_heap_stays():
    before, after = measured("print(faults()); keep_freed(); print(faults())", MALLOC_ARENA_MAX="2")
    assert min(before, after) > 0.9 * PAGES


@needs_glibc
def test_what_is_free_is_given_back():
    kept, released = measured(
        "allocate(); keep_freed(); allocate(); print(resident()); release(); print(resident())"
    )
    assert kept - released > 2**25


@needs_glibc
def test_a_run_does_not_count_what_the_one_before_it_has_freed():
    """A warm worker's runs are compared by their peak memory."""
    large, small = measured(
        "import torch\n"
        "from runner.run.memory import peak, reset_peak\n"
        "cpu = torch.device('cpu')\n"
        "keep_freed(); allocate(); print(peak(cpu)); reset_peak(cpu); print(peak(cpu))"
    )
    assert large - small > 2**25


@pytest.mark.parametrize("largest", [2**30, 2**25, 0])
def test_an_older_glibc_keeps_smaller_blocks_or_its_own_ways(monkeypatch, largest):
    """It refuses more than 32 MiB; only to trim less would have each large block mapped anew."""
    asked = []

    def mallopt(option, value):
        accepted = option != heap.MMAP_THRESHOLD or value <= largest
        asked.extend([(option, value)] * accepted)
        return int(accepted)

    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(heap, "_function", lambda name: mallopt if name == "mallopt" else None)
    heap.keep_freed()
    expected = [(heap.MMAP_THRESHOLD, largest), (heap.TRIM_THRESHOLD, 2**31 - 1)]
    assert asked == [*(expected if largest else []), (heap.MXFAST, 0)]
