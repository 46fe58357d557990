"""Anti-aliasing: which layers are places, and where their hooks stand."""

import threading

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from tests.tricks.anti_aliasing import Shared, noise, same, seeded
from tricks import BlurPool2d, Place, anti_alias, find_places


def test_all_convolutions_that_read_the_image_are_first():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Conv2d(3, 4, 3, 2, padding=1), nn.Conv2d(3, 4, 1, 2)
            self.next = nn.Conv2d(4, 4, 1, 2)

        def forward(self, x):
            return self.next(self.wide(x) + self.narrow(x))

    assert [place.layer for place in find_places(Net())] == ["next"]
    assert len(find_places(Net(), first=True)) == 3


def test_the_first_convolution_is_changed_only_on_demand():
    model = seeded(torchvision.models.resnet18).eval()
    assert find_places(model)[0].layer == "maxpool"
    assert find_places(model, first=True)[0] == Place(
        "conv1", "convolution", (2, 2), "after", ("relu",)
    )
    assert anti_alias(model).conv1.stride == (2, 2)


def test_an_average_pool_at_the_end_is_no_place():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)
            self.mean = nn.AvgPool2d(4)

        def forward(self, x):
            x = self.pool(self.conv(x))
            return self.mean(x).flatten(1) + F.avg_pool2d(x, 4).view(x.size(0), -1)

    assert [place.layer for place in find_places(Net())] == ["pool"]

    class InTheMiddleToo(Net):
        def forward(self, x):
            return self.mean(self.mean(self.conv(x))).flatten(1)

    assert [place.layer for place in find_places(InTheMiddleToo())] == ["mean"]


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), F.relu, torch.tanh])
def test_an_activation_that_is_shared_or_a_function_is_blurred_at_its_consumers(activation):
    model, x = seeded(Shared, activation=activation).double(), noise(2, 3, 12, 9)
    weight, bias = model.conv1.weight, model.conv1.bias
    y = BlurPool2d(8)(activation(F.conv2d(model.stem(x), weight, bias, padding=1)))
    expected = activation(model.conv2(y) + model.conv3(y))
    assert find_places(model) == [
        Place("conv1", "convolution", (2, 2), "before", ("conv2", "conv3"))
    ]
    same(anti_alias(model)(x), expected)


def test_an_activation_called_once_is_blurred_once_for_all_its_consumers():
    class Net(Shared):
        def forward(self, x):
            y = self.relu(self.conv1(self.stem(x)))
            return torch.cat([y, y * y.mean((2, 3), keepdim=True)], 1)

    assert find_places(Net(nn.ReLU())) == [
        Place("conv1", "convolution", (2, 2), "after", ("relu",))
    ]


def test_a_convolution_whose_result_goes_two_ways_is_blurred_before():
    class Net(Shared):
        def forward(self, x):
            y = self.conv1(self.stem(x))
            return self.conv2(self.relu(y)) + self.conv3(y)

    assert find_places(Net(nn.ReLU())) == [Place("conv1", "linear", (2, 2), "before", ("conv1",))]


def test_a_convolution_called_twice_is_blurred_before_if_one_call_has_no_activation():
    class Net(Shared):
        def forward(self, x):
            x = self.stem(x)
            return self.conv2(self.relu(self.conv1(x))) + self.conv3(self.conv1(x))

    assert find_places(Net(nn.ReLU())) == [Place("conv1", "linear", (2, 2), "before", ("conv1",))]


def test_to_ask_for_a_maps_dimensions_is_not_to_use_it():
    class Net(Shared):
        def forward(self, x):
            y = self.conv1(self.stem(x))
            torch._assert(y.ndim == 4, "a map")
            return self.relu(y)

    assert [p.kind for p in find_places(Net(nn.ReLU()))] == ["convolution"]


def test_a_pool_called_twice_is_blurred_twice():
    conv, pool = nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)
    x = noise(2, 3, 19, 19)
    y = anti_alias(nn.Sequential(conv, pool, nn.Conv2d(8, 4, 3), pool).double())
    half = BlurPool2d(8)(F.max_pool2d(conv(x), 2, 1))
    same(y(x), BlurPool2d(4)(F.max_pool2d(y[2](half), 2, 1)))


def test_a_subclass_that_computes_as_its_base_is_a_place_too():
    class Convolution(nn.Conv2d):
        pass

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Convolution(4, 4, 3, 2), nn.ReLU())
    assert find_places(model) == [Place("1", "convolution", (2, 2), "after", ("2",))]


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class SamePadded(nn.Conv2d):
    def forward(self, x):
        rows = -(-x.shape[2] // self.stride[0])
        missing = max((rows - 1) * self.stride[0] + 3 - x.shape[2], 0)
        return super().forward(F.pad(x, (0, 1, 0, missing)))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, stride=2)


@pytest.mark.parametrize("stem", [Standardized(3, 4, 3, 2), SamePadded(3, 4, 3, 2), Functional()])
def test_a_first_convolution_with_its_own_forward_is_left_alone(stem):
    model = nn.Sequential(nn.Sequential(stem), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU())
    assert [place.layer for place in find_places(model)] == ["2"]


def test_a_convolution_that_standardizes_its_weight_is_a_place_and_one_that_pads_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Standardized(4, 4, 3, 2), nn.ReLU()).double()
    x = noise(2, 3, 12, 15)
    dense = nn.Sequential(*model)
    plain = model(x)
    same(anti_alias(nn.Sequential(*dense), 1)(x), plain)
    model[1] = SamePadded(4, 4, 3, 2)
    with pytest.raises(
        ValueError, match=r"Sequential\.1 is a SamePadded with a forward of its own"
    ):
        find_places(model)


class Slices(nn.Module):
    """A convolution, a function that takes its map apart, a pool."""

    def __init__(self, function):
        super().__init__()
        self.function, self.conv, self.pool = function, nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(self.function(self.conv(x)))


def space_to_depth(x):
    rows = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
    return torch.cat(rows, 1)


def rotated(x):
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


def coded(x):
    angles = torch.arange(x.shape[3]) / 10 ** torch.arange(4)[:, None]
    return x + (angles * x.shape[2])[None, :, None, ::2].repeat_interleave(2, 3)


@pytest.mark.parametrize("function", [space_to_depth, rotated, coded])
def test_slices_that_leave_no_pixel_of_the_map_out_are_no_downsampling(function):
    assert [place.layer for place in find_places(Slices(function))] == ["pool"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[..., ::2, ::2],
        lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1),  # a half of the pixels
        lambda x: torch.cat([x[..., ::3], x[..., 1::3]], 1),
        lambda x: torch.cat([x[..., ::2], x[..., 1:9:2]], 1),
    ],
)
def test_slices_that_leave_pixels_out_are_refused(function):
    with pytest.raises(ValueError, match="got a slice with a step"):
        find_places(Slices(function))


def test_layers_of_lines_and_windows_that_leave_nothing_out_are_no_places():
    class Tokens(Slices):
        def __init__(self, layer):
            super().__init__(layer)

        def forward(self, x):
            x = self.pool(self.conv(x))
            return self.function(x.flatten(2) if "1d" in type(self.function).__name__ else x)

    for layer in (nn.AvgPool1d(2), nn.MaxPool1d(3), nn.Conv1d(4, 4, 2, 2), nn.Unfold(3, stride=2)):
        assert [place.layer for place in find_places(Tokens(layer))] == ["pool"]
    with pytest.raises(ValueError, match=r"Tokens\.function must be a Conv2d.* got a Unfold"):
        find_places(Tokens(nn.Unfold(1, stride=2)))


def test_of_a_model_that_cannot_be_read_the_parts_that_can_be_are_named():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    torch.manual_seed(0)
    stem, last = (nn.Sequential(nn.Conv2d(3, 3, 3), nn.MaxPool2d(2)) for _ in range(2))
    model = nn.Sequential(nn.ModuleDict({"body": stem}), Branches(), last)
    with pytest.raises(ValueError, match="cannot be traced") as refusal:
        anti_alias(model)
    calls = str(refusal.value).rpartition("only what can be: ")[2].removesuffix(".").split("; ")
    assert calls == ["anti_alias(model[0].body)", "anti_alias(model[2], first=True)"]
    for call in calls:
        eval(call, {"anti_alias": anti_alias, "model": model})
    assert stem[1].stride == last[1].stride == (1, 1)


def test_a_wrapped_model_is_to_be_changed_before_it_is_wrapped():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2))
    with pytest.raises(ValueError, match=r"DataParallel is a DataParallel\. Call anti_alias be"):
        anti_alias(nn.DataParallel(net))
    net.compile(backend="eager")
    with pytest.raises(ValueError, match=r"Write torch\.compile\(anti_alias\(model\)\)"):
        anti_alias(net)


def test_the_hooks_of_others_are_never_traced_nor_copied_and_see_maps_of_the_plain_sizes():
    def recorded():
        model = nn.Sequential(Shared(F.relu), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))).double()
        calls, lock = [], threading.Lock()  # a lock cannot be copied

        def note(module, inputs, output=None):
            with lock:
                seen = inputs[0] if output is None else output
                float(seen.detach().max())  # cannot be traced
                calls.append((type(module).__name__, output is None, *seen.shape))

        for module in model.modules():
            module.register_forward_hook(note)
            module.register_forward_pre_hook(note)
            module.register_full_backward_hook(lambda *_: calls.append("backward"))
        return model, calls

    (plain, expected), (model, calls) = recorded(), recorded()
    everywhere = nn.modules.module.register_module_forward_hook(
        lambda *call: float(call[2].detach().sum())
    )
    anti_alias(model)
    everywhere.remove()
    assert calls == []
    for net in (plain, model):
        net(noise(2, 3, 12, 16).requires_grad_()).sum().backward()
    different = [pair for pair in zip(expected, calls, strict=True) if pair[0] != pair[1]]
    assert different == [(("Conv2d", False, 2, 8, 6, 8), ("Conv2d", False, 2, 8, 12, 16))]


def test_a_hook_of_others_gets_the_blurred_map_whenever_it_was_registered():
    model, seen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), []
    model[1].register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    anti_alias(model)
    model[1].register_forward_hook(
        lambda _m, _a, _k, output: seen.append(output.shape), with_kwargs=True
    )
    output = model(torch.ones(1, 3, 10, 10))
    assert seen == [output.shape] * 2
