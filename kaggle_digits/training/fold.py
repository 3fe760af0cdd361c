"""The training of one fold."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Float32, Int64, UInt8
from kaggle_digits.data.csv import Data
from kaggle_digits.errors import UsageError
from kaggle_digits.evaluation.metrics import accuracy, log_loss, summarise
from kaggle_digits.files import temporary_folder
from kaggle_digits.training.augmentation import augment
from kaggle_digits.training.compute import training_flops
from kaggle_digits.training.models import network_digest, softmax_function, with_test_time_augmentation
from kaggle_digits.training.preprocessing import preprocess
from kaggle_digits.training.presets import Settings, build_network
from kaggle_digits.training.schedule import augmentation_strength_at, choose_rows, learning_rate_at, plan_steps
from kaggle_digits.workspace import CLASSES

if TYPE_CHECKING:
    import keras

SECONDS_BETWEEN_REPORTS = 1.0
CURVE_ROWS = 2_000
"""How many validation rows are predicted after each epoch except the last, for the learning curve."""


class Checkpoint(Protocol):
    """Storage for the state of a training, so that it can be resumed."""

    def load(self) -> dict[str, Any] | None:
        """Return the last saved ``variables``, ``likelihood`` and ``history``, or None."""

    def save(
        self, variables: list[npt.NDArray[Any]], likelihood: Float32, history: list[dict[str, float]]
    ) -> None:
        """Save the state and replace the previous one."""


@dataclass(frozen=True, eq=False)
class FoldTask:
    """One fold to train."""

    preset: str
    settings: Settings
    seed: int  # of the run; all random numbers depend on it, the fold and the step
    fold: int  # its rows are used for validation, all others for training
    split: UInt8  # the fold of each training row, [n]
    tensorboard: bool = False  # whether to write event files into the folder of the fold
    network: str | None = None  # `network_digest` of finished folds, which this fold must have, too

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
    # images_per_second``. ``val_loss`` and ``val_accuracy`` are those of the first 2,000 validation rows without
    # test-time augmentation; after the last epoch, of all validation rows and with that of the settings.
    history: list[dict[str, float]]
    val_softmax: Float32  # [n_k, 10], in the order of ``train.csv``
    test_softmax: Float32  # [m, 10]
    metrics: dict[str, Any]  # the fields of `kaggle_digits.runs.schema.FoldMetrics`


def train_fold(
    task: FoldTask,
    data: Data,
    report: Callable[[Progress], None] = lambda progress: None,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FoldResult:
    """Train the network of a fold on the rows of all other folds; predict its validation rows and the test rows.

    The result is the network after the last epoch. There is no early stopping or selection by validation accuracy,
    so the out-of-fold accuracy is an unbiased estimate.

    `report` is called about once a second, and at the end of each epoch. The checkpoint saves the state after each
    epoch; an interrupted training is resumed from it, with byte-for-byte the same result as an uninterrupted one.
    The Keras callbacks are called at the start and the end of the training and at the end of each epoch, and must
    not change the network. A training that diverges raises a `UsageError`.
    """
    import keras

    # Not `model.fit`: it cannot select the rows of an epoch by their likelihoods in the previous epochs, and it
    # cannot resume a training with exactly the same result.
    trainer = FoldTrainer(task, data)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    callback_list = keras.callbacks.CallbackList(list(callbacks), model=trainer.model)
    callback_list.on_train_begin()
    for epoch in range(len(trainer.history), task.settings.epochs):
        trained = trainer.train_epoch(epoch, report)
        validated = trainer.validate(epoch)
        trainer.record(epoch, trained, validated)
        report(trainer.progress(epoch, trained))
        # Before the callbacks, so that no epoch is lost if one of them fails.
        if checkpoint is not None:
            trainer.save(checkpoint)
        callback_list.on_epoch_end(epoch, trainer.history[-1].copy())
    callback_list.on_train_end()
    return trainer.result()


class FoldTrainer:
    """The state and the steps of the training of a fold, in the order in which `train_fold` calls them.

    All random numbers depend only on the seed of the run, the fold, the epoch and the step, and not on the random
    numbers drawn before. A resumed training therefore draws the same random numbers as an uninterrupted one.
    """

    def __init__(self, task: FoldTask, data: Data) -> None:
        self._started = time.perf_counter()
        self._task, self._settings = task, task.settings
        self._prepare_rows(data)
        self._data_seconds = time.perf_counter() - self._started
        self._plan_steps()
        self._build()
        self.history: list[dict[str, float]] = []  # the finished epochs, as in `FoldResult`
        # The probability of each training row's label when the network was last trained on it.
        # The first epoch replaces these zeros, except for the rows of its dropped last batch. With a likelihood of
        # 0, these rows count as hard, so the second epoch contains them.
        self.likelihood: Float32 = np.zeros(len(self._labels), np.float32)
        self._resumed_epochs = 0

    def _prepare_rows(self, data: Data) -> None:
        """Split the rows into training and validation rows, and preprocess them."""
        import tensorflow as tf

        is_val = self._task.split == self._task.fold
        self._preprocessing = self._settings.preprocessing_of(self._task.fold)
        self._val_images = preprocess(data.train.images[is_val], self._preprocessing)
        self._val_labels = data.train.labels[is_val]
        self._test_images = data.test.images
        # All training rows are on the device from the start, as uint8: they are small, and a step then only sends
        # the numbers of its rows.
        self._images = tf.constant(preprocess(data.train.images[~is_val], self._preprocessing)[..., None])
        self._labels = tf.constant(data.train.labels[~is_val].astype(np.int32))

    def _plan_steps(self) -> None:
        """Compute the number of steps of each epoch, on which learning rate and augmentation depend."""
        self._batch_size, self._steps = plan_steps(len(self._labels), self._settings)
        self._first_steps = [0, *accumulate(self._steps)]
        self._all_steps = self._first_steps[-1]

    def _build(self) -> None:
        """Build the network, the optimiser, and the functions for training and prediction."""
        import keras

        # This seed determines the initial weights. It also seeds the dropout layers, until `reseed_dropout`.
        keras.utils.set_random_seed(_seed(self._task.seed, self._task.fold))
        self.model = build_network(self._settings)
        self._digest = network_digest(self.model)
        if self._task.network not in (None, self._digest):
            raise UsageError(
                f"The preset {self._task.preset} now builds a different network than "
                "that of the finished folds of this run.",
                "Choose another name for the run, or continue with the version of kaggle-digits that started it.",
            )
        optimizer = make_optimizer(self.model, self._settings)
        self._variables = [*self.model.variables, *optimizer.variables]
        self._predict_once = softmax_function(self.model)
        self._predict = with_test_time_augmentation(self._predict_once, self._settings.tta)
        self._val_softmax: Float32 | None = None
        self._train_step = train_step_function(self.model, optimizer, self._settings)
        # Callbacks read `model.optimizer`, so it must exist.
        self.model.optimizer = None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from the saved state if there is one and it is valid; otherwise start from the beginning."""
        state = checkpoint.load()
        if state is None or not self._fits(state):
            return
        for variable, value in zip(self._variables, state["variables"], strict=True):
            variable.assign(value)
        self.likelihood, self.history = state["likelihood"], state["history"]
        self._resumed_epochs = len(self.history)

    def _fits(self, state: dict[str, Any]) -> bool:
        """Tell whether a saved state fits this training; an upgrade may have changed network or optimiser."""
        found = [(value.shape, value.dtype.name) for value in state["variables"]]
        wanted = [(tuple(variable.shape), variable.dtype) for variable in self._variables]
        # Comparing the number of rows is enough: the rows of a fold are fixed by the split of the run.
        return found == wanted and state["likelihood"].shape == self.likelihood.shape

    def save(self, checkpoint: Checkpoint) -> None:
        """Save the state after an epoch."""
        checkpoint.save([np.asarray(variable) for variable in self._variables], self.likelihood, self.history)

    def train_epoch(self, epoch: int, report: Callable[[Progress], None]) -> dict[str, float]:
        """Train one epoch, and return its ``loss, accuracy, learning_rate, seconds, images_per_second``."""
        batches = self._choose_batches(epoch)
        reseed_dropout(self.model, _seed(self._task.seed, self._task.fold, epoch))
        outcomes = []
        started = last_report = time.perf_counter()
        for i, batch in enumerate(batches):
            outcomes.append(self._train_batch(epoch, i, batch))
            now = time.perf_counter()
            if now - last_report > SECONDS_BETWEEN_REPORTS:
                last_report = now
                loss = float(np.mean([loss for loss, _, _ in outcomes]))
                so_far = {"loss": loss, "images_per_second": len(outcomes) * self._batch_size / (now - started)}
                report(self.progress(epoch, so_far, i + 1))
        # Read only at the end of the epoch: reading after each step would make a GPU wait for the CPU.
        losses, accuracies, likelihoods = (np.array(values) for values in zip(*outcomes, strict=True))
        # This costs nothing, because each training step computes these probabilities anyway. The likelihoods of
        # rows that are not in this epoch do not change.
        self.likelihood[batches] = likelihoods
        seconds = time.perf_counter() - started
        return {
            "loss": float(losses.mean()),
            "accuracy": float(accuracies.mean()),
            "learning_rate": self._learning_rate(self._first_steps[epoch + 1] - 1),
            "seconds": seconds,
            "images_per_second": batches.size / seconds,
        }

    def _choose_batches(self, epoch: int) -> Int64:
        """Return the row numbers of the batches of an epoch, int64 [steps, batch size]."""
        # A new generator for each epoch, so that its random numbers do not depend on the previous epochs.
        rng = np.random.default_rng([self._task.seed, self._task.fold, epoch])
        rows = choose_rows(self.likelihood, epoch, self._settings, rng)
        steps = self._steps[epoch]
        return rows[: steps * self._batch_size].reshape(steps, self._batch_size)

    def _train_batch(self, epoch: int, step: int, batch: Int64) -> tuple[Any, Any, Any]:
        """Train one step, counted from 0 in its epoch; return the tensors of `train_step_function`."""
        import tensorflow as tf

        step_of_all = self._first_steps[epoch] + step
        strength = augmentation_strength_at(step_of_all, self._all_steps, self._settings)
        # Tensors instead of Python numbers: TensorFlow would compile the step again for each new Python number.
        outcome: tuple[Any, Any, Any] = self._train_step(
            self._images,
            self._labels,
            tf.constant(batch, tf.int32),
            tf.constant(self._learning_rate(step_of_all), tf.float32),
            tf.constant(strength, tf.float32),
            tf.constant([_seed(self._task.seed, self._task.fold, epoch), step], tf.int32),
        )
        return outcome

    def _learning_rate(self, step_of_all: int) -> float:
        return learning_rate_at(step_of_all, self._all_steps, self._settings)

    def validate(self, epoch: int) -> dict[str, float]:
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

    def record(self, epoch: int, trained: dict[str, float], validated: dict[str, float]) -> None:
        """Add an epoch to the history, with the results of `train_epoch` and `validate`."""
        self.history.append(
            {
                "epoch": epoch + 1,
                "loss": trained["loss"],
                "accuracy": trained["accuracy"],
                "val_loss": validated["val_loss"],
                "val_accuracy": validated["val_accuracy"],
                "learning_rate": trained["learning_rate"],
                "seconds": trained["seconds"],
                "images_per_second": trained["images_per_second"],
            }
        )

    def progress(self, epoch: int, figures: dict[str, float], steps: int | None = None) -> Progress:
        """Return the progress after `steps` steps of an epoch (default: all); `figures` has its loss and speed."""
        is_epoch_end = steps is None
        steps = self._steps[epoch] if steps is None else steps
        return Progress(
            seed=self._task.seed,
            fold=self._task.fold,
            epoch=epoch + 1,
            epochs=self._settings.epochs,
            done=(self._first_steps[epoch] + steps) / self._all_steps,
            loss=figures["loss"],
            val_accuracy=self.history[-1]["val_accuracy"] if self.history else None,
            images_per_second=figures["images_per_second"],
            is_epoch_end=is_epoch_end,
        )

    def result(self) -> FoldResult:
        """Predict the validation rows and the test rows, and return the result of the training."""
        # A training that is resumed after its last epoch has not been validated by this process.
        val_softmax = self._predict(self._val_images) if self._val_softmax is None else self._val_softmax
        test_started = time.perf_counter()
        test_softmax = self._predict(preprocess(self._test_images, self._preprocessing))
        finished = time.perf_counter()
        # The time of a resumed training includes the epochs before the interruption.
        former_seconds = sum(row["seconds"] for row in self.history[: self._resumed_epochs])
        return FoldResult(
            model=_keras_bytes(self.model),
            history=self.history,
            val_softmax=val_softmax,
            test_softmax=test_softmax,
            metrics={
                **summarise(val_softmax, self._val_labels),
                "preprocessing": self._preprocessing,
                "epochs": self._settings.epochs,
                "parameters": self.model.count_params(),
                "tflop": training_flops(self._settings, len(self._labels), self.model) / 1e12,
                "network": self._digest,
                "seconds": finished - self._started + former_seconds,
                "data_seconds": self._data_seconds,
                "training_seconds": sum(row["seconds"] for row in self.history),
                "test_seconds": finished - test_started,
                "peak_memory": _peak_memory(),
                "device": _device(),
            },
        )


def make_optimizer(model: keras.Model, settings: Settings) -> keras.optimizers.Optimizer:
    """Return the optimiser for a network, with all its variables: AdamW (Loshchilov and Hutter, 2019) or Muon."""
    import keras

    from kaggle_digits.training.muon import Muon

    kind = {"adamw": keras.optimizers.AdamW, "muon": Muon}[settings.optimizer]
    optimizer = kind(settings.learning_rate, settings.weight_decay, beta_2=settings.beta_2)
    # As usual, without weight decay for biases and for the scales and offsets of batch normalisation ("gamma",
    # "beta"): small values of these do not regularise the network.
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    # Create the variables now and not in the first step, so that a checkpoint can be restored into them.
    optimizer.build(model.trainable_variables)
    return optimizer


def train_step_function(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, settings: Settings
) -> Callable[..., tuple[Any, Any, Any]]:
    """Return a function that trains a network on one batch.

    It takes the images, uint8 [n, 28, 28, 1], and the labels, int32 [n], of all training rows; the row numbers of
    the batch, int32 [b]; the learning rate and the strength of augmentation, float32; and a seed, int32 [2]. It
    returns the mean loss, the accuracy, and the probability of each label before the step, float32 [b].
    """
    import tensorflow as tf

    smoothing = settings.label_smoothing

    # The rows are arguments and not captured variables, because captured tensors stay in memory as long as the
    # traced function. AutoGraph is not needed here, and it would leave temporary files behind if the process is
    # killed.
    @tf.function(jit_compile=compiles(), autograph=False)  # type: ignore[untyped-decorator]
    def train_step(
        images: Any, labels: Any, batch: Any, learning_rate: Any, strength: Any, seed: Any
    ) -> tuple[Any, Any, Any]:
        # Batch selection, augmentation, forward and backward pass and update are one graph, without Python in
        # between.
        x = tf.cast(tf.gather(images, batch), tf.float32)
        y = tf.gather(labels, batch)
        if settings.augments:
            x = augment(x, settings, strength, seed)
        # Label smoothing (Szegedy et al., CVPR 2016): the smoothed part is distributed evenly over all ten
        # classes, including the label, so the label gets 1 - 9/10 of it and each other class 1/10 of it.
        targets = tf.one_hot(y, CLASSES, 1 - 0.9 * smoothing, 0.1 * smoothing)
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
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
    """Return a 31-bit seed that depends on all given numbers.

    With a sum such as ``seed + fold``, fold 1 of seed 0 and fold 0 of seed 1 would get the same random numbers.
    """
    # 31 bits, because TensorFlow's seeds are signed 32-bit integers.
    return int(np.random.SeedSequence(path).generate_state(1)[0] >> 1)


def reseed_dropout(model: keras.Model, seed: int) -> None:
    """Set the state of all dropout layers, so that the dropout of an epoch depends only on `seed`."""
    for layer in model.layers:
        if hasattr(layer, "seed_generator"):
            layer.seed_generator.state.assign([seed, 0])


def _device() -> str:
    """Return the name of the GPU, such as ``Tesla T4``, or ``CPU``."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    import resource

    # `ru_maxrss` is in bytes on macOS, and in units of 1,024 bytes on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _keras_bytes(model: keras.Model) -> bytes:
    """Return a network as the content of a ``.keras`` file."""
    from kaggle_digits.training.batch_normalization import with_keras_layers

    # Keras can only save to a file.
    with temporary_folder() as folder:
        path = folder / "model.keras"
        with_keras_layers(model).save(path)
        return path.read_bytes()
