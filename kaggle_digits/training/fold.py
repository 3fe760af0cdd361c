"""One fold's training, from start to end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kaggle_digits.arrays import Float32, Int64, UInt8
from kaggle_digits.errors import UsageError
from kaggle_digits.evaluation.metrics import accuracy, log_loss, summarise
from kaggle_digits.files import temporary_folder
from kaggle_digits.training.augmentation import augment
from kaggle_digits.training.models import network_digest, softmax_function
from kaggle_digits.training.preprocessing import form_function, with_form
from kaggle_digits.training.presets import Settings, find_preset

if TYPE_CHECKING:
    import keras

SECONDS_BETWEEN_REPORTS = 1.0
ROWS_ON_THE_WAY = 2_000
"""How many of a fold's own rows are looked at after every epoch but the last."""


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
        Names the network.
    settings : Settings
        How to train it.
    seed : int
        The run's; every random draw follows from it, the fold and the step.
    fold : int
        The rows of this fold are left out.
    split : ndarray of uint8, shape (n,)
        The fold that each training row validates.
    tensorboard : bool
        Whether events for TensorBoard are written beside the fold.
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
        On the fold's own rows at the end of the last whole epoch.
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
        The network in the ``.keras`` format.
    history : list of dict
        An epoch each: ``epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds,
        images_per_second``. ``seconds`` is the time of training alone; on the way ``val_`` is measured on the
        first 2,000 of the fold's own rows, in the last epoch on all of them.
    val_softmax : ndarray of float32, shape (n_k, 10)
        Of the fold's own rows, in the order of ``train.csv``.
    test_softmax : ndarray of float32, shape (m, 10)
        Of the test rows.
    metrics : dict
        ``rows, errors, accuracy, log_loss`` on the fold's own rows, ``form``, ``epochs``, ``parameters``,
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
    checkpoint : Checkpoint, optional
        Where the state is kept after every epoch; a fold that was cut off goes on from there, to the same end.
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
    import tensorflow as tf

    started = time.perf_counter()
    settings = task.settings
    inside, outside = task.split != task.fold, task.split == task.fold
    form = settings.form_of(task.fold)
    bring = form_function(form)
    val_images, val_labels = bring(digits.images[outside]), digits.labels[outside]
    images = tf.constant(bring(digits.images[inside])[..., None])
    labels = tf.constant(digits.labels[inside].astype(np.int32))
    rows, prepared = len(labels), time.perf_counter()
    sizes = epoch_sizes(rows, settings)
    batch_size = min(settings.batch_size, *sizes)
    steps_by_epoch = [size // batch_size for size in sizes]
    all_steps = sum(steps_by_epoch)

    keras.utils.set_random_seed(_seed(task.seed, task.fold))
    model = find_preset(task.preset).network(settings)
    network = network_digest(model)
    if task.network not in (None, network):
        raise UsageError(
            f"The preset {task.preset} builds another network now than that of this run's finished folds.",
            "Choose another name with --run, or go on with the version of kaggle-digits that began the run.",
        )
    predict = softmax_function(model, settings.views)
    optimizer = keras.optimizers.AdamW(settings.learning_rate, settings.weight_decay, beta_2=settings.beta_2)
    # Decay is for weights: a scale or an offset near zero is no simpler network.
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    optimizer.build(model.trainable_variables)

    # The rows are arguments, for what a traced function closes over outlives it.
    # AutoGraph would leave its source files behind when the process is killed, and there is nothing for it to do.
    @tf.function(jit_compile=compiles(), autograph=False)  # type: ignore[untyped-decorator]
    def train_step(
        images: Any, labels: Any, batch: Any, learning_rate: Any, strength: Any, seed: Any
    ) -> tuple[Any, Any, Any]:
        x = tf.cast(tf.gather(images, batch), tf.float32)
        y = tf.gather(labels, batch)
        if settings.augments:
            x = augment(x, settings, strength, seed)
        targets = tf.one_hot(y, 10, 1 - 0.9 * settings.label_smoothing, 0.1 * settings.label_smoothing)
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        right = tf.reduce_mean(tf.cast(tf.argmax(logits, 1, tf.int32) == y, tf.float32))
        return loss, right, tf.gather(tf.nn.softmax(logits), y, batch_dims=1)

    variables = [*model.variables, *optimizer.variables]
    # What the network made of each row's label when it last trained on it.
    likelihood = np.zeros(rows, np.float32)
    history: list[dict[str, float]] = []
    state = checkpoint.load() if checkpoint is not None else None
    if state is not None and _fits(state, variables, likelihood):
        for variable, value in zip(variables, state["variables"], strict=True):
            variable.assign(value)
        likelihood, history = state["likelihood"], state["history"]

    # Callbacks ask a model for its optimizer; were it ours, it would be saved with the network.
    model.optimizer = None
    resumed = len(history)
    watchers = keras.callbacks.CallbackList(list(callbacks), model=model)
    watchers.on_train_begin()
    for epoch in range(resumed, settings.epochs):
        rng = np.random.default_rng([task.seed, task.fold, epoch])
        steps, before = steps_by_epoch[epoch], sum(steps_by_epoch[:epoch])
        chosen = choose_rows(likelihood, epoch, settings, rng)[: steps * batch_size]
        _reseed_dropout(model, _seed(task.seed, task.fold, epoch))
        outcomes = []
        epoch_started = last_report = time.perf_counter()
        for step, batch in enumerate(chosen.reshape(steps, batch_size)):
            at = before + step
            rate = learning_rate_at(at, all_steps, settings)
            strength = settings.ramp + (1 - settings.ramp) * at / all_steps
            outcome = train_step(
                images,
                labels,
                tf.constant(batch, tf.int32),
                tf.constant(rate, tf.float32),
                tf.constant(strength, tf.float32),
                tf.constant([_seed(task.seed, task.fold, epoch), step], tf.int32),
            )
            outcomes.append(outcome)
            now = time.perf_counter()
            if now - last_report > SECONDS_BETWEEN_REPORTS:
                last_report = now
                report(
                    Progress(
                        seed=task.seed,
                        fold=task.fold,
                        epoch=epoch + 1,
                        epochs=settings.epochs,
                        done=(at + 1) / all_steps,
                        loss=float(np.mean([loss for loss, _, _ in outcomes])),
                        val_accuracy=history[-1]["val_accuracy"] if history else None,
                        images_per_second=(step + 1) * batch_size / (now - epoch_started),
                    )
                )
        # Read only now, so that a device need not wait for us after each step.
        losses, accuracies, likelihoods = (np.array(values) for values in zip(*outcomes, strict=True))
        likelihood[chosen] = likelihoods.ravel()
        seconds = time.perf_counter() - epoch_started
        # A look at the curve on the way needs no more rows than this; the last epoch has all.
        shown = slice(None) if epoch + 1 == settings.epochs else slice(ROWS_ON_THE_WAY)
        val_softmax = predict(val_images[shown])
        if not np.isfinite(val_softmax).all():
            raise UsageError(
                f"The training of {task.title} diverged in epoch {epoch + 1}.",
                "Choose a lower learning_rate with --set.",
            )
        history.append(
            {
                "epoch": epoch + 1,
                "loss": float(losses.mean()),
                "accuracy": float(accuracies.mean()),
                "val_loss": log_loss(val_softmax, val_labels[shown]),
                "val_accuracy": accuracy(val_softmax, val_labels[shown]),
                "learning_rate": rate,
                "seconds": seconds,
                "images_per_second": steps * batch_size / seconds,
            }
        )
        report(
            Progress(
                seed=task.seed,
                fold=task.fold,
                epoch=epoch + 1,
                epochs=settings.epochs,
                done=(before + steps) / all_steps,
                loss=history[-1]["loss"],
                val_accuracy=history[-1]["val_accuracy"],
                images_per_second=history[-1]["images_per_second"],
            )
        )
        if checkpoint is not None:
            checkpoint.save([np.asarray(variable) for variable in variables], likelihood, history)
        watchers.on_epoch_end(epoch, dict(history[-1]))
    watchers.on_train_end()

    val_softmax = predict(val_images)
    predicting = time.perf_counter()
    test_softmax = predict(bring(digits.test_images))
    finished = time.perf_counter()
    return FoldResult(
        model=_keras_bytes(with_form(model, form)),
        history=history,
        val_softmax=val_softmax,
        test_softmax=test_softmax,
        metrics={
            **summarise(val_softmax, val_labels),
            "form": form,
            "epochs": settings.epochs,
            "parameters": model.count_params(),
            "network": network,
            "seconds": finished - started + sum(row["seconds"] for row in history[:resumed]),
            "data_seconds": prepared - started,
            "training_seconds": sum(row["seconds"] for row in history),
            "test_seconds": finished - predicting,
            "peak_memory": _peak_memory(),
        },
    )


def _fits(state: dict[str, Any], variables: Sequence[Any], likelihood: Float32) -> bool:
    """Tell whether a checkpoint is of this training: an upgrade may have changed the network or its optimiser."""
    known = [(value.shape, value.dtype.name) for value in state["variables"]]
    wanted = [(tuple(variable.shape), variable.dtype) for variable in variables]
    return known == wanted and state["likelihood"].shape == likelihood.shape


def epoch_sizes(rows: int, settings: Settings) -> list[int]:
    """Return how many of the training rows each epoch has: all of them in the first, then the chosen ones."""
    hard, others = _shares(rows, settings)
    return [rows] + [hard + others] * (settings.epochs - 1)


def choose_rows(likelihood: Float32, epoch: int, settings: Settings, rng: np.random.Generator) -> Int64:
    """Choose and shuffle the rows of an epoch.

    The rows that the network finds hard, and a random choice of the others: a simple form of the selective
    back-propagation of Jiang et al. (arXiv:1910.00762), which is free, since the likelihoods come from training.

    Parameters
    ----------
    likelihood : ndarray of float32, shape (n,)
        The probability of each row's label when the network was last trained on it.
    epoch : int
        From 0; the first has all rows.
    settings : Settings
        ``hard_rows`` and ``other_rows``.
    rng : numpy.random.Generator
        Decides.

    Returns
    -------
    ndarray of int64, shape (k,)
        Numbers of rows.
    """
    rows = len(likelihood)
    if epoch == 0:
        return rng.permutation(rows)
    hard, others = _shares(rows, settings)
    by_difficulty = np.argsort(likelihood, kind="stable")
    chosen = [by_difficulty[:hard], rng.choice(by_difficulty[hard:], others, replace=False)]
    return rng.permutation(np.concatenate(chosen))


def _shares(rows: int, settings: Settings) -> tuple[int, int]:
    hard = int(settings.hard_rows * rows)
    return hard, min(rows - hard, max(1, int(settings.other_rows * rows)))


def learning_rate_at(step: int, steps: int, settings: Settings) -> float:
    """Return the learning rate of a step, counted from 0, of `steps` in all epochs together."""
    if settings.schedule == "constant":
        return settings.learning_rate
    rising = settings.warm_up * steps
    if step < rising:
        return settings.learning_rate * ((step + 1) / (rising + 1))
    return settings.learning_rate * ((steps - step) / (steps - rising))


def compiles() -> bool:
    """Tell whether XLA compiles the step: on a GPU it makes one launch of many.

    On a CPU it halves the speed of convolutions, and on macOS the plug-in for GPUs has none.
    """
    import tensorflow as tf

    return sys.platform != "darwin" and bool(tf.config.list_physical_devices("GPU"))


def _seed(*path: int) -> int:
    """Return a seed of 31 bits that is a function of the whole path, as independent as `SeedSequence` makes it."""
    return int(np.random.SeedSequence(path).generate_state(1)[0] >> 1)


def _reseed_dropout(model: Any, seed: int) -> None:
    """Make an epoch's dropout a function of its seed, so that it does not depend on where training went on."""
    for layer in model.layers:
        if hasattr(layer, "seed_generator"):
            layer.seed_generator.state.assign([seed, 0])


def _peak_memory() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _keras_bytes(model: Any) -> bytes:
    with temporary_folder() as folder:
        path = folder / "model.keras"
        model.save(path)
        return path.read_bytes()
