"""Tests of run directories: valid files, damaged and modified files, and the workers that train the folds."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Listener, competition_files, write_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kaggle_server import KaggleServer

from kaggle_digits import Workspace, ensemble, submit
from kaggle_digits.data.csv import load_data, load_test, load_train
from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import DataError, KaggleDigitsError, UsageError
from kaggle_digits.evaluation.metrics import summarise
from kaggle_digits.reports.comparison import make_comparison
from kaggle_digits.reports.document import make_document
from kaggle_digits.reports.page import _mean_epochs
from kaggle_digits.runs.artefacts import write_fold
from kaggle_digits.runs.directory import (
    FoldsRun,
    MeanRun,
    Run,
    create_run,
    find_run,
    list_runs,
    read_run,
)
from kaggle_digits.runs.ensemble import check_members, ensemble_folds, ensemble_runs, is_current
from kaggle_digits.runs.plan import make_splits, plan_runs
from kaggle_digits.runs.schema import FINISHED, UNFINISHED
from kaggle_digits.runs.summary import summarise_runs
from kaggle_digits.submissions.submit import submission_file, write_submission
from kaggle_digits.training.fold import FoldResult
from kaggle_digits.training.presets import find_preset
from kaggle_digits.training.recipe import Recipe

FILES = ("one/run.json", "both/run.json", "one/fold-0/metrics.json", "one/ensemble/metrics.json")
"""The JSON files that the tests modify, relative to the folder of runs."""


def write_run(workspace: Workspace, name: str, seed: int) -> Run:
    """Write a finished run as `train` does, but with random softmaxes."""
    train_set, test_set = load_train(workspace.data), load_test(workspace.data)
    rng = np.random.default_rng(seed)
    facts = {"preset": "lenet", "folds": 2, "seed": seed, "settings": find_preset("lenet").settings.model_dump()}
    run = create_run(workspace.runs / name, facts | spec(workspace), ["kaggle-digits", "train"])
    assert isinstance(run, FoldsRun)
    folds = make_folds(train_set.labels, 2, seed)
    run.write_split(folds)
    for fold in range(2):
        labels = train_set.labels[folds == fold]
        softmaxes = [rng.dirichlet(np.ones(10), n).astype(np.float32) for n in (len(labels), len(test_set.ids))]
        times = {"seconds": 3.0, "data_seconds": 1.0, "training_seconds": 1.5, "test_seconds": 0.5}
        more = {"preprocessing": "plain", "epochs": 1, "parameters": 5, "peak_memory": 10**9}
        more |= {"tflop": 0.1, "network": "0123456789ab", "device": "CPU"}
        shares = {"accuracy": 0.5, "val_accuracy": 0.5, "loss": 0.7, "val_loss": 0.6}
        epoch = {"epoch": 1, **shares, "learning_rate": 1e-3, "seconds": 1.5, "images_per_second": 7.0}
        metrics = summarise(softmaxes[0], labels) | times | more
        write_fold(run.fold_folder(fold), FoldResult(b"", [epoch], softmaxes[0], softmaxes[1], metrics))
    ensemble_folds(run, load_data(workspace.data))
    return run.with_status(FINISHED, train_seconds=4.5)


def spec(workspace: Workspace) -> dict[str, Any]:
    hashes = {"train.csv": load_train(workspace.data).sha256, "test.csv": load_test(workspace.data).sha256}
    return {"competition": workspace.competition.name, "data": hashes}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two runs and their mean. Do not modify them; the fixture `workspace` is a copy."""
    workspace = Workspace.at(tmp_path_factory.mktemp("written"))
    write_files(workspace.data, competition_files())
    for seed, name in enumerate(("one", "two")):
        write_run(workspace, name, seed)
    members = {"members": ["one", "two"]}
    both = create_run(workspace.runs / "both", spec(workspace) | members, ["kaggle-digits", "ensemble"])
    assert isinstance(both, MeanRun)
    ensemble_runs(both, load_data(workspace.data))
    both.with_status(FINISHED)
    return workspace


@pytest.fixture
def workspace(written: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(written.root, tmp_path / "work")
    return Workspace.at(tmp_path / "work")


def one(workspace: Workspace) -> FoldsRun:
    """Return the first run."""
    run = find_run(workspace, "one")
    assert isinstance(run, FoldsRun)
    return run


def read_all(workspace: Workspace) -> None:
    """Read all JSON files of the runs; ignore the errors of damaged ones."""
    for name in ("one", "both"):
        with suppress(DataError):
            run = read_run(workspace.runs / name)
            with suppress(DataError):
                run.ensemble_metrics()
            if isinstance(run, FoldsRun):
                for fold in range(2):
                    with suppress(DataError):
                        run.fold_metrics(fold)
    summarise_runs(workspace)


def use_all(workspace: Workspace) -> None:
    """Use the runs as the commands do, except for loading networks: only runs that cannot be read raise errors."""
    data, runs = load_data(workspace.data), []
    for name in ("one", "both"):
        with suppress(DataError):
            runs.append(read_run(workspace.runs / name))
    for run in runs:
        with suppress(KaggleDigitsError):
            run.describe()
        with suppress(KaggleDigitsError):
            run.unfinished()
        with suppress(KaggleDigitsError):
            make_document(workspace, run, data, None)
        run.has_valid_ensemble()
        if isinstance(run, FoldsRun):
            with suppress(KaggleDigitsError):
                is_current(run, data)
            run.is_valid_fold(0)
    if len(runs) == 2:
        with suppress(KaggleDigitsError):
            make_comparison(workspace, runs, data.train)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**30, 0.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
in_one_folder = settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
REMOVED = object()


def key_paths(document: Any) -> Iterator[tuple[str, ...]]:
    """Yield the path of keys of each value of a document, at any depth."""
    for key, value in document.items() if isinstance(document, dict) else ():
        yield (key,)
        yield from ((key, *rest) for rest in key_paths(value))


def modified(document: dict[str, Any], keys: tuple[str, ...], value: object) -> bytes:
    document = copy.deepcopy(document)
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return json.dumps(document).encode()


@contextmanager
def modifying(workspace: Workspace, written: Workspace, file: str, data: st.DataObject) -> Iterator[None]:
    """Replace a random value in a JSON file by another one, and restore the file afterwards."""
    document = json.loads((written.runs / file).read_bytes())
    keys = data.draw(st.sampled_from(list(key_paths(document))))
    value = data.draw(json_values | st.just(REMOVED))
    (workspace.runs / file).write_bytes(modified(document, keys, value))
    try:
        yield
    finally:
        shutil.copyfile(written.runs / file, workspace.runs / file)


@in_one_folder
@given(file=st.sampled_from(FILES), data=st.data())
def test_read_run_reads_or_rejects_any_value(
    workspace: Workspace, written: Workspace, file: str, data: st.DataObject
) -> None:
    with modifying(workspace, written, file, data):
        read_all(workspace)


@settings(in_one_folder, max_examples=100)
@given(file=st.sampled_from(FILES), data=st.data())
def test_read_run_returns_usable_run(
    workspace: Workspace, written: Workspace, file: str, data: st.DataObject
) -> None:
    with modifying(workspace, written, file, data):
        use_all(workspace)


@in_one_folder
@given(file=st.sampled_from(FILES), content=st.binary(max_size=200) | json_values.map(json.dumps).map(str.encode))
def test_read_run_reads_or_rejects_any_bytes(
    workspace: Workspace, written: Workspace, file: str, content: bytes
) -> None:
    (workspace.runs / file).write_bytes(content)
    read_all(workspace)
    shutil.copyfile(written.runs / file, workspace.runs / file)


def test_read_run_reads_what_was_written(workspace: Workspace) -> None:
    rows = {row["name"]: row for row in summarise_runs(workspace)}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(("one", "two", "both"), FINISHED)
    assert (rows["one"]["trained"], rows["one"]["folds"], rows["both"]["folds"]) == (2, 2, None)
    run, data = one(workspace), load_data(workspace.data)
    assert run.is_valid_fold(0)
    assert is_current(run, data)
    for found in (run, find_run(workspace, "both")):
        document = make_document(workspace, found, data, None)
        assert document["out_of_fold"]["errors"] == found.ensemble_metrics().errors
    assert run.info.as_json() == json.loads((run.path / "run.json").read_bytes())


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("folds",), "two"),
        (("folds",), 10**12),
        (("folds",), REMOVED),
        (("seed",), REMOVED),
        (("data",), REMOVED),
        (("data", "train.csv"), REMOVED),
        (("settings",), "epochs=1"),
        (("settings", "hard_rows"), "many"),
        (("status",), 3),
        (("status",), "\ud800"),
        (("command",), "kaggle-digits train"),
        (("machine",), None),
        (("members",), ["two"]),
        (("train_seconds",), "long"),
        (("updated",), REMOVED),
    ],
)
def test_read_run_names_damaged_run_json(workspace: Workspace, keys: tuple[str, ...], value: object) -> None:
    path = workspace.runs / "one" / "run.json"
    path.write_bytes(modified(json.loads(path.read_bytes()), keys, value))
    with pytest.raises(DataError, match=r"one/run\.json is damaged: ") as caught:
        read_run(path.parent)
    assert "Value error" not in caught.value.problem
    assert {row["name"]: row["status"] for row in summarise_runs(workspace)}["one"] == "damaged"
    with pytest.raises(DataError, match=r"one/run\.json"):
        ensemble(workspace, ["one"])


@pytest.mark.parametrize(
    ("keys", "value"),
    [(("members",), "one"), (("members",), [1]), (("members",), []), (("folds",), 2), (("settings",), {})],
)
def test_read_run_names_damaged_run_json_of_mean(
    workspace: Workspace, keys: tuple[str, ...], value: object
) -> None:
    path = workspace.runs / "both" / "run.json"
    path.write_bytes(modified(json.loads(path.read_bytes()), keys, value))
    with pytest.raises(DataError, match=r"both/run\.json is damaged: "):
        read_run(path.parent)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("accuracy",), "high"),
        (("accuracy",), REMOVED),
        (("errors",), REMOVED),
        (("errors",), 101),
        (("calibration",), []),
        (("files",), []),
    ],
)
def test_ensemble_metrics_names_damaged_file_and_ensemble_replaces_it(
    workspace: Workspace, keys: tuple[str, ...], value: object
) -> None:
    run = one(workspace)
    path = run.path / "ensemble" / "metrics.json"
    before = path.read_bytes()
    path.write_bytes(modified(json.loads(before), keys, value))
    with pytest.raises(DataError, match=r"one/ensemble/metrics\.json is damaged: "):
        run.ensemble_metrics()
    assert {row["name"]: row["status"] for row in summarise_runs(workspace)}["one"] == "damaged"
    assert not run.has_valid_ensemble()
    ensemble(workspace, ["one"])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("files",), []),
        (("files",), REMOVED),
        (("files", "model.keras"), 5),
        (("rows",), REMOVED),
        (("errors",), "few"),
        (("accuracy",), REMOVED),
        (("preprocessing",), "tilted"),
        (("network",), REMOVED),
    ],
)
def test_fold_metrics_names_damaged_file(workspace: Workspace, keys: tuple[str, ...], value: object) -> None:
    run = one(workspace)
    path = run.path / "fold-1" / "metrics.json"
    path.write_bytes(modified(json.loads(path.read_bytes()), keys, value))
    for read in (run.fold_metrics, run.check_fold):
        with pytest.raises(DataError, match=r"fold-1/metrics\.json is damaged: "):
            read(1)
    assert not run.is_valid_fold(1)
    with pytest.raises(DataError, match=r"fold-1/metrics\.json is damaged: "):
        ensemble(workspace, ["one"])


def test_list_runs_uses_times_in_run_json(workspace: Workspace) -> None:
    """A file's time changes with `git clone`, `cp -r`, `touch` and `tar -m`."""
    for name, updated in (("one", "2026-01-02"), ("two", "2026-01-01"), ("both", "2026-01-01")):
        path = workspace.runs / name / "run.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"updated": updated}))
        os.utime(path, (2e9, 2e9))
    assert [run.name for run in list_runs(workspace)] == ["one", "two", "both"]  # ties by name


def set_accuracy(workspace: Workspace, name: str, accuracy: float) -> None:
    path = workspace.runs / name / "ensemble" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"accuracy": accuracy}))


def test_find_run_returns_best_finished_run(workspace: Workspace) -> None:
    for name, accuracy in (("one", 0.9), ("two", 0.8), ("both", 0.9)):
        set_accuracy(workspace, name, accuracy)
    assert find_run(workspace).name == "both"  # the latest of equal runs
    find_run(workspace, "both").with_status(UNFINISHED)
    assert find_run(workspace).name == "one"
    (workspace.runs / "one" / "ensemble" / "metrics.json").write_text("{")
    assert find_run(workspace).name == "two"
    find_run(workspace, "two").with_status(UNFINISHED)
    (workspace.runs / "one" / "run.json").write_text("{")
    assert find_run(workspace).name == "two"  # the latest unfinished run
    with pytest.raises(DataError, match="The run two is not finished"):
        submit(workspace)


def test_find_run_ignores_runs_of_other_data(workspace: Workspace) -> None:
    for name, accuracy in (("one", 0.7), ("two", 0.8), ("both", 0.9)):
        set_accuracy(workspace, name, accuracy)
    for name in ("two", "both"):
        run = find_run(workspace, name)
        document = run.info.as_json() | {"data": run.info.data.as_json() | {"test.csv": "0" * 64}}
        (run.path / "run.json").write_text(json.dumps(document))
    assert find_run(workspace).name == "one"
    assert find_run(workspace, "both").name == "both"
    find_run(workspace, "one").with_status(UNFINISHED)
    find_run(workspace, "both").with_status(FINISHED)
    assert find_run(workspace).name == "one"
    (workspace.runs / "one" / "run.json").unlink()
    with pytest.raises(DataError, match=r"The run both was made from different data: another test\.csv"):
        find_run(workspace)
    shutil.rmtree(workspace.data)  # as on a machine that only predicts
    assert find_run(workspace).name == "both"


def test_submit_names_best_finished_run_before_sending(workspace: Workspace, kaggle: KaggleServer) -> None:
    """It is not the latest run, and the user can still interrupt the command."""
    softmax = np.zeros((30, 10), np.float32)
    for digit, name in enumerate(("one", "two", "both")):
        run, softmax[:, digit] = find_run(workspace, name), digit + 1
        write_submission(submission_file(workspace, name), np.arange(1, 31), softmax)
        metrics = run.ensemble_metrics().as_json() | {"accuracy": 0.9 if name == "one" else 0.8}
        (run.path / "ensemble" / "metrics.json").write_text(json.dumps(metrics))
    notices: list[tuple[str, int]] = []

    def record(sentence: str) -> None:
        notices.append((sentence, kaggle.count("CreateSubmission")))

    sent = submit(workspace, wait=False, observer=Listener(notice=record))
    why = "The run is one (CV 0.90000), the finished one with the best out-of-fold accuracy."
    assert notices == [(why, 0), ("10 submissions are left today.", 0)]
    assert (sent.entry.run, sent.entry.cv) == ("one", 0.9)
    assert b"\n1,0\n" in kaggle.submissions[0]["content"]


@pytest.mark.parametrize("timeout", [float("nan"), -1.0])
def test_submit_rejects_invalid_timeout(workspace: Workspace, kaggle: KaggleServer, timeout: float) -> None:
    with pytest.raises(UsageError, match="The timeout must be at least 0 seconds, got"):
        submit(workspace, timeout=timeout)
    assert kaggle.submissions == []


def test_command_of_run_uses_current_folders(workspace: Workspace, tmp_path: Path) -> None:
    run = one(workspace)
    command = ["kaggle-digits", "--competition", "train", "--root", "train", "train", "--preset", "lenet"]
    document = run.info.as_json() | {"command": command, "competition": "unknown"}
    (run.path / "run.json").write_text(json.dumps(document))
    assert one(workspace).command() == workspace.command("train", "--preset", "lenet")
    shutil.copytree(workspace.root, tmp_path / "new")
    copied = one(Workspace.at(tmp_path / "new", workspace.competition.name))
    assert shlex.split(copied.command())[1:3] == ["--root", str(tmp_path / "new")]
    assert copied.command() in copied.unfinished().remedy


@pytest.mark.parametrize("command", [[], ["kaggle-digits"], ["kaggle-digits", "--root", "work"]])
def test_command_of_run_accepts_command_without_words(workspace: Workspace, command: list[str]) -> None:
    run = one(workspace)
    (run.path / "run.json").write_text(json.dumps(run.info.as_json() | {"command": command}))
    assert one(workspace).command() == workspace.command()


def test_read_json_rejects_deeply_nested_json(workspace: Workspace) -> None:
    (workspace.runs / "one" / "run.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"one/run\.json cannot be read as JSON"):
        one(workspace)


ARRAYS = (
    "one/fold-0/val_softmax.npy",
    "one/fold-1/test_softmax.npy",
    "one/ensemble/oof_softmax.npy",
    "one/ensemble/test_softmax.npy",
    "both/ensemble/oof_softmax.npy",
    "both/ensemble/test_softmax.npy",
)
TABLES = ("one/fold-0/history.csv", "one/folds.csv")


def npy(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def put(workspace: Workspace, file: str, content: bytes) -> None:
    """Replace the content of an artefact, and its SHA-256 in the ``metrics.json`` of the same folder."""
    path = workspace.runs / file
    path.write_bytes(content)
    metrics = path.with_name("metrics.json")
    if metrics.exists():
        document = json.loads(metrics.read_bytes())
        document["files"][path.name] = hashlib.sha256(content).hexdigest()
        metrics.write_text(json.dumps(document))


def restore(workspace: Workspace, written: Workspace) -> None:
    """Restore all files that `put` and the commands after it may have changed."""
    for folder in ("one", "both"):
        shutil.copytree(written.runs / folder, workspace.runs / folder, dirs_exist_ok=True)


def read_artefacts(workspace: Workspace, file: str) -> list[KaggleDigitsError]:
    """Read the run of a file as each command does, except for networks, and return the errors."""
    data = load_data(workspace.data)
    try:
        first, both = one(workspace), find_run(workspace, "both")
    except KaggleDigitsError as error:
        return [error]
    errors = []

    def report_on(run: Run) -> None:
        document = make_document(workspace, run, data, None)
        if document["folds"]:
            _mean_epochs(document["folds"])
            json.dumps(document, allow_nan=False)

    def resume() -> None:
        recipe = Recipe("lenet", 2, run="one")
        for plan in plan_runs(workspace, recipe, make_splits(recipe, data), data, retrain=False):
            plan.open(workspace, data)
        if not is_current(first, data):
            ensemble_folds(first, data)

    of_run = (
        resume,
        lambda: report_on(first),
        lambda: summarise_runs(workspace),
        lambda: ensemble(workspace, ["one"]),
    )
    of_ensembles = (
        lambda: make_comparison(workspace, [first, both], data.train),
        lambda: report_on(both),
        lambda: check_members(both),
        lambda: ensemble(workspace, ["both"]),
    )
    for read in of_ensembles if file.startswith("both") else of_run + of_ensembles[: 2 * ("ensemble" in file)]:
        try:
            read()
        except KaggleDigitsError as error:
            errors.append(error)
    return errors


def changed_array(array: np.ndarray, data: st.DataObject) -> bytes:
    """Return an array of another type, shape or content, or with other bytes, as a file."""
    kind = data.draw(st.sampled_from(["type", "shape", "value", "bytes", "object", "header"]))
    if kind == "type":
        dtypes = ["float16", "float64", ">f4", "uint8", "int64", "complex64", "U3", "S2", "bool", "datetime64[s]"]
        return npy(array.astype(np.int64).astype(data.draw(st.sampled_from(dtypes))))
    if kind == "shape":
        n = len(array)
        shapes = [(), (0,), (10,), (n,), (n, 1), (n, 9), (n, 11), (n, 10, 1), (0, 10), (1, 10), (n - 1, 10)]
        return npy(np.resize(array, data.draw(st.sampled_from(shapes))))
    if kind == "value":
        array = array.copy()
        values = st.floats(width=32) | st.sampled_from([0.0, 1.0, 1e-30])
        array[data.draw(st.integers(0, len(array) - 1)), data.draw(st.integers(0, 9))] = data.draw(values)
        return npy(array)
    if kind == "object":
        return npy(array.astype(object), allow_pickle=True)
    content = bytearray(npy(array))
    if kind == "header":
        shape = data.draw(st.tuples(st.integers(-1, 10**30), st.integers(-1, 11)))
        return bytes(content[:128].replace(str(array.shape).encode(), str(shape).encode()) + content[128:])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 140))] = data.draw(st.integers(0, 255))
    return bytes(content[: data.draw(st.none() | st.integers(0, len(content)))])


def changed_table(content: bytes, data: st.DataObject) -> bytes:
    """Return a CSV file with another cell, column, row or byte."""
    kind = data.draw(st.sampled_from(["cell", "short", "column", "rows", "bytes"]))
    lines = [line.split(b",") for line in content.split()]
    at, column = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, len(lines[0]) - 1))
    if kind == "cell":
        values = ["", "NaN", "inf", "-1", "300", "1e400", "1.5", "2", "text", "\x00", '"', "9" * 30, "1,2"]
        lines[at][column] = data.draw(st.sampled_from(values) | st.text(max_size=3)).encode()
    elif kind == "short":
        del lines[at][column]
    elif kind == "column":
        lines = [line[:column] + line[column + 1 :] for line in lines]
    elif kind == "rows":
        lines = data.draw(
            st.sampled_from([[], lines[:1], lines[:-1], [*lines, lines[-1]], lines[1:], lines[::-1]])
        )
    text = b"\n".join(b",".join(line) for line in lines) + b"\n"
    if kind == "bytes":
        start = data.draw(st.integers(0, len(text)))
        text = text[:start] + data.draw(st.binary(max_size=4)) + text[start + data.draw(st.integers(0, 3)) :]
    return text


@pytest.mark.slow
@settings(in_one_folder, max_examples=200)
@given(file=st.sampled_from(ARRAYS) | st.sampled_from(TABLES), data=st.data())
def test_check_fold_reads_or_rejects_any_artefact_with_valid_hash(
    workspace: Workspace, written: Workspace, file: str, data: st.DataObject
) -> None:
    if file in ARRAYS:
        content = changed_array(np.load(written.runs / file), data)
    else:
        content = changed_table((written.runs / file).read_bytes(), data)
    put(workspace, file, content)
    read_artefacts(workspace, file)
    restore(workspace, written)


VALID_ROWS = np.full((50, 10), 0.1, np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(VALID_ROWS.astype(np.float64)), r"its array is float64 \[50, 10\], not float32 \[rows, 10\]"),
        (npy(VALID_ROWS.astype(">f4")), "its array is >f4"),
        (npy(VALID_ROWS[:, :9]), r"its array is float32 \[50, 9\]"),
        (npy(VALID_ROWS[0]), r"its array is float32 \[10\]"),
        (npy(VALID_ROWS[:49]), "it has 49 rows, not 50"),
        (npy(np.where(np.eye(50, 10), np.float32(np.nan), VALID_ROWS)), "not all of its values are from 0 to 1"),
        (npy(np.where(np.eye(50, 10), np.float32(np.inf), VALID_ROWS)), "not all of its values are from 0 to 1"),
        (npy(VALID_ROWS - 1), "not all of its values are from 0 to 1"),
        (npy(VALID_ROWS.astype(object), allow_pickle=True), "is damaged: .*[Oo]bject"),
        (npy(VALID_ROWS).replace(b"(50, 10)", b"(10000000000000, 10)"), "is damaged: "),
        (b"", "is damaged: "),
        (b"PK\x05\x06" + bytes(18), "is damaged: "),
    ],
    ids=[
        "float64",
        "big-endian",
        "9 columns",
        "1 axis",
        "49 rows",
        "NaN",
        "inf",
        "negative",
        "object",
        "huge",
        "empty",
        "zip",
    ],
)
@pytest.mark.parametrize("file", ["one/fold-0/val_softmax.npy", "one/ensemble/oof_softmax.npy"])
def test_val_softmax_names_invalid_file(workspace: Workspace, file: str, content: bytes, message: str) -> None:
    run = one(workspace)
    put(workspace, file, content)
    with pytest.raises(DataError, match=rf"{file} .*{message}"):
        run.val_softmax(0) if "fold-0" in file else run.oof_softmax(50)
    errors = [error.problem for error in read_artefacts(workspace, file)]
    if "fold-0" in file:  # resuming, report, ensemble
        assert len([problem for problem in errors if file in problem]) == 3
        assert not run.is_valid_fold(0)
    else:
        assert errors == []  # resuming replaces the ensemble
        assert len(run.oof_softmax()) == 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no column 'epoch'"),
        (b"HEADER\n", "its epochs are not 1 to 1"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"epoch,loss\n1,2\n", "it has no column 'accuracy'"),
        (b"HEADER\n1,2,3,4,5,6,7,few\n", "could not convert string to float: 'few'"),
        (b"HEADER\n1,2,3,4,5,6,7\n", "a row has too few values"),
        (b"HEADER\n1,2,3,4,5,6,7,nan\n", "it has a value that is not finite"),
        (b"HEADER\n2,2,3,4,5,6,7,8\n", "its epochs are not 1 to 1"),
        (b"HEADER\n1,2,3,4,5,6,7,8\n2,2,3,4,5,6,7,8\n", "its epochs are not 1 to 1"),
    ],
)
def test_history_names_invalid_file(workspace: Workspace, content: bytes, message: str) -> None:
    header = (workspace.runs / "one/fold-0/history.csv").read_bytes().split()[0]
    put(workspace, "one/fold-0/history.csv", content.replace(b"HEADER", header))
    errors = [error.problem for error in read_artefacts(workspace, "one/fold-0/history.csv")]
    assert len(errors) == 2  # resuming and report
    for problem in errors:
        assert "one/fold-0/history.csv is damaged: " in problem
        assert message in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no column 'row'"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"row\n0\n", "it has no column 'fold'"),
        (b"row,fold\n0,first\n", "'first'"),
        (b"row,fold\n0,256\n1,0\n2,1\n", "its folds are not those of run.json"),
        (b"row,fold\n0,0\n1,1\n", "it has 2 rows, but train.csv has 100"),
        (b"row,fold\n0,0\n2,1\n", "its rows are not numbered from 0"),
        (b"row,fold\n0,0\n1,2\n", "its folds are not those of run.json"),
    ],
)
def test_split_names_invalid_file(workspace: Workspace, content: bytes, message: str) -> None:
    put(workspace, "one/folds.csv", content)
    errors = [error.problem for error in read_artefacts(workspace, "one/folds.csv")]
    assert len(errors) == 3  # resuming, report, ensemble
    for problem in errors:
        assert "one/folds.csv is damaged: " in problem
        assert message in problem


def test_ensemble_rejects_wrong_number_of_test_rows(workspace: Workspace) -> None:
    put(workspace, "one/fold-1/test_softmax.npy", npy(VALID_ROWS[:29]))
    put(workspace, "two/ensemble/test_softmax.npy", npy(VALID_ROWS[:31]))
    for run, message in (
        ("one", r"one/fold-1/test_softmax\.npy is damaged: it has 29 rows, not 30"),
        ("both", r"two/ensemble/test_softmax\.npy is damaged: it has 31 rows, not 30"),
    ):
        with pytest.raises(DataError, match=message):
            ensemble(workspace, [run])


@pytest.mark.parametrize(
    "file",
    [
        "one/run.json",
        "one/folds.csv",
        "one/fold-0/metrics.json",
        "one/fold-0/history.csv",
        "one/fold-0/val_softmax.npy",
        "one/fold-0/test_softmax.npy",
        "one/fold-0/model.keras",
    ],
)
def test_artefacts_that_are_pipes_do_not_block(workspace: Workspace, file: str) -> None:
    """Opening such a pipe would block forever, because nothing writes to it."""
    (workspace.runs / file).unlink()
    os.mkfifo(workspace.runs / file)
    errors = [error.problem for error in read_artefacts(workspace, file)]
    assert any(problem.endswith(f"{file} is a pipe or a device, not a regular file.") for problem in errors)
