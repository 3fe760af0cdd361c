"""Training in a kernel at Kaggle: the real client against a simulated server, which runs the kernel's script."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    SMALL,
    Listener,
    assert_same_run,
    competition_files,
    unload_client,
    write_files,
)
from kaggle_server import USER, Fault, KaggleServer, error

from kaggle_digits import Workspace, find_run, train
from kaggle_digits.errors import KaggleDigitsError, NetworkError, RefusedError, UsageError
from kaggle_digits.execution import Job
from kaggle_digits.execution import kernel as inside
from kaggle_digits.execution.places import kaggle as remote
from kaggle_digits.execution.places.processes import Processes
from kaggle_digits.pipeline import cancel_kernels
from kaggle_digits.training.fold import Progress
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.recipe import Recipe

QUICK = {"preset": "lenet", "folds": 2, "settings": SMALL}


@pytest.fixture(scope="session")
def kernel_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with all packages of this one, except kaggle-digits."""
    folder = tmp_path_factory.mktemp("kernel-python")
    venv.create(folder, symlinks=True)
    target = next((folder / "lib").glob("python*")) / "site-packages"
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "kaggle_digits" not in path.name and path.suffix != ".pth":
            (target / path.name).symlink_to(path)
    # Answers the question of `find_gpus`, so that the kernel seems to have GPUs.
    (target / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'FAKE_GPUS' in os.environ and 'list_physical_devices' in ' '.join(sys.orig_argv):\n"
        "    print(os.environ['FAKE_GPUS'], flush=True)\n"
        "    os._exit(0)\n"
    )
    write_files(folder / "bin", {"nvidia-smi": b"#!/bin/sh\n"})
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    python = folder / "bin" / "python"
    found = subprocess.run(
        [python, "-P", "-c", "import kaggle_digits"], capture_output=True, text=True, check=False
    )
    assert "No module named 'kaggle_digits'" in found.stderr
    return python


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a newly imported client, and wait only for moments."""
    unload_client(monkeypatch)
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(remote, "PATIENCE", 3.0)
    monkeypatch.setattr(remote, "LOOK_UP_SECONDS", 0.5)
    monkeypatch.setattr(remote, "LONGEST_QUEUE", 3.0)


def gpus(number: int, kernel_python: Path) -> dict[str, str]:
    """Return environment variables with which a kernel seems to have this number of GPUs."""
    return {"FAKE_GPUS": str(number), "PATH": f"{kernel_python.parent}{os.pathsep}{os.environ['PATH']}"}


def kernel_output(small_runs: Workspace, folds: tuple[int, ...] = (0, 1)) -> dict[str, bytes]:
    """Return the output of a kernel that has trained folds of the reference run."""
    output = {}
    for fold in folds:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name in (*remote.FOLD_FILES, remote.METRICS):
                archive.write(find_run(small_runs, "one").path / f"fold-{fold}" / name, name)
        output[f"fold-0-{fold}.zip"] = stream.getvalue()
    output["manifest.json"] = json.dumps({"folds": list(output), "error": None}).encode()
    return output | {"workers.log": b"a line of the log of the workers\n"}


@pytest.fixture
def finished(kaggle: KaggleServer, small_runs: Workspace) -> KaggleServer:
    """A server whose kernels have trained both folds at once."""
    kaggle.output = kernel_output(small_runs)
    return kaggle


def test_kernel_trains_the_same_folds_as_this_machine(
    kaggle: KaggleServer, workspace: Workspace, small_runs: Workspace, kernel_python: Path
) -> None:
    kaggle.python = kernel_python
    seen: list[Progress] = []
    notices: list[str] = []
    done: list[int] = []
    listener = Listener(progress=seen.append, notice=notices.append, finished=lambda task: done.append(task.fold))
    run = train(workspace, run="it", on="kaggle-cpu", observer=listener, **QUICK)
    assert_same_run(run, small_runs)
    assert sorted(done) == [0, 1]
    assert sum(progress.is_epoch_end for progress in seen) == 2  # once for each fold, which has one epoch
    (kernel,) = kaggle.kernels.values()
    assert f"https://www.kaggle.com/code/{USER}/{kernel.request['newTitle']}" in notices[0]
    assert any(notice.startswith("Kernel: It trains on the CPU, with TensorFlow") for notice in notices)
    assert run.fold_metrics(0).where == "Kaggle"
    assert run.fold_metrics(0).versions == find_run(small_runs, "one").fold_metrics(0).versions
    assert not (run.path / "kernel.json").exists()
    assert {path.name for path in run.path.iterdir()} == {
        path.name for path in find_run(small_runs, "one").path.iterdir()
    }


def test_pushed_kernel_is_private_offline_and_small(finished: KaggleServer, workspace: Workspace) -> None:
    train(workspace, on="kaggle", **QUICK)
    (kernel,) = finished.kernels.values()
    request = kernel.request
    assert (request["isPrivate"], request.get("enableInternet")) == (True, False)
    assert (request["language"], request["kernelType"]) == ("python", "script")
    assert request["competitionDataSources"] == ["digit-recognizer"]
    assert (request["enableGpu"], request["machineShape"]) == (True, "NvidiaTeslaT4")
    assert len(request["text"]) < 300_000
    compile(request["text"], "script.py", "exec")


def json_fault(**document: object) -> Fault:
    """Return a response with status 200 instead of the normal one; the request is not handled."""
    return Fault(200, json.dumps(document).encode(), {"Content-Type": "application/json"})


def record_file(workspace: Workspace, run: str = "lenet-k2-s0-epochs=1-batch_size=20") -> Path:
    return workspace.runs / run / remote.KERNEL_JSON


# Sending the kernel


def test_train_on_kaggle_reports_used_up_quota(kaggle: KaggleServer, workspace: Workspace) -> None:
    kaggle.fail("SaveKernel", json_fault(error="Maximum weekly GPU quota of 30.00 hours reached."))
    with pytest.raises(RefusedError) as caught:
        train(workspace, on="kaggle", **QUICK)
    assert "Maximum weekly GPU quota of 30.00 hours reached" in caught.value.problem
    assert "3.5 of 30 GPU hours are left this week" in caught.value.problem
    assert "2026-12-05 at 00:00 UTC" in caught.value.problem
    assert "--on kaggle-cpu" in caught.value.remedy
    assert caught.value.exit_code == 4
    assert not record_file(workspace).exists()


BUSY = json_fault(error="Maximum batch GPU session count of 2 reached.")


def test_train_on_kaggle_waits_while_too_many_kernels_run(
    finished: KaggleServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LONGEST_QUEUE", 60.0)  # also enough on a busy machine
    finished.fail("SaveKernel", BUSY, BUSY)
    notices: list[str] = []
    assert train(workspace, on="kaggle", observer=Listener(notice=notices.append), **QUICK).is_finished
    assert len([notice for notice in notices if "session count of 2 reached" in notice]) == 1
    assert (finished.count("SaveKernel"), len(finished.kernels)) == (3, 1)


def test_train_on_kaggle_waits_only_for_some_time(kaggle: KaggleServer, workspace: Workspace) -> None:
    kaggle.fail("SaveKernel", *[BUSY] * 50)
    with pytest.raises(NetworkError, match="session count of 2 reached"):
        train(workspace, on="kaggle", **QUICK)
    assert not record_file(workspace).exists()


def test_train_on_kaggle_deletes_kernel_that_may_not_use_the_data(
    kaggle: KaggleServer, workspace: Workspace
) -> None:
    kaggle.push_response = {"invalidCompetitionSources": ["digit-recognizer"]}
    with pytest.raises(RefusedError, match="does not let a kernel use the data") as caught:
        train(workspace, on="kaggle", **QUICK)
    assert "https://www.kaggle.com/competitions/digit-recognizer/rules" in caught.value.remedy
    assert kaggle.deleted == list(kaggle.kernels)
    assert not record_file(workspace).exists()


def test_train_on_kaggle_keeps_refused_kernel_that_was_not_deleted(
    kaggle: KaggleServer, workspace: Workspace
) -> None:
    kaggle.push_response = {"invalidCompetitionSources": ["digit-recognizer"]}
    kaggle.fail("DeleteKernel", json_fault(errorMessage="It is locked"))
    with pytest.raises(NetworkError, match="was deleted: It is locked") as caught:
        train(workspace, on="kaggle", **QUICK)
    (slug,) = kaggle.kernels
    assert caught.value.remedy.startswith(
        f"It may still run; delete it at https://www.kaggle.com/code/{USER}/{slug}"
    )
    assert record_file(workspace).exists()
    assert cancel_kernels(workspace, Recipe(**QUICK)) == [f"https://www.kaggle.com/code/{USER}/{slug}"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(200, b"{}", {"Content-Type": "application/json"}, handled=True),
        Fault(response_lost=True),
        Fault(502, b"<html>", handled=True),
    ],
    ids=["empty", "lost", "gateway"],
)
def test_train_on_kaggle_finds_kernel_whose_push_was_not_confirmed(
    finished: KaggleServer, workspace: Workspace, fault: Fault
) -> None:
    finished.fail("SaveKernel", fault)
    assert train(workspace, on="kaggle", **QUICK).is_finished
    assert finished.count("SaveKernel") == 1


def test_train_on_kaggle_does_not_take_an_empty_response_for_a_confirmation(
    finished: KaggleServer, workspace: Workspace
) -> None:
    finished.fail("SaveKernel", json_fault())
    with pytest.raises(NetworkError, match="did not confirm the kernel"):
        train(workspace, on="kaggle", **QUICK)
    assert finished.kernels == {}
    assert train(workspace, on="kaggle", **QUICK).is_finished


def test_train_on_kaggle_sends_new_kernel_only_if_the_last_one_never_arrived(
    finished: KaggleServer, workspace: Workspace
) -> None:
    finished.fail("SaveKernel", Fault(dropped=True))
    with pytest.raises(NetworkError, match="did not confirm the kernel") as caught:
        train(workspace, on="kaggle", **QUICK)
    assert "looks for it once more" in caught.value.remedy
    assert record_file(workspace).exists()
    # Only Kaggle itself can say that it does not exist, and not a proxy: nothing is sent.
    for fault in (error(500, "Internal error"), Fault(403, b"<html>Blocked by a proxy</html>")):
        finished.fail("GetKernelSessionStatus", *[fault] * 100)
        with pytest.raises(NetworkError, match="is unknown"):
            train(workspace, on="kaggle", **QUICK)
        finished.faults.clear()
    assert finished.count("SaveKernel") == 1
    assert train(workspace, on="kaggle", **QUICK).is_finished
    assert (finished.count("SaveKernel"), len(finished.kernels)) == (2, 1)


@pytest.mark.parametrize(
    ("fault", "exit_code"),
    [(error(400, "Bad title"), 4), (error(401, "Unauthenticated"), 3)],
    ids=["400", "401"],
)
def test_train_on_kaggle_keeps_no_record_of_refused_kernel(
    kaggle: KaggleServer, workspace: Workspace, fault: Fault, exit_code: int
) -> None:
    kaggle.fail("SaveKernel", fault)
    with pytest.raises(KaggleDigitsError) as caught:
        train(workspace, on="kaggle", **QUICK)
    assert caught.value.exit_code == exit_code
    assert not record_file(workspace).exists()


def test_pack_rejects_source_that_kaggle_would_reject(
    kaggle: KaggleServer, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LARGEST_SOURCE", 1000)
    with pytest.raises(UsageError, match="more than the 1,000 that Kaggle accepts"):
        train(workspace, on="kaggle", **QUICK)
    assert kaggle.count("SaveKernel") == 0


# Following the kernel


@pytest.mark.parametrize(
    "fault",
    [error(403, "Permission 'kernels.get' was denied"), error(500, "Internal error"), json_fault(status="PAUSED")],
    ids=["403", "500", "unknown"],
)
def test_train_on_kaggle_is_patient_with_status(
    finished: KaggleServer, workspace: Workspace, fault: Fault
) -> None:
    finished.fail("GetKernelSessionStatus", fault, fault)
    notices: list[str] = []
    assert train(workspace, on="kaggle", observer=Listener(notice=notices.append), **QUICK).is_finished
    assert any("is unknown" in notice for notice in notices)


@pytest.mark.parametrize(
    "fault", [Fault(200, b"<html>Sign in</html>", {"Content-Type": "text/html"}), Fault(dropped=True)]
)
def test_train_on_kaggle_continues_with_kernel_whose_status_was_unknown(
    finished: KaggleServer, workspace: Workspace, fault: Fault
) -> None:
    finished.fail("GetKernelSessionStatus", *[fault] * 100)
    with pytest.raises(NetworkError, match="is unknown"):
        train(workspace, on="kaggle", **QUICK)
    finished.faults.clear()
    assert train(workspace, on="kaggle", **QUICK).is_finished
    assert finished.count("SaveKernel") == 1


def test_train_on_kaggle_does_not_take_missing_status_for_queued(
    finished: KaggleServer, workspace: Workspace
) -> None:
    # The client reads a response without a status as QUEUED.
    finished.statuses.extend([{"status": "QUEUED"}, {"status": "RUNNING"}, {}, {}])
    notices: list[str] = []
    assert train(workspace, on="kaggle", observer=Listener(notice=notices.append), **QUICK).is_finished
    assert len([notice for notice in notices if "waits for a machine" in notice]) == 1
    assert any("has no status" in notice for notice in notices)


def test_train_on_kaggle_does_not_wait_forever_for_a_machine(finished: KaggleServer, workspace: Workspace) -> None:
    finished.statuses.extend([{"status": "QUEUED"}] * 100)
    with pytest.raises(NetworkError, match="still waiting for a machine"):
        train(workspace, on="kaggle", **QUICK)
    assert record_file(workspace).exists()


def test_train_on_kaggle_does_not_need_the_log(finished: KaggleServer, workspace: Workspace) -> None:
    finished.statuses.extend([{"status": "RUNNING"}] * 3)
    finished.fail("logs", error(404, "No log"), *[Fault(truncated=True)] * 10)
    assert train(workspace, on="kaggle", **QUICK).is_finished
    assert finished.count("logs") >= 2


@pytest.mark.parametrize("status", ["ERROR", "CANCEL_ACKNOWLEDGED"])
def test_train_on_kaggle_keeps_finished_folds_of_failed_kernel(
    kaggle: KaggleServer, workspace: Workspace, small_runs: Workspace, status: str
) -> None:
    kaggle.output = {"fold-0-0.zip": kernel_output(small_runs)["fold-0-0.zip"]}
    kaggle.log = b"first line\nYour notebook tried to allocate more memory than is available.\n"
    failed = {"status": status, "failureMessage": "Out of memory"}
    kaggle.statuses.append(failed)
    finished: list[int] = []
    with pytest.raises(NetworkError) as caught:
        train(workspace, on="kaggle", observer=Listener(finished=lambda task: finished.append(task.fold)), **QUICK)
    assert ("was cancelled" if status.startswith("CANCEL") else "failed") in caught.value.problem
    assert "Out of memory" in caught.value.problem
    assert "tried to allocate more memory" in caught.value.problem
    assert finished == [0]
    # The next kernel trains only the missing fold.
    kaggle.output = kernel_output(small_runs, folds=(1,))
    run = train(workspace, on="kaggle", **QUICK)
    assert_same_run(run, small_runs)
    text = list(kaggle.kernels.values())[1].request["text"]
    assert [task["fold"] for task in job_of(text)["tasks"]] == [1]


def job_of(script: str) -> dict:
    """Return the job in the source of a kernel."""
    package = script.split('"""')[3]
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(package))) as archive:
        return json.loads(archive.read(inside.JOB))


def test_train_on_kaggle_sends_next_kernel_for_folds_that_are_missing(
    kaggle: KaggleServer, workspace: Workspace, small_runs: Workspace
) -> None:
    kaggle.outputs.extend([kernel_output(small_runs, folds=(1,)), kernel_output(small_runs, folds=(0,))])
    run = train(workspace, on="kaggle", **QUICK)
    assert_same_run(run, small_runs)
    first, second = (job_of(kernel.request["text"]) for kernel in kaggle.kernels.values())
    assert [len(job["tasks"]) for job in (first, second)] == [2, 1]


def test_train_on_kaggle_does_not_send_kernels_that_finish_nothing(
    kaggle: KaggleServer, workspace: Workspace, small_runs: Workspace
) -> None:
    kaggle.output = kernel_output(small_runs, folds=())
    with pytest.raises(NetworkError, match="without a finished fold"):
        train(workspace, on="kaggle", **QUICK)
    assert kaggle.count("SaveKernel") == 1


def test_train_on_kaggle_keeps_record_if_output_of_failed_kernel_cannot_be_read(
    finished: KaggleServer, workspace: Workspace, small_runs: Workspace
) -> None:
    finished.statuses.append({"status": "ERROR"})
    finished.fail("fold-0-0.zip", *[Fault(dropped=True)] * 4)
    with pytest.raises(NetworkError, match="cannot be reached"):
        train(workspace, on="kaggle", run="it", **QUICK)
    assert find_run(workspace, "it").is_trained(1)  # it was downloaded nevertheless
    assert record_file(workspace, "it").exists()
    assert_same_run(train(workspace, on="kaggle", run="it", **QUICK), small_runs)
    assert finished.count("SaveKernel") == 1


def test_train_on_kaggle_explains_output_that_cannot_be_listed(
    finished: KaggleServer, workspace: Workspace, small_runs: Workspace
) -> None:
    finished.fail("ListKernelSessionOutput", *[error(403, "Forbidden")] * 20)
    with pytest.raises(NetworkError, match=r"^manifest\.json in the output of .* cannot be read: Kaggle does not"):
        train(workspace, on="kaggle", run="it", **QUICK)
    finished.faults.clear()
    assert_same_run(train(workspace, on="kaggle", run="it", **QUICK), small_runs)


def test_train_on_kaggle_is_done_if_failed_kernel_has_all_folds(
    finished: KaggleServer, workspace: Workspace
) -> None:
    finished.statuses.append({"status": "ERROR"})
    assert train(workspace, on="kaggle", **QUICK).is_finished


def test_train_on_kaggle_sends_new_kernel_if_the_last_one_was_deleted_at_kaggle(
    finished: KaggleServer, workspace: Workspace
) -> None:
    finished.statuses.append({"status": "RUNNING"})
    with pytest.raises(NetworkError, match="is running"):
        train(workspace, on="kaggle", wait=False, **QUICK)
    finished.deleted += finished.kernels  # on the web page
    assert train(workspace, on="kaggle", **QUICK).is_finished
    assert finished.count("SaveKernel") == 2


def test_train_on_kaggle_with_retrain_does_not_use_an_older_kernel(
    finished: KaggleServer, workspace: Workspace, small_runs: Workspace
) -> None:
    # A kernel is left over from before the folds were trained here.
    finished.statuses.append({"status": "RUNNING"})
    with pytest.raises(NetworkError, match="is running"):
        train(workspace, on="kaggle", wait=False, run="it", **QUICK)
    for fold in ("fold-0", "fold-1"):
        shutil.copytree(find_run(small_runs, "one").path / fold, workspace.runs / "it" / fold)
    (old,) = finished.kernels
    finished.statuses.append({"status": "RUNNING"})
    with pytest.raises(NetworkError, match="is running"):
        train(workspace, on="kaggle", wait=False, retrain=True, run="it", **QUICK)
    assert finished.deleted == [old]
    assert find_run(workspace, "it").fold_metrics(0).where == "this machine"
    # The kernel that was sent for --retrain is continued.
    assert train(workspace, on="kaggle", retrain=True, run="it", **QUICK).fold_metrics(0).where == "Kaggle"
    assert finished.count("SaveKernel") == 2


def test_cancel_of_one_seed_forgets_the_kernel_in_all_runs(finished: KaggleServer, workspace: Workspace) -> None:
    finished.statuses.append({"status": "RUNNING"})
    with pytest.raises(NetworkError, match="is running"):
        train(workspace, on="kaggle", wait=False, seeds=2, **QUICK)
    other = record_file(workspace, "lenet-k2-s1-epochs=1-batch_size=20")
    assert other.exists()
    assert len(cancel_kernels(workspace, Recipe(**QUICK))) == 1
    assert not other.exists()


def test_train_on_kaggle_trains_several_seeds_in_one_kernel(
    kaggle: KaggleServer, workspace: Workspace, small_runs: Workspace
) -> None:
    kaggle.output = kernel_output(small_runs)
    kaggle.statuses.append({"status": "ERROR"})
    with pytest.raises(NetworkError):
        train(workspace, on="kaggle", seeds=2, **QUICK)
    (kernel,) = kaggle.kernels.values()
    assert [(task["seed"], task["fold"]) for task in job_of(kernel.request["text"])["tasks"]] == [
        (seed, fold) for seed in (0, 1) for fold in (0, 1)
    ]
    # The run of the first seed is complete.
    assert find_run(workspace, "lenet-k2-s0-epochs=1-batch_size=20").is_finished


# Downloading the folds

DAMAGE = {"corrupted": Fault(corrupted=True), "expired": Fault(403, b"<html>This link has expired</html>")}


@pytest.mark.parametrize(
    ("name", "fault"),
    [("fold-0-1.zip", fault) for fault in DAMAGE.values()] + [("manifest.json", Fault(truncated=True))],
)
def test_train_on_kaggle_downloads_a_damaged_file_again(
    finished: KaggleServer, workspace: Workspace, small_runs: Workspace, name: str, fault: Fault
) -> None:
    finished.fail(name, fault)
    assert_same_run(train(workspace, on="kaggle", run="it", **QUICK), small_runs)


@pytest.mark.parametrize("fault", DAMAGE.values(), ids=DAMAGE)
def test_train_on_kaggle_names_file_that_stays_damaged(
    finished: KaggleServer, workspace: Workspace, small_runs: Workspace, fault: Fault
) -> None:
    finished.fail("fold-0-1.zip", *[fault] * 40)
    with pytest.raises(NetworkError, match=r"fold-0-1\.zip in the output of .* cannot be read"):
        train(workspace, on="kaggle", run="it", **QUICK)
    finished.faults.clear()
    assert_same_run(train(workspace, on="kaggle", run="it", **QUICK), small_runs)
    assert finished.count("SaveKernel") == 1


def test_train_on_kaggle_names_file_that_is_missing(
    kaggle: KaggleServer, workspace: Workspace, small_runs: Workspace
) -> None:
    kaggle.output = kernel_output(small_runs)
    del kaggle.output["fold-0-1.zip"]
    with pytest.raises(NetworkError, match=r"There is no fold-0-1\.zip in the output"):
        train(workspace, on="kaggle", **QUICK)


def test_train_on_kaggle_ignores_names_with_paths(
    finished: KaggleServer, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    finished.more_names = ["../evil.zip", "/evil.zip", "../fold-0-0.zip", "x/fold-0-1.zip", "fold-0-0.zip\n"]
    assert train(workspace, on="kaggle", **QUICK).is_finished
    assert not any("evil" in request for request in finished.requests)
    assert finished.count("fold-0-0.zip") == 1
    (kernel,) = finished.kernels.values()
    assert list((tmp_path / "temporary").iterdir()) == [kernel.root]  # the folder of the simulated kernel
    assert {path.name for path in tmp_path.iterdir()} == {"home", "temporary", "work"}


def changed_zip(content: bytes, **files: bytes) -> bytes:
    """Return a fold with some files changed, whose metrics have the SHA-256 of the changed files."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents |= {name.replace("__", "."): new for name, new in files.items()}
    metrics = json.loads(contents["metrics.json"])
    metrics["files"] = {name: hashlib.sha256(contents[name]).hexdigest() for name in remote.FOLD_FILES}
    contents["metrics.json"] = json.dumps(metrics).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, new in contents.items():
            archive.writestr(name, new)
    return stream.getvalue()


def test_train_on_kaggle_rejects_folds_that_are_damaged(
    kaggle: KaggleServer, workspace: Workspace, small_runs: Workspace
) -> None:
    output = kernel_output(small_runs)
    rows = io.BytesIO()
    np.save(rows, find_run(small_runs, "one").val_softmax(0)[1:])
    changed = changed_zip(output["fold-0-0.zip"], val_softmax__npy=rows.getvalue())
    for what, content in {"rows": changed, "no zip": b"PK"}.items():
        kaggle.output = output | {"fold-0-0.zip": content}
        with pytest.raises(NetworkError, match=r"fold-0-0\.zip in the output of .* cannot be read"):
            train(workspace, on="kaggle", run=what, **QUICK)
        assert not (workspace.runs / what / "fold-0").exists()


# Inside the kernel


@pytest.fixture
def run_kernel(
    kaggle: KaggleServer, kernel_python: Path, workspace: Workspace
) -> Callable[..., KaggleDigitsError]:
    """Let a kernel run in which something is wrong, and return the error of `train`."""

    def run(on: str = "kaggle-cpu", **environment: str) -> KaggleDigitsError:
        kaggle.python, kaggle.kernel_environment = kernel_python, environment
        with pytest.raises(KaggleDigitsError) as caught:
            train(workspace, on=on, **QUICK)
        assert not record_file(workspace).exists()
        return caught.value

    return run


def test_kernel_without_gpu_is_refused(run_kernel: Callable[..., KaggleDigitsError], kernel_python: Path) -> None:
    refused = run_kernel("kaggle", **gpus(0, kernel_python))
    assert "no GPU" in refused.problem
    assert "--on kaggle-cpu" in refused.remedy
    assert refused.exit_code == 4


def test_kernel_with_other_data_names_the_file(
    run_kernel: Callable[..., KaggleDigitsError], kaggle: KaggleServer
) -> None:
    kaggle.files["test.csv"] += b"\n"
    refused = run_kernel()
    assert refused.problem.startswith("In the kernel: The data at Kaggle are different")
    assert "another test.csv" in refused.problem
    assert refused.exit_code == 6


def test_kernel_without_data_is_refused(
    run_kernel: Callable[..., KaggleDigitsError], kaggle: KaggleServer
) -> None:
    kaggle.files = {}
    assert run_kernel().exit_code == 4


@pytest.mark.parametrize("module", ["pydantic", "tensorflow"])
def test_train_on_kaggle_names_module_that_the_kernel_cannot_import(
    run_kernel: Callable[..., KaggleDigitsError], tmp_path: Path, module: str
) -> None:
    text = f"raise ModuleNotFoundError(\"No module named '{module}'\")"
    write_files(tmp_path / "broken", {f"{module}.py": text.encode()})
    failed = run_kernel(PYTHONPATH=str(tmp_path / "broken"))
    assert f"No module named '{module}'" in failed.problem


def test_kernel_finds_data_where_kaggle_mounted_it_before(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kaggle_digits.data.csv import load_data

    write_files(tmp_path / "input" / "digit-recognizer", competition_files())
    write_files(tmp_path / "input" / "another", {"train.csv": b"", "test.csv": b"", "sample_submission.csv": b""})
    data = load_data(workspace.data)
    found = inside._find_data(tmp_path / "input", data.hashes)
    assert np.array_equal(found.train.images, data.train.images)
    assert np.array_equal(found.test.images, data.test.images)


def test_kernel_starts_no_fold_that_it_would_not_finish_before_the_deadline(
    tmp_path: Path, workspace: Workspace, small_runs: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = package_folder(workspace, tmp_path)
    write_files(tmp_path / "input", competition_files())
    (tmp_path / "working").mkdir()
    monkeypatch.setenv("KAGGLE_DIGITS_KERNEL_ROOT", str(tmp_path))
    monkeypatch.setattr(inside, "find_gpus", lambda timeout: ["0"])
    may_start: list[bool] = []

    def copy_folds(place: Processes, jobs: list[Job], data: object, observer: Observer) -> Iterator[Job]:
        for job in jobs:
            may_start.append(place.may_start())
            shutil.copytree(find_run(small_runs, "one").path / f"fold-{job.task.fold}", job.folder)
            metrics = json.loads((job.folder / "metrics.json").read_text())
            (job.folder / "metrics.json").write_text(json.dumps(metrics | {"seconds": 9 * 3600}))
            yield job

    monkeypatch.setattr(Processes, "train", copy_folds)
    inside.main(str(source))
    assert may_start == [True, False]
    manifest = json.loads((tmp_path / "working" / "manifest.json").read_text())
    assert manifest == {"folds": ["fold-0-0.zip", "fold-0-1.zip"], "error": None}


@pytest.mark.slow
def test_kernel_trains_one_fold_on_each_gpu(
    kaggle: KaggleServer, workspace: Workspace, small_runs: Workspace, kernel_python: Path
) -> None:
    kaggle.python, kaggle.kernel_environment = kernel_python, gpus(2, kernel_python)
    notices: list[str] = []
    run = train(workspace, run="it", on="kaggle", observer=Listener(notice=notices.append), **QUICK)
    assert_same_run(run, small_runs)  # there are no real GPUs, so TensorFlow uses the CPU
    assert any(notice.startswith("Kernel: It trains on 2 GPUs, with TensorFlow") for notice in notices)


@pytest.mark.parametrize("line", ["", "[]", '{"kaggle-digits": {"time": 1, "progress": {"seed": 0}}}'])
def test_read_line_ignores_other_lines(line: str) -> None:
    assert inside.read_line(line) is None


def package_folder(workspace: Workspace, tmp_path: Path) -> Path:
    """Return a folder with the unpacked content of a kernel for the run `QUICK`."""
    from kaggle_digits.data.csv import load_data
    from kaggle_digits.runs.plan import make_splits, plan_runs

    data, recipe = load_data(workspace.data), Recipe("lenet", 2, settings=SMALL)
    (plan,) = plan_runs(workspace, recipe, make_splits(recipe, data), data, retrain=False)
    source = remote.pack([Job(task, tmp_path) for task in plan.tasks()], data, gpu=True)
    assert "/kaggle/src" not in source  # the folder of the script is read-only at Kaggle
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(source.split('"""')[3]))) as archive:
        archive.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked"


# The command line

PATCHED = (
    "import kaggle_digits.execution.places.kaggle as remote; "
    "remote.POLL_SECONDS = .2; remote.LOOK_UP_SECONDS = 2; "
    "from kaggle_digits.__main__ import main; main()"
)
ARGUMENTS = ("train", "--preset", "lenet", "--folds", "2", "--set", "epochs=1", "--set", "batch_size=20")


def start_cli(workspace: Workspace, *arguments: str) -> subprocess.Popen[str]:
    """Start the command `train --on kaggle`, with short waiting times, in another process."""
    command = [sys.executable, "-c", PATCHED, "--root", str(workspace.root), *ARGUMENTS, "--on", "kaggle"]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("SaveKernel", signal.SIGKILL),
        ("SaveKernel", signal.SIGINT),
        ("GetKernelSessionStatus", signal.SIGKILL),
        ("GetKernelSessionStatus", signal.SIGINT),
        ("fold-0-1.zip", signal.SIGKILL),
    ],
)
def test_train_on_kaggle_continues_after_it_was_killed(
    finished: KaggleServer, workspace: Workspace, small_runs: Workspace, step: str, number: signal.Signals
) -> None:
    finished.statuses.append({"status": "RUNNING"})
    process = start_cli(workspace, "--run", "it")

    def kill() -> None:
        process.send_signal(number)
        process.wait()

    finished.before_response[step] = kill
    _, shown = process.communicate(timeout=120)
    assert step in finished.requests
    if number == signal.SIGINT:
        assert process.returncode == 130, shown
        assert "is not ended by Ctrl-C. The same command continues with it" in shown
        assert "Interrupted" in shown
    finished.before_response.clear()
    assert_same_run(train(workspace, on="kaggle", run="it", **QUICK), small_runs)
    assert finished.count("SaveKernel") == 1
    assert finished.deleted == []


def test_no_wait_ends_after_the_push(
    finished: KaggleServer, workspace: Workspace, call_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    finished.statuses.extend([{"status": "RUNNING"}] * 2)
    command = ("--root", workspace.root, *ARGUMENTS, "--on", "kaggle")
    for _ in range(2):
        ended = call_cli(*command, "--no-wait")
        assert ended.returncode == 5
        assert "is running" in ended.stderr
    assert call_cli(*command, "--no-wait").returncode == 0  # by now it is complete
    assert finished.count("SaveKernel") == 1


def test_dry_run_shows_what_would_be_sent(
    finished: KaggleServer, workspace: Workspace, call_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    command = ("--root", workspace.root, *ARGUMENTS, "--on", "kaggle", "--dry-run")
    shown = call_cli(*command)
    assert shown.returncode == 0
    assert "nothing was sent" in shown.stdout
    assert "folds    0, 1" in shown.stdout
    assert "3.5 of 30 GPU hours left, until 2026-12-05 00:00 UTC" in shown.stdout
    document = json.loads(call_cli(*command, "--json").stdout)
    assert document["folds"] == [[0, 0], [0, 1]]
    assert 100_000 < document["bytes"] < 300_000
    finished.fail("GetAcceleratorQuotaStatistics", error(404, "Not found"))
    assert json.loads(call_cli(*command, "--json").stdout)["gpu_hours"] is None
    assert finished.count("SaveKernel") == 0
    assert not workspace.runs.exists()


def test_dry_run_says_that_nothing_is_missing(
    finished: KaggleServer, workspace: Workspace, call_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    train(workspace, on="kaggle", **QUICK)
    command = ("--root", workspace.root, *ARGUMENTS, "--on", "kaggle", "--dry-run")
    assert "nothing would be sent, because all folds" in call_cli(*command).stdout
    assert json.loads(call_cli(*command, "--retrain", "--json").stdout)["folds"] == [[0, 0], [0, 1]]


def test_cancel_deletes_the_kernel(
    finished: KaggleServer, workspace: Workspace, call_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    command = ("--root", workspace.root, *ARGUMENTS, "--on", "kaggle")
    assert "No kernel of this run is known" in call_cli(*command, "--cancel").stdout
    finished.statuses.append({"status": "RUNNING"})
    assert call_cli(*command, "--no-wait").returncode == 5
    (slug,) = finished.kernels
    finished.fail("DeleteKernel", json_fault(errorMessage="The kernel is locked"), *[error(500, "Internal")] * 10)
    for words in ("The kernel is locked", "Internal"):
        failed = call_cli(*command, "--cancel")
        assert failed.returncode == 5
        assert words in failed.stderr
        assert f"may still run; delete it at https://www.kaggle.com/code/{USER}/{slug}" in failed.stderr
    finished.faults.clear()
    deleted = call_cli(*command, "--cancel", "--json")
    assert json.loads(deleted.stdout) == {"deleted": [f"https://www.kaggle.com/code/{USER}/{slug}"]}
    assert finished.deleted == [slug]
    assert not record_file(workspace).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--on", "kaggle", "--workers", "2"),
        ("--on", "kaggle", "--tensorboard"),
        ("--on", "nowhere"),
        ("--dry-run",),
        ("--on", "kaggle", "--cancel", "--no-wait"),
        ("--on", "kaggle", "--dry-run", "--workers", "2"),
        ("--on", "kaggle", "--cancel", "--output", "here.csv"),
    ],
)
def test_train_rejects_options_that_do_not_fit_together(
    kaggle: KaggleServer,
    workspace: Workspace,
    call_cli: Callable[..., subprocess.CompletedProcess[str]],
    arguments: tuple[str, ...],
) -> None:
    assert call_cli("--root", workspace.root, *ARGUMENTS, *arguments).returncode == 2
    assert kaggle.requests == []


@pytest.mark.parametrize(
    "change",
    [{"slug": "my-notebook"}, {"runs": ["../../outside"]}],
)
def test_cancel_deletes_nothing_that_a_changed_record_names(
    finished: KaggleServer,
    workspace: Workspace,
    call_cli: Callable[..., subprocess.CompletedProcess[str]],
    change: dict[str, object],
) -> None:
    finished.statuses.append({"status": "RUNNING"})
    command = ("--root", workspace.root, *ARGUMENTS, "--on", "kaggle")
    assert call_cli(*command, "--no-wait").returncode == 5
    record = json.loads(record_file(workspace).read_text()) | change
    outside = workspace.runs / "../../outside/kernel.json"
    for path in (record_file(workspace), outside):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
    for option in ("--cancel", "--retrain"):
        refused = call_cli(*command, option)
        assert refused.returncode == 6
        assert "kernel.json is damaged" in refused.stderr
    assert finished.deleted == []
    assert outside.exists()
    assert record_file(workspace).exists()


@pytest.mark.parametrize("option", ["--dry-run", "--cancel", "--json"])
def test_train_on_kaggle_rejects_local_competitions(
    kaggle: KaggleServer, call_cli: Callable[..., subprocess.CompletedProcess[str]], option: str
) -> None:
    refused = call_cli("--competition", "rehearsal", *ARGUMENTS, "--on", "kaggle", option)
    assert refused.returncode == 2
    assert "does not have its data" in refused.stderr
    assert kaggle.requests == []
