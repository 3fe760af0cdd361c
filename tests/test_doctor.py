"""Tests of `kaggle_digits.doctor`: each check, with and without a problem."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import requests
from conftest import competition_files, write_files
from kaggle_server import KEY, TOKEN, Fault, KaggleServer, error
from rich.console import Console

from kaggle_digits import Workspace, console, doctor, download
from kaggle_digits.doctor import KERAS, PYTHONS, examine, is_ready, next_command
from kaggle_digits.files import sha256
from kaggle_digits.hosts.local import LocalHost
from kaggle_digits.reports.facts import Finding
from kaggle_digits.runs.directory import create_run
from kaggle_digits.training.presets import find_preset

REAL_TENSORFLOW, REAL_MEMORY = doctor._tensorflow, doctor._available_memory
OLD_KERAS = {"metadata.version": {"keras": "3.11.3"}.__getitem__}
LITTLE_SPACE = SimpleNamespace(free=0.4e9)
BUSY = error(429, "", **{"Retry-After": "50"})
RULES = "You must accept this competition's rules"
ANY = Workspace.at()
NO_GPU = """print('["9.9", []]')"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the import of TensorFlow, and simulate a large machine."""
    monkeypatch.setattr(doctor, "_tensorflow", lambda workspace: Finding("ok", "TensorFlow", "Version 0."))
    monkeypatch.setattr(doctor, "memory", lambda: 64e9)
    monkeypatch.setattr(doctor, "_available_memory", lambda: 64e9)


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
    titles = "Python TensorFlow Memory Disk Credentials Kaggle Rules Submissions Kaggle_GPUs Data Runs"
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


def test_examine_changes_no_files_of_a_local_competition(rehearsal: Workspace) -> None:
    def tree() -> dict[Path, tuple[int, bytes]]:
        files = [path for path in rehearsal.root.rglob("*") if path.is_file() and path.parent.name != "cache"]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before, found = tree(), by_title(rehearsal)
    assert tree() == before
    assert is_ready(list(found.values()))
    assert {"Kaggle", "Rules"}.isdisjoint(found)
    assert_finding(found["Credentials"], "ok", "needs no credentials")
    assert_finding(found["Data"], "ok", "100 training rows and 30 test rows, valid, copied by hand")
    examine(Workspace.at(rehearsal.root / "elsewhere", "rehearsal-full"))
    assert not (rehearsal.root / "elsewhere").exists()


# The machine


def test_pythons_and_keras_match_pyproject() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    first, end = (".".join(map(str, version)) for version in PYTHONS)
    assert project["requires-python"] == f">={first},<{end}"
    assert f"keras>={'.'.join(map(str, KERAS))}" in project["dependencies"]


def script(code: str) -> dict[str, Any]:
    return {"_TENSORFLOW": code}


def memory(limit: float, available: float) -> dict[str, Any]:
    return {"memory": lambda: limit * 1e9, "_available_memory": lambda: available * 1e9}


@pytest.mark.parametrize(
    ("name", "patches", "severity", "text", "remedy"),
    [
        ("python", {"sys.version_info": (3, 10, 9)}, "problem", "no packages for", r"3\.11 or later"),
        ("python", {"sys.version_info": (3, 13, 9)}, "ok", r"^Version \d", ""),
        ("python", {"sys.version_info": (3, 14, 0)}, "problem", "no packages for", r"before 3\.14"),
        ("tensorflow", script("import os; os.kill(os.getpid(), 4)"), "problem", "such as AVX", "another machine"),
        ("tensorflow", script("import os; os.kill(os.getpid(), 9)"), "problem", "exit code -9", "pip install"),
        ("tensorflow", script("import no_module"), "problem", "ModuleNotFoundError: No module", "pip install"),
        ("tensorflow", script(NO_GPU) | OLD_KERAS, "problem", r"3\.11\.3, but 3\.12 is", "'keras>=3.12'"),
        ("tensorflow", script(f"print('noise'); {NO_GPU}"), "ok", r"^Version 9\.9, on \d+ CPU .* no GPU; ", ""),
        ("tensorflow", script("""print('["9.9", ["Fast", "Other"]]')"""), "ok", "and Fast, Other; trains", ""),
        ("memory", memory(64, 4.81), "ok", r"^4\.8 GB of 64\.0 GB are .* 1\.2 GB, and 4", ""),
        ("memory", memory(64, 4.7), "warning", r"^4\.7 GB", "--workers 3"),
        ("memory", memory(64, 1.1), "problem", r"^1\.1 GB", "Close other programs"),
        ("memory", memory(2, 60), "warning", r"^2\.0 GB of 2\.0 GB are", "--workers 1"),  # in a container
        ("disk", {"shutil.disk_usage": lambda path: LITTLE_SPACE}, "problem", r"^0\.4 GB are", "Free some disk"),
    ],
)
def test_examine_checks_the_machine(
    monkeypatch: pytest.MonkeyPatch, name: str, patches: dict[str, Any], severity: str, text: str, remedy: str
) -> None:
    check = REAL_TENSORFLOW if name == "tensorflow" else getattr(doctor, f"_{name}")
    for attribute, value in ({"default_workers": lambda folds: 4} | patches).items():
        monkeypatch.setattr(f"kaggle_digits.doctor.{attribute}", value)
    assert_finding(check(ANY), severity, text, remedy)


def test_available_memory_is_that_of_this_machine() -> None:
    assert REAL_MEMORY() > 1e8


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
    found = REAL_TENSORFLOW(ANY)
    assert found.severity == ("ok" if hidden else "warning")
    assert ("pip install 'kaggle-digits[cuda]'" in found.remedy) is not hidden


@pytest.mark.slow
def test_examine_imports_no_tensorflow_from_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "executed"
    for name in ("json.py", "tensorflow.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert_finding(REAL_TENSORFLOW(ANY), "ok", r"^Version 2\.\d+\.\d+, on \d+ CPU cores? and ")
    assert not mark.exists()


def test_examine_names_folder_that_cannot_be_written(rehearsal: Workspace) -> None:
    rehearsal.runs.parent.write_text("a file instead of a folder")
    text = f"{rehearsal.runs} cannot be written: Not a directory"
    remedy = f"Fix the permissions of {rehearsal.runs.parent}, or choose another folder with --root"
    assert_finding(by_title(rehearsal)["Disk"], "problem", text, remedy)
    rehearsal.runs.parent.unlink()
    rehearsal.runs.parent.symlink_to("/no-drive")
    text = "runs is a link to /no-drive, which does not exist"
    assert_finding(by_title(rehearsal)["Disk"], "problem", text, "Connect the drive")


# Credentials and Kaggle


@pytest.mark.parametrize(
    "case",
    [
        ({"USERNAME": "", "KEY": ""}, {}, "problem", "Credentials", "no Kaggle credentials", "settings/api"),
        ({"KEY": "KGAT_wrong"}, {}, "problem", "Kaggle", "not accept .* KAGGLE_KEY", "new token"),
        ({}, {"DownloadDataFile": Fault(dropped=True)}, "warning", "Kaggle", "cannot be reached", "the network"),
        ({}, {"DownloadDataFile": BUSY}, "warning", "Kaggle", "", "try again"),
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
    assert is_ready(list(found.values())) == (severity == "warning")
    assert timeouts == (set() if title == "Credentials" else {doctor.KAGGLE_TIMEOUT})
    assert all(kaggle.count(call) == 1 for call in failing)


@pytest.mark.parametrize("ignored", ["KAGGLE_USERNAME and KAGGLE_KEY", "kaggle.json", "a broken kaggle.json"])
def test_examine_names_ignored_credentials(
    workspace: Workspace, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    if "kaggle.json" in ignored:
        monkeypatch.delenv("KAGGLE_USERNAME")
        monkeypatch.delenv("KAGGLE_KEY")
        content = "{" if "broken" in ignored else json.dumps({"username": "ada", "key": KEY})
        save(Path.home() / ".kaggle" / "kaggle.json", content)
    found = by_title(workspace)
    text = r"^The credentials from KAGGLE_API_TOKEN are used\."
    if "broken" in ignored:
        assert_finding(found["Credentials"], "ok", text + "$")
    else:
        text += f" Those from .*{ignored} are ignored"
        assert_finding(found["Credentials"], "warning", text, "Remove those that you do not want to use")
    assert found["Submissions"].text == "10 left today."


@pytest.mark.parametrize("place", ["kaggle.json", "access_token", "path"])
def test_examine_warns_when_others_can_read_credentials(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    path = Path.home() / ".kaggle" / place
    save(path, json.dumps({"username": "ada", "key": KEY}) if place == "kaggle.json" else TOKEN)
    if place == "path":
        monkeypatch.setenv("KAGGLE_API_TOKEN", str(path))
    assert_finding(doctor._credentials(ANY), "ok", "are used")
    for mode in (0o640, 0o604):
        path.chmod(mode)
        text = f"Other users of this machine can read {path}"
        assert_finding(doctor._credentials(ANY), "warning", text, f"chmod 600 {path}")


@pytest.mark.parametrize(
    ("limits", "severity", "text"),
    [
        ((3, 9, 2), "ok", r"^2 left today"),
        ((5, 9, 0), "warning", "has been reached"),
        ((0, 0, 0), "ok", "reports the daily limit after your first"),
    ],
)
def test_examine_checks_allowance(
    workspace: Workspace, kaggle: KaggleServer, limits: tuple[int, ...], severity: str, text: str
) -> None:
    kaggle.limits = dict(zip(("numToday", "numTotal", "numAllowedNow"), limits, strict=True))
    remedy = "" if severity == "ok" else "after midnight UTC"
    assert_finding(by_title(workspace)["Submissions"], severity, text, remedy)


def test_examine_checks_local_allowance(rehearsal: Workspace) -> None:
    host = LocalHost(rehearsal)
    for _ in range(10):
        host.create(host.upload(rehearsal.data / "sample_submission.csv"), "")
    assert_finding(by_title(rehearsal)["Submissions"], "warning", "has been reached", "after midnight UTC")
    (rehearsal.data / "host" / "submissions.json").write_text('{"submissions": [{}]}')
    assert_finding(by_title(rehearsal)["Submissions"], "problem", "submissions.json is damaged", "Remove it")


@pytest.mark.parametrize(
    "environment", [{"KAGGLE_KEY": "xyzzy-key"}, {"KAGGLE_API_TOKEN": TOKEN}, {"KAGGLE_API_TOKEN": "KGAT_xyz zy"}]
)
def test_examine_shows_no_secret(
    kaggle: KaggleServer, call_cli: Callable[..., Any], environment: dict[str, str]
) -> None:
    save(Path.home() / ".kaggle" / "kaggle.json", json.dumps({"username": "ada", "key": KEY}), 0o644)
    shown = str([call_cli("doctor", *options, VERBOSE="1", **environment) for options in ([], ["--json"])])
    assert "Credentials" in shown
    for secret in (KEY, TOKEN, "KGAT", "xyz", "zzy"):
        assert secret not in shown


# Data and runs


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("train.csv", None, r"train\.csv is missing\.$"),
        ("train.csv", competition_files()["train.csv"][:9999], r"train\.csv is damaged"),
        (
            "test.csv",
            competition_files(1, 30)["test.csv"][:-3] + b"9\r\n",
            r"test\.csv is not the file that was dow",
        ),
        ("sample_submission.csv", b"ImageId,Label\n1,0\n", r"test\.csv has 30 rows but "),
    ],
)
def test_examine_reports_damaged_files(
    rehearsal: Workspace, call_cli: Callable[..., Any], name: str, content: bytes | None, text: str
) -> None:
    download(rehearsal)
    write_files(rehearsal.data, {name: content or b""})
    if content is None:
        (rehearsal.data / name).unlink()
    assert_finding(by_title(rehearsal)["Data"], "problem", text, "command: download")
    call_cli("--competition", "rehearsal", "--root", rehearsal.root, "download")
    assert by_title(rehearsal)["Data"].severity == "ok"


def test_examine_warns_without_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.at("my digits", "rehearsal-full")
    found = by_title(workspace)
    command = "kaggle-digits --competition rehearsal-full --root 'my digits' download"
    remedy = f"Download them with: {command}\\."
    assert_finding(found["Data"], "warning", "There are no files in .* yet", remedy)
    assert next_command(workspace, list(found.values())) == command


def test_next_command_depends_on_runs(rehearsal: Workspace) -> None:
    def result() -> tuple[Finding, str]:
        found = examine(rehearsal)
        return found[-1], next_command(rehearsal, found)

    start = f"kaggle-digits --competition rehearsal --root {rehearsal.root}"
    assert result() == (Finding("ok", "Runs", "0 runs so far."), f"{start} train")
    spec = {
        "competition": "rehearsal",
        "preset": "lenet",
        "folds": 2,
        "seed": 0,
        "settings": find_preset("lenet").settings.model_dump(),
        "data": {"train.csv": "0" * 64, "test.csv": "0" * 64},
    }
    run = create_run(rehearsal.runs / "first", spec, ["kaggle-digits", "train", "--set", "epochs=1 "])
    finding, command = result()
    remedy = rf"^Continue with: {start} train --set 'epochs=1 '\.$"
    assert_finding(finding, "warning", r"^1 run so far\. first is unfinished\.$", remedy)
    assert command == f"{start} train --set 'epochs=1 '"
    run.with_status("finished")
    assert result() == (Finding("ok", "Runs", "1 run so far."), f"{start} submit")
    file = rehearsal.submissions / "first" / "submission.csv"
    write_files(file.parent, {file.name: b"the submitted content"})
    row = f"2026-11-24T10:00:00+00:00,first,{sha256(file)},abc,COMPLETE,0.99,0.98,1"
    (rehearsal.submissions / "ledger.csv").write_text(f"time,run,sha256,ref,status,score,cv,rank\n{row}\n")
    assert result()[1] == f"{start} score"
    (run.path / "run.json").write_text("{}")
    finding, command = result()
    assert_finding(finding, "warning", "first is damaged", f"Remove {run.path} and train it again")
    assert command == f"{start} train"


def test_examine_reports_unexpected_errors(rehearsal: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = PermissionError(13, "Permission denied", "/a/file")
    for raised, text in ((TypeError("token=secret"), "Runs: TypeError"), (refused, "/a/file: Permission denied")):
        monkeypatch.setattr(doctor, "summarise_runs", Mock(side_effect=raised))
        assert_finding(by_title(rehearsal)["Runs"], "problem", f"^Cannot check {text}\\.$", "Fix its permissions")


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
    assert re.match(r"ok +Python +Version 3", lines[0])
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
    assert lines[0].startswith("✓  Python       Version 3")
    assert {line[0] for line in lines[:-1]} == {"✓", "!", "✗", " "}
