"""Links, pipes and folders in the place of a run's files: not followed, not written through."""

import json
import os
import shutil

import pytest

from runner.errors import Unfit, UserError
from runner.run.status import conclude
from runner.store.runs import read_run
from tests.builders import write_status
from tests.conftest import run_in
from tests.faults.run_folders import FILES

SHORT = ("epochs=1", "batch_size=500", "model.width=2")
WRITTEN = [n for n in FILES if n not in ("sweep.yaml", "report.json", ".lock", "config.yaml")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    place = tmp_path_factory.mktemp("done") / "mine/baseline/seed=0"
    place.parent.mkdir(parents=True)
    run_in(place, *SHORT)
    return place


@pytest.fixture
def copied(done, tmp_path):
    """A run whose files are good, and another beside it, outside of its folder."""
    for name in ("mine/baseline/seed=0", "outside"):
        shutil.copytree(done, tmp_path / name)
    return tmp_path / "mine/baseline/seed=0"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "name", ["status.json", "result.json", "run.json", "correct.npy", "predictions.npz"]
)
def test_a_good_file_elsewhere_is_not_read_through_a_link(copied, tmp_path, name):
    (copied / name).unlink()
    (copied / name).symlink_to(tmp_path / "outside" / name)
    run = read_run(copied, "baseline")
    if name in ("status.json", "result.json"):
        assert f"{name} is a link, which is not followed" in run.damage
    assert name != "run.json" or run.machine == {}
    assert (run.correct() is None) == (name == "correct.npy")
    assert (run.predictions() is None) == (name == "predictions.npz")


@pytest.mark.parametrize("name", ["mine/baseline/seed=0", "mine/baseline"])
def test_a_folder_that_is_a_link_out_of_its_sweep_is_not_read(copied, tmp_path, name):
    (tmp_path / "outside/seed=0").symlink_to(tmp_path / "outside")
    place = tmp_path / name
    shutil.rmtree(place)
    place.symlink_to(tmp_path / "outside")
    run = read_run(copied, "baseline")
    assert run.state == "damaged"
    assert run.damage == "its folder is a link out of here"
    assert (run.metrics, run.machine, run.result) == ([], {}, None)
    assert run.correct() is run.predictions() is run.classes() is None


def test_a_link_within_a_sweep_is_a_name_for_its_run(copied, tmp_path):
    (tmp_path / "mine/baseline/latest").symlink_to(copied)
    assert read_run(tmp_path / "mine/baseline/latest", "baseline").state == "done"


@pytest.mark.parametrize("again", [(), ("again=true",)], ids=["resumed", "again"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_run_writes_through_nothing_that_lies_in_the_place_of_its_files(
    copied, tmp_path, kind, again
):
    before = contents(tmp_path / "outside")
    for name in WRITTEN:
        (copied / name).unlink(missing_ok=True)
        if kind == "link":
            (copied / name).symlink_to(tmp_path / "outside" / name)
        elif name != "result.json" or again:  # it is told as damaged
            os.mkfifo(copied / name)
    if not again:
        (copied / "result.json").unlink(missing_ok=True)
    result = run_in(copied, *SHORT, *again)
    assert result["weights"] == json.loads(before["result.json"])["weights"]
    assert all((copied / n).is_file() for n in WRITTEN if "before" not in n)
    assert not any((copied / n).is_symlink() for n in WRITTEN if "before" not in n)
    assert contents(tmp_path / "outside") == before


def test_a_config_that_is_a_link_is_not_taken_for_the_runs_own(copied, tmp_path):
    (copied / "config.yaml").unlink()
    (copied / "config.yaml").symlink_to(tmp_path / "outside/config.yaml")
    with pytest.raises(UserError, match=r"config.yaml is a link, which is not followed"):
        run_in(copied, *SHORT)


def test_a_lock_that_is_a_link_is_told_and_one_that_is_a_pipe_locks(copied, tmp_path):
    lock = copied / ".lock"
    lock.unlink(missing_ok=True)
    (tmp_path / "other").write_text("a stranger's own")
    lock.symlink_to(tmp_path / "other")
    with pytest.raises(Unfit, match=r"\.lock is a link, .*through\. Remove it\."):
        run_in(copied, *SHORT)
    assert (tmp_path / "other").read_text() == "a stranger's own"
    lock.unlink()
    os.mkfifo(lock)
    assert run_in(copied, *SHORT)["weights"]


def test_the_next_command_takes_away_what_a_kill_left(tmp_path):
    write_status(tmp_path, "running")
    left = tmp_path / ".status.json.1420.tmp"
    left.write_text("{")
    conclude(tmp_path, "done")
    assert not left.exists()
