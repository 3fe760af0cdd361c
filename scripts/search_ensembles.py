"""Compare recipes by the errors of the mean of all their folds, on training rows that were held out.

    python scripts/search_ensembles.py --root DIR [--candidate NAME ...]

The files of `rehearsal-full` are below DIR already. A sixth of the training rows is held out, the other rows are
trained on with the folds of a candidate, and the mean of its networks predicts the held-out rows; this is done for
four of the six parts, so that the errors are those on 28,000 rows. The recipes of a preset have a sixth more rows
and compute. Results stay below DIR, so that a second call trains only what is missing. The test rows are not used.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_digits import Workspace
from kaggle_digits.data.csv import Data, LabelledDigits, UnlabelledDigits, load_train
from kaggle_digits.data.folds import make_folds
from kaggle_digits.evaluation.significance import mcnemar_p
from kaggle_digits.files import replacing
from kaggle_digits.training.fold import FoldTask, train_fold
from kaggle_digits.training.presets import find_preset

PARTS, USED = 6, 4
SEED_OF_PARTS = 100
SMALL = {"widths": "16,16,32", "epochs": 9, "hard_rows": 0.2, "other_rows": 0.175, "learning_rate": 12e-3}
WEAK = {"rotation": 5, "scale": 0.05, "shear": 0.06, "shift": 0.9, "elastic": 0.25}
LARGE = {"widths": "16,32,64", "learning_rate": 12e-3}
CANDIDATES: dict[str, tuple[int, dict[str, Any]]] = {
    "4 folds, widths 16,16,32, 9 epochs": (4, SMALL | {"batch_size": 128}),
    "the same, batches of 64": (4, SMALL),
    "the same, learning rate .018": (4, SMALL | {"batch_size": 128, "learning_rate": 18e-3}),
    "the same, weaker augmentation": (4, SMALL | WEAK | {"batch_size": 128}),
    "3 folds, widths 16,16,32, 12 epochs": (
        3,
        SMALL | {"epochs": 12, "hard_rows": 0.2, "other_rows": 0.2, "batch_size": 128},
    ),
    "4 folds, widths 16,32,64, 5 epochs": (4, LARGE | {"epochs": 5, "hard_rows": 0.15, "other_rows": 0.1}),
    "2 folds, widths 16,32,64, 10 epochs": (2, LARGE | {"epochs": 10, "hard_rows": 0.25, "other_rows": 0.25}),
}
"""The folds of each candidate, and its settings that differ from `default`; the first is the reference."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


def train_candidate(name: str, part: int, fold: int, data: Path, file: Path) -> None:
    """Train a fold of a candidate without the rows of a part, and save its predictions for them."""
    (folds, changes), rows = CANDIDATES[name], load_train(data)
    held = make_folds(rows.labels, PARTS, SEED_OF_PARTS) == part
    train = LabelledDigits(rows.images[~held], rows.labels[~held], "")
    test = UnlabelledDigits(rows.images[held], np.arange(held.sum()), "")
    settings = find_preset("default").with_settings(changes).settings
    task = FoldTask(settings, 0, fold, make_folds(train.labels, folds, 0))
    result = train_fold(task, Data(train, test))
    with replacing(file) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, softmax=result.test_softmax, tflop=result.metrics["tflop"])


def main() -> None:
    """Train what is missing, and print a line for each candidate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--candidate", nargs="+", default=list(CANDIDATES), choices=CANDIDATES)
    arguments = parser.parse_args()
    os.environ |= ONE_THREAD | {"KERAS_BACKEND": "tensorflow"}
    data, folder = Workspace.at(arguments.root, "rehearsal-full").data, arguments.root / "search-ensembles"
    folder.mkdir(exist_ok=True)
    files = {
        (name, part, fold): folder / f"{list(CANDIDATES).index(name)}.{part}.{fold}.npz"
        for name in arguments.candidate
        for part in range(USED)
        for fold in range(CANDIDATES[name][0])
    }
    missing = [(*key, data, file) for key, file in files.items() if not file.exists()]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), max_tasks_per_child=1) as pool:
        list(pool.map(train_candidate, *zip(*missing, strict=True)))  # `list` raises what a process raised
    labels = load_train(data).labels
    parts = make_folds(labels, PARTS, SEED_OF_PARTS)
    wrong: dict[str, Any] = {}
    print(f"| candidate | errors of {(parts < USED).sum():,} | of one network | log-loss | p | TFLOP |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in arguments.candidate:
        folds, outcomes, single, losses, tflop = CANDIDATES[name][0], [], [], [], 0.0
        for part in range(USED):
            truth, saved = labels[parts == part], [np.load(files[name, part, fold]) for fold in range(folds)]
            softmaxes = np.stack([each["softmax"] for each in saved])
            # Sharpened, because label smoothing makes the networks underconfident.
            mean = softmaxes.mean(0) ** 2
            losses.append(-np.log((mean / mean.sum(1, keepdims=True))[range(len(truth)), truth]))
            outcomes.append(mean.argmax(1) != truth)
            single.append((softmaxes.argmax(2) != truth).sum() / folds)
            tflop += sum(float(each["tflop"]) for each in saved) / USED
        wrong[name] = np.concatenate(outcomes)
        one, two = wrong[name], wrong[arguments.candidate[0]]
        p = mcnemar_p(int((one & ~two).sum()), int((two & ~one).sum()))
        loss = np.concatenate(losses).mean()
        print(f"| {name} | {one.sum()} | {sum(single):.0f} | {loss:.5f} | {p:.2g} | {tflop:.1f} |")


if __name__ == "__main__":
    main()
