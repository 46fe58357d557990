"""What an ablation says of the runs that were there before it: its seeds, and its question."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from runner.ablation.plan import save_plan
from runner.ablation.tuning import TUNING
from runner.sweep import earlier
from runner.sweep.earlier import look_back, write_seeds
from tests.builders import CONFIG, make_plan, trick, write_plan

DATA = {"_target_": "runner.data.digits", "validation": 0.1}
MODEL = {"_target_": "runner.models.cifar_resnet", "depth": 8, "width": 8, "weights": None}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(place, *seeds, done=True, data=DATA, model=MODEL):
    """Write what is looked at of runs."""
    for seed in seeds:
        folder = Path("outputs", place, f"seed={seed}")
        folder.mkdir(parents=True)
        config = {"name": "x", "seed": seed, "epochs": 3, "data": data, "model": model}
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        if done:
            (folder / "result.json").write_text("{}")


def notes(listed=False, **changed):
    plan = replace(make_plan((trick("clipping"), trick("flooding"))), **changed)
    return look_back(Path("outputs/mine"), plan, listed)


def test_a_seed_that_finished_runs_had_is_told_with_a_full_override():
    put("before/baseline", 0, 3, 7)
    put("sub/folder/clipping", 1)
    (note,) = notes()
    assert note.startswith(
        "Seeds 0, 1 and 3 were used before with the same data and model, in before/baseline and "
        "sub/folder/clipping."
    )
    assert note.endswith("Fresh ones: seed=1000 name=mine-2.")
    (note,) = notes(seeds=(7, 9))
    assert note.startswith("Seed 7 was used before")


def test_runs_of_other_seeds_data_or_models_and_unfinished_ones_say_nothing():
    put("seeds/baseline", 5, 6)
    put("half/baseline", 0, done=False)
    put("data/baseline", 0, data={**DATA, "validation": 0.2})
    put("model/baseline", 0, model={**MODEL, "depth": 14})
    put("mine/baseline", 0)  # the ablation's own
    put(f"mine/{TUNING}/baseline", 0)
    assert notes() == ()


def test_a_setting_that_is_none_may_be_missing():
    put("before/baseline", 0, data={**DATA, "test": None}, model={**MODEL, "depth": 8})
    assert len(notes()) == 1


def test_the_seeds_that_are_offered_were_used_by_no_run():
    put("before/baseline", 0)
    put("other/baseline", 1000, 2004, 3005, data={"_target_": "runner.data.cifar10"})
    (note,) = notes()
    assert "Fresh ones: seed=3000 " in note
    Path("outputs/mine-2").mkdir()
    (note,) = notes(seeds=(0, 5), question=make_plan((), "calibration").question)
    assert note.endswith("Fresh ones: seed=2000 name=mine-3.")
    (note,) = notes(seeds=(0, 5), listed=True)
    assert "Fresh ones: 'ablation.seeds=[2000,2001]' " in note


def test_where_seeds_are_added_those_to_come_count_too():
    put("before/baseline", 20)
    assert notes() == ()
    grows = make_plan((trick("clipping"),), until="decided", most_seeds=30)
    (note,) = look_back(Path("outputs/mine"), grows)
    assert note.startswith("Seed 20 was used before")


def test_earlier_ablations_of_the_same_question_are_named():
    write_plan(Path("outputs/one"), (trick("clipping"), trick("mixup")))
    write_plan(Path("outputs/sub/two"), (trick("flooding"),), "calibration")
    write_plan(Path("outputs/other"), (trick("mixup"),))
    write_plan(Path("outputs/mine"), (trick("clipping"),))
    trials = replace(make_plan((trick("clipping"),)).question, design=TUNING)
    plan = make_plan((trick("clipping"),), name="trials")
    others = {
        "trials": replace(plan, question=trials),
        "model": replace(plan, config={**CONFIG, "model.depth": 14}),
    }
    for name, other in others.items():
        Path("outputs", name).mkdir()
        save_plan(Path("outputs", name), other)
    (note,) = notes()
    assert note.startswith("2 earlier ablations of this question: one and sub/two.")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"data: {a: &x [1], b: *x}\nmodel: [", b"data\n", b"", None]
)
def test_what_cannot_be_read_is_passed_over(content):
    put("damaged/baseline", 0)
    place = Path("outputs/damaged/baseline/seed=0/config.yaml")
    plan = Path("outputs/damaged/sweep.yaml")
    for file in (place, plan):
        file.unlink(missing_ok=True)
        file.mkdir() if content is None else file.write_bytes(content)
    assert notes() == ()


def test_links_are_not_followed(tmp_path):
    put("before/baseline", 0)
    os.rename("outputs/before", tmp_path / "elsewhere")
    Path("outputs/link").symlink_to(tmp_path / "elsewhere")
    Path("outputs/baseline").mkdir()
    Path("outputs/baseline/seed=0").symlink_to(tmp_path / "elsewhere/baseline/seed=0")
    assert notes() == ()


def test_of_very_many_runs_not_all_are_looked_at(monkeypatch):
    put("a/baseline", *range(4))
    put("b/baseline", 4)
    monkeypatch.setattr(earlier, "MOST_RUNS", 4)
    (note,) = notes()
    assert note.startswith("Seeds 0 to 3 were")
    assert note.endswith("Only 4 runs were looked at.")


def test_a_folder_with_nothing_says_nothing():
    assert notes() == ()


def test_seeds_are_written_in_short():
    assert write_seeds({4, 0, 1, 2}) == "0 to 2 and 4"
    assert write_seeds({0, 1}) == "0 and 1"
