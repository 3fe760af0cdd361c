"""Check that this machine is ready, and say how to fix what is not."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from kaggle_digits.errors import DataError, KaggleDigitsError, NetworkError, RefusedError
from kaggle_digits.files import check_links, temporary_folder
from kaggle_digits.workspace import FILES, Workspace

State = Literal["ok", "warning", "problem"]

PYTHONS = (3, 11), (3, 14)
"""The first supported Python version and the first unsupported one: TensorFlow's range, as in pyproject.toml."""
KERAS = 3, 12
"""The first supported version of Keras, as in pyproject.toml: older ones may run code from a file of a network."""
DISK = 0.5e9
"""Bytes that should be free: twice the size of the data (175 MB, of which 123 MB are CSV files and the rest is the
cache) and of a run of `default` (20 MB), because new files are complete before old ones are removed, and about 100
MB for more runs. Measured with ``du -sm`` on `rehearsal-full`, which has as many rows as the real competition."""
KAGGLE_TIMEOUT = 10.0
"""Seconds without data after which Kaggle counts as unreachable."""

_TENSORFLOW = """
import json
import tensorflow as tf
details = tf.config.experimental.get_device_details
gpus = [details(gpu).get("device_name", gpu.name) for gpu in tf.config.list_physical_devices("GPU")]
print(json.dumps({"version": tf.__version__, "gpus": gpus}))
"""
TENSORFLOW_TIMEOUT = 300.0
"""Maximum time in seconds to import TensorFlow. A busy machine with a slow disk may need minutes."""


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str  # what was checked
    state: State  # with a warning you can continue; a problem has to be fixed first
    words: str  # the result, in one or more sentences
    remedy: str = ""  # how to fix it; empty if the state is "ok"


def examine(workspace: Workspace) -> list[Check]:
    """Check everything that is needed for a score in the workspace's competition; change nothing.

    Problems are returned, not raised. For a competition at Kaggle this makes a few requests.

    Parameters
    ----------
    workspace : Workspace
        The competition and its folders, which need not exist yet.

    Returns
    -------
    list of Check
        The results in a fixed order. Checks that cannot be made, such as Kaggle's without credentials, are left
        out.
    """
    checks = [
        _python(),
        _run_check("TensorFlow", _tensorflow),
        _run_check("Memory", _memory),
        _run_check("Disk", lambda: _disk(workspace)),
    ]
    if workspace.competition.host == "kaggle":
        checks.append(_run_check("Credentials", _credentials))
        if checks[-1].state != "problem":
            checks += _kaggle(workspace)
    else:
        checks.append(Check("Credentials", "ok", "A competition on this machine needs no credentials."))
        checks.append(_run_check("Submissions", lambda: _local_submissions(workspace)))
    checks.append(_run_check("Data", lambda: _check_data(workspace)))
    checks.append(_run_check("Runs", lambda: _runs(workspace)))
    return checks


def is_ready(checks: list[Check]) -> bool:
    """Return whether no check found a problem."""
    return all(check.state != "problem" for check in checks)


def next_command(workspace: Workspace, checks: list[Check]) -> str:
    """Return the command to run next, if no check found a problem."""
    from kaggle_digits.runs.summary import summarise_runs

    if any(check.name == "Data" and check.state != "ok" for check in checks):
        return workspace.command("download")
    rows = summarise_runs(workspace)
    if not rows or rows[0]["status"] == "damaged":
        return workspace.command("train")
    if rows[0]["status"] == "unfinished":
        return _command_of_run(workspace, rows[0]["name"])
    return workspace.command("submit" if rows[0]["score"] is None else "score")


def _run_check(name: str, check: Callable[[], Check]) -> Check:
    """Run a check; return errors that it raises as its result."""
    try:
        return check()
    except KaggleDigitsError as error:
        state: State = "warning" if isinstance(error, NetworkError) else "problem"
        return Check(name, state, error.problem, error.remedy)
    except Exception as error:
        # The other checks still run. The message of an unexpected error is not shown, it may contain a secret.
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        what = getattr(error, "filename", None) or name
        remedy = "Fix its permissions, or remove it if it is damaged, then run the same command again."
        return Check(name, "problem", f"Cannot check {what}: {why}.", remedy)


def _python() -> Check:
    first, end = PYTHONS
    version = platform.python_version()
    if first <= sys.version_info[:2] < end:
        return Check("Python", "ok", f"Version {version}.")
    return Check(
        "Python",
        "problem",
        f"TensorFlow has no packages for Python {version}.",
        f"Use Python {first[0]}.{first[1]} or later, but before {end[0]}.{end[1]}.",
    )


def _tensorflow() -> Check:
    """Import TensorFlow in a separate process, because the import crashes the process on a CPU without AVX."""
    from kaggle_digits.execution.machine import cpu_cores
    from kaggle_digits.training.models import KERAS_ENVIRONMENT

    try:
        process = subprocess.run(  # noqa: S603
            # Without -P, Python would import a json.py or tensorflow.py from the current folder.
            [sys.executable, "-P", "-c", _TENSORFLOW],
            env=os.environ | KERAS_ENVIRONMENT | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TENSORFLOW_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _no_tensorflow(f"the import takes longer than {TENSORFLOW_TIMEOUT:.0f} seconds", "Try again later.")
    if process.returncode == -signal.SIGILL:
        return _no_tensorflow(
            "this CPU does not support instructions that it needs, such as AVX",
            "Train on another machine, for example in a Kaggle notebook.",
        )
    reinstall = "Install it again: pip install --force-reinstall tensorflow."
    if process.returncode < 0:
        return _no_tensorflow(f"the process was ended by signal {-process.returncode}", reinstall)
    try:
        facts = json.loads(process.stdout.splitlines()[-1])
        version, gpus = facts["version"], facts["gpus"]
    except (ValueError, IndexError, KeyError, TypeError):
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        return _no_tensorflow(lines[-1].strip()[:300].rstrip("."), reinstall)
    keras = metadata.version("keras")
    if tuple(map(int, keras.split(".")[:2])) < KERAS:
        first = ".".join(map(str, KERAS))
        remedy = f"Update it: pip install 'keras>={first}'."
        return Check("TensorFlow", "problem", f"Its Keras has version {keras}, but {first} is needed.", remedy)
    cores = cpu_cores()
    words = f"Version {version}, on {_count(cores, 'CPU core')} and {', '.join(gpus) or 'no GPU'}; "
    words += f"trains {_count(_workers(), 'fold')} in parallel."
    if not gpus and shutil.which("nvidia-smi") is not None and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return Check(
            "TensorFlow",
            "warning",
            f"{words} This machine has an NVIDIA driver, but TensorFlow finds no GPU.",
            "To train on it, install TensorFlow's CUDA libraries: pip install 'kaggle-digits[cuda]'.",
        )
    return Check("TensorFlow", "ok", words)


def _no_tensorflow(why: str, remedy: str) -> Check:
    return Check("TensorFlow", "problem", f"It cannot be imported: {why}.", remedy)


def _memory() -> Check:
    from kaggle_digits.execution.machine import WORKER_MEMORY, memory

    total, available = (min(memory(), number) for number in _memory_bytes())
    workers = _workers()
    words = f"{_gigabytes(available)} of {_gigabytes(total)} are available; training one fold may need "
    words += f"{_gigabytes(WORKER_MEMORY)}, and {workers} are trained in parallel."
    fitting = int(available / WORKER_MEMORY)
    if fitting >= workers:
        return Check("Memory", "ok", words)
    if fitting == 0:
        return Check("Memory", "problem", words, "Close other programs before training.")
    return Check("Memory", "warning", words, f"Close other programs, or train with --workers {fitting}.")


def _memory_bytes() -> tuple[float, float]:
    """Return the machine's total and available memory in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):
        found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if found:
            return total, 1024 * int(found[1])
    # macOS has no such file. It frees cached memory on demand, so count all memory as available.
    return total, total


def _disk(workspace: Workspace) -> Check:
    for folder in (workspace.data, workspace.runs, workspace.submissions):
        check_links(folder)
        existing = _existing(folder)
        try:
            # Permission bits are not enough: the file system may be full or read-only.
            with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=existing):
                pass
        except OSError as error:
            return Check(
                "Disk",
                "problem",
                f"{folder} cannot be written: {error.strerror or error}.",
                f"Fix the permissions of {existing}, or choose another folder with --root.",
            )
    free = shutil.disk_usage(_existing(workspace.root)).free
    words = f"{_gigabytes(free)} are free; the data and a few runs need {_gigabytes(DISK)}."
    if free >= DISK:
        return Check("Disk", "ok", words)
    remedy = "Free some disk space, or choose another folder with --root."
    return Check("Disk", "problem", words, remedy)


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _credentials() -> Check:
    from kaggle_digits.hosts.credentials import find_credentials

    found = find_credentials()
    used, *ignored = (credentials.source for credentials in found)
    words, remedies = [f"The credentials from {used} are used."], []
    if ignored:
        words.append(f"Those from {' and '.join(ignored)} are ignored, even if Kaggle rejects the first.")
        remedies.append("Remove those that you do not want to use.")
    for credentials in found:
        if credentials.file and credentials.file.stat().st_mode & 0o044:
            words.append(f"Other users of this machine can read {credentials.file}.")
            remedies.append(f"Fix its permissions with: chmod 600 {shlex.quote(str(credentials.file))}.")
    return Check("Credentials", "warning" if remedies else "ok", " ".join(words), " ".join(remedies))


def _kaggle(workspace: Workspace) -> list[Check]:
    """Check the network, the credentials and the rules with one small download, then the daily limit."""
    from kaggle_digits.hosts.kaggle import KaggleHost

    host = KaggleHost(workspace.competition.name, attempts=1, timeout=KAGGLE_TIMEOUT)

    def rules() -> Check:
        try:
            host.try_download()
        except NetworkError as error:
            remedy = "Check the network before you download or submit; training works offline."
            return Check("Kaggle", "warning", error.problem, remedy)
        except RefusedError as error:
            return Check("Rules", "problem", error.problem, error.remedy)
        return Check("Rules", "ok", "The rules are accepted.")

    def submissions() -> Check:
        left = host.allowance()
        if left is None:
            return Check("Submissions", "ok", "Kaggle reports the daily limit after your first submission.")
        return _submissions(left, f"{left} left today.")

    found = _run_check("Kaggle", rules)
    if found.name == "Kaggle":
        return [found]
    connection = Check("Kaggle", "ok", "Kaggle responds and accepts the credentials.")
    if found.state != "ok":
        return [connection, found]
    return [connection, found, _run_check("Submissions", submissions), _gpu_hours(workspace)]


def _gpu_hours(workspace: Workspace) -> Check:
    """Check how much of the user's GPU quota is left, for `train --on kaggle`."""
    from kaggle_digits.hosts.kaggle import KaggleKernels

    try:
        hours = KaggleKernels(workspace.competition.name, attempts=1, timeout=KAGGLE_TIMEOUT).gpu_hours()
    except KaggleDigitsError:  # most people train on their own machine and do not need this
        return Check("Kaggle GPUs", "ok", "Kaggle does not say how many GPU hours are left.")
    if hours.left > 0:
        return Check("Kaggle GPUs", "ok", hours.describe())
    return Check("Kaggle GPUs", "warning", hours.describe(), "Train on this machine, or with --on kaggle-cpu.")


def _local_submissions(workspace: Workspace) -> Check:
    from kaggle_digits.hosts.local import DAILY_LIMIT, LocalHost

    left = LocalHost(workspace).allowance()
    return _submissions(left, f"{left} of {DAILY_LIMIT} left today.")


def _submissions(left: int, words: str) -> Check:
    if left > 0:
        return Check("Submissions", "ok", words)
    return Check(
        "Submissions",
        "warning",
        "The daily limit has been reached.",
        "Submit after midnight UTC; training works until then.",
    )


def _check_data(workspace: Workspace) -> Check:
    from kaggle_digits.data.download import MANIFEST, manifest_differences

    folder, remedy = workspace.data, f"Download them with: {workspace.command('download')}."
    missing = [name for name in FILES if not (folder / name).is_file()]
    if len(missing) == len(FILES):
        # The state before the first download is not a problem.
        return Check("Data", "warning", f"There are no files in {folder} yet.", remedy)
    if missing:
        return Check("Data", "problem", f"{folder} has no {' and no '.join(missing)}.", remedy)
    by_hand = not (folder / MANIFEST).exists()
    if not by_hand:
        try:
            differences = manifest_differences(folder)
        except DataError:
            return Check("Data", "problem", f"{folder / MANIFEST} is damaged.", remedy)
        if differences:
            return Check("Data", "problem", " ".join(differences), remedy)
    try:
        train_rows, test_rows = _rows(folder)
    except DataError as error:
        remedy = f"Download the files again with: {workspace.command('download', '--force')}."
        return Check("Data", "problem", error.problem, remedy)
    how = "valid, copied by hand" if by_hand else "complete and valid"
    return Check("Data", "ok", f"{train_rows:,} training rows and {test_rows:,} test rows, {how}.")


def _rows(folder: Path) -> tuple[int, int]:
    """Parse and validate the files, and return how many training and test rows they have.

    The files are read through links in a temporary folder, so that loading writes no cache to the data folder.
    """
    from kaggle_digits.data.csv import load_test, load_train

    with temporary_folder() as links:
        for file in FILES:
            (links / file).symlink_to((folder / file).resolve())
        try:
            return len(load_train(links).labels), len(load_test(links).ids)
        except DataError as error:
            raise DataError(error.problem.replace(str(links), str(folder)), error.remedy) from error


def _runs(workspace: Workspace) -> Check:
    from kaggle_digits.runs.summary import summarise_runs

    rows = summarise_runs(workspace)
    unfinished = [row["name"] for row in rows if row["status"] == "unfinished"]
    damaged = [row["name"] for row in rows if row["status"] == "damaged"]
    words, remedies = [f"{_count(len(rows), 'run')} so far."], []
    for name in unfinished:
        words.append(f"{name} is unfinished.")
        remedies.append(f"Continue with: {_command_of_run(workspace, name)}.")
    for name in damaged:
        words.append(f"{name} is damaged.")
        remedies.append(f"Remove {workspace.runs / name} and train it again.")
    return Check("Runs", "warning" if remedies else "ok", " ".join(words), " ".join(remedies))


def _command_of_run(workspace: Workspace, name: str) -> str:
    from kaggle_digits.runs.directory import find_run

    return find_run(workspace, name).command()


def _workers() -> int:
    """Return how many folds of the default preset are trained in parallel."""
    from kaggle_digits.execution.machine import default_workers
    from kaggle_digits.training import DEFAULT_PRESET
    from kaggle_digits.training.presets import PRESETS

    return default_workers(PRESETS[DEFAULT_PRESET].folds)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB"
