"""Warm restarts beside torch's and timm's schedulers, and the rates of parameter groups."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR

from tricks import scale_learning_rates_, warm_restarts


def two_groups(*, optimizer=torch.optim.SGD, late=0.03, **options):
    """An optimizer of two groups, the second of a rate of its own."""
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [first]}, {"params": [second], **({"lr": late} if late else {})}]
    return optimizer(groups, **{"lr": 0.1, **options})


def rates(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("eta_min", [0.0, 0.01])
@pytest.mark.parametrize(("T_0", "T_mult"), [(10, 1), (10, 2), (1, 3), (7, 4)])
def test_torchs_scheduler_is_one_setting_for_every_group(T_0, T_mult, eta_min):
    optimizer = two_groups()
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0, T_mult, eta_min)
    for t in range(400):
        ours = [warm_restarts(t, T_0, T_mult, eta_min=eta_min, eta_max=lr) for lr in (0.1, 0.03)]
        assert ours == pytest.approx(rates(optimizer), rel=0, abs=1e-15), t
        optimizer.step()
        scheduler.step()


TIMMS = {"t_in_epochs": False, "cycle_limit": 10**9}  # its default, 1, restarts never


def timm_rates(times, lr=0.1, **options):
    """What timm's scheduler sets; its cosine begins after the warm-up if `warmup_prefix`."""
    scheduler = pytest.importorskip("timm.scheduler").CosineLRScheduler
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    theirs, seen = scheduler(optimizer, warmup_prefix=True, **TIMMS, **options), []
    for t in times:
        theirs.step_update(t)
        seen += rates(optimizer)
    return seen


@pytest.mark.parametrize(
    ("t_initial", "cycle_mul", "cycle_decay", "lr_min", "warmup_t"),
    [
        (10, 1.0, 1.0, 0.0, 0),
        (10, 2.0, 0.9, 0.0, 0),
        (10, 2.0, 0.9, 0.001, 4),
        (4, 1.5, 1.0, 0.01, 3),
        (7, 1.0, 0.99, 0.01, 2),
        (5, 3.0, 0.7, 0.01, 1),
    ],
)
def test_timms_scheduler_is_one_setting_the_warm_up_in_the_first_cycle(
    t_initial, cycle_mul, cycle_decay, lr_min, warmup_t
):
    theirs = timm_rates(
        range(600),
        t_initial=t_initial,
        cycle_mul=cycle_mul,
        cycle_decay=cycle_decay,
        lr_min=lr_min,
        warmup_t=warmup_t,
        warmup_lr_init=lr_min,
    )
    options = {"gamma": cycle_decay, "eta_min": lr_min, "eta_max": 0.1, "warmup": "first"}
    ours = [
        warm_restarts(t, t_initial + warmup_t, cycle_mul, warmup_t, **options) for t in range(600)
    ]
    assert ours == pytest.approx(theirs, rel=0, abs=1e-12)


def test_where_timms_logarithm_misses_a_restart_ours_is_at_the_peak():
    times = [120, 121, 122]
    theirs = timm_rates(times, t_initial=1, cycle_mul=3.0)
    ours = [warm_restarts(t, 1, 3, eta_max=0.1) for t in times]
    assert ours[1] == 0.1
    assert theirs[1] < 1e-9  # if this fails, timm was mended: take both out of here
    assert [ours[0], ours[2]] == pytest.approx([theirs[0], theirs[2]])


def test_where_timms_peak_sinks_below_the_floor_ours_stays_on_it():
    (theirs,) = timm_rates([150], t_initial=10, cycle_mul=2.0, cycle_decay=0.5, lr_min=0.01)
    assert theirs < 0.01
    assert warm_restarts(150, 10, 2, gamma=0.5, eta_min=0.01, eta_max=0.1) == 0.01


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=4), st.lists(st.floats(0, 2), min_size=1))
def test_groups_keep_their_ratios_whatever_the_factors(initial, factors):
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in initial]
    optimizer = torch.optim.SGD(groups, lr=7.0)
    for factor in factors:
        scale_learning_rates_(optimizer, factor)
        assert rates(optimizer) == [lr * factor for lr in initial]
    assert optimizer.defaults["lr"] == 7.0


def test_torchs_lambda_scheduler_gives_the_same_rates():
    ours, theirs = two_groups(), two_groups()
    scheduler = LambdaLR(theirs, lambda update: warm_restarts(update, T_0=10, T_mult=1.5, T_up=3))
    for update in range(60):
        scale_learning_rates_(ours, warm_restarts(update, T_0=10, T_mult=1.5, T_up=3))
        assert rates(ours) == rates(theirs)
        theirs.step()
        scheduler.step()


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("own_rate", [False, True])
def test_a_group_added_later_begins_from_the_rate_it_was_added_with(tensor, own_rate):
    """Groups of an optimizer that name no rate share its tensor, if the rate is one."""
    kind = torch.tensor if tensor else float
    optimizer = two_groups(lr=kind(0.5), late=None, optimizer=torch.optim.Adam)
    scale_learning_rates_(optimizer, 0.25)
    late = {"params": [torch.nn.Parameter(torch.ones(1))]}
    optimizer.add_param_group({**late, "lr": kind(8.0)} if own_rate else late)
    for factor in (0.5, 0.125):
        scale_learning_rates_(optimizer, factor)
        assert rates(optimizer) == [0.5 * factor, 0.5 * factor, (8.0 if own_rate else 0.5) * factor]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_rate_that_is_a_tensor_is_filled_in_place_and_its_initial_value_is_a_copy(shape):
    rate = torch.full(shape, 0.5)
    optimizer = two_groups(lr=rate, late=None, optimizer=torch.optim.Adam)
    for factor in (0.5, 0.0, 1.0, 0.25):
        scale_learning_rates_(optimizer, factor)
        assert all(group["lr"] is rate for group in optimizer.param_groups)
        assert rate.item() == 0.5 * factor
    assert [group["initial_lr"].item() for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
def test_a_plain_loop_resumes_from_the_optimizers_state_alone(tmp_path, rate):
    def run(optimizer, updates):
        for update in updates:
            scale_learning_rates_(optimizer, warm_restarts(update, T_0=5, T_mult=2, T_up=1))
            yield rates(optimizer)

    def start():
        return two_groups(lr=copy.deepcopy(rate), late=None, optimizer=torch.optim.Adam)

    whole, stopped, resumed = start(), start(), start()
    expected = list(run(whole, range(20)))
    list(run(stopped, range(8)))
    torch.save(stopped.state_dict(), tmp_path / "optimizer.pt")
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert list(run(resumed, range(8, 20))) == expected[8:]


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_factor_that_is_not_finite_never_reaches_a_rate(factor):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    with pytest.raises(ValueError, match=rf"factor must be finite, got {factor}"):
        scale_learning_rates_(optimizer, factor)
    assert optimizer.param_groups[0]["lr"] == 0.1
