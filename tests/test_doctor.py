"""Tests of `kaggle_digits.doctor`: each check, with and without a problem."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import competition_files, unload_client, write_files
from kaggle_server import KEY, TOKEN, Fault, KaggleServer, error
from rich.console import Console

from kaggle_digits import Workspace, console, doctor, download
from kaggle_digits.cli import cli
from kaggle_digits.doctor import KERAS, PYTHONS, Check, examine, is_ready, next_command
from kaggle_digits.execution.machine import WORKER_MEMORY
from kaggle_digits.files import sha256, write_json
from kaggle_digits.hosts.local import DAILY_LIMIT
from kaggle_digits.runs.directory import create_run
from kaggle_digits.training.presets import find_preset

REAL_TENSORFLOW = doctor._tensorflow


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the import of TensorFlow, simulate a large machine, and import Kaggle's client again."""
    monkeypatch.setattr(doctor, "_tensorflow", lambda: Check("TensorFlow", "ok", "Version 0."))
    monkeypatch.setattr(doctor, "_memory_bytes", lambda: (64e9, 64e9))
    unload_client(monkeypatch)


@pytest.fixture
def rehearsal(tmp_path: Path) -> Workspace:
    """A workspace of a local competition, with small data copied by hand."""
    workspace = Workspace.at(tmp_path / "work", "rehearsal")
    write_files(workspace.data, competition_files())
    return workspace


def by_name(workspace: Workspace) -> dict[str, Check]:
    checks = examine(workspace)
    for check in checks:
        assert check.words.endswith("."), check
        assert (check.remedy == "") == (check.state == "ok"), check
        assert check.remedy == "" or check.remedy.endswith("."), check
    return {check.name: check for check in checks}


def assert_check(check: Check, state: str, words: str, remedy: str = "") -> None:
    assert check.state == state, check
    assert re.search(words, check.words), check
    # An empty pattern would be found in any remedy.
    assert re.search(remedy, check.remedy) if remedy else check.remedy == "", check


def save(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_examine_reports_ready_for_kaggle(workspace: Workspace, kaggle: KaggleServer) -> None:
    download(workspace)
    checks = examine(workspace)
    assert [(f.name, f.state) for f in checks] == [
        (name, "ok")
        for name in (
            "Python",
            "TensorFlow",
            "Memory",
            "Disk",
            "Credentials",
            "Kaggle",
            "Rules",
            "Submissions",
            "Kaggle GPUs",
            "Data",
            "Runs",
        )
    ]
    words = {f.name: f.words for f in checks}
    assert words["Credentials"] == "The credentials from KAGGLE_USERNAME and KAGGLE_KEY are used."
    assert words["Submissions"] == "10 left today."
    assert words["Kaggle GPUs"].startswith(
        "3.5 of 30 GPU hours are left this week, and the quota is reset on 2026-12-05"
    )
    assert words["Data"] == "100 training rows and 30 test rows, complete and valid."
    # The only requests: one file, the storage it redirects to, the limits, and the quota.
    assert kaggle.requests == [
        "DownloadDataFile",
        "sample_submission.csv",
        "GetSubmissionLimits",
        "GetAcceleratorQuotaStatistics",
    ]


def test_examine_reports_ready_for_local_host(rehearsal: Workspace) -> None:
    checks = by_name(rehearsal)
    assert is_ready(list(checks.values()))
    assert {"Kaggle", "Rules"}.isdisjoint(checks)
    assert_check(checks["Credentials"], "ok", "needs no credentials")
    assert_check(checks["Submissions"], "ok", rf"^{DAILY_LIMIT} of {DAILY_LIMIT} left today")
    assert_check(checks["Data"], "ok", "100 training rows and 30 test rows, valid, copied by hand")


def test_examine_changes_no_files(rehearsal: Workspace) -> None:
    before = tree(rehearsal.root)
    examine(rehearsal)
    assert tree(rehearsal.root) == before
    examine(Workspace.at(rehearsal.root / "elsewhere", "rehearsal-full"))
    assert not (rehearsal.root / "elsewhere").exists()


# The machine


def test_pythons_and_keras_match_pyproject() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    first, end = (".".join(map(str, version)) for version in PYTHONS)
    assert project["requires-python"] == f">={first},<{end}"
    assert f"keras>={'.'.join(map(str, KERAS))}" in project["dependencies"]


@pytest.mark.parametrize(("version", "state"), [("3.8.0", "problem"), ("3.11.3", "problem"), ("3.12.0", "ok")])
def test_examine_checks_keras_version(monkeypatch: pytest.MonkeyPatch, version: str, state: str) -> None:
    monkeypatch.setattr(doctor, "_TENSORFLOW", """print('{"version": "9.9", "gpus": []}')""")
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"keras": version}[name])
    words, remedy = (
        (r"^Version 9\.9", "") if state == "ok" else (f"version {version}, but 3.12 is", "'keras>=3.12'")
    )
    assert_check(REAL_TENSORFLOW(), state, words, remedy)


@pytest.mark.parametrize(("version", "state"), [((3, 10), "problem"), ((3, 13), "ok"), ((3, 14), "problem")])
def test_examine_checks_python_version(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], state: str
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 1))
    assert_check(
        doctor._python(),
        state,
        r"^Version \d" if state == "ok" else r"^TensorFlow has no packages for Python \d",
        "" if state == "ok" else r"3\.11 or later, but before 3\.14",
    )


@pytest.mark.parametrize(
    ("script", "state", "words", "remedy"),
    [
        (
            "import os; os.kill(os.getpid(), 4)",
            "problem",
            "does not support instructions .* such as AVX",
            "another machine",
        ),
        ("import os; os.kill(os.getpid(), 11)", "problem", "ended by signal 11", "pip install"),
        ("import tensorflow_that_is_not_there", "problem", "ModuleNotFoundError: No module named", "pip install"),
        ("import sys; sys.exit(7)", "problem", "exit code 7", "pip install"),
        ("print('noise')", "problem", "exit code 0", "pip install"),
        ("import time; time.sleep(60)", "problem", "longer than 1 seconds", "later"),
        (
            """print('noise\\n{"version": "9.9", "gpus": []}')""",
            "ok",
            r"^Version 9\.9, on \d+ CPU .* no GPU; ",
            "",
        ),
        (
            """print('{"version": "9.9", "gpus": ["Fast One", "Other"]}')""",
            "ok",
            "and Fast One, Other; trains",
            "",
        ),
    ],
)
def test_examine_checks_tensorflow(
    monkeypatch: pytest.MonkeyPatch, script: str, state: str, words: str, remedy: str
) -> None:
    monkeypatch.setattr(doctor, "_TENSORFLOW", script)
    monkeypatch.setattr(doctor, "TENSORFLOW_TIMEOUT", 1.0 if "sleep" in script else 60.0)
    assert_check(REAL_TENSORFLOW(), state, words, remedy)


@pytest.mark.parametrize(("hidden", "state"), [(False, "warning"), (True, "ok")])
def test_examine_warns_if_tensorflow_does_not_find_the_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: bool, state: str
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_TENSORFLOW", """print('{"version": "9.9", "gpus": []}')""")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    check = REAL_TENSORFLOW()
    assert check.state == state
    assert ("pip install 'kaggle-digits[cuda]'" in check.remedy) is not hidden


@pytest.mark.slow
def test_examine_imports_no_tensorflow_from_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "executed"
    for name in ("json.py", "tensorflow.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    check = REAL_TENSORFLOW()
    assert not mark.exists()
    assert_check(check, "ok", r"^Version 2\.\d+\.\d+, on ")


@pytest.mark.parametrize(
    ("available", "state", "remedy"),
    [
        (4.0, "ok", ""),
        (3.9, "warning", "--workers 3"),
        (0.9, "problem", "Close other programs before training"),
    ],
)
def test_examine_checks_memory(monkeypatch: pytest.MonkeyPatch, available: float, state: str, remedy: str) -> None:
    monkeypatch.setattr("kaggle_digits.execution.machine.default_workers", lambda folds: 4)
    monkeypatch.setattr(doctor, "_memory_bytes", lambda: (64e9, available * WORKER_MEMORY))
    monkeypatch.setattr("kaggle_digits.execution.machine.memory", lambda: 1e12)
    assert_check(doctor._memory(), state, r"of 64\.0 GB are available; .* 1\.2 GB, and 4", remedy)


def test_examine_checks_memory_limit_of_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_digits.execution.machine.default_workers", lambda folds: 4)
    monkeypatch.setattr(doctor, "_memory_bytes", lambda: (64e9, 60e9))
    monkeypatch.setattr("kaggle_digits.execution.machine.memory", lambda: 2e9)
    assert_check(doctor._memory(), "warning", r"2\.0 GB of 2\.0 GB are available", "--workers 1")


def test_examine_reads_memory_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    total, available = doctor._memory_bytes()
    assert 1e8 < available <= total
    # Without /proc/meminfo, as on macOS, all memory counts as available.
    monkeypatch.setattr(Path, "read_text", lambda path: "no such line")
    assert doctor._memory_bytes() == (total, total)


@pytest.mark.parametrize("folder", ["data", "runs", "submissions"])
def test_examine_names_folder_that_cannot_be_written(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).write_text("a file instead of a folder")
    checks = by_name(Workspace.at(tmp_path, "rehearsal"))
    assert_check(checks["Disk"], "problem", f"{folder}/rehearsal cannot be written: Not a directory", "--root")


def test_examine_names_root_without_permission(monkeypatch: pytest.MonkeyPatch, rehearsal: Workspace) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Not with permission bits, because they do not apply to root, who may run the tests.
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    remedy = f"Fix the permissions of {rehearsal.data}"
    assert_check(by_name(rehearsal)["Disk"], "problem", "cannot be written: Permission denied", remedy)


def test_examine_names_link_to_a_drive_that_is_not_there(rehearsal: Workspace) -> None:
    rehearsal.runs.parent.symlink_to("/no-drive")
    words = "runs is a link to /no-drive, which does not exist"
    assert_check(by_name(rehearsal)["Disk"], "problem", words, "Connect the drive")


@pytest.mark.parametrize(("free", "state"), [(0.6e9, "ok"), (0.4e9, "problem")])
def test_examine_checks_free_space(
    monkeypatch: pytest.MonkeyPatch, rehearsal: Workspace, free: float, state: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    remedy = "" if state == "ok" else "Free some disk space"
    assert_check(doctor._disk(rehearsal), state, rf"^{free / 1e9} GB are free; .* 0\.5 GB", remedy)


# Credentials and Kaggle


def test_examine_reports_missing_credentials(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    checks = by_name(workspace)
    assert_check(checks["Credentials"], "problem", "no Kaggle credentials", "kaggle.com/settings/api")
    assert kaggle.requests == []
    assert {"Kaggle", "Rules", "Submissions"}.isdisjoint(checks)
    assert checks["Data"].state == "ok"


@pytest.mark.parametrize("source", ["variable", "kaggle.json"])
def test_examine_reports_incomplete_credentials(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.delenv("KAGGLE_USERNAME")
    if source == "kaggle.json":
        monkeypatch.delenv("KAGGLE_KEY")
        save(Path.home() / ".kaggle" / "kaggle.json", json.dumps({"key": KEY}))
    checks = by_name(workspace)
    assert_check(checks["Credentials"], "problem", "a Kaggle key but no username", "settings/api")
    assert kaggle.requests == []


@pytest.mark.parametrize("place", ["value", "path", "access_token"])
@pytest.mark.parametrize("key", ["none", "variables", "kaggle.json", "broken"])
def test_examine_names_ignored_credentials(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, place: str, key: str
) -> None:
    home, key_file = Path.home() / ".kaggle", Path.home() / ".kaggle" / "kaggle.json"
    if key != "variables":
        monkeypatch.delenv("KAGGLE_USERNAME")
        monkeypatch.delenv("KAGGLE_KEY")
    if key in ("kaggle.json", "broken"):
        save(key_file, json.dumps({"username": "ada", "key": KEY}) if key == "kaggle.json" else "{")
    token_file = home / "access_token" if place == "access_token" else home.parent / "token"
    if place != "value":
        save(token_file, TOKEN)
    if place != "access_token":
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN if place == "value" else str(token_file))
    used = str(token_file) if place == "access_token" else "KAGGLE_API_TOKEN"
    ignored = {"variables": "KAGGLE_USERNAME and KAGGLE_KEY", "kaggle.json": str(key_file)}.get(key)
    checks = by_name(workspace)
    if ignored:
        words = rf"^The credentials from {used} are used\. Those from {ignored} are ignored"
        assert_check(checks["Credentials"], "warning", words, "Remove those that you do not want to use")
    else:
        assert_check(checks["Credentials"], "ok", rf"^The credentials from {used} are used\.$")
    assert checks["Submissions"].words == "10 left today."


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604])
@pytest.mark.parametrize("place", ["kaggle.json", "access_token", "path"])
def test_examine_warns_when_others_can_read_credentials(
    monkeypatch: pytest.MonkeyPatch, mode: int, place: str
) -> None:
    path = Path.home() / ".kaggle" / place
    save(path, json.dumps({"username": "ada", "key": KEY}) if place == "kaggle.json" else TOKEN, mode)
    if place == "path":
        monkeypatch.setenv("KAGGLE_API_TOKEN", str(path))
    if mode == 0o600:
        assert_check(doctor._credentials(), "ok", "are used")
    else:
        remedy = f"chmod 600 {path}"
        assert_check(doctor._credentials(), "warning", f"Other users of this machine can read {path}", remedy)


def test_examine_works_with_read_only_home(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file instead of a folder")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    checks = by_name(workspace)
    assert {checks[name].state for name in ("Credentials", "Kaggle", "Rules", "Submissions")} == {"ok"}


@pytest.mark.parametrize("variable", ["KAGGLE_KEY", "KAGGLE_API_TOKEN"])
def test_examine_reports_rejected_credentials(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "KGAT_wrong")
    checks = by_name(workspace)
    assert_check(checks["Kaggle"], "problem", f"not accept the credentials from .*{variable}", "new token")
    assert {"Rules", "Submissions"}.isdisjoint(checks)
    assert not is_ready(list(checks.values()))


def test_examine_reports_rules_not_accepted(workspace: Workspace, kaggle: KaggleServer) -> None:
    kaggle.fail("DownloadDataFile", error(403, "You must accept this competition's rules"))
    checks = by_name(workspace)
    assert checks["Kaggle"].state == "ok"
    words, remedy = "You must accept this competition's rules", "kaggle.com/competitions/digit-recognizer/rules"
    assert_check(checks["Rules"], "problem", words, remedy)
    assert "Submissions" not in checks


def test_examine_works_offline(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(workspace)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    checks = by_name(workspace)
    assert_check(checks["Kaggle"], "warning", "cannot be reached", "training works offline")
    assert "Rules" not in checks
    assert is_ready(list(checks.values()))
    assert next_command(workspace, list(checks.values())).endswith(" train")


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("DownloadDataFile", error(503, "Busy")),
        ("DownloadDataFile", Fault(dropped=True)),
        ("DownloadDataFile", error(429, "Slow down", **{"Retry-After": "50"})),
        ("GetSubmissionLimits", error(503, "Busy")),
    ],
)
def test_examine_warns_on_server_error_after_one_request(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, call: str, fault: Fault
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    kaggle.fail(call, fault)
    checks = by_name(workspace)
    assert checks["Kaggle" if call == "DownloadDataFile" else "Submissions"].state == "warning"
    assert kaggle.count(call) == 1


def test_examine_stops_waiting_for_silent_server(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    timeouts: list[Any] = []
    send = requests.adapters.HTTPAdapter.send

    def record(adapter: Any, request: Any, **options: Any) -> Any:
        timeouts.append(options["timeout"])
        return send(adapter, request, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", record)
    by_name(workspace)
    assert timeouts
    assert set(timeouts) == {doctor.KAGGLE_TIMEOUT}


@pytest.mark.parametrize(
    ("limits", "state", "words"),
    [
        ({"numToday": 3, "numTotal": 9, "numAllowedNow": 2}, "ok", r"^2 left today"),
        ({"numToday": 5, "numTotal": 9, "numAllowedNow": 0}, "warning", "has been reached"),
        ({"numToday": 0, "numTotal": 0, "numAllowedNow": 0}, "ok", "reports the daily limit after your first"),
    ],
)
def test_examine_checks_allowance(
    workspace: Workspace, kaggle: KaggleServer, limits: dict, state: str, words: str
) -> None:
    kaggle.limits = limits
    assert_check(by_name(workspace)["Submissions"], state, words, "" if state == "ok" else "after midnight UTC")


def test_examine_checks_local_allowance(rehearsal: Workspace) -> None:
    from kaggle_digits.hosts.local import LocalHost

    host = LocalHost(rehearsal)
    host.create(host.upload(rehearsal.data / "sample_submission.csv"), "")
    assert_check(by_name(rehearsal)["Submissions"], "ok", "^9 of 10 left today")
    for _ in range(9):
        host.create(host.upload(rehearsal.data / "sample_submission.csv"), "")
    assert_check(by_name(rehearsal)["Submissions"], "warning", "has been reached", "after midnight UTC")
    (rehearsal.data / "host" / "submissions.json").write_text('{"submissions": [{}]}')
    assert_check(by_name(rehearsal)["Submissions"], "problem", "submissions.json is damaged", "Remove it")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"KAGGLE_KEY": "xyzzy-key"},
        {"KAGGLE_API_TOKEN": TOKEN},
        {"KAGGLE_API_TOKEN": "KGAT_xyzzy"},
        {"KAGGLE_API_TOKEN": "KGAT_xyz zy"},
        {"KAGGLE_API_TOKEN": "KGAT_xyzzy" * 50},
        {"KAGGLE_USERNAME": "", "KAGGLE_KEY": "xyzzy-key"},
    ],
)
def test_examine_shows_no_secret(
    workspace: Workspace,
    kaggle: KaggleServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    environment: dict[str, str],
) -> None:
    save(Path.home() / ".kaggle" / "kaggle.json", json.dumps({"username": "ada", "key": KEY}), 0o644)
    for name, value in (environment | {"VERBOSE": "1"}).items():
        monkeypatch.setenv(name, value)
    for options in ([], ["--json"]):
        cli.main(["--root", str(workspace.root), "doctor", *options], standalone_mode=False)
    shown = "".join(capfd.readouterr())
    assert "Credentials" in shown
    for secret in (KEY, TOKEN, "KGAT", "xyz", "zzy"):
        assert secret not in shown


# Data and runs


def remove_train(folder: Path) -> None:
    (folder / "train.csv").unlink()


def truncate_train(folder: Path) -> None:
    content = (folder / "train.csv").read_bytes()
    (folder / "train.csv").write_bytes(content[: len(content) // 2])


def change_test(folder: Path) -> None:
    content = (folder / "test.csv").read_bytes()
    (folder / "test.csv").write_bytes(content[:-3] + b"9\r\n")


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def misname_manifest(folder: Path) -> None:
    write_json(folder / "manifest.json", {"files": {"train.csv": "no object"}})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_train, r"has no train\.csv\.$"),
        (truncate_train, r"train\.csv is not the file that was downloaded\.$"),
        (change_test, r"test\.csv is not the file that was downloaded"),
        (break_manifest, r"manifest\.json is damaged"),
        (misname_manifest, r"manifest\.json is damaged"),
    ],
)
def test_examine_reports_damaged_files(rehearsal: Workspace, damage: Callable[[Path], None], words: str) -> None:
    download(rehearsal)
    assert by_name(rehearsal)["Data"].state == "ok"
    damage(rehearsal.data)
    found = by_name(rehearsal)["Data"]
    command = f"kaggle-digits --competition rehearsal --root {rehearsal.root} download"
    assert_check(found, "problem", words, f"{command}\\.$")
    cli.main(command.split()[1:], standalone_mode=False)
    assert by_name(rehearsal)["Data"].state == "ok"


def test_examine_rejects_invalid_files_copied_by_hand(rehearsal: Workspace) -> None:
    (rehearsal.data / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    found = by_name(rehearsal)["Data"]
    assert_check(
        found, "problem", re.escape(f"{rehearsal.data / 'test.csv'} has 30 rows but "), "download --force"
    )


@pytest.mark.parametrize(
    ("competition", "root", "command"),
    [
        ("digit-recognizer", ".", "kaggle-digits download"),
        ("rehearsal", ".", "kaggle-digits --competition rehearsal download"),
        ("rehearsal-full", "my digits", "kaggle-digits --competition rehearsal-full --root 'my digits' download"),
    ],
)
def test_examine_warns_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, competition: str, root: str, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.at(root, competition)
    found = by_name(workspace)
    assert_check(
        found["Data"], "warning", "There are no files in .* yet", re.escape(f"Download them with: {command}.")
    )
    assert next_command(workspace, list(found.values())) == command


def test_next_command_depends_on_runs(rehearsal: Workspace) -> None:
    def result() -> tuple[Check, str]:
        checks = examine(rehearsal)
        return checks[-1], next_command(rehearsal, checks)

    start = f"kaggle-digits --competition rehearsal --root {rehearsal.root}"
    assert result() == (Check("Runs", "ok", "0 runs so far."), f"{start} train")
    spec = {
        "competition": "rehearsal",
        "preset": "lenet",
        "folds": 2,
        "seed": 0,
        "settings": find_preset("lenet").settings.model_dump(),
        "data": {"train.csv": "0" * 64, "test.csv": "0" * 64},
    }
    run = create_run(rehearsal.runs / "first", spec, ["kaggle-digits", "train", "--set", "epochs=1 "])
    check, command = result()
    remedy = rf"^Continue with: {start} train --set 'epochs=1 '\.$"
    assert_check(check, "warning", r"^1 run so far\. first is unfinished\.$", remedy)
    assert command == f"{start} train --set 'epochs=1 '"
    run.with_status("finished")
    assert result() == (Check("Runs", "ok", "1 run so far."), f"{start} submit")
    ledger = rehearsal.submissions / "ledger.csv"
    file = rehearsal.submissions / "first" / "submission.csv"
    write_files(file.parent, {file.name: b"the submitted content"})
    row = f"2026-11-24T10:00:00+00:00,first,{sha256(file)},abc,COMPLETE,0.99,0.98,1"
    ledger.write_text(f"time,run,sha256,ref,status,score,cv,rank\n{row}\n")
    assert result()[1] == f"{start} score"
    (run.path / "run.json").write_text("{}")
    check, command = result()
    assert_check(check, "warning", "first is damaged", f"Remove {run.path} and train it again")
    assert command == f"{start} train"


def test_examine_reports_unexpected_errors(rehearsal: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(workspace: Workspace) -> list[object]:
        raise TypeError("token=secret")

    monkeypatch.setattr("kaggle_digits.runs.summary.summarise_runs", fail)
    assert_check(
        by_name(rehearsal)["Runs"], "problem", "Cannot check Runs: TypeError", "remove it if it is damaged"
    )


def test_examine_names_file_without_permission(rehearsal: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    download(rehearsal)
    monkeypatch.setattr("kaggle_digits.data.download.sha256", refuse)
    words = rf"Cannot check {rehearsal.data / 'train.csv'}: Permission denied"
    assert_check(by_name(rehearsal)["Data"], "problem", words, "Fix its permissions")


# The command


def test_doctor_json_with_real_tensorflow(
    run_cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    result = run_cli("doctor", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert (document.keys(), document["competition"]) == ({"competition", "ready", "findings"}, "digit-recognizer")
    assert document["ready"] is False
    checks = {check["name"]: check for check in document["findings"]}
    assert all(check.keys() == {"name", "state", "words", "remedy"} for check in document["findings"])
    assert checks["TensorFlow"]["state"] == "ok"
    assert re.match(r"Version 2\.\d+\.\d+, on \d+ CPU cores? and ", checks["TensorFlow"]["words"])
    assert checks["Credentials"]["state"] == "problem"
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


@pytest.mark.parametrize(
    ("damage", "end"),
    [
        (None, r"^Ready, with 1 warning\. Next: kaggle-digits --competition rehearsal download$"),
        ("data", r"^1 problem found\. Fix what is marked, then run doctor again\.$"),
    ],
)
def test_doctor_output_fits_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, damage: str | None, end: str
) -> None:
    if damage:
        write_files(tmp_path / "data" / "rehearsal", {"train.csv": b""})
    workspace = Workspace.at(tmp_path, "rehearsal")
    checks = examine(workspace)
    terminal = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80, highlight=False)
    with monkeypatch.context() as patch:
        patch.setattr(console, "out", lambda: terminal)
        console.show_checks(checks, "kaggle-digits --competition rehearsal download")
    lines = terminal.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert re.search(r"^. +Python +Version 3", lines[0])
    monkeypatch.chdir(tmp_path)
    cli.main(["--competition", "rehearsal", "doctor"], standalone_mode=False)
    shown = capfd.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert re.search(end, lines[-1]), lines[-1]
    assert "\x1b" not in shown.out
    assert re.search(r"^ok +Python +Version 3", shown.out, re.MULTILINE)
    assert re.search(r"^ +Download them with: kaggle-digits", shown.out, re.MULTILINE)
    assert not any(line.endswith(" ") for line in lines)


def test_doctor_reports_that_everything_is_ready(
    rehearsal: Workspace, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rehearsal.root)
    cli.main(["--competition", "rehearsal", "doctor"], standalone_mode=False)
    assert capfd.readouterr().out.endswith(
        "Everything is ready. Next: kaggle-digits --competition rehearsal train\n"
    )


@pytest.mark.parametrize("no_color", ["", "1"])
def test_doctor_marks_results_in_terminal_without_color(
    rehearsal: Workspace, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, no_color: str
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "NO_COLOR": no_color}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.chdir(rehearsal.root)
    os.remove(rehearsal.data / "test.csv")
    cli.main(["--competition", "rehearsal", "doctor"], standalone_mode=False)
    shown = capfd.readouterr().out
    assert "✓" in shown
    assert "✗" in shown
    assert bool(re.search(r"\x1b\[[\d;]*3[0-9]m", shown)) == (no_color == "")
