"""What `threads=auto` and `memory_format=auto` are: a rule, made from measurements.

The rule knows the device, the processor, and the network, of which one image is passed through a
copy. It does not measure, so that it says the same each time; what it says is written into
config.yaml and sweep.yaml, and holds for the run, or for all runs of an ablation, from then on.
`python -m benchmarks.auto` measures it anew: updates of our ResNets of widths 8 to 64 and of
networks of torchvision, images of 8 to 224 pixels, one thread and two.

- A thread more is worth it where each has 125 million multiply-adds (of a forward pass) to do. A
  smaller network is slower on two threads than on one: the digits' ResNet-8 takes 6.6 ms on one,
  7.3 ms on two. No more threads are taken than cores are idle when the run begins.
- On a CPU channels_last saves a fifth to a third of an update where the weights are few beside
  what the convolutions give out. Where they are many, as in torchvision's ResNet-18 on 64 pixels,
  it loses up to a tenth, since weights are brought into another order each time. On several
  threads it loses, up to 1.75 times, in layers of fewer than 16 channels. It is never chosen where
  channels are no multiple of 8: torch crashed there with AVX2, in a ResNet-8 of width 5, and with 4
  channels everywhere.
- On a card an update in channels_last took 0.51 to 0.98 of the time in contiguous where layers have
  16 channels or more, and 1.07 to 1.11 on the digits' ResNet-8, whose have 8. So it is chosen where
  channels are multiples of 8 and few layers have fewer than 16. That was measured on an H200, with
  TF32 and bfloat16, by `python -m benchmarks.card`. Contiguous stays where nothing was: with
  tf32=none, with compile, and on other machines, whose cards are not known. A card takes all cores.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from runner.allowed import locate
from runner.begin import rebuild_model
from runner.config import Node, Settings
from runner.cores import idle_cores, usable_cores
from runner.data import DataSet
from runner.torchrun import counted, counted_here
from tricks import Trick

AUTO = "auto"

OPEN = ("threads", "memory_format")
"""The settings that may be left open."""

PER_THREAD = 125_000_000
"""Multiply-adds of a forward pass, for which a thread is worth it."""

MOST_THREADS = 1024
"""Where the network does not say how many it keeps busy."""

MOST_WEIGHTS = 0.75
"""Weights, by what the convolutions give out, up to which channels_last is faster."""

NARROW, MOST_NARROW = 16, 0.1
"""On several threads channels_last is slower if layers of fewer channels than `NARROW` give out a
larger share of the numbers than `MOST_NARROW`."""

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


@dataclasses.dataclass
class Work:
    """What the layers with weights do in a forward pass of a batch."""

    multiply_adds: int = 0
    weights: int = 0
    outputs: int = 0
    """Numbers that the convolutions give out."""
    narrow: int = 0
    """Of these, what has fewer channels than `NARROW`."""
    is_odd: bool = False
    """Whether a convolution has channels that are no multiple of 8; images of 1 and 3 may be."""


def is_open(settings: Settings) -> bool:
    """Whether something is left open."""
    return AUTO in (settings.threads, settings.memory_format)


def settle(settings: Settings, chosen: Mapping[str, Any]) -> Settings:
    """Give back the settings with what was chosen in place of what they leave open."""
    found = {k: chosen[k] for k in OPEN if getattr(settings, k) == AUTO and k in chosen}
    return dataclasses.replace(settings, **found)


def decide(settings: Settings, data: DataSet) -> Settings:
    """Choose what the settings leave open, for one run on this machine."""
    if not is_open(settings):
        return settings
    # each rank of this machine has a part of its cores
    cores = max(1, usable_cores() // counted_here()) if counted() > 1 else None
    return settle(settings, choose([(settings, data)], cores))


def choose(
    runs: Iterable[tuple[Settings, DataSet]], cores: int | None = None, elsewhere: bool = False
) -> dict[str, Any]:
    """Choose the threads and the memory format once for several runs: what suits each of them.

    Args:
        runs: Their settings, and their data sets.
        cores: How many a run may use; None for those that are idle here.
        elsewhere: Whether they run on other machines than this, which may have cards.
    """
    seen = dict[str, tuple[Settings, Work | None, bool]]()
    for settings, data in runs:
        size = (settings.batch_size, settings.micro_batch_size, settings.device)
        kind = (*size, settings.threads, settings.compile, settings.tf32)
        key = repr((settings.model, _changing(settings), settings.data, kind))
        if key not in seen:
            on_card = _may_have_card(settings.device, elsewhere)
            work = None if on_card and elsewhere else work_of(settings, data)
            seen[key] = settings, work, on_card
    known = [*seen.values()]
    threads = min(MOST_THREADS if card else most_threads(work) for _, work, card in known)
    if threads > 1:
        waits = any(card or work is None for _, work, card in known)
        threads = min(threads, cores or (usable_cores() if waits else idle_cores()))
    most = max(s.threads if isinstance(s.threads, int) else threads for s, *_ in known)
    last = all(
        work is not None
        and (suits_a_card(work, given) if card else suits_channels_last(work, most))
        for given, work, card in known
    )
    return {"threads": threads, "memory_format": "channels_last" if last else "contiguous"}


def _may_have_card(device: str, elsewhere: bool) -> bool:
    return device != "cpu" and (device != AUTO or elsewhere or torch.cuda.is_available())


def most_threads(work: Work | None) -> int:
    """Give back how many threads a network keeps busy."""
    return MOST_THREADS if work is None else max(1, work.multiply_adds // PER_THREAD)


def suits_a_card(work: Work, settings: Settings) -> bool:
    """Whether a network is faster in channels_last on a card."""
    if settings.tf32 == "none" or settings.compile:
        return False
    return not (work.is_odd or work.narrow > MOST_NARROW * work.outputs)


def suits_channels_last(work: Work, threads: int) -> bool:
    """Whether a network is faster in channels_last, on so many threads of a CPU."""
    if work.is_odd or "AVX" not in torch.backends.cpu.get_cpu_capability():
        return False
    if threads > 1 and work.narrow > MOST_NARROW * work.outputs:
        return False
    return work.weights <= MOST_WEIGHTS * work.outputs


def work_of(settings: Settings, data: DataSet) -> Work | None:
    """Find what the network of a run does with a batch; None if that is not possible.

    If it cannot be built or does not take the images, `build` tells of it.
    """
    count = min(settings.batch_size, len(data.train.labels))
    count = min(count, settings.micro_batch_size or count)
    channels, classes = data.train.shape[0], len(data.classes)
    try:
        with torch.random.fork_rng(devices=[]):
            model, _ = rebuild_model(settings.model, _changing(settings), channels, classes)
            return work_in(model, data.train.shape, count)
    except Exception:  # a model may raise anything
        return None


def work_in(model: nn.Module, shape: Sequence[int], count: int) -> Work | None:
    """Find what a network does with so many images [C, H, W], by one of zeros.

    None if it has no layer that is known. It is no good for anything else afterwards.
    """
    work = Work()
    for layer in model.modules():
        if isinstance(layer, LAYERS):
            layer.register_forward_hook(lambda *args: _add(work, count, *args))
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return work if work.outputs else None


def _changing(settings: Settings) -> dict[str, Node]:
    """Give back the nodes of the tricks that are on and change the network, by where they are."""
    on = {f"tricks.{n}": node for n, node in settings.tricks.items() if node["enabled"]}
    return {
        at: node
        for at, node in on.items()
        if locate(node["_target_"], at, "tricks").model is not Trick.model
    }


def _add(work: Work, count: int, layer: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    given = outputs.numel() * count
    work.multiply_adds += given * weight[0].numel()
    work.weights += weight.numel()
    if outputs.ndim == 4 and not isinstance(layer, nn.Linear):
        work.outputs += given
        work.narrow += given * (outputs.shape[1] < NARROW)
        taken = inputs[0].shape[1]
        work.is_odd |= outputs.shape[1] % 8 > 0 or (taken % 8 > 0 and taken not in (1, 3))
