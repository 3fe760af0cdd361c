"""Training of a fold: its rows, its result, and how it resumes after an interruption."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import full_disk, small_data

from kaggle_digits import Workspace, download
from kaggle_digits.data.csv import Data
from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import WriteError
from kaggle_digits.runs.artefacts import FoldCheckpoint, tensorboard_callback, write_fold
from kaggle_digits.training.fold import FoldResult, FoldTask, train_fold
from kaggle_digits.training.models import softmax_function, with_test_time_augmentation
from kaggle_digits.training.preprocessing import PREPROCESSINGS, preprocess
from kaggle_digits.training.presets import Settings, find_preset
from kaggle_digits.training.schedule import choose_rows, epoch_sizes

if TYPE_CHECKING:
    import keras

MINING = find_preset("lenet").settings.model_copy(update={"epochs": 4, "hard_rows": 0.2, "other_rows": 0.3})


@pytest.fixture(scope="module")
def data() -> Data:
    return small_data(120)


def tiny_network(settings: Settings) -> keras.Model:
    """Build a small network with dropout and batch normalisation that compiles quickly."""
    import keras

    from kaggle_digits.training.batch_normalization import BatchNormalization

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 5, 4, use_bias=False),
            BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(settings.dropout),
            keras.layers.Dense(10),
        ]
    )


@pytest.fixture(scope="module", autouse=True)
def task(data: Data) -> Iterator[FoldTask]:
    """A task with everything that has a state: dropout, batch normalisation, an optimiser, hard-example mining."""
    recipe = find_preset("default").with_settings({"epochs": 4, "batch_size": 16, "dropout": 0.5})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kaggle_digits.training.fold.build_network", tiny_network)
        yield FoldTask(recipe.name, recipe.settings, seed=3, fold=1, split=make_folds(data.train.labels, 3, 0))


@pytest.fixture(scope="module")
def uninterrupted(task: FoldTask, data: Data) -> FoldResult:
    return train_fold(task, data)


def assert_same(one: FoldResult, other: FoldResult) -> None:
    np.testing.assert_array_equal(one.val_softmax, other.val_softmax)
    np.testing.assert_array_equal(one.test_softmax, other.test_softmax)
    for a, b in zip(one.history, other.history, strict=True):
        assert all(a[name] == b[name] for name in a if name not in ("seconds", "images_per_second"))


def test_choose_rows_returns_all_rows_in_the_first_epoch() -> None:
    rows = choose_rows(np.zeros(100, np.float32), 0, MINING, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(rows), np.arange(100))
    assert not np.array_equal(rows, np.arange(100))


def test_choose_rows_returns_the_hardest_and_some_other_rows_in_later_epochs() -> None:
    likelihood = np.random.default_rng(0).permutation(100).astype(np.float32)
    chosen = [choose_rows(likelihood, 1, MINING, np.random.default_rng(seed)) for seed in range(2)]
    for rows in chosen:
        assert len(rows) == len(set(rows)) == 50
        assert set(np.flatnonzero(likelihood < 20)) <= set(rows)
    assert set(chosen[0]) != set(chosen[1])


def test_choose_rows_returns_all_rows_without_hard_example_mining() -> None:
    plain = MINING.model_copy(update={"hard_rows": 0.0, "other_rows": 1.0})
    rows = choose_rows(np.zeros(33, np.float32), 3, plain, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(rows), np.arange(33))


def test_epoch_sizes_match_choose_rows() -> None:
    for rows in (7, 100, 1001):
        sizes = epoch_sizes(rows, MINING)
        chosen = [choose_rows(np.zeros(rows, np.float32), e, MINING, np.random.default_rng(0)) for e in range(4)]
        assert sizes == [len(c) for c in chosen]


def test_train_fold_gives_the_same_result_for_the_same_seeds(
    task: FoldTask, data: Data, uninterrupted: FoldResult
) -> None:
    assert_same(train_fold(task, data), uninterrupted)


@pytest.mark.slow
def test_train_fold_compiles_with_xla(task: FoldTask, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_digits.training.fold.compiles", lambda: True)
    result = train_fold(task, data)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_train_fold_calls_callbacks_after_every_epoch_without_changing_the_result(
    task: FoldTask, data: Data, uninterrupted: FoldResult, tmp_path: Path
) -> None:
    import keras

    class Recorder(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, dict[str, float]]] = []

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.seen.append((epoch, logs or {}))

    recorder = Recorder()
    result = train_fold(task, data, callbacks=[recorder, tensorboard_callback(tmp_path)])
    assert_same(result, uninterrupted)
    # The state of the optimiser would add 12,000 bytes. Names of layers contain a counter and differ in length.
    assert len(result.model) == pytest.approx(len(uninterrupted.model), abs=1_000)
    assert [epoch for epoch, _ in recorder.seen] == [0, 1, 2, 3]
    assert [logs["val_loss"] for _, logs in recorder.seen] == [row["val_loss"] for row in result.history]


def test_train_fold_writes_learning_curves_for_tensorboard(task: FoldTask, data: Data, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train_fold(task, data, callbacks=[tensorboard_callback(tmp_path)])
    for part, name, column in (("train", "epoch_loss", "loss"), ("validation", "epoch_accuracy", "val_accuracy")):
        events = EventAccumulator(str(tmp_path / "tensorboard" / part))
        events.Reload()
        found = [float(tf_value(event)) for event in events.Tensors(name)]
        assert found == pytest.approx([row[column] for row in result.history])


def tf_value(event: Any) -> np.ndarray:
    import tensorflow as tf

    value: np.ndarray = tf.make_ndarray(event.tensor_proto)
    return value


def test_train_fold_measures_memory_and_time(uninterrupted: FoldResult) -> None:
    metrics = uninterrupted.metrics
    assert 50e6 < metrics["peak_memory"] < 50e9
    parts = metrics["data_seconds"], metrics["training_seconds"], metrics["test_seconds"]
    assert min(parts) > 0
    assert sum(parts) < metrics["seconds"]


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
@pytest.mark.parametrize("tta", [1, 5])
def test_train_fold_saves_a_network_with_the_same_predictions(
    task: FoldTask, data: Data, tmp_path: Path, preprocessing: str, tta: int
) -> None:
    import keras

    settings = task.settings.model_copy(update={"preprocessing": preprocessing, "tta": tta, "epochs": 1})
    result = train_fold(replace(task, settings=settings), data)
    (tmp_path / "model.keras").write_bytes(result.model)
    network = keras.models.load_model(tmp_path / "model.keras")
    predict = with_test_time_augmentation(softmax_function(network), tta)
    found = predict(preprocess(data.test.images, preprocessing))
    np.testing.assert_allclose(found, result.test_softmax, atol=1e-4)
    assert result.metrics["preprocessing"] == preprocessing


@pytest.mark.parametrize("epoch", [1, 3])
def test_train_fold_resumes_with_an_identical_result(
    task: FoldTask, data: Data, uninterrupted: FoldResult, tmp_path: Path, epoch: int
) -> None:
    def interrupt(progress: object) -> None:
        if progress.epoch > epoch:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    checkpoint = FoldCheckpoint(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_fold(task, data, interrupt, checkpoint)
    seen: list[int] = []
    result = train_fold(task, data, lambda progress: seen.append(progress.epoch), checkpoint)
    assert min(seen) == epoch + 1
    assert_same(result, uninterrupted)
    write_fold(tmp_path, result)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no state"])
def test_train_fold_starts_again_when_checkpoint_is_damaged(
    task: FoldTask, data: Data, uninterrupted: FoldResult, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.npz").write_bytes(content)
    assert_same(train_fold(task, data, checkpoint=FoldCheckpoint(tmp_path)), uninterrupted)


@pytest.mark.parametrize("change", ["another shape", "another number", "another type", "other rows", "no history"])
def test_train_fold_starts_again_when_checkpoint_is_of_another_network(
    task: FoldTask, data: Data, uninterrupted: FoldResult, tmp_path: Path, change: str
) -> None:
    def interrupt(progress: object) -> None:
        if progress.epoch > 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    checkpoint = FoldCheckpoint(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_fold(task, data, interrupt, checkpoint)
    with np.load(tmp_path / "checkpoint" / "state.npz") as known:
        arrays = dict(known)
    if change == "another shape":
        arrays["variable-0"] = arrays["variable-0"][:-1]
    elif change == "another number":
        del arrays[f"variable-{len(arrays) - 3}"]
    elif change == "another type":
        arrays["variable-0"] = arrays["variable-0"].astype(str)
    elif change == "other rows":
        arrays["likelihood"] = arrays["likelihood"][:-1]
    else:
        arrays["history"] = np.array("[")
    np.savez(tmp_path / "checkpoint" / "state.npz", **arrays)
    seen: list[int] = []
    result = train_fold(task, data, lambda progress: seen.append(progress.epoch), checkpoint)
    assert min(seen) == 1
    assert_same(result, uninterrupted)


@pytest.mark.slow
def test_train_fold_resumes_after_a_failed_write(
    task: FoldTask, data: Data, uninterrupted: FoldResult, tmp_path: Path
) -> None:
    writes = []
    for after in range(100):
        fold = tmp_path / str(after)
        with full_disk(after) as failed, suppress(WriteError):
            write_fold(fold, train_fold(task, data, checkpoint=FoldCheckpoint(fold)))
        assert (fold / "metrics.json").exists() != bool(failed)
        if not failed:
            break
        writes += failed
        assert_same(train_fold(task, data, checkpoint=FoldCheckpoint(fold)), uninterrupted)
    ends = ["model.keras", "history.csv", "val_softmax.npy", "test_softmax.npy", "metrics.json"]
    assert writes == ["state.npz"] * 4 + ends


@pytest.mark.slow
def test_train_gives_identical_results_after_twenty_kills(tmp_path: Path) -> None:
    """Kill the process group at random times until there were twenty kills, and then finish the run."""
    workspaces = [Workspace.at(tmp_path / name, "rehearsal") for name in ("reference", "killed")]
    for workspace in workspaces:
        download(workspace)
    reference, killed = workspaces

    def command(workspace: Workspace) -> list[str]:
        options = ["--competition", "rehearsal", "--root", str(workspace.root)]
        settings = ["--set", "epochs=8", "--folds", "3", "--run", "it"]
        return [sys.executable, "-m", "kaggle_digits", *options, "train", "--preset", "fast", *settings]

    subprocess.run(command(reference), check=True, capture_output=True)
    rng = np.random.default_rng(0)
    kills = 0
    while kills < 20:
        process = subprocess.Popen(
            command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            # In so many seconds, a worker loads TensorFlow and trains some epochs, so that the training advances.
            process.wait(timeout=rng.uniform(0.5, 15))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            assert process.returncode == 0
            shutil.rmtree(killed.runs)  # it finished before twenty kills, so start again
    subprocess.run(command(killed), check=True, capture_output=True)
    for path in ("submissions/rehearsal/it/submission.csv", "runs/rehearsal/it/ensemble/oof_softmax.npy"):
        assert (reference.root / path).read_bytes() == (killed.root / path).read_bytes(), path
