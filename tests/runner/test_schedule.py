import random

import pytest

from runner.sweep.cost import Trial, settings_of
from runner.sweep.disk import BLOCK, on_disk, run_files
from runner.sweep.dry_run import _resources
from runner.sweep.schedule import blocks, counts, in_blocks, wall_time
from runner.sweep.waiting import Queue
from tests.builders import make_plan, trick
from tests.runner.test_budget import maker

SMALL = ("threads=1", "epochs=2", "batch_size=256")


def waited(times, workers):
    """Begin runs as the launcher does, which knows what each takes; give back when all are over."""
    queue = Queue([str(n) for n in range(len(times))], workers)
    queue.seconds.update({str(n): seconds for n, seconds in enumerate(times)})
    free = [0.0] * workers
    while (number := queue.take()) is not None:
        first = free.index(min(free))
        free[first] += times[number]
    return max(free)


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
def test_runs_are_laid_out_as_the_launcher_begins_them(workers):
    times = [random.Random(n).uniform(1, 9) for n in range(50)]
    assert wall_time(times, workers) == pytest.approx(waited(times, workers))


def test_a_run_is_whole_and_more_workers_than_runs_help_nothing():
    assert wall_time([1.0, 1.0, 5.0], 3) == wall_time([1.0, 1.0, 5.0], 500) == 5.0
    assert wall_time([], 8) == 0.0
    assert wall_time([2.0] * 100_001, 1000) == 202.0


def test_a_block_waits_for_the_longest_run_of_the_one_before_it():
    grows = {"until": "looks", "looks": (3, 5, 8), "most_seeds": 8}
    assert [*blocks(make_plan((trick("clipping"),), seeds=3, **grows))] == [3, 2, 3]
    decided = {"until": "decided", "most_seeds": 6}
    assert [*blocks(make_plan((trick("clipping"),), seeds=4, **decided))] == [4, 1, 1]
    assert [*blocks(make_plan((trick("clipping"),), seeds=4))] == [4]
    assert in_blocks([[1.0, 4.0], [1.0, 4.0]], workers=4) == 8.0


def test_hours_are_told_for_several_numbers_of_workers():
    plan = maker("tricks=[clipping]", *SMALL[1:], "threads=2")()
    told = [*_resources(plan, [1800.0] * 20, 2)]
    assert told[0] == "20 core hours, with 2 cores for each run"
    assert [line.split()[:3] for line in told[2:]] == [
        ["2", "5", "h"],
        ["8", "1", "h"],
        ["20", "30", "min"],
    ]
    assert told[3].endswith("83%")
    assert counts(2, 10**6) == [2, 8, 64, 512]
    assert [*_resources(plan, [], 2)] == []


def test_the_files_of_a_run_are_known_before_it_is_done(do, tmp_path):
    plan = maker("tricks=[]", "ablation=calibration", *SMALL)()
    trial = Trial("baseline", settings_of(plan, "baseline"), {})
    trial.update()
    said = run_files(trial)
    do(*SMALL)
    there = {path.name: path.stat().st_size for path in (tmp_path / "run").iterdir()}
    events = next(name for name in there if name.startswith("events"))
    there["events.out.tfevents"] = there.pop(events)
    assert {*said} == {*there}
    for name in ("model.pt", "checkpoint.pt", "predictions.npz", "config.yaml"):
        assert said[name] == pytest.approx(there[name], rel=0.1), name
    assert sum(said.values()) == pytest.approx(sum(there.values()), rel=0.2)
    assert on_disk([0, 1, BLOCK, BLOCK + 1]) == 4 * BLOCK
