"""Files of runs by a stranger, or damaged: told in a line, and never followed, run or waited for.

Each fault is tried on the report, on tables and views, and on `runner.verify`.
"""

import os
import shutil

import pytest

from tests.conftest import few
from tests.faults.run_folders import FILES, PATHS, TOLD

PLAIN = ("run.json", "status.json", "metrics.jsonl", "result.json")


@pytest.mark.parametrize("name", few(PLAIN, ("result.json",)))
@pytest.mark.usefixtures("no_pictures")
def test_a_damaged_file_of_a_run_is_told_by_name(folders, name, faults):
    found = list(folders.faults(name))
    told = [fault for fault in found if fault[2]]
    deep = [fault for fault in found if fault[0] == "deep but whole"]
    faults("damaged run files", folders.try_all(name, told[::12] + found[3::60] + deep))


OTHERS = ("sweep.yaml", "config.yaml", "correct.npy", "predictions.npz", "checkpoint.pt")


@pytest.mark.parametrize("name", few(OTHERS, ("sweep.yaml", "predictions.npz", "checkpoint.pt")))
@pytest.mark.usefixtures("no_pictures")
def test_a_damaged_plan_config_or_binary_ends_in_a_line(folders, name, faults):
    found = list(folders.faults(name))
    faults("damaged run files", folders.try_all(name, found[:: max(5, len(found) // 14)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("no_pictures")
def test_whatever_a_file_holds_ends_in_a_line(folders, name, faults):
    if not any(path.is_file() for path in folders.places(name)):
        pytest.skip(f"{name} is not there")
    faults("damaged run files", folders.try_all(name, folders.faults(name)))


@pytest.mark.slow
def test_odd_numbers_can_be_drawn_or_are_left_out(folders, faults):
    for name in ("result.json", "metrics.jsonl", "status.json"):
        found = [f for f in folders.faults(name) if "large" in f[0] or "huge" in f[0]]
        faults("damaged run files", folders.try_all(name, found))


NO_FAULT = (("sweep.yaml", "gone"),)  # these are runs without a plan


FIRST = ("config.yaml", "result.json")


@pytest.mark.parametrize("name", few([n for n in FILES if n != ".lock"], FIRST))
@pytest.mark.usefixtures("no_pictures")
def test_what_stands_in_a_files_place_is_not_followed_or_waited_for(folders, name, faults):
    for title, put in PATHS.items():
        if title == "a sparse file" and name == "checkpoint.pt":
            continue  # a checkpoint may be as large

        def spoil(path, put=put):
            path.unlink()
            put(path)

        with folders.damaged(name, spoil):
            text = folders.commands()
            is_told = name in TOLD and (name, title) not in NO_FAULT
            assert name in text or not is_told, title
        faults("hostile run files")


IN_THE_WAY = ("a pipe", "a folder", "a link out of the folder", "a link to itself")


@pytest.mark.parametrize("kind", IN_THE_WAY)
@pytest.mark.usefixtures("no_pictures")
def test_nothing_is_written_through_what_stands_in_the_place_of_views_and_reports(
    folders, kind, faults
):
    folders.commands()
    run = folders.ablation / "clipping/seed=1"
    old = [run / "events.out.tfevents.0000000001.000000.view"]
    old += [*folders.ablation.glob("**/*.view")]
    old += [folders.ablation / name for name in ("report.md", "report.json")]
    old += [run / f".view.{os.getpid()}.tmp"]
    for path in old:
        path.unlink(missing_ok=True)
        PATHS[kind](path)
        faults("hostile run files")
    text = folders.commands()
    assert ("TensorBoard: tensorboard --logdir" in text) == (kind != "a folder")
    assert kind != "a folder" or "report.md cannot be written: Is a directory" in text


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_of_the_ablation_that_is_a_link_out_of_it_is_not_written_into(folders):
    elsewhere = shutil.copytree(folders.ablation / "clipping/seed=1", folders.root / "elsewhere")
    before = sorted(elsewhere.iterdir())
    for place in ("means", "clipping/seed=1"):
        folder = folders.ablation / place
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.symlink_to(elsewhere)
        assert "outside of" in folders.commands()
        assert sorted(elsewhere.iterdir()) == before
        folder.unlink()
