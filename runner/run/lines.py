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
        str(machine["memory_format"]),
        f"tricks: {', '.join(training.trick.names) or 'none'}",
    ]
    return ", ".join(words)


def progress(settings: Settings, epoch: float, numbers: Mapping[str, float], left: float) -> str:
    """Write an evaluation in one line.

    Args:
        settings: The config.
        epoch: The epochs done.
        numbers: What was measured.
        left: Seconds to the end.
    """
    words = [f"epoch {round(epoch, 2)}/{round(settings.epochs, 2)}"]
    if "train/loss" in numbers:  # not if every update was skipped
        words.append("loss {train/loss:.4f}  lr {train/learning_rate:.4f}".format(**numbers))
    if "validation/accuracy" in numbers:
        words.append(f"accuracy {100 * numbers['validation/accuracy']:.2f} %")
    words.append(f"{numbers['time/images_per_second']:,.0f} images/s")
    minutes, seconds = divmod(int(left), 60)
    most = "at most " if settings.patience else ""
    return "  ".join([*words, f"{most}{minutes}:{seconds:02d} left"])
