"""A folder of sweeps: a row for each setting, in the tables, TensorBoard and the frames alike."""

import json
import shutil

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner.ablation.find import find_loose_runs, names_of
from runner.frames import read_frames
from runner.report.__main__ import main
from runner.report.curves import _points
from runner.report.multirun import Multirun, best, content, page, score_table, table
from runner.store.files import digest
from tests.builders import CONFIG, tricks, write_ablation, write_run
from tests.runner.test_tensorboard import sessions


def sweep(root, variant, seed, accuracy, validation=None, status="done", **settings):
    """Write a run as a plain sweep does: with its config."""
    whole = {"name": root.name, "variant": variant, "seed": seed, "again": False}
    values = {**CONFIG, "tricks.clipping.enabled": False, "tricks.clipping.max_norm": 1.0}
    values |= {"optimizer.lr": 0.1, "threads": 1}
    for key, value in (values | settings).items():
        *path, last = key.split(".")
        node = whole
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    place = write_run(root, variant, seed, accuracy, status, machine={"config": digest(whole)})
    (place / "config.yaml").write_text(yaml.safe_dump({"format": 1, **whole}))
    if status == "done":
        result = json.loads((place / "result.json").read_text())
        if validation is not None:
            result["validation/accuracy"] = validation
        (place / "result.json").write_text(json.dumps(result))
    return place


def norm(value):
    return {"tricks.clipping.enabled": True, "tricks.clipping.max_norm": value}


def grid(root):
    """Sweep over the norm: the one that is best in validation is not so on the test set."""
    for seed in (0, 1):
        noise = 0.01 * seed
        sweep(root, "baseline+epochs=2", seed, 0.80 + noise, 0.70 + noise)
        sweep(root, "clipping+epochs=2", seed, 0.95 + noise, 0.80 + noise, **norm(1))
        sweep(root, "clipping-max_norm=0.1+epochs=2", seed, 0.90, 0.85 + noise, **norm(0.1))
    sweep(root, "clipping-max_norm=9.0+epochs=2", 0, None, status="diverged", **norm(9.0))
    return Multirun(root, list(find_loose_runs(root)))


def test_a_row_has_its_parameters_and_the_order_is_that_of_the_validation_split(tmp_path):
    found = grid(tmp_path / "grid")
    (*heads, _), *rows = score_table(found)
    assert heads[:5] == ["clipping", "max_norm", "runs", "validation %", "test %"]
    assert [row[:3] for row in rows] == [
        ["off", "", "2"],
        ["on", "0.1", "2"],
        ["on", "1", "2"],
        ["on", "9", "0"],
    ]
    assert rows[1][3:5] == ["85.50 ± 0.71", "90.00 ± 0.00"]
    (line,) = best(found)
    assert "clipping=on, max_norm=0.1 (85.50 ± 0.71 %, 2 seeds; 90.00 ± 0.00 % on the test" in line
    shown = " ".join(table(found))
    told = page(found)
    for text in (shown, told):
        assert "All: epochs=2." in text
        assert "sample standard deviation over the seeds" in text
    assert content(found)["ranked_by"] == "validation/accuracy"
    assert "clipping=on, max_norm=9" in told  # in the legend of the curves


def test_without_a_validation_split_the_order_is_by_the_test_set_and_that_is_told(tmp_path):
    for seed in (0, 1):
        sweep(tmp_path, "baseline", seed, 0.8)
        sweep(tmp_path, "clipping", seed, 0.9, **norm(1.0))
    found = Multirun(tmp_path, list(find_loose_runs(tmp_path)))
    assert "validation %" not in score_table(found)[0]
    assert "A setting chosen by the test set looks better" in " ".join(table(found))


def test_runs_of_one_name_and_several_settings_are_not_averaged(tmp_path):
    sweep(tmp_path, "mine", 0, 0.8, epochs=1)
    sweep(tmp_path, "mine", 1, 0.95, epochs=2)
    sweep(tmp_path, "mine", 2, 0.7, epochs=2, threads=4)  # of another machine
    found = Multirun(tmp_path, list(find_loose_runs(tmp_path)))
    assert [row.name for row in found.rows] == ["mine (epochs=2)", "mine (epochs=1)"]
    _, *rows = score_table(found)
    assert [row[:3] for row in rows] == [["2", "2", "82.50 ± 17.68"], ["1", "1", "80.00"]]


def test_a_config_that_is_not_that_of_the_run_tells_nothing(tmp_path):
    place = sweep(tmp_path, "clipping", 0, 0.8, 0.8, **norm(1.0))
    text = (place / "config.yaml").read_text()
    (place / "config.yaml").write_text(text.replace("max_norm: 1.0", "max_norm: 5.0"))
    sweep(tmp_path, "baseline", 0, 0.9, 0.9)
    found = Multirun(tmp_path, list(find_loose_runs(tmp_path)))
    assert score_table(found)[0][0] == "variant"
    assert "config.tricks.clipping.max_norm" not in read_frames(tmp_path).runs


@pytest.mark.usefixtures("no_pictures")
def test_each_row_of_hparams_is_one_variant_of_one_name_with_the_numbers_of_the_frames(tmp_path):
    """Over several ablations and sweeps at once, as TensorBoard itself reads them."""
    root = tmp_path / "outputs"
    write_ablation(root / "one", tricks(clipping=0.03, flooding=0.0), seeds=2)
    write_ablation(root / "two", tricks(clipping=-0.2, mixing=0.01), seeds=3)
    write_run(root / "two", "clipping", 1, 0.1, machine={"config": "another"})
    (root / "two/mixing/seed=0/result.json").write_text("{")
    grid(root / "grid")
    sweep(root / "deep/grid", "baseline+epochs=2", 0, 0.5, 0.4)
    main([str(root)])
    runs = read_frames(root).runs
    runs["row"] = runs["name"] + "/" + runs["variant"]
    groups = sessions(root)
    done = runs[runs["state"] == "done"]
    assert set(groups) == {*done["row"], "grid/clipping-max_norm=9.0+epochs=2 (diverged)"}
    assert {"one/clipping", "two/clipping", "deep/grid/baseline+epochs=2"} <= set(groups)
    means = done.groupby("row").mean(numeric_only=True)
    checked = 0
    for row, group in groups.items():
        for metric in group.metric_values:
            assert metric.value == pytest.approx(means.loc[row, metric.name.tag]), (row, metric)
            checked += 1
    assert checked > 30
    shown = {
        row: {k: getattr(v, v.WhichOneof("kind")) for k, v in group.hparams.items()}
        for row, group in groups.items()
    }
    assert shown["one/flooding"] == {"clipping": False, "flooding": True}
    assert shown["two/mixing"] == {"clipping": False, "mixing": True}
    assert shown["grid/clipping-max_norm=0.1+epochs=2"] == {
        "clipping": True,
        "tricks.clipping.max_norm": 0.1,
    }
    assert shown["grid/baseline+epochs=2"] == {"clipping": False}


@pytest.mark.usefixtures("no_pictures")
def test_a_sweep_has_means_in_tensorboard_and_none_of_a_part_of_it(tmp_path):
    root = tmp_path / "grid"
    grid(root)
    main([str(root / "baseline+epochs=2")])
    assert not (root / "means").exists()
    main([str(root)])
    shown = EventAccumulator(str(root / "means/baseline+epochs=2")).Reload()
    lines = read_frames(root).evaluations.query("variant == 'baseline+epochs=2' and epoch == 3")
    mean = lines["validation/accuracy"].mean()
    assert shown.Scalars("means/validation/accuracy/mean")[2].value == pytest.approx(mean)


def test_the_frames_have_the_settings_but_none_of_tricks_that_are_off(tmp_path):
    grid(tmp_path)
    runs = read_frames(tmp_path).runs
    pivot = runs.pivot_table(index="config.tricks.clipping.max_norm", values="test/accuracy")
    assert pivot["test/accuracy"].to_dict() == pytest.approx({0.1: 0.90, 1.0: 0.955})
    off = runs[runs["variant"] == "baseline+epochs=2"]
    assert off["config.tricks.clipping.max_norm"].isna().all()
    assert set(off["config.optimizer.lr"]) == {0.1}


@pytest.mark.usefixtures("no_pictures")
def test_two_folders_of_one_name_stay_apart_and_none_counts_twice(tmp_path, capsys):
    for part, effect in (("a", 0.05), ("b", -0.05)):
        write_ablation(tmp_path / part / "x", tricks(clipping=effect), seeds=3)
        sweep(tmp_path / part / "s", "baseline", 0, 0.5 + effect, 0.5)
    runs, evaluations = read_frames(tmp_path, tmp_path / "a", f"{tmp_path}/b/../b")
    assert runs["name"].value_counts().to_dict() == {"a/x": 6, "b/x": 6, "a/s": 1, "b/s": 1}
    assert not runs.duplicated(["name", "variant", "seed"]).any()
    assert not evaluations.duplicated(["name", "variant", "seed", "epoch"]).any()
    main([str(tmp_path / "a/x"), str(tmp_path / "b/x"), str(tmp_path / "a/x")])
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if "clipping" in row] == [
        ["HELPS", "a/x", "clipping"],
        ["HURTS", "b/x", "clipping"],
    ]
    assert {"a/x/clipping", "b/x/clipping"} <= set(sessions(tmp_path))
    outputs = tmp_path / "outputs/p/q"
    assert names_of([outputs]) == {outputs: "p/q"}


@pytest.mark.usefixtures("no_pictures")
def test_a_run_of_another_config_counts_nowhere(tmp_path):
    write_ablation(tmp_path, tricks(clipping=0.03), seeds=3)
    write_run(tmp_path, "clipping", 1, 0.1, machine={"config": "another"})
    main([str(tmp_path)])
    content = json.loads((tmp_path / "report.json").read_text())
    assert sorted(content["effects"][0]["differences"]) == ["0", "2"]
    assert [run["state"] for run in content["runs"]].count("damaged") == 1
    runs, evaluations = read_frames(tmp_path)
    row = runs.set_index(["variant", "seed"]).loc[("clipping", 1)]
    assert (row["state"], row["error"]) == ("damaged", "it is a run of another config")
    assert row[["test/accuracy", "clipping"]].isna().all()
    assert len(evaluations) == 5 * 5
    shown = EventAccumulator(str(tmp_path / "means/clipping/hparams")).Reload()
    (mean,) = shown.Scalars("test/accuracy")
    kept = runs[(runs["variant"] == "clipping") & (runs["state"] == "done")]
    assert mean.value == pytest.approx(kept["test/accuracy"].mean())


@pytest.mark.usefixtures("no_pictures")
def test_an_ablation_and_a_run_within_the_folder_of_another_are_found(tmp_path):
    write_ablation(tmp_path / "a", tricks(clipping=0.03), seeds=2)
    write_ablation(tmp_path / "a/b", tricks(flooding=0.03), seeds=2)
    sweep(tmp_path / "a/c", "baseline", 0, 0.5, 0.5)
    runs = read_frames(tmp_path).runs
    assert runs["name"].value_counts().to_dict() == {"a": 4, "b": 4, "c": 1}


def test_a_curve_is_the_mean_of_the_same_seeds_all_along(tmp_path):
    long = sweep(tmp_path, "baseline", 0, 0.9, 0.9)
    for seed, state in ((1, "running"), (2, "diverged"), (3, "done")):
        place = sweep(tmp_path, "baseline", seed, 0.9, 0.9, state)
        lines = (place / "metrics.jsonl").read_text().splitlines(keepends=True)
        (place / "metrics.jsonl").write_text("".join(lines[:3]))
    found = _points(find_loose_runs(tmp_path), "train/loss")
    assert {epoch: len(values) for epoch, values in found.items()} == {1: 2, 2: 2, 3: 2}
    for seed in (1, 2, 3):
        shutil.rmtree(tmp_path / f"baseline/seed={seed}")
    assert list(_points(find_loose_runs(tmp_path), "train/loss")) == [1, 2, 3, 4, 5]
    assert long.exists()


def test_a_narrow_terminal_leaves_columns_out_and_says_so(tmp_path, monkeypatch):
    found = grid(tmp_path)
    monkeypatch.setenv("COLUMNS", "70")
    lines = table(found)
    assert max(map(len, lines)) <= 70
    heads = next(line for line in lines if "max_norm" in line)
    assert "test %" in heads
    assert "seconds" not in heads
    assert any("too narrow for: " in line and "seconds" in line for line in lines)
