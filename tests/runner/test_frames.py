"""The tables of runs and evaluations: every number, by variant and seed."""

import json

import pandas as pd
import pytest

from runner.errors import UserError
from runner.frames import read_frames
from tests.builders import tricks, write_ablation, write_run


def test_the_tables_have_each_number_of_each_run(tmp_path):
    write_ablation(tmp_path / "mine", tricks(clipping=0.03, flooding=0.0), seeds=2)
    runs, evaluations = read_frames(tmp_path / "mine")
    assert len(runs) == 6
    assert len(evaluations) == 30
    assert list(runs.columns[:4]) == ["name", "variant", "seed", "state"]
    assert set(runs["name"]) == {"mine"}
    assert sorted(runs["seed"].unique()) == [0, 1]
    row = runs.set_index(["variant", "seed"]).loc[("clipping", 1)]
    place = tmp_path / "mine/clipping/seed=1"
    result = json.loads((place / "result.json").read_text())
    numbers = {k: v for k, v in result.items() if k != "format" and not isinstance(v, list | str)}
    assert {key: row[key] for key in numbers} == numbers
    assert row["state"] == "done"
    assert (row["seconds"], row["peak_memory"]) == (3.0, 1e8)
    assert (row["clipping"], row["flooding"]) == ("clipping", "no-flooding")
    first = json.loads((place / "metrics.jsonl").read_text().splitlines()[0])
    chosen = evaluations.query("variant == 'clipping' and seed == 1 and epoch == 1")
    assert chosen[list(first)].iloc[0].to_dict() == first


def test_differences_under_a_seed_are_one_line(tmp_path):
    write_ablation(tmp_path, tricks(clipping=0.03), seeds=3)
    runs, _ = read_frames(tmp_path)
    table = runs.pivot(index="seed", columns="variant", values="test/accuracy")
    difference = table["clipping"] - table["baseline"]
    assert difference.mean() == pytest.approx(0.03, abs=0.005)


def test_several_folders_and_runs_without_a_plan_stand_together(tmp_path):
    write_ablation(tmp_path / "one", tricks(clipping=0.03), seeds=1)
    write_run(tmp_path / "other", "flooding", 2, 0.9)
    for runs, evaluations in (
        read_frames(tmp_path),
        read_frames(tmp_path / "one", tmp_path / "other"),
    ):
        assert len(runs) == 3
        assert len(evaluations) == 15
        assert runs["seed"].dtype == "Int64"
        assert runs["clipping"].isna().sum() == 1


def test_what_is_damaged_or_not_done_has_a_state_and_no_numbers(tmp_path):
    write_run(tmp_path, "baseline", 0, 0.9)
    write_run(tmp_path, "baseline", 1, 0.9)
    (tmp_path / "baseline/seed=1/result.json").write_text('{"test/accuracy":')
    (tmp_path / "baseline/seed=1/metrics.jsonl").write_bytes(b"\xff\n")
    write_run(tmp_path, "baseline", 2, status="diverged", told={"error": "nan"})
    place = write_run(tmp_path, "baseline", 3, 0.9)
    odd = {"a": True, "b": "1", "c": 10**30, "variant": 3.0}
    (place / "result.json").write_text(json.dumps(odd))
    place.rename(place.with_name("once"))
    runs, evaluations = read_frames(tmp_path)
    assert runs["state"].tolist() == ["done", "done", "damaged", "diverged"]
    assert runs["test/accuracy"].notna().sum() == 1
    assert runs["c"].max() == 1e30
    assert {"a", "b"}.isdisjoint(runs.columns)
    assert set(runs["variant"]) == {"baseline"}
    assert "result.json is damaged" in runs["error"][2]
    assert runs["error"][3] == "nan"
    assert pd.isna(runs["seed"][0])
    assert len(evaluations) == 15


def test_no_run_is_an_error_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no runs there"):
        read_frames(tmp_path)
