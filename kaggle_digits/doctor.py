"""What is ready on this machine, and how to fix what is not."""

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
from pathlib import Path
from typing import Any, Literal

from kaggle_digits.errors import CredentialsError, DataError, KaggleDigitsError, NetworkError, RefusedError
from kaggle_digits.files import read_json, sha256, temporary_folder
from kaggle_digits.workspace import FILES, Workspace

State = Literal["ok", "warning", "problem"]

PYTHONS = (3, 11), (3, 14)
"""The first Python that will do and the first that will not: TensorFlow's range, as in pyproject.toml."""
DISK = 0.5e9
"""Bytes that should be free: twice what the data take (175 MB, 123 of them CSV, the rest cache) and a run of
`best` (66 MB), because old files are kept until the new ones are complete. By ``du -sm`` on `rehearsal-full`,
which has as many rows as the real competition."""
PATIENCE = 10.0
"""Seconds without a byte after which Kaggle counts as out of reach."""

_TENSORFLOW = """
import json
import tensorflow as tf
details = tf.config.experimental.get_device_details
gpus = [details(gpu).get("device_name", gpu.name) for gpu in tf.config.list_physical_devices("GPU")]
print(json.dumps({"version": tf.__version__, "gpus": gpus}))
"""
TENSORFLOW_PATIENCE = 300.0
"""Seconds that importing TensorFlow may take, on a busy machine with a slow disk."""


@dataclass(frozen=True)
class Check:
    """What was found on one thing that the way to a score needs.

    Attributes
    ----------
    name : str
        The thing.
    state : {"ok", "warning", "problem"}
        A warning leaves a way to go on, a problem is in it.
    words : str
        What was found.
    remedy : str
        How to fix it; empty if it is ok.
    """

    name: str
    state: State
    words: str
    remedy: str = ""


def examine(workspace: Workspace) -> list[Check]:
    """Look at all that the way to a score in the workspace's competition needs, and change nothing.

    What is wrong with it is a finding and not an error. For a competition at Kaggle this makes a few requests.

    Parameters
    ----------
    workspace : Workspace
        The competition, and where its files are or will be.

    Returns
    -------
    list of Check
        From the machine to the runs. What cannot be asked, such as Kaggle without credentials, is not there.
    """
    findings = [
        _python(),
        _look("TensorFlow", _tensorflow),
        _look("Memory", _memory),
        _look("Disk", lambda: _disk(workspace)),
    ]
    if workspace.competition.host == "kaggle":
        findings.append(_look("Credentials", _credentials))
        if findings[-1].state != "problem":
            findings += _kaggle(workspace)
    else:
        findings.append(Check("Credentials", "ok", "None are needed for a competition on this machine."))
        findings.append(_look("Submissions", lambda: _local_submissions(workspace)))
    findings.append(_look("Data", lambda: _data(workspace)))
    findings.append(_look("Runs", lambda: _runs(workspace)))
    return findings


def is_ready(findings: list[Check]) -> bool:
    """Tell whether no finding is a problem."""
    return all(finding.state != "problem" for finding in findings)


def next_command(workspace: Workspace, findings: list[Check]) -> str:
    """Return the command that leads on from where the person is, if the findings are no problem."""
    from kaggle_digits.runs.summary import summarise_runs

    if any(finding.name == "Data" and finding.state != "ok" for finding in findings):
        return workspace.command("download")
    rows = summarise_runs(workspace)
    if not rows or rows[0]["status"] == "damaged":
        return workspace.command("train")
    if rows[0]["status"] == "unfinished":
        return _command_of_run(workspace, rows[0]["name"])
    return workspace.command("submit" if rows[0]["score"] is None else "score")


def _look(name: str, look: Callable[[], Check]) -> Check:
    """Turn what goes wrong while looking into a finding."""
    try:
        return look()
    except KaggleDigitsError as error:
        state: State = "warning" if isinstance(error, NetworkError) else "problem"
        return Check(name, state, error.problem, error.remedy)
    except Exception as error:
        # The rest gets its turn, whatever lies in the way of this; an error's own words may hold a secret.
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        what = getattr(error, "filename", None) or "it"
        remedy = "Fix its permissions, or remove what is damaged, then run the same command again."
        return Check(name, "problem", f"Cannot look at {what}: {why}.", remedy)


def _python() -> Check:
    first, end = PYTHONS
    version = platform.python_version()
    if first <= sys.version_info[:2] < end:
        return Check("Python", "ok", f"Version {version}.")
    return Check(
        "Python",
        "problem",
        f"Version {version} is not one that TensorFlow has packages for.",
        f"Install with Python {first[0]}.{first[1]} or later, before {end[0]}.{end[1]}.",
    )


def _tensorflow() -> Check:
    """Import TensorFlow in a process of its own, which may die of it: on a processor without AVX it does."""
    from kaggle_digits.execution.processes import cpu_cores
    from kaggle_digits.training.models import KERAS_ENVIRONMENT

    try:
        process = subprocess.run(  # noqa: S603
            # Without -P a json.py or tensorflow.py in the current folder is run in place of the real one.
            [sys.executable, "-P", "-c", _TENSORFLOW],
            env=os.environ | KERAS_ENVIRONMENT | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TENSORFLOW_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _no_tensorflow(f"it takes longer than {TENSORFLOW_PATIENCE:.0f} seconds", "Try again later.")
    if process.returncode == -signal.SIGILL:
        return _no_tensorflow(
            "this processor lacks instructions that it is built for, such as AVX",
            "Train on another machine, for instance in a notebook at Kaggle.",
        )
    reinstall = "Install it again: pip install --force-reinstall tensorflow."
    if process.returncode < 0:
        return _no_tensorflow(f"signal {-process.returncode} ends it", reinstall)
    try:
        facts = json.loads(process.stdout.splitlines()[-1])
        version, gpus = facts["version"], facts["gpus"]
    except (ValueError, IndexError, KeyError, TypeError):
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        return _no_tensorflow(lines[-1].strip()[:300].rstrip("."), reinstall)
    cores = cpu_cores()
    return Check(
        "TensorFlow",
        "ok",
        f"Version {version}, on {_count(cores, 'CPU core')} and {', '.join(gpus) or 'no GPU'}; "
        f"trains {_count(_workers(), 'fold')} at a time.",
    )


def _no_tensorflow(why: str, remedy: str) -> Check:
    return Check("TensorFlow", "problem", f"It cannot be imported: {why}.", remedy)


def _memory() -> Check:
    from kaggle_digits.execution.processes import WORKER_MEMORY, memory

    total, available = (min(memory(), number) for number in _memory_bytes())
    workers = _workers()
    words = f"{_gigabytes(available)} of {_gigabytes(total)} are available; a fold in training may take "
    words += f"{_gigabytes(WORKER_MEMORY)}, times {workers} at a time."
    fitting = int(available / WORKER_MEMORY)
    if fitting >= workers:
        return Check("Memory", "ok", words)
    if fitting == 0:
        return Check("Memory", "problem", words, "Close other programs before training.")
    return Check("Memory", "warning", words, f"Close other programs, or train with --workers {fitting}.")


def _memory_bytes() -> tuple[float, float]:
    """Return the machine's memory and what of it is available, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):
        found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if found:
            return total, 1024 * int(found[1])
    # macOS has no such file, and gives away what it caches when somebody asks for it.
    return total, total


def _disk(workspace: Workspace) -> Check:
    for folder in (workspace.data, workspace.runs, workspace.submissions):
        existing = _existing(folder)
        try:
            # Permission bits do not tell: a file system may be full or mounted read-only.
            with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=existing):
                pass
        except OSError as error:
            return Check(
                "Disk",
                "problem",
                f"{folder} cannot be written: {error.strerror or error}.",
                f"Make {existing} a folder that you may write to, or choose another one with --root.",
            )
    free = shutil.disk_usage(_existing(workspace.root)).free
    words = f"{_gigabytes(free)} are free; data and a run of the largest preset ask for {_gigabytes(DISK)}."
    if free >= DISK:
        return Check("Disk", "ok", words)
    return Check("Disk", "problem", words, "Free some space, or choose another folder with --root.")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _credentials() -> Check:
    from kaggle_digits.hosts.credentials import credential_file, credential_source, credential_sources

    used = credential_source()
    sources = []
    # What is wrong with a place that is passed over does no harm.
    with suppress(CredentialsError):
        for source in credential_sources():
            sources.append(source)
    words, remedies = [f"Those from {used} are used."], []
    if len(sources) > 1:
        words.append(f"Those from {' and '.join(sources[1:])} are passed over, even if Kaggle refuses the first.")
        remedies.append("Remove those that you do not mean to use.")
    for path in filter(None, map(credential_file, sources)):
        if path.stat().st_mode & 0o044:
            words.append(f"Other users of this machine can read {path}.")
            remedies.append(f"Keep them out: chmod 600 {shlex.quote(str(path))}.")
    return Check("Credentials", "warning" if remedies else "ok", " ".join(words), " ".join(remedies))


def _kaggle(workspace: Workspace) -> list[Check]:
    """Ask Kaggle, as briefly as can be: a download tells of network, credentials and rules at once."""
    from kaggle_digits.hosts.kaggle import KaggleHost

    host = KaggleHost(workspace.competition.name, attempts=1, timeout=PATIENCE)

    def rules() -> Check:
        try:
            host.try_download()
        except NetworkError as error:
            remedy = "Check the network before you download or submit; training works without it."
            return Check("Kaggle", "warning", error.problem, remedy)
        except RefusedError as error:
            return Check("Rules", "problem", error.problem, error.remedy)
        return Check("Rules", "ok", "They are accepted.")

    def submissions() -> Check:
        left = host.allowance()
        if left is None:
            return Check("Submissions", "ok", "Kaggle begins to count with your first one.")
        return _submissions(left, f"{left} left today.")

    found = _look("Kaggle", rules)
    if found.name == "Kaggle":
        return [found]
    reached = Check("Kaggle", "ok", "It answers and accepts the credentials.")
    return [reached, found] + ([_look("Submissions", submissions)] if found.state == "ok" else [])


def _local_submissions(workspace: Workspace) -> Check:
    from kaggle_digits.hosts.local import DAILY_LIMIT, LocalHost

    left = LocalHost(workspace).allowance()
    return _submissions(left, f"{left} of {DAILY_LIMIT} left today.")


def _submissions(left: int, words: str) -> Check:
    if left > 0:
        return Check("Submissions", "ok", words)
    return Check(
        "Submissions", "warning", "The day's are used up.", "Submit after midnight UTC; training works until then."
    )


def _data(workspace: Workspace) -> Check:
    from kaggle_digits.data.download import MANIFEST

    folder, remedy = workspace.data, f"Get them with: {workspace.command('download')}."
    missing = [name for name in FILES if not (folder / name).is_file()]
    if len(missing) == len(FILES):
        # Where everybody begins is no problem.
        return Check("Data", "warning", f"There are no files in {folder} yet.", remedy)
    if missing:
        return Check("Data", "problem", f"{folder} has no {' and no '.join(missing)}.", remedy)
    by_hand = not (folder / MANIFEST).exists()
    if not by_hand:
        try:
            entries = read_json(folder / MANIFEST)["files"]
            differences = [words for name in FILES if (words := _difference(folder / name, entries[name]))]
        except (DataError, KeyError, TypeError):
            return Check("Data", "problem", f"{folder / MANIFEST} is damaged.", remedy)
        if differences:
            return Check("Data", "problem", " ".join(differences), remedy)
    try:
        train_rows, test_rows = _rows(folder)
    except DataError as error:
        remedy = f"Get the files again with: {workspace.command('download', '--force')}."
        return Check("Data", "problem", error.problem, remedy)
    how = "valid, put in place by hand" if by_hand else "complete and valid"
    return Check("Data", "ok", f"{train_rows:,} training rows and {test_rows:,} test rows, {how}.")


def _difference(path: Path, entry: dict[str, Any]) -> str:
    """Say how a file differs from its entry in the manifest; empty if it does not."""
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path} has {size:,} bytes, not the {entry['bytes']:,} that arrived."
    return "" if sha256(path) == entry["sha256"] else f"{path} is not the file that arrived: its SHA-256 differs."


def _rows(folder: Path) -> tuple[int, int]:
    """Parse and validate the files, and return how many training and test rows they have.

    In a folder of links to them, where the cache that loading leaves behind is removed: to look changes nothing.
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
        remedies.append(f"Go on with: {_command_of_run(workspace, name)}.")
    for name in damaged:
        words.append(f"{name} is damaged.")
        remedies.append(f"Remove {workspace.runs / name} and train it again.")
    return Check("Runs", "warning" if remedies else "ok", " ".join(words), " ".join(remedies))


def _command_of_run(workspace: Workspace, name: str) -> str:
    from kaggle_digits.runs.directory import find_run

    return find_run(workspace, name).command()


def _workers() -> int:
    """Return how many folds of the default preset train at a time."""
    from kaggle_digits.execution.processes import default_workers
    from kaggle_digits.training import DEFAULT_PRESET
    from kaggle_digits.training.presets import PRESETS

    return default_workers(PRESETS[DEFAULT_PRESET].folds)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB"
