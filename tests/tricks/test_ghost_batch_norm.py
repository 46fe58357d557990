"""Ghost batch norm: parts and statistics by hand, plain batch norm where it must be, refusals."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from runner.models import cifar_resnet
from tricks import Batch, GhostBatchNorm, Time, anti_alias, find_classifier, ghost_batch_norm
from tricks.downsampling import find_places

KINDS = {"line": (nn.BatchNorm1d, ()), "lines": (nn.BatchNorm1d, (5,))}
KINDS |= {"map": (nn.BatchNorm2d, (3, 4)), "volume": (nn.BatchNorm3d, (2, 3, 2))}


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1


def norm_with(kind, **options):
    """A batch norm of three channels, with weights and statistics not those of its birth."""
    norm = kind(3, **options).double()
    with torch.no_grad():
        for number, tensor in enumerate(norm.state_dict().values()):
            if tensor.is_floating_point():
                tensor.copy_(torch.linspace(1, 2, 3) + number)
    return norm


def moments(part):
    over = [d for d in range(part.ndim) if d != 1]
    return part.mean(over, keepdim=True), part.var(over, keepdim=True, correction=0)


@pytest.mark.parametrize("name", KINDS)
def test_each_part_is_normalised_by_its_own_moments_and_the_statistics_move_by_their_mean(name):
    kind, shape = KINDS[name]
    norm, x = norm_with(kind, momentum=0.3), noise(11, 3, *shape)
    before = copy.deepcopy(norm)
    y = ghost_batch_norm(norm, 4)(x)
    channels = (-1, *([1] * len(shape)))
    mean, var = 0.7 * before.running_mean, 0.7 * before.running_var
    for part, out in zip(x.split([3, 4, 4]), y.split([3, 4, 4]), strict=True):
        m, v = moments(part)
        scale, shift = before.weight.view(channels), before.bias.view(channels)
        torch.testing.assert_close(out, (part - m) / (v + norm.eps).sqrt() * scale + shift)
        numbers = part.numel() / 3
        mean += 0.3 * len(part) / 11 * m.flatten()
        var += 0.3 * len(part) / 11 * v.flatten() * numbers / (numbers - 1)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.num_batches_tracked == before.num_batches_tracked + 1


@pytest.mark.parametrize(
    ("size", "samples", "sizes"),
    [
        (4, 8, [4, 4]),
        (4, 9, [3, 3, 3]),
        (4, 10, [3, 3, 4]),
        (2, 5, [1, 2, 2]),
        (32, 33, [16, 17]),
        (7, 50, [6, 6, 6, 6, 6, 6, 7, 7]),
    ],
)
def test_no_part_is_larger_than_the_size_and_none_much_smaller_than_another(size, samples, sizes):
    norm = ghost_batch_norm(nn.BatchNorm2d(3), size)
    assert norm._parts(torch.ones(samples, 3, 2, 1)) == sizes


@pytest.mark.parametrize("samples", [2, 3, 5, 7])
def test_no_part_has_a_single_value_of_a_channel(samples):
    norm = ghost_batch_norm(nn.BatchNorm1d(3).double(), 2)
    sizes = norm._parts(torch.ones(samples, 3))
    assert sum(sizes) == samples
    assert min(sizes) >= 2
    assert norm(noise(samples, 3)).abs().max() > 0.1  # torch refuses a single value
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(noise(1, 3))


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}])
def test_one_part_is_plain_batch_norm_to_the_bit_and_so_is_an_evaluation(options):
    plain = norm_with(nn.BatchNorm2d, **options)
    ghosts = ghost_batch_norm(copy.deepcopy(plain), 6)
    for samples, train in ((6, True), (5, True), (20, False)):
        results = []
        for norm in (plain.train(train), ghosts.train(train)):
            x = noise(samples, 3, 2, 2).requires_grad_()
            norm(x).square().sum().backward()
            results.append((x.grad, *norm.state_dict().values()))
        assert all(map(torch.equal, *results))


@pytest.mark.parametrize("momentum", [None, 1.0, 0.1, 0.0])
def test_the_running_mean_is_that_of_plain_batch_norm(momentum):
    plain = norm_with(nn.BatchNorm2d, momentum=momentum)
    ghosts = ghost_batch_norm(copy.deepcopy(plain), 4)
    for seed in range(3):
        for norm in (plain, ghosts):
            norm(noise(10, 3, 2, 2, seed=seed))
    torch.testing.assert_close(ghosts.running_mean, plain.running_mean)
    assert ghosts.num_batches_tracked == plain.num_batches_tracked
    assert ghosts.momentum == momentum


def test_the_order_of_the_parts_does_not_matter_where_composers_running_statistics_depend_on_it():
    x = noise(12, 3, 2, 2)
    backwards = torch.cat(x.split(4)[::-1])

    def scaled_momentum(norm, x):  # each part once, with the momentum by their number
        norm.momentum /= 3
        for part in x.split(4):
            norm(part)

    found = {"ours": [], "composer's": []}
    for batch in (x, backwards):
        norm = nn.BatchNorm2d(3, momentum=0.9).double()
        ghost_batch_norm(norm, 4)(batch)
        found["ours"].append(norm.running_mean)
        norm = nn.BatchNorm2d(3, momentum=0.9).double()
        scaled_momentum(norm, batch)
        found["composer's"].append(norm.running_mean)
    torch.testing.assert_close(*found["ours"])
    assert (found["composer's"][0] - found["composer's"][1]).abs().max() > 0.01


def test_a_running_variance_is_right_for_the_population():
    norm = ghost_batch_norm(nn.BatchNorm1d(3, momentum=None).double(), 2)
    for seed in range(20):
        norm(noise(80, 3, seed=seed))
    torch.testing.assert_close(norm.running_var, torch.full((3,), 9.0).double(), rtol=0.2, atol=0)


def test_a_sample_depends_on_those_of_its_part_alone():
    norm, x = ghost_batch_norm(norm_with(nn.BatchNorm2d), 4), noise(12, 3, 2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(norm(x)[4:8].pow(3).sum(), x)
    reached = gradient.flatten(1).abs().amax(1) > 0
    assert reached.tolist() == [False] * 4 + [True] * 4 + [False] * 4


def test_without_running_statistics_the_evaluation_stays_that_of_torch():
    plain = norm_with(nn.BatchNorm2d, track_running_stats=False)
    ghosts, x = ghost_batch_norm(copy.deepcopy(plain), 4), noise(8, 3, 2, 2)
    assert not torch.allclose(ghosts(x), plain(x))
    assert torch.equal(ghosts.eval()(x), plain.eval()(x))


class Activated(nn.BatchNorm2d):
    """With a forward of its own, as timm's `BatchNormAct2d` has it."""

    def forward(self, x):
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            self.training, self.momentum, self.eps,
        )  # fmt: skip
        return y.relu_()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, Activated])
def test_a_subclass_and_copies_have_ghosts_too_and_stay_what_they_are(kind, again):
    norm = norm_with(kind)
    parameters, keys = list(norm.parameters()), list(norm.state_dict())
    x, plain = noise(10, 3, 2, 2), copy.deepcopy(norm)
    assert ghost_batch_norm(norm, 5) is norm
    assert isinstance(norm, kind)
    assert all(map(lambda a, b: a is b, norm.parameters(), parameters))
    assert list(norm.state_dict()) == keys
    assert "ghost_size=5" in repr(norm)
    copied = again(norm)
    y = torch.cat([plain(part) for part in x.split(5)])
    assert torch.equal(copied(x), y)
    assert torch.equal(norm(x), y)
    assert torch.equal(copied.running_mean, norm.running_mean)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(plain.eval()(x), norm.eval()(x))


def test_maps_keep_their_memory_format_and_under_autocast_their_type():
    norm, x = ghost_batch_norm(nn.BatchNorm2d(3), 4), noise(9, 3, 4, 4).float()
    y = norm(x)
    z = norm(x.contiguous(memory_format=torch.channels_last))
    assert z.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(z, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), y, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_compiled_it_gives_the_same_in_one_graph_with_its_statistics():
    norm, x = norm_with(nn.BatchNorm2d), noise(9, 3, 2, 2)
    ghosts = ghost_batch_norm(norm, 4)
    compiled = copy.deepcopy(ghosts)
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(run(x), ghosts(x))
    for one, other in zip(compiled.buffers(), ghosts.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    assert compiled.momentum == 0.1


def network():
    torch.manual_seed(0)
    return cifar_resnet(depth=8, width=4, channels=3, classes=5)


def test_what_reads_the_graph_of_a_model_finds_the_norms_that_it_knows():
    model = ghost_batch_norm(network(), 2)
    assert find_classifier(model) == ("classifier",)
    assert find_places(model) == find_places(network())
    anti_alias(model)
    traced = fx.symbolic_trace(model)
    assert isinstance(traced.norm, nn.BatchNorm2d)
    assert traced.norm.ghost_size == 2


def test_recomputed_statistics_are_averages_over_batches():
    batches = [noise(10, 3, 4, 4, seed=seed).float() for seed in range(3)]
    model = ghost_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), 4)
    update_bn(batches, model)
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(model[0].running_mean, mean)


@pytest.mark.slow
def test_a_network_exports_as_the_plain_one():
    model = ghost_batch_norm(network(), 2).eval()
    x = noise(4, 3, 8, 8).float()
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
    assert program.state_dict.keys() == network().state_dict().keys()


REFUSED = {
    "one over ranks": (
        nn.Sequential(nn.BatchNorm2d(3), nn.SyncBatchNorm(3)),
        r"Sequential\.1 is a SyncBatchNorm, .* Use nn\.BatchNorm2d, or drop",
    ),
    "a lazy one": (nn.Sequential(nn.LazyBatchNorm2d()), r"Sequential\.0 is a LazyBatchNorm2d"),
    "none": (nn.Sequential(nn.Conv2d(3, 4, 1)), "found no batch norm in Sequential"),
    "ghosts": (ghost_batch_norm(nn.BatchNorm1d(3)), "BatchNorm1d is a ghost batch norm already"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_is_refused_that_has(reason):
    model, message = REFUSED[reason]
    before = repr(model)
    with pytest.raises(ValueError, match=message):
        ghost_batch_norm(model)
    assert repr(model) == before


@pytest.mark.parametrize("size", [1, 0, -3])
def test_a_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match=rf"GhostBatchNorm\.size must be >= 2 .*got {size}"):
        GhostBatchNorm(size)
    with pytest.raises(ValueError, match="size must be >= 2"):
        ghost_batch_norm(nn.BatchNorm2d(3), size)


def test_the_trick_reports_the_share_of_the_micro_batches_that_were_cut():
    trick, time = GhostBatchNorm(size=4), Time(1, 2, 4)
    model = trick.model(network())
    assert {m.ghost_size for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {4}
    assert trick.report() == {}

    def micro_batches(*sizes):
        for size in sizes:
            batch = Batch(torch.ones(size, 3, 8, 8), torch.zeros(size))
            assert trick.batch(batch, torch.Generator()) is batch

    micro_batches(5, 5, 5, 4)
    trick.weights(model, time)
    assert trick.report() == {"cut_share": 0.75}
    micro_batches(4, 2)
    trick.load_state_dict(trick.state_dict())  # the update is left out
    micro_batches(4, 3)
    trick.weights(model, time)
    assert trick.report() == {"cut_share": 0.0}
    trick.model(network())
    assert trick.report() == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnetv2_18", "regnetx_002", "efficientnet_b0", "levit_128s"])
def test_timms_models_train_with_ghosts(name):
    timm = pytest.importorskip("timm", reason="timm is not installed: its models are skipped")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    plain = copy.deepcopy(model)
    norms = partial(filter, lambda m: isinstance(m, nn.modules.batchnorm._BatchNorm))
    ghost_batch_norm(model, 2)
    x = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model(x).logsumexp(1).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(m.ghost_size == 2 and m.momentum for m in norms(model.modules()))
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), model.eval()(x))
