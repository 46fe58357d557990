"""The classifier of a model, found in its graph; and layers and parameters by name."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.tricks.clipping import clip
from tricks import Centralization, Chain, Clipping, anti_alias, centralize_, find_classifier


class Body(nn.Module):
    """What the networks here share: features [N, 8], by way of a gate."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 5)  # defined first
        self.conv, self.gate = nn.Conv2d(3, 8, 3), nn.Linear(8, 8)

    def features(self, x):
        x = self.conv(x).relu().mean((2, 3))
        return x * self.gate(x).sigmoid()

    def forward(self, x):
        return self.head(self.features(x))


class ConvolutionalHead(Body):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.head(self.features(x)[..., None, None]).mean((2, 3))


class TwoHeads(Body):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(8, 5)

    def forward(self, x):
        x = self.features(x)
        both = self.head(x), self.second(x.tanh())
        return both if self.training else sum(both) / 2


class OneOfThree(TwoHeads):
    def forward(self, x):
        features = self.features(x)
        return {"features": features, "logits": self.head(features), "shape": x}


class FeaturesToo(Body):
    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return x, self.head(x)


class Functional(Body):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(5, 8)), nn.Parameter(torch.rand(5))

    def forward(self, x):
        return F.linear(self.features(x), self.weight, self.bias)


class Cosine(Functional):
    def forward(self, x):
        return 9 * F.linear(F.normalize(self.features(x)), F.normalize(self.weight))


class ScaledAndShifted(Body):
    def __init__(self):
        super().__init__()
        self.norm, self.scale = nn.BatchNorm1d(5), nn.Parameter(torch.ones(5, 1))

    def forward(self, x):
        return (self.norm(self.head(self.features(x))).T * self.scale).T


class Upsampled(Body):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(5, 5, 2, groups=5)

    def forward(self, x):
        return self.up(super().forward(x)[..., None, None])


class OwnLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight - self.weight.mean(), self.bias)


class OwnHead(Body):
    def __init__(self):
        super().__init__()
        self.head = OwnLinear(8, 5)


class Normalized(Body):
    def __init__(self):
        super().__init__()
        self.head = parametrizations.weight_norm(self.head)


CASES = {
    Body: ("head",), ConvolutionalHead: ("head",), TwoHeads: ("head", "second"),
    OneOfThree: ("head",),
    FeaturesToo: ("head",), Functional: ("bias", "weight"), Cosine: ("weight",),
    ScaledAndShifted: ("head",), Upsampled: ("up",), OwnHead: ("head",), Normalized: ("head",),
}  # fmt: skip


def clipped(model, trick=None):
    """The names of the parameters whose gradients clipping by unit makes smaller."""
    trick = trick or Clipping(by="unit")
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)
    clip(trick, list(model.parameters()), model)
    return {name for name, p in model.named_parameters() if not (p.grad == 9.0).all()}


@pytest.mark.parametrize("kind", CASES)
def test_the_classifier_is_the_layer_that_is_last_in_the_computation(kind):
    model = kind()
    names = CASES[kind]
    for mode in (True, False):
        assert find_classifier(model.train(mode)) == names
    inside = {n for n, _ in model.named_parameters() if n.startswith(names)}
    assert inside
    assert clipped(model) == {n for n, _ in model.named_parameters()} - inside


@pytest.mark.parametrize(
    ("library", "name", "names"),
    [
        ("torchvision", "squeezenet1_1", ("classifier.1",)),
        ("torchvision", "mobilenet_v3_small", ("classifier.3",)),
        ("torchvision", "vit_b_16", ("heads.head",)),
        ("torchvision", "lraspp_mobilenet_v3_large",
         ("classifier.high_classifier", "classifier.low_classifier")),
        ("timm", "deit_tiny_distilled_patch16_224", ("head", "head_dist")),
        ("timm", "dla34", ("fc",)),
        ("timm", "resnetv2_18", ("head.fc",)),
    ],
)  # fmt: skip
def test_the_classifier_of_networks_of_others(library, name, names):
    reason = f"{library} is not installed: its models are skipped"
    models = pytest.importorskip(f"{library}.models", reason=reason)
    with torch.device("meta"):
        build = models.get_model if library == "torchvision" else models.create_model
        options = {"weights_backbone": None} if "lraspp" in name else {}
        assert find_classifier(build(name, **options)) == names


def test_the_model_and_the_random_numbers_stay_as_they_are():
    class Keeps(Body):
        def forward(self, x):
            self.kept = x = x + torch.rand(1)
            return super().forward(x)

    calls = []
    model = nn.Sequential(nn.Sequential(Keeps()))
    model[0].register_forward_hook(lambda *given: calls.append(given))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    before = [dict(vars(module)) for module in model.modules()]
    assert find_classifier(model) == ("0.0.head",)
    assert torch.equal(torch.rand(1), expected)
    assert [dict(vars(module)) for module in model.modules()] == before
    assert calls == []


def test_where_nothing_is_trained_there_is_no_classifier():
    for model in (nn.Identity(), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())):
        assert find_classifier(model) == ()
        trick = Clipping(by="unit")
        trick.model(model)
        assert trick.caveats(1, 1) == [
            "no layer is excluded as the classifier; exclude=[...] names others."
        ]


class Untraceable(Body):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


def headless():
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    return model


UNKNOWN = {
    "control flow": (Untraceable, "Untraceable cannot be traced by torch.fx, TraceError", "gate"),
    "features": (headless, "ResNet does not end in a linear layer", r"layer4\.1\.conv2"),
    "recurrent": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 4)), "does not end in", "0"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_where_the_classifier_cannot_be_known_its_name_is_asked_for(case):
    make, reason, last = UNKNOWN[case]
    model = make()
    with pytest.raises(ValueError, match=reason):
        find_classifier(model)
    message = rf"cannot find it: .*{reason}.* exclude to its name, such as \['{last}'\], or to \[\]"
    for act in (Clipping(by="unit").model, clipped):
        with pytest.raises(ValueError, match=message):
            act(model)
    everything = {name for name, _ in model.named_parameters()}
    assert clipped(model, Clipping(by="unit", exclude=())) == everything
    assert Clipping().model(model) is model


def test_exclude_names_what_is_left_alone_in_place_of_the_classifier():
    model = Body()
    everything = {name for name, _ in model.named_parameters()}
    trick = Clipping(by="unit", exclude=("gate", "conv.bias"))
    assert clipped(model, trick) == everything - {"gate.weight", "gate.bias", "conv.bias"}
    assert trick.caveats(1, 1) == []
    with pytest.raises(ValueError, match=r"exclude must name modules .* of Body, got 'fc'"):
        Clipping(by="unit", exclude=("fc",)).model(model)
    with pytest.raises(ValueError, match=r"got 'fc'\. Write \('fc',\)"):
        Clipping(by="unit", exclude="fc").model(model)
    with pytest.raises(ValueError, match=r"exclude must stay None where by=norm"):
        Clipping(exclude=("fc",))


def test_what_was_left_out_is_told():
    trick = Clipping(by="unit")
    chain = Chain(Centralization(), trick)
    assert chain.caveats(1, 1) == []
    chain.model(TwoHeads())
    told = "clipping: head, second is excluded as the classifier; exclude=[...] names others."
    assert chain.caveats(1, 1) == [told]


def test_a_compiled_or_parallel_or_copied_model_has_the_same_classifier():
    model, trick = Body(), Clipping(by="unit", exclude=("gate",))
    for wrapped in (
        torch.compile(model),
        nn.DataParallel(model),
        torch.compile(nn.DataParallel(model)),
    ):
        assert find_classifier(wrapped) == ("head",)
        clipped(wrapped, trick)
        assert (model.gate.weight.grad == 9.0).all()
        assert (model.head.weight.grad < 9.0).all()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 9.0)
        Centralization("gradient", exclude=("conv",)).gradients(wrapped, None, torch.tensor(1.0))
        assert (model.conv.weight.grad == 9.0).all()
        assert (model.gate.weight.grad == 0.0).all()
    trick = Clipping(by="unit")
    trick.model(model)
    for again in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other, same = again((model, trick))
        assert "head.weight" not in clipped(other, same)


def test_an_anti_aliased_model_keeps_its_classifier():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU(),
                          nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1))  # fmt: skip
    assert find_classifier(anti_alias(model)) == ("4",)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.:FutureWarning", "ignore:.*torch.jit.:DeprecationWarning"
)
def test_a_scripted_model_asks_for_the_name_and_takes_it():
    model = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 5)))
    with pytest.raises(ValueError, match="cannot find it"):
        clipped(model)
    assert clipped(model, Clipping(by="unit", exclude=("2",))) == {"0.weight", "0.bias"}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)
    centralize_(model, exclude=("2",))
    assert (model[2].weight.grad == 9.0).all()
