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
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaggle_digits.data.csv import load_data
from kaggle_digits.data.download import MANIFEST, check_manifest
from kaggle_digits.errors import KaggleDigitsError, NetworkError, RefusedError
from kaggle_digits.execution.machine import WORKER_MEMORY, cpu_cores, default_workers, memory
from kaggle_digits.files import check_links
from kaggle_digits.hosts import Host, open_host
from kaggle_digits.hosts.credentials import find_credentials
from kaggle_digits.reports.facts import Finding, Severity
from kaggle_digits.runs.directory import find_run
from kaggle_digits.runs.summary import summarise_runs
from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.training.models import KERAS_ENVIRONMENT
from kaggle_digits.training.presets import PRESETS
from kaggle_digits.workspace import FILES, Workspace

if TYPE_CHECKING:
    from kaggle_digits.hosts.kaggle import KaggleHost, KaggleKernels

PYTHONS = (3, 11), (3, 14)
"""The first supported Python version and the first unsupported one: TensorFlow's range, as in pyproject.toml."""
KERAS = 3, 12
"""The first supported version of Keras, as in pyproject.toml: older ones may run code from a file of a network."""
DISK = 0.5e9
"""Bytes that should be free: twice the data with its cache (175 MB) and a run of `default` (20 MB), because new
files are complete before old ones are removed, and 100 MB for more runs; measured on `rehearsal-full`."""
KAGGLE_TIMEOUT = 10.0
"""Seconds without data after which Kaggle counts as unreachable."""

_TENSORFLOW = """
import json
import tensorflow as tf
details = tf.config.experimental.get_device_details
gpus = [details(gpu).get("device_name", gpu.name) for gpu in tf.config.list_physical_devices("GPU")]
print(json.dumps([tf.__version__, gpus]))
"""
TENSORFLOW_TIMEOUT = 300.0
"""Maximum time in seconds to import TensorFlow. A busy machine with a slow disk may need minutes."""


def examine(workspace: Workspace) -> list[Finding]:
    """Check everything that a score in the workspace's competition needs; problems are returned, not raised.

    Nothing but the cache of the data is written. For a competition at Kaggle, this makes a few requests.
    """
    checks = {"Python": _python, "TensorFlow": _tensorflow, "Memory": _memory, "Disk": _disk}
    found = [_run_check(title, check, workspace) for title, check in checks.items()]
    if workspace.competition.host == "kaggle":
        found.append(_run_check("Credentials", _credentials, workspace))
        if found[-1].severity != "problem":
            found += _kaggle(workspace)
    else:
        found.append(Finding("ok", "Credentials", "A competition on this machine needs no credentials."))
        found.append(_run_check("Submissions", _submissions, open_host(workspace)))
    return [*found, _run_check("Data", _data, workspace), _run_check("Runs", _runs, workspace)]


def is_ready(found: list[Finding]) -> bool:
    """Return whether no check found a problem."""
    return all(finding.severity != "problem" for finding in found)


def next_command(workspace: Workspace, found: list[Finding]) -> str:
    """Return the command to run next, if no check found a problem."""
    if any(finding.title == "Data" and finding.severity != "ok" for finding in found):
        return workspace.command("download")
    rows = summarise_runs(workspace)
    if not rows or rows[0]["status"] == "damaged":
        return workspace.command("train")
    if rows[0]["status"] == "unfinished":
        return find_run(workspace, rows[0]["name"]).command()
    return workspace.command("submit" if rows[0]["score"] is None else "score")


def _run_check(title: str, check: Callable[[Any], Finding], subject: Any) -> Finding:
    """Run a check of `subject`; return errors that it raises as its result."""
    try:
        return check(subject)
    except KaggleDigitsError as error:
        severity: Severity = "warning" if isinstance(error, NetworkError) else "problem"
        return Finding(severity, title, error.problem, error.remedy)
    except Exception as error:
        # The other checks still run. The message of an unexpected error is not shown, it may contain a secret.
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        text = f"Cannot check {getattr(error, 'filename', None) or title}: {why}."
        return Finding("problem", title, text, "Fix its permissions, or remove it if it is damaged.")


def _python(_: Workspace) -> Finding:
    first, end = (".".join(map(str, version)) for version in PYTHONS)
    version = platform.python_version()
    if PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        return Finding("ok", "Python", f"Version {version}.")
    text = f"TensorFlow has no packages for Python {version}."
    return Finding("problem", "Python", text, f"Use Python {first} or later, but before {end}.")


def _tensorflow(_: Workspace) -> Finding:
    """Import TensorFlow in a separate process, because the import crashes the process on a CPU without AVX."""
    title, environment = "TensorFlow", os.environ | KERAS_ENVIRONMENT | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    # Without -P, Python would import a json.py or tensorflow.py from the current folder.
    command = [sys.executable, "-P", "-c", _TENSORFLOW]
    process = subprocess.run(  # noqa: S603
        command, env=environment, capture_output=True, text=True, timeout=TENSORFLOW_TIMEOUT, check=False
    )
    if process.returncode == -signal.SIGILL:
        text = "It cannot be imported: this CPU does not support instructions that it needs, such as AVX."
        return Finding("problem", title, text, "Train on another machine, for example in a Kaggle notebook.")
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        remedy = "Install it again: pip install --force-reinstall tensorflow."
        return Finding("problem", title, f"It cannot be imported: {lines[-1][:300].rstrip('.')}.", remedy)
    keras, needed = metadata.version("keras"), ".".join(map(str, KERAS))
    if tuple(map(int, keras.split(".")[:2])) < KERAS:
        text = f"Its Keras has version {keras}, but {needed} is needed."
        return Finding("problem", title, text, f"Update it: pip install 'keras>={needed}'.")
    version, gpus = json.loads(process.stdout.splitlines()[-1])
    text = f"Version {version}, on {_count(cpu_cores(), 'CPU core')} and {', '.join(gpus) or 'no GPU'}; "
    text += f"trains {_count(default_workers(PRESETS[DEFAULT_PRESET].folds), 'fold')} in parallel."
    if not gpus and shutil.which("nvidia-smi") and "CUDA_VISIBLE_DEVICES" not in os.environ:
        text += " This machine has an NVIDIA driver, but TensorFlow finds no GPU."
        remedy = "Install TensorFlow's CUDA libraries to train on it: pip install 'kaggle-digits[cuda]'."
        return Finding("warning", title, text, remedy)
    return Finding("ok", title, text)


def _memory(_: Workspace) -> Finding:
    total, workers = memory(), default_workers(PRESETS[DEFAULT_PRESET].folds)
    available = min(total, _available_memory())
    text = f"{_gigabytes(available)} of {_gigabytes(total)} are available; training one fold may need "
    text += f"{_gigabytes(WORKER_MEMORY)}, and {workers} are trained in parallel."
    fitting = int(available / WORKER_MEMORY)
    if fitting >= workers:
        return Finding("ok", "Memory", text)
    remedy = f"Close other programs, or train with --workers {max(1, fitting)}."
    return Finding("warning" if fitting else "problem", "Memory", text, remedy)


def _available_memory() -> float:
    """Return the memory in bytes that is available; infinite where it is not known, as on macOS."""
    text = Path("/proc/meminfo").read_text() if Path("/proc/meminfo").exists() else ""
    found = re.search(r"^MemAvailable: +(\d+) kB$", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else float("inf")


def _disk(workspace: Workspace) -> Finding:
    for folder in (workspace.data, workspace.runs, workspace.submissions):
        check_links(folder)
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            # Permission bits are not enough: the file system may be full or read-only.
            with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=existing):
                free = shutil.disk_usage(existing).free
        except OSError as error:
            text = f"{folder} cannot be written: {error.strerror or error}."
            remedy = f"Fix the permissions of {existing}, or choose another folder with --root."
            return Finding("problem", "Disk", text, remedy)
    text = f"{_gigabytes(free)} are free; the data and a few runs need {_gigabytes(DISK)}."
    remedy = "" if free >= DISK else "Free some disk space, or choose another folder with --root."
    return Finding("problem" if remedy else "ok", "Disk", text, remedy)


def _credentials(_: Workspace) -> Finding:
    found = find_credentials()
    used, *ignored = (credentials.source for credentials in found)
    text, remedies = f"The credentials from {used} are used.", []
    if ignored:
        text += f" Those from {' and '.join(ignored)} are ignored, even if Kaggle rejects the first."
        remedies.append("Remove those that you do not want to use.")
    for file in filter(None, (credentials.file for credentials in found)):
        if file.stat().st_mode & 0o044:
            text += f" Other users of this machine can read {file}."
            remedies.append(f"Fix its permissions with: chmod 600 {shlex.quote(str(file))}.")
    return Finding("warning" if remedies else "ok", "Credentials", text, " ".join(remedies))


def _kaggle(workspace: Workspace) -> list[Finding]:
    """Check the network, the credentials and the rules with one small download, then the limits of the user."""
    from kaggle_digits.hosts.kaggle import KaggleHost, KaggleKernels

    host = KaggleHost(workspace.competition.name, attempts=1, timeout=KAGGLE_TIMEOUT)
    kernels = KaggleKernels(workspace.competition.name, attempts=1, timeout=KAGGLE_TIMEOUT)
    rules = _run_check("Kaggle", _rules, host)
    if rules.title == "Kaggle":
        return [rules]
    found = [Finding("ok", "Kaggle", "Kaggle responds and accepts the credentials."), rules]
    if rules.severity == "ok":
        found += [_run_check("Submissions", _submissions, host), _gpu_hours(kernels)]
    return found


def _rules(host: KaggleHost) -> Finding:
    try:
        host.try_download()
    except RefusedError as error:
        return Finding("problem", "Rules", error.problem, error.remedy)
    return Finding("ok", "Rules", "The rules are accepted.")


def _submissions(host: Host) -> Finding:
    left = host.allowance()
    if left is None:
        return Finding("ok", "Submissions", "Kaggle reports the daily limit after your first submission.")
    if left > 0:
        return Finding("ok", "Submissions", f"{left} left today.")
    remedy = "Submit after midnight UTC; training works until then."
    return Finding("warning", "Submissions", "The daily limit has been reached.", remedy)


def _gpu_hours(kernels: KaggleKernels) -> Finding:
    """Check how much of the user's GPU quota is left, for `train --on kaggle`."""
    try:
        hours = kernels.gpu_hours()
    except KaggleDigitsError:  # most people train on their own machine and do not need this
        return Finding("ok", "Kaggle GPUs", "Kaggle does not say how many GPU hours are left.")
    if hours.left > 0:
        return Finding("ok", "Kaggle GPUs", hours.describe())
    return Finding("warning", "Kaggle GPUs", hours.describe(), "Train on this machine, or with --on kaggle-cpu.")


def _data(workspace: Workspace) -> Finding:
    folder = workspace.data
    if not any((folder / name).exists() for name in FILES):
        # The state before the first download is not a problem.
        remedy = f"Download them with: {workspace.command('download')}."
        return Finding("warning", "Data", f"There are no files in {folder} yet.", remedy)
    data = load_data(folder)
    check_manifest(folder, data.hashes)
    how = "complete and valid" if (folder / MANIFEST).exists() else "valid, copied by hand"
    text = f"{len(data.train.labels):,} training rows and {len(data.test.ids):,} test rows, {how}."
    return Finding("ok", "Data", text)


def _runs(workspace: Workspace) -> Finding:
    rows, remedies = summarise_runs(workspace), []
    text = f"{_count(len(rows), 'run')} so far."
    for name, status in ((row["name"], row["status"]) for row in rows if row["status"] != "finished"):
        text += f" {name} is {status}."
        if status == "unfinished":
            remedies.append(f"Continue with: {find_run(workspace, name).command()}.")
        else:
            remedies.append(f"Remove {workspace.runs / name} and train it again.")
    return Finding("warning" if remedies else "ok", "Runs", text, " ".join(remedies))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB"
