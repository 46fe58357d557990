"""The mean of the last test accuracies: what it is, and that it moves nothing."""

from statistics import fmean

import pytest

from runner.ablation.sampling import find_step
from runner.errors import UserError
from runner.store.runs import read_metrics
from runner.train import Training
from tests.conftest import run_in, settings

MEAN = "test/mean_accuracy"
RUN = ("batch_size=256", "model.width=2", "scheduler=constant", "tricks=[clipping,flooding]")
THREE = ("epochs=3", "evaluate_every=3", *RUN)
WITH_MEAN = (*THREE, "last_evaluations=2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Do a run that evaluates the test set twice; give back its result and its evaluations."""
    folder = tmp_path_factory.mktemp("whole")
    return run_in(folder, *WITH_MEAN), read_metrics(folder)


def test_it_is_the_mean_after_each_of_the_last_epochs_and_moves_nothing(do, whole):
    found, lines = whole
    kept = {key: value for key, value in found.items() if key not in (MEAN, "digests")}
    assert {**do(*THREE), "digests": None} == {**kept, "digests": None}
    # with a constant rate a shorter run is a part of a longer one
    two = do("epochs=2", *RUN, folder="two")["test/accuracy"]
    assert [(line["epoch"], line.get("test/accuracy")) for line in lines] == [(2, two), (3, None)]
    assert found["test/accuracy"] != two
    assert found[MEAN] == fmean([two, found["test/accuracy"]])


def test_a_run_that_resumes_has_the_same_mean(do, tmp_path, monkeypatch, whole):
    step = Training.step

    def break_off(training, *given):
        if training.updates == 15:  # in the last epoch
            raise RuntimeError("the cable")
        step(training, *given)

    monkeypatch.setattr(Training, "step", break_off)
    with pytest.raises(UserError, match="the cable"):
        do(*WITH_MEAN)
    monkeypatch.undo()
    assert do(*WITH_MEAN) == whole[0]
    (tmp_path / "run" / "result.json").unlink()  # as if stopped between its end and its result
    assert do(*WITH_MEAN) == whole[0]


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
