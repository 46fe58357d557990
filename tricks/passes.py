"""A further pass through a model in training that leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def keep_buffers(model: nn.Module) -> Iterator[None]:
    """Put all buffers back to the bit afterwards, as the statistics of batch norm."""
    held = [
        (m, name, b) for m in model.modules() for name, b in m._buffers.items() if b is not None
    ]
    copies = [buffer.clone() for _, _, buffer in held]
    try:
        yield
    finally:
        with torch.no_grad():
            for (module, name, buffer), copy in zip(held, copies, strict=True):
                buffer.copy_(copy)
                module._buffers[name] = buffer  # where a module puts new ones in their place


def random_state(model: nn.Module) -> list[Tensor]:
    """Give back the states of torch's global generators that the model's dropout may draw from."""
    return [
        torch.get_rng_state(),
        *(torch.cuda.get_rng_state(device) for device in _cuda_devices(model)),
    ]


def set_random_state(model: nn.Module, states: list[Tensor]) -> None:
    """Take back what `random_state` gave."""
    cpu, *others = states
    torch.set_rng_state(cpu)
    for device, state in zip(_cuda_devices(model), others, strict=True):
        torch.cuda.set_rng_state(state, device)


@contextmanager
def keep_random_state(model: nn.Module) -> Iterator[None]:
    """Put torch's global generators back afterwards."""
    states = random_state(model)
    try:
        yield
    finally:
        set_random_state(model, states)


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    found = {p.device for p in model.parameters() if p.device.type == "cuda"}
    return sorted(found, key=str)
