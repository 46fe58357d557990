"""Anti-aliasing: which layers are places, and where their hooks stand."""

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
