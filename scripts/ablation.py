"""Change one setting of a preset at a time, train a short proxy with several seeds, and print what it brought.

    python scripts/ablation.py --root DIR [--preset NAME] [--seeds N] [--only NAME ...]

The proxy is two folds of the 42,000 rows of `rehearsal-full`, which are below DIR already: each network learns
from half of the rows, and all of them count. Runs stay below DIR, so a second call trains only what is missing.
The hidden labels of the test rows play no part: everything here is out-of-fold.
"""

from __future__ import annotations

import argparse
import statistics

import kaggle_digits as kd

FOLDS = 2

VARIATIONS: dict[str, dict[str, object]] = {
    "as in the preset": {},
    "no elastic deformation": {"elastic": 0},
    "no deformation": {"rotation": 0, "scale": 0, "shear": 0, "shift": 0, "elastic": 0},
    "deformation at full strength from the start": {"ramp": 1},
    "no hard rows: as many, chosen at random": {"hard_rows": 0, "other_rows": 0.5},
    "no label smoothing": {"label_smoothing": 0},
    "no dropout": {"dropout": 0},
    "no weight decay": {"weight_decay": 0},
    "beta_2 of .999": {"beta_2": 0.999},
    "constant learning rate of .001": {"schedule": "constant", "learning_rate": 1e-3},
    "batch of 128": {"batch_size": 128},
    "one view": {"views": 1},
}


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIATIONS, default=list(VARIATIONS))
    arguments = parser.parse_args()
    workspace = kd.Workspace.at(arguments.root, "rehearsal-full")
    print(f"| `{arguments.preset}`, {FOLDS} folds, {arguments.seeds} seeds | errors | log-loss | seconds a fold |")
    print("| --- | --- | --- | --- |")
    for name in arguments.only:
        errors, losses, seconds = [], [], []
        for seed in range(arguments.seeds):
            run = kd.train(workspace, preset=arguments.preset, folds=FOLDS, seed=seed, settings=VARIATIONS[name])
            metrics = run.ensemble_metrics()
            errors.append(metrics["errors"])
            losses.append(metrics["calibration"]["log_loss_after"])
            seconds += [run.fold_metrics(fold)["training_seconds"] for fold in range(FOLDS)]
        deviation = f" ± {statistics.stdev(errors):.0f}" if len(errors) > 1 else ""
        print(
            f"| {name} | {statistics.mean(errors):.0f}{deviation} | {statistics.mean(losses):.4f} "
            f"| {statistics.mean(seconds):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
