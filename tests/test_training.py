"""Training of a fold: its rows, its result, and how it resumes after an interruption."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import full_disk, small_data

from kaggle_digits import Workspace, download
from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import WriteError
from kaggle_digits.runs.artefacts import FoldFolder
from kaggle_digits.training.checkpoint import FoldCheckpoint
from kaggle_digits.training.fold import FoldResult, FoldTask, FoldTrainer, Progress, compiled_network, train_fold
from kaggle_digits.training.models import NETWORKS, convolution, softmax_function, with_test_time_augmentation
from kaggle_digits.training.preprocessing import preprocess
from kaggle_digits.training.presets import find_preset
from kaggle_digits.training.schedule import choose_rows, plan_steps

DATA = small_data(120)
MINING = find_preset("lenet").settings.model_copy(update={"epochs": 4, "hard_rows": 0.2, "other_rows": 0.3})


def tiny_network(x: Any, widths: Sequence[int], dropout: float) -> Any:
    """Apply few layers, which compile quickly, with batch normalisation and dropout."""
    from keras import layers

    return layers.Dropout(dropout)(layers.Flatten()(convolution(x, 4, 5, 4)))


@pytest.fixture(scope="module", autouse=True)
def task() -> Iterator[FoldTask]:
    """A task with everything that has a state: dropout, batch normalisation, an optimiser, hard-example mining."""
    recipe = find_preset("default").with_settings({"epochs": 4, "batch_size": 16, "dropout": 0.5})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "residual", NETWORKS["residual"]._replace(hidden=tiny_network))
        yield FoldTask(recipe.settings, seed=3, fold=1, split=make_folds(DATA.train.labels, 3, 0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders "2" and "4" of a fold with a checkpoint after as many epochs, written by `uninterrupted`."""
    return tmp_path_factory.mktemp("folds")


@pytest.fixture(scope="module")
def uninterrupted(task: FoldTask, folders: Path) -> FoldResult:
    def keep(progress: Progress) -> None:
        if progress.is_epoch_end and progress.epoch == 3:  # it is saved after its report
            shutil.copytree(folders / "4", folders / "2")

    return train_fold(task, DATA, keep, folders / "4")


def assert_same(one: FoldResult, other: FoldResult) -> None:
    np.testing.assert_array_equal(one.val_softmax, other.val_softmax)
    np.testing.assert_array_equal(one.test_softmax, other.test_softmax)
    for a, b in zip(one.history, other.history, strict=True):
        assert all(a[name] == b[name] for name in a if name not in ("seconds", "images_per_second"))


@pytest.mark.parametrize(("epoch", "changes"), [(0, {}), (3, {"hard_rows": 0.0, "other_rows": 1.0})])
def test_choose_rows_returns_all_rows(epoch: int, changes: dict[str, float]) -> None:
    settings = MINING.model_copy(update=changes)
    rows = choose_rows(np.zeros(33, np.float32), epoch, settings, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(rows), np.arange(33))
    assert not np.array_equal(rows, np.arange(33))


def test_choose_rows_returns_the_hardest_and_some_other_rows_in_later_epochs() -> None:
    likelihood = np.random.default_rng(0).permutation(100).astype(np.float32)
    chosen = [choose_rows(likelihood, 1, MINING, np.random.default_rng(seed)) for seed in range(2)]
    for rows in chosen:
        assert len(rows) == len(set(rows)) == 50
        assert set(np.flatnonzero(likelihood < 20)) <= set(rows)
    assert set(chosen[0]) != set(chosen[1])


@pytest.mark.parametrize("rows", [7, 100, 1001])
def test_plan_steps_uses_the_rows_of_choose_rows(rows: int) -> None:
    chosen = [choose_rows(np.zeros(rows, np.float32), e, MINING, np.random.default_rng(0)) for e in range(4)]
    assert plan_steps(rows, MINING.model_copy(update={"batch_size": 1})) == (1, [len(c) for c in chosen])
    assert plan_steps(rows, MINING)[0] == min(128, len(chosen[1]))


@pytest.mark.slow
def test_train_fold_compiles_with_xla(task: FoldTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_digits.training.fold.compiles", lambda: True)
    monkeypatch.setattr("kaggle_digits.training.fold.compiled_network", compiled_network.__wrapped__)
    result = train_fold(task, DATA)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_train_fold_gives_the_same_result_again_and_writes_learning_curves_for_tensorboard(
    task: FoldTask, uninterrupted: FoldResult, tmp_path: Path
) -> None:
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "tensorboard" / "train").mkdir(parents=True)
    (tmp_path / "tensorboard" / "train" / "events.out.tfevents.0").write_bytes(b"of an earlier training")
    train_fold(replace(task, fold=2), DATA)  # a process trains all its folds with the same compiled network
    result = train_fold(replace(task, tensorboard=True), DATA, folder=tmp_path)
    assert_same(result, uninterrupted)
    for part, name, column in (("train", "epoch_loss", "loss"), ("validation", "epoch_accuracy", "val_accuracy")):
        assert len(list((tmp_path / "tensorboard" / part).iterdir())) == 1
        events = EventAccumulator(str(tmp_path / "tensorboard" / part))
        events.Reload()
        found = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(name)]
        assert found == pytest.approx([row[column] for row in result.history])


def test_train_fold_measures_memory_and_time(uninterrupted: FoldResult) -> None:
    metrics = uninterrupted.metrics
    assert 50e6 < metrics["peak_memory"] < 50e9
    parts = metrics["data_seconds"], metrics["training_seconds"], metrics["test_seconds"]
    assert 0 < min(parts) < sum(parts) < metrics["seconds"]


def test_train_fold_saves_a_network_with_the_same_predictions(task: FoldTask, tmp_path: Path) -> None:
    import keras

    settings = task.settings.model_copy(update={"preprocessing": "plain,even", "tta": 5, "epochs": 1})
    result = train_fold(replace(task, settings=settings), DATA)
    assert result.metrics["preprocessing"] == "even"
    (tmp_path / "model.keras").write_bytes(result.model)
    predict = with_test_time_augmentation(softmax_function(keras.models.load_model(tmp_path / "model.keras")), 5)
    np.testing.assert_allclose(predict(preprocess(DATA.test.images, "even")), result.test_softmax, atol=1e-4)


@pytest.mark.parametrize("epochs", [2, 4])
def test_train_fold_resumes_with_an_identical_result(
    task: FoldTask, uninterrupted: FoldResult, folders: Path, tmp_path: Path, epochs: int
) -> None:
    seen: set[int] = set()
    folder = shutil.copytree(folders / str(epochs), tmp_path / "fold")
    result = train_fold(task, DATA, lambda progress: seen.add(progress.epoch), folder)
    assert seen == set(range(epochs + 1, 5))
    assert_same(result, uninterrupted)
    assert result.metrics["seconds"] > result.metrics["training_seconds"]
    FoldFolder(folder).write(result)
    assert not (folder / "checkpoint").exists()


@pytest.mark.usefixtures("uninterrupted")
def test_restore_ignores_a_checkpoint_that_is_damaged_or_of_another_network(
    task: FoldTask, folders: Path, tmp_path: Path
) -> None:
    checkpoint = FoldCheckpoint(shutil.copytree(folders / "2", tmp_path / "fold"))
    path = tmp_path / "fold" / "checkpoint" / "state.npz"
    with np.load(path) as known:
        saved = dict(known)

    def restored_epochs() -> int:
        trainer = FoldTrainer(task, DATA)
        before = [np.array(variable) for variable in trainer.variables]
        trainer.restore(checkpoint)
        is_unchanged = all(map(np.array_equal, before, trainer.variables))
        assert is_unchanged == (not trainer.history) == (not trainer.likelihood.any())
        return len(trainer.history)

    assert restored_epochs() == 2
    for change in (
        {"variable-0": saved["variable-0"][:-1]},
        {"variable-0": saved["variable-0"].astype(str)},
        {f"variable-{len(saved) - 2}": saved["variable-0"]},  # one more
        {"likelihood": saved["likelihood"][:-1]},
    ):
        np.savez(path, **saved | change)
        assert restored_epochs() == 0
    for content in (path.read_bytes()[:-1_000], b"no state"):
        path.write_bytes(content)
        assert restored_epochs() == 0


@pytest.mark.slow
def test_train_fold_resumes_after_a_failed_write(
    task: FoldTask, uninterrupted: FoldResult, tmp_path: Path
) -> None:
    writes = []
    for after in range(100):
        fold = tmp_path / str(after)
        with full_disk(after) as failed, suppress(WriteError):
            FoldFolder(fold).write(train_fold(task, DATA, folder=fold))
        assert (fold / "metrics.json").exists() != bool(failed)
        if not failed:
            break
        writes += failed
        assert_same(train_fold(task, DATA, folder=fold), uninterrupted)
    ends = ["model.keras", "history.csv", "val_softmax.npy", "test_softmax.npy", "metrics.json"]
    assert writes == ["state.npz"] * 4 + ends


@pytest.mark.slow
def test_train_gives_identical_results_after_twenty_kills(tmp_path: Path) -> None:
    """Kill the process group at random times until there were twenty kills, and then finish the run."""
    workspace = Workspace.at(tmp_path, "rehearsal")
    download(workspace)

    def command(run: str) -> list[str]:
        options = ["--competition", "rehearsal", "--root", str(tmp_path), "train", "--preset", "fast"]
        return [sys.executable, "-m", "kaggle_digits", *options, "--set", "epochs=8", "--folds", "3", "--run", run]

    subprocess.run(command("reference"), check=True, capture_output=True)
    rng = np.random.default_rng(0)
    kills = 0
    while kills < 20:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command("killed"), start_new_session=True, **quiet)
        try:
            # In so many seconds, a worker loads TensorFlow and trains some epochs, so that the training advances.
            process.wait(timeout=rng.uniform(0.5, 15))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            assert process.returncode == 0
            shutil.rmtree(workspace.runs / "killed")  # it finished before twenty kills, so start again
    subprocess.run(command("killed"), check=True, capture_output=True)
    for path in ("submissions/rehearsal/{}/submission.csv", "runs/rehearsal/{}/ensemble/oof_softmax.npy"):
        reference, killed = (tmp_path / path.format(run) for run in ("reference", "killed"))
        assert reference.read_bytes() == killed.read_bytes(), path
