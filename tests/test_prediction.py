"""Predictions of image files: they match those of the run, and are printed as text and JSON."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import kaggle_digits as kd
from kaggle_digits import Workspace
from kaggle_digits.arrays import UInt8
from kaggle_digits.data.csv import load_test
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.evaluation.outliers import OutlierDistance
from kaggle_digits.prediction.predict import Prediction
from kaggle_digits.runs.directory import FoldsRun, find_run

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]
ROWS = 30


@pytest.fixture(scope="module")
def pictures(trained_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first test rows as image files."""
    folder = tmp_path_factory.mktemp("pictures")
    for row, image in enumerate(load_test(trained_workspace.data).images[:ROWS]):
        Image.fromarray(image).save(folder / f"{row}.png")
    return [folder / f"{row}.png" for row in range(ROWS)]


@pytest.fixture
def copied(trained_workspace: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the trained workspace, which a test can change."""
    shutil.copytree(trained_workspace.root, tmp_path / "copy")
    return Workspace.at(tmp_path / "copy", "rehearsal")


def calibrated(run: FoldsRun) -> np.ndarray:
    return kd.temper(run.test_softmax()[:ROWS], run.ensemble_metrics()["calibration"]["temperature"])


def options(workspace: Workspace) -> tuple[object, ...]:
    return ("--competition", "rehearsal", "--root", workspace.root)


def test_predict_gives_the_softmax_of_the_ensemble_for_test_rows(
    trained_workspace: Workspace, pictures: list[Path]
) -> None:
    run = find_run(trained_workspace)
    predictions = kd.predict(trained_workspace, pictures, "first")
    np.testing.assert_allclose([p.softmax for p in predictions], calibrated(run), atol=1e-5)
    assert [p.path for p in predictions] == pictures
    np.testing.assert_array_equal([p.image for p in predictions], load_test(trained_workspace.data).images[:ROWS])

    folds = np.stack([run.fold(fold).softmax("test")[:ROWS] for fold in range(2)])
    digits = np.array([prediction.digit for prediction in predictions])
    np.testing.assert_array_equal(digits, calibrated(run).argmax(1))
    assert [p.confidence for p in predictions] == [p.softmax.max() for p in predictions]
    assert [p.agreement for p in predictions] == (folds.argmax(2) == digits).mean(0).tolist()
    # The mean of the distances of both networks, each to its own validation rows.
    distances = [OutlierDistance(run.fold(fold).softmax("val"))(folds[fold]) for fold in range(2)]
    np.testing.assert_allclose([p.distance for p in predictions], np.mean(distances, 0), rtol=1e-2)


def test_predict_explains_another_backend_of_keras(
    trained_workspace: Workspace, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    keras = ModuleType("keras")
    keras.config = SimpleNamespace(backend=lambda: "torch")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keras", keras)
    with pytest.raises(UsageError, match=r"the backend torch, .*\. Restart .*KERAS_BACKEND=tensorflow"):
        kd.predict(trained_workspace, pictures[:1])


def test_predict_and_export_say_how_to_finish_an_unfinished_run(copied: Workspace, pictures: list[Path]) -> None:
    (find_run(copied).path / "ensemble" / "metrics.json").unlink()
    for use in (lambda: kd.predict(copied, pictures), lambda: kd.export(copied, "digits.keras")):
        with pytest.raises(DataError, match="The run first is not finished"):
            use()


def test_predict_names_a_damaged_or_missing_network(copied: Workspace, pictures: list[Path]) -> None:
    folder, content = find_run(copied).fold(1).path, b"PK\3\4 and no more"
    (folder / "model.keras").write_bytes(content)
    with pytest.raises(DataError, match=r"fold-1/model\.keras"):
        kd.predict(copied, pictures)
    # The same content, but as the metrics say that it should be.
    metrics = json.loads((folder / "metrics.json").read_bytes())
    metrics["files"]["model.keras"] = hashlib.sha256(content).hexdigest()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match=r"fold-1/model\.keras is damaged: File is not"):
        kd.predict(copied, pictures)
    (folder / "model.keras").unlink()
    with pytest.raises(DataError, match=r"fold-1/model\.keras is missing"):
        kd.predict(copied, pictures)


def test_predict_command_shows_bars_for_one_picture_and_one_line_for_each_of_several(
    call_cli: RunCli, trained_workspace: Workspace, pictures: list[Path]
) -> None:
    command = (*options(trained_workspace), "predict", "--run", "first")
    one = call_cli(*command, pictures[0])
    assert (one.returncode, one.stderr) == (0, "")
    row = calibrated(find_run(trained_workspace))[0]
    assert f"{pictures[0].name}: {row.argmax()}" in one.stdout
    assert all(f" {probability:.4f}" in one.stdout for probability in row)
    header, *lines = call_cli(*command, *pictures).stdout.splitlines()
    assert header.split() == ["file", "digit", "probability"]
    for line, prediction in zip(lines, kd.predict(trained_workspace, pictures), strict=True):
        words = [str(prediction.path), str(prediction.digit), f"{prediction.confidence:.4f}", prediction.doubts]
        assert line.split(maxsplit=3) == list(filter(None, words))
    assert any(line.endswith("unsure") for line in lines)


def test_predict_command_prints_json(call_cli: RunCli, trained_workspace: Workspace, pictures: list[Path]) -> None:
    result = call_cli(*options(trained_workspace), "predict", *pictures[:3], "--json")
    document = json.loads(result.stdout)
    assert (document["run"], document["failed"]) == ("first", [])
    for prediction, shown in zip(kd.predict(trained_workspace, pictures[:3]), document["pictures"], strict=True):
        assert shown == {
            "file": str(prediction.path),
            "digit": prediction.digit,
            "confidence": pytest.approx(prediction.confidence, abs=1e-6),
            "unsure": prediction.confidence < 0.9,
            "not_a_digit": prediction.distance > 1,
            "shapes": 1,
            "agreement": prediction.agreement,
            "probabilities": pytest.approx(prediction.softmax.tolist(), abs=1e-6),
            "image": prediction.image.tolist(),
        }


def test_predict_command_classifies_all_pictures_and_then_names_those_that_failed(
    call_cli: RunCli, trained_workspace: Workspace, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    command = (*options(trained_workspace), "predict", "text.png", pictures[0], "missing.png", pictures[1])
    printed = call_cli(*command, "--json")
    document = json.loads(printed.stdout)
    assert [picture["file"] for picture in document["pictures"]] == [str(pictures[0]), str(pictures[1])]
    assert [failed["file"] for failed in document["failed"]] == ["text.png", "missing.png"]
    shown = call_cli(*command)
    assert printed.returncode == shown.returncode == DataError.exit_code
    run, problem, remedy = shown.stderr.splitlines()
    assert run.startswith("The run is first (CV 0.")
    assert re.fullmatch(r"Error: text\.png cannot be read as a picture: .* missing\.png is missing\.", problem)
    assert remedy.endswith(" Use the path of an existing picture.")
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == [str(pictures[0]), str(pictures[1])]
    failed = call_cli(*options(trained_workspace), "predict", "text.png", "--json")
    assert (failed.returncode, failed.stdout) == (DataError.exit_code, "")


def test_prediction_says_what_is_doubtful() -> None:
    image: UInt8 = np.zeros((28, 28), np.uint8)
    image[5:20, 4:8] = 255
    sure, unsure = np.eye(10, dtype=np.float32)[1], np.full(10, 0.1, np.float32)
    assert Prediction(Path("one.png"), image, sure, sure[None], 0.5).doubts == ""
    assert Prediction(Path("one.png"), image, unsure, sure[None], 0.5).doubts == "unsure"
    letter = Prediction(None, image, unsure, sure[None], 1.5)
    assert letter.doubts == "probably not a digit, unsure"
    assert letter.as_document()["not_a_digit"] is True
    assert "image: <b>" in letter._repr_html_()
    image[5:20, 16:20] = 255
    eleven = Prediction(Path("eleven.png"), image, sure, sure[None], 0.5)
    assert eleven.doubts == "the picture has more than one shape"
    assert eleven.as_document()["shapes"] == 2
    assert "(the picture has more than one shape)" in eleven._repr_html_()
