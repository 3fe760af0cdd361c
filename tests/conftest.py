"""Shared fixtures and helpers: small data sets, workspaces, a trained run and a fake Kaggle server."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from kaggle_server import KEY, USER, KaggleServer

from kaggle_digits import Workspace, download, find_run, train
from kaggle_digits.__main__ import main
from kaggle_digits.arrays import UInt8
from kaggle_digits.data.csv import Data, LabelledDigits, UnlabelledDigits
from kaggle_digits.execution import Job
from kaggle_digits.execution.places.processes import Processes, WorkerProcess
from kaggle_digits.hosts.local import PIXEL_COLUMNS
from kaggle_digits.runs.directory import Run
from kaggle_digits.submissions.submit import submission_file
from kaggle_digits.training.fold import FoldTask
from kaggle_digits.training.observer import Observer

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

# The same variables as in worker processes, so that training in the process of a test is reproducible.
os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

# The same examples in every run. Tests use one folder for all examples, and a busy machine is no failure.
IGNORED_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, suppress_health_check=IGNORED_CHECKS
)
settings.load_profile("repeatable")

# A shell may start background jobs with SIGINT ignored, which the processes started by tests would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")

SMALL = {"epochs": "1", "batch_size": "20"}  # for fast training on `small_digits`


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the credentials, settings and home of the user who runs the tests."""
    for name in list(os.environ):
        if name.startswith("KAGGLE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@contextmanager
def full_disk(after: int) -> Iterator[list[str]]:
    """Let one `Path.replace` fail as on a full disk, after `after` others; the list gets its name."""
    replace, failed, written = Path.replace, [], count()

    def fail_once(path: Path, target: Path) -> Path:
        if next(written) == after:
            failed.append(Path(target).name)
            raise OSError(28, "No space left on device")
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", fail_once)
        yield failed


@contextmanager
def pipe_with_reader(path: Path) -> Iterator[list[bytes]]:
    """Create a named pipe; after the block, the list that is yielded contains what was written into it."""
    received: list[bytes] = []
    os.mkfifo(path)
    reader = Thread(target=lambda: received.append(path.read_bytes()), daemon=True)
    reader.start()
    yield received
    reader.join(60)
    assert path.is_fifo()


class Listener(Observer):
    """An observer with methods passed as keyword arguments."""

    def __init__(self, **methods: Callable[..., object]) -> None:
        for name, method in methods.items():
            assert hasattr(Observer, name)
            setattr(self, name, method)


class Clock:
    """A fake clock that advances by `sleep`; tests can also set it."""

    def __init__(self) -> None:
        self.now = 1.8e9  # what `time.time` returns
        self.slept = 0.0  # the total of seconds slept, which does not change when `now` is set

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds

    def read(self) -> float:
        self.now += 1e-5  # all returned times are different
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace `time.time` and `time.sleep` by a fake clock."""
    clock = Clock()
    monkeypatch.setattr("time.time", clock.read)
    monkeypatch.setattr("time.sleep", clock.sleep)
    return clock


def small_digits(rows: int, seed: int = 0) -> tuple[UInt8, UInt8]:
    """Return learnable images and labels: the position of a bright block depends on the digit."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(rows) % 10).astype(np.uint8)
    images = rng.integers(0, 40, (rows, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        y, x = 2 + 12 * (label // 5), 1 + 5 * (label % 5)
        image[y : y + 10, x : x + 5] = 220
    return images, labels


def small_data(rows: int, test_rows: int = 20) -> Data:
    """Return the data of a small competition."""
    images, labels = small_digits(rows)
    test_images, _ = small_digits(test_rows, seed=1)
    return Data(LabelledDigits(images, labels, ""), UnlabelledDigits(test_images, np.arange(test_rows), ""))


def csv_bytes(images: UInt8, labels: UInt8 | None = None, newline: str = "\r\n") -> bytes:
    """Return a train.csv or test.csv in Kaggle's format."""
    table = pd.DataFrame(images.reshape(len(images), -1), columns=list(PIXEL_COLUMNS))
    if labels is not None:
        table.insert(0, "label", labels)
    return table.to_csv(index=False, lineterminator=newline).encode()


def sample_bytes(rows: int) -> bytes:
    """Return a sample_submission.csv."""
    return ("ImageId,Label\r\n" + "".join(f"{i},0\r\n" for i in range(1, rows + 1))).encode()


def competition_files(train_rows: int = 100, test_rows: int = 30) -> dict[str, bytes]:
    """Return the three files of a small competition."""
    return {
        "train.csv": csv_bytes(*small_digits(train_rows)),
        "test.csv": csv_bytes(small_digits(test_rows, seed=1)[0]),
        "sample_submission.csv": sample_bytes(test_rows),
    }


OTHER_COMPETITIONS = ("uni-digits", "course-mnist")


def files_with_other_names(competition: str) -> dict[str, bytes]:
    """Return the rows of `competition_files` as the files of one of `OTHER_COMPETITIONS`.

    In `uni-digits`, the labels are last, and the test rows have ids from 0, in another order than the sample.
    """
    images, labels = small_digits(100)
    tables = [images, small_digits(30, seed=1)[0]]
    if competition == "uni-digits":
        pixels = [f"px_{y}_{x}" for y in range(28) for x in range(28)]
        train, test = (pd.DataFrame(rows.reshape(len(rows), -1), columns=pixels) for rows in tables)
        train["digit"] = labels
        test.insert(0, "id", np.arange(30)[::-1])
        files = {"mnist_train.csv": train, "mnist_test.csv": test}
        files["sampleSubmission.csv"] = pd.DataFrame({"id": np.arange(30), "digit": 0})
    else:
        pixels = [f"{y}x{x}" for y in range(1, 29) for x in range(1, 29)]
        train, test = (pd.DataFrame(rows.reshape(len(rows), -1), columns=pixels) for rows in tables)
        train.insert(0, "label", labels)
        files = {"train.csv": train, "test.csv": test}
        files["sample.csv"] = pd.DataFrame({"Id": np.arange(1001, 1031), "Category": "?"})
    return {name: table.to_csv(index=False).encode() for name, table in files.items()}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Create a folder and write files into it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def worker_processes(parent: int | None = None) -> set[int]:
    """Return the ids of the worker processes of a process, by default of this one."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            of_parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1] == str(parent or os.getpid())
            if of_parent and b"kaggle_digits.execution.worker" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_same_run(run: Run, reference: Workspace, name: str = "one") -> None:
    """Assert that a run with two folds has the same predictions as one of the reference workspace."""
    other, workspace = find_run(reference, name), Workspace.at(run.path.parents[2])
    files = [f"fold-{fold}/{name}_softmax.npy" for fold in range(2) for name in ("val", "test")]
    for file in ("folds.csv", "ensemble/oof_softmax.npy", "ensemble/test_softmax.npy", *files):
        assert (run.path / file).read_bytes() == (other.path / file).read_bytes(), file
    assert submission_file(workspace, run.name).read_bytes() == submission_file(reference, name).read_bytes()


def import_first(folder: Path) -> str:
    """Return a PYTHONPATH with the folder before all others."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@contextmanager
def once_for_all_processes(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """Yield a folder that all processes of `pytest -n` share, to one at a time: the first one creates it."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / f"{name}.lock"):
        yield folder / name


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace of the real competition with small data files."""
    workspace = Workspace.at(tmp_path / "work")
    write_files(workspace.data, competition_files())
    return workspace


@pytest.fixture(scope="session")
def trained_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace of `rehearsal` with a trained run. Tests must not change it."""
    with once_for_all_processes(tmp_path_factory, "trained") as folder:
        workspace = Workspace.at(folder, "rehearsal")
        if not folder.exists():
            download(workspace)
            with training_in_process():
                train(workspace, preset="lenet", folds=2, settings={"epochs": "2"}, run="first")
    return workspace


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the runs "one", trained in processes, and "two". Tests must not change it."""
    with once_for_all_processes(tmp_path_factory, "small_runs") as folder:
        workspace = Workspace.at(folder)
        if not folder.exists():
            write_files(workspace.data, competition_files())
            train(workspace, preset="lenet", folds=2, settings=SMALL, run="one")
            with training_in_process():
                train(workspace, preset="lenet", folds=2, settings=SMALL, run="two", seed=1)
    return workspace


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium; a test that uses it is skipped without it."""
    from selenium import webdriver

    driver, program = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not (driver and program):
        pytest.skip("needs Chromium and its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    profile = tmp_path_factory.mktemp("profile")
    # Without a GPU, WebGL needs SwiftShader.
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--enable-unsafe-swiftshader",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    """A fake Kaggle server, with the environment variables that make the real client use it."""
    server = KaggleServer()
    server.files = competition_files()
    credentials = {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}
    proxies = {"HTTP_PROXY": server.url, "http_proxy": server.url, "NO_PROXY": "", "no_proxy": ""}
    for name, value in {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", **credentials, **proxies}.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a separate process, in an empty folder."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kaggle_digits", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def call_cli(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in this process, in an empty folder. Output of native code is captured too."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        on_interrupt = signal.getsignal(signal.SIGINT)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr("sys.argv", ["kaggle-digits", *map(str, arguments)])
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                with pytest.raises(SystemExit) as exited:
                    main()
            finally:
                signal.signal(signal.SIGINT, on_interrupt)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(exited.value.code or 0), out, err)

    return call


@contextmanager
def training_in_process() -> Iterator[None]:
    """Train folds in this process, because a worker process takes seconds to import TensorFlow.

    The results are the same, except for the names of layers.
    """

    def train_jobs(place: Processes, jobs: Sequence[Job], data: Data, observer: Observer) -> Iterator[Job]:
        from kaggle_digits.runs.artefacts import FoldFolder
        from kaggle_digits.training.fold import train_fold

        for job in jobs:
            FoldFolder(job.folder).write(train_fold(job.task, data, observer.progress, job.folder))
            yield job

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "train", train_jobs)
        yield


@pytest.fixture
def train_in_process() -> Iterator[None]:
    """Apply `training_in_process` to a test."""
    with training_in_process():
        yield


@contextmanager
def fake_workers(train: Callable[[FoldTask, Path, str], Exception | None]) -> Iterator[None]:
    """Replace worker processes by a function that writes the folder of a task, or returns an error."""

    def begin(worker: WorkerProcess, task: FoldTask, folder: Path, log: object) -> None:
        worker.connection, theirs = multiprocessing.Pipe()
        with theirs:
            theirs.send(train(task, folder, worker.gpu))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkerProcess, "train", begin)
        yield
