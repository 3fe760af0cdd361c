"""Networks of the user: a function that returns a Keras model, kept and passed on as its source."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaggle_digits.errors import UsageError, unknown_name
from kaggle_digits.training.models import tensorflow_keras
from kaggle_digits.workspace import CLASSES, SIDE

if TYPE_CHECKING:
    import keras

REPLACED_SETTINGS = ("network", "widths", "dropout")
"""The settings that describe a network of this package, and have no meaning for another one."""
NETWORK_FILE = "network.py"
"""The file of a run with the source of the user's network. It is never run, unless it is given as one."""
known_networks: dict[str | None, OwnNetwork] = {}
"""What `find_network` has found in this process, by the SHA-256 of the source. Only these are built."""
_REMEDY = (
    "Let the function import what it uses, and return an untrained Keras model from grey values, 0 to 255, "
    "[b, 28, 28, 1], to 10 logits."
)


@dataclass(frozen=True)
class OwnNetwork:
    """A function that builds a network, and the Python source that defines it."""

    function: str  # its name
    source: str

    @property
    def sha256(self) -> str:
        """The SHA-256 of the source, which is that of the file."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def build(self, notice: Callable[[str], None] = lambda sentence: None) -> keras.Model:
        """Build the untrained network, as of `presets.build_network`; `notice` if a softmax at its end is removed.

        `UsageError` if it cannot be built or has other shapes.
        """
        keras, namespace = tensorflow_keras(), {"__name__": self.function}
        try:
            with redirect_stdout(sys.stderr):  # stdout may be a JSON document
                # As in this module, annotations are not evaluated: they may need other cells of a notebook.
                exec(compile(self.source, self.function, "exec"), namespace)  # noqa: S102 - the user's own code
                model: Any = namespace[self.function]()  # type: ignore[operator]
            if not isinstance(model, keras.Model):
                raise TypeError(f"it returns {type(model).__name__} instead of a Keras model")
            pixels = keras.Input((SIDE, SIDE, 1))
            inputs, outputs = [pixels], [model(pixels)]
            if getattr(model, "inputs", None):  # all but subclasses of `keras.Model`, whose layers are not known
                inputs, outputs = model.inputs, model.outputs
            shapes = [[list(tensor.shape) for tensor in tensors] for tensors in (inputs, outputs)]
            if shapes != [[[None, SIDE, SIDE, 1]], [[None, CLASSES]]]:
                taken, returned = (", ".join(map(str, side)).replace("[None", "[b") for side in shapes)
                raise ValueError(f"it takes {taken} and returns {returned}")
            return _without_softmax(keras.Model(inputs[0], outputs[0]), self.function, notice)
        except Exception as error:  # the user's code can raise any error
            lines = [
                frame.lineno
                for frame in traceback.extract_tb(error.__traceback__)
                if frame.filename == self.function
            ]
            where = f" (line {lines[-1]})" if lines else ""
            why = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder="…").rstrip(".")
            raise UsageError(f"The network {self.function} cannot be used: {why}{where}.", _REMEDY) from error


def find_network(network: OwnNetwork | Callable[[], Any] | str) -> OwnNetwork:
    """Return a network given as ``FILE.py:FUNCTION`` or as a function; `UsageError` if there is none."""
    if not isinstance(network, OwnNetwork):
        network = _read(network)
        known_networks[network.sha256] = network
    return network


def _read(network: Callable[[], Any] | str) -> OwnNetwork:
    if callable(network):
        name = getattr(network, "__name__", "")
        try:
            source = textwrap.dedent(inspect.getsource(network))
            is_known = name in _functions(source)
        except (OSError, TypeError, SyntaxError):
            is_known = False
        if not is_known:
            raise UsageError(
                f"The source of the network {name or network!r} is not known.",
                "Define it by def in a cell of the notebook, or write it into a file, and use 'FILE.py:FUNCTION'.",
            )
        return OwnNetwork(name, source)
    file, _, name = str(network).rpartition(":")
    if not file or not name:
        raise UsageError(f"{network!r} is not of the form FILE.py:FUNCTION.", "For example: --network cnn.py:cnn.")
    try:
        source = Path(file).read_bytes().decode()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not a text in UTF-8"
        raise UsageError(f"{file} cannot be read: {why}.", "Choose a Python file with a function.") from error
    try:
        functions = _functions(source)
    except SyntaxError as error:
        raise UsageError(f"{file} is not valid Python: {error.msg} (line {error.lineno}).", "Fix it.") from error
    if name not in functions:
        raise unknown_name(f"function in {file}", name, functions)
    return OwnNetwork(name, source)


def _functions(source: str) -> list[str]:
    """Return the names of the functions that a source defines."""
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


def _without_softmax(model: keras.Model, name: str, notice: Callable[[str], None]) -> keras.Model:
    """Return a network without the softmax at its end: training and prediction compute it from the logits."""
    if not _returns_probabilities(model):
        return model
    keras = tensorflow_keras()
    last = model.layers[-1]
    while isinstance(last, keras.Model) and last.layers:  # a model can be a layer of another one
        last = last.layers[-1]
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear
    elif isinstance(last, keras.layers.Softmax) and last is model.layers[-1]:
        model = keras.Model(model.inputs[0], last.input)
    if _returns_probabilities(model):
        raise ValueError("its outputs are probabilities, but its last layer is no softmax that can be removed")
    notice(
        f"The softmax at the end of {name}, in its layer {last.name}, is left out, because the loss needs logits."
    )
    return model


def _returns_probabilities(model: keras.Model) -> bool:
    images = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 1))
    outputs = np.asarray(model(images, training=False))
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(1), 1, atol=1e-3))
