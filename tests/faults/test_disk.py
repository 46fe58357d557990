"""Disks that are full and files that may not grow: what was saved stays, and the run goes on."""

import os
import resource
import subprocess
from functools import partial

import pytest

from runner.run import checkpoint, course
from runner.store.runs import read_metrics
from tests.builders import read_status
from tests.conftest import biscuits, run_in

RUN = ("epochs=4", "batch_size=256", "threads=1", "memory_format=contiguous", "name=run")
LENGTH = 6  # updates in an epoch


def limited(folder, largest, *arguments):
    """Run the command in a process whose files may not grow beyond so many bytes."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest, largest))
    return biscuits(folder, *arguments, options={"preexec_fn": limit if largest else None})


def assert_one_line(complaint, *words):
    assert len(complaint.strip().splitlines()) == 1, complaint
    for word in words:
        assert word in complaint


def nothing_is_left_over(folder):
    return not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


LIMITS = {  # bytes, and what does not fit into them
    100: ".lock",
    200: "status.json",
    700: "config.yaml",
    100_000: "checkpoint.new.pt",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "largest", [pytest.param(n, marks=() if n == 100_000 else pytest.mark.slow) for n in LIMITS]
)
def test_a_file_that_may_not_grow_is_named_and_the_run_goes_on_when_it_may(
    tmp_path, largest, faults
):
    code, _, complaint = limited(tmp_path, largest, *RUN)
    assert code == 1
    assert_one_line(complaint, LIMITS[largest], "cannot be written: File too large", "Make room")
    assert nothing_is_left_over(tmp_path)
    (place,) = tmp_path.glob("outputs/run/*/seed=0")
    assert run_in(place, *RUN) == run_in(tmp_path / "straight", *RUN)
    faults("disks that are full, files that may not grow")


def test_the_last_good_checkpoint_outlives_a_full_disk(tmp_path, monkeypatch, faults):
    place, expected = tmp_path / "run", run_in(tmp_path / "straight", *RUN)
    save = checkpoint.save

    def save_the_third_without_room(folder, state):
        if state["training"]["updates"] != 3 * LENGTH:
            return save(folder, state)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # a real limit, in mid-file
        try:
            return save(folder, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(checkpoint, "save", save_the_third_without_room)
    monkeypatch.setattr(course, "WORTH", 0)  # one after each epoch
    with pytest.raises(Exception, match=r"checkpoint.new.pt cannot be written: File too large"):
        run_in(place, *RUN)
    assert nothing_is_left_over(place)
    assert checkpoint.load(place)["training"]["updates"] == 2 * LENGTH
    status = read_status(place)
    assert (status["status"], status["checkpoint"]) == ("failed", 2 * LENGTH)
    assert "File too large" in status["error"]
    assert len(read_metrics(place)) == 3
    monkeypatch.undo()
    assert run_in(place, *RUN) == expected
    assert len(read_metrics(place)) == 4
    faults("disks that are full, files that may not grow")


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system in memory of a megabyte; only root may."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", [False, True], ids=["run", "ablation"])
def test_a_disk_that_is_full_stops_what_does_not_fit_and_it_goes_on_when_there_is_room(
    small_disk, ablation, faults
):
    short = (*RUN, "checkpoint_seconds=0")
    if ablation:
        more = ("ablation=one_at_a_time", "tricks=[clipping,label_smoothing]", "ablation.seeds=2")
        short = (*short, *more)
    filler = small_disk / "filler"
    room = 400_000 if ablation else 250_000
    filler.write_bytes(b"0" * (os.statvfs(small_disk).f_bavail * 4096 - room))
    code, out, complaint = limited(small_disk, None, *short)
    assert code not in (0, -9)
    assert "Traceback" not in complaint
    assert "No space left on device" in out + complaint
    assert nothing_is_left_over(small_disk)
    if not ablation:
        assert_one_line(complaint, "cannot be written: No space left on device")
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    code, out, complaint = limited(small_disk, None, *short)
    assert code == 0, complaint
    assert len(list(small_disk.rglob("result.json"))) == (6 if ablation else 1)
    faults("disks that are full, files that may not grow", 3 if ablation else 1)
