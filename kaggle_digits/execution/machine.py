"""What this machine has: cores and memory."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

WORKER_MEMORY = 1.2e9
"""The most bytes of memory that a worker uses; limits the default number of workers."""
CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux has the control groups, which limit what a container or a batch job may use."""
CGROUPS_OF_PROCESS = Path("/proc/self/cgroup")


def default_workers(folds: int, gpus: int = 0) -> int:
    """Return the default number of workers: one per GPU, or without GPUs one per core if memory is sufficient."""
    return max(1, min(folds, gpus or cpu_cores(), int(memory() / WORKER_MEMORY)))


def cpu_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    # A container or a batch system may allow fewer cores than the machine has, or a share of their time. Not
    # `joblib.cpu_count`, which reads this share only at the root of the control groups.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [*_limits("cpu.max"), *_limits("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    return min([cores, *(math.ceil(quota / period) for quota, period in quotas if quota > 0)])


def memory() -> int:
    """Return the memory of the machine in bytes, or the limit of the container if it is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *(limit for name in ("memory.max", "memory.limit_in_bytes") for (limit,) in _limits(name))])


def _limits(*files: str) -> Iterator[list[int]]:
    """Yield the numbers in these files of each control group, version 1 or 2, that limits this process."""
    lines = CGROUPS_OF_PROCESS.read_text().splitlines() if CGROUPS_OF_PROCESS.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        # In version 1, each controller has its own groups; version 2 has no names of controllers.
        for root in (CGROUPS / name for name in controllers.split(",")):
            group = root / path.lstrip("/")
            # A group is limited by its parents, too. Inside a container, the path can be that outside of it, and
            # the group's files are at the root.
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # there are no such files, or they contain "max" (no limit)
                    yield [int(word) for file in files for word in (folder / file).read_text().split()]
