"""Where the runs of a launcher are done, how many at a time, and with how many cores each.

Told from the launcher's settings alone, before there is one.
"""

import math
from collections.abc import Mapping
from typing import Any

from runner.cores import idle_cores, usable_cores
from runner.sweep.slots import slots, visible_cards


def in_jobs(node: Mapping[str, Any]) -> bool:
    """Whether a launcher sends the runs as jobs, which have cores of their own."""
    return "runs_per_job" in node and not str(node["_target_"]).endswith("LocalLauncher")


def may_have_cards(node: Mapping[str, Any]) -> bool:
    """Whether the runs are done on other machines than this, with cards, by what is asked for."""
    asked = (node.get(key) for key in ("gres", "additional_parameters", "resources"))
    words = " ".join(str(each) for each in asked).lower()
    return in_jobs(node) and (cards_of_a_job(node, "cuda") > 0 or "gpu" in words)


def runs_at_once(node: Mapping[str, Any], runs: int, device: str) -> int:
    """Count the runs, of so many, that are done at a time on one machine.

    Args:
        node: The settings of the launcher.
        runs: How many there are.
        device: The setting `device` of the runs.
    """
    if in_jobs(node):
        return min(runs, in_a_job(node, device))
    if str(node["_target_"]).endswith("LocalLauncher"):
        return len(slots(node["workers"], node["per_card"], runs, visible_cards(device)))
    jobs = int(node.get("n_jobs") or 1)  # joblib's: -1 is one a core, -2 one less
    return min(runs, jobs if jobs > 0 else max(1, usable_cores() + 1 + jobs))


def in_a_job(node: Mapping[str, Any], device: str) -> int:
    """Count the runs that one job of a cluster does at a time: one a core, or one a card."""
    if isinstance(workers := node.get("workers", 1), int):
        return max(1, workers)
    return cards_of_a_job(node, device) * int(node.get("per_card") or 1) or cores_of_a_job(node)


def cores_of_a_job(node: Mapping[str, Any]) -> int:
    """Count the cores that one job of a cluster gets."""
    by_card = (node.get("cpus_per_gpu") or 0) * cards_of_a_job(node, "cuda")
    return int(node.get("cpus_per_task") or node.get("cpus_per_job") or by_card or 1)


def cards_of_a_job(node: Mapping[str, Any], device: str) -> int:
    """Count the cards that one job of a cluster gets, for runs that would use them."""
    keys = ("gpus_per_node", "gpus_per_task", "gpus_per_job")
    cards = next((math.ceil(count) for key in keys if (count := node.get(key))), 0)
    return cards if device in ("auto", "cuda") else 0


def cores_of_a_run(node: Mapping[str, Any], device: str) -> int:
    """Count the cores that a run may use: its share of those of its job, or of those idle here."""
    if in_jobs(node):
        return max(1, cores_of_a_job(node) // in_a_job(node, device))
    return max(1, idle_cores() // runs_at_once(node, 10**9, device))
