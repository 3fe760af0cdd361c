"""Tests of `train` and `ensemble`: complete, resumed, rejected and interrupted runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import (
    SMALL,
    Listener,
    csv_bytes,
    full_disk,
    import_first,
    is_zombie,
    needs_proc,
    small_digits,
    worker_processes,
    write_files,
)

from kaggle_digits import Workspace, download, ensemble, find_run, list_runs, report, train
from kaggle_digits.data.csv import load_train
from kaggle_digits.errors import DataError, KaggleDigitsError, UsageError, WriteError
from kaggle_digits.evaluation.metrics import accuracy
from kaggle_digits.execution import Job, machine
from kaggle_digits.execution.places.processes import Processes
from kaggle_digits.files import lock
from kaggle_digits.pipeline import preview_kernel
from kaggle_digits.runs.artefacts import versions
from kaggle_digits.runs.directory import Run
from kaggle_digits.runs.summary import summarise_runs
from kaggle_digits.submissions.submit import submission_file
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.recipe import Recipe

FILES = {
    "run.json",
    "folds.csv",
    "workers.log",
    ".lock",
    *(
        f"fold-{k}/{name}"
        for k in range(2)
        for name in ("model.keras", "history.csv", "val_softmax.npy", "test_softmax.npy", "metrics.json")
    ),
    *(f"ensemble/{name}" for name in ("oof_softmax.npy", "test_softmax.npy", "metrics.json")),
}


def files_of(run: Run) -> dict[str, bytes]:
    return {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def artefacts_of(run: Run) -> dict[str, bytes]:
    """Return all files except run.json, which has the time of the last update."""
    return {name: content for name, content in files_of(run).items() if name != "run.json"}


def quick(workspace: Workspace, **changes: object) -> Run:
    options = {"preset": "lenet", "folds": 2, "settings": SMALL} | changes
    return train(workspace, **options)  # type: ignore[arg-type]


@pytest.fixture
def trained(small_runs: Workspace, tmp_path: Path) -> Workspace:
    """A copy of `small_runs` that a test may modify."""
    shutil.copytree(small_runs.root, tmp_path / "copy")
    return Workspace.at(tmp_path / "copy")


def test_train_writes_all_files_of_run(small_runs: Workspace) -> None:
    run = find_run(small_runs, "one")
    assert files_of(run).keys() == FILES
    info = json.loads((run.path / "run.json").read_text())
    assert info["status"] == "finished"
    assert (info["preset"], info["folds"], info["seed"], info["settings"]["epochs"]) == ("lenet", 2, 0, 1)
    assert info["data"]["train.csv"] == load_train(small_runs.data).sha256
    folds = pd.read_csv(run.path / "folds.csv")
    assert list(folds.columns) == ["row", "fold"]
    assert folds["row"].tolist() == list(range(100))
    assert folds["fold"].value_counts().tolist() == [50, 50]


def test_train_writes_softmaxes_in_order_of_csv(small_runs: Workspace) -> None:
    run = find_run(small_runs, "one")
    folds, oof = run.split(), np.load(run.path / "ensemble" / "oof_softmax.npy")
    assert oof.dtype == np.float32
    for fold in range(2):
        np.testing.assert_array_equal(oof[folds == fold], np.load(run.path / f"fold-{fold}" / "val_softmax.npy"))
    tests = [np.load(run.path / f"fold-{fold}" / "test_softmax.npy") for fold in range(2)]
    np.testing.assert_array_equal(run.test_softmax(), np.mean(tests, axis=0, dtype=np.float64).astype(np.float32))
    assert run.ensemble_metrics()["accuracy"] == pytest.approx(accuracy(oof, load_train(small_runs.data).labels))


def test_train_saves_network_that_gives_the_saved_predictions(small_runs: Workspace) -> None:
    import keras

    from kaggle_digits.training.models import softmax_function

    run, train_set = find_run(small_runs, "one"), load_train(small_runs.data)
    model = keras.models.load_model(run.model_file(0))
    rows = run.split() == 0
    np.testing.assert_allclose(softmax_function(model)(train_set.images[rows]), run.val_softmax(0), atol=1e-5)


def test_train_writes_most_probable_digits_to_submission(small_runs: Workspace) -> None:
    table = pd.read_csv(submission_file(small_runs, "one"))
    assert list(table.columns) == ["ImageId", "Label"]
    np.testing.assert_array_equal(table["ImageId"], np.arange(1, 31))
    np.testing.assert_array_equal(table["Label"], find_run(small_runs, "one").test_softmax().argmax(1))


def test_train_writes_one_history_row_per_epoch(small_runs: Workspace) -> None:
    history = pd.read_csv(find_run(small_runs, "one").path / "fold-1" / "history.csv")
    assert list(history.columns) == [
        "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds", "images_per_second",
    ]  # fmt: skip
    assert history["epoch"].tolist() == [1]


def test_train_does_nothing_for_finished_run(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "train", lambda *_: pytest.fail("trained again"))
    before = files_of(find_run(trained, "one"))
    run = quick(trained, run="one")
    after = files_of(run)
    assert {name for name in before if after[name] != before[name]} == {"run.json"}
    was, now = json.loads(before["run.json"]), json.loads(after["run.json"])
    assert now == was | {"updated": now["updated"]}
    assert list_runs(trained)[0].name == "one"  # the run that was requested last


@pytest.mark.slow
def test_train_trains_only_missing_folds(trained: Workspace) -> None:
    run = find_run(trained, "one")
    before = files_of(run)
    shutil.rmtree(run.fold_folder(1))
    finished: list[FoldTask] = []
    quick(trained, run="one", observer=Listener(finished=finished.append))
    assert [task.fold for task in finished] == [1]
    after = files_of(run)
    assert all(after[name] == before[name] for name in before if name.startswith("fold-0"))
    # Training is deterministic: a fold has its own seeds and one thread.
    assert after["fold-1/test_softmax.npy"] == before["fold-1/test_softmax.npy"]
    assert after["ensemble/oof_softmax.npy"] == before["ensemble/oof_softmax.npy"]


@pytest.mark.slow
def test_train_result_does_not_depend_on_workers(trained: Workspace) -> None:
    before = submission_file(trained, "one").read_bytes()
    run = quick(trained, run="sequential", workers=1)
    assert submission_file(trained, "sequential").read_bytes() == before
    np.testing.assert_array_equal(run.oof_softmax(), find_run(trained, "one").oof_softmax())


def test_train_loses_nothing_when_any_write_fails(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers are replaced by a function that copies the folds of a finished run."""
    finished = find_run(trained, "one")
    copied: list[int] = []

    def copy_folds(place: Processes, jobs: list[Job], data: object, observer: Observer) -> Iterator[Job]:
        for job in jobs:
            shutil.copytree(finished.fold_folder(job.task.fold), job.folder)
            copied.append(job.task.fold)
            yield job

    monkeypatch.setattr(Processes, "train", copy_folds)
    writes = []
    for after in range(100):
        name = f"full-{after}"
        with full_disk(after) as failed, suppress(WriteError):
            quick(trained, run=name)
        if not failed:
            break
        writes += failed
        again = quick(trained, run=name)
        assert again.info.status == "finished"
        for path in ("folds.csv", "ensemble/oof_softmax.npy", "ensemble/metrics.json"):
            assert (again.path / path).read_bytes() == (finished.path / path).read_bytes(), (failed, path)
        files = [submission_file(trained, run.name).read_bytes() for run in (again, finished)]
        assert files[0] == files[1]
        assert not list(trained.root.rglob("*.tmp"))
    arrays = ["oof_softmax.npy", "test_softmax.npy", "metrics.json"]
    assert writes == ["run.json", "folds.csv", "run.json", *arrays, "submission.csv", "run.json"]
    assert copied == [0, 1] * (len(writes) + 1)  # no fold is trained twice


def test_train_result_depends_on_seed(small_runs: Workspace) -> None:
    one, two = find_run(small_runs, "one"), find_run(small_runs, "two")
    assert not np.array_equal(one.split(), two.split())
    assert not np.array_equal(one.test_softmax(), two.test_softmax())


@pytest.mark.usefixtures("train_in_process")
def test_run_name_depends_on_recipe(workspace: Workspace) -> None:
    assert quick(workspace).name == "lenet-k2-s0-epochs=1-batch_size=20"
    assert quick(workspace, settings=SMALL | {"dropout": "0.3"}).name == "lenet-k2-s0-epochs=1-batch_size=20"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "fast"}, "its preset is lenet, not fast"),
        ({"folds": 3}, "its folds is 2, not 3"),
        ({"seed": 5}, "its seed is 0, not 5"),
        ({"settings": SMALL | {"epochs": "2"}}, "another recipe: its epochs is 1, not 2"),
    ],
)
def test_train_rejects_run_with_another_recipe(trained: Workspace, change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quick(trained, run="one", **change)


def test_train_rejects_run_of_other_data(trained: Workspace) -> None:
    write_files(trained.data, {"train.csv": csv_bytes(*small_digits(100, seed=9))})
    with pytest.raises(DataError, match=r"another train\.csv\."):
        quick(trained, run="one")
    with pytest.raises(DataError, match=r"another train\.csv\."):
        ensemble(trained, ["one"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "must be between 2 and 255, got"),
        ({"seed": -1}, "A seed must be between 0 and 4294967295, got"),
        ({"seed": 2**32 - 1, "seeds": 2}, "got 4294967296"),
        ({"seeds": 201}, "must be between 1 and 200, got"),
        ({"workers": 0}, "workers must be at least 1, got"),
        ({"run": "../elsewhere"}, "is not a valid run name"),
        ({"run": "Index.html", "seeds": 2}, "is not a valid run name"),
        ({"preset": "slow"}, "no preset called"),
    ],
)
def test_train_creates_no_run_for_invalid_arguments(workspace: Workspace, change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quick(workspace, **change)
    assert list_runs(workspace) == []


def test_train_creates_no_run_for_too_many_folds(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="too few for 11 folds"):
        quick(workspace, folds=11)
    assert not workspace.runs.exists()


@pytest.mark.usefixtures("train_in_process")
@pytest.mark.parametrize(
    ("name", "is_removed"),
    [("model.keras", False), ("history.csv", True), ("val_softmax.npy", False), ("test_softmax.npy", True)],
)
def test_train_names_damaged_artefact_and_replaces_it_only_with_retrain(
    trained: Workspace, name: str, is_removed: bool
) -> None:
    run = find_run(trained, "one")
    before = files_of(run)
    path = run.path / "fold-1" / name
    if is_removed:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"fold-1/{name} is"):
        quick(trained, run="one")
    finished: list[FoldTask] = []
    quick(trained, run="one", retrain=True, observer=Listener(finished=finished.append))
    assert [task.fold for task in finished] == [1]
    assert files_of(run)["ensemble/test_softmax.npy"] == before["ensemble/test_softmax.npy"]


@pytest.mark.usefixtures("train_in_process")
def test_train_retrain_trains_all_folds_when_none_is_damaged(trained: Workspace) -> None:
    finished: list[FoldTask] = []
    quick(trained, run="one", retrain=True, observer=Listener(finished=finished.append))
    assert sorted(task.fold for task in finished) == [0, 1]


@pytest.mark.usefixtures("train_in_process")
def test_train_rejects_other_network_of_same_preset(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example after an upgrade, or with other source code."""
    run = find_run(trained, "one")
    shutil.rmtree(run.fold_folder(1))
    metrics = run.fold_metrics(0).as_json()
    (run.fold_folder(0) / "metrics.json").write_text(json.dumps(metrics | {"network": "0123456789ab"}))
    with pytest.raises(UsageError, match="now builds a different network"):
        quick(trained, run="one")
    assert "fold-1/metrics.json" not in files_of(run)


@pytest.mark.usefixtures("train_in_process")
def test_train_reports_other_versions_of_finished_folds(trained: Workspace) -> None:
    run = find_run(trained, "one")
    shutil.rmtree(run.fold_folder(1))
    metrics = run.fold_metrics(0).as_json()
    metrics["versions"] |= {"tensorflow": "2.19.0"}
    (run.fold_folder(0) / "metrics.json").write_text(json.dumps(metrics))
    notices: list[str] = []
    quick(trained, run="one", observer=Listener(notice=notices.append))
    (notice,) = notices
    assert f"tensorflow 2.19.0 (now {versions()['tensorflow']});" in notice
    assert run.fold_metrics(1).versions == versions()
    findings = {finding["title"]: finding["text"] for finding in report(trained, "one").document["findings"]}
    words = findings["Folds were trained with different versions"]
    assert words.startswith(f"fold 0: tensorflow 2.19.0; fold 1: tensorflow {versions()['tensorflow']}.")
    quick(trained, run="one", observer=Listener(notice=notices.append))
    assert notices == [notice]  # nothing is left to train


def test_train_rejects_run_in_use(trained: Workspace) -> None:
    with lock(find_run(trained, "one").path / ".lock", ""), pytest.raises(WriteError, match="by another process"):
        quick(trained, run="one")


@pytest.mark.slow
@needs_proc
def test_train_runs_no_code_from_current_folder(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "here", tmp_path / "executed"
    files = ("json.py", "tensorflow.py", "kaggle_digits/__init__.py", "kaggle_digits/worker.py")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"open({str(mark)!r}, 'w').close()\n")
    workspace = Workspace.at(workspace.root.absolute())
    monkeypatch.chdir(folder)
    quick(workspace)
    assert not mark.exists()


@pytest.mark.slow
def test_train_ignores_keras_json(workspace: Workspace, trained: Workspace) -> None:
    path = Path.home() / ".keras" / "keras.json"
    settings = '{"image_data_format": "channels_first", "floatx": "float16", "backend": "jax"}'
    write_files(path.parent, {path.name: settings.encode()})
    run = quick(workspace)
    np.testing.assert_array_equal(run.test_softmax(), find_run(trained, "one").test_softmax())
    assert path.read_text() == settings


@pytest.mark.slow
@needs_proc
def test_train_restarts_fold_once_when_its_worker_dies(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    settings = SMALL | {"epochs": "4", "tta": "5", "preprocessing": "even"}
    killed: list[int] = []

    def kill_a_worker(progress: object) -> None:
        if not killed:
            killed.append(next(iter(worker_processes())))
            os.kill(killed[0], signal.SIGKILL)

    run = quick(workspace, run="killed", settings=settings, observer=Listener(progress=kill_a_worker))
    normal = quick(workspace, run="normal", settings=settings)
    assert killed
    np.testing.assert_array_equal(run.test_softmax(), normal.test_softmax())
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
@needs_proc
def test_train_finishes_other_folds_when_worker_always_dies(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_fold_0(progress: object) -> None:
        if progress.fold == 0:  # type: ignore[attr-defined]
            for process in worker_processes():
                os.kill(process, signal.SIGKILL)

    with pytest.raises(KaggleDigitsError, match=r"worker of fold 0 of seed 0 died by signal 9\."):
        quick(
            workspace,
            run="killed",
            settings=SMALL | {"epochs": "4"},
            workers=1,
            observer=Listener(progress=kill_fold_0),
        )
    run = find_run(workspace, "killed")
    assert run.is_trained(1)
    assert not run.is_trained(0)
    assert run.info.status == "unfinished"
    assert worker_processes() == set()


def run_in_workers(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Run a script when a worker starts: Python then imports sitecustomize.py, if there is one."""
    head = 'import sys\nif "kaggle_digits.execution.worker" in str(sys.orig_argv):\n'
    body = textwrap.indent(textwrap.dedent(script), "    ")
    write_files(folder / "script", {"sitecustomize.py": (head + body).encode()})
    monkeypatch.setenv("PYTHONPATH", import_first(folder / "script"))


def test_train_reports_worker_out_of_memory(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
        import kaggle_digits.training.fold
        def fail(*arguments): raise MemoryError
        kaggle_digits.training.fold.train_fold = fail
    """
    run_in_workers(tmp_path, monkeypatch, script)
    notices: list[str] = []
    with pytest.raises(KaggleDigitsError, match=r"^The worker of fold 0 of seed 0 ran out of memory\.") as caught:
        quick(workspace, run="large", workers=1, observer=Listener(notice=notices.append))
    assert caught.value.exit_code == 1
    assert caught.value.remedy.startswith("Close other programs, or train fewer folds at a time (--workers")
    assert notices[0] == "The worker of fold 0 of seed 0 ran out of memory. The fold is retried."
    assert "MemoryError" in (workspace.runs / "large" / "workers.log").read_text()


NO_FOLDER = """
import errno, os, tempfile
def fail(*arguments, **options): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir())
tempfile.mkdtemp = fail
"""
NO_FILE = """
import resource
import kaggle_digits.training.fold as training
save = training._keras_bytes
def save_with_size_limit(model):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
    return save(model)
training._keras_bytes = save_with_size_limit
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "why"),
    [(NO_FOLDER, "No space left on device"), (NO_FILE, "File too large")],
    ids=["folder", "file"],
)
def test_train_names_temporary_folder_that_cannot_be_written(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    run_in_workers(tmp_path, monkeypatch, script)
    with pytest.raises(WriteError, match=rf"^Cannot write {tmp_path / 'scratch'}: {why}\."):
        quick(workspace, run="full", workers=1)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
@needs_proc
def test_train_workers_exit_when_parent_dies(workspace: Workspace) -> None:
    script = (
        # Without a __main__ guard, as in a notebook or a short script.
        "import kaggle_digits as kd\n"
        "class Printer(kd.Observer):\n    def progress(self, progress): print('training', flush=True)\n"
        f"kd.train(kd.Workspace.at({str(workspace.root)!r}), preset='lenet', folds=2,"
        " settings={'epochs': '1000', 'batch_size': '20'}, observer=Printer())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"training\n"
    workers = worker_processes(parent.pid)
    assert len(workers) == min(2, machine.default_workers(2))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() and not is_zombie(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ensemble_of_runs_is_a_run(trained: Workspace) -> None:
    both = ensemble(trained, ["one", "two"])
    assert both.name == "one+two"
    one, two = find_run(trained, "one"), find_run(trained, "two")
    np.testing.assert_allclose(both.test_softmax(), (one.test_softmax() + two.test_softmax()) / 2, atol=1e-6)
    np.testing.assert_allclose(both.oof_softmax(), (one.oof_softmax() + two.oof_softmax()) / 2, atol=1e-6)
    assert submission_file(trained, "one+two").exists()
    assert list_runs(trained)[0] == both
    assert ensemble(trained, ["one+two"]) == both
    assert ensemble(trained, ["one", "two"], name="both").name == "both"


@pytest.mark.usefixtures("train_in_process")
def test_train_with_seeds_creates_runs_and_their_mean(trained: Workspace) -> None:
    started: list[tuple[str, int, int]] = []
    finished: list[tuple[int, int]] = []
    mean = quick(
        trained,
        seeds=2,
        observer=Listener(
            start=lambda run, tasks, missing: started.append((run, len(tasks), len(missing))),
            finished=lambda task: finished.append((task.seed, task.fold)),
        ),
    )
    names = [f"lenet-k2-s{seed}-epochs=1-batch_size=20" for seed in range(3)]
    assert mean.name == "lenet-k2-s0..1-epochs=1-batch_size=20"
    assert list_runs(trained)[0] == mean  # the latest run
    assert started == [(mean.name, 4, 4)]
    assert sorted(finished) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    one, two = (find_run(trained, name) for name in names[:2])
    for part, single in ((one, "one"), (two, "two")):
        assert part.info.status == "finished"
        np.testing.assert_array_equal(part.test_softmax(), find_run(trained, single).test_softmax())
        assert submission_file(trained, part.name).read_bytes() == submission_file(trained, single).read_bytes()
    np.testing.assert_allclose(mean.test_softmax(), (one.test_softmax() + two.test_softmax()) / 2, atol=1e-6)
    assert mean.info.members == names[:2]
    finished.clear()
    more = quick(
        trained, seeds=3, observer=Listener(finished=lambda task: finished.append((task.seed, task.fold)))
    )
    assert sorted(finished) == [(2, 0), (2, 1)]
    assert more.info.members == names


def test_ensemble_adds_but_does_not_remove_members(trained: Workspace) -> None:
    for name in ("it-s0", "it-s1"):  # as if they had been trained under these names
        shutil.copytree(trained.runs / {"it-s0": "one", "it-s1": "two"}[name], trained.runs / name)
    done: list[FoldTask] = []
    mean = quick(trained, run="it", seeds=2, observer=Listener(finished=done.append))
    assert not done
    assert (mean.name, mean.info.members) == ("it", ["it-s0", "it-s1"])
    shutil.copytree(trained.runs / "two", trained.runs / "third")
    grown = ensemble(trained, ["it-s0", "it-s1", "third"], name="it")
    assert grown.info.members == ["it-s0", "it-s1", "third"]
    with pytest.raises(UsageError, match="is the mean of it-s0, it-s1, third, not of it-s0, it-s1"):
        quick(trained, run="it", seeds=2)


def test_train_rejects_existing_name_of_mean_before_training(trained: Workspace) -> None:
    with pytest.raises(UsageError, match="run one is not a mean of runs"):
        quick(trained, run="one", seeds=2, observer=Listener(start=lambda *_: pytest.fail("started")))
    assert not (trained.runs / "one-s0").exists()


@pytest.mark.usefixtures("train_in_process")
def test_preview_kernel_and_train_retrain_with_seeds_take_only_damaged_folds(trained: Workspace) -> None:
    for name in ("it-s0", "it-s1"):
        shutil.copytree(trained.runs / {"it-s0": "one", "it-s1": "two"}[name], trained.runs / name)
    (trained.runs / "it-s1" / "fold-0" / "model.keras").unlink()
    recipe = Recipe("lenet", 2, settings=SMALL, run="it", seeds=2)
    for refused in (
        lambda: quick(trained, run="it", seeds=2),
        lambda: preview_kernel(trained, recipe, "kaggle-cpu"),
    ):
        with pytest.raises(DataError, match=r"it-s1/fold-0/model\.keras is missing"):
            refused()
    assert preview_kernel(trained, recipe, "kaggle-cpu", retrain=True)["folds"] == [[1, 0]]
    finished: list[tuple[int, int]] = []
    quick(
        trained,
        run="it",
        seeds=2,
        retrain=True,
        observer=Listener(finished=lambda t: finished.append((t.seed, t.fold))),
    )
    assert finished == [(1, 0)]


def test_ensemble_is_deterministic(trained: Workspace) -> None:
    before = artefacts_of(find_run(trained, "one"))
    shutil.rmtree(trained.submissions / "one")
    assert artefacts_of(ensemble(trained, ["one"])) == before
    assert submission_file(trained, "one").exists()


def test_ensemble_rejects_unfinished_run(trained: Workspace) -> None:
    shutil.rmtree(find_run(trained, "one").fold_folder(1))
    with pytest.raises(DataError, match="is not finished"):
        ensemble(trained, ["one"])


def test_ensemble_rejects_missing_and_existing_names(trained: Workspace) -> None:
    with pytest.raises(UsageError, match="no run called 'three'"):
        ensemble(trained, ["one", "three"])
    with pytest.raises(UsageError, match="run one is not a mean of runs"):
        ensemble(trained, ["one", "two"], name="one")
    with pytest.raises(UsageError, match="Only the mean of several runs can get a new name"):
        ensemble(trained, ["one"], name="other")


def test_find_run_without_runs_names_train(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no run of digit-recognizer yet"):
        find_run(workspace)


SPY = """
import os, sys
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        name = os.fsdecode(arguments[0])
        if "hidden" in name or "/host/" in name or name.endswith("train.npz"):
            log = os.open(os.environ["SPY_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(log, (name + "\\n").encode())
            os.close(log)
if "SPY_LOG" in os.environ:
    sys.addaudithook(note)
"""


@pytest.mark.slow
def test_train_does_not_open_hidden_labels(tmp_path: Path) -> None:
    """An audit hook records the files that the command and its workers open."""
    workspace = Workspace.at(tmp_path / "work", "rehearsal")
    download(workspace)
    # Native code is not audited; it fails if it opens a file in this folder.
    shutil.rmtree(workspace.data / "host")
    write_files(tmp_path / "spy", {"sitecustomize.py": SPY.encode()})
    environment = os.environ | {"PYTHONPATH": import_first(tmp_path / "spy"), "SPY_LOG": str(tmp_path / "log")}
    command = [sys.executable, "-m", "kaggle_digits", "--competition", "rehearsal", "--root", str(workspace.root)]

    def opened(*arguments: str) -> list[str]:
        (tmp_path / "log").unlink(missing_ok=True)
        subprocess.run([*command, *arguments], check=True, env=environment, capture_output=True)
        return (tmp_path / "log").read_text().splitlines()

    training = opened("train", "--preset", "lenet", "--folds", "2", "--set", "epochs=1")
    assert any(name.endswith("train.npz") for name in training)  # the hook works
    assert not any("hidden" in name or "/host/" in name for name in training)
    assert not any("hidden" in name or "/host/" in name for name in opened("ensemble"))
    assert not any("hidden" in name for name in opened("report"))
    assert any("hidden" in name for name in opened("submit"))  # the scoring opens them


def interrupt(progress: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_train_retrain_keeps_old_folds_when_interrupted(trained: Workspace) -> None:
    run = find_run(trained, "one")
    before = files_of(run)
    with pytest.raises(KeyboardInterrupt):
        quick(trained, run="one", retrain=True, observer=Listener(progress=interrupt))
    after = files_of(run)
    # New folds may already be there. Their softmaxes are the same, because training is deterministic.
    assert after.keys() >= before.keys()
    assert all(after[name] == before[name] for name in before if name.endswith(".npy"))
    run.require_ensemble()
    done: list[int] = []
    assert quick(trained, run="one", observer=Listener(finished=done.append)).info.status == "finished"
    assert done == []


def test_train_replaces_ensemble_of_retrained_folds(trained: Workspace) -> None:
    run = find_run(trained, "one")
    before = run.ensemble_metrics()["folds"]
    with pytest.raises(KeyboardInterrupt):
        quick(trained, run="one", retrain=True, workers=1, observer=Listener(finished=interrupt))
    assert run.ensemble_metrics()["folds"] == before
    done: list[int] = []
    quick(trained, run="one", observer=Listener(finished=done.append))
    assert done == []
    after = run.ensemble_metrics()["folds"]
    assert [a["seconds"] != b["seconds"] for a, b in zip(before, after, strict=True)] == [True, False]


@pytest.mark.parametrize("name", ["oof_softmax.npy", "metrics.json"])
def test_train_replaces_damaged_ensemble(trained: Workspace, name: str) -> None:
    run = find_run(trained, "one")
    before = artefacts_of(run)
    (run.path / "ensemble" / name).write_bytes(b"")
    assert artefacts_of(quick(trained, run="one")) == before


@pytest.mark.usefixtures("train_in_process")
@pytest.mark.parametrize("text", ["", "row,fold\n" + "".join(f"{i},{i % 3}\n" for i in range(100))])
def test_train_names_damaged_split_and_replaces_it_only_with_retrain(trained: Workspace, text: str) -> None:
    run = find_run(trained, "one")
    before = files_of(run)
    (run.path / "folds.csv").write_text(text)
    with pytest.raises(DataError, match=r"folds\.csv is"):
        quick(trained, run="one")
    quick(trained, run="one", retrain=True)
    assert files_of(run)["folds.csv"] == before["folds.csv"]
    assert files_of(run)["ensemble/test_softmax.npy"] == before["ensemble/test_softmax.npy"]


@pytest.mark.parametrize("text", ["{}", '{"status": "finished"'])
def test_train_names_damaged_run_json(trained: Workspace, text: str) -> None:
    (trained.runs / "one" / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"one/run\.json"):
        quick(trained, run="one")
    rows = {row["name"]: row["status"] for row in summarise_runs(trained)}
    assert rows == {"one": "damaged", "two": "finished"}


@pytest.mark.slow
def test_train_rejects_diverged_training(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="diverged in epoch 1"):
        quick(workspace, run="diverged", settings=SMALL | {"learning_rate": 1e30})
    assert not find_run(workspace, "diverged").is_trained(0)


def test_train_removes_temporary_files_of_killed_process(trained: Workspace) -> None:
    leftover = trained.runs / "one" / "fold-0" / ".model.keras.abc.tmp"
    leftover.write_bytes(b"incomplete")
    quick(trained, run="one")
    assert not leftover.exists()
