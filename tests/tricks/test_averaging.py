"""Averages of weights: by hand, put in place and taken out to the bit, with their batch norm."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import update_bn

from tests.tricks.averaging import INPUTS, close, network, same, snapshot, steps
from tricks import average_, recompute_batch_norm_, swap_state


def averages_of(model):
    averages = {}
    average_(averages, model, 1.0)
    return averages


def test_an_average_by_hand():
    model, averages = nn.Linear(1, 1), {}
    for share, weight in ((0.25, 8.0), (0.25, 4.0), (1.0, 2.0), (0.0, 9.0)):
        nn.init.constant_(model.weight, weight)
        average_(averages, model, share)
        if share == 0.25:
            assert averages["weight"].item() == (8.0 if weight == 8.0 else 7.0)
    assert averages["weight"].item() == 2.0


def test_the_average_of_half_precision_is_kept_in_float32():
    model = nn.Linear(1, 1).half()
    averages = averages_of(nn.init.constant_(model.weight, 1.0) is None or model)
    nn.init.constant_(model.weight, 2.0)
    for _ in range(100):
        average_(averages, model, 1e-4)  # in half precision each step would round away
    assert averages["weight"].dtype is torch.float32
    assert averages["weight"].item() == pytest.approx(2 - 0.9999**100, rel=1e-5)
    with swap_state(model, averages):
        assert model.weight.dtype is torch.half
        assert model.weight.item() == pytest.approx(1.01, abs=1e-3)


def test_what_is_no_real_number_is_taken_over():
    model, averages = network(), {}
    for update in steps(model, 3):
        average_(averages, model, 1 / update)
    assert averages["1.num_batches_tracked"].item() == 3
    assert averages["1.num_batches_tracked"].dtype is torch.int64


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_its_range_is_refused(share):
    with pytest.raises(ValueError, match=r"share must be from 0 to 1"):
        average_({}, nn.Linear(1, 1), share)


def test_averages_of_another_model_are_refused():
    averages = averages_of(nn.Linear(1, 1))
    for other in (nn.Linear(2, 1), nn.Linear(1, 1, bias=False)):
        with pytest.raises(
            ValueError, match=r"must be those of this model, got others at (weight|bias)"
        ):
            average_(averages, other, 0.5)
    with (
        pytest.raises(ValueError, match="got others at weight"),
        swap_state(other, {"weight": torch.ones(3)}),
    ):
        pass
    with pytest.raises(ValueError, match="got none"), swap_state(other, {}):
        pass


def shared():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].weight = model[0].weight
    return model


MODELS = {
    "batch norm": network,
    "shared": shared,
    "parametrized": lambda: parametrizations.weight_norm(nn.Linear(2, 2)),
    "spectral": lambda: parametrizations.spectral_norm(nn.Linear(2, 2)),
    "float64": lambda: nn.Linear(2, 2).double(),
    "bfloat16": lambda: nn.Linear(2, 2).bfloat16(),
    "complex": lambda: nn.Linear(2, 2, dtype=torch.complex64),
    "frozen": lambda: nn.Linear(2, 2).requires_grad_(False),
    "compiled": lambda: torch.compile(network(), backend="eager"),
    "parallel": lambda: nn.DataParallel(network()),
    "channels_last": lambda: network().to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_state_is_put_in_place_and_the_own_one_is_back_to_the_bit(kind):
    model = MODELS[kind]()
    other, own = averages_of(model), snapshot(model)
    for tensor in other.values():
        tensor += 1
    places = {name: (id(p), p.data_ptr(), p.stride()) for name, p in model.named_parameters()}
    with swap_state(model, other):
        assert all(not torch.equal(own[n], v) for n, v in snapshot(model).items())
    assert same(own, snapshot(model))
    assert places == {n: (id(p), p.data_ptr(), p.stride()) for n, p in model.named_parameters()}


def test_after_an_error_the_own_state_is_back():
    model = network()
    own, other = snapshot(model), averages_of(MODELS["batch norm"]())

    def fail():
        with swap_state(model, {name: tensor + 1 for name, tensor in other.items()}):
            model[1].running_mean += 5
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert same(own, snapshot(model))


def test_autocast_forgets_the_casts_of_the_weights_that_were():
    model, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    nn.init.constant_(model.weight, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        answers = [model(x).item()]
        with swap_state(model, {"weight": torch.full((1, 1), 3.0)}):
            answers.append(model(x).item())
        answers.append(model(x).item())
    assert answers == [1.0, 3.0, 1.0]


def without_dropout():
    model = network()
    model[3] = nn.Identity()
    return model.train()


def test_the_statistics_are_those_of_torchs_update_bn():
    ours, theirs = without_dropout(), without_dropout()
    recompute_batch_norm_(ours, INPUTS)
    update_bn(INPUTS, theirs)
    assert same(ours.state_dict(), theirs.state_dict())


def test_the_statistics_are_those_without_dropout_which_torchs_are_not():
    """They are for an evaluation, which has none."""
    ours, theirs, plain = network(), network(), without_dropout()
    recompute_batch_norm_(ours, INPUTS)
    recompute_batch_norm_(plain, INPUTS)
    update_bn(INPUTS, theirs)
    assert same(ours.state_dict(), plain.state_dict())
    expected = plain.state_dict()["5.running_var"]
    assert (theirs.state_dict()["5.running_var"] / expected).mean() > 1.2


def test_recomputing_leaves_modes_momenta_and_random_numbers_alone():
    model = network().train()
    model[1].eval()
    model[5].momentum = 0.3
    before = torch.get_rng_state()
    recompute_batch_norm_(model, INPUTS)
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in model] == [True, False] + 6 * [True]
    assert (model[1].momentum, model[5].momentum) == (0.1, 0.3)


def test_recomputing_restores_modes_and_momenta_after_an_error():
    model = network().train()
    with pytest.raises(RuntimeError):
        recompute_batch_norm_(model, [torch.ones(2, 5, 6, 6)])
    assert model.training
    assert model[3].training
    assert model[1].momentum == 0.1


def test_recomputing_without_inputs_is_refused_and_changes_nothing():
    model = network()
    next(steps(model, 1))
    before = snapshot(model)
    with pytest.raises(ValueError, match="at least one batch of training inputs, got none"):
        recompute_batch_norm_(model, iter(()))
    assert same(before, snapshot(model))


def test_without_batch_norm_no_input_is_read():
    recompute_batch_norm_(nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2)), None)
    recompute_batch_norm_(nn.BatchNorm2d(2, track_running_stats=False), None)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "parallel"])
def test_a_wrapped_model_gets_the_same_statistics(wrap):
    model = network()
    wrapped = wrap(copy.deepcopy(model), **({"backend": "eager"} if wrap is torch.compile else {}))
    recompute_batch_norm_(model, INPUTS)
    recompute_batch_norm_(wrapped, INPUTS)
    inner = getattr(wrapped, "_orig_mod", None) or wrapped.module
    close(inner.state_dict(), model.state_dict())


def test_a_network_of_torchvision_gets_the_statistics_of_its_inputs():
    model = torchvision.models.squeezenet1_1(num_classes=3)  # it has none
    before = snapshot(model)
    recompute_batch_norm_(model, None)
    assert same(before, snapshot(model))
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=3).train()
    recompute_batch_norm_(model, torch.randn(2, 4, 3, 32, 32))
    inputs = torch.randn(4, 3, 32, 32)
    recompute_batch_norm_(model, [inputs])
    norm = model.conv1[1]
    maps = model.conv1[0](inputs)
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)))


def test_the_statistics_of_a_compiled_model_are_computed_without_the_compiler():
    made, model, plain = [], network(), network()
    model.compile(backend=lambda graph, _: made.append(graph) or graph)
    for each in (model, plain):
        recompute_batch_norm_(each, INPUTS)
    assert made == []
    for one, other in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other)
    model(INPUTS[0])
    assert made
