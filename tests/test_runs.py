"""Tests of run directories: valid files, damaged and modified files, and the workers that train the folds."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Listener, competition_files, write_files
from hypothesis import given, settings
from hypothesis import strategies as st
from kaggle_server import KaggleServer

from kaggle_digits import Workspace, ensemble, submit
from kaggle_digits.data.csv import load_data, load_sample, load_test, load_train
from kaggle_digits.data.folds import make_folds
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.evaluation.metrics import summarise
from kaggle_digits.reports.content import make_report
from kaggle_digits.runs.directory import FoldsRun, MeanRun, Run, find_run, list_runs, read_run
from kaggle_digits.runs.ensemble import is_current, write_ensemble
from kaggle_digits.runs.summary import summarise_runs
from kaggle_digits.submissions.submit import submission_file, write_submission
from kaggle_digits.training.fold import FoldResult
from kaggle_digits.training.presets import find_preset

FILES = ("one/run.json", "both/run.json", "one/fold-0/metrics.json", "one/ensemble/metrics.json")
"""The JSON files that the tests modify, relative to the folder of runs."""


def write_run(workspace: Workspace, name: str, seed: int) -> Run:
    """Write a finished run as `train` does, but with random softmaxes."""
    train_set, test_set = load_train(workspace.data), load_test(workspace.data)
    rng = np.random.default_rng(seed)
    facts = {"preset": "lenet", "folds": 2, "seed": seed, "settings": find_preset("lenet").settings.model_dump()}
    run = FoldsRun.new(workspace.runs / name, facts | spec(workspace), ["kaggle-digits", "train"])
    folds = make_folds(train_set.labels, 2, seed)
    run.write_split(folds)
    for fold in range(2):
        labels = train_set.labels[folds == fold]
        softmaxes = [rng.dirichlet(np.ones(10), n).astype(np.float32) for n in (len(labels), len(test_set.ids))]
        # "network" as earlier versions did.
        facts = {"preprocessing": "plain", "epochs": 1, "seconds": 3.0, "network": "0123456789ab"}
        epoch = {"epoch": 1, "loss": 0.7, "val_loss": 0.6, "accuracy": 0.5, "val_accuracy": 0.5}
        epoch |= {"seconds": 1.5, "images_per_second": 7.0}
        metrics = summarise(softmaxes[0], labels) | facts
        run.fold(fold).write(FoldResult(b"", [epoch], softmaxes[0], softmaxes[1], metrics))
    write_ensemble(run, load_data(workspace.data))
    return run.with_status("finished", train_seconds=4.5)


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
    both = MeanRun.new(workspace.runs / "both", spec(workspace) | members, ["kaggle-digits", "ensemble"])
    write_ensemble(both, load_data(workspace.data))
    both.with_status("finished")
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
    """Read the files of the runs; `DataError` if one is damaged."""
    for name in ("one", "both"):
        run = read_run(workspace.runs / name)
        run.ensemble_metrics()
        run.oof_softmax(100)
        for fold in range(2 if isinstance(run, FoldsRun) else 0):
            run.fold(fold).check(50, 30)


REMOVED = object()


def key_paths(document: Any) -> Iterator[tuple[str, ...]]:
    """Yield the path of keys of each value of a document, at any depth."""
    for key, value in document.items() if isinstance(document, dict) else ():
        yield (key,)
        yield from ((key, *rest) for rest in key_paths(value))


def modify(path: Path, keys: tuple[str, ...], value: object) -> None:
    """Change or remove a value in a JSON file."""
    document = inner = json.loads(path.read_bytes())
    for key in keys[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(document))


@settings(max_examples=100)
@given(
    file=st.sampled_from(FILES),
    value=st.sampled_from([REMOVED, None, True, -1, 10**30, 0.5, float("nan"), "", "text", [], ["text"], {}]),
    data=st.data(),
)
def test_read_run_reads_or_rejects_any_value(
    workspace: Workspace, written: Workspace, file: str, value: object, data: st.DataObject
) -> None:
    keys = data.draw(st.sampled_from(list(key_paths(json.loads((written.runs / file).read_bytes())))))
    modify(workspace.runs / file, keys, value)
    with suppress(DataError):
        read_all(workspace)
    summarise_runs(workspace)
    shutil.copyfile(written.runs / file, workspace.runs / file)


def test_read_run_reads_what_was_written(workspace: Workspace) -> None:
    rows = {row["name"]: row for row in summarise_runs(workspace)}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(("one", "two", "both"), "finished")
    assert (rows["one"]["trained"], rows["one"]["folds"], rows["both"]["folds"]) == (2, 2, None)
    run, data = one(workspace), load_data(workspace.data)
    run.fold(0).check(50, 30)
    assert is_current(run, data)
    for found in (run, find_run(workspace, "both")):
        total = make_report(workspace, found, data, None).out_of_fold
        assert total is not None
        assert total.errors == found.ensemble_metrics().errors
    assert run.info.as_json() == json.loads((run.path / "run.json").read_bytes())


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("one/run.json", ("folds",), "two"),
        ("one/run.json", ("seed",), REMOVED),
        ("one/run.json", ("data", "train.csv"), REMOVED),
        ("one/run.json", ("settings", "hard_rows"), "many"),
        ("one/run.json", ("status",), "\ud800"),
        ("both/run.json", ("members",), []),
        ("one/ensemble/metrics.json", ("accuracy",), "high"),
        ("one/ensemble/metrics.json", ("calibration",), []),
        ("one/fold-1/metrics.json", ("files", "model.keras"), 5),
        ("one/fold-1/metrics.json", ("preprocessing",), "tilted"),
    ],
)
def test_read_run_names_damaged_file(
    workspace: Workspace, file: str, keys: tuple[str, ...], value: object
) -> None:
    read_all(workspace)
    modify(workspace.runs / file, keys, value)
    with pytest.raises(DataError, match=rf"{file} is damaged: "):
        read_all(workspace)
    rows = {row["name"]: row["status"] for row in summarise_runs(workspace)}
    assert rows[file.split("/")[0]] == ("finished" if "fold-1" in file else "damaged")
    if "ensemble" in file:
        assert not is_current(one(workspace), load_data(workspace.data))
        ensemble(workspace, ["one"])
        read_all(workspace)


def test_ensemble_rejects_a_mean_that_is_its_own_member(workspace: Workspace) -> None:
    networks = [(fold, weight) for _, fold, weight in find_run(workspace, "both").weighted_networks()]
    runs = [read_run(workspace.runs / name) for name in ("one", "two")]
    assert networks == [(run.fold(number), 0.25) for run in runs for number in range(2)]
    with pytest.raises(UsageError, match="The run both is the mean of one, two, not of one, two, both"):
        ensemble(workspace, ["one", "two", "both"], "both")


def test_find_run_takes_the_beginning_of_a_name(workspace: Workspace) -> None:
    assert find_run(workspace, "o").name == "one"
    (workspace.runs / "two").rename(workspace.runs / "once")
    assert find_run(workspace, "one").name == "one"
    for name, found in (("o", "2 begin"), ("no", "none begin")):
        with pytest.raises(UsageError, match=f"There is no run called '{name}', and {found}"):
            find_run(workspace, name)


def test_list_runs_uses_times_in_run_json(workspace: Workspace) -> None:
    """A file's time changes with `git clone`, `cp -r`, `touch` and `tar -m`."""
    for name, updated in (("one", "2026-01-02"), ("two", "2026-01-01"), ("both", "2026-01-01")):
        modify(workspace.runs / name / "run.json", ("updated",), updated)
        os.utime(workspace.runs / name / "run.json", (2e9, 2e9))
    assert [run.name for run in list_runs(workspace)] == ["one", "two", "both"]  # ties by name


def set_accuracy(workspace: Workspace, name: str, accuracy: float) -> None:
    modify(workspace.runs / name / "ensemble" / "metrics.json", ("accuracy",), accuracy)


def test_find_run_returns_best_finished_run(workspace: Workspace) -> None:
    for name, accuracy in (("one", 0.9), ("two", 0.8), ("both", 0.9)):
        set_accuracy(workspace, name, accuracy)
    assert find_run(workspace).name == "both"  # the latest of equal runs
    find_run(workspace, "both").with_status("unfinished")
    assert find_run(workspace).name == "one"
    (workspace.runs / "one" / "ensemble" / "metrics.json").write_text("{")
    assert find_run(workspace).name == "two"
    find_run(workspace, "two").with_status("unfinished")
    (workspace.runs / "one" / "run.json").write_text("{")
    assert find_run(workspace).name == "two"  # the latest unfinished run
    with pytest.raises(DataError, match="The run two is not finished"):
        submit(workspace)


def test_find_run_ignores_runs_of_other_data(workspace: Workspace) -> None:
    for name, accuracy in (("one", 0.7), ("two", 0.8), ("both", 0.9)):
        set_accuracy(workspace, name, accuracy)
    for name in ("two", "both"):
        modify(workspace.runs / name / "run.json", ("data", "test.csv"), "0" * 64)
    assert find_run(workspace).name == "one"
    assert find_run(workspace, "both").name == "both"
    find_run(workspace, "one").with_status("unfinished")
    find_run(workspace, "both").with_status("finished")
    assert find_run(workspace).name == "one"
    (workspace.runs / "one" / "run.json").unlink()
    with pytest.raises(DataError, match=r"The run both was made from different data: another test\.csv"):
        find_run(workspace)
    shutil.rmtree(workspace.data)  # as on a machine that only predicts
    assert find_run(workspace).name == "both"


def test_submit_names_best_finished_run_before_sending(workspace: Workspace, kaggle: KaggleServer) -> None:
    """It is not the latest run, and the user can still interrupt the command."""
    sample, softmax = load_sample(workspace.data), np.zeros((30, 10), np.float32)
    for digit, name in enumerate(("one", "two", "both")):
        softmax[:, digit] = digit + 1
        write_submission(submission_file(workspace, name), sample, sample.ids, softmax)
        set_accuracy(workspace, name, 0.9 if name == "one" else 0.8)
    notices: list[tuple[str, int]] = []

    def record(sentence: str) -> None:
        notices.append((sentence, kaggle.count("CreateSubmission")))

    sent = submit(workspace, wait=False, observer=Listener(notice=record))
    why = "The run is one (CV 0.90000), the finished one with the best out-of-fold accuracy."
    assert notices == [(why, 0), ("10 submissions are left today.", 0)]
    assert (sent.entry.run, sent.entry.cv) == ("one", 0.9)
    assert b"\n1,0\n" in kaggle.submissions[0]["content"]


def test_submit_rejects_invalid_timeout(workspace: Workspace, kaggle: KaggleServer) -> None:
    with pytest.raises(UsageError, match="The timeout must be at least 0 seconds, got"):
        submit(workspace, timeout=float("nan"))
    assert kaggle.submissions == []


def test_command_of_run_uses_current_folders(workspace: Workspace, tmp_path: Path) -> None:
    run = one(workspace)
    command = ["kaggle-digits", "--competition", "train", "--root", "train", "train", "--preset", "lenet"]
    modify(run.path / "run.json", ("command",), command)
    assert one(workspace).command() == workspace.command("train", "--preset", "lenet")
    shutil.copytree(workspace.root, tmp_path / "new")
    copied = one(Workspace.at(tmp_path / "new", workspace.competition.name))
    assert shlex.split(copied.command())[1:3] == ["--root", str(tmp_path / "new")]
    assert copied.command() in copied.unfinished().remedy


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


VALID_ROWS = np.full((50, 10), 0.1, np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(VALID_ROWS.astype(np.float64)), r"its array is float64 \[50, 10\], not float32 \[50, 10\]"),
        (npy(VALID_ROWS[:49]), r"its array is float32 \[49, 10\]"),
        (npy(np.where(np.eye(50, 10), np.float32(np.nan), VALID_ROWS)), "not all of its values are from 0 to 1"),
        (npy(VALID_ROWS.astype(object), allow_pickle=True), ".*[Oo]bject"),
    ],
    ids=["float64", "49 rows", "NaN", "object"],
)
def test_val_softmax_names_invalid_file(workspace: Workspace, content: bytes, message: str) -> None:
    run = one(workspace)
    put(workspace, "one/fold-0/val_softmax.npy", content)
    error = rf"one/fold-0/val_softmax\.npy is damaged: {message}"
    for read in (lambda: run.fold(0).check(50, 30), lambda: ensemble(workspace, ["one"])):
        with pytest.raises(DataError, match=error) as caught:
            read()
        assert "--retrain" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"epoch,seconds\n1,few\n", b"epoch,seconds\n1,2\n2,3\n"])
def test_history_names_invalid_file(workspace: Workspace, content: bytes) -> None:
    put(workspace, "one/fold-0/history.csv", content)
    with pytest.raises(DataError, match=r"one/fold-0/history\.csv is damaged: "):
        one(workspace).fold(0).check(50, 30)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "No columns"),
        (b"row,fold\n0,0\n1,1\n", "its rows are not those of train.csv"),
        (
            b"row,fold\n" + b"".join(b"%d,%d\n" % (i, i % 3) for i in range(100)),
            "its folds are not those of run.json",
        ),
    ],
)
def test_split_names_invalid_file(workspace: Workspace, content: bytes, message: str) -> None:
    (workspace.runs / "one/folds.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"one/folds\.csv is damaged: {message}"):
        ensemble(workspace, ["one"])


def test_ensemble_rejects_wrong_number_of_test_rows(workspace: Workspace) -> None:
    put(workspace, "one/fold-1/test_softmax.npy", npy(VALID_ROWS[:29]))
    put(workspace, "two/ensemble/test_softmax.npy", npy(VALID_ROWS[:31]))
    for run, message in (
        (
            "one",
            r"one/fold-1/test_softmax\.npy is damaged: its array is float32 \[29, 10\], not float32 \[30, 10\]",
        ),
        ("both", r"two/ensemble/test_softmax\.npy is damaged: its array is float32 \[31, 10\]"),
    ):
        with pytest.raises(DataError, match=message):
            ensemble(workspace, [run])
