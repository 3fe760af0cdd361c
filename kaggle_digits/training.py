"""One fold's training, from start to end."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.augment import augment
from kaggle_digits.errors import UsageError
from kaggle_digits.metrics import accuracy, log_loss, summarise
from kaggle_digits.models import softmax_function
from kaggle_digits.recipes import Settings, find_recipe

SECONDS_BETWEEN_REPORTS = 1.0


@dataclass(frozen=True)
class Digits:
    """All that the folds of a run are trained on.

    Attributes
    ----------
    images : ndarray of uint8, shape (n, 28, 28)
        The training rows.
    labels : ndarray of uint8, shape (n,)
        Their digits.
    folds : ndarray of uint8, shape (n,)
        The fold that each row validates.
    test_images : ndarray of uint8, shape (m, 28, 28)
        The test rows, which have no labels.
    """

    images: UInt8
    labels: UInt8
    folds: UInt8
    test_images: UInt8


@dataclass(frozen=True)
class FoldTask:
    """One fold to train.

    Attributes
    ----------
    preset : str
        Names the network.
    settings : Settings
        How to train it.
    seed : int
        The run's; every random draw follows from it, the fold and the step.
    fold : int
        The rows of this fold are left out.
    """

    preset: str
    settings: Settings
    seed: int
    fold: int


@dataclass(frozen=True)
class Progress:
    """How far a fold is.

    Attributes
    ----------
    fold, epoch, epochs : int
        `epoch` counts from 1.
    done : float
        Share of the fold's steps, 0 to 1.
    loss : float
        Mean training loss of the epoch so far.
    val_accuracy : float or None
        On the fold's own rows at the end of the last whole epoch.
    images_per_second : float
        Of training, in the epoch so far.
    """

    fold: int
    epoch: int
    epochs: int
    done: float
    loss: float
    val_accuracy: float | None
    images_per_second: float


@dataclass(frozen=True)
class FoldResult:
    """A trained fold.

    Attributes
    ----------
    model : bytes
        The network in the ``.keras`` format.
    history : list of dict
        An epoch each: ``epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds,
        images_per_second``. ``seconds`` is the time of training alone.
    val_softmax : ndarray of float32, shape (n_k, 10)
        Of the fold's own rows, in the order of ``train.csv``.
    test_softmax : ndarray of float32, shape (m, 10)
        Of the test rows.
    metrics : dict
        ``rows, errors, accuracy, log_loss`` on the fold's own rows, ``epochs``, ``parameters`` and
        ``seconds`` by kind.
    """

    model: bytes
    history: list[dict[str, float]]
    val_softmax: Float32
    test_softmax: Float32
    metrics: dict[str, Any]


def train_fold(task: FoldTask, digits: Digits, report: Callable[[Progress], None]) -> FoldResult:
    """Train a fold's network on all other folds' rows, and predict its own rows and the test rows.

    The last epoch is what counts: the fold's own rows select nothing. A last batch that would be smaller than
    the others is left out; the rows in it are others in every epoch.

    Parameters
    ----------
    task : FoldTask
        What to train.
    digits : Digits
        The rows.
    report : callable
        Called about every second, and at the end of every epoch.

    Raises
    ------
    UsageError
        If the training diverges.
    """
    import keras
    import tensorflow as tf

    started = time.perf_counter()
    settings = task.settings
    inside, outside = digits.folds != task.fold, digits.folds == task.fold
    val_images, val_labels = digits.images[outside], digits.labels[outside]
    images = tf.constant(digits.images[inside][..., None])
    labels = tf.constant(digits.labels[inside].astype(np.int32))
    rows = len(labels)
    batch_size = min(settings.batch_size, rows)
    steps = rows // batch_size

    keras.utils.set_random_seed(_seed(task.seed, task.fold))
    model = find_recipe(task.preset).network(settings)
    optimizer = keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay)
    optimizer.build(model.trainable_variables)
    predict = softmax_function(model)

    @tf.function  # type: ignore[untyped-decorator]
    def train_step(batch: Any, learning_rate: Any, seed: Any) -> tuple[Any, Any]:
        x = tf.cast(tf.gather(images, batch), tf.float32)
        y = tf.gather(labels, batch)
        if settings.augments:
            x = augment(x, settings, seed)
        targets = tf.one_hot(y, 10, 1 - 0.9 * settings.label_smoothing, 0.1 * settings.label_smoothing)
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss, tf.reduce_mean(tf.cast(tf.argmax(logits, 1, tf.int32) == y, tf.float32))

    history: list[dict[str, float]] = []
    training_seconds = 0.0
    for epoch in range(settings.epochs):
        shuffle = np.random.default_rng([task.seed, task.fold, epoch]).permutation(rows)
        batches = shuffle[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)
        losses, accuracies = np.empty(steps), np.empty(steps)
        epoch_started = last_report = time.perf_counter()
        for step, batch in enumerate(batches):
            at = epoch * steps + step
            rate = learning_rate_at(at, settings.epochs * steps, settings)
            seed = _seed(task.seed, task.fold, epoch, step)
            loss, right = train_step(
                tf.constant(batch), tf.constant(rate, tf.float32), tf.constant([seed, step], tf.int32)
            )
            losses[step], accuracies[step] = float(loss), float(right)
            now = time.perf_counter()
            if now - last_report > SECONDS_BETWEEN_REPORTS:
                last_report = now
                report(
                    Progress(
                        fold=task.fold,
                        epoch=epoch + 1,
                        epochs=settings.epochs,
                        done=(at + 1) / (settings.epochs * steps),
                        loss=float(losses[: step + 1].mean()),
                        val_accuracy=history[-1]["val_accuracy"] if history else None,
                        images_per_second=(step + 1) * batch_size / (now - epoch_started),
                    )
                )
        seconds = time.perf_counter() - epoch_started
        training_seconds += seconds
        val_softmax = predict(val_images)
        if not np.isfinite(val_softmax).all():
            raise UsageError(
                f"The training of fold {task.fold} diverged in epoch {epoch + 1}.",
                "Choose a lower learning_rate with --set.",
            )
        history.append(
            {
                "epoch": epoch + 1,
                "loss": float(losses.mean()),
                "accuracy": float(accuracies.mean()),
                "val_loss": log_loss(val_softmax, val_labels),
                "val_accuracy": accuracy(val_softmax, val_labels),
                "learning_rate": rate,
                "seconds": seconds,
                "images_per_second": steps * batch_size / seconds,
            }
        )
        report(
            Progress(
                fold=task.fold,
                epoch=epoch + 1,
                epochs=settings.epochs,
                done=(epoch + 1) / settings.epochs,
                loss=history[-1]["loss"],
                val_accuracy=history[-1]["val_accuracy"],
                images_per_second=history[-1]["images_per_second"],
            )
        )

    predicting = time.perf_counter()
    test_softmax = predict(digits.test_images)
    finished = time.perf_counter()
    return FoldResult(
        model=_keras_bytes(model),
        history=history,
        val_softmax=val_softmax,
        test_softmax=test_softmax,
        metrics={
            **summarise(val_softmax, val_labels),
            "epochs": settings.epochs,
            "parameters": model.count_params(),
            "seconds": finished - started,
            "training_seconds": training_seconds,
            "test_seconds": finished - predicting,
        },
    )


def learning_rate_at(step: int, steps: int, settings: Settings) -> float:
    """Return the learning rate of a step, counted from 0, of `steps` in all epochs together."""
    if settings.schedule == "constant":
        return settings.learning_rate
    rising = settings.warm_up * steps
    if step < rising:
        return settings.learning_rate * (step + 1) / (rising + 1)
    return settings.learning_rate * (steps - step) / (steps - rising)


def _seed(*path: int) -> int:
    """Return a seed of 31 bits that is a function of the whole path, as independent as `SeedSequence` makes it."""
    return int(np.random.SeedSequence(path).generate_state(1)[0] >> 1)


def _keras_bytes(model: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()
