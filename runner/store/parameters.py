"""The settings of runs as columns: which ones differ, what they are called, and their values."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from runner.texts import printable

NAMING = ("format", "name", "variant", "seed", "again")
"""Keys that set no run apart from another of the same setting."""

MACHINE = ("threads", "memory_format", "device")
"""Settings that `auto` resolves on each machine: seeds that differ in them alone stand together."""

NONE = "none"
"""What null is called."""

Settings = Mapping[str, Any]
"""By dotted keys."""


def parameters(config: Settings) -> dict[str, Any]:
    """Give back the settings of a config that mean something; a list or mapping as text.

    Not the names of the run, and no parameters of tricks that are off.
    """
    kept: dict[str, Any] = {}
    for key, value in config.items():
        group, _, rest = key.partition(".")
        trick, _, last = rest.partition(".")
        is_off = group == "tricks" and config.get(f"tricks.{trick}.enabled") is not True
        if group not in NAMING and not (is_off and last != "enabled"):
            kept[key] = json.dumps(value) if isinstance(value, list | dict) else value
    return kept


def differing(several: Sequence[Settings]) -> list[str]:
    """Find the keys that have more than one value, where they are there."""
    keys = dict.fromkeys(key for settings in several for key in settings)
    found = ({same(each[key]) for each in several if key in each} for key in keys)
    return [key for key, values in zip(keys, found, strict=True) if len(values) > 1]


def same(value: object) -> object:
    """Make values that mean the same equal, as 1 and 1.0, and others not, as 1 and true."""
    return (type(value).__name__, value) if isinstance(value, bool) else value


def tricks_on(several: Sequence[Settings]) -> list[str]:
    """Give back the keys of the switches of the tricks that are on in any of the settings."""
    keys = dict.fromkeys(key for each in several for key in each if key.startswith("tricks."))
    return [k for k in keys if k.endswith(".enabled") if any(s.get(k) is True for s in several)]


def heading(key: str) -> str:
    """Name a column: a switch by its trick, a class by its group, anything else by its key."""
    group, _, rest = key.partition(".")
    if group == "tricks" and rest.endswith(".enabled"):
        return printable(rest.removesuffix(".enabled"))
    return printable(key.removesuffix("._target_"))


def short_headings(keys: Collection[str]) -> list[str]:
    """Name columns by the ends of their keys, as long as it takes to tell them apart."""
    names = {key: heading(key).split(".") for key in keys}
    short = []
    for key, parts in names.items():
        others = [other for which, other in names.items() if which != key]
        tails = (parts[-n:] for n in range(1, len(parts) + 1))
        tail = next((t for t in tails if all(o[-len(t) :] != t for o in others)), parts)
        short.append(".".join(tail))
    return short


def plain(key: str, settings: Settings) -> bool | float | str | None:
    """Give back a value as TensorBoard takes it; None if it is not there."""
    value = settings.get(key)
    if key not in settings or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return float(value) if abs(value) < 1e300 else str(value)[:40]
    text = NONE if value is None else str(value)
    return printable(text.rpartition(".")[2] if key.endswith("._target_") else text)


def cell(key: str, settings: Settings) -> str:
    """Write a value in a table; nothing if it is not there."""
    value = plain(key, settings)
    if isinstance(value, bool):
        return ("off", "on")[value] if key.endswith(".enabled") else str(value).lower()
    text = f"{value:.10g}" if isinstance(value, float) else value or ""
    return printable(text.replace("e+", "e") if isinstance(value, float) else text, 40)
