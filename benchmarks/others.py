"""What torch and timm do where our tricks do otherwise, measured; the figures of docs/tricks.md.

python -m benchmarks.others
"""

import warnings

import timm
import torch
from timm.layers import BlurPool2d as TimmBlurPool2d
from timm.scheduler import CosineLRScheduler
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from tricks import WarmRestarts, anti_alias, clip_gradients_, warm_restarts


def optimizer(rate=1.0):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def clipping():
    weight = torch.zeros(3, requires_grad=True)
    weight.grad = torch.tensor([1.0, torch.inf, 2.0])
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    yield f"torch clip_grad_norm_ of (1, inf, 2): {weight.grad.tolist()}"
    weight.grad = torch.tensor([1.0, torch.inf, 2.0])
    try:
        clip_gradients_([weight], 1.0)
    except FloatingPointError:
        yield f"ours raises, and leaves {weight.grad.tolist()}"
    weight.grad = torch.ones(3)
    adaptive_clip_grad([weight])
    yield f"timm, by unit, ones at weights of zeros: {weight.grad.tolist()}"


def restarts():
    one = optimizer()
    scheduler = CosineAnnealingWarmRestarts(one, T_0=1, T_mult=3)
    for epoch in (121, 29524):
        scheduler.step(epoch)
        rate = one.param_groups[0]["lr"]
        ours = warm_restarts(epoch, T_0=1, T_mult=3)
        yield f"restart at {epoch} of T_mult=3: torch step(epoch) {rate:.3g}, ours {ours:.3g}"
    one.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5, "initial_lr": 0.5})
    try:
        scheduler.step(121.5)
    except ValueError as error:
        yield f"torch, at the first step after a group was added: ValueError: {error}"
    for t_initial, t in ((1, 121), (10, 1210)):
        schedule = CosineLRScheduler(optimizer(), t_initial, cycle_mul=3, cycle_limit=100)
        yield f"restart at {t} of cycle_mul=3: timm {schedule._get_lr(t)[0]:.3g}"
    default = CosineLRScheduler(optimizer(), t_initial=10)
    yield f"timm by default after its first cycle of 10: {default._get_lr(15)[0]:.3g}"
    ramp = CosineLRScheduler(optimizer(), 10, warmup_t=3, cycle_limit=9)
    rates = ", ".join(f"{ramp._get_lr(t)[0]:.3f}" for t in range(2, 6))
    yield f"timm at the end of a warm-up of 3, t = 2 to 5: {rates}"
    ours = ", ".join(f"{warm_restarts(t, 10, T_up=3):.3f}" for t in range(2, 6))
    yield f"ours there: {ours}"
    yield f"ours warns: {WarmRestarts(T_0=5, T_mult=2).caveats(20, 1)[0]}"


def strided(model):
    layers = model.named_modules()
    return [n for n, m in layers if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]


def anti_aliasing():
    blurred = timm.create_model("resnetblur18", pretrained=False)
    yield f"timm resnetblur18, strided convolutions: {', '.join(strided(blurred))}"
    ours = anti_alias(timm.create_model("resnet18", pretrained=False))
    yield f"ours of timm's resnet18, strided convolutions: {', '.join(strided(ours))}"
    ones = torch.ones(1, 1, 2, 2)
    try:
        TimmBlurPool2d(1, filt_size=5)(ones)
    except RuntimeError as error:
        yield f"timm BlurPool2d of 5 on a map of 2x2: {str(error).split(',')[0]}"


def main():
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, timm {timm.__version__}")
    for part in (clipping, restarts, anti_aliasing):
        for line in part():
            print(line)


if __name__ == "__main__":
    main()
