"""What this machine has: cores, memory, and the speed with which it trains."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_digits.training.presets import PRESETS

WORKER_MEMORY = 1.2e9
"""The most bytes of memory that a worker uses; limits the default number of workers."""
CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux has the control groups, which limit what a container or a batch job may use."""
CGROUPS_OF_PROCESS = Path("/proc/self/cgroup")
MEASUREMENT_SECONDS = 2.0
MATRIX_SIDE = 512
"""Rows and columns of the matrices whose product is measured."""
SHARE_OF_SPEED = 0.45
"""The speed of a training while all cores train, as a share of `measure_speed`.

On Intel Sapphire Rapids cores (AVX-512, TensorFlow 2.21), ``lenet`` reaches .37, `fast` .41 and `default` .48
times the speed of a core (``python scripts/benchmark.py``, see docs/recipes.md)."""
SECONDS_PER_FOLD = 15.0
"""What a fold takes besides its training: loading TensorFlow, compiling the network, predictions."""


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


def measure_speed(seconds: float = MEASUREMENT_SECONDS) -> float:
    """Return how many floating-point operations per second products of float32 matrices reach on all cores.

    Each core computes its own products at the same time, as workers do, so that cores that share memory, or are
    threads of the same core, slow each other down. The fastest product of each counts, so that a program that runs
    now and then has no influence.
    """
    from threadpoolctl import threadpool_limits

    # NumPy releases the global interpreter lock during a matrix product, so threads run in parallel.
    cores = cpu_cores()
    with threadpool_limits(1), ThreadPoolExecutor(cores) as threads:
        return sum(threads.map(_fastest_product, [seconds] * cores))


def _fastest_product(seconds: float) -> float:
    """Compute matrix products for some seconds, and return the speed of the fastest."""
    a = np.random.default_rng(0).random((MATRIX_SIDE, MATRIX_SIDE), dtype=np.float32)
    b, end, shortest = np.empty_like(a), time.perf_counter() + seconds, np.inf
    while (started := time.perf_counter()) < end:
        np.matmul(a, a, out=b)
        shortest = min(shortest, time.perf_counter() - started)
    return float(2 * MATRIX_SIDE**3 / shortest)


def summarise_presets() -> list[dict[str, Any]]:
    """Return what the command ``presets`` shows: one row per preset, with the expected time on this machine."""
    speed_of_core = measure_speed() / cpu_cores()
    rows = []
    for preset in PRESETS.values():
        # Each worker trains one fold at a time; with five folds on two workers, one of them trains three.
        rounds = -(-preset.folds // default_workers(preset.folds))
        flops_of_fold = preset.result.tflop * 1e12 / preset.folds
        seconds = rounds * (flops_of_fold / (SHARE_OF_SPEED * speed_of_core) + SECONDS_PER_FOLD)
        rows.append(
            {
                "name": preset.name,
                "summary": preset.summary,
                "folds": preset.folds,
                "score": preset.result.score,
                "tflop": preset.result.tflop,
                "seconds": round(seconds),
            }
        )
    return rows


def about(seconds: float) -> str:
    """Return an estimated time in words, such as ``40 s``, ``12 min`` or ``1 h 20 min``."""
    if seconds < 100:
        return f"{max(10, round(seconds, -1)):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes <= 60 else f"{minutes // 60} h {minutes % 60 // 10 * 10} min"
