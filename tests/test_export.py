"""A run's ensemble as one model: in ONNX Runtime and in plain Keras it predicts the same as `predict`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    competition_files,
    full_disk,
    once_for_all_processes,
    pipe_with_reader,
    training_in_process,
    write_files,
)
from PIL import Image

import kaggle_digits as kd
from kaggle_digits import Workspace
from kaggle_digits.arrays import Float32, UInt8
from kaggle_digits.data.csv import load_test
from kaggle_digits.errors import DataError, UsageError, WriteError
from kaggle_digits.prediction.predict import Prediction
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
            settings = {"epochs": "4", "batch_size": "20"}
            kd.train(workspace, preset="lenet", folds=2, settings=settings, run="first")
            settings |= {"preprocessing": "plain,even,bold,wide-backhand", "tta": "5"}
            kd.train(workspace, preset="lenet", folds=4, settings=settings, run="second: $1÷4")
            kd.ensemble(workspace, ["first", "second: $1÷4"], "both")
    return workspace


@pytest.fixture(scope="module")
def expected(mean_of_runs: Workspace, tmp_path_factory: pytest.TempPathFactory) -> list[Prediction]:
    """The predictions of `predict` for the first test rows."""
    folder = tmp_path_factory.mktemp("pictures")
    for row, image in enumerate(load_test(mean_of_runs.data).images[:ROWS]):
        Image.fromarray(image).save(folder / f"{row}.png")
    return kd.predict(mean_of_runs, [folder / f"{row}.png" for row in range(ROWS)], "both")


def run_onnx(file: Path, images: UInt8) -> Float32:
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    (probabilities,) = session.run(["probabilities"], {"images": images})
    return probabilities


def test_export_to_onnx_predicts_the_same_as_predict(
    mean_of_runs: Workspace, expected: list[Prediction], tmp_path: Path
) -> None:
    file = kd.export(mean_of_runs, tmp_path / "digits.onnx")
    images = np.stack([prediction.image for prediction in expected])
    softmaxes = np.stack([prediction.softmax for prediction in expected])
    # The networks are trained so little that they are unsure of many rows, which need test-time augmentation.
    second = kd.find_run(mean_of_runs, "second: $1÷4")
    folds = np.stack([second.fold_test_softmax(fold) for fold in range(4)])
    assert 0.1 < np.mean(folds.max(2) < SURE) < 0.9
    found = run_onnx(file, images)
    assert (found.dtype, found.shape) == (np.float32, (ROWS, 10))
    np.testing.assert_allclose(found, softmaxes, atol=1e-5)
    np.testing.assert_allclose(run_onnx(file, images[:1]), softmaxes[:1], atol=1e-5)
    assert np.isfinite(run_onnx(file, np.zeros((2, 28, 28), np.uint8))).all()


@pytest.mark.slow
def test_export_to_keras_is_loaded_without_kaggle_digits(
    mean_of_runs: Workspace, expected: list[Prediction], tmp_path: Path
) -> None:
    file = kd.export(mean_of_runs, tmp_path / "digits.keras", "both", "keras")
    np.save(tmp_path / "images.npy", np.stack([prediction.image for prediction in expected]))
    script = (
        "import sys, numpy as np, keras; "
        f"model = keras.models.load_model({str(file)!r}); "
        "np.save('found.npy', model.predict(np.load('images.npy'), verbose=0)); "
        "assert 'kaggle_digits' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=300)
    softmaxes = [prediction.softmax for prediction in expected]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), softmaxes, atol=1e-5)


def test_export_command_writes_and_names_the_best_run(
    run_cli: RunCli, trained_workspace: Workspace, tmp_path: Path
) -> None:
    options = ("--competition", "rehearsal", "--root", trained_workspace.root)
    written = run_cli(*options, "export", "new/digits.onnx", "--json")
    assert written.returncode == 0
    assert re.fullmatch(r"The run is first \(CV 0\.\d{5}\), the finished one with .*\.\n", written.stderr)
    file = tmp_path / "new" / "digits.onnx"
    assert json.loads(written.stdout) == {
        "run": "first",
        "file": "new/digits.onnx",
        "bytes": file.stat().st_size,
    }
    images = load_test(trained_workspace.data).images[:ROWS]
    run = kd.find_run(trained_workspace)
    saved = kd.temper(run.test_softmax()[:ROWS], run.ensemble_metrics().calibration.temperature)
    np.testing.assert_allclose(run_onnx(file, images), saved, atol=1e-5)


def test_export_writes_into_pipe(trained_workspace: Workspace, tmp_path: Path) -> None:
    with pipe_with_reader(tmp_path / "digits.keras") as received:
        kd.export(trained_workspace, tmp_path / "digits.keras")
    assert received[0].startswith(b"PK")


@pytest.mark.parametrize(
    ("file", "format", "problem"),
    [
        (
            "digits.pb",
            None,
            "The format of .*digits.pb is not known. Choose a name that ends with .onnx or .keras",
        ),
        ("digits", "onnx", "ends with .onnx, got digits"),
        ("digits.onnx", "keras", "ends with .keras, got digits.onnx"),
        ("digits.h5", "h5", "There is no format 'h5'. Choose onnx or keras."),
        ("folder.keras", None, "is a folder"),
    ],
)
def test_export_explains_an_invalid_file_name_or_format(
    trained_workspace: Workspace, tmp_path: Path, file: str, format: str | None, problem: str
) -> None:
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(UsageError, match=problem):
        kd.export(trained_workspace, tmp_path / file, format=format)


def test_export_says_how_to_install_tf2onnx(
    trained_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaggle_digits.prediction.export.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'kaggle-digits\[onnx\]'"):
        kd.export(trained_workspace, tmp_path / "digits.onnx")


def test_export_refuses_an_unfinished_run(trained_workspace: Workspace, tmp_path: Path) -> None:
    copy = Workspace.at(tmp_path / "copy", "rehearsal")
    shutil.copytree(trained_workspace.runs, copy.runs)
    (kd.find_run(copy).path / "ensemble" / "metrics.json").unlink()
    with pytest.raises(DataError, match="The run first is not finished"):
        kd.export(copy, tmp_path / "digits.keras")
    assert not (tmp_path / "digits.keras").exists()


@pytest.mark.parametrize("name", ["digits.keras", "digits.onnx"])
def test_export_keeps_an_existing_file_if_the_disk_is_full(
    trained_workspace: Workspace, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"earlier")
    with full_disk(after=0) as failed, pytest.raises(WriteError, match="No space left on device"):
        kd.export(trained_workspace, tmp_path / name)
    assert failed == [name]
    assert (tmp_path / name).read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.glob(f"*{name}*")] == [name]
