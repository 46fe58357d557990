"""What a run prints of itself as it begins."""

from collections.abc import Mapping
from typing import Any

from torch.nn.parameter import is_lazy

from runner.build import Bench, title
from runner.config import Settings


def beginning(settings: Settings, bench: Bench, machine: Mapping[str, Any]) -> str:
    """Write what a run trains, on which images, and with what, in one line.

    Args:
        settings: The config.
        bench: What was built of it.
        machine: The run's fingerprint.
    """
    data, training = bench.data, bench.training
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    numbers = [f"{len(s.labels):,} {name}" for name, s in splits.items() if len(s.labels)]
    shape = " x ".join(map(str, data.train.shape))
    parameters = [*training.model.parameters()]
    is_open = any(map(is_lazy, parameters))
    count = "?" if is_open else f"{sum(p.numel() for p in parameters):,}"
    words = [
        f"{title(settings.model, 'model')} ({count} parameters)",
        f"{title(settings.data, 'data')}: {' / '.join(numbers)} images of {shape}",
        machine["device"],
        f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}",
        f"tricks: {', '.join(training.trick.names) or 'none'}",
    ]
    return ", ".join(words)
