"""The training of one fold."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.errors import UsageError
from kaggle_digits.evaluation.metrics import accuracy, log_loss, summarise
from kaggle_digits.training.augmentation import augment
from kaggle_digits.training.checkpoint import FoldCheckpoint
from kaggle_digits.training.compute import training_flops
from kaggle_digits.training.models import keras_bytes, softmax_function, with_test_time_augmentation
from kaggle_digits.training.own_network import OwnNetwork
from kaggle_digits.training.preprocessing import preprocess
from kaggle_digits.training.presets import Settings, build_network
from kaggle_digits.training.schedule import choose_rows, learning_rate_at, plan_steps
from kaggle_digits.workspace import CLASSES, SIDE

if TYPE_CHECKING:
    import keras

SECONDS_BETWEEN_REPORTS = 1.0
CURVE_ROWS = 500
"""How many validation rows are predicted after each epoch except the last, for the learning curve."""


@dataclass(frozen=True, eq=False)
class FoldTask:
    """One fold to train."""

    settings: Settings
    seed: int  # of the run; all random numbers depend on it, the fold and the step
    fold: int  # its rows are used for validation, all others for training
    split: UInt8  # the fold of each training row, [n]
    network: OwnNetwork | None = None  # None for the one that the settings describe
    tensorboard: bool = False  # whether to write event files into the folder of the fold

    @property
    def title(self) -> str:
        """The name of the fold in messages."""
        return f"fold {self.fold} of seed {self.seed}"


@dataclass(frozen=True)
class Progress:
    """The progress of the training of a fold."""

    seed: int
    fold: int
    epoch: int  # counted from 1
    epochs: int
    done: float  # the share of all training steps of the fold, 0 to 1
    loss: float  # the mean training loss of the current epoch so far
    val_accuracy: float | None  # after the last complete epoch
    images_per_second: float  # in the current epoch so far
    is_epoch_end: bool  # complete and validated; each epoch has exactly one such report


@dataclass(frozen=True)
class FoldResult:
    """A trained fold."""

    model: bytes  # in the ``.keras`` format: preprocessed grey values to logits
    # One entry per epoch: ``epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds,
    # images_per_second``. ``val_loss`` and ``val_accuracy`` are those of the first 500 validation rows without
    # test-time augmentation; after the last epoch, of all validation rows and with that of the settings.
    history: list[dict[str, float]]
    val_softmax: Float32  # [n_k, 10], in the order of ``train.csv``
    test_softmax: Float32  # [m, 10]
    metrics: dict[str, Any]  # the fields of `kaggle_digits.runs.schema.FoldMetrics`


def train_fold(
    task: FoldTask,
    data: Data,
    report: Callable[[Progress], None] = lambda progress: None,
    folder: Path | None = None,
) -> FoldResult:
    """Train the network of a fold; with its folder, from its checkpoint on, with the same result to the byte."""
    import keras

    # Not `model.fit`: it cannot select the rows of an epoch by their likelihoods in the previous epochs, and it
    # cannot resume a training with exactly the same result.
    trainer = FoldTrainer(task, data)
    checkpoint = FoldCheckpoint(folder) if folder else None
    if checkpoint:
        trainer.restore(checkpoint)
    callbacks = []
    if folder and task.tensorboard:
        if not trainer.history:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # events of an earlier training
        callbacks = [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]
    tensorboard = keras.callbacks.CallbackList(callbacks, model=trainer.model)
    tensorboard.on_train_begin()
    # No early stopping and no selection by validation accuracy: the result is the network after the last epoch, so
    # that the out-of-fold accuracy is an unbiased estimate.
    for epoch in range(len(trainer.history), task.settings.epochs):
        trainer.train_epoch(epoch, report)
        if checkpoint:
            checkpoint.save(trainer.variables, trainer.likelihood, trainer.history)
        tensorboard.on_epoch_end(epoch, trainer.history[-1].copy())
    tensorboard.on_train_end()
    return trainer.result()


class FoldTrainer:
    """The state and the steps of the training of a fold, in the order in which `train_fold` calls them."""

    # All random numbers depend only on the seed of the run, the fold, the epoch and the step, and not on those
    # drawn before. A resumed training therefore draws the same random numbers as an uninterrupted one.

    def __init__(self, task: FoldTask, data: Data) -> None:
        import keras
        import tensorflow as tf

        self._started = time.perf_counter()
        self._task, self._settings = task, task.settings
        is_val = task.split == task.fold
        self._preprocessing = task.settings.preprocessing_of(task.fold)
        self._val_images = preprocess(data.train.images[is_val], self._preprocessing)
        self._val_labels = data.train.labels[is_val]
        self._test_images = data.test.images
        # On the device from the start, as uint8, so that a step only sends the numbers of its rows.
        self._images = tf.constant(preprocess(data.train.images[~is_val], self._preprocessing)[..., None])
        self._labels = tf.constant(data.train.labels[~is_val].astype(np.int32))
        self._data_seconds = time.perf_counter() - self._started
        self._batch_size, steps = plan_steps(len(self._labels), task.settings)
        self._first_steps = [0, *accumulate(steps)]  # of each epoch, and the number of all steps

        compiled = compiled_network(task.settings, task.network, self._batch_size)
        self.model, self._train_step, self._predict_once = compiled.model, compiled.train_step, compiled.predict
        self._predict = with_test_time_augmentation(self._predict_once, task.settings.tta)
        # This seed determines the initial weights. It also seeds the dropout layers, until the first epoch.
        keras.utils.set_random_seed(_seed(task.seed, task.fold))
        initial = [*build_network(task.settings, task.network).variables, *compiled.optimizer_start]
        self.variables = [*self.model.variables, *compiled.optimizer.variables]
        for variable, value in zip(self.variables, initial, strict=True):
            variable.assign(value)
        self._val_softmax: Float32 | None = None
        # The probability of each training row's label when the network was last trained on it. The first epoch
        # replaces these zeros, except for the rows of its dropped last batch, which thus count as hard after it.
        self.likelihood: Float32 = np.zeros(len(self._labels), np.float32)
        self.history: list[dict[str, float]] = []  # the finished epochs, as in `FoldResult`

    def restore(self, checkpoint: FoldCheckpoint) -> None:
        """Continue from the saved state if it fits; an upgrade may have changed network or optimiser."""
        values, likelihood, history = checkpoint.load() or ([], self.likelihood, [])
        found = [(value.shape, value.dtype.name) for value in values]
        wanted = [(tuple(variable.shape), variable.dtype) for variable in self.variables]
        # Comparing the number of rows is enough: the rows of a fold are fixed by the split of the run.
        if found != wanted or likelihood.shape != self.likelihood.shape:
            return
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)
        self.likelihood, self.history = likelihood, history
        # The time of a resumed training includes the epochs before the interruption.
        self._started -= sum(row["seconds"] for row in history)

    def train_epoch(self, epoch: int, report: Callable[[Progress], None]) -> None:
        """Train one epoch, counted from 0, validate the network, and add both to the history."""
        import tensorflow as tf

        first, end, all_steps = self._first_steps[epoch], self._first_steps[epoch + 1], self._first_steps[-1]
        # A new generator for each epoch, so that its random numbers do not depend on the previous epochs.
        rng = np.random.default_rng([self._task.seed, self._task.fold, epoch])
        rows = choose_rows(self.likelihood, epoch, self._settings, rng)
        batches = rows[: (end - first) * self._batch_size].reshape(-1, self._batch_size)
        seed = _seed(self._task.seed, self._task.fold, epoch)
        for layer in self.model.layers:
            if hasattr(layer, "seed_generator"):  # dropout
                layer.seed_generator.state.assign([seed, 0])
        outcomes = []
        started = last_report = time.perf_counter()
        for step, batch in enumerate(batches, first):
            learning_rate = learning_rate_at(step, all_steps, self._settings)
            # Tensors instead of Python numbers: TensorFlow would compile the step again for each new number.
            outcome = self._train_step(
                self._images,
                self._labels,
                tf.constant(batch, tf.int32),
                tf.constant(learning_rate, tf.float32),
                tf.constant([seed, step - first], tf.int32),
            )
            outcomes.append(outcome)
            now = time.perf_counter()
            if now - last_report > SECONDS_BETWEEN_REPORTS:
                last_report = now
                loss = float(np.mean([loss for loss, _, _ in outcomes]))
                speed = len(outcomes) * self._batch_size / (now - started)
                report(self._progress(epoch, (step + 1) / all_steps, loss, speed))
        # Read only at the end of the epoch: reading after each step would make a GPU wait for the CPU.
        losses, accuracies, likelihoods = (np.array(values) for values in zip(*outcomes, strict=True))
        self.likelihood[batches] = likelihoods
        seconds = time.perf_counter() - started
        loss, speed = float(losses.mean()), batches.size / seconds
        self.history.append(
            {
                "epoch": epoch + 1,
                "loss": loss,
                "accuracy": float(accuracies.mean()),
                **self._validate(epoch),
                "learning_rate": learning_rate,
                "seconds": seconds,
                "images_per_second": speed,
            }
        )
        report(self._progress(epoch, end / all_steps, loss, speed, is_epoch_end=True))

    def _validate(self, epoch: int) -> dict[str, float]:
        """Return ``val_loss`` and ``val_accuracy``; `UsageError` if the outputs of the network are not finite."""
        # A learning curve needs only a part of the rows, and no test-time augmentation, which takes long in the
        # first epochs, when the network is unsure about most rows.
        if epoch + 1 < self._settings.epochs:
            softmax, labels = self._predict_once(self._val_images[:CURVE_ROWS]), self._val_labels[:CURVE_ROWS]
        else:
            softmax, labels = self._predict(self._val_images), self._val_labels
            self._val_softmax = softmax
        # Checked before the checkpoint is saved, so that a checkpoint never contains a diverged network.
        if not np.isfinite(softmax).all():
            raise UsageError(
                f"The training of {self._task.title} diverged in epoch {epoch + 1}.",
                "Choose a lower learning_rate with --set.",
            )
        return {"val_loss": log_loss(softmax, labels), "val_accuracy": accuracy(softmax, labels)}

    def _progress(
        self, epoch: int, done: float, loss: float, speed: float, is_epoch_end: bool = False
    ) -> Progress:
        return Progress(
            seed=self._task.seed,
            fold=self._task.fold,
            epoch=epoch + 1,
            epochs=self._settings.epochs,
            done=done,
            loss=loss,
            val_accuracy=self.history[-1]["val_accuracy"] if self.history else None,
            images_per_second=speed,
            is_epoch_end=is_epoch_end,
        )

    def result(self) -> FoldResult:
        """Predict the validation rows and the test rows, and return the result of the training."""
        from kaggle_digits.training.batch_normalization import with_keras_layers

        # A training that is resumed after its last epoch has not been validated by this process.
        val_softmax = self._predict(self._val_images) if self._val_softmax is None else self._val_softmax
        test_started = time.perf_counter()
        test_softmax = self._predict(preprocess(self._test_images, self._preprocessing))
        finished = time.perf_counter()
        return FoldResult(
            model=keras_bytes(with_keras_layers(self.model)),
            history=self.history,
            val_softmax=val_softmax,
            test_softmax=test_softmax,
            metrics={
                **summarise(val_softmax, self._val_labels),
                "preprocessing": self._preprocessing,
                "epochs": self._settings.epochs,
                "parameters": self.model.count_params(),
                "tflop": training_flops(self._settings, len(self._labels), self.model) / 1e12,
                "seconds": finished - self._started,
                "data_seconds": self._data_seconds,
                "training_seconds": sum(row["seconds"] for row in self.history),
                "test_seconds": finished - test_started,
                "peak_memory": _peak_memory(),
                "device": _device(),
                **({"network_sha256": self._task.network.sha256} if self._task.network else {}),
            },
        )


@dataclass(frozen=True)
class CompiledNetwork:
    """A network and its optimiser, with the functions that TensorFlow has compiled for them."""

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    optimizer_start: list[Any]  # the values of its variables before the first step
    train_step: Callable[..., tuple[Any, Any, Any]]
    predict: Callable[[UInt8], Float32]


@lru_cache(maxsize=1)
def compiled_network(settings: Settings, own: OwnNetwork | None, batch_size: int) -> CompiledNetwork:
    """Return the network that a process trains for all its folds, because compiling it takes seconds."""
    model = build_network(settings, own)
    # Callbacks read `model.optimizer`, so it must exist.
    model.optimizer = None
    optimizer = make_optimizer(model, settings)
    start = [np.array(variable) for variable in optimizer.variables]
    step = train_step_function(model, optimizer, settings, batch_size)
    return CompiledNetwork(model, optimizer, start, step, softmax_function(model))


def make_optimizer(model: keras.Model, settings: Settings) -> keras.optimizers.Optimizer:
    """Return the optimiser for a network, with all its variables: AdamW (Loshchilov and Hutter, 2019) or Muon."""
    import keras

    from kaggle_digits.training.muon import Muon

    kind = {"adamw": keras.optimizers.AdamW, "muon": Muon}[settings.optimizer]
    optimizer = kind(settings.learning_rate, settings.weight_decay, beta_2=settings.beta_2)
    # As usual, without weight decay for biases and for the scales and offsets of batch normalisation: small values
    # of these do not regularise the network.
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    # Create the variables now and not in the first step, so that a checkpoint can be restored into them.
    optimizer.build(model.trainable_variables)
    return optimizer


def train_step_function(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, settings: Settings, batch_size: int
) -> Callable[..., tuple[Any, Any, Any]]:
    """Return a function that trains on a batch: loss, accuracy, and the probability of each label before, [b]."""
    import tensorflow as tf

    smoothing = settings.label_smoothing

    # Images [n, 28, 28, 1] and labels [n] are those of all rows; `batch` has the row numbers of a batch. They are
    # arguments and not captured variables, because captured tensors stay in memory as long as the traced function.
    # AutoGraph would leave temporary files behind if the process is killed.
    @tf.function(  # type: ignore[untyped-decorator]
        jit_compile=compiles(),
        autograph=False,
        # The numbers of rows differ from fold to fold. With the shapes of the first, it would be compiled again.
        input_signature=[
            tf.TensorSpec([None, SIDE, SIDE, 1], tf.uint8),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([batch_size], tf.int32),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([2], tf.int32),
        ],
    )
    def train_step(images: Any, labels: Any, batch: Any, learning_rate: Any, seed: Any) -> tuple[Any, Any, Any]:
        x = tf.cast(tf.gather(images, batch), tf.float32)
        y = tf.gather(labels, batch)
        if settings.augments:
            x = augment(x, settings, seed)
        # Label smoothing (Szegedy et al., CVPR 2016): the smoothed part is distributed evenly over all ten
        # classes, including the label, so the label gets 1 - 9/10 of it and each other class 1/10 of it.
        targets = tf.one_hot(y, CLASSES, 1 - 0.9 * smoothing, 0.1 * smoothing)
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
            loss = tf.add_n([loss, *model.losses])  # the regularisers of the layers
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        # Computed from the logits of the training step, so with augmentation and dropout, but at no extra cost.
        correct = tf.reduce_mean(tf.cast(tf.argmax(logits, 1, tf.int32) == y, tf.float32))
        return loss, correct, tf.gather(tf.nn.softmax(logits), y, batch_dims=1)

    return train_step  # type: ignore[no-any-return]


def compiles() -> bool:
    """Tell whether the training step is compiled with XLA."""
    import tensorflow as tf

    # On a GPU, XLA fuses many small operations into a few kernels, which saves launch time. On a CPU, convolutions
    # in XLA are only half as fast as in TensorFlow, and TensorFlow's GPU plug-in for macOS does not support XLA.
    return sys.platform != "darwin" and bool(tf.config.list_physical_devices("GPU"))


def _seed(*path: int) -> int:
    """Return a seed that depends on all given numbers, of 31 bits because TensorFlow's are signed."""
    # With a sum such as `seed + fold`, fold 1 of seed 0 and fold 0 of seed 1 would get the same random numbers.
    return int(np.random.SeedSequence(path).generate_state(1)[0] >> 1)


def _device() -> str:
    """Return the name of the GPU, such as ``Tesla T4``, or ``CPU``."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {"device_name": "CPU"}
    return str(details.get("device_name", "GPU"))


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    import resource

    # `ru_maxrss` is in bytes on macOS, and in units of 1,024 bytes on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
