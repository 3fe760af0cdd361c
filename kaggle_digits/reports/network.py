"""Details of a network for the report: its layers, its first filters, and its activations for a digit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.prediction.predict import load_network
from kaggle_digits.reports.facts import Layer
from kaggle_digits.runs.directory import FoldsRun
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
    filters: Float32  # the kernels of the first convolution, [maps, height, width]
    # Name and feature maps, [maps, height, width], of the first and the last convolution, after ReLU.
    activations: list[tuple[str, Float32]]


def inspect_network(run: FoldsRun, fold: int, image: UInt8) -> NetworkDetails:
    """Return the details of a fold's network, with its activations for an image, uint8 [28, 28]."""
    network, keras = load_network(run, fold), tensorflow_keras()
    preprocessed = preprocess(image[None], run.fold_metrics(fold).preprocessing)
    rectified = [
        layer
        for layer in network.layers
        if isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is keras.activations.relu
    ]
    shown = [layer for layer in rectified if len(layer.output.shape) == 4]
    shown = [*shown[:1], *shown[1:][-1:]]
    model = keras.Model(network.inputs, [layer.output for layer in shown])
    maps = model([preprocessed[..., None].astype(np.float32)])
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    return NetworkDetails(
        layers=_layer_table(network),
        image=preprocessed[0],
        filters=np.moveaxis(np.asarray(first.kernel)[:, :, 0], -1, 0),
        activations=[
            (layer.name, np.moveaxis(np.asarray(values)[0], -1, 0))
            for layer, values in zip(shown, maps, strict=True)
        ],
    )


def _layer_table(network: keras.Model) -> list[Layer]:
    """Return the layers with the receptive fields of their outputs.

    Receptive fields are computed as in Araujo, Norris and Sim (Distill, 2019): a layer with kernel size k and
    stride s adds (k - 1) * jump to the field and multiplies the jump by s, where the jump is the distance in input
    pixels between two neighbouring values.
    """
    # For each tensor, by id: the side of its receptive field, and its jump.
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
        row = Layer(name=layer.name, kind=kind, shape=shape, parameters=parameters, receptive_field=field)
        rows.append(row)
    return rows
