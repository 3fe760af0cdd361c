"""Tests of `train` and `ensemble`: complete, resumed, rejected and interrupted runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import (
    SMALL,
    Listener,
    assert_same_run,
    csv_bytes,
    fake_workers,
    full_disk,
    import_first,
    needs_proc,
    small_digits,
    wait_until,
    worker_processes,
    write_files,
)

from kaggle_digits import Workspace, download, ensemble, find_run, list_runs, report, train
from kaggle_digits.data.csv import load_train
from kaggle_digits.errors import DataError, KaggleDigitsError, UsageError, WriteError
from kaggle_digits.evaluation.metrics import accuracy
from kaggle_digits.execution import machine
from kaggle_digits.execution.places.processes import Processes
from kaggle_digits.files import lock
from kaggle_digits.pipeline import preview_kernel
from kaggle_digits.runs.artefacts import versions
from kaggle_digits.runs.directory import Run
from kaggle_digits.runs.summary import summarise_runs
from kaggle_digits.submissions.submit import submission_file
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.recipe import Recipe

FILES_OF_FOLD = ("model.keras", "history.csv", "val_softmax.npy", "test_softmax.npy", "metrics.json")
FILES = {
    *("run.json", "folds.csv", "workers.log", ".lock"),
    *(f"fold-{fold}/{name}" for fold in range(2) for name in FILES_OF_FOLD),
    *(f"ensemble/{name}" for name in ("oof_softmax.npy", "test_softmax.npy", "metrics.json")),
}


def files_of(run: Run) -> dict[str, bytes]:
    return {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def artefacts_of(run: Run) -> dict[str, bytes]:
    """Return all files except run.json, which has the time of the last update."""
    return {name: content for name, content in files_of(run).items() if name != "run.json"}


def quick(workspace: Workspace, **changes: object) -> Run:
    """Train the run "one" of `small_runs`, or one with other options."""
    options = {"run": "one", "preset": "lenet", "folds": 2, "settings": SMALL} | changes
    return train(workspace, **options)  # type: ignore[arg-type]


def quick_folds(workspace: Workspace, **changes: object) -> tuple[Run, list[tuple[int, int]]]:
    """Train as `quick`; return the run, and the seed and number of each fold that was trained."""
    finished: list[FoldTask] = []
    run = quick(workspace, observer=Listener(finished=finished.append), **changes)
    return run, sorted((task.seed, task.fold) for task in finished)


def change_metrics(run: Run, **changes: object) -> None:
    """Change the metrics of the first fold, and remove the second one."""
    (run.fold(0).path / "metrics.json").write_text(json.dumps(run.fold(0).metrics().as_json() | changes))
    shutil.rmtree(run.fold(1).path)


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
    history = pd.read_csv(run.path / "fold-1" / "history.csv")
    assert list(history.columns) == [
        "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds", "images_per_second",
    ]  # fmt: skip
    assert history["epoch"].tolist() == [1]


def test_train_writes_softmaxes_in_order_of_csv(small_runs: Workspace) -> None:
    run = find_run(small_runs, "one")
    folds, oof = run.split(), np.load(run.path / "ensemble" / "oof_softmax.npy")
    assert oof.dtype == np.float32
    for fold in range(2):
        np.testing.assert_array_equal(oof[folds == fold], np.load(run.path / f"fold-{fold}" / "val_softmax.npy"))
    tests = [np.load(run.path / f"fold-{fold}" / "test_softmax.npy") for fold in range(2)]
    np.testing.assert_array_equal(run.test_softmax(), np.mean(tests, axis=0, dtype=np.float64).astype(np.float32))
    assert run.ensemble_metrics()["accuracy"] == pytest.approx(accuracy(oof, load_train(small_runs.data).labels))
    table = pd.read_csv(submission_file(small_runs, "one"))
    assert list(table.columns) == ["ImageId", "Label"]
    np.testing.assert_array_equal(table["ImageId"], np.arange(1, 31))
    np.testing.assert_array_equal(table["Label"], run.test_softmax().argmax(1))


def test_train_saves_network_that_gives_the_saved_predictions(small_runs: Workspace) -> None:
    import keras

    from kaggle_digits.training.models import softmax_function

    run, train_set = find_run(small_runs, "one"), load_train(small_runs.data)
    model = keras.models.load_model(run.fold(0).model_file())
    rows = run.split() == 0
    np.testing.assert_allclose(
        softmax_function(model)(train_set.images[rows]), run.fold(0).softmax("val"), atol=1e-5
    )


def test_train_result_depends_on_seed(small_runs: Workspace) -> None:
    one, two = find_run(small_runs, "one"), find_run(small_runs, "two")
    assert not np.array_equal(one.split(), two.split())
    assert not np.array_equal(one.test_softmax(), two.test_softmax())


def test_recipe_name_has_only_settings_that_differ_from_the_preset() -> None:
    settings = SMALL | {"dropout": "0.3"}  # as in the preset
    assert Recipe("lenet", 2, settings=settings).name == "lenet-k2-s0-epochs=1-batch_size=20"


def test_train_does_nothing_for_finished_run(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "train", lambda *_: pytest.fail("trained again"))
    before = files_of(find_run(trained, "one"))
    leftover = trained.runs / "one" / "fold-0" / ".model.keras.abc.tmp"  # of a process that was killed
    leftover.write_bytes(b"incomplete")
    after = files_of(quick(trained))
    assert before.keys() == after.keys()
    assert {name for name in before if after[name] != before[name]} == {"run.json"}
    was, now = json.loads(before["run.json"]), json.loads(after["run.json"])
    assert now == was | {"updated": now["updated"]}
    assert list_runs(trained)[0].name == "one"  # the run that was requested last


@pytest.mark.usefixtures("train_in_process")
def test_train_trains_only_missing_folds(trained: Workspace) -> None:
    before = files_of(find_run(trained, "one"))
    shutil.rmtree(find_run(trained, "one").fold(1).path)
    run, folds = quick_folds(trained)
    assert folds == [(0, 1)]
    after = files_of(run)
    assert all(after[name] == before[name] for name in before if name.startswith("fold-0"))
    # Training is deterministic: a fold has its own seeds and one thread.
    assert after["fold-1/test_softmax.npy"] == before["fold-1/test_softmax.npy"]
    assert after["ensemble/oof_softmax.npy"] == before["ensemble/oof_softmax.npy"]


def test_train_loses_nothing_when_any_write_fails(trained: Workspace) -> None:
    finished = find_run(trained, "one")
    copied: list[int] = []
    writes: list[str] = []

    def copy_fold(task: FoldTask, folder: Path, gpu: str) -> None:
        shutil.copytree(finished.fold(task.fold).path, folder)
        copied.append(task.fold)

    with fake_workers(copy_fold):
        for after in range(100):
            name = f"full-{after}"
            with full_disk(after) as failed, suppress(WriteError):
                quick(trained, run=name)
            if not failed:
                break
            writes += failed
            again = quick(trained, run=name)
            assert again.is_finished
            assert_same_run(again, trained)
            assert not list(trained.root.rglob("*.tmp"))
    arrays = ["oof_softmax.npy", "test_softmax.npy", "metrics.json"]
    assert writes == ["run.json", "folds.csv", *arrays, "submission.csv", "run.json"]
    assert sorted(copied) == sorted([0, 1] * (len(writes) + 1))  # no fold is trained twice


@pytest.mark.usefixtures("train_in_process")
def test_train_with_seeds_creates_runs_and_their_mean(trained: Workspace) -> None:
    shutil.copytree(trained.runs / "two", trained.runs / "lenet-k2-s1-epochs=1-batch_size=20")
    started: list[tuple[str, int, int]] = []
    observer = Listener(start=lambda run, tasks, missing: started.append((run, len(tasks), len(missing))))
    mean = quick(trained, run=None, seeds=2, observer=observer)
    assert mean.name == "lenet-k2-s0..1-epochs=1-batch_size=20"
    assert list_runs(trained)[0] == mean  # the latest run
    assert started == [(mean.name, 4, 2)]  # the second run is finished
    assert mean.info.members == [f"lenet-k2-s{seed}-epochs=1-batch_size=20" for seed in range(2)]
    one, two = (find_run(trained, name) for name in mean.info.members)
    assert_same_run(one, trained, "one")
    assert_same_run(two, trained, "two")
    np.testing.assert_allclose(mean.test_softmax(), (one.test_softmax() + two.test_softmax()) / 2, atol=1e-6)


@pytest.mark.usefixtures("train_in_process")
def test_train_reports_other_versions_of_finished_folds(trained: Workspace) -> None:
    run = find_run(trained, "one")
    change_metrics(run, versions=versions() | {"tensorflow": "2.19.0"})
    notices: list[str] = []
    quick(trained, observer=Listener(notice=notices.append))
    (notice,) = notices
    assert f"tensorflow 2.19.0 (now {versions()['tensorflow']});" in notice
    assert run.fold(1).metrics().versions == versions()
    findings = {finding["title"]: finding["text"] for finding in report(trained, "one").document["findings"]}
    words = findings["Folds were trained with different versions"]
    assert words.startswith(f"fold 0: tensorflow 2.19.0; fold 1: tensorflow {versions()['tensorflow']}.")
    quick(trained, observer=Listener(notice=notices.append))
    assert notices == [notice]  # nothing is left to train


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "fast"}, "its preset is lenet, not fast"),
        ({"seed": 5}, "its seed is 0, not 5"),
        ({"settings": SMALL | {"epochs": "2"}}, "another recipe: its epochs is 1, not 2"),
    ],
)
def test_train_rejects_run_with_another_recipe(trained: Workspace, change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quick(trained, **change)


def test_train_rejects_run_of_other_data(trained: Workspace) -> None:
    write_files(trained.data, {"train.csv": csv_bytes(*small_digits(100, seed=9))})
    for refused in (quick, lambda workspace: ensemble(workspace, ["one"])):
        with pytest.raises(DataError, match=r"another train\.csv\."):
            refused(trained)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"folds": 1}, UsageError, "must be between 2 and 255, got"),
        ({"folds": 11}, DataError, "too few for 11 folds"),
        ({"seed": 2**32 - 1, "seeds": 2}, UsageError, "A seed must be between 0 and 4294967295, got 4294967296"),
        ({"seeds": 201}, UsageError, "must be between 1 and 200, got"),
        ({"workers": 0}, UsageError, "workers must be at least 1, got"),
        ({"run": "../elsewhere"}, UsageError, "is not a valid run name"),
        ({"preset": "slow"}, UsageError, "no preset called"),
    ],
)
def test_train_creates_no_run_for_invalid_arguments(
    workspace: Workspace, change: dict, kind: type[KaggleDigitsError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        quick(workspace, **change)
    assert not workspace.runs.exists()


def test_train_rejects_run_in_use(trained: Workspace) -> None:
    with lock(find_run(trained, "one").path / ".lock", ""), pytest.raises(WriteError, match="by another process"):
        quick(trained)


def test_train_rejects_existing_name_of_mean_before_training(trained: Workspace) -> None:
    with pytest.raises(UsageError, match="run one is not a mean of runs"):
        quick(trained, seeds=2, observer=Listener(start=lambda *_: pytest.fail("started")))
    assert not (trained.runs / "one-s0").exists()


@pytest.mark.usefixtures("train_in_process")
def test_train_rejects_diverged_training(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="diverged in epoch 1"):
        quick(workspace, settings=SMALL | {"learning_rate": 1e30})
    assert not find_run(workspace, "one").fold(0).is_finished


@pytest.mark.usefixtures("train_in_process")
def test_train_names_damaged_artefact_and_replaces_it_only_with_retrain(trained: Workspace) -> None:
    run = find_run(trained, "one")
    before = files_of(run)
    run.fold(1).model_file().write_bytes(before["fold-1/model.keras"][:-1])
    with pytest.raises(DataError, match=r"fold-1/model\.keras is"):
        quick(trained)
    assert quick_folds(trained, retrain=True) == (run, [(0, 1)])
    assert files_of(run)["ensemble/test_softmax.npy"] == before["ensemble/test_softmax.npy"]


@pytest.mark.usefixtures("train_in_process")
def test_preview_kernel_and_train_retrain_with_seeds_take_only_damaged_folds(trained: Workspace) -> None:
    for name, source in (("it-s0", "one"), ("it-s1", "two")):
        shutil.copytree(trained.runs / source, trained.runs / name)
    (trained.runs / "it-s1" / "fold-0" / "model.keras").unlink()
    recipe = Recipe("lenet", 2, settings=SMALL, run="it", seeds=2)
    for refused in (quick, lambda trained, **_: preview_kernel(trained, recipe, "kaggle-cpu")):
        with pytest.raises(DataError, match=r"it-s1/fold-0/model\.keras is missing"):
            refused(trained, run="it", seeds=2)
    assert preview_kernel(trained, recipe, "kaggle-cpu", retrain=True)["folds"] == [[1, 0]]
    assert quick_folds(trained, run="it", seeds=2, retrain=True)[1] == [(1, 0)]


@pytest.mark.usefixtures("train_in_process")
def test_train_names_damaged_split_and_replaces_it_only_with_retrain(trained: Workspace) -> None:
    run = find_run(trained, "one")
    before = files_of(run)
    for text in ("", "row,fold\n" + "".join(f"{i},{i % 3}\n" for i in range(100))):
        (run.path / "folds.csv").write_text(text)
        with pytest.raises(DataError, match=r"folds\.csv is"):
            quick(trained)
    assert quick_folds(trained, retrain=True)[1] == [(0, 0), (0, 1)]
    for name in ("folds.csv", "ensemble/test_softmax.npy"):
        assert files_of(run)[name] == before[name]


def test_train_names_damaged_run_json(trained: Workspace) -> None:
    (trained.runs / "one" / "run.json").write_text('{"status": "finished"')
    with pytest.raises(DataError, match=r"one/run\.json"):
        quick(trained)
    rows = {row["name"]: row["status"] for row in summarise_runs(trained)}
    assert rows == {"one": "damaged", "two": "finished"}


def test_train_and_ensemble_replace_damaged_ensemble(trained: Workspace) -> None:
    run = find_run(trained, "one")
    before = artefacts_of(run)
    for name in ("oof_softmax.npy", "metrics.json"):
        (run.path / "ensemble" / name).write_bytes(b"")
        assert artefacts_of(quick(trained)) == before
    shutil.rmtree(run.path / "ensemble")
    shutil.rmtree(trained.submissions / "one")
    assert artefacts_of(ensemble(trained, ["one"])) == before
    assert submission_file(trained, "one").exists()


def interrupt(event: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("train_in_process")
def test_train_retrain_keeps_old_folds_and_ensemble_when_interrupted(trained: Workspace) -> None:
    run = find_run(trained, "one")
    before, old = artefacts_of(run), run.ensemble_metrics()["folds"]
    missing: list[FoldTask] = []
    observer = Listener(start=lambda run, tasks, to_train: missing.extend(to_train), progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        quick(trained, retrain=True, observer=observer)
    assert [task.fold for task in missing] == [0, 1]  # all, because none is damaged
    assert {name: content for name, content in artefacts_of(run).items() if name in before} == before
    with pytest.raises(KeyboardInterrupt):
        quick(trained, retrain=True, observer=Listener(finished=interrupt))
    assert run.ensemble_metrics()["folds"] == old
    # Nothing is missing, but the ensemble is not that of the new fold.
    assert quick_folds(trained)[1] == []
    new = run.ensemble_metrics()["folds"]
    assert [a["seconds"] != b["seconds"] for a, b in zip(old, new, strict=True)] == [True, False]


@pytest.mark.slow
def test_train_result_does_not_depend_on_workers(workspace: Workspace, small_runs: Workspace) -> None:
    assert_same_run(quick(workspace, workers=1), small_runs)


@pytest.mark.slow
def test_train_ignores_code_in_current_folder_and_keras_json(
    workspace: Workspace, small_runs: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "here", tmp_path / "executed"
    write_files(folder / "kaggle_digits", {})
    for name in ("json.py", "tensorflow.py", "kaggle_digits/__init__.py", "kaggle_digits/worker.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w').close()\n")
    settings = b'{"image_data_format": "channels_first", "floatx": "float16", "backend": "jax"}'
    write_files(Path.home() / ".keras", {"keras.json": settings})
    monkeypatch.chdir(folder)
    assert_same_run(quick(workspace), small_runs)
    assert not mark.exists()
    assert (Path.home() / ".keras" / "keras.json").read_bytes() == settings


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
def test_train_finishes_other_folds_when_worker_always_dies(workspace: Workspace) -> None:
    def kill_fold_0(progress: object) -> None:
        if progress.fold == 0:  # type: ignore[attr-defined]
            for process in worker_processes():
                os.kill(process, signal.SIGKILL)

    observer = Listener(progress=kill_fold_0)
    with pytest.raises(KaggleDigitsError, match=r"worker of fold 0 of seed 0 died by signal 9\."):
        quick(workspace, settings=SMALL | {"epochs": "4"}, workers=1, observer=observer)
    run = find_run(workspace, "one")
    assert (run.fold(0).is_finished, run.fold(1).is_finished, run.info.status) == (False, True, "unfinished")
    assert worker_processes() == set()


def test_train_reports_worker_out_of_memory(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys\nif 'kaggle_digits.execution.worker' in str(sys.orig_argv):\n"
        "    import kaggle_digits.training.fold as training\n"
        "    training.train_fold = lambda *_: [0] * 2**60\n"
    )
    write_files(tmp_path / "script", {"sitecustomize.py": script.encode()})
    monkeypatch.setenv("PYTHONPATH", import_first(tmp_path / "script"))
    notices: list[str] = []
    with pytest.raises(KaggleDigitsError, match=r"^The worker of fold 0 of seed 0 ran out of memory\.") as caught:
        quick(workspace, workers=1, observer=Listener(notice=notices.append))
    assert caught.value.exit_code == 1
    assert caught.value.remedy.startswith("Close other programs, or train fewer folds at a time (--workers")
    assert notices[0] == "The worker of fold 0 of seed 0 ran out of memory. The fold is retried."
    assert "MemoryError" in (workspace.runs / "one" / "workers.log").read_text()


@pytest.mark.usefixtures("train_in_process")
def test_train_names_unwritable_temporary_folder(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with pytest.raises(WriteError, match=r"^Cannot write /dev/null/\w+: Not a directory\."):
        quick(workspace)


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
    wait_until(lambda: not any(is_running(pid) for pid in workers))


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return bool(
            Path(f"/proc/{pid}/cmdline").read_bytes()
        )  # empty if it has ended, and nobody asked for its code
    return False


SPY = """
import os, sys
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        name = os.fsdecode(arguments[0])
        if "hidden" in name or "/host/" in name or name.endswith("train.npz"):
            log = os.open(os.environ["SPY_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(log, (name + "\\n").encode())
            os.close(log)
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


def test_ensemble_adds_but_does_not_remove_members(trained: Workspace) -> None:
    for name, source in (("it-s0", "one"), ("it-s1", "two"), ("third", "two")):
        shutil.copytree(trained.runs / source, trained.runs / name)
    mean, folds = quick_folds(trained, run="it", seeds=2)
    assert (mean.name, mean.info.members, folds) == ("it", ["it-s0", "it-s1"], [])
    grown = ensemble(trained, ["it-s0", "it-s1", "third"], name="it")
    assert grown.info.members == ["it-s0", "it-s1", "third"]
    with pytest.raises(UsageError, match="is the mean of it-s0, it-s1, third, not of it-s0, it-s1"):
        quick(trained, run="it", seeds=2)


def test_ensemble_rejects_unfinished_runs_and_invalid_names(trained: Workspace) -> None:
    with pytest.raises(UsageError, match="no run called 'three'"):
        ensemble(trained, ["one", "three"])
    with pytest.raises(UsageError, match="run one is not a mean of runs"):
        ensemble(trained, ["one", "two"], name="one")
    with pytest.raises(UsageError, match="Only the mean of several runs can get a new name"):
        ensemble(trained, ["one"], name="other")
    shutil.rmtree(find_run(trained, "one").fold(1).path)
    with pytest.raises(DataError, match="is not finished"):
        ensemble(trained, ["one"])
