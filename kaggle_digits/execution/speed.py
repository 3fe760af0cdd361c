"""The speed of this machine, and how long a preset takes on it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kaggle_digits.execution.processes import cpu_cores, default_workers
from kaggle_digits.training.compute import run_flops
from kaggle_digits.training.presets import PRESETS, Preset

COMPETITION_ROWS = 42_000
"""The number of training rows of the competition `digit-recognizer`."""
MEASUREMENT_SECONDS = 2.0
SIDE = 512
"""Rows and columns of the matrices whose product is measured."""
SHARE_OF_PEAK = {"lenet": 0.45, "residual": 0.55}
"""The speed of the training of a network while all cores train, as a share of the speed of a matrix product."""
SECONDS_PER_FOLD = 15.0
"""What a fold takes besides its training: loading TensorFlow, compiling the network, predictions."""


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
    a = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    b, end, shortest = np.empty_like(a), time.perf_counter() + seconds, np.inf
    while (started := time.perf_counter()) < end:
        np.matmul(a, a, out=b)
        shortest = min(shortest, time.perf_counter() - started)
    return float(2 * SIDE**3 / shortest)


def expected_seconds(preset: Preset, rows: int, speed: float) -> float:
    """Return about how long the training of a preset takes on the CPU of this machine, in seconds.

    Parameters
    ----------
    preset : Preset
        The settings and the number of folds.
    rows : int
        The number of rows of ``train.csv``.
    speed : float
        The result of `measure_speed`.
    """
    workers = default_workers(preset.folds)
    speed_per_worker = SHARE_OF_PEAK[preset.settings.network] * speed / max(workers, cpu_cores())
    per_fold = run_flops(preset, rows) / preset.folds / speed_per_worker + SECONDS_PER_FOLD
    # Each worker trains one fold at a time; with five folds on two workers, one of them trains three.
    return -(-preset.folds // workers) * per_fold


def summarise_presets() -> list[dict[str, Any]]:
    """Return what the command ``presets`` shows: one row per preset, with the expected time on this machine."""
    speed = measure_speed()
    return [
        {
            "name": preset.name,
            "summary": preset.summary,
            "folds": preset.folds,
            "score": preset.result.score,
            "tflop": round(run_flops(preset, COMPETITION_ROWS) / 1e12, 1),
            "seconds": round(expected_seconds(preset, COMPETITION_ROWS, speed)),
        }
        for preset in PRESETS.values()
    ]
