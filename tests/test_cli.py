"""The command line, with output for people and as JSON."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import eq
from pathlib import Path

import click
import pytest
from conftest import competition_files, files_with_other_names, write_files
from kaggle_server import KEY, USER, KaggleServer, error

from kaggle_digits import Workspace
from kaggle_digits.cli import cli
from kaggle_digits.hosts.local import baselines
from kaggle_digits.training.presets import PRESETS, describe_settings

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


def document(result: subprocess.CompletedProcess[str]) -> dict:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_error(result: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    """Assert that stderr has an error in two sentences and no traceback, and that stdout is empty."""
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert re.search(words, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()[-2:]
    assert lines[0].startswith("Error: ")
    assert all(line.endswith((".", "?")) for line in lines)


@pytest.fixture
def trained(trained_workspace: Workspace, tmp_path: Path) -> tuple[str, ...]:
    """The options for a copy of the trained workspace."""
    shutil.copytree(trained_workspace.root, tmp_path / "copy")
    return ("--competition", "rehearsal", "--root", str(tmp_path / "copy"))


def test_cli_has_help_for_every_option_and_json_for_every_command() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        assert any("--json" in option.opts for option in command.params), name
        # Arguments have no help of their own; the help of the command explains them.
        options = [o for o in command.params if isinstance(o, click.Option) and not o.hidden]
        assert [option.name for option in options if not option.help] == [], name
    expected = "download train ensemble submit score report go compare predict draw export runs presets doctor"
    assert set(expected.split()) == cli.commands.keys()


def test_cli_help_imports_no_slow_package() -> None:
    script = (
        "import sys; from kaggle_digits.cli import cli; cli(['-h'], standalone_mode=False); print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    slow = {"numpy", "pandas", "tensorflow", "kaggle", "scipy", "pydantic", "matplotlib"}
    assert not slow & set(result.stdout.split())


def test_ensemble_runs_report_submit_and_score_print_json(call_cli: RunCli, trained: tuple[str, ...]) -> None:
    assert document(call_cli(*trained, "ensemble", "--json"))["run"] == "first"
    (row,) = document(call_cli(*trained, "runs", "--json"))["runs"]
    assert row | {"name": "first", "status": "finished", "trained": 2, "folds": 2, "score": None} == row
    assert document(call_cli(*trained, "report", "--json"))["version"] == 1
    planned = document(call_cli(*trained, "submit", "--dry-run", "--json"))
    assert (planned["ref"], planned["sent"], planned["dry_run"]) == (None, False, True)
    sent = document(call_cli(*trained, "submit", "--json"))
    assert (sent["status"], sent["sent"]) == ("COMPLETE", True)
    assert sent["description"] == planned["description"]
    assert sent["description"].startswith(f"lenet, 2 folds, seed 0, CV {sent['cv']:.5f} ")
    assert document(call_cli(*trained, "submit", "--json"))["sent"] is False
    board = document(call_cli(*trained, "score", "--json"))
    assert board["submissions"][0]["score"] == sent["score"]
    assert board["submissions"][0]["gap"] == pytest.approx(sent["score"] - sent["cv"], abs=1e-5)
    assert 1 <= board["rank"] <= board["teams"] == len(baselines("rehearsal")) + 1
    assert board["percentile"] == pytest.approx(100 * board["rank"] / board["teams"])


def test_submit_runs_score_and_report_do_not_break_lines_without_a_terminal(
    call_cli: RunCli, trained: tuple[str, ...]
) -> None:
    assert "The run is first (CV " in call_cli(*trained, "submit").stderr
    patterns = {"runs": r"^first .*0\.\d{5}$", "score": "  first  COMPLETE  0", "report": "^Page: .*first"}
    for command, pattern in patterns.items():
        shown = call_cli(*trained, command, COLUMNS="40")
        assert re.search(pattern, shown.stdout, re.MULTILINE), shown.stderr
        assert "\x1b" not in shown.stdout  # no escape codes
        assert " \n" not in shown.stdout


def test_presets_explains_settings_with_an_option(call_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_digits.execution.estimate.measure_speeds", lambda: dict.fromkeys(PRESETS, 1e3))
    shown = call_cli("presets").stdout
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == list(PRESETS)
    assert "presets --settings" in shown
    settings = call_cli("presets", "--settings").stdout.splitlines()[1:]
    assert [line.split()[0] for line in settings] == [setting["name"] for setting in describe_settings()]
    assert set(document(call_cli("presets", "--json"))) == {"presets", "settings"}


def test_options_of_the_group_are_accepted_after_the_command(call_cli: RunCli, trained: tuple[str, ...]) -> None:
    assert document(call_cli("runs", *trained, "--json")) == document(call_cli(*trained, "runs", "--json"))
    assert_error(call_cli("runs", "--competition", "rehersal"), 2, "no competition called 'rehersal'")
    assert "Traceback" in call_cli("train", "--debug").stderr


def test_names_of_runs_may_be_abbreviated_and_are_completed(call_cli: RunCli, trained: tuple[str, ...]) -> None:
    assert document(call_cli(*trained, "ensemble", "--run", "fir", "--json"))["run"] == "first"
    assert_error(call_cli(*trained, "report", "--run", "x"), 2, "There is no run called 'x'")
    for words, names in (
        (("kaggle-digits", *trained, "report", "--run", "f"), "plain,first"),
        (("kaggle-digits", "train", "--preset", "l"), "plain,lenet"),
        (("kaggle-digits", "--competition", "rehersal", "report", "--run", "f"), ""),
    ):
        variables = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        completed = call_cli(_KAGGLE_DIGITS_COMPLETE="bash_complete", **variables)
        assert (completed.stdout.strip(), completed.stderr) == (names, "")


def test_train_and_ensemble_write_a_copy_of_the_submission(
    call_cli: RunCli, trained: tuple[str, ...], tmp_path: Path
) -> None:
    wanted = (Path(trained[-1]) / "submissions" / "rehearsal" / "first" / "submission.csv").read_bytes()
    assert call_cli(*trained, "ensemble", "--output", tmp_path).returncode == 0
    assert (tmp_path / "submission.csv").read_bytes() == wanted
    again = ("train", "--preset", "lenet", "--folds", 2, "--set", "epochs=2", "--run", "first")
    result = call_cli(*trained, *again, "--output", tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_bytes() == wanted
    assert re.search(
        r"\nNext: kaggle-digits --competition rehearsal --root .* submit --run first\n$", result.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("trian",), 2, r"No such command 'trian'\. Did you mean 'train'\?"),
        (("--competition", "rehersal", "runs"), 2, r"'rehersal'\. Did you mean 'rehearsal'\?\nChoose rehearsal, "),
        (("--competition", "kaggle.com/c/x", "runs"), 2, r"called 'kaggle.com/c/x'\.\n.* part of the address"),
        (("train", "--epochs", "3"), 2, r"No such option '--epochs'\.\nSee: kaggle-digits train --help\."),
        (("train", "--set", "epochs"), 2, "not of the form KEY=VALUE"),
        (("train", "--dry-run"), 2, "are for kernels at Kaggle"),
        (("train", "--on", "kaggle", "--dry-run", "--cancel"), 2, "exclude each other"),
        (("train", "--on", "kaggle", "--cancel", "--retrain"), 2, "--cancel train nothing"),
        (("train", "--folds", "many"), 2, "'many' is not a valid integer"),
        (("train",), 6, r"train\.csv is missing\.\nGet it with the command: download\."),
        (("download",), 3, r"no Kaggle credentials(.|\n)*; without an account, use --competition rehearsal\.$"),
    ],
)
def test_cli_prints_errors_as_two_sentences_with_an_exit_code(
    call_cli: RunCli, arguments: tuple, code: int, words: str
) -> None:
    assert_error(call_cli(*arguments), code, words)


def test_download_names_link_to_a_drive_that_is_not_there(call_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/no-drive")
    download = call_cli("--competition", "rehearsal", "download")
    assert_error(download, 8, "data is a link to /no-drive, which does not exist")


@pytest.mark.usefixtures("train_in_process")
def test_go_does_all_steps_and_asks_before_it_submits(
    call_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("--competition", "rehearsal", "go", "--preset", "lenet", "--folds", 2, "--set", "epochs=1")
    assert_error(call_cli(*command), 2, "nobody can be asked whether to submit")
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr("kaggle_digits.console.can_ask", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    declined = call_cli(*command)
    assert declined.returncode == 0
    assert "Submit lenet-k2-s0-epochs=1? [Y/n]: " in declined.stderr
    assert re.search(
        "4,200 training rows(.|\n)*\nlenet-k2-s0-epochs=1: out-of-fold(.|\n)*\nPage: ", declined.stdout
    )
    assert "Score" not in declined.stdout
    done = document(call_cli(*command, "--yes", "--json"))
    assert list(done) == ["download", "train", "submit", "score", "report"]
    assert done["download"]["fetched"] is False
    assert done["train"]["run"] == done["submit"]["run"] == done["report"]["run"]["name"]
    assert (done["submit"]["status"], done["submit"]["sent"]) == ("COMPLETE", True)
    assert done["score"]["submissions"][0]["score"] == done["report"]["leaderboard"]["score"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert "nothing was sent" in call_cli(*command).stdout


@pytest.mark.usefixtures("train_in_process")
def test_cli_from_download_to_score_with_the_kaggle_client(
    kaggle: KaggleServer, call_cli: RunCli, tmp_path: Path
) -> None:
    assert document(call_cli("download", "--json"))["fetched"] is True
    before = len(kaggle.requests)
    assert document(call_cli("download", "--json"))["fetched"] is False
    assert len(kaggle.requests) == before
    settings = ("--set", "epochs=1", "--set", "batch_size=20")
    trained = call_cli("train", "--preset", "lenet", "--folds", 2, *settings)
    assert trained.returncode == 0
    assert "fold 1  epoch 1/1  loss" in trained.stderr
    kaggle.scoring.append({"status": "PENDING", "after": 1})
    kaggle.board = [(1, "Best", "1.00000", "bob"), (2, "Ada's team", "0.99757", USER)]
    sent = document(call_cli("submit", "--json"))
    assert (sent["ref"], sent["status"], sent["score"], sent["rank"]) == ("1000", "COMPLETE", 0.99757, 2)
    submission = tmp_path / "submissions" / "digit-recognizer" / sent["run"] / "submission.csv"
    assert kaggle.submissions[0]["content"] == submission.read_bytes()
    again = call_cli("submit").stdout
    assert re.search(r"was submitted before, at \d{4}-\d\d-\d\d \d\d:\d\d UTC; nothing was sent", again)
    board = document(call_cli("score", "--json"))
    assert (board["rank"], board["teams"], board["percentile"]) == (2, 2, 100.0)
    assert len(kaggle.submissions) == 1
    ledger = (tmp_path / "submissions" / "digit-recognizer" / "ledger.csv").read_text().splitlines()
    assert ledger[0] == "time,run,sha256,ref,status,score,cv,rank"
    assert len(ledger) == 2


@pytest.mark.usefixtures("train_in_process")
@pytest.mark.parametrize(
    ("competition", "start"), [("uni-digits", "id,digit\n0,"), ("course-mnist", "Id,Category\n1001,")]
)
def test_cli_from_download_to_score_of_another_competition(
    kaggle: KaggleServer, call_cli: RunCli, tmp_path: Path, competition: str, start: str
) -> None:
    kaggle.competition, kaggle.files = competition, files_with_other_names(competition)
    call = partial(call_cli, "--competition", competition)
    assert document(call("download", "--json"))["train_rows"] == 100
    settings = ("--set", "epochs=30", "--set", "batch_size=20")
    trained = document(call("train", "--preset", "lenet", "--folds", 2, *settings, "--json"))
    assert trained["accuracy"] > 0.9
    sent = call("submit")
    assert "is rewritten" not in sent.stderr
    assert "Score 0.99757" in sent.stdout, sent.stderr
    submission = tmp_path / "submissions" / competition / trained["run"] / "submission.csv"
    content = submission.read_bytes()
    assert kaggle.submissions[0]["content"] == content
    assert content.startswith(start.encode())
    # The true digits: those of the rows, by the ids of `uni-digits` from the last one to the first.
    digits = [line.split(",")[1] for line in content.decode().splitlines()[1:]]
    expected = [str(row % 10) for row in range(30)]
    assert sum(map(eq, digits, expected[::-1] if competition == "uni-digits" else expected)) > 27
    assert document(call("score", "--json"))["submissions"][0]["run"] == trained["run"]
    kaggle.fail("CreateSubmission", error(400, "This competition only accepts Submissions from Notebooks."))
    refused = call("submit", "--again")
    assert_error(refused, 4, r"only accepts Submissions from Notebooks\.\nUpload submission\.csv from a notebook")
    assert len(document(call("score", "--json"))["submissions"]) == 1


ANSWER = "ImageId,Label\n" + "".join(f"{i},1\n" for i in range(1, 31))


@pytest.fixture
def answer(kaggle: KaggleServer, tmp_path: Path) -> Path:
    """A submission file of your own, beside the files of the competition."""
    write_files(tmp_path / "data" / "digit-recognizer", competition_files())
    (tmp_path / "mine.csv").write_text(ANSWER)
    return tmp_path / "mine.csv"


def test_submit_sends_once_if_run_twice_in_parallel(kaggle: KaggleServer, run_cli: RunCli, answer: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        results = list(executor.map(lambda _: run_cli("submit", "--file", answer, "--json"), range(2)))
    assert len(kaggle.submissions) == 1
    codes = {result.returncode for result in results}
    assert 0 in codes <= {0, 8}


def test_submit_reports_a_failed_or_pending_submission(
    kaggle: KaggleServer, call_cli: RunCli, answer: Path, tmp_path: Path
) -> None:
    kaggle.scoring.append({"status": "PENDING"})
    assert_error(call_cli("submit", "--file", answer, "--timeout", 0), 5, "1000 is still pending after 0 seconds")
    answer.write_text(ANSWER.replace("30,1", "30,2"))
    assert document(call_cli("submit", "--file", answer, "--no-wait", "--json"))["status"] == "PENDING"
    kaggle.scoring.append({"status": "ERROR", "errorDescription": "Evaluation Exception: bad"})
    answer.write_text(ANSWER.replace("30,1", "30,3"))
    assert_error(call_cli("submit", "--file", answer), 7, "Evaluation Exception: bad")


def test_download_from_copies_a_folder(call_cli: RunCli, tmp_path: Path) -> None:
    write_files(tmp_path / "input", competition_files())
    facts = document(call_cli("download", "--from", "input", "--json"))
    assert facts | {"train_rows": 100, "test_rows": 30, "fetched": True, "changed": []} == facts
    assert (facts["competition"], facts["folder"]) == ("digit-recognizer", "data/digit-recognizer")
    again = call_cli("download", KAGGLE_DIGITS_COMPETITION="digit-recognizer", KAGGLE_DIGITS_ROOT=str(tmp_path))
    assert "digit-recognizer already complete: 100 training rows, 30 test rows\nFolder: /" in again.stdout


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(401, 3, "KAGGLE_USERNAME and KAGGLE_KEY"), (403, 4, "accept its rules"), (404, 4, "does not know")],
)
def test_cli_prints_refusals_of_kaggle_and_no_secret(
    kaggle: KaggleServer, call_cli: RunCli, status: int, code: int, words: str
) -> None:
    basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
    message = f"{KEY} \x1b[31mBasic {basic} https://ada:pass@host/x?X-Goog-Signature=0f0f (end)"
    for options in ((), ("--debug",)):
        kaggle.fail("ListDataFiles", error(status, message))
        result = call_cli(*options, "download")
        assert (result.returncode, "Traceback" in result.stderr) == (code, bool(options))
        assert words in result.stderr
        assert "(end)" in result.stderr
        for secret in (KEY, basic, "\x1b", "pass", "0f0f"):
            assert secret not in result.stderr


def test_cli_without_a_command_shows_help_in_the_order_of_the_work(call_cli: RunCli) -> None:
    result = call_cli()
    assert result.returncode == 2
    assert "Usage: kaggle-digits" in result.stderr
    assert "Error" not in result.stderr
    commands = [line.split()[0] for line in result.stderr.partition("Commands:")[2].splitlines() if line]
    assert commands[:7] == ["download", "train", "ensemble", "submit", "score", "report", "go"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_cli_reports_a_full_device_for_stdout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kaggle_digits", "runs"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (8, 2)
    assert result.stderr.startswith("Error: Cannot write the output: No space left on device.\n")


def test_cli_prints_no_traceback_if_the_reader_of_stdout_ends(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", f"{sys.executable} -m kaggle_digits runs | true"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("", "")


def test_main_exits_with_130_if_interrupted_outside_of_a_command(
    call_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kaggle_digits.cli.main", interrupt)
    result = call_cli("runs")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_train_exits_with_130_if_interrupted(trained: tuple[str, ...]) -> None:
    options = (*trained, "train", "--preset", "lenet", "--folds", "2", "--json", "--set", "epochs=400")
    command = [sys.executable, "-m", "kaggle_digits", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, start_new_session=True)
    assert process.stderr is not None
    try:
        while "epoch" not in process.stderr.readline():
            pass
        os.killpg(process.pid, signal.SIGINT)  # to the workers too, as a terminal does
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if line and not line.startswith("fold ")] == [
        "Interrupted.",
        "Run the same command again to continue; finished work is kept.",
    ]


def test_main_reports_other_exceptions_without_secrets(call_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: Exception = MemoryError()

    def fail(*arguments: object) -> None:
        raise raised

    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setattr("kaggle_digits.runs.summary.summarise_runs", fail)
    assert_error(call_cli("runs"), 1, r"^Error: This machine ran out of memory\.\n")
    raised = KeyError(KEY)
    assert_error(call_cli("runs"), 1, r"^Error: Internal error in kaggle-digits: KeyError: '\*\*\*'\.\n")
    debugged = call_cli("--debug", "runs")
    assert "Traceback" in debugged.stderr
    assert KEY not in debugged.stderr
