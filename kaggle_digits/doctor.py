"""Check that this machine is ready, and say how to fix what is not."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kaggle_digits.data.csv import load_data
from kaggle_digits.data.download import MANIFEST, check_manifest
from kaggle_digits.errors import KaggleDigitsError, NetworkError, RefusedError, UsageError, WriteError
from kaggle_digits.execution.machine import cpu_cores, default_workers
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
    from kaggle_digits.hosts.kaggle import KaggleKernels

Result = tuple[str, str]
"""What a check returns: what it found, and a remedy, which is empty if there is nothing to do."""
DISK = 0.5e9
"""Bytes that should be free: twice the data with its cache (175 MB) and a run of `default` (20 MB), because new
files are complete before old ones are removed, and 100 MB for more runs; measured on `rehearsal-full`."""
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
    """Check everything that a score needs, and write nothing but the cache of the data; problems are returned."""
    found = [_run_check("TensorFlow", _tensorflow), _run_check("Disk", lambda: _disk(workspace))]
    if workspace.competition.host == "kaggle":
        found.append(_run_check("Credentials", _credentials))
        if found[-1].severity != "problem":
            found += _kaggle(workspace.competition.name)
    else:
        found.append(Finding("ok", "Credentials", "A competition on this machine needs no credentials."))
        found.append(_run_check("Submissions", lambda: _submissions(open_host(workspace))))
    return [*found, _run_check("Data", lambda: _data(workspace))]


def next_command(workspace: Workspace, found: list[Finding]) -> str:
    """Return the command to run next; it is empty if a check found a problem."""
    if any(finding.severity == "problem" for finding in found):
        return ""
    if any(finding.title == "Data" and finding.severity != "ok" for finding in found):
        return workspace.command("download")
    try:
        rows = summarise_runs(workspace)
    except (KaggleDigitsError, OSError):
        return workspace.command("runs")  # it says what is wrong
    if not rows or rows[0]["status"] == "damaged":
        return workspace.command("train")
    if rows[0]["status"] == "unfinished":
        return find_run(workspace, rows[0]["name"]).command()
    return workspace.command("submit" if rows[0]["score"] is None else "score")


def _run_check(title: str, check: Callable[[], Result]) -> Finding:
    """Run a check, which returns a text and a remedy: a warning if it is not empty. A problem is an error."""
    try:
        text, remedy = check()
        return Finding("warning" if remedy else "ok", title, text, remedy)
    except KaggleDigitsError as error:
        severity: Severity = "warning" if isinstance(error, NetworkError) else "problem"
        return Finding(severity, title, error.problem, error.remedy)
    except Exception as error:
        # The other checks still run. The message of an unexpected error is not shown, it may contain a secret.
        text = f"Cannot check {getattr(error, 'filename', None) or title}: {type(error).__name__}."
        return Finding("problem", title, text, "Fix its permissions, or remove it if it is damaged.")


def _tensorflow() -> Result:
    """Import TensorFlow in a separate process, because the import crashes the process on a CPU without AVX."""
    environment = os.environ | KERAS_ENVIRONMENT | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    # Without -P, Python would import a json.py or tensorflow.py from the current folder.
    command = [sys.executable, "-P", "-c", _TENSORFLOW]
    process = subprocess.run(  # noqa: S603
        command, env=environment, capture_output=True, text=True, timeout=TENSORFLOW_TIMEOUT, check=False
    )
    if process.returncode == -signal.SIGILL:
        problem = "It cannot be imported: this CPU does not support instructions that it needs, such as AVX."
        raise UsageError(problem, "Train on another machine, for example in a Kaggle notebook.")
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        remedy = "Install it again: pip install --force-reinstall tensorflow."
        raise UsageError(f"It cannot be imported: {lines[-1][:300].rstrip('.')}.", remedy)
    version, gpus = json.loads(process.stdout.splitlines()[-1])
    text = f"Version {version}, on {_count(cpu_cores(), 'CPU core')} and {', '.join(gpus) or 'no GPU'}; "
    text += f"trains {_count(default_workers(PRESETS[DEFAULT_PRESET].folds), 'fold')} in parallel."
    if gpus or not shutil.which("nvidia-smi") or "CUDA_VISIBLE_DEVICES" in os.environ:
        return text, ""
    text += " This machine has an NVIDIA driver, but TensorFlow finds no GPU."
    return text, "Install TensorFlow's CUDA libraries to train on it: pip install 'kaggle-digits[cuda]'."


def _disk(workspace: Workspace) -> Result:
    for folder in (workspace.data, workspace.runs, workspace.submissions):
        check_links(folder)
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            # Permission bits are not enough: the file system may be full or read-only.
            with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=existing):
                free = shutil.disk_usage(existing).free
        except OSError as error:
            remedy = f"Fix the permissions of {existing}, or choose another folder with --root."
            raise WriteError(f"{folder} cannot be written: {error.strerror or error}.", remedy) from error
    text = f"{free / 1e9:,.1f} GB are free; the data and a few runs need {DISK / 1e9:.1f} GB."
    if free < DISK:
        raise WriteError(text, "Free some disk space, or choose another folder with --root.")
    return text, ""


def _credentials() -> Result:
    found = find_credentials()
    used, *ignored = (credentials.source for credentials in found)
    text, remedies = f"The credentials from {used} are used.", []
    if ignored:
        text += f" Those from {' and '.join(ignored)} are ignored, even if Kaggle rejects the first."
        remedies.append("Remove those that you do not want to use.")
    for file in [credentials.file for credentials in found if credentials.file]:
        if file.stat().st_mode & 0o044:
            text += f" Other users of this machine can read {file}."
            remedies.append(f"Fix its permissions with: chmod 600 {shlex.quote(str(file))}.")
    return text, " ".join(remedies)


def _kaggle(competition: str) -> Iterator[Finding]:
    """Check the network, the credentials and the rules with one small download, then the limits of the user."""
    from kaggle_digits.hosts.kaggle import KaggleHost, KaggleKernels

    host, refusals = KaggleHost(competition).without_retries(), []

    def responds() -> Result:
        try:
            host.try_download()
        except RefusedError as error:
            refusals.append(error)
        return "Kaggle responds and accepts the credentials.", ""

    yield (finding := _run_check("Kaggle", responds))
    for refusal in refusals:
        yield Finding("problem", "Rules", refusal.problem, refusal.remedy)
    if finding.severity == "ok" and not refusals:
        yield Finding("ok", "Rules", "The rules are accepted.")
        yield _run_check("Submissions", lambda: _submissions(host))
        yield _run_check("Kaggle GPUs", lambda: _gpu_hours(KaggleKernels(competition).without_retries()))


def _submissions(host: Host) -> Result:
    left = host.allowance()
    if left is None:
        return "Kaggle reports the daily limit after your first submission.", ""
    if left > 0:
        return f"{left} left today.", ""
    return "The daily limit has been reached.", "Submit after midnight UTC; training works until then."


def _gpu_hours(kernels: KaggleKernels) -> Result:
    """Check how much of the user's GPU quota is left, for `train --on kaggle`."""
    try:
        hours = kernels.gpu_hours()
    except KaggleDigitsError:  # most people train on their own machine and do not need this
        return "Kaggle does not say how many GPU hours are left.", ""
    return hours.describe(), "" if hours.left > 0 else "Train on this machine, or with --on kaggle-cpu."


def _data(workspace: Workspace) -> Result:
    folder = workspace.data
    if not any((folder / name).exists() for name in FILES):
        # The state before the first download is not a problem.
        return f"There are no files in {folder} yet.", f"Download them with: {workspace.command('download')}."
    data = load_data(folder)
    check_manifest(folder, data.hashes)
    how = "complete and valid" if (folder / MANIFEST).exists() else "valid, copied by hand"
    return f"{len(data.train.labels):,} training rows and {len(data.test.ids):,} test rows, {how}.", ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
