"""Score presets on several splits of MNIST, and on MNIST's own split into 60,000 and 10,000 images.

    python scripts/score_presets.py --mnist-dir DIR --root DIR [--preset NAME ...] [--split NAME ...]
    python scripts/score_presets.py --draw

One split of 28,000 rows gives a score with a 95 % interval of ± .0006, so a preset is judged by the mean of three.
The split "0" is that of the competition `rehearsal-full`; "1" and "2" are made in the same way in another order;
"mnist" is MNIST's own. Runs stay below the root, so that a second call trains only what is missing. The labels of
the test rows are read once, when all runs are finished. `--draw` draws docs/score-against-compute.svg from the
results in the table of presets, and from published results.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import kaggle_digits as kd
from kaggle_digits.arrays import UInt8
from kaggle_digits.evaluation.significance import mcnemar_p
from kaggle_digits.hosts.idx import read_mnist
from kaggle_digits.hosts.local import shuffled, write_images_csv, write_submission_csv
from kaggle_digits.runs.directory import Run
from kaggle_digits.training.compute import training_flops
from kaggle_digits.training.presets import PRESETS, build_network, find_preset
from kaggle_digits.workspace import FULL_TRAIN_ROWS, SAMPLE_CSV, TEST_CSV, TRAIN_CSV

SPLITS = ("0", "1", "2")
MNIST_TRAIN_ROWS, TEST_ROWS = 60_000, 28_000
PLOT = Path(__file__).parents[1] / "docs" / "score-against-compute.svg"
# 15 networks, 45 epochs of 37,800 rows each, 91 MFLOP per image (counted by scripts/benchmark.py), and the score
# on Kaggle's leaderboard: https://github.com/cdeotte/MNIST-CNN-99.75
PUBLISHED = (("cdeotte, 15 networks", 15 * 45 * 37_800 * 91e6 / 1e12, 0.99757),)


def row_numbers(split: str, rows: int) -> tuple[Sequence[int], Sequence[int]]:
    """Return the numbers of the training rows and of the test rows of a split."""
    if split == "mnist":
        return range(MNIST_TRAIN_ROWS), range(MNIST_TRAIN_ROWS, rows)
    order = shuffled(rows, "rehearsal-full" if split == "0" else f"rehearsal-full {split}")
    return order[:FULL_TRAIN_ROWS], order[FULL_TRAIN_ROWS:]


def prepare(root: Path, split: str, images: UInt8, labels: UInt8) -> kd.Workspace:
    """Write the files of a split, without the labels of the test rows, unless they are there already."""
    workspace = kd.Workspace.at(root / f"split-{split}", "rehearsal-full")
    if not workspace.data.exists():
        train, test = (list(numbers) for numbers in row_numbers(split, len(images)))
        files = root / f"files-{split}"
        files.mkdir(parents=True, exist_ok=True)
        write_images_csv(files / TRAIN_CSV, images[train], labels[train])
        write_images_csv(files / TEST_CSV, images[test])
        write_submission_csv(files / SAMPLE_CSV, np.zeros_like(labels[test]))
        kd.download(workspace, source=files)
    return workspace


def compute(preset: str, split: str) -> float:
    """Return the compute of the training of a preset, in TFLOP."""
    rows = MNIST_TRAIN_ROWS if split == "mnist" else FULL_TRAIN_ROWS
    folds, settings = find_preset(preset).folds, find_preset(preset).settings
    # Folds differ by at most one row for each digit, which is at most one step.
    return folds * training_flops(settings, rows - rows // folds, build_network(settings)) / 1e12


def draw() -> None:
    """Draw the scores of the presets and of published recipes against the compute of their training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    points = [(name, p.result.tflop, p.result.scores) for name, p in PRESETS.items()]
    for name, tflop, scores in points:
        mean = float(np.mean(scores))
        interval = 1.96 * (mean * (1 - mean) / (TEST_ROWS * len(scores))) ** 0.5
        axes.errorbar(tflop, mean, interval, fmt="o", color="#2563eb", capsize=3)
        axes.annotate(name, (tflop, mean), textcoords="offset points", xytext=(7, -4), fontsize="small")
    for name, tflop, score in PUBLISHED:
        axes.plot(tflop, score, "s", color="#9ca3af")
        axes.annotate(
            name, (tflop, score), textcoords="offset points", xytext=(-7, 8), ha="right", fontsize="small"
        )
    axes.set(
        xscale="log",
        xlabel="compute of the training, TFLOP",
        ylabel=f"score on {TEST_ROWS:,} unseen rows",
    )
    axes.set_xticks(ticks := (3, 10, 30, 100, 300, 1_000, 3_000), labels=[f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(3, 4_000)
    axes.grid(alpha=0.3)
    figure.savefig(PLOT, metadata={"Date": None})
    print(f"Drawn: {PLOT}")


def main() -> None:
    """Train what is missing, then read all scores and print them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mnist-dir", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--preset", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--split", nargs="+", default=SPLITS, choices=(*SPLITS, "mnist"))
    arguments = parser.parse_args()
    if arguments.draw:
        draw()
        return
    if arguments.mnist_dir is None or arguments.root is None:
        parser.error("--mnist-dir and --root are required")
    images, labels = read_mnist(arguments.mnist_dir)
    workspaces = {split: prepare(arguments.root, split, images, labels) for split in arguments.split}
    runs: dict[str, dict[str, Run]] = {}
    for preset, (split, workspace) in itertools.product(arguments.preset, workspaces.items()):
        runs.setdefault(preset, {})[split] = kd.train(workspace, preset=preset)
    wrong: dict[str, list[UInt8]] = {preset: [] for preset in runs}
    print("| preset | split | out-of-fold errors | errors | score | TFLOP | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for preset, of_splits in runs.items():
        for split, run in of_splits.items():
            _, test = row_numbers(split, len(images))
            wrong[preset].append(run.test_softmax().argmax(1) != labels[list(test)])
            errors, rows, metrics = int(wrong[preset][-1].sum()), len(test), run.ensemble_metrics()
            cost = f"{compute(preset, split):.0f} | {run.info.train_seconds or float('nan'):.0f}"
            out_of_fold = f"{metrics.errors} of {metrics.rows:,}"
            print(f"| {preset} | {split} | {out_of_fold} | {errors} | {1 - errors / rows:.5f} | {cost} |")
        pooled = np.concatenate(wrong[preset])
        print(f"| {preset} | mean | | {pooled.sum()} | {np.mean([1 - w.mean() for w in wrong[preset]]):.5f} | | |")
    for first, second in itertools.combinations(wrong, 2):
        one, two = (np.concatenate(wrong[preset]) for preset in (first, second))
        only_one, only_two = int((one & ~two).sum()), int((two & ~one).sum())
        print(
            f"{first} and {second}: errors made by one of them only {only_one} and {only_two}; "
            f"McNemar's exact test p = {mcnemar_p(only_one, only_two):.2g}"
        )


if __name__ == "__main__":
    main()
