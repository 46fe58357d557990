"""What of a config makes a run the one that it is: its hash, which older runs keep."""

from collections.abc import Mapping
from typing import Any

from runner.store.files import digest

NOT_IN_CONFIG_HASH = ("checkpoint_seconds", "resume", "keep")
"""Settings that change no bit of a run, and so are no part of what it is."""


FIRST_TRICKS = (
    *("anti_aliasing", "centralization", "clipping", "flooding", "label_smoothing"),
    "warm_restarts",
)
"""The tricks that every run has in its config; the hash takes others in if they are on."""

ADDED: dict[str, Any] = {
    "last_evaluations": None,
    "drop_last": False,
    "tf32": "convolutions",
    "sync_batch_norm": False,
    "metrics": [],
    "result": "last",
    "patience": None,
    "loss._target_": "runner.losses.cross_entropy",
    "loss.class_weights": None,
    "data.test": None,
    "data.folds": None,
    "data.fold": None,
    "data.split_seed": 0,
    "data.resize": "stretch",
    "data.bits": 8,
    "data.bands": "auto",
    "data.sampling": "shuffle",
    "data.augment.transforms": [],
    "model.pretrained": False,
    "model.kwargs": None,
}
"""Settings that older runs did not have, by their dotted keys, and what these runs did."""


RENAMED = "channels_last"
"""What older runs have in place of `memory_format`."""

FORMATS = {False: "contiguous", True: "channels_last"}


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give back settings of any version with the names of this one."""
    if type(value := config.get(RENAMED)) is not bool:
        return dict(config)
    return {
        "memory_format" if k == RENAMED else k: FORMATS[value] if k == RENAMED else v
        for k, v in config.items()
    }


def digest_config(config: Mapping[str, Any]) -> str:
    """Give back the hash of a run's config, as run.json holds it."""
    return digest(what_counts(config))


def what_counts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give back of a run's config what makes it the run that it is.

    Settings that change no bit are left out. So are those of `ADDED` that are as they were before,
    later tricks that are off, and a trick's parameter that is None, and the memory format has its
    old name, so that older runs keep their hash.
    """
    kept = {k: v for k, v in config.items() if k not in ("format", *NOT_IN_CONFIG_HASH)}
    if (named := kept.get("memory_format")) in FORMATS.values():
        del kept["memory_format"]
        kept[RENAMED] = named == FORMATS[True]
    config = without_later_tricks(_without_added(kept))
    tricks = config.get("tricks")
    if isinstance(tricks, dict):
        config["tricks"] = {
            name: {key: value for key, value in node.items() if value is not None}
            if isinstance(node, dict)
            else node
            for name, node in tricks.items()
        }
    return config


def without_later_tricks(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the tricks that are off and that older runs did not have."""
    tricks = config.get("tricks")
    if not isinstance(tricks, dict):
        return dict(config)
    kept = {n: node for n, node in tricks.items() if n in FIRST_TRICKS or not _is_off(node)}
    return {**config, "tricks": kept}


def _is_off(trick: object) -> bool:
    return isinstance(trick, dict) and trick.get("enabled") is False


def _without_added(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leave out the settings that are as in runs that did not have them, and what is then empty."""
    kept = {}
    for key, value in node.items():
        dotted = f"{prefix}{key}"
        if dotted in ADDED and ADDED[dotted] == value:
            continue
        if isinstance(value, dict) and any(added.startswith(f"{dotted}.") for added in ADDED):
            inner = _without_added(value, f"{dotted}.")
            if value and not inner:
                continue
            value = inner
        kept[str(key)] = value
    return kept
