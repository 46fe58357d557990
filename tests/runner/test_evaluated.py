"""What a run evaluates, keeps and predicts with: the weights and the views that the tricks give."""

import numpy as np
import pytest
import torch

from runner import data
from runner.build import build
from runner.errors import UserError
from runner.run import checkpoint
from runner.store.runs import read_metrics, read_run
from runner.trained import load_run
from tests.conftest import run_in, settings

TINY = ("epochs=2", "batch_size=256", "model.width=2", "name=x")


def answers(run):
    """The logits of a trained model for the test images, and those that its run wrote."""
    images = data.digits().test.images
    logits = torch.cat([load_run(run).answer(block) for block in images.split(256)])
    return logits, torch.from_numpy(read_run(run, "x").predictions()[0])


@pytest.mark.parametrize("trick", ["ema", "swa", "look_ahead", "schedule_free"])
def test_the_average_is_tested_and_kept_and_training_resumes_from_its_own_weights(tmp_path, trick):
    more = {"swa": ["tricks.swa.start=0.0"], "look_ahead": ["tricks.look_ahead.k=5"]}
    run_in(tmp_path, f"tricks=[{trick}]", *TINY, *more.get(trick, []))
    logits, written = answers(tmp_path)
    assert torch.equal(logits, written)
    kept = load_run(tmp_path).network.state_dict()
    trained = checkpoint.load(tmp_path)["training"]["model"]
    assert kept.keys() == trained.keys()
    assert not torch.equal(kept["conv.weight"], trained["conv.weight"])


def test_the_best_weights_are_the_averages_as_they_were_evaluated(tmp_path):
    given = ("tricks=[ema]", "tricks.ema.half_life=0.2", "result=best", "keep=best", *TINY)
    result = run_in(tmp_path, *given)
    logits, written = answers(tmp_path)
    assert torch.equal(logits, written)
    best = load_run(tmp_path / "best.pt").network.state_dict()
    kept = load_run(tmp_path).network.state_dict()
    assert all(torch.equal(best[key], kept[key]) for key in kept)
    lines = read_metrics(tmp_path)
    assert result["validation/accuracy"] == max(line["validation/accuracy"] for line in lines)


def test_a_trained_model_predicts_by_the_views_that_its_run_was_tested_with(tmp_path):
    plain = run_in(tmp_path / "plain", *TINY)
    views = run_in(tmp_path / "views", "tricks=[test_time_views]", *TINY)
    assert views["weights"] == plain["weights"]
    logits, written = answers(tmp_path / "views")
    assert torch.equal(logits, written)
    assert not np.allclose(written, answers(tmp_path / "plain")[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["tricks=[alternating_flip]", "data.augment.flip=true"],
            r"data\.augment\.flip=true would change nothing: alternating_flip brings its own flips",
        ),
        (
            ["tricks=[binary_cross_entropy]", "loss.class_weights=balanced"],
            r"loss\.class_weights would change nothing: binary_cross_entropy brings its own loss",
        ),
        (
            ["tricks=[trapezoid]", "scheduler=step"],
            r"scheduler=step would change nothing: trapezoid takes the scheduler's place",
        ),
        (
            ["tricks=[ema,swa]"],
            r"Ema and Swa each bring their own weights to evaluate with\. Keep one of",
        ),
    ],
)
def test_what_two_would_each_put_their_own_in_place_of_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        build(settings(*given))


def test_first_weights_are_read_or_set_by_a_trick(tmp_path):
    run_in(tmp_path, *TINY)
    given = settings("tricks=[dirac_init]", f"model.weights={tmp_path}", *TINY)
    with pytest.raises(UserError, match=r"dirac_init would overwrite the weights that model\.weig"):
        build(given)
