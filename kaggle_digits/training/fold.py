"""One fold's training, from start to end."""

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
from kaggle_digits.errors import UsageError
from kaggle_digits.evaluation.metrics import accuracy, log_loss, summarise
from kaggle_digits.files import temporary_folder
from kaggle_digits.training.augmentation import augment
from kaggle_digits.training.models import network_digest, softmax_function
from kaggle_digits.training.preprocessing import preprocess
from kaggle_digits.training.presets import Settings, build_network
from kaggle_digits.training.schedule import augmentation_strength_at, choose_rows, epoch_sizes, learning_rate_at
from kaggle_digits.workspace import CLASSES

if TYPE_CHECKING:
    import keras

SECONDS_BETWEEN_REPORTS = 1.0
CURVE_ROWS = 2_000
"""How many of a fold's own rows are predicted after every epoch but the last, for the learning curve alone."""


class Checkpoint(Protocol):
    """Where the state of a fold is kept while it trains."""

    def load(self) -> dict[str, Any] | None:
        """Return ``variables``, ``likelihood`` and ``history`` as last saved, or None."""

    def save(
        self, variables: list[npt.NDArray[Any]], likelihood: Float32, history: list[dict[str, float]]
    ) -> None:
        """Keep the state, in the place of any former one."""


@dataclass(frozen=True)
class Digits:
    """All that networks are trained on.

    Attributes
    ----------
    images : ndarray of uint8, shape (n, 28, 28)
        The training rows.
    labels : ndarray of uint8, shape (n,)
        Their digits.
    test_images : ndarray of uint8, shape (m, 28, 28)
        The test rows, which have no labels.
    """

    images: UInt8
    labels: UInt8
    test_images: UInt8


@dataclass(frozen=True, eq=False)
class FoldTask:
    """One fold to train.

    Attributes
    ----------
    preset : str
        The preset's name.
    settings : Settings
        The network, and how to train it.
    seed : int
        The run's; every random draw follows from it, the fold and the step.
    fold : int
        The rows of this fold are left out.
    split : ndarray of uint8, shape (n,)
        The fold that each training row validates.
    tensorboard : bool
        Whether event files for TensorBoard are written beside the fold.
    network : str or None
        The `network_digest` of the run's finished folds, which this one must have too.
    """

    preset: str
    settings: Settings
    seed: int
    fold: int
    split: UInt8
    tensorboard: bool = False
    network: str | None = None

    @property
    def title(self) -> str:
        """What to call it in a sentence."""
        return f"fold {self.fold} of seed {self.seed}"


@dataclass(frozen=True)
class Progress:
    """How far a fold is.

    Attributes
    ----------
    seed, fold, epoch, epochs : int
        `epoch` counts from 1.
    done : float
        Share of the fold's steps, 0 to 1.
    loss : float
        Mean training loss of the epoch so far.
    val_accuracy : float or None
        On the fold's own rows at the end of the last complete epoch.
    images_per_second : float
        Of training, in the epoch so far.
    """

    seed: int
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
        The network in the ``.keras`` format, from preprocessed grey values to logits.
    history : list of dict
        An epoch each: ``epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds,
        images_per_second``. ``seconds`` is the time of training alone; ``val_`` is measured on the first 2,000 of
        the fold's own rows, in the last epoch on all of them.
    val_softmax : ndarray of float32, shape (n_k, 10)
        Of the fold's own rows, in the order of ``train.csv``.
    test_softmax : ndarray of float32, shape (m, 10)
        Of the test rows.
    metrics : dict
        ``rows, errors, accuracy, log_loss`` on the fold's own rows, ``preprocessing``, ``epochs``, ``parameters``,
        ``network`` (its digest), ``seconds`` by kind, and ``peak_memory``, the most bytes that the process has
        held.
    """

    model: bytes
    history: list[dict[str, float]]
    val_softmax: Float32
    test_softmax: Float32
    metrics: dict[str, Any]


def train_fold(
    task: FoldTask,
    digits: Digits,
    report: Callable[[Progress], None] = lambda progress: None,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FoldResult:
    """Train a fold's network on all other folds' rows, and predict its own rows and the test rows.

    The network after the last epoch is the result: the fold's own rows select nothing, so that their accuracy is
    an honest estimate.

    Parameters
    ----------
    task : FoldTask
        What to train.
    digits : Digits
        The rows.
    report : callable
        Called about every second, and at the end of every epoch.
    checkpoint : Checkpoint, optional
        Where the state is kept after every epoch; an interrupted training is resumed from there, and ends in the
        same bytes as an uninterrupted one.
    callbacks : sequence of keras.callbacks.Callback
        Told of the begin and the end of training, and of every epoch's end.

    Raises
    ------
    UsageError
        If the training diverges.
    WriteError
        If the temporary folder, through which the network's file goes, cannot be written.
    """
    import keras

    # Not `model.fit`: it cannot choose an epoch's rows by what the last epoch said of them, nor resume to the same
    # bytes in the middle of a training.
    trainer = FoldTrainer(task, digits)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    callback_list = keras.callbacks.CallbackList(list(callbacks), model=trainer.model)
    callback_list.on_train_begin()
    for epoch in range(len(trainer.history), task.settings.epochs):
        trained = trainer.train_epoch(epoch, report)
        validated = trainer.validate(epoch)
        trainer.record(epoch, trained, validated)
        report(trainer.progress(epoch, trained))
        # Before the callbacks: what fails in one of them costs no epoch.
        if checkpoint is not None:
            trainer.save(checkpoint)
        callback_list.on_epoch_end(epoch, trainer.history[-1].copy())
    callback_list.on_train_end()
    return trainer.result()


class FoldTrainer:
    """The state of a fold's training, and its steps. `train_fold` calls them in order.

    All random numbers follow from the run's seed, the fold, the epoch and the step, none from how many were drawn
    before: a training that is resumed in the middle draws the same ones.

    Attributes
    ----------
    model : keras.Model
        The network: preprocessed grey values, [b, 28, 28, 1], to logits, [b, 10].
    history : list of dict
        The epochs so far, as in `FoldResult`.
    likelihood : ndarray of float32, shape (n,)
        The probability of each training row's label when the network was last trained on it.
    """

    def __init__(self, task: FoldTask, digits: Digits) -> None:
        self._started = time.perf_counter()
        self._task, self._settings = task, task.settings
        self._prepare_rows(digits)
        self._data_seconds = time.perf_counter() - self._started
        self._plan_steps()
        self._build()
        self.history: list[dict[str, float]] = []
        # The first epoch has all rows, and so replaces all of these zeros but those of rows left out at its end,
        # which the second epoch then takes for hard ones.
        self.likelihood: Float32 = np.zeros(len(self._labels), np.float32)
        self._resumed_epochs = 0

    def _prepare_rows(self, digits: Digits) -> None:
        """Split the rows into training and validation rows, and preprocess them."""
        import tensorflow as tf

        is_val = self._task.split == self._task.fold
        self._preprocessing = self._settings.preprocessing_of(self._task.fold)
        self._val_images = preprocess(digits.images[is_val], self._preprocessing)
        self._val_labels = digits.labels[is_val]
        self._test_images = digits.test_images
        # All training rows are on the device from the start, as uint8: they are small, and a step then only sends
        # the numbers of its rows.
        self._images = tf.constant(preprocess(digits.images[~is_val], self._preprocessing)[..., None])
        self._labels = tf.constant(digits.labels[~is_val].astype(np.int32))

    def _plan_steps(self) -> None:
        """Find the number of steps of every epoch, on which learning rate and augmentation depend."""
        sizes = epoch_sizes(len(self._labels), self._settings)
        self._batch_size = min(self._settings.batch_size, *sizes)
        # A last batch that would be smaller is left out: its shape would be compiled separately, and batch
        # normalisation is noisy on few rows. The rows in it are others in every epoch.
        self._steps = [size // self._batch_size for size in sizes]
        self._first_steps = [0, *accumulate(self._steps)]
        self._all_steps = self._first_steps[-1]

    def _build(self) -> None:
        """Build the network, its optimiser, and the functions that run them."""
        import keras

        # The initial weights are drawn from this; it also seeds the dropout layers, until `reseed_dropout`.
        keras.utils.set_random_seed(_seed(self._task.seed, self._task.fold))
        self.model = build_network(self._settings)
        self._digest = network_digest(self.model)
        if self._task.network not in (None, self._digest):
            raise UsageError(
                f"The preset {self._task.preset} builds another network now than "
                "that of this run's finished folds.",
                "Choose another name with --run, or go on with the version of kaggle-digits that began the run.",
            )
        optimizer = make_optimizer(self.model, self._settings)
        self._variables = [*self.model.variables, *optimizer.variables]
        self._predict = softmax_function(self.model, self._settings.tta)
        self._train_step = train_step_function(self.model, optimizer, self._settings)
        # Callbacks look for `model.optimizer`. It stays None, or it would be saved with the network.
        self.model.optimizer = None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a former training, if there is one and it fits; else start from the beginning."""
        state = checkpoint.load()
        if state is None or not self._fits(state):
            return
        for variable, value in zip(self._variables, state["variables"], strict=True):
            variable.assign(value)
        self.likelihood, self.history = state["likelihood"], state["history"]
        self._resumed_epochs = len(self.history)

    def _fits(self, state: dict[str, Any]) -> bool:
        """Tell whether a state is of this training: an upgrade may have changed the network or its optimiser."""
        found = [(value.shape, value.dtype.name) for value in state["variables"]]
        wanted = [(tuple(variable.shape), variable.dtype) for variable in self._variables]
        # The rows are compared by their number only: which rows a fold has follows from the run's split.
        return found == wanted and state["likelihood"].shape == self.likelihood.shape

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep the state after an epoch."""
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
        # Read only now: reading after each step would make a GPU wait for the CPU every time.
        losses, accuracies, likelihoods = (np.array(values) for values in zip(*outcomes, strict=True))
        # Free of charge: every training step computes these probabilities anyway. Those of rows that are not in
        # this epoch stay as they were.
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
        """Return the numbers of an epoch's rows, int64 [steps, batch size]."""
        # A new generator for each epoch, so that an epoch's draws do not depend on the epochs before it.
        rng = np.random.default_rng([self._task.seed, self._task.fold, epoch])
        rows = choose_rows(self.likelihood, epoch, self._settings, rng)
        steps = self._steps[epoch]
        return rows[: steps * self._batch_size].reshape(steps, self._batch_size)

    def _train_batch(self, epoch: int, step: int, batch: Int64) -> tuple[Any, Any, Any]:
        """Train one step, counted from 0 in its epoch; return the tensors of `train_step_function`."""
        import tensorflow as tf

        step_of_all = self._first_steps[epoch] + step
        strength = augmentation_strength_at(step_of_all, self._all_steps, self._settings)
        # Tensors, not numbers: TensorFlow would compile the step anew for each new Python number.
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
        """Predict the fold's own rows, and return ``val_loss`` and ``val_accuracy``.

        Raises
        ------
        UsageError
            If the network's outputs are not finite.
        """
        # The first rows are enough for a learning curve, and take a fraction of the time; the last point is exact.
        is_last = epoch + 1 == self._settings.epochs
        rows = slice(None) if is_last else slice(CURVE_ROWS)
        softmax = self._predict(self._val_images[rows])
        # Before anything of this epoch is saved, so that no checkpoint has a network that has diverged.
        if not np.isfinite(softmax).all():
            raise UsageError(
                f"The training of {self._task.title} diverged in epoch {epoch + 1}.",
                "Choose a lower learning_rate with --set.",
            )
        labels = self._val_labels[rows]
        return {"val_loss": log_loss(softmax, labels), "val_accuracy": accuracy(softmax, labels)}

    def record(self, epoch: int, trained: dict[str, float], validated: dict[str, float]) -> None:
        """Add an epoch to the history: what `train_epoch` and `validate` returned."""
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
        """Return the progress after so many steps of an epoch, or all; `figures` has its loss and speed so far."""
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
        )

    def result(self) -> FoldResult:
        """Predict the fold's own rows and the test rows, and return all that is to be kept."""
        # Once more after the last epoch: a training may have been resumed when all its epochs were done already.
        val_softmax = self._predict(self._val_images)
        test_started = time.perf_counter()
        test_softmax = self._predict(preprocess(self._test_images, self._preprocessing))
        finished = time.perf_counter()
        # Of a resumed training, the time before the interruption counts, too.
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
                "network": self._digest,
                "seconds": finished - self._started + former_seconds,
                "data_seconds": self._data_seconds,
                "training_seconds": sum(row["seconds"] for row in self.history),
                "test_seconds": finished - test_started,
                "peak_memory": _peak_memory(),
            },
        )


def make_optimizer(model: keras.Model, settings: Settings) -> keras.optimizers.Optimizer:
    """Return AdamW (Loshchilov and Hutter, ICLR 2019) for a network, with all its variables."""
    import keras

    optimizer = keras.optimizers.AdamW(settings.learning_rate, settings.weight_decay, beta_2=settings.beta_2)
    # Weight decay makes a network simpler by making its weights smaller. Scales and offsets of batch normalisation
    # ("gamma", "beta") and biases make no network simpler by being near zero.
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    # Now, not in the first step, so that a checkpoint can be restored into its variables.
    optimizer.build(model.trainable_variables)
    return optimizer


def train_step_function(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, settings: Settings
) -> Callable[..., tuple[Any, Any, Any]]:
    """Return the function that trains a network on one batch.

    Parameters
    ----------
    model, optimizer, settings
        The network, what changes it, and how.

    Returns
    -------
    callable
        Takes all rows' images, uint8 [n, 28, 28, 1], and labels, int32 [n]; the batch's row numbers, int32 [b];
        learning rate and strength of augmentation, float32; and a seed, int32 [2]. Returns the mean loss, the
        accuracy, and the probabilities of the labels before the step, float32 [b].
    """
    import tensorflow as tf

    smoothing = settings.label_smoothing

    # The rows are arguments, for what a traced function closes over lives as long as TensorFlow's trace of it.
    # AutoGraph would leave its source files behind when the process is killed, and there is nothing for it to do.
    @tf.function(jit_compile=compiles(), autograph=False)  # type: ignore[untyped-decorator]
    def train_step(
        images: Any, labels: Any, batch: Any, learning_rate: Any, strength: Any, seed: Any
    ) -> tuple[Any, Any, Any]:
        # Choice of rows, augmentation, network and update are one graph: nothing goes back to Python in between.
        x = tf.cast(tf.gather(images, batch), tf.float32)
        y = tf.gather(labels, batch)
        if settings.augments:
            x = augment(x, settings, strength, seed)
        # Label smoothing (Szegedy et al., CVPR 2016). All ten classes get the same part, the label among them.
        targets = tf.one_hot(y, CLASSES, 1 - 0.9 * smoothing, 0.1 * smoothing)
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        # From the logits of the training step: measured on augmented digits and with dropout, but at no cost.
        right = tf.reduce_mean(tf.cast(tf.argmax(logits, 1, tf.int32) == y, tf.float32))
        return loss, right, tf.gather(tf.nn.softmax(logits), y, batch_dims=1)

    return train_step  # type: ignore[no-any-return]


def compiles() -> bool:
    """Tell whether XLA compiles the training step."""
    import tensorflow as tf

    # On a GPU, XLA fuses many small operations into few, and each saves the time to start it. On a CPU, XLA's
    # convolutions are half as fast as TensorFlow's, and TensorFlow's plug-in for the GPUs of macOS has no XLA.
    return sys.platform != "darwin" and bool(tf.config.list_physical_devices("GPU"))


def _seed(*path: int) -> int:
    """Return a seed of 31 bits that depends on all numbers of the path.

    Sums such as ``seed + fold`` would give fold 1 of seed 0 the random numbers of fold 0 of seed 1.
    """
    # TensorFlow's seeds are signed: the last of 32 bits is dropped.
    return int(np.random.SeedSequence(path).generate_state(1)[0] >> 1)


def reseed_dropout(model: keras.Model, seed: int) -> None:
    """Make an epoch's dropout depend on its seed alone, and not on how much was drawn before."""
    for layer in model.layers:
        if hasattr(layer, "seed_generator"):
            layer.seed_generator.state.assign([seed, 0])


def _peak_memory() -> int:
    """Return the most bytes of memory that this process has held."""
    import resource

    # In bytes on macOS, in units of 1,024 bytes on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _keras_bytes(model: keras.Model) -> bytes:
    """Return a network as the content of a ``.keras`` file."""
    # Through a file, for Keras saves to nothing else.
    with temporary_folder() as folder:
        path = folder / "model.keras"
        model.save(path)
        return path.read_bytes()
