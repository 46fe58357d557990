"""Clipping at a quantile of the norms so far, and the history of these norms."""

import math

import pytest
from torch import nn

from tests.tricks.clipping import clip, total, weights
from tricks import Clipping, clip_gradients_


def norms_by_quantile(trick, sequence):
    """The norms that are left of gradients of these norms, one update after another."""
    left = []
    for norm in sequence:
        parameters = weights([norm])
        clip(trick, parameters)
        left.append(total(parameters))
    return left


def test_the_quantile_is_that_of_the_earlier_norms_after_the_warm_up():
    trick = Clipping(by="quantile", quantile=0.5, warmup=2)
    left = norms_by_quantile(trick, [1.0, 5.0, 4.0, 9.0, 1.0])
    # medians of (1, 5), (1, 5, 4), (1, 5, 4, 9): the raw norms count, not the clipped ones
    assert left == pytest.approx([1.0, 5.0, 3.0, 4.0, 1.0], abs=1e-5)
    assert trick.report() == {"norm": 1.0, "clipped_share": 0.0, "threshold": 4.5}


def test_the_plain_form_by_quantile_keeps_its_norms_in_the_list_it_is_given():
    history = []
    for norm, left in ((4.0, 4.0), (8.0, 4.0), (8.0, 6.0)):
        (weight,) = weights([norm])
        assert clip_gradients_([weight], 0.5, "quantile", history=history).item() == norm
        assert total([weight]) == pytest.approx(left, abs=1e-5)
    assert history == [4.0, 8.0, 8.0]


def test_there_is_no_threshold_during_the_warm_up_and_a_quantile_of_0_is_the_least():
    trick = Clipping(by="quantile", quantile=0.0, warmup=2)
    assert "threshold" not in clip(trick, weights([4.0]))
    clip(trick, weights([2.0]))
    parameters = weights([8.0])
    assert clip(trick, parameters)["threshold"] == 2.0
    assert total(parameters) == pytest.approx(2.0, abs=1e-5)
    (weight,) = weights([8.0])
    clip_gradients_(weight, 0.0, "quantile", history=[4.0, 2.0])
    assert total([weight]) == pytest.approx(2.0, abs=1e-5)


def test_a_saved_history_does_not_change_later():
    trick = Clipping(by="quantile", warmup=1)
    clip(trick, weights([1.0]))
    state = trick.state_dict()
    clip(trick, weights([2.0]))
    assert state == {"norms": [1.0]}
    with pytest.raises(ValueError, match="must hold norms"):
        trick.load_state_dict({"norms": [], "more": 1})


def test_the_norms_of_one_training_do_not_clip_the_next():
    trick = Clipping(by="quantile", quantile=1.0, warmup=2)
    norms_by_quantile(trick, [1.0, 1.0, 1.0])
    trick.model(nn.Identity())
    assert trick.state_dict() == {"norms": []}
    assert trick.report() == {}
    assert norms_by_quantile(trick, [9.0, 7.0]) == [9.0, 7.0]


def test_only_a_quantile_reads_and_writes_the_history():
    (weight,), history = weights([8.0]), [1.0]
    clip_gradients_(weight, 4.0, "norm", history=history)
    assert history == [1.0]
    assert total([weight]) == pytest.approx(4.0, abs=1e-5)


def test_only_the_last_norms_count():
    trick = Clipping(by="quantile", quantile=1.0, history=2, warmup=1)
    left = norms_by_quantile(trick, [100.0, 1.0, 2.0, 50.0])
    assert left == pytest.approx([100.0, 1.0, 2.0, 2.0], abs=1e-5)
    trick.load_state_dict({"norms": [9.0, 1.0, 2.0]})  # of a longer history
    assert norms_by_quantile(trick, [50.0]) == pytest.approx([2.0], abs=1e-5)


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_never_enters_the_history(number):
    trick = Clipping(by="quantile", quantile=1.0, warmup=1)
    clip(trick, weights([1.0]))
    clip(trick, weights([number]))
    assert trick.state_dict() == {"norms": [1.0]}


def test_the_history_resumes_from_its_state():
    straight = Clipping(by="quantile", warmup=1)
    norms_by_quantile(straight, [3.0, 1.0])
    resumed = Clipping(by="quantile", warmup=1)
    resumed.load_state_dict(straight.state_dict())
    assert norms_by_quantile(resumed, [7.0, 5.0]) == norms_by_quantile(straight, [7.0, 5.0])
    assert Clipping().state_dict() == {}
    with pytest.raises(ValueError, match="must hold norms"):
        resumed.load_state_dict({})
    with pytest.raises(ValueError, match="has no state"):
        Clipping().load_state_dict(straight.state_dict())


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_history_of_others_counts_without_what_is_not_finite(number):
    (weight,) = weights([8.0])
    clip_gradients_(weight, 1.0, "quantile", history=[2.0, number, 4.0])
    assert total([weight]) == pytest.approx(4.0, abs=1e-5)
    (weight,) = weights([8.0])
    clip_gradients_(weight, 1.0, "quantile", history=[number])
    assert total([weight]) == 8.0
    trick = Clipping(by="quantile", quantile=1.0, warmup=1)
    trick.load_state_dict({"norms": [2.0, number]})
    assert norms_by_quantile(trick, [8.0]) == pytest.approx([2.0], abs=1e-5)
