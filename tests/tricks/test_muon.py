"""Muon: the formula, torch's numbers on matrices, convolutions, and one optimizer out of two."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from runner.models import cifar_resnet
from tests.tricks.optimizers import filled, seeded
from tricks import Centralization, Chain, Muon, orthogonalize, scale_learning_rates_, with_muon
from tricks.weights import Matrix, find_matrices

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
ALL = {"exclude": ()}
CUBIC = {"steps": 40, "coefficients": (1.5, -0.5, 0.0)}  # of Newton and Schulz, to the limit


def small():
    return seeded(lambda: cifar_resnet(depth=8, width=4, channels=3, classes=5))


def one_update(layer, **options):
    """Give back the first update of a layer's weight, divided by the learning rate."""
    before = layer.weight.detach().clone()
    with_muon(SGD(layer.parameters()), layer, lr=0.5, **ALL, **options).step()
    return (before - layer.weight.detach()) / 0.5


def test_orthogonal_by_hand_is_u_times_v_transposed():
    matrix = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(orthogonalize(matrix, **CUBIC), u @ v)
    torch.testing.assert_close(orthogonalize(matrix.mT, **CUBIC), (u @ v).mT)


def test_published_coefficients_bring_singular_values_between_two_thirds_and_one_and_a_quarter():
    given = torch.logspace(-1.9, 0, 60, dtype=torch.float64)
    assert (given / given.norm()).min() > 0.003
    values = torch.linalg.svdvals(orthogonalize(torch.diag(given)))
    assert 0.68 < values.min() < values.max() < 1.21


def test_many_matrices_at_once_are_each_what_they_are_alone():
    matrices = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    matrices[0, 0] *= 1e-6
    matrices[1, 2] = 0
    alone = [orthogonalize(m) for m in matrices.flatten(0, 1)]
    torch.testing.assert_close(orthogonalize(matrices).flatten(0, 1), torch.stack(alone))
    assert not alone[-1].any()


def test_half_precision_is_computed_in_float32_on_the_cpu():
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).half()
    wide = orthogonalize(matrix.float()).half()
    assert torch.equal(orthogonalize(matrix), wide)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_in_bfloat16_it_is_torchs_to_the_bit(shape):
    from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, _zeropower_via_newtonschulz

    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    theirs = _zeropower_via_newtonschulz(matrix, (DEFAULT_A, DEFAULT_B, DEFAULT_C), 5, 1e-7)
    assert torch.equal(orthogonalize(matrix, dtype=torch.bfloat16), theirs.float())


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw", "spectral_unclamped"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_linear_layers_are_trained_as_by_torchs_muon(monkeypatch, scale, nesterov):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())  # exact for both
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 9, bias=False), nn.Linear(9, 4, bias=False)))
    model.double()
    other = copy.deepcopy(model)
    shared = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05, "nesterov": nesterov}
    ours = with_muon(SGD(model.parameters()), model, **shared, scale=scale, **ALL)
    theirs = torch.optim.Muon(other.parameters(), **shared, adjust_lr_fn=scale)
    for seed in range(6):
        for each, optimizer in ((model, ours), (other, theirs)):
            filled(each, seed)
            optimizer.step()
    for mine, their in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=1e-12)


def test_a_1x1_convolution_is_trained_as_the_linear_layer_that_it_equals():
    linear, conv = nn.Linear(64, 256, bias=False), nn.Conv2d(64, 256, 1, bias=False)
    linear.weight.grad = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    conv.weight.grad = linear.weight.grad[:, :, None, None].clone()
    one, other = one_update(linear), one_update(conv)
    torch.testing.assert_close(one, other[:, :, 0, 0])
    assert torch.linalg.svdvals(one).mean() == pytest.approx(1.7, abs=0.2)


def by_height_and_width(weight, **options):
    """The rule of the author's code: the scale is that of the last two sizes of the gradient."""
    flat = orthogonalize(weight.grad.flatten(1), **options)
    return flat.reshape(weight.shape) * max(1, weight.shape[-2] / weight.shape[-1]) ** 0.5


def test_where_the_scale_is_that_of_height_and_width_a_convolution_gets_half_its_update():
    conv = filled(nn.Conv2d(64, 256, 1, bias=False))
    theirs, ours = by_height_and_width(conv.weight), one_update(conv)
    torch.testing.assert_close(ours, 2 * theirs, rtol=1e-4, atol=1e-6)
    assert torch.linalg.svdvals(theirs.flatten(1)).mean() == pytest.approx(0.85, abs=0.1)


def test_a_depthwise_filter_is_a_matrix_of_its_own():
    conv = filled(nn.Conv2d(64, 64, 3, groups=64, bias=False))
    theirs, ours = by_height_and_width(conv.weight, **CUBIC), one_update(conv, **CUBIC)
    norms = ours.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, norms[:1].expand(64))
    assert (ours.norm() / theirs.norm()).item() == pytest.approx(8 / 3)
    direction = conv.weight.grad.flatten(1) / conv.weight.grad.flatten(1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(ours.flatten(1) / norms[:, None], direction)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Conv2d(8, 12, 3, groups=4, bias=False),
        lambda: nn.ConvTranspose2d(8, 12, 2, groups=4, bias=False),
        lambda: nn.ConvTranspose2d(4, 6, (2, 3), bias=False),
        lambda: nn.Conv1d(4, 6, 3, bias=False),
        lambda: nn.Conv3d(2, 6, 3, bias=False),
    ],
)
def test_a_convolution_is_trained_as_linear_layers_of_its_groups(layer):
    layer = filled(layer())
    transposed = "Transpose" in type(layer).__name__
    groups = layer.weight.chunk(layer.groups)
    linear = []
    for part, gradient in zip(groups, layer.weight.grad.chunk(layer.groups), strict=True):
        turned = [t.transpose(0, 1) if transposed else t for t in (part.detach(), gradient)]
        weight, gradient = (t.flatten(1) for t in turned)
        linear.append(nn.Linear(*weight.shape[::-1], bias=False))
        linear[-1].weight.grad = gradient.clone()
    expected = torch.cat([one_update(each).flatten() for each in linear])
    got = [p.transpose(0, 1) if transposed else p for p in one_update(layer).chunk(layer.groups)]
    torch.testing.assert_close(torch.cat([part.flatten() for part in got]), expected)


def test_joining_what_was_cut_gives_the_tensor():
    for layer in (nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, (2, 3), groups=2)):
        (matrix,) = find_matrices(layer)
        assert torch.equal(matrix.join(matrix.cut(layer.weight)), layer.weight)
        assert matrix.cut(layer.weight).shape[:2] == (2, 3)


def test_query_key_and_value_are_three_matrices():
    attention = nn.MultiheadAttention(6, 2)
    joint, out = find_matrices(attention)
    assert joint == Matrix(attention.in_proj_weight, 3, transposed=False)
    assert joint.cut(attention.in_proj_weight).shape == (3, 6, 6)
    assert out.parameter is attention.out_proj.weight


def names_taken(model, **options):
    optimizer = with_muon(SGD(model.parameters()), model, **options)
    return [name for name, parameter in model.named_parameters() if parameter in optimizer.matrices]


def test_first_layer_classifier_norms_and_biases_stay_with_the_given_optimizer():
    model, before = small(), dict(small().named_parameters())
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert names_taken(model) == [f"{name}.weight" for name in convolutions if name != "conv"]
    plain = filled(copy.deepcopy(filled(model)))
    both = with_muon(SGD(model.parameters()), model)
    for optimizer in (both, SGD(plain.parameters())):
        optimizer.step()
    for name, parameter in plain.named_parameters():
        same = torch.equal(dict(model.named_parameters())[name], parameter)
        assert same == (name.removesuffix(".weight") not in convolutions[1:]), name
        assert not torch.equal(before[name], parameter)


def test_exclude_names_others():
    model = small()
    everything = [n for n, p in model.named_parameters() if p.ndim > 1]
    assert names_taken(model, exclude=()) == everything
    assert names_taken(model, exclude=("stage1", "stage2", "stage3")) == [
        "conv.weight",
        "classifier.weight",
    ]


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.tied = nn.Linear(4, 5, bias=False)
        self.tied.weight = self.table.weight
        self.one = nn.Conv2d(4, 4, 1, groups=4)
        self.twice = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.twice.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.recurrent = nn.GRU(4, 4)
        self.scale = nn.Parameter(torch.ones(1, 4, 1))
        self.directed = parametrizations.weight_norm(nn.Linear(4, 4))


def test_embeddings_scales_recurrent_and_frozen_weights_stay_and_shared_ones_come_once():
    assert names_taken(Odd(), exclude=()) == [
        "twice.weight",
        "directed.parametrizations.weight.original1",
    ]


def test_normalized_weights_have_the_root_of_their_outputs_as_norm_before_the_update():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2), nn.Linear(4, 2))
    model = filled(layers)
    before = [p.detach().clone() for p in model.parameters() if p.ndim > 1]
    with_muon(SGD(model.parameters()), model, lr=1e-9, normalize=True, **ALL).step()
    weights = [p.detach() for p in model.parameters() if p.ndim > 1]
    for weight, old, outputs in zip(weights, before, (8, 4, 2), strict=True):
        torch.testing.assert_close(weight, old * outputs**0.5 / old.norm())


def test_weights_of_zero_stay_finite():
    model = filled(small())
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
        parameter.grad.zero_()
    with_muon(SGD(model.parameters()), model, normalize=True).step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_what_has_no_gradient_is_left_alone():
    model = filled(small())
    still = model.stage1[0]
    for parameter in still.parameters():
        parameter.grad = None
    before = copy.deepcopy(model.state_dict())
    with_muon(SGD(model.parameters()), model, weight_decay=0.5).step()
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert moved
    assert not {name for name in moved if name.startswith("stage1.0.")}


def both_of(model, rest=SGD):
    return with_muon(rest(model.parameters()), model)


def test_the_groups_of_both_follow_one_schedule():
    model = small()
    optimizer = both_of(model)
    for factor in (0.5, 0.25):
        scale_learning_rates_(optimizer, factor)
        assert [g["lr"] for g in optimizer.param_groups] == [0.1 * factor, 0.02 * factor]
    assert optimizer.rest.param_groups[0] is optimizer.param_groups[0]


@pytest.mark.parametrize("rest", [SGD, torch.optim.AdamW])
@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
def test_training_goes_on_to_the_bit(rest, way):
    model = small()
    optimizer = both_of(model, rest)
    for seed in range(2):
        filled(model, seed)
        optimizer.step()
    if way == "state_dict":
        again = copy.deepcopy(model)
        other = both_of(again, rest)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
    else:
        both = model, optimizer
        again, other = (
            copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
        )
    for group in (*optimizer.param_groups, *other.param_groups):
        group["lr"] *= 0.5
    for each, stepped in ((model, optimizer), (again, other)):
        filled(each, 2)
        stepped.step()
    assert other.rest.state is other.state
    for mine, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_group_that_is_added_later_is_the_given_optimizers():
    model, late = small(), nn.Linear(2, 2)
    optimizer = both_of(model)
    optimizer.add_param_group({"params": late.parameters(), "lr": 0.3})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.3, 0.02]
    before = late.weight.detach().clone()
    filled(late)
    optimizer.step()
    torch.testing.assert_close(late.weight, before - 0.3 * (late.weight.grad + 0.01 * before))
    with pytest.raises(ValueError, match="more than one"):
        optimizer.add_param_group({"params": next(iter(optimizer.matrices))})
    assert len(optimizer.rest.param_groups) == 2


def test_states_of_what_stays_are_kept_and_names_go_along():
    model = filled(small())
    given = SGD(model.named_parameters())
    given.step()
    kept = given.state[model.conv.weight]
    optimizer = with_muon(given, model)
    assert optimizer.state[model.conv.weight] is kept
    assert len(optimizer.state) == len(given.param_groups[0]["params"])
    names = dict(model.named_parameters())
    group = given.param_groups[0]
    assert [names[name] for name in group["param_names"]] == group["params"]


def test_nothing_may_be_left_for_the_given_optimizer():
    model = filled(nn.Linear(3, 3, bias=False))
    optimizer = with_muon(SGD(model.parameters()), model, **ALL)
    optimizer.step(lambda: torch.zeros(()))
    assert [group["lr"] for group in optimizer.param_groups] == [0.02]


def test_a_scaler_changes_no_bit_and_skips_an_overflow():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plain, scaled = small(), small()
    optimizers = both_of(plain), both_of(scaled)
    for seed, overflows in enumerate((False, True, False, False)):
        if not overflows:
            filled(plain, seed)
            optimizers[0].step()
        filled(scaled, seed)
        scaler.scale(torch.zeros(()))
        for parameter in scaled.parameters():
            parameter.grad *= float("inf") if overflows else scaler.get_scale()
        scaler.step(optimizers[1])
        scaler.update()
    for mine, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_update_is_centralized_behind_it():
    model = filled(small())
    weight = model.stage1[0].conv1.weight
    means = weight.detach().mean((1, 2, 3))
    chain = Chain(Muon(weight_decay=0.1), Centralization(where="update"))
    optimizer = chain.optimizer(SGD(model.parameters()), model)
    chain.gradients(model, optimizer, torch.zeros(()))
    optimizer.step()
    torch.testing.assert_close(weight.detach().mean((1, 2, 3)), means)


def test_memory_format_changes_nothing_but_rounding():
    plain = filled(small())
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    for mine, theirs in zip(last.parameters(), plain.parameters(), strict=True):
        mine.grad = theirs.grad.clone(memory_format=torch.preserve_format)
        if mine.ndim == 4:
            mine.grad = mine.grad.contiguous(memory_format=torch.channels_last)
    for model in (plain, last):
        both_of(model).step()
    for mine, theirs in zip(last.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_random_number_is_drawn():
    model = filled(small())
    before = torch.get_rng_state()
    both_of(model).step()
    assert torch.equal(torch.get_rng_state(), before)


def test_it_tells_what_stays_with_the_given_optimizer():
    model, trick = small(), Muon()
    trick.optimizer(SGD(trick.model(model).parameters()), model)
    assert trick.caveats(10, 5) == [
        "conv.weight, classifier.weight stay with SGD; exclude=[...] names others."
    ]


class Forking(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.stem(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2)), {}, "no hidden weight in Seq"),
        (lambda: nn.BatchNorm2d(3), ALL, "no hidden weight in BatchNorm2d"),
        (small, {"exclude": ("block",)}, "exclude must name modules or parameters of CifarResNet"),
        (
            Forking,
            {},
            r"cannot find them: .*Set exclude to their names, such as \['stem', 'head'\]",
        ),
    ],
)
def test_a_model_is_refused_by_name(make, options, told):
    model = make()
    with pytest.raises(ValueError, match=told):
        with_muon(SGD(model.parameters()), model, **options)


def test_parameters_of_another_model_are_refused():
    with pytest.raises(ValueError, match="are none of CifarResNet's, of shape"):
        with_muon(SGD(small().parameters()), small())


def test_a_second_muon_is_refused():
    model = small()
    with pytest.raises(ValueError, match="has Muon already"):
        with_muon(both_of(model), model)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lr": 0.0}, "Muon.lr must be > 0 and finite, got 0.0"),
        ({"momentum": 1.0}, "Muon.momentum must be >= 0 and < 1, got 1.0"),
        ({"weight_decay": -1.0}, "Muon.weight_decay must be >= 0 and finite"),
        ({"weight_decay": 0.1, "normalize": True}, "Muon.weight_decay must be 0 where normalize"),
        ({"steps": 0}, "Muon.steps must be from 1 to 99, got 0"),
        ({"coefficients": (1.0, 2.0)}, "Muon.coefficients must be three finite numbers"),
        ({"scale": "rms"}, "Muon.scale must be one of original, match_rms_adamw, spectral_uncl"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Muon(**options)
