"""The ensemble of a run as one model in a file, for programs without kaggle-digits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaggle_digits.errors import UsageError
from kaggle_digits.evaluation.calibration import MIN_PROBABILITY
from kaggle_digits.files import write_bytes
from kaggle_digits.prediction import MODEL_FORMATS
from kaggle_digits.runs.artefacts import FoldFolder
from kaggle_digits.runs.directory import FoldsRun, MeanRun, Run, find_run
from kaggle_digits.runs.ensemble import check_ensemble
from kaggle_digits.training.models import SURE, TTA_SHIFTS, keras_bytes, tensorflow_keras
from kaggle_digits.training.own_network import find_network
from kaggle_digits.training.preprocessing import preprocessed_tensor
from kaggle_digits.workspace import CLASSES, SIDE, Workspace

if TYPE_CHECKING:
    import keras


def export(
    workspace: Workspace,
    file: str | Path,
    run: str | Run | None = None,
    format: str | None = None,
    network: str | Callable[[], Any] | None = None,
) -> Path:
    """Write the ensemble of a run as one model: grey values in, calibrated probabilities out.

    Its input is ``images``, uint8 [n, 28, 28], digits in MNIST's format with ink as 255, such as rows of
    ``test.csv``; its output, in ONNX ``probabilities``, float32 [n, 10], the same as from `predict`. It needs up
    to 1 MB of memory for each image of a call, so predict many images in batches of a few hundred.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its runs.
    file : str or pathlib.Path
        Where to write the model. Its name ends with ``.onnx`` or ``.keras``.
    run : str or Run, optional
        The run, or its name. Default: as in `find_run`.
    format : str, optional
        ``onnx`` (needs the extra ``onnx``) or ``keras``. Default: by the name of the file.
    network : str or callable, optional
        As in `predict`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    UsageError
        If there is no such run, the name of the file does not fit the format, or tf2onnx is not installed.
    DataError, WriteError
        If the run is not finished, a network is missing or damaged, or the file cannot be written.

    Examples
    --------
    >>> kd.export(workspace, folder / "digits.keras").name
    'digits.keras'
    """
    path = Path(file)
    suffix = path.suffix.removeprefix(".")
    if suffix not in MODEL_FORMATS or format not in (None, suffix):
        problem = f"The name of {path} does not end with .{format or ' or .'.join(MODEL_FORMATS)}."
        raise UsageError(problem, "Choose the name of a file that ends with its format.")
    if suffix == "onnx" and find_spec("tf2onnx") is None:
        raise UsageError("tf2onnx is not installed.", "Install it with: pip install 'kaggle-digits[onnx]'.")
    source = find_run(workspace, run)
    check_ensemble(source)
    if network is not None:
        find_network(network)
    model = _ensemble_model(source)
    write_bytes(path, _onnx(model, source) if suffix == "onnx" else keras_bytes(model))
    return path


def _ensemble_model(source: FoldsRun | MeanRun) -> keras.Model:
    """Return the ensemble of a finished run as one Keras model: uint8 [b, 28, 28] to float32 [b, 10]."""
    keras = tensorflow_keras()
    from keras import ops

    images = keras.Input((SIDE, SIDE), dtype="uint8", name="images")
    mean: Any = 0.0
    for number, (run, fold, weight) in enumerate(source.weighted_networks()):
        # The layers of a model must have different names. A run can have a name that Keras does not accept.
        mean = mean + weight * _fold_softmax(fold, run.info.settings.tta, images, f"network_{number}")
    temperature = source.ensemble_metrics().calibration.temperature
    # Temperature scaling as in `kaggle_digits.evaluation.calibration.temper`.
    return keras.Model(images, ops.softmax(ops.log(ops.maximum(mean, MIN_PROBABILITY)) / temperature))


def _fold_softmax(fold: FoldFolder, tta: int, images: Any, name: str) -> Any:
    """Apply the network of a fold, with its preprocessing and TTA: as `predict.Classifier`."""
    from keras import ops

    network = fold.read_network()
    network.name = name
    grey = ops.cast(preprocessed_tensor(images, fold.metrics().preprocessing), "float32")
    grey = ops.expand_dims(grey, -1)
    if tta == 1:
        return ops.softmax(network(grey))
    # A model has no branches that depend on its input, so all views are predicted for every image. They are one
    # batch, since a graph with five copies of each network takes a minute to convert to ONNX.
    padded = ops.pad(grey, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, y : y + SIDE, x : x + SIDE] for y, x in TTA_SHIFTS]
    views = ops.concatenate([grey, *shifted], axis=0)
    softmaxes = ops.reshape(ops.softmax(network(views)), (1 + len(shifted), -1, CLASSES))
    alone = softmaxes[0]
    return ops.where(ops.max(alone, 1, keepdims=True) < SURE, ops.mean(softmaxes, 0), alone)


def _onnx(model: keras.Model, source: FoldsRun | MeanRun) -> bytes:
    import tensorflow as tf
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    signature = [tf.TensorSpec((None, SIDE, SIDE), tf.uint8, name="images")]

    # The name of an output in ONNX is its key in this dictionary.
    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def probabilities(images: Any) -> dict[str, Any]:
        return {"probabilities": model(images, training=False)}

    # Operators of the year 2022, so that runtimes of the last years read them.
    converted, _ = tf2onnx.convert.from_function(probabilities, signature, opset=18)
    for value, shape in ((converted.graph.input[0], (SIDE, SIDE)), (converted.graph.output[0], (CLASSES,))):
        for dimension, size in zip(value.type.tensor_type.shape.dim, ("n", *shape), strict=True):
            setattr(dimension, "dim_param" if size == "n" else "dim_value", size)
    converted.graph.name = source.name
    converted.doc_string = f"Handwritten digits, {source.describe()}, by kaggle-digits."
    content: bytes = converted.SerializeToString()
    return content
