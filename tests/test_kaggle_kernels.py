"""Training in a kernel at Kaggle: the real client against a simulated server, which runs the kernel's script."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, Listener, client_environment, competition_files, unload_client, write_files
from kaggle_server import KEY, USER, Fault, KaggleServer, error

from kaggle_digits import Workspace, find_run, train
from kaggle_digits.errors import DataError, KaggleDigitsError, NetworkError, RefusedError, UsageError
from kaggle_digits.execution import kaggle as remote
from kaggle_digits.execution import kernel as inside
from kaggle_digits.pipeline import cancel_kernels, preview_kernel
from kaggle_digits.runs.directory import Run
from kaggle_digits.training.fold import Progress

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
    monkeypatch.setattr(remote, "PATIENCE", 2.0)
    monkeypatch.setattr(remote, "LOOK_UP_SECONDS", 0.5)
    monkeypatch.setattr(remote, "LATEST_ARRIVAL", 1.0)
    monkeypatch.setattr(remote, "LONGEST_QUEUE", 1.0)


def gpus(number: int, kernel_python: Path) -> dict[str, str]:
    """Return environment variables with which a kernel seems to have this number of GPUs."""
    return {"FAKE_GPUS": str(number), "PATH": f"{kernel_python.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a run that was trained on this machine."""
    workspace = Workspace.at(tmp_path_factory.mktemp("reference"))
    write_files(workspace.data, competition_files())
    train(workspace, run="it", **QUICK)
    return workspace


def kernel_output(reference: Workspace, folds: tuple[int, ...] = (0, 1), **manifest: object) -> dict[str, bytes]:
    """Return the output of a kernel that has trained folds of the reference run."""
    output = {}
    for fold in folds:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name in (*remote.FOLD_FILES, remote.METRICS):
                archive.write(find_run(reference, "it").path / f"fold-{fold}" / name, name)
        output[f"fold-0-{fold}.zip"] = stream.getvalue()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in output.items()}
    output["manifest.json"] = json.dumps({"files": digests, "error": None} | manifest).encode()
    return output | {"workers.log": b"a line of the log of the workers\n"}


@pytest.fixture
def finished(kaggle: KaggleServer, reference: Workspace) -> KaggleServer:
    """A server whose kernels have trained both folds at once."""
    kaggle.output = kernel_output(reference)
    return kaggle


def assert_same(run: Run, reference: Workspace) -> None:
    other = find_run(reference, "it")
    for name in ("folds.csv", "ensemble/oof_softmax.npy", "ensemble/test_softmax.npy"):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name


def test_kernel_trains_the_same_folds_as_this_machine(
    kaggle: KaggleServer, workspace: Workspace, reference: Workspace, kernel_python: Path
) -> None:
    kaggle.python = kernel_python
    seen: list[Progress] = []
    notices: list[str] = []
    done: list[int] = []
    listener = Listener(progress=seen.append, notice=notices.append, finished=lambda task: done.append(task.fold))
    run = train(workspace, run="it", on="kaggle-cpu", observer=listener, **QUICK)
    assert_same(run, reference)
    assert sorted(done) == [0, 1]
    assert sum(progress.is_epoch_end for progress in seen) == 2  # once for each fold, which has one epoch
    (kernel,) = kaggle.kernels.values()
    assert f"https://www.kaggle.com/code/{USER}/{kernel.request['newTitle']}" in notices[0]
    assert any(notice.startswith("Kernel: It trains on the CPU, with TensorFlow") for notice in notices)
    assert run.fold_metrics(0).where == "Kaggle"
    assert run.fold_metrics(0).versions == find_run(reference, "it").fold_metrics(0).versions
    assert not (run.path / "kernel.json").exists()
    assert {path.name for path in run.path.iterdir()} == {
        path.name for path in find_run(reference, "it").path.iterdir()
    }


def test_pushed_kernel_is_private_offline_and_small(finished: KaggleServer, workspace: Workspace) -> None:
    train(workspace, on="kaggle", **QUICK)
    (kernel,) = finished.kernels.values()
    request = kernel.request
    assert (request["isPrivate"], request.get("enableInternet", False)) == (True, False)
    assert (request["language"], request["kernelType"]) == ("python", "script")
    assert request["competitionDataSources"] == ["digit-recognizer"]
    assert (request["enableGpu"], request["machineShape"]) == (True, "NvidiaTeslaT4")
    assert len(request["text"]) < 300_000
    compile(request["text"], "script.py", "exec")
