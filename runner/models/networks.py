"""Networks: ResNets for small images, any model of torchvision or timm by name.

Every function takes the number of input channels and of classes, which come from the data set.
torchvision and timm are imported where they are used, because that takes seconds.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import UserError, did_you_mean
from runner.models.keywords import (
    TIMM_GIVEN,
    TORCHVISION_GIVEN,
    explained,
    refuse_given,
    refuse_passed_over,
    tupled,
)
from runner.models.pretrained import create_pretrained, load_torchvision

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


def torchvision_model(
    *,
    name: str,
    channels: int,
    classes: int,
    pretrained: bool = False,
    kwargs: dict[str, Any] | None = None,
) -> nn.Module:
    """Build any classification model of torchvision.

    Unless there are three channels, the first convolution is replaced by one with the same settings
    and the same standard deviation of its weights. Auxiliary classifiers (GoogLeNet, Inception v3)
    are switched off. Some models need a fixed or a minimal image size; see
    https://docs.pytorch.org/vision/stable/models.html.

    Args:
        name: Name of the model in torchvision.
        channels: Channels of the images.
        classes: Number of classes.
        pretrained: Whether to begin with torchvision's weights (`weights="DEFAULT"`), as
            `runner.models.pretrained.load_torchvision` does; else with random ones.
        kwargs: Passed to torchvision's constructor: `{"dropout": 0.3}`.

    Raises:
        UserError: If torchvision has no such model, it does not take a keyword, or its weights
            cannot be had.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        listing = "torchvision.models.list_models(module=torchvision.models)"
        raise UserError(_unknown_model("torchvision", name, names, listing))
    options: dict[str, Any] = {key: tupled(value) for key, value in (kwargs or {}).items()}
    refuse_given(options, TORCHVISION_GIVEN)
    extra = name in ("googlenet", "inception_v3")  # outputs in training
    single = {"aux_logits": False, "init_weights": True} if extra else {}
    with explained("torchvision", name, options, lambda: models.get_model(name)):
        model: nn.Module = models.get_model(
            name, weights=None, num_classes=classes, **single, **options
        )
    refuse_passed_over("torchvision", name, options, model)
    if channels != 3:
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        weights = torch.randn(len(first.weight), channels, *first.kernel_size)
        first.in_channels, std = channels, first.weight.detach().std()  # no number: also on meta
        first.weight = nn.Parameter(std * weights)
    if pretrained:
        load_torchvision(model, name, channels, classes, options)
    return model


def timm_model(
    *,
    name: str,
    channels: int,
    classes: int,
    pretrained: bool = False,
    kwargs: dict[str, Any] | None = None,
) -> nn.Module:
    """Build any model of timm: https://huggingface.co/docs/timm/models.

    Args:
        name: Name of the model in timm; with pretrained weights also with their tag, as in
            `resnet18.a1_in1k`.
        channels: Channels of the images.
        classes: Number of classes.
        pretrained: Whether to begin with timm's weights, adapted to the channels and the classes
            by timm; else with random ones.
        kwargs: Passed to `timm.create_model`: `{"img_size": 32, "drop_path_rate": 0.1}`.

    Raises:
        UserError: If timm is not installed, has no such model, or no weights for it; the model does
            not take a keyword, or the weights cannot be had.
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
    options: dict[str, Any] = {key: tupled(value) for key, value in (kwargs or {}).items()}
    refuse_given(options, TIMM_GIVEN)
    create = partial(timm.create_model, name, in_chans=channels, num_classes=classes, **options)
    with explained("timm", name, options, lambda: timm.create_model(name)):
        return create_pretrained(create, name) if pretrained else create()


def _unknown_model(library: str, name: str, names: Iterable[str], listing: str) -> str:
    return (
        f"model.name: {library} has no classification model {name}.{did_you_mean(name, names)} "
        f"List them with {listing}."
    )
