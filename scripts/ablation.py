"""Change one setting of the preset `fast` at a time, train a proxy with several seeds, and print the results.

    python scripts/ablation.py --root DIR [--seeds N]

The proxy is two folds of the 42,000 rows of `rehearsal-full`, which are below DIR already: each network learns
from half of the rows, and all of them count. Runs stay below DIR, so a second call trains only what is missing.
The hidden labels of the test rows play no part: everything here is out-of-fold.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial

import kaggle_digits as kd
from kaggle_digits.runs.directory import FoldsRun, Run
from kaggle_digits.training.preprocessing import PREPROCESSINGS

PRESET, FOLDS = "fast", 2

VARIATIONS: dict[str, dict[str, object]] = {
    "as in the preset": {},
    "no elastic augmentation": {"elastic": 0},
    "no augmentation": {"rotation": 0, "scale": 0, "shear": 0, "shift": 0, "elastic": 0},
    "augmentation at 60 % of its strength at first": {"ramp": 0.6},
    "no hard-example mining: as many rows, chosen at random": {"hard_rows": 0, "other_rows": 0.5},
    "no label smoothing": {"label_smoothing": 0},
    "no dropout": {"dropout": 0},
    "no weight decay": {"weight_decay": 0},
    "beta_2 of .999": {"beta_2": 0.999},
    "constant learning rate of .001": {"schedule": "constant", "learning_rate": 1e-3},
    "batch of 128": {"batch_size": 128},
    "no test-time augmentation": {"tta": 1},
}


def row(name: str, runs: Sequence[Run]) -> str:
    """Return a line of the table: means over runs, the errors with their standard deviation."""
    metrics = [run.ensemble_metrics() for run in runs]
    errors = [m.errors for m in metrics]
    deviation = f" ± {statistics.stdev(errors):.0f}" if len(runs) > 1 else ""
    loss = statistics.mean(m.calibration.log_loss_after for m in metrics)
    folds = [(run, fold) for run in runs if isinstance(run, FoldsRun) for fold in run.trained_folds()]
    times = [run.fold_metrics(fold).training_seconds for run, fold in folds]
    seconds = f"{min(times):.0f}" if times else ""
    return f"| {name} | {len(runs)} | {statistics.mean(errors):.0f}{deviation} | {loss:.4f} | {seconds} |"


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    workspace = kd.Workspace.at(arguments.root, "rehearsal-full")
    proxy = partial(kd.train, workspace, preset=PRESET, folds=FOLDS)
    print(f"| `{PRESET}`, {FOLDS} folds | runs | errors | log-loss | seconds of training a fold |")
    print("| --- | --- | --- | --- | --- |")
    for name, settings in VARIATIONS.items():
        runs = [proxy(settings=settings, seed=seed) for seed in range(arguments.seeds)]
        print(row(name, runs), flush=True)
    # Seeds and preprocessings in step, so that both means are over as many seeds and splits.
    choices = {"all plain": ["plain"] * len(PREPROCESSINGS), "a preprocessing each": list(PREPROCESSINGS)}
    for name, choice in choices.items():
        runs = [proxy(settings={"preprocessing": each}, seed=seed) for seed, each in enumerate(choice)]
        mean = kd.ensemble(workspace, [run.name for run in runs])
        print(row(f"{len(runs)} runs, {name}", runs))
        print(row("their mean", [mean]), flush=True)


if __name__ == "__main__":
    main()
