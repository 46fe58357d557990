"""The cores of this machine: those that a process may use, and how many of them are idle."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SHORTEST = 0.2  # seconds; a shorter while tells nothing about what is idle


def available_cores() -> list[int]:
    """Give back the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Count the cores that this process may use at once: a container may have less time than that.

    The least quota of its cgroup and of those above counts, rounded up.
    """
    return max(1, min([len(available_cores()), *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """Iterate over the limits of this process's CPU time, in cores."""
    return (quota for folder in cgroups("cpu") if (quota := _quota(folder)))


def cgroups(controller: str) -> Iterator[Path]:
    """Iterate over the folders of this process's cgroup and of those above it, for a resource."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root = Path("/sys/fs/cgroup")
            if controllers:  # of the first version
                if controller not in controllers.split(","):
                    continue
                root /= controllers
            folder = root / path.lstrip("/")
            yield from (each for each in (folder, *folder.parents) if each.is_relative_to(root))


def _quota(folder: Path) -> float | None:
    """Read the limit of one cgroup; None if it has none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if quota != "max" and int(quota) > 0:
                return int(quota) / int(period)
    return None


def idle_cores() -> int:
    """Count the cores that are idle but for this process, since it started or last asked.

    All that it may use, if it has just started or the system does not tell. Where a quarter or more
    is busy, the largest power of two: then the count seldom depends on chance.
    """
    global _last
    usable, before, now = usable_cores(), _last, _Moment()
    _last = now
    if now.seconds - before.seconds < SHORTEST:
        return usable
    free = max(0.0, now.own - before.own) / (now.seconds - before.seconds)
    for core in available_cores():
        if core not in before.times or core not in now.times:
            return usable
        idle, total = (b - a for a, b in zip(before.times[core], now.times[core], strict=True))
        free += idle / total if total > 0 else 1.0
    if free >= 0.75 * usable:
        return usable
    return int(2 ** math.floor(math.log2(max(1.0, free))))


class _Moment:
    """How long each core has been idle and has run, and this process, at this moment."""

    def __init__(self) -> None:
        self.seconds, self.own = time.monotonic(), time.process_time()
        self.times: dict[int, tuple[int, int]] = {}
        """Of each core, ticks idle and in all."""
        with suppress(OSError, ValueError):
            for line in Path("/proc/stat").read_text().splitlines():
                name, *ticks = line.split()
                if name.startswith("cpu") and name != "cpu":
                    values = [int(tick) for tick in ticks[:8]]  # of guests is in the first two
                    self.times[int(name[3:])] = (values[3] + values[4], sum(values))


def _begin_again() -> None:
    global _last
    _last = _Moment()


_last = _Moment()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
