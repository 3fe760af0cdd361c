"""Measure the package beside what else there is, in one run, on this machine.

    python scripts/benchmark.py [--quick] [--mnist-dir DIR]

On `rehearsal-full` where MNIST's IDX files are at hand, else (and with --quick) on `rehearsal`. Machines are
noisy: what is compared runs in turn, and each figure is a median with its range.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from kaggle_digits import Workspace
from kaggle_digits.competition import TEST_CSV, TRAIN_CSV
from kaggle_digits.data import load_test, load_train

BIN = Path(sys.executable).parent
MEMORY = """
import json, resource, sys
import kaggle_digits as kd
workspace = kd.Workspace.at(sys.argv[1], sys.argv[2])
kd.train(workspace, preset=sys.argv[3], folds=2, settings={"epochs": "1"}, run="memory")
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps(peaks))
"""


def in_turn(runs: int, **actions: Callable[[], object]) -> None:
    """Time actions in turn, A B A B, and print each one's median and range in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(runs):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            times[name].append(1000 * (time.perf_counter() - started))
    for name, taken in times.items():
        print(
            f"  {name:32} {statistics.median(taken):9.1f} ms   ({min(taken):.1f} to {max(taken):.1f}, {runs} runs)"
        )


def measure_start(runs: int) -> None:
    """Time how long it takes until help is there."""
    print("Start-up: --help")

    def helper(command: str) -> Callable[[], object]:
        return lambda: subprocess.run([BIN / command, "--help"], capture_output=True, check=True)

    in_turn(runs, **{"kaggle-digits --help": helper("kaggle-digits"), "kaggle --help": helper("kaggle")})


def measure_loading(runs: int, workspace: Workspace) -> None:
    """Time the way from CSV files to arrays."""
    import pandas as pd

    cache = workspace.data / "cache"
    print(f"CSV to arrays: train.csv and test.csv of {workspace.competition.name}")

    def load() -> None:
        load_train(workspace.data)
        load_test(workspace.data)

    def cold() -> None:
        shutil.rmtree(cache)
        load()

    def plain() -> None:
        for name in (TRAIN_CSV, TEST_CSV):
            pd.read_csv(workspace.data / name).to_numpy()

    load()
    in_turn(
        runs, **{"cold (parse, validate, cache)": cold, "warm (from the cache)": load, "pandas.read_csv": plain}
    )


def measure_memory(workspace: Workspace, preset: str) -> None:
    """Measure the most memory that `train` holds, in its parent and its largest worker."""
    command = [sys.executable, "-c", MEMORY, str(workspace.root), workspace.competition.name, preset]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    parent, worker = (peak * unit / 1e6 for peak in json.loads(result.stdout))
    print(f"Peak memory of train, {preset}, {workspace.competition.name}")
    print(f"  parent {parent:.0f} MB, largest worker {worker:.0f} MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--mnist-dir", type=Path, default=os.environ.get("KAGGLE_DIGITS_MNIST_DIR"))
    arguments = parser.parse_args()
    packages = ("kaggle-digits", "tensorflow", "pandas", "pyarrow", "kaggle")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    full = arguments.mnist_dir and not arguments.quick
    with tempfile.TemporaryDirectory() as root:
        workspace = Workspace.at(root, "rehearsal-full" if full else "rehearsal")
        fetch = ("kaggle-digits", "--competition", workspace.competition.name, "--root", root, "download")
        mnist = ("--mnist-dir", str(arguments.mnist_dir)) if full else ()
        subprocess.run([BIN / fetch[0], *fetch[1:], *mnist], check=True, capture_output=True)
        # First, for a process counts what its parent held when it was started.
        measure_memory(workspace, "fast")
        measure_start(3 if arguments.quick else 10)
        measure_loading(3 if arguments.quick else 5, workspace)


if __name__ == "__main__":
    main()
