"""Networks: ResNets for small images, any model of torchvision or timm by name; saved weights.

Every function takes the number of input channels and of classes, which come from the data set.
torchvision and timm are imported where they are used, because that takes seconds.
"""

import pickle
import warnings
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import UserError, did_you_mean
from runner.store.files import Damaged, read_bytes
from runner.texts import listed, tell

MAX_WEIGHTS = 10**9  # of a ResNet: four gigabytes, and as much again for the optimizer


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, channels, H / stride, W / stride]."""
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """A convolution, three stages of blocks, global average pooling, a linear classifier."""

    def __init__(self, blocks: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = _stage(blocks, width, width, stride=1)
        self.stage2 = _stage(blocks, width, 2 * width, stride=2)
        self.stage3 = _stage(blocks, 2 * width, 4 * width, stride=2)
        self.classifier = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to logits [N, classes]."""
        x = self.relu(self.norm(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = Block(in_channels, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(blocks - 1)))


def cifar_resnet(*, depth: int, width: int = 16, channels: int, classes: int) -> nn.Module:
    """Build a ResNet for small images: three stages of `width`, 2 `width` and 4 `width` channels.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2,
    https://arxiv.org/abs/1512.03385, with their initialisation (normal, by the fan out).

    Differs from the paper where a shortcut changes shape: here it is a strided 1x1 convolution with
    batch norm (their option B), 1 % more parameters. Their CIFAR networks subsample by slicing and
    pad with zero channels (option A), which is aliasing in its purest form and leaves anti-aliasing
    no layer to act on.

    Args:
        depth: Layers with weights, 6n + 2 for n blocks per stage; shortcuts do not count.
        width: Channels of the first stage.
        channels: Channels of the images, of any size; 8x8 ends at 2x2, 32x32 at 8x8.
        classes: Number of classes.

    Raises:
        UserError: If there is no network of that depth or width, or it is too large.

    >>> model = cifar_resnet(depth=8, channels=1, classes=10)
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        near = 6 * max(blocks, 1) + 2
        raise UserError(
            f"model.depth must be 6n + 2 (8, 14, 20, ...), got {depth}. Use {near} or {near + 6}."
        )
    if width < 1:
        raise UserError(f"model.width must be >= 1 (channels), got {width}. The paper uses 16.")
    if (weights := 18 * (1 + 4 + 16) * blocks * width**2) > MAX_WEIGHTS:
        raise UserError(
            f"model.depth={depth} and model.width={width} make about {weights:.0e} weights, more "
            f"than {MAX_WEIGHTS:.0e}. Lower one of them."
        )
    return CifarResNet(blocks, width, channels, classes)


def resnet18_cifar(*, channels: int, classes: int) -> nn.Module:
    """Build torchvision's ResNet-18 with a stem for small images: 3x3, stride 1, no max-pool.

    He et al., https://arxiv.org/abs/1512.03385, built it for ImageNet, where the stem divides the
    size by four; this stem is common usage for CIFAR (11.2 million parameters at 10 classes).

    Args:
        channels: Channels of the images.
        classes: Number of classes.
    """
    from torchvision.models import resnet18

    model: nn.Module = resnet18(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def torchvision_model(*, name: str, channels: int, classes: int) -> nn.Module:
    """Build any classification model of torchvision, with random weights.

    Unless there are three channels, the first convolution is replaced by one with the same settings
    and the same standard deviation of its weights. Auxiliary classifiers (GoogLeNet, Inception v3)
    are switched off. Some models need a fixed or a minimal image size; see
    https://docs.pytorch.org/vision/stable/models.html.

    Args:
        name: Name of the model in torchvision.
        channels: Channels of the images.
        classes: Number of classes.

    Raises:
        UserError: If torchvision has no such model.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        listing = "torchvision.models.list_models(module=torchvision.models)"
        raise UserError(_unknown_model("torchvision", name, names, listing))
    extra = name in ("googlenet", "inception_v3")  # outputs in training
    options = {"aux_logits": False, "init_weights": True} if extra else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    if channels != 3:
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        weights = torch.randn(len(first.weight), channels, *first.kernel_size)
        first.in_channels, std = channels, first.weight.std().item()
        first.weight = nn.Parameter(std * weights)
    return model


def timm_model(*, name: str, channels: int, classes: int) -> nn.Module:
    """Build any model of timm, with random weights: https://huggingface.co/docs/timm/models.

    Args:
        name: Name of the model in timm.
        channels: Channels of the images.
        classes: Number of classes.

    Raises:
        UserError: If timm is not installed, or has no such model.
    """
    try:
        import timm
    except ImportError:
        raise UserError(
            f"model.name={name} needs timm, which is not installed. "
            "Run pip install 'biscuits-bench[timm]'."
        ) from None
    if not timm.is_model(name):
        raise UserError(_unknown_model("timm", name, timm.list_models(), "timm.list_models()"))
    return timm.create_model(name, in_chans=channels, num_classes=classes)


def _unknown_model(library: str, name: str, names: Iterable[str], listing: str) -> str:
    return (
        f"model.name: {library} has no classification model {name}.{did_you_mean(name, names)} "
        f"List them with {listing}."
    )


def load_weights(model: nn.Module, file: str) -> None:
    """Load all weights of a model from a file; if any does not fit, none is loaded.

    The file is what `torch.save(model.state_dict(), file)` writes, or a dictionary that holds such
    a one under "model". Nothing in it is executed.

    Raises:
        UserError: If the file is missing or damaged, holds more than tensors and plain values, or
            belongs to another model.
    """
    state = _read_state(Path(file))
    own = model.state_dict()
    shapes = ((key, _shape(state[key]), _shape(own[key])) for key in own if key in state)
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [str(key) for key in state if key not in own],
        "of wrong shape": [f"{key} {a} instead of {b}" for key, a, b in shapes if a != b],
    }
    if any(problems.values()):
        found = "; ".join(f"{what}: {listed(keys, 5)}" for what, keys in problems.items() if keys)
        raise UserError(
            f"model.weights: {tell(file)} does not fit the {type(model).__name__}; {found}. "
            "Choose the model that was saved."
        )
    model.load_state_dict(state)


def _read_state(file: Path) -> Mapping[str, Any]:
    """Read the names and tensors in a file."""
    data = b""
    try:
        data = read_bytes(file, most=2**34, follow=True)
        with warnings.catch_warnings(action="ignore"):  # about formats that are refused below
            content = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        state = content.get("model", content) if isinstance(content, Mapping) else content
        if isinstance(state, Mapping):
            return state
        problem = f"holds a {type(state).__name__}, not a dictionary of tensors"
    except Damaged as error:
        problem = str(error)
    except FileNotFoundError:
        problem = "does not exist"
    except Exception as error:  # torch raises many types for damaged files
        is_pickle = data.startswith((b"PK", b"\x80"))  # in a zip archive, or by itself
        problem = "is damaged, or not a file of torch.save"
        if is_pickle and isinstance(error, pickle.UnpicklingError):
            problem = "holds more than tensors, and loading that could run any code"
    expected = "Expected a file written by torch.save(model.state_dict(), file)."
    raise UserError(f"model.weights: {tell(file)} {problem}. {expected}")


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
