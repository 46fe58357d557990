"""The networks: ResNets for small images, any of torchvision's or timm's by name; saved weights.

Every function takes the number of input channels and of classes, which the data set gives.
Libraries are imported where they are used: they take seconds.
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

AUXILIARY = ("googlenet", "inception_v3")
"""Torchvision's models with extra outputs in training, which have to be switched off."""

MOST = 10**9
"""Weights of a ResNet of ours: four gigabytes, and as much again for the optimizer."""

MOST_BYTES = 2**34
"""Of a file of weights."""

NAMED_KEYS = 5  # of a checkpoint, in an error of one line


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
    """A convolution, three stages of blocks, the mean over the image, a linear classifier."""

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
    https://arxiv.org/abs/1512.03385, with their initialisation (normal, by the fan out). Where a
    shortcut changes shape, ours is a strided 1x1 convolution with batch norm (their option B), 1 %
    more parameters; their CIFAR networks subsample by slicing and pad with zero channels (option
    A), which is aliasing in its purest form and leaves anti-aliasing no layer to reach.

    Args:
        depth: Layers with weights, 6n + 2 for n blocks in each stage; shortcuts do not count.
        width: Channels of the first stage.
        channels: Channels of the images, of any size; 8x8 ends at 2x2, 32x32 at 8x8.
        classes: Number of classes.

    Raises:
        UserError: If there is no network of that depth or width.

    >>> model = cifar_resnet(depth=8, channels=1, classes=10)
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        near = 6 * max(blocks, 1) + 2
        raise UserError(
            f"model.depth must be 6n + 2 (8, 14, 20, ...), got {depth}. Take {near} or {near + 6}."
        )
    if width < 1:
        raise UserError(f"model.width must be >= 1 (channels), got {width}. The paper has 16.")
    if (weights := 18 * (1 + 4 + 16) * blocks * width**2) > MOST:
        raise UserError(
            f"model.depth and model.width must make at most {MOST:.0e} weights, got {depth} and "
            f"{width}, about {weights:.0e}. Lower one of them."
        )
    return CifarResNet(blocks, width, channels, classes)


def resnet18_cifar(*, channels: int, classes: int) -> nn.Module:
    """Build torchvision's ResNet-18 with a stem for small images: 3x3, stride 1, no max-pool.

    He et al., https://arxiv.org/abs/1512.03385, built it for ImageNet, where the stem divides the
    size by four; the change is common usage for CIFAR (11.2 million parameters at 10 classes).
    """
    from torchvision.models import resnet18

    model: nn.Module = resnet18(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def torchvision_model(*, name: str, channels: int, classes: int) -> nn.Module:
    """Build any classification model of torchvision's, from random weights.

    For other than three channels the first convolution is made anew, with the same settings and
    the same spread of its weights. Auxiliary classifiers (GoogLeNet, Inception v3) are left out.
    Some models need images of one size or of a least size; see
    https://docs.pytorch.org/vision/stable/models.html.

    Raises:
        UserError: If torchvision has no such model.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise UserError(_unknown_model("torchvision", name, names))
    options = {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    if channels != 3:
        _change_channels(model, channels)
    return model


def timm_model(*, name: str, channels: int, classes: int) -> nn.Module:
    """Build any of timm's models, from random weights: https://huggingface.co/docs/timm/models.

    Raises:
        UserError: If timm is not installed, or has no such model.
    """
    try:
        import timm
    except ImportError:
        raise UserError(
            f"model.name={name} must be built by timm, which is not installed. "
            "Run pip install 'biscuits-bench[timm]'."
        ) from None
    if not timm.is_model(name):
        raise UserError(_unknown_model("timm", name, timm.list_models()))
    model: nn.Module = timm.create_model(
        name, pretrained=False, in_chans=channels, num_classes=classes
    )
    return model


def _unknown_model(library: str, name: str, names: Iterable[str]) -> str:
    return (
        f"model.name must be a model of {library}, got {name}.{did_you_mean(name, names)} "
        f"List them with {LISTINGS[library]}."
    )


LISTINGS = {
    "torchvision": "torchvision.models.list_models(module=torchvision.models)",
    "timm": "timm.list_models()",
}


def _change_channels(model: nn.Module, channels: int) -> None:
    """Give the first convolution other input channels; all its other settings stay."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    std = first.weight.std().item()
    first.in_channels = channels
    first.weight = nn.Parameter(std * torch.randn(len(first.weight), channels, *first.kernel_size))


def load_weights(model: nn.Module, file: str) -> None:
    """Start a model from a file of weights: all of them, or none and an error.

    The file is what `torch.save(model.state_dict(), file)` writes, or a checkpoint that holds
    such a dictionary at "model", as a run's own `checkpoint.pt`. Nothing in it is executed.

    Raises:
        UserError: If the file is missing or damaged, holds more than tensors and plain values, or
            is of another model.
    """
    state = _read_state(Path(file))
    own = model.state_dict()
    wrong = [
        f"{key} {_shape(state[key])} instead of {_shape(own[key])}"
        for key in own
        if key in state and _shape(state[key]) != _shape(own[key])
    ]
    problems = [
        _name_some("missing", [key for key in own if key not in state]),
        _name_some("surplus", [str(key) for key in state if key not in own]),
        _name_some("of wrong shape", wrong),
    ]
    if any(problems):
        raise UserError(
            f"model.weights must fit the {type(model).__name__}, got {file}: "
            f"{'; '.join(filter(None, problems))}. Choose the model that was saved."
        )
    model.load_state_dict(state)


def _read_state(file: Path) -> Mapping[str, Any]:
    """Read the names and tensors of a file."""
    try:
        data = read_bytes(file, MOST_BYTES)
    except Damaged as error:
        raise UserError(f"model.weights must be a file, got {file}, which {error}.") from error
    except OSError as error:
        raise UserError(
            f"model.weights must be a file, got {file}: {error.strerror}. Mend the path."
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are refused below
            content = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways
        is_pickle = data.startswith((b"PK", b"\x80"))  # in a zip archive, or by itself
        needs_code = is_pickle and isinstance(error, pickle.UnpicklingError)
        raise UserError(_unreadable(file, needs_code)) from error
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping):
        raise UserError(
            f"model.weights must hold a dictionary of tensors, got {type(state).__name__} "
            f"in {file}. Save model.state_dict() with torch.save."
        )
    return state


def _unreadable(file: Path, needs_code: bool) -> str:
    if needs_code:
        return (
            f"model.weights must hold tensors alone, got {file}, which would have to be "
            "unpickled and so could run any code. Save model.state_dict() with torch.save."
        )
    return (
        f"model.weights must be a whole file of torch.save, got {file}, which cannot be read. "
        "Copy it again, or save model.state_dict() with torch.save."
    )


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _name_some(problem: str, keys: list[str]) -> str:
    if not keys:
        return ""
    rest = len(keys) - NAMED_KEYS
    return f"{problem}: {', '.join(keys[:NAMED_KEYS])}" + (f" and {rest} more" if rest > 0 else "")
