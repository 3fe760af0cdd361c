"""The predictions of a network."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_digits

from kaggle_digits.errors import DataError
from kaggle_digits.training.models import (
    _silent_stderr,
    keras_bytes,
    read_network,
    softmax_function,
    softmax_functions,
)
from kaggle_digits.training.presets import PRESETS, build_network, find_preset


def test_softmax_function_predicts_each_row_independently_of_the_others() -> None:
    model = build_network(find_preset("lenet").settings)
    images, _ = small_digits(507)  # more than a batch
    softmax = softmax_function(model)(images)
    assert softmax.dtype == np.float32
    assert softmax.shape == (507, 10)
    np.testing.assert_allclose(softmax.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(softmax_function(model)(images[-3:]), softmax[-3:], atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_read_network_reads_what_training_saved(preset: str, tmp_path: Path) -> None:
    from kaggle_digits.training.batch_normalization import with_keras_layers

    model = build_network(find_preset(preset).settings)
    for weight in model.weights:  # the moving statistics are not those of an untrained network
        weight.assign(weight + 0.1)
    (tmp_path / "model.keras").write_bytes(keras_bytes(with_keras_layers(model)))
    network = read_network(tmp_path / "model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in network.layers)
    images = np.random.default_rng(1).integers(0, 256, (4, 28, 28, 1)).astype(np.float32)
    # The batch normalisation of Keras rounds differently.
    np.testing.assert_allclose(network(images), model(images), rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        # With Keras 3.8, loading a network runs this command.
        ("os", "function", "system"),
        ("keras.layers", "Lambda", {"function": {"module": "os", "class_name": "function", "config": "system"}}),
        ("keras.utils", "get_file", {}),
        (None, "__lambda__", {}),
        ("keras.layers", "Dense", {"activation": {"module": "os", "class_name": "function", "config": "system"}}),
    ],
)
def test_read_network_runs_no_code_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str | None, name: str, config: object
) -> None:
    """Whatever the installed version of Keras does: it does not even see such a file."""
    mark, path = tmp_path / "executed", tmp_path / "model.keras"
    path.write_bytes(keras_bytes(build_network(find_preset("lenet").settings)))
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    configuration = json.loads(contents["config.json"])
    nodes = [{"args": [f"touch {mark}"], "kwargs": {}}]
    layer = {"module": module, "class_name": name, "config": config, "name": "x", "inbound_nodes": nodes}
    configuration["config"]["layers"].append(layer)
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in (contents | {"config.json": json.dumps(configuration).encode()}).items():
            archive.writestr(file, content)
    monkeypatch.setattr("keras.models.load_model", lambda *arguments, **options: pytest.fail("loaded"))
    with pytest.raises(DataError, match=r"model\.keras is not loaded: it contains .*, which may run") as caught:
        read_network(path)
    assert "retrain" in caught.value.remedy
    assert not mark.exists()


def test_softmax_functions_read_one_network_of_each_structure(tmp_path: Path) -> None:
    """Their files have other ids of shared objects, if different processes have trained them."""
    model = build_network(find_preset("lenet").settings)
    paths, read = [tmp_path / f"{name}.keras" for name in "abc"], []
    for number, path in enumerate(paths):
        for weight in model.weights:
            weight.assign(weight + 0.1)
        path.write_bytes(keras_bytes(model))
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        config = re.sub(rb'(?<="shared_object_id": )\d+', str(number).encode(), contents["config.json"])
        assert config != contents["config.json"]
        if number == 2:  # another structure
            config = config.replace(b'"relu"', b'"tanh"')
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (contents | {"config.json": config}).items():
                archive.writestr(name, content)

    def reader(path: Path) -> Callable[[], Any]:
        def read_and_count() -> Any:
            read.append(path)
            return read_network(path)

        return read_and_count

    functions = softmax_functions([(path, reader(path)) for path in paths])
    assert read == [paths[0], paths[2]]
    images, _ = small_digits(20)
    for function, path in zip(functions, paths, strict=True):
        expected = softmax_function(read_network(path))(images)
        np.testing.assert_allclose(function(images), expected, atol=1e-6)


def test_silent_stderr_hides_native_output(capfd: pytest.CaptureFixture[str]) -> None:
    with _silent_stderr():
        os.write(2, b"hidden\n")
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"
