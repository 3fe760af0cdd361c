"""How long the training of each preset takes on this machine, from a few real steps."""

from statistics import median
from typing import Any

import numpy as np

from kaggle_digits.data.csv import Data, LabelledDigits, UnlabelledDigits
from kaggle_digits.execution import Job
from kaggle_digits.execution.machine import default_workers
from kaggle_digits.execution.places.processes import Processes
from kaggle_digits.files import temporary_folder
from kaggle_digits.runs.artefacts import FoldFolder
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.presets import PRESETS, Preset
from kaggle_digits.training.schedule import plan_steps
from kaggle_digits.workspace import FULL_TEST_ROWS, FULL_TRAIN_ROWS, SIDE

EPOCHS, STEPS = 6, 4
"""The epochs that are trained of each preset, and the steps of each; in the first, the network is compiled."""
START_SECONDS = 6.0
"""What a worker takes to load TensorFlow and to compile the network."""


def summarise_presets() -> list[dict[str, Any]]:
    """Return what the command ``presets`` shows: one row per preset, with the expected time on this machine."""
    speeds = measure_speeds()
    return [
        {
            "name": preset.name,
            "summary": preset.summary,
            "folds": preset.folds,
            "score": preset.result.score,
            "tflop": preset.result.tflop,
            "seconds": round(_seconds(preset, speeds[preset.name])),
        }
        for preset in PRESETS.values()
    ]


def measure_speeds() -> dict[str, float]:
    """Return how many rows a worker trains per second, by preset, while every core trains."""
    rng, workers = np.random.default_rng(0), default_workers(max(preset.folds for preset in PRESETS.values()))
    changes = {"epochs": EPOCHS, "hard_rows": 0, "other_rows": 1}
    settings = {name: preset.with_settings(changes).settings for name, preset in PRESETS.items()}
    rows = STEPS * max(each.batch_size for each in settings.values()) + 1
    images, labels = rng.integers(0, 256, (rows, SIDE, SIDE), np.uint8), np.zeros(rows, np.uint8)
    data = Data(LabelledDigits(images, labels, ""), UnlabelledDigits(images[:1], np.arange(1), ""))
    split = (np.arange(rows) == 0).astype(np.uint8)  # one validation row, in fold 1
    with temporary_folder() as folder:
        # In this order, all workers train the same preset at the same time.
        jobs = {
            (name, seed): Job(FoldTask(each, seed, 1, split), folder / f"{name}-{seed}")
            for name, each in settings.items()
            for seed in range(workers)
        }
        list(Processes(workers).train(list(jobs.values()), data, Observer()))
        speeds: dict[str, list[float]] = {name: [] for name in settings}
        for (name, _), job in jobs.items():
            speeds[name] += [epoch["images_per_second"] for epoch in FoldFolder(job.folder).history()[1:]]
    return {name: median(of_epochs) for name, of_epochs in speeds.items()}


def _seconds(preset: Preset, speed: float) -> float:
    """Return how long the training of a preset takes with 42,000 training rows and 28,000 test rows."""
    val_rows = FULL_TRAIN_ROWS // preset.folds
    batch_size, steps = plan_steps(FULL_TRAIN_ROWS - val_rows, preset.settings)
    # A prediction is the forward pass only: a third of the operations of a training step.
    rows = batch_size * sum(steps) + (val_rows + FULL_TEST_ROWS) / 3
    # With five folds on two workers, one of them trains three.
    return START_SECONDS + -(-preset.folds // default_workers(preset.folds)) * rows / speed
