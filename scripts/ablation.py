"""Ablation study of the preset `fast`: change one setting at a time and train with several seeds.

    python scripts/ablation.py --root DIR [--seeds N]

Each variation is trained with two folds on the 42,000 rows of `rehearsal-full`, which must already be downloaded
into DIR, and is evaluated on all rows, out-of-fold. The hidden labels of the test rows are not used. The runs are
saved in DIR, so that a second call trains only the missing ones.
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
    "the preset": {},
    "no elastic augmentation": {"elastic": 0},
    "no augmentation": {"rotation": 0, "scale": 0, "shear": 0, "shift": 0, "elastic": 0},
    "augmentation strength from 60 % to 100 %": {"ramp": 0.6},
    "no hard-example mining: the same number of rows, chosen at random": {"hard_rows": 0, "other_rows": 0.5},
    "no label smoothing": {"label_smoothing": 0},
    "no dropout": {"dropout": 0},
    "no weight decay": {"weight_decay": 0},
    "beta_2 of .999": {"beta_2": 0.999},
    "constant learning rate of .001": {"schedule": "constant", "learning_rate": 1e-3},
    "batch of 128": {"batch_size": 128},
    "no test-time augmentation": {"tta": 1},
}


def row(name: str, runs: Sequence[Run]) -> str:
    """Return a row of the table: means over the runs, and the standard deviation of the errors."""
    metrics = [run.ensemble_metrics() for run in runs]
    errors = [m.errors for m in metrics]
    deviation = f" ± {statistics.stdev(errors):.0f}" if len(runs) > 1 else ""
    loss = statistics.mean(m.calibration.log_loss_after for m in metrics)
    folds = [(run, fold) for run in runs if isinstance(run, FoldsRun) for fold in run.trained_folds()]
    times = [run.fold_metrics(fold).training_seconds for run, fold in folds]
    seconds = f"{min(times):.0f}" if times else ""
    return f"| {name} | {len(runs)} | {statistics.mean(errors):.0f}{deviation} | {loss:.4f} | {seconds} |"


def main() -> None:
    """Train the missing runs and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    workspace = kd.Workspace.at(arguments.root, "rehearsal-full")
    train = partial(kd.train, workspace, preset=PRESET, folds=FOLDS)
    print(f"| `{PRESET}`, {FOLDS} folds | runs | errors | log-loss | training seconds per fold |")
    print("| --- | --- | --- | --- | --- |")
    for name, settings in VARIATIONS.items():
        runs = [train(settings=settings, seed=seed) for seed in range(arguments.seeds)]
        print(row(name, runs), flush=True)
    # Each run has another seed in both cases, so that both means are over the same seeds and splits.
    choices = {
        "all with the same preprocessing": ["plain"] * len(PREPROCESSINGS),
        "each with another": list(PREPROCESSINGS),
    }
    for name, choice in choices.items():
        runs = [train(settings={"preprocessing": each}, seed=seed) for seed, each in enumerate(choice)]
        mean = kd.ensemble(workspace, [run.name for run in runs])
        print(row(f"{len(runs)} runs, {name}", runs))
        print(row("their mean", [mean]), flush=True)


if __name__ == "__main__":
    main()
