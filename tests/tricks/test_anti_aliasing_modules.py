"""An anti-aliased model is an ordinary module: checkpoints, copies, compilers, precisions."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from runner.models import cifar_resnet
from tests.tricks.anti_aliasing import after_stem, noise, same, seeded, small_resnet
from tricks import anti_alias


def test_parameters_and_keys_stay_and_checkpoints_fit_both_ways():
    plain, x = small_resnet(), noise(2, 3, 16, 16)
    parameters, keys = list(plain.parameters()), list(plain.state_dict())
    blurred = copy.deepcopy(plain)
    assert anti_alias(plain) is plain
    assert all(one is other for one, other in zip(plain.parameters(), parameters, strict=True))
    assert list(plain.state_dict()) == keys
    other = seeded(cifar_resnet, depth=8, width=4, channels=3, classes=5).double().eval()
    other.load_state_dict(plain.state_dict())
    same(other(x), blurred(x))
    anti_alias(blurred).load_state_dict(other.state_dict())
    same(blurred(x), plain(x))
    assert not torch.allclose(blurred(x), other(x))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_anti_aliased_too(again):
    model, x = anti_alias(small_resnet()), noise(2, 3, 16, 16)
    assert again(model)(x).equal(model(x))


def test_precision_and_memory_format_are_those_of_the_model():
    model, x = anti_alias(small_resnet()), noise(2, 3, 40, 40)
    y = model(x)
    model.to(memory_format=torch.channels_last)
    same(model(x.contiguous(memory_format=torch.channels_last)), y)
    assert model.float()(x.float()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(x.float()).double(), y, rtol=0.1, atol=0.1)


def test_to_read_the_graph_leaves_the_model_and_the_random_numbers_alone():
    class Drawing(nn.Module):
        def forward(self, x):
            self.seen = True
            return x * torch.rand(())

    model = nn.Sequential(Drawing(), *small_resnet().train().children())[:4]
    model.append(nn.MaxPool2d(2))
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    anti_alias(model)
    assert torch.get_rng_state().equal(state)
    assert all(module.training for module in model.modules())
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert not hasattr(model[0], "seen")


def test_a_compiled_model_gives_the_same_in_one_graph_also_its_gradients():
    model, x = anti_alias(small_resnet()), noise(2, 3, 16, 16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    (one,), (other,) = (torch.autograd.grad(m(y).sum(), y) for m, y in leaves(model, compiled, x))
    same(one, other)


def leaves(model, compiled, x):
    return (model, x.clone().requires_grad_()), (compiled, x.clone().requires_grad_())


@pytest.mark.slow
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_network_compiled_to_machine_code_trains_alike(memory_format):
    model = anti_alias(small_resnet().train()).to(memory_format=memory_format)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=False)
    for size in (16, 20):
        x = noise(4, 3, size, size).contiguous(memory_format=memory_format)
        model(x).logsumexp(1).sum().backward()
        compiled(x).logsumexp(1).sum().backward()
    for one, other in zip(model.parameters(), compiled.parameters(), strict=True):
        same(one.grad, other.grad, 1e-9)


def test_a_compiled_model_with_a_small_map_gives_the_same_without_a_warning():
    model, x = anti_alias(small_resnet()), noise(2, 3, 4, 4)
    y = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    with warnings.catch_warnings(record=True, action="always") as caught:
        same(y, model(x))
    assert any("stage3.0.conv1 is 2x2" in str(warning.message) for warning in caught)


def test_an_exported_program_gives_the_same_for_any_number_of_images():
    model, count = anti_alias(small_resnet()), torch.export.Dim("count", min=2, max=64)
    program = torch.export.export(model, (noise(2, 3, 16, 20),), dynamic_shapes=({0: count},))
    x = noise(5, 3, 16, 20)
    same(program.module()(x), model(x))
    assert program.state_dict.keys() == model.state_dict().keys()


def two_places():
    """A pool and a convolution; on small images their maps are multiplied in another order."""
    layers = nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(4, 4, 3, 2), nn.ReLU()
    return anti_alias(after_stem(*layers).double().eval(), 3)


SIZES = [(64, 96), (71, 130), (96, 96), (20, 22)]


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_exported_program_gives_the_same_for_any_height_and_width(strict):
    model = anti_alias(after_stem(nn.MaxPool2d(2)).double())  # each further place takes seconds
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    program = torch.export.export(
        model, (noise(2, 3, 96, 96),), dynamic_shapes=(free,), strict=strict
    ).module()
    for count, size in enumerate(SIZES):
        x = noise(2 + count, 3, *size)
        same(program(x), model(x))


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_a_traced_model_gives_the_same_at_other_sizes_and_warns_of_no_branch():
    model = two_places()
    traced = torch.jit.trace(model, noise(1, 3, 96, 96))
    assert "aten::kron" not in str(traced.inlined_graph)  # which ONNX has not
    for size in SIZES:
        same(traced(noise(2, 3, *size)), model(noise(2, 3, *size)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_blur_takes_the_maps_in_their_own_type(dtype):
    model, x = anti_alias(small_resnet().float()), noise(2, 3, 16, 16).float()
    seen = []
    model.stage2[0].conv2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=dtype):
        y = model(x)
    assert seen == [dtype]
    torch.testing.assert_close(y.float(), model(x), rtol=0.1, atol=0.1)
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
