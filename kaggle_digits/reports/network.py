"""Details of a network for the report: its layers, its first filters, and its activations for a digit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.reports.facts import Layer
from kaggle_digits.runs.artefacts import FoldFolder
from kaggle_digits.training.compute import first_output
from kaggle_digits.training.models import tensorflow_keras
from kaggle_digits.training.preprocessing import preprocess
from kaggle_digits.workspace import SIDE

if TYPE_CHECKING:
    import keras

_POINTWISE = re.compile(
    r"keras\.src\.(layers\.(activations|core\.(dense|identity)|merging|normalization|preprocessing|regularization)|ops)\."
)
"""The modules of layers and operations whose values each depend on the same position of their input."""


@dataclass(frozen=True)
class NetworkDetails:
    """Layers, filters and activations of the network of a fold."""

    layers: list[Layer]  # from input to output
    image: UInt8  # the digit after the preprocessing of the fold, [28, 28]
    filters: Float32 | None  # the kernels of the first convolution, if there is one, [maps, height, width]
    activations: dict[str, Float32]  # the maps, [maps, height, width], of the first and the last one, after ReLU


def inspect_network(fold: FoldFolder, image: UInt8) -> NetworkDetails:
    """Return the details of a fold's network, with its activations for an image, uint8 [28, 28]."""
    network, keras = fold.read_network(), tensorflow_keras()
    preprocessed = preprocess(image[None], fold.metrics().preprocessing)
    layers, relu = [a for a in network.layers if len(first_output(a).shape) == 4], keras.activations.relu
    rectified = [a for a in layers if isinstance(a, keras.layers.ReLU) or getattr(a, "activation", None) is relu]
    # The first and the last one, which may be the same.
    shown = {layer.name: layer.output for layer in (*rectified[:1], *rectified[-1:])}
    maps = keras.Model(network.inputs, shown)([preprocessed[..., None].astype(np.float32)]) if shown else {}
    kernels = [np.asarray(layer.kernel) for layer in layers if isinstance(layer, keras.layers.Conv2D)]
    return NetworkDetails(
        layers=_layer_table(network),
        image=preprocessed[0],
        filters=np.moveaxis(kernels[0][:, :, 0], -1, 0) if kernels else None,
        activations={name: np.moveaxis(np.asarray(maps[name])[0], -1, 0) for name in shown},
    )


class _Field(NamedTuple):
    """The receptive field of a value of a tensor, in pixels."""

    side: int
    jump: int  # the distance of the fields of two neighbouring values
    union: int  # the side of the union of the fields of all values


def _layer_table(network: keras.Model) -> list[Layer]:
    """Return the layers with the receptive fields of their outputs: Araujo, Norris and Sim, Distill, 2019."""
    keras = tensorflow_keras()
    fields: dict[int, _Field | None] = {}  # by the id of the tensor; None where it is not known
    rows = []
    for operation in network.operations:  # the layers, and what is between them, such as x + y
        sources, output = keras.tree.flatten(operation.input), first_output(operation)
        field = _field_of(operation, output.shape, sources, [fields.get(id(source)) for source in sources])
        fields[id(output)] = field
        if isinstance(operation, keras.layers.Layer):
            rows.append(
                Layer(
                    name=operation.name,
                    kind=type(operation).__name__,
                    shape=list(output.shape[1:]),
                    parameters=operation.count_params(),
                    receptive_field=field and field.side,
                )
            )
    return rows


def _field_of(
    operation: Any, shape: Sequence[int], sources: list[Any], fields: list[_Field | None]
) -> _Field | None:
    """Return the receptive field of the output of a layer or an operation, given its inputs and their fields."""
    kind, module = type(operation).__name__, f"{type(operation).__module__}."
    known = [field for field in fields if field]
    if kind == "InputLayer":
        return _Field(1, 1, SIDE)
    if len(known) < len(fields):
        return None
    # Where branches meet (residual connections), the larger receptive field counts.
    side, jump, union = max(known)
    size: Any = getattr(operation, "kernel_size", None) or getattr(operation, "pool_size", ())
    if len(shape) == 2 and module.startswith(("keras.src.layers.", "keras.src.ops.")):
        return _Field(union, jump, union)  # flatten and dense layers depend on the complete image
    if len(set(size)) == 1 and "Transpose" not in kind:
        # A layer with kernel size k and stride s adds (k - 1) * jump to the field and multiplies the jump by s.
        side += (size[0] - 1) * getattr(operation, "dilation_rate", (1,))[0] * jump
        jump *= operation.strides[0]
    elif kind not in ("Cropping2D", "ZeroPadding2D"):
        is_same = all(source.shape[1:-1] == shape[1:-1] for source in sources)
        if not (_POINTWISE.match(module) and is_same) or hasattr(operation, "strides"):
            return None
    union = min(union, side + (shape[1] - 1) * jump)
    return _Field(min(side, union), jump, union)
