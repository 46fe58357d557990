"""Packed runs: read as unpacked ones, by everything that reads runs."""

import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from runner import verify
from runner.__main__ import main
from runner.ablation.find import find_folders
from runner.ablation.plan import load_plan
from runner.export import main as export
from runner.frames import read_frames, read_predictions
from runner.models.weights import _find
from runner.pack import main as pack
from runner.report.__main__ import main as report
from runner.run import status
from runner.store import packed
from runner.store.files import read_json
from runner.store.packed import ARCHIVE, LARGEST, is_packed
from runner.store.runs import read_run
from runner.store.values import dump_values
from runner.sweep.dry_run import runs_left
from runner.sweep.earlier import look
from runner.trained import load_run
from tests.builders import tricks, write_ablation


def files(folder):
    """Give the content of each file, and when it was written; those of locks are left out."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in paths
    }


def contents(folder):
    return {name: content for name, (content, _) in files(folder).items()}


@pytest.fixture
def mine(tmp_path):
    """An ablation whose runs have a config of their own, and one that is not done."""
    root = tmp_path / "outputs" / "mine"
    plan = write_ablation(root, tricks(clipping=0.03, flooding=-0.03), seeds=3, samples=50)
    for seed, variant in plan.runs():
        config = dump_values(plan.config_of(variant, seed))
        (plan.folder(root, variant, seed) / "config.yaml").write_text(config)
    undone = root / "flooding" / "seed=2"
    (undone / "result.json").unlink()
    (undone / "status.json").write_text('{"status": "stopped"}')
    return root


def read(root):
    """Read all that is read of an ablation."""
    report([str(root)])
    plan = load_plan(root)
    left = runs_left(root, plan)
    before = look(root.parent, root.parent / "other", plan, plan.seeds)
    return contents(root), read_frames(root), left, before, [*find_folders(root)]


@pytest.mark.usefixtures("no_pictures")
def test_a_packed_ablation_is_read_as_it_was(mine, capsys):
    report([str(mine)])
    every = files(mine)
    shown, frames, *others = read(mine)
    told = capsys.readouterr().out
    pack([str(mine)])
    assert "2 variants" not in (out := capsys.readouterr().out)
    assert "3 variants: " in out
    left = {path.name for path in mine.glob("*/*")}
    assert left == {ARCHIVE, "seed=2"} | {p.name for p in (mine / "means").glob("*")}
    again, frames_again, *others_again = read(mine)
    assert told.endswith(capsys.readouterr().out)
    assert others_again == others
    for name in ("runs", "evaluations"):
        pd.testing.assert_frame_equal(getattr(frames, name), getattr(frames_again, name))
    assert {k: v for k, v in again.items() if not k.endswith(ARCHIVE)} == {
        k: v for k, v in shown.items() if "seed=" not in k or k.startswith("flooding/seed=2")
    }
    pack(["--unpack", str(mine)])
    assert {k: v for k, v in files(mine).items() if "seed=" in k} == {
        k: v for k, v in every.items() if "seed=" in k
    }
    assert not [*mine.rglob(ARCHIVE)]


def test_runs_that_are_done_later_join_the_archive(mine, capsys):
    pack([str(mine)])
    late = mine / "flooding" / "seed=2"
    shutil.copytree(mine.parent / "mine/flooding/seed=2", mine.parent / "aside")
    pack(["--unpack", str(mine / "flooding")])
    for name in ("status.json", "result.json"):
        shutil.copy(mine / "flooding/seed=1" / name, late / name)
    pack([str(mine)])
    assert [path.name for path in (mine / "flooding").iterdir()] == [ARCHIVE]
    assert read_run(late, "flooding").state == "done"
    capsys.readouterr()
    before = (mine / "flooding" / ARCHIVE).stat().st_mtime_ns
    pack([str(mine.parent)])
    assert (mine / "flooding" / ARCHIVE).stat().st_mtime_ns == before
    assert len({*capsys.readouterr().out.split(": ")[-1].strip().split(" -> ")}) == 1


def test_a_folder_with_a_config_of_its_own_counts_and_loses_nothing(mine, capsys):
    other = mine / "clipping" / "seed=1"
    kept = mine.parent / "kept"
    shutil.copytree(other, kept)
    pack([str(mine)])
    shutil.copytree(kept, other)
    (other / "result.json").write_text('{"test/accuracy": 0.25}')
    assert read_run(other, "clipping").result == {"test/accuracy": 0.25}
    (other / "run.json").unlink()
    assert read_run(other, "clipping").machine == {}  # not half of the one, half of the other
    for arguments in ([str(mine)], ["--unpack", str(mine)]):
        before = contents(other)
        with pytest.raises(SystemExit):
            pack(arguments)
        assert "result.json is not as in runs.zip, which holds this run too" in (
            capsys.readouterr().err
        )
        assert contents(other) == before
        assert (mine / "clipping" / ARCHIVE).exists()
    shutil.rmtree(other)
    assert read_run(other, "clipping").result["test/accuracy"] != 0.25


def test_what_is_large_or_anothers_stays_in_the_folder(mine):
    run = mine / "baseline" / "seed=0"
    with open(run / "model.pt", "wb") as file:
        file.truncate(LARGEST + 1)
    (run / "notes.txt").write_text("mine")
    (run / "more").mkdir()
    pack([str(mine)])
    assert {path.name for path in run.iterdir()} == {"model.pt", "notes.txt", "more"}
    assert is_packed(run)
    assert packed.is_there(run / "model.pt")
    assert read_run(run, "baseline").state == "done"
    pack(["--unpack", str(mine)])
    assert {"config.yaml", "notes.txt", "model.pt"} < {path.name for path in run.iterdir()}


def test_the_end_of_a_packed_run_is_not_recorded_again(mine):
    run = mine / "baseline" / "seed=0"
    pack([str(mine)])
    status.conclude(run, "failed", "killed", replaces=("running", "stopped", "failed", "done"))
    status.tidy(run, "none")
    assert not run.exists()


def test_what_has_no_runs_is_refused(tmp_path, capsys):
    for folder, line in ((tmp_path, "has no runs"), (tmp_path / "none", "no such folder")):
        with pytest.raises(SystemExit):
            pack([str(folder)])
        assert line in capsys.readouterr().err


def test_a_real_run_is_shown_verified_and_used_packed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["biscuits", *arguments])
        try:
            main()
        except SystemExit as error:
            return error.code
        return capsys.readouterr().out

    command = ("name=x", "epochs=1", "batch_size=256", "model.width=4", "threads=1")
    result = run(*command).splitlines()[-1]
    (folder,) = Path("outputs/x").glob("*/seed=0")
    whole = files(folder)
    weights, said = load_run(folder).state_dict(), read_predictions(folder)
    pack(["outputs"])
    there = [path.name for path in folder.parent.iterdir()]
    assert there == [ARCHIVE]
    capsys.readouterr()

    assert run(*command).splitlines()[-1] == result
    unpack = f"python -m runner.pack --unpack {folder.parent}"
    again = f"{folder} is packed, and is not done again there. Unpack it: {unpack}"
    assert run(*command, "again=true") == again
    saved = f"--config-path must be a folder, got {folder}. It is packed: {unpack}"
    assert run("-cp", str(folder), "-cn", "config", "again=true") == saved
    assert [path.name for path in folder.parent.iterdir()] == there

    verify.main([str(folder)])
    assert "is bit-identical" in capsys.readouterr().out
    for key, tensor in load_run(folder).state_dict().items():
        assert torch.equal(tensor, weights[key])
    pd.testing.assert_frame_equal(read_predictions(folder).table, said.table)
    export([str(folder), "--to", "state_dict", "weights.pt"])
    assert _find(folder) == folder / "model.pt"

    pack(["--unpack", "outputs"])
    assert files(folder) == whole


def test_a_forked_process_reads_an_archive_by_itself(mine):
    run = mine / "baseline" / "seed=0"
    pack([str(mine)])
    assert read_json(run / "result.json")[0]
    child = os.fork()
    if child == 0:
        found = all(read_json(run / "run.json")[0] for _ in range(500))
        os._exit(0 if found else 1)
    assert all(read_json(run / "result.json")[0] for _ in range(500))
    assert os.waitpid(child, 0)[1] == 0
