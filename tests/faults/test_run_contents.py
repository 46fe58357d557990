"""Plans, configs and numbers of runs that are whole as files, and make no sense."""

import json

import pytest
import yaml

from runner import verify
from runner.ablation import plan as plans
from runner.errors import UserError
from runner.frames import read_frames
from runner.report.__main__ import main as report
from tests.builders import write_run
from tests.faults.run_folders import at_most

ODD_PLANS = {
    "a key within a key": lambda plan: plan["config"].update({"epochs.a": 1}),
    "a key of thousands of parts": lambda plan: plan["config"].update({"a." * 5000 + "a": 1}),
    "a seed beyond all numbers": lambda plan: plan.update(seeds=[0, 10**300]),
    "the same seed twice": lambda plan: plan.update(seeds=[1, 1]),
    "a name with nothing in it": lambda plan: rename(plan, "clipping", "a\0b"),
    "a name that is too long": lambda plan: rename(plan, "clipping", "x" * 300),
    "a name that leads out": lambda plan: rename(plan, "clipping", ".."),
    "a contrast about nothing": lambda plan: plan["contrasts"][0].update(factors=[]),
    "a contrast about another": lambda plan: plan["contrasts"][0].update(factors=["x"]),
    "endless weights": lambda plan: plan["contrasts"][0].update(
        weights={"clipping": float("inf"), "baseline": -float("inf")}
    ),
    "runs without end": lambda plan: plan.update(seeds=list(range(600))),
    "no share": lambda plan: plan["question"].update(alpha=float("nan")),
    "a margin below 0": lambda plan: plan["question"].update(margin=-1.0),
    "a factor without levels": lambda plan: plan["factors"][0].update(levels=[]),
    "a long name": lambda plan: plan["contrasts"][0].update(name="x" * 10**6),
}


def rename(plan, old, new):
    for part in (plan["variants"], plan["changes"], plan["contrasts"][0]["weights"]):
        part[new] = part.pop(old)


@pytest.mark.parametrize("change", ODD_PLANS.values(), ids=ODD_PLANS)
def test_a_plan_that_makes_no_sense_is_refused_in_a_line(folders, change, faults, monkeypatch):
    monkeypatch.setattr(plans, "MOST_RUNS", 1000)
    path = folders.ablation / "sweep.yaml"
    plan = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    del plan["checksum"]
    change(plan)
    path.write_text(yaml.dump(plan, Dumper=yaml.CSafeDumper))
    with at_most(20):
        for command in (
            lambda: report([str(folders.ablation)]),
            lambda: read_frames(folders.ablation),
        ):
            with pytest.raises((SystemExit, UserError)) as told:
                command()
            (line,) = str(told.value).splitlines()
            assert "sweep.yaml is not the plan of an ablation: " in line
    faults("hostile run files")


@pytest.mark.parametrize("epochs", [(0, 0), (-3, -1), (1, 10**200), (1, 2)])
def test_epochs_and_numbers_beyond_all_measure_can_be_drawn_or_are_left_out(tmp_path, epochs):
    place = write_run(tmp_path, "baseline", 0, 0.9)
    line = {"update": 1, "train/loss": 1e308, "validation/accuracy": 1.7e308}
    lines = [json.dumps({"epoch": epoch, **line}) + "\n" for epoch in epochs]
    usual = {**line, "train/loss": 0.5, "validation/accuracy": 0.5}
    lines += [json.dumps({"epoch": epoch, **usual}) + "\n" for epoch in epochs]
    (place / "metrics.jsonl").write_text("".join(lines))
    report([str(tmp_path)])
    assert (tmp_path / "report.html").read_text().count("<svg") == 2


BUILT = {
    "a width beyond all memory": ("width: 4", "width: 100000000"),
    "a batch beyond all numbers": ("batch_size: 256", f"batch_size: {10**30}"),
    "threads beyond all numbers": ("threads: 1", f"threads: {10**30}"),
    "a failure that nobody thought of": ("seed: 0", "seed: 1"),
}


@pytest.mark.parametrize(("old", "new"), BUILT.values(), ids=BUILT)
def test_a_config_that_cannot_be_built_is_one_line(folders, old, new, monkeypatch):
    def fails(_):
        raise MemoryError("as nobody thought of")

    monkeypatch.undo()
    if new == "seed: 1":
        monkeypatch.setattr(verify, "build", fails)
    path = folders.run / "config.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(SystemExit) as told:
        verify.main([str(folders.run)])
    assert len(str(told.value).splitlines()) <= 4
