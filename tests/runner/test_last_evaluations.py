"""The mean of the last test accuracies: what it is, and that it moves nothing."""

from statistics import fmean

import pytest

from runner.ablation.sampling import find_step
from runner.errors import UserError
from runner.store.runs import read_metrics
from runner.train import Training
from tests.conftest import settings

RUN = ("batch_size=256", "model.width=4", "scheduler=constant", "tricks=[clipping,flooding]")
FOUR, MEAN = ("epochs=4", "evaluate_every=3", *RUN), "test/mean_accuracy"


def test_it_is_the_mean_after_each_of_the_last_epochs_and_moves_nothing(do, tmp_path):
    plain = do(*FOUR)
    found = do(*FOUR, "last_evaluations=3", folder="mean")
    assert {k: v for k, v in found.items() if k not in (MEAN, "digests")} == {
        k: v for k, v in plain.items() if k != "digests"
    }
    logged = {line["epoch"]: line.get("test/accuracy") for line in read_metrics(tmp_path / "mean")}
    assert list(logged) == [2, 3, 4]
    ended = {n: do(*RUN, f"epochs={n}", folder=f"{n}")["test/accuracy"] for n in (2, 3)}
    assert logged == {**ended, 4: None}  # a constant rate: a shorter run is a part of a longer one
    assert len({*ended.values(), found["test/accuracy"]}) == 3
    assert found[MEAN] == fmean([*ended.values(), found["test/accuracy"]])


def test_a_run_that_resumes_has_the_same_mean(do, tmp_path, monkeypatch):
    whole = do(*FOUR, "last_evaluations=3")
    step = Training.step

    def break_off(training, batch):
        if training.updates == 20:  # in the last epoch
            raise RuntimeError("the cable")
        step(training, batch)

    monkeypatch.setattr(Training, "step", break_off)
    with pytest.raises(UserError, match="the cable"):
        do(*FOUR, "last_evaluations=3", folder="again")
    monkeypatch.undo()
    assert do(*FOUR, "last_evaluations=3", folder="again") == whole
    (tmp_path / "again" / "result.json").unlink()  # as if stopped between its end and its result
    assert do(*FOUR, "last_evaluations=3", folder="again") == whole


def test_it_needs_as_many_epochs():
    for epochs in (3, 2.5):
        assert settings(f"epochs={epochs}", "last_evaluations=3").last_evaluations == 3
    with pytest.raises(UserError, match=r"^last_evaluations must be at most the epochs, 2, got 3"):
        settings("epochs=2", "last_evaluations=3")
    with pytest.raises(UserError, match=r"^last_evaluations must be >= 2, got 1"):
        settings("last_evaluations=1")


def test_a_mean_counts_as_one_evaluation_since_they_err_on_the_same_samples():
    scores = [350 / 359, (350 + 351 + 351) / 3 / 359]
    assert find_step(scores, MEAN, 359) == 1 / 359
    assert find_step(scores, "test/accuracy", 359) == pytest.approx(1 / 359 / 3)
