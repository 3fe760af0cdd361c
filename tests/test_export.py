"""A run's ensemble as one model: in ONNX Runtime and in plain Keras it predicts the same as `predict`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import competition_files, once_for_all_processes, training_in_process, write_files

import kaggle_digits as kd
from kaggle_digits import Workspace
from kaggle_digits.data.csv import load_test
from kaggle_digits.errors import UsageError
from kaggle_digits.prediction.predict import Classifier, Prediction
from kaggle_digits.training.models import SURE

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]
ROWS = 60


@pytest.fixture(scope="module")
def mean_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose latest run is a mean of two: one with preprocessing and test-time augmentation."""
    with once_for_all_processes(tmp_path_factory, "export") as folder, training_in_process():
        workspace = Workspace.at(folder)
        if not folder.exists():
            write_files(workspace.data, competition_files(200, ROWS))
            settings = {"epochs": "4", "batch_size": "20", "preprocessing": "plain,even"}
            kd.train(workspace, preset="lenet", folds=2, settings=settings, run="first")
            settings |= {"preprocessing": "bold,wide-backhand,plain", "tta": "5"}
            kd.train(workspace, preset="lenet", folds=3, settings=settings, run="second: $1÷4")
            kd.ensemble(workspace, ["first", "second: $1÷4"], "both")
    return workspace


@pytest.fixture(scope="module")
def expected(mean_of_runs: Workspace) -> list[Prediction]:
    """The predictions of `predict` for the test rows."""
    images = load_test(mean_of_runs.data).images
    return Classifier(kd.find_run(mean_of_runs, "both"))([(None, image) for image in images])


def test_classifier_uses_all_networks_of_an_ensemble_of_runs(
    mean_of_runs: Workspace, expected: list[Prediction]
) -> None:
    # Both runs have the same weight, although the second one has more folds.
    run = kd.find_run(mean_of_runs, "both")
    saved = kd.temper(run.test_softmax(), run.ensemble_metrics().calibration.temperature)
    np.testing.assert_allclose([prediction.softmax for prediction in expected], saved, atol=1e-4)
    assert {round(prediction.agreement * 5, 6) % 1 for prediction in expected} == {0}


def test_export_to_onnx_predicts_the_same_as_predict(
    mean_of_runs: Workspace, expected: list[Prediction], tmp_path: Path
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(kd.export(mean_of_runs, tmp_path / "digits.onnx", "both"))
    images = np.stack([prediction.image for prediction in expected])
    softmaxes = np.stack([prediction.softmax for prediction in expected])
    # The networks are trained so little that they are unsure of many rows, which need test-time augmentation.
    second = kd.find_run(mean_of_runs, "second: $1÷4")
    folds = np.stack([second.fold(fold).softmax("test") for fold in range(3)])
    assert 0.1 < np.mean(folds.max(2) < SURE) < 0.9
    for rows in (ROWS, 1):
        (found,) = session.run(["probabilities"], {"images": images[:rows]})
        assert (found.dtype, found.shape) == (np.float32, (rows, 10))
        np.testing.assert_allclose(found, softmaxes[:rows], atol=1e-5)


@pytest.mark.slow
def test_export_to_keras_is_loaded_without_kaggle_digits(
    mean_of_runs: Workspace, expected: list[Prediction], tmp_path: Path
) -> None:
    file = kd.export(mean_of_runs, tmp_path / "digits.keras", "both", "keras")
    np.save(tmp_path / "images.npy", np.stack([prediction.image for prediction in expected]))
    script = f"""
import sys, numpy as np, keras
model = keras.models.load_model({str(file)!r})
np.save('found.npy', model.predict(np.load('images.npy'), verbose=0))
assert 'kaggle_digits' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=300)
    softmaxes = [prediction.softmax for prediction in expected]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), softmaxes, atol=1e-5)


def test_export_command_names_the_best_run(call_cli: RunCli, trained_workspace: Workspace, tmp_path: Path) -> None:
    options = ("--competition", "rehearsal", "--root", trained_workspace.root)
    written = call_cli(*options, "export", "new/digits.keras", "--json")
    assert written.returncode == 0
    assert re.fullmatch(r"The run is first \(CV 0\.\d{5}\), the finished one with .*\.\n", written.stderr)
    size = (tmp_path / "new" / "digits.keras").stat().st_size
    assert json.loads(written.stdout) == {"run": "first", "file": "new/digits.keras", "bytes": size}


@pytest.mark.parametrize(
    ("file", "format", "problem"),
    [
        ("digits.pb", None, r"digits\.pb does not end with \.onnx or \.keras\."),
        ("digits.onnx", "keras", r"digits\.onnx does not end with \.keras\..* Choose the name of a file"),
        ("digits.onnx", None, r"Install it with: pip install 'kaggle-digits\[onnx\]'"),
    ],
)
def test_export_explains_an_invalid_format_or_missing_package(
    trained_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, file: str, format: str | None, problem: str
) -> None:
    monkeypatch.setattr("kaggle_digits.prediction.export.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=problem):
        kd.export(trained_workspace, file, format=format)
