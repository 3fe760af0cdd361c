"""Tests of `kaggle_digits.doctor`: each check, with and without a problem."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import requests
from conftest import competition_files, files_with_other_names, write_files
from kaggle_server import KEY, TOKEN, Fault, KaggleServer, error
from rich.console import Console

from kaggle_digits import Workspace, console, doctor, download, find_run
from kaggle_digits.doctor import examine, next_command
from kaggle_digits.files import sha256
from kaggle_digits.hosts.kaggle.client import SHORT_TIMEOUT
from kaggle_digits.hosts.local import LocalHost
from kaggle_digits.reports.facts import Finding

REAL_TENSORFLOW = doctor._tensorflow
BUSY = error(429, "", **{"Retry-After": "50"})
RULES = "You must accept this competition's rules"
NO_GPU = """print('["9.9", []]')"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the import of TensorFlow."""
    monkeypatch.setattr(doctor, "_tensorflow", lambda: ("Version 0.", ""))


@pytest.fixture
def rehearsal(tmp_path: Path) -> Workspace:
    """A workspace of a local competition, with small data copied by hand."""
    workspace = Workspace.at(tmp_path / "work", "rehearsal")
    write_files(workspace.data, competition_files())
    return workspace


def by_title(workspace: Workspace) -> dict[str, Finding]:
    found = examine(workspace)
    for finding in found:
        assert finding.text.endswith("."), finding
        assert (finding.remedy == "") == (finding.severity == "ok"), finding
        assert finding.remedy == "" or finding.remedy.endswith("."), finding
    return {finding.title: finding for finding in found}


def assert_finding(finding: Finding, severity: str, text: str, remedy: str = "") -> None:
    assert finding.severity == severity, finding
    assert re.search(text, finding.text), finding
    # An empty pattern would be found in any remedy.
    assert re.search(remedy, finding.remedy) if remedy else finding.remedy == "", finding


def save(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_examine_reports_ready_for_kaggle(workspace: Workspace, kaggle: KaggleServer) -> None:
    download(workspace)
    found = by_title(workspace)
    titles = "TensorFlow Disk Credentials Kaggle Rules Submissions Kaggle_GPUs Data"
    assert [title.replace(" ", "_") for title in found] == titles.split()
    assert {finding.severity for finding in found.values()} == {"ok"}
    assert found["Credentials"].text == "The credentials from KAGGLE_USERNAME and KAGGLE_KEY are used."
    assert found["Submissions"].text == "10 left today."
    hours = "3.5 of 30 GPU hours are left this week, and the quota is reset on 2026-12-05"
    assert found["Kaggle GPUs"].text.startswith(hours)
    assert found["Data"].text == "100 training rows and 30 test rows, complete and valid."
    # The only requests: one file, the storage it redirects to, the limits, and the quota.
    assert kaggle.requests == [
        "DownloadDataFile",
        "sample_submission.csv",
        "GetSubmissionLimits",
        "GetAcceleratorQuotaStatistics",
    ]
    kaggle.limits = dict.fromkeys(("numToday", "numTotal", "numAllowedNow"), 0)
    assert_finding(by_title(workspace)["Submissions"], "ok", "reports the daily limit after your first")


def test_examine_asks_for_the_names_of_the_files_of_another_competition(
    tmp_path: Path, kaggle: KaggleServer
) -> None:
    kaggle.competition, kaggle.files = "uni-digits", files_with_other_names("uni-digits")
    assert_finding(by_title(Workspace.at(tmp_path, "uni-digits"))["Rules"], "ok", "accepted")
    assert kaggle.requests[:3] == ["ListDataFiles", "DownloadDataFile", "sampleSubmission.csv"]
    kaggle.files = {"images.zip": b""}
    assert_finding(by_title(Workspace.at(tmp_path, "uni-digits"))["Kaggle"], "problem", "has: none", "--from")


def test_examine_changes_no_files_of_a_local_competition(rehearsal: Workspace) -> None:
    def tree() -> dict[Path, tuple[int, bytes]]:
        files = [path for path in rehearsal.root.rglob("*") if path.is_file() and path.parent.name != "cache"]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before, found = tree(), by_title(rehearsal)
    assert tree() == before
    assert next_command(rehearsal, list(found.values()))
    assert {"Kaggle", "Rules"}.isdisjoint(found)
    assert_finding(found["Credentials"], "ok", "needs no credentials")
    assert_finding(found["Data"], "ok", "100 training rows and 30 test rows, valid, copied by hand")
    examine(Workspace.at(rehearsal.root / "elsewhere", "rehearsal-full"))
    assert not (rehearsal.root / "elsewhere").exists()


# The machine


@pytest.mark.parametrize(
    ("script", "severity", "text", "remedy"),
    [
        ("import os; os.kill(os.getpid(), 4)", "problem", "such as AVX", "another machine"),
        ("import no_module", "problem", "ModuleNotFoundError: No module", "pip install"),
        (f"print('noise'); {NO_GPU}", "ok", r"^Version 9\.9, on \d+ CPU .* no GPU; trains 4 folds", ""),
        ("""print('["9.9", ["Fast", "Other"]]')""", "ok", "and Fast, Other; trains", ""),
    ],
)
def test_examine_imports_tensorflow(
    monkeypatch: pytest.MonkeyPatch, script: str, severity: str, text: str, remedy: str
) -> None:
    monkeypatch.setattr(doctor, "default_workers", lambda folds: 4)
    monkeypatch.setattr(doctor, "_TENSORFLOW", script)
    assert_finding(doctor._run_check("", REAL_TENSORFLOW), severity, text, remedy)


@pytest.mark.parametrize("hidden", [False, True])
def test_examine_warns_if_tensorflow_does_not_find_the_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: bool
) -> None:
    save(tmp_path / "nvidia-smi", "#!/bin/sh\n", 0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_TENSORFLOW", NO_GPU)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert ("pip install 'kaggle-digits[cuda]'" in REAL_TENSORFLOW()[1]) is not hidden


@pytest.mark.slow
def test_examine_imports_no_tensorflow_from_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "executed"
    for name in ("json.py", "tensorflow.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert_finding(doctor._run_check("", REAL_TENSORFLOW), "ok", r"^Version 2\.\d+\.\d+, on \d+ CPU cores? and ")
    assert not mark.exists()


def test_examine_names_folder_that_cannot_be_written(
    rehearsal: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal.runs.parent.write_text("a file instead of a folder")
    text = f"{rehearsal.runs} cannot be written: Not a directory"
    remedy = f"Fix the permissions of {rehearsal.runs.parent}, or choose another folder with --root"
    assert_finding(by_title(rehearsal)["Disk"], "problem", text, remedy)
    rehearsal.runs.parent.unlink()
    rehearsal.runs.parent.symlink_to("/no-drive")
    text = "runs is a link to /no-drive, which does not exist"
    assert_finding(by_title(rehearsal)["Disk"], "problem", text, "Connect the drive")
    rehearsal.runs.parent.unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0.4e9))
    assert_finding(by_title(rehearsal)["Disk"], "problem", r"^0\.4 GB are", "Free some disk")


# Credentials and Kaggle


@pytest.mark.parametrize(
    "case",
    [
        ({"USERNAME": "", "KEY": ""}, {}, "problem", "Credentials", "no Kaggle credentials", "settings/api"),
        ({"KEY": "KGAT_wrong"}, {}, "problem", "Kaggle", "not accept .* KAGGLE_KEY", "new token"),
        ({}, {"DownloadDataFile": Fault(dropped=True)}, "warning", "Kaggle", "cannot be reached", "the network"),
        ({}, {"DownloadDataFile": BUSY}, "warning", "Kaggle", "fewer requests", "Try again"),
        ({}, {"DownloadDataFile": error(403, RULES)}, "problem", "Rules", RULES, "/digit-recognizer/rules"),
        ({}, {"GetSubmissionLimits": error(503, "Busy")}, "warning", "Submissions", "Busy", "try again"),
    ],
)
def test_examine_reports_what_kaggle_refuses_after_one_request(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, case: Any
) -> None:
    environment, failing, severity, title, text, remedy = case
    timeouts, send = set(), requests.adapters.HTTPAdapter.send

    def record(adapter: Any, request: Any, **options: Any) -> Any:
        timeouts.add(options["timeout"])
        return send(adapter, request, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", record)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    for name, value in environment.items():
        monkeypatch.setenv(f"KAGGLE_{name}", value)
    for call, fault in failing.items():
        kaggle.fail(call, fault)
    found = by_title(workspace)
    assert_finding(found[title], severity, text, remedy)
    titles = ["Credentials", "Kaggle", "Rules", "Submissions"]
    assert {found[before].severity for before in titles[: titles.index(title)]} <= {"ok"}
    assert set(titles[titles.index(title) + 1 :]).isdisjoint(found)
    assert found["Data"].severity == "ok"
    assert (next_command(workspace, list(found.values())) == "") == (severity == "problem")
    assert timeouts == (set() if title == "Credentials" else {SHORT_TIMEOUT})
    assert all(kaggle.count(call) == 1 for call in failing)


@pytest.mark.parametrize("content", ["{", json.dumps({"username": "ada", "key": KEY})])
def test_examine_names_ignored_credentials(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    save(Path.home() / ".kaggle" / "kaggle.json", content)
    text, remedy = doctor._credentials()
    assert text.startswith("The credentials from KAGGLE_API_TOKEN are used.")
    assert (re.search(r" Those from .*kaggle\.json are ignored", text) is None) == (content == "{")
    assert ("Remove those that you do not want to use" in remedy) == (content != "{")


def test_examine_warns_when_others_can_read_credentials() -> None:
    path = Path.home() / ".kaggle" / "access_token"
    for mode, found in ((0o600, ""), (0o640, f"chmod 600 {path}"), (0o604, f"chmod 600 {path}")):
        save(path, TOKEN, mode)
        text, remedy = doctor._credentials()
        assert (f"Other users of this machine can read {path}" in text) == bool(found)
        assert found in remedy


def test_examine_checks_local_allowance(rehearsal: Workspace) -> None:
    host = LocalHost(rehearsal)
    for _ in range(10):
        host.create(host.upload(rehearsal.data / "sample_submission.csv"), "")
    assert_finding(by_title(rehearsal)["Submissions"], "warning", "has been reached", "after midnight UTC")
    (rehearsal.data / "host" / "submissions.json").write_text('{"submissions": [{}]}')
    assert_finding(by_title(rehearsal)["Submissions"], "problem", "submissions.json is damaged", "Remove it")


@pytest.mark.parametrize("environment", [{"KAGGLE_KEY": "xyzzy-key"}, {"KAGGLE_API_TOKEN": "KGAT_xyz zy"}])
def test_examine_shows_no_secret(
    kaggle: KaggleServer, call_cli: Callable[..., Any], environment: dict[str, str]
) -> None:
    save(Path.home() / ".kaggle" / "kaggle.json", json.dumps({"username": "ada", "key": KEY}), 0o644)
    shown = call_cli("doctor", "--json", VERBOSE="1", **environment)
    assert "Credentials" in shown.stdout
    assert not re.search(f"{KEY}|KGAT|xyz|zzy", shown.stdout + shown.stderr)


# Data and runs


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("train.csv", lambda old: old[:9999], r"train\.csv is damaged"),
        ("test.csv", lambda old: old[:-3] + b"9\r\n", r"test\.csv is not the file that was downloaded"),
        ("sample_submission.csv", lambda old: b"ImageId,Label\n1,0\n", r"test\.csv has \d+ rows but "),
    ],
)
def test_examine_reports_damaged_files(
    workspace: Workspace, kaggle: KaggleServer, name: str, change: Callable[[bytes], bytes], text: str
) -> None:
    download(workspace)
    path = workspace.data / name
    path.write_bytes(change(path.read_bytes()))
    assert_finding(by_title(workspace)["Data"], "problem", text, "command: download")
    path.unlink()
    assert_finding(by_title(workspace)["Data"], "problem", f"{name} is missing", "command: download")


def test_examine_warns_without_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.at("my digits", "rehearsal-full")
    found = by_title(workspace)
    command = "kaggle-digits --competition rehearsal-full --root 'my digits' download"
    remedy = f"Download them with: {command}\\."
    assert_finding(found["Data"], "warning", "There are no files in .* yet", remedy)
    assert next_command(workspace, list(found.values())) == command


def test_next_command_depends_on_runs(trained_workspace: Workspace, tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path / "copy", "rehearsal")
    found = [Finding("ok", "Data", "")]
    start = f"kaggle-digits --competition rehearsal --root {workspace.root}"
    assert next_command(workspace, found) == f"{start} train"
    shutil.copytree(trained_workspace.root, workspace.root)
    run = find_run(workspace, "first")
    assert next_command(workspace, found) == f"{start} submit"
    file = workspace.submissions / "first" / "submission.csv"
    row = f"2026-11-24T10:00:00+00:00,first,{sha256(file)},abc,COMPLETE,0.99,0.98,1"
    (workspace.submissions / "ledger.csv").write_text(f"time,run,sha256,ref,status,score,cv,rank\n{row}\n")
    assert next_command(workspace, found) == f"{start} score"
    run.with_status("unfinished")
    assert next_command(workspace, found) == run.command()
    (run.path / "run.json").write_text("{}")
    assert next_command(workspace, found) == f"{start} train"
    (workspace.submissions / "ledger.csv").write_text("damaged")
    assert next_command(workspace, found) == f"{start} runs"


def test_examine_reports_unexpected_errors(rehearsal: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = PermissionError(13, "Permission denied", "/a/file")
    for raised, text in ((TypeError("token=secret"), "Data: TypeError"), (refused, "/a/file: PermissionError")):
        monkeypatch.setattr(doctor, "load_data", Mock(side_effect=raised))
        assert_finding(by_title(rehearsal)["Data"], "problem", f"^Cannot check {text}\\.$", "Fix its permissions")


# The command


def test_doctor_json_has_a_check_per_line(call_cli: Callable[..., Any], tmp_path: Path) -> None:
    result = call_cli("doctor", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert (document.keys(), document["competition"]) == ({"competition", "ready", "findings"}, "digit-recognizer")
    assert document["ready"] is False
    assert all(check.keys() == {"name", "state", "words", "remedy"} for check in document["findings"])
    checks = {check["name"]: check for check in document["findings"]}
    assert (checks["TensorFlow"]["state"], checks["Credentials"]["state"]) == ("ok", "problem")
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


@pytest.mark.parametrize(
    ("files", "end"),
    [
        ({}, "Ready, with 1 warning. Next: kaggle-digits --competition rehearsal download"),
        ({"train.csv": b""}, "1 problem found. Fix what is marked, then run doctor again."),
        (competition_files(), "Everything is ready. Next: kaggle-digits --competition rehearsal train"),
    ],
)
def test_doctor_prints_plain_lines_into_a_file(
    tmp_path: Path, call_cli: Callable[..., Any], files: dict[str, bytes], end: str
) -> None:
    write_files(tmp_path / "data" / "rehearsal", files)
    lines = call_cli("--competition", "rehearsal", "doctor").stdout.splitlines()
    assert lines[-1] == end
    assert re.match(r"ok +TensorFlow +Version 0", lines[0])
    assert any(line.startswith("  ") for line in lines) == ("Everything" not in end)  # lines with remedies
    assert not any(line.endswith(" ") or "\x1b" in line for line in lines)


@pytest.mark.parametrize("color_system", [None, "standard"])
def test_show_checks_has_signs_and_fits_80_columns_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, color_system: Any
) -> None:
    checks = [*examine(Workspace.at(tmp_path, "rehearsal")), Finding("problem", "Last", "Wrong.", "Fix it.")]
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, color_system=color_system, width=80, highlight=False)
    monkeypatch.setattr(console, "out", lambda: terminal)
    console.show_checks(checks, "")
    shown = stream.getvalue()
    colored = [sign in shown for sign in ("\x1b[32m✓", "\x1b[1;33m!", "\x1b[1;31m✗")]
    assert colored == [color_system is not None] * 3
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("✓  TensorFlow   Version 0")
    assert {line[0] for line in lines[:-1]} == {"✓", "!", "✗", " "}
