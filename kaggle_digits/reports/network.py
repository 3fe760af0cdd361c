"""Details of a network for the report: its layers, its first filters, and its activations for a digit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.reports.facts import Layer
from kaggle_digits.runs.artefacts import FoldFolder
from kaggle_digits.training.models import tensorflow_keras
from kaggle_digits.training.preprocessing import preprocess
from kaggle_digits.workspace import SIDE

if TYPE_CHECKING:
    import keras


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
    layers, relu = [layer for layer in network.layers if len(layer.output.shape) == 4], keras.activations.relu
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


def _layer_table(network: keras.Model) -> list[Layer]:
    """Return the layers with the receptive fields of their outputs: Araujo, Norris and Sim, Distill, 2019."""
    # For each tensor, by id: the side of its receptive field, and its jump, the distance in input pixels between
    # two neighbouring values. A layer with kernel size k and stride s adds (k - 1) * jump to the field and
    # multiplies the jump by s.
    fields_and_jumps: dict[int, tuple[int, int]] = {}
    rows, side = [], SIDE
    for layer in network.layers:
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        # Where branches meet (residual connections), the larger receptive field counts.
        field, jump = max([fields_and_jumps[id(source)] for source in sources] or [(1, 1)])
        if hasattr(layer, "kernel_size") or hasattr(layer, "pool_size"):
            size = getattr(layer, "kernel_size", None) or layer.pool_size
            field, jump = field + (size[0] - 1) * jump, jump * layer.strides[0]
        elif type(layer).__name__ == "Cropping2D":
            side = layer.output.shape[1]
        elif len(layer.output.shape) == 2:  # flatten and dense layers depend on the complete image
            field = side
        field = min(field, side)
        fields_and_jumps[id(layer.output)] = field, jump
        shape, kind, parameters = list(layer.output.shape[1:]), type(layer).__name__, layer.count_params()
        rows.append(Layer(name=layer.name, kind=kind, shape=shape, parameters=parameters, receptive_field=field))
    return rows
