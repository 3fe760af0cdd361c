"""The networks, and their predictions."""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.files import read_errors, temporary_folder
from kaggle_digits.workspace import SIDE

if TYPE_CHECKING:
    import keras

PREDICTION_BATCH = 500
"""The number of rows in a batch of a prediction: full speed, and only tens of megabytes of activations."""

SURE = 0.9
"""If the largest probability is at least this, test-time augmentation almost never changes the predicted class."""

TTA_SHIFTS = ((0, 1), (2, 1), (1, 0), (1, 2))
"""The shifts of test-time augmentation: at which row and column an image, padded by one pixel, is cut out."""

_CLASSES = {
    None: ("__keras_tensor__", "__tuple__", "__slice__", "__numpy__"),
    "keras": ("Sequential", "DTypePolicy"),
    "keras.src.models.functional": ("Functional",),
}
_PLAIN_MODULES = (
    *("keras.initializers", "keras.regularizers", "keras.constraints"),
    *("keras.src.ops.math", "keras.src.ops.nn", "keras.src.ops.numpy"),
)
_PLAIN_LAYERS = re.compile(
    r"keras\.src\.layers\.(activations|attention|convolutional|core\.(dense|einsum|embedding|identity|input|masking)"
    r"|merging|normalization|pooling|preprocessing\.(image_preprocessing|normalization|rescaling)|regularization"
    r"|reshaping|rnn)"
)
"""The modules of those of Keras's layers that only compute: none of them runs code from a file, or reads files."""

_TRAIN_AGAIN = "Train the fold again: run the run's train command with --retrain."

KERAS_ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull}
"""Environment variables for Keras: use TensorFlow, and ignore the user's ``keras.json``, whose data format and
float type would apply to every layer. In the null device there is none, and none can be created."""


UNUSED_BY_KERAS = ("matplotlib", "pandas", "sklearn")
"""What Keras imports for functions that this package does not call. It takes a third of the import of Keras."""
hidden_from_keras: tuple[str, ...] = ()
"""`UNUSED_BY_KERAS` in the processes of this package, nothing in programs that may use Keras for other things."""


def tensorflow_keras() -> Any:
    """Import and return Keras, quietly and with `KERAS_ENVIRONMENT`; `UsageError` if it has another backend."""
    if "keras" in sys.modules:
        import keras  # waits, if another thread is importing it

        if (backend := keras.config.backend()) != KERAS_ENVIRONMENT["KERAS_BACKEND"]:
            raise UsageError(
                f"Keras was imported with the backend {backend}, but kaggle-digits needs TensorFlow.",
                "Restart the kernel or program, with KERAS_BACKEND=tensorflow set before Keras is imported.",
            )
        return keras
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    before = {name: os.environ[name] for name in KERAS_ENVIRONMENT if name in os.environ}
    os.environ |= KERAS_ENVIRONMENT  # Keras reads them at import
    hidden = [name for name in hidden_from_keras if name not in sys.modules]
    # For the import statement, None is a module that is not installed.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        with _silent_stderr():
            import keras
            import tensorflow
    finally:
        for name in hidden:
            del sys.modules[name]
        for name in KERAS_ENVIRONMENT:
            del os.environ[name]
        os.environ |= before
    # Without this, TensorFlow warns about retracing, because every fold has its own network.
    tensorflow.get_logger().setLevel("ERROR")
    return keras


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Redirect stderr: some messages come from native code, before TensorFlow reads its log level."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def lenet(x: Any, widths: Sequence[int], dropout: float) -> Any:
    """Apply the hidden layers of the article "CNN卷积神经网络实现手写数字识别(基于tensorflow)"."""
    from keras import layers

    x = layers.ZeroPadding2D(2)(x)  # the original LeNet-5 (LeCun et al., 1998) also has 32x32 inputs
    for maps in widths[:2]:
        x = layers.Conv2D(maps, 5, activation="relu")(x)
        x = layers.AveragePooling2D(2, padding="same")(x)
    x = layers.Flatten()(x)
    for units in widths[2:]:
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(dropout)(x)
    return x


def convolution(x: Any, maps: int, size: int = 3, stride: int = 1, padding: str = "same") -> Any:
    """Apply a convolution, batch normalisation and ReLU."""
    from keras import layers

    from kaggle_digits.training.batch_normalization import BatchNormalization

    # No bias: batch normalisation subtracts the mean, which would cancel it.
    x = layers.Conv2D(maps, size, stride, padding, use_bias=False, kernel_initializer="he_normal")(x)
    # A lower momentum than Keras's default .99: trainings are short, and the running averages, which are used for
    # predictions, have to keep up with the weights, which still change in the last steps.
    x = BatchNormalization(momentum=0.98, epsilon=1e-5)(x)
    return layers.ReLU()(x)


def residual_cnn(x: Any, widths: Sequence[int], dropout: float) -> Any:
    """Apply stages of 24x24, 12x12 and 6x6 feature maps, each with a residual block (He et al., CVPR 2016)."""
    from keras import layers

    # MNIST's digits fit into 20x20 pixels and are centred by mass, so the outer pixels are almost always empty.
    x = layers.Cropping2D(2)(x)
    for stage, maps in enumerate(widths):
        if stage > 0:
            x = layers.MaxPooling2D()(x)
        x = convolution(x, maps)
        # In all stages: with only one convolution before the first pooling, a network with the same compute makes
        # more errors (see docs/recipes.md), probably because the pooling then loses small gaps and loops.
        x = layers.Add()([x, convolution(x, maps)])
    # Flatten instead of global pooling: the position of a stroke distinguishes digits.
    return layers.Dropout(dropout)(layers.Flatten()(x))


class Network(NamedTuple):
    """A network that the setting ``network`` can name."""

    hidden: Callable[[Any, Sequence[int], float], Any]  # applies its hidden layers, given widths and dropout rate
    widths: int  # how many there are


NETWORKS = {"lenet": Network(lenet, 4), "residual": Network(residual_cnn, 3)}
"""All networks by name."""


def read_network(path: Path) -> keras.Model:
    """Read a network from a ``.keras`` file: preprocessed grey values, [b, 28, 28, 1], to logits, [b, 10]."""
    if other := other_classes(path):
        raise DataError(f"{path} is not loaded: it contains {other[0]}, which may run other code.", _TRAIN_AGAIN)
    with read_errors(path, _TRAIN_AGAIN):
        return tensorflow_keras().models.load_model(path, compile=False, safe_mode=True)


def other_classes(path: Path) -> list[str]:
    """Return the names of the classes in a ``.keras`` file that are not layers of Keras, or may run other code."""
    # Keras imports and calls what a file names. Its own check, `safe_mode`, has gaps in older versions: before
    # 3.9, a file could run any function, such as os.system, and before 3.12, some of Keras's own that do harm.
    layers, others = tensorflow_keras().layers, []

    def check(part: dict[str, Any]) -> None:
        module, name = part.get("module"), part.get("class_name")
        is_layer = module == "keras.layers" and _PLAIN_LAYERS.match(getattr(layers, str(name), str).__module__)
        if name and not (is_layer or module in _PLAIN_MODULES or name in _CLASSES.get(module, ())):
            others.append(f"{module}.{name}")

    with read_errors(path, _TRAIN_AGAIN), zipfile.ZipFile(path) as archive:
        json.loads(archive.read("config.json"), object_hook=check)
    return others


def softmax_functions(
    networks: Iterable[tuple[Path, Callable[[], keras.Model]]],
) -> list[Callable[[UInt8], Float32]]:
    """Return the function of each network as of `softmax_function`, given its file and what reads it."""
    # Networks of the same structure, such as the folds of a run, share a model, because compiling one for a few
    # images takes longer than to predict them.
    known: dict[bytes, tuple[keras.Model, Callable[[UInt8], Float32]]] = {}

    def function(path: Path, read: Callable[[], keras.Model]) -> Callable[[UInt8], Float32]:
        with read_errors(path, _TRAIN_AGAIN), zipfile.ZipFile(path) as archive:
            # Without the ids of shared objects, which differ between folds that other processes have trained.
            structure = re.sub(rb'"shared_object_id": \d+', b"", archive.read("config.json"))
            if structure in known:
                known[structure][0].load_weights(path)
            else:
                model = read()
                known[structure] = model, softmax_function(model)
        shared, predict = known[structure]
        weights = shared.get_weights()

        def predict_with_weights(images: UInt8) -> Float32:
            shared.set_weights(weights)
            return predict(images)

        return predict_with_weights

    return [function(path, read) for path, read in networks]


def keras_bytes(model: keras.Model) -> bytes:
    """Return a model as the content of a ``.keras`` file."""
    # Keras can only save to a file.
    with temporary_folder() as folder:
        model.save(folder / "model.keras")
        return (folder / "model.keras").read_bytes()


def softmax_function(model: keras.Model) -> Callable[[UInt8], Float32]:
    """Return a function from preprocessed grey values, uint8 [n, 28, 28], to softmaxes, float32 [n, 10]."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def softmax(batch: Any) -> Any:
        return tf.nn.softmax(model(tf.cast(batch[..., None], tf.float32), training=False))

    def predict(images: UInt8) -> Float32:
        # The last batch may be smaller; with `reduce_retracing`, one trace is used for all batch sizes.
        starts = range(0, len(images), PREDICTION_BATCH)
        return np.concatenate([softmax(images[start : start + PREDICTION_BATCH]) for start in starts])

    return predict


def with_test_time_augmentation(predict: Callable[[UInt8], Float32], tta: int) -> Callable[[UInt8], Float32]:
    """Add test-time augmentation to a function of `softmax_function`: none with 1, four shifts with 5."""
    if tta == 1:
        return predict

    def predict_mean(images: UInt8) -> Float32:
        softmaxes = predict(images)
        # Only for the few uncertain rows: nearly the full benefit in a fraction of the time.
        unsure = softmaxes.max(1) < SURE
        if unsure.any():
            padded = np.pad(images[unsure], ((0, 0), (1, 1), (1, 1)))
            shifted = [padded[:, y : y + SIDE, x : x + SIDE] for y, x in TTA_SHIFTS]
            all_softmaxes = [softmaxes[unsure], *map(predict, shifted)]
            # Summed in float64, so that the result is rounded to float32 only once.
            softmaxes[unsure] = np.mean(all_softmaxes, axis=0, dtype=np.float64)
        return softmaxes

    return predict_mean
