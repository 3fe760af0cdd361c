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
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest
from conftest import competition_files, pipe_with_reader, write_files
from kaggle_server import KEY, USER, Fault, KaggleServer, error
from rich.console import Console

from kaggle_digits import Workspace, console
from kaggle_digits.cli import cli, main
from kaggle_digits.encoding import replace_unknown_characters
from kaggle_digits.hosts.local import baselines
from kaggle_digits.training import DEFAULT_PRESET, PRESET_NAMES
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


def test_cli_has_help_for_every_command_and_option() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        for option in command.params:
            # Arguments have no help of their own; the help of the command explains them.
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.name}"
    expected = "download train ensemble submit score report compare predict export runs presets doctor"
    assert set(expected.split()) == cli.commands.keys()


def test_cli_has_json_for_every_command() -> None:
    for name, command in cli.commands.items():
        assert any("--json" in option.opts for option in command.params), name


def test_preset_names_match_presets() -> None:
    assert list(PRESETS) == list(PRESET_NAMES)
    assert DEFAULT_PRESET in PRESETS


def test_cli_help_imports_no_slow_package() -> None:
    script = (
        "import sys; from kaggle_digits.cli import cli; "
        "cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "pandas", "tensorflow", "kaggle", "rich", "pydantic", "matplotlib"} & set(loaded)


def test_download_prints_json(run_cli: RunCli, tmp_path: Path) -> None:
    first = document(run_cli("--competition", "rehearsal", "download", "--json"))
    assert first == {
        "competition": "rehearsal",
        "folder": "data/rehearsal",
        "train_rows": 4200,
        "test_rows": 2800,
        "fetched": True,
        "changed": [],
    }
    again = run_cli("download", KAGGLE_DIGITS_COMPETITION="rehearsal", KAGGLE_DIGITS_ROOT=str(tmp_path))
    assert "rehearsal already complete" in again.stdout


@pytest.mark.slow
def test_train_prints_json_and_shows_progress_on_stderr(run_cli: RunCli, trained: tuple[str, ...]) -> None:
    result = run_cli(*trained, "train", "--preset", "lenet", "--folds", 2, "--set", "epochs=1", "--json")
    facts = document(result)
    assert facts["run"] == "lenet-k2-s0-epochs=1"
    assert facts["rows"] == 4200
    assert 0.5 < facts["accuracy"] < 1
    assert Path(facts["submission"]).exists()
    assert "fold 1  epoch 1/1  loss" in result.stderr


def test_ensemble_runs_report_submit_and_score_print_json(call_cli: RunCli, trained: tuple[str, ...]) -> None:
    assert document(call_cli(*trained, "ensemble", "--json"))["run"] == "first"
    (row,) = document(call_cli(*trained, "runs", "--json"))["runs"]
    assert (row["name"], row["status"], row["trained"], row["folds"], row["score"]) == (
        "first",
        "finished",
        2,
        2,
        None,
    )
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
    sent = call_cli(*trained, "submit")
    assert sent.returncode == 0
    assert "The run is first (CV " in sent.stderr
    for command in ("runs", "score", "report"):
        wide, narrow = (call_cli(*trained, command, COLUMNS=columns) for columns in ("200", "40"))
        assert wide.returncode == 0, wide.stderr
        assert "first" in wide.stdout
        assert wide.stdout.splitlines()[:4] == narrow.stdout.splitlines()[:4]
        assert "\x1b" not in wide.stdout  # no escape codes
        assert not any(line.endswith(" ") for line in wide.stdout.splitlines())


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_tables_fit_the_terminal_and_show_complete_names(columns: int) -> None:
    name = "default-k8-s0"
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, color_system=None, width=columns, highlight=False)
    row = {"name": name, "status": "unfinished", "trained": 3, "folds": 8, "errors": 1234, "score": 0.99757}
    presets = [
        {"name": "default", "folds": 8, "score": 0.99735, "tflop": 97.1, "seconds": 5400, "summary": "a " * 40}
    ]
    settings = describe_settings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "out", lambda: terminal)
        console.show_runs([row | {"accuracy": 0.99586}])
        console.show_presets(presets)
        console.show_settings(settings)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[1].startswith(f"{name}  ")
    assert "0.99757" in lines[1]
    assert ("unfinished" in lines[1]) == (columns > 40)
    assert "…" not in stream.getvalue()
    assert all(f"\n{setting['name']} " in stream.getvalue() for setting in settings)


def test_presets_fits_a_screen_and_explains_settings_with_an_option(
    call_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaggle_digits.execution.machine.measure_speed", lambda: 1e12)
    shown = call_cli("presets", FORCE_COLOR="1", COLUMNS="80", LINES="24", NO_COLOR="1")
    assert shown.returncode == 0, shown.stderr
    assert len(shown.stdout.splitlines()) < 23
    assert "learning_rate" not in shown.stdout
    assert "presets --settings" in shown.stdout
    settings = call_cli("presets", "--settings").stdout.splitlines()[1:]
    assert [line.split()[0] for line in settings] == [setting["name"] for setting in describe_settings()]
    assert set(document(call_cli("presets", "--json"))) == {"presets", "settings"}


def test_tables_wider_than_the_terminal_keep_all_needed_columns() -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, color_system=None, width=30, highlight=False)
    row = {"name": "x" * 55, "status": "finished", "trained": 8, "folds": 8, "errors": 1, "score": 0.99757}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "out", lambda: terminal)
        console.show_runs([row | {"accuracy": 0.99586}])
    assert stream.getvalue().splitlines()[1] == f"{'x' * 55}   0.99586"


def test_say_does_not_replace_names_of_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("run a:cat:b [bold]")
    assert capsys.readouterr().out == "run a:cat:b [bold]\n"


def test_completion_prints_no_errors(call_cli: RunCli) -> None:
    words = "kaggle-digits --competition titanic report --run f"
    completed = call_cli(_KAGGLE_DIGITS_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="5")
    assert (completed.stdout.strip(), completed.stderr) == ("", "")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "✓ ▁▅█ → “7” ±…"), ("cp1252", "ok _:# -> “7” ±…"), ("ascii", 'ok _:# -> "7" +-...')],
)
def test_replace_unknown_characters_keeps_what_the_terminal_can_show(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(stream, encoding, newline="\n", write_through=True))
    replace_unknown_characters()
    console.say("✓ ▁▅█ → “7” ±…")
    assert stream.getvalue().decode(encoding) == f"{shown}\n"


def test_commands_are_listed_in_the_order_of_the_work(call_cli: RunCli) -> None:
    shown = call_cli("--help").stdout.partition("Commands:")[2]
    names = [line.split()[0] for line in shown.splitlines() if line.startswith("  ")]
    assert names[:6] == ["download", "train", "ensemble", "submit", "score", "report"]


def test_options_of_the_group_are_accepted_after_the_command(call_cli: RunCli, trained: tuple[str, ...]) -> None:
    assert document(call_cli("runs", *trained, "--json")) == document(call_cli(*trained, "runs", "--json"))
    assert_error(call_cli("runs", "--competition", "titanic"), 2, "no competition called 'titanic'")
    assert "Traceback" in call_cli("train", "--debug").stderr


def test_names_of_runs_may_be_abbreviated_and_are_completed(call_cli: RunCli, trained: tuple[str, ...]) -> None:
    assert document(call_cli(*trained, "ensemble", "--run", "fir", "--json"))["run"] == "first"
    assert_error(call_cli(*trained, "report", "--run", "x"), 2, "There is no run called 'x'")
    words = ("kaggle-digits", *map(str, trained), "report", "--run", "f")
    completed = call_cli(
        _KAGGLE_DIGITS_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1)
    )
    assert completed.stdout == "plain,first\n"


def test_train_and_ensemble_write_a_copy_of_the_submission(
    call_cli: RunCli, trained: tuple[str, ...], tmp_path: Path
) -> None:
    root = Path(trained[trained.index("--root") + 1])
    wanted = (root / "submissions" / "rehearsal" / "first" / "submission.csv").read_bytes()
    assert call_cli(*trained, "ensemble", "--output", tmp_path).returncode == 0
    assert (tmp_path / "submission.csv").read_bytes() == wanted
    again = ("train", "--preset", "lenet", "--folds", 2, "--set", "epochs=2", "--run", "first")
    result = call_cli(*trained, *again, "--output", tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_bytes() == wanted
    assert result.stdout.splitlines()[-1].startswith("Next: kaggle-digits --competition rehearsal --root ")
    assert result.stdout.splitlines()[-1].endswith(" submit --run first")
    with pipe_with_reader(tmp_path / "pipe") as received:
        assert call_cli(*trained, "ensemble", "--output", tmp_path / "pipe").returncode == 0
    assert received == [wanted]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("trian",), 2, r"No such command 'trian'\. Did you mean 'train'\?"),
        (("--competition", "titanic", "runs"), 2, r"no competition called 'titanic'\.\nChoose one of: digit-"),
        (("--competition", "reharsal", "runs"), 2, r"'reharsal'\. Did you mean 'rehearsal'\?\n"),
        (("train", "--preset", "slow"), 2, r"no preset called 'slow'\.\nChoose one of: lenet, fast, default"),
        (("train", "--epochs", "3"), 2, r"No such option '--epochs'\.\nUse --set epochs=3\."),
        (("train", "--learning-rate=1e-3", "--seed", "1"), 2, r"\nUse --set learning_rate=1e-3\."),
        (("train", "--epochs"), 2, r"\nUse --set epochs=VALUE\."),
        (("runs", "--epochs", "3"), 2, r"No such option '--epochs'\.\nSee: kaggle-digits runs --help\."),
        (("train", "--set", "epochs"), 2, "not of the form KEY=VALUE"),
        (("train", "--set", "epoch=1"), 2, "no setting called 'epoch'"),
        (("train", "--folds", "many"), 2, "'many' is not a valid integer"),
        (("submit", "--timeout", "-1"), 2, "not in the range"),
        (("train",), 6, r"train\.csv is missing\.\nGet it with the command: download\."),
        (("report",), 2, "no run of digit-recognizer yet"),
        (("submit",), 2, "no run of digit-recognizer yet"),
        (("download",), 3, r"no Kaggle credentials(.|\n)*; without an account, use --competition rehearsal\.$"),
        (("score",), 3, "no Kaggle credentials"),
    ],
)
def test_cli_prints_errors_as_two_sentences_with_an_exit_code(
    call_cli: RunCli, arguments: tuple, code: int, words: str
) -> None:
    assert_error(call_cli(*arguments), code, words)


def test_cli_debug_shows_the_traceback(run_cli: RunCli) -> None:
    result = run_cli("--debug", "train")
    assert result.returncode == 6
    assert "Traceback" in result.stderr
    assert result.stderr.strip().endswith("Get it with the command: download.")


def test_download_fails_if_root_cannot_be_written(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    assert_error(run_cli("--competition", "rehearsal", "download"), 8, "Cannot write")


@pytest.mark.parametrize("link", ["data", "root"])
def test_download_names_link_to_a_drive_that_is_not_there(call_cli: RunCli, tmp_path: Path, link: str) -> None:
    (tmp_path / link).symlink_to("/no-drive")
    options = ("--competition", "rehearsal", "--root", "root" if link == "root" else ".")
    assert_error(call_cli(*options, "download"), 8, f"{link} is a link to /no-drive, which does not exist")


def test_cli_from_download_to_score_with_the_kaggle_client(
    kaggle: KaggleServer, run_cli: RunCli, tmp_path: Path
) -> None:
    facts = document(run_cli("download", "--json"))
    assert (facts["train_rows"], facts["test_rows"], facts["fetched"]) == (100, 30, True)
    before = len(kaggle.requests)
    assert document(run_cli("download", "--json"))["fetched"] is False
    assert len(kaggle.requests) == before
    train = ("train", "--preset", "lenet", "--folds", 2, "--set", "epochs=1", "--set", "batch_size=20")
    assert run_cli(*train).returncode == 0
    kaggle.scoring.append({"status": "PENDING", "after": 1})
    kaggle.board = [(1, "Best", "1.00000", "bob"), (2, "Ada's team", "0.99757", USER)]
    sent = document(run_cli("submit", "--json"))
    assert (sent["ref"], sent["status"], sent["score"], sent["rank"]) == ("1000", "COMPLETE", 0.99757, 2)
    submission = tmp_path / "submissions" / "digit-recognizer" / sent["run"] / "submission.csv"
    assert kaggle.submissions[0]["content"] == submission.read_bytes()
    again = run_cli("submit")
    assert re.search(r"was submitted before, at \d{4}-\d\d-\d\d \d\d:\d\d UTC; nothing was sent", again.stdout)
    assert "0.99757" in again.stdout
    board = document(run_cli("score", "--json"))
    assert (board["rank"], board["teams"], board["percentile"]) == (2, 2, 100.0)
    assert len(kaggle.submissions) == 1
    ledger = (tmp_path / "submissions" / "digit-recognizer" / "ledger.csv").read_text().splitlines()
    assert ledger[0] == "time,run,sha256,ref,status,score,cv,rank"
    assert len(ledger) == 2


def test_submit_sends_once_if_the_response_is_lost(kaggle: KaggleServer, call_cli: RunCli, tmp_path: Path) -> None:
    write_files(tmp_path / "data" / "digit-recognizer", competition_files())
    answer = tmp_path / "mine.csv"
    answer.write_text(ANSWER)
    kaggle.fail("CreateSubmission", Fault(response_lost=True))
    sent = document(call_cli("submit", "--file", answer, "--json"))
    assert (sent["ref"], sent["status"]) == ("1000", "COMPLETE")
    assert len(kaggle.submissions) == 1


def test_submit_sends_once_if_run_three_times_in_parallel(
    kaggle: KaggleServer, run_cli: RunCli, tmp_path: Path
) -> None:
    write_files(tmp_path / "data" / "digit-recognizer", competition_files())
    answer = tmp_path / "mine.csv"
    answer.write_text(ANSWER)
    with ThreadPoolExecutor(3) as executor:
        results = list(executor.map(lambda _: run_cli("submit", "--file", answer, "--json"), range(3)))
    assert len(kaggle.submissions) == 1
    codes = [result.returncode for result in results]
    assert 0 in codes
    assert set(codes) <= {0, 8}


INTERRUPTED = ["Interrupted.", "Run the same command again to continue; finished work is kept."]
ANSWER = "ImageId,Label\n" + "".join(f"{i},1\n" for i in range(1, 31))


@pytest.mark.parametrize(
    ("outcome", "options", "code", "words"),
    [
        ({"status": "ERROR", "errorDescription": "Evaluation Exception: bad"}, (), 7, "Evaluation Exception: bad"),
        ({"status": "PENDING"}, ("--timeout", "0"), 5, "1000 is still pending after 0 seconds"),
    ],
)
def test_submit_reports_a_failed_or_pending_submission(
    kaggle: KaggleServer, call_cli: RunCli, tmp_path: Path, outcome: dict, options: tuple, code: int, words: str
) -> None:
    write_files(tmp_path / "data" / "digit-recognizer", competition_files())
    (tmp_path / "mine.csv").write_text(ANSWER)
    kaggle.scoring.append(outcome)
    assert_error(call_cli("submit", "--file", "mine.csv", *options), code, words)
    ledger = (tmp_path / "submissions" / "digit-recognizer" / "ledger.csv").read_text()
    assert f",1000,{outcome['status']}," in ledger


def test_submit_no_wait_returns_pending(kaggle: KaggleServer, call_cli: RunCli, tmp_path: Path) -> None:
    write_files(tmp_path / "data" / "digit-recognizer", competition_files())
    (tmp_path / "mine.csv").write_text(ANSWER)
    assert document(call_cli("submit", "--file", "mine.csv", "--no-wait", "--json"))["status"] == "PENDING"


def test_download_from_copies_a_folder(call_cli: RunCli, tmp_path: Path) -> None:
    write_files(tmp_path / "input", competition_files())
    assert document(call_cli("download", "--from", "input", "--json"))["train_rows"] == 100


def test_cli_without_a_command_shows_help(call_cli: RunCli) -> None:
    result = call_cli()
    assert result.returncode == 2
    assert "Usage: kaggle-digits" in result.stderr
    assert "Error" not in result.stderr


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(401, 3, "KAGGLE_USERNAME and KAGGLE_KEY"), (403, 4, "accept its rules"), (404, 4, "does not know")],
)
def test_download_explains_refusals_of_kaggle(
    kaggle: KaggleServer, call_cli: RunCli, status: int, code: int, words: str
) -> None:
    kaggle.fail("ListDataFiles", error(status, "Kaggle's message"))
    result = call_cli("download")
    assert_error(result, code, words)
    assert "Kaggle's message" in result.stderr
    assert KEY not in result.stderr


def test_cli_prints_no_secret(kaggle: KaggleServer, call_cli: RunCli) -> None:
    basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
    words = f"{KEY} \x1b[31mBasic {basic} https://ada:pass@host/x?X-Goog-Signature=0f0f (end)"
    for status in (400, 401, 403, 429):
        kaggle.fail("ListDataFiles", error(status, words, **{"Retry-After": "9999"}))
        result = call_cli("--debug", "download")
        assert "Traceback" in result.stderr
        assert "(end)" in result.stderr
        for secret in (KEY, basic, "\x1b", "pass", "0f0f"):
            assert secret not in result.stderr, status


def test_main_prints_no_secret_for_an_internal_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["kaggle-digits", "--debug"])
    monkeypatch.setattr(cli, "main", lambda **_: {}[f"\n{KEY}"])
    with pytest.raises(SystemExit, match="1"):
        main()
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert KEY not in printed


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("--version",), ("runs",), ("runs", "--json")])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_cli_reports_a_full_device_for_stdout(tmp_path: Path, arguments: tuple[str, ...], unbuffered: str) -> None:
    result = run_with_full_device("stdout", arguments, unbuffered, tmp_path)
    result.stdout = ""
    assert_error(result, 8, "Cannot write the output: No space left on device")
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_cli_keeps_exit_code_if_stderr_is_a_full_device(tmp_path: Path, unbuffered: str) -> None:
    result = run_with_full_device("stderr", ("runs", "--no-such-option"), unbuffered, tmp_path)
    assert (result.returncode, result.stdout) == (2, "")


def run_with_full_device(
    stream: str, arguments: tuple[str, ...], unbuffered: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run the command line with stdout or stderr on a full device; with a value, PYTHONUNBUFFERED is set."""
    command = [sys.executable, "-m", "kaggle_digits", *arguments]
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        return subprocess.run(command, env=environment, cwd=folder, text=True, check=False, **streams)


def test_main_exits_with_130_if_interrupted_during_imports(tmp_path: Path) -> None:
    script = """
import runpy, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
runpy.run_module("kaggle_digits", run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "")


@pytest.mark.parametrize("times", [1, 2])
def test_train_exits_with_130_if_interrupted(tmp_path: Path, trained: tuple[str, ...], times: int) -> None:
    command = [
        sys.executable,
        "-m",
        "kaggle_digits",
        *trained,
        "train",
        "--preset",
        "lenet",
        "--folds",
        "2",
        "--json",
    ]
    process = subprocess.Popen(
        [*command, "--set", "epochs=400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        while "epoch" not in process.stderr.readline():
            pass
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)  # to the workers too, as a terminal does
            time.sleep(0.02)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    lines = [line for line in err.splitlines() if line and not line.startswith("fold ")]
    if times == 1:
        assert lines == INTERRUPTED
    # A second Ctrl-C can interrupt the output of the message, but has no other effect.
    assert lines == INTERRUPTED[: len(lines)]


def test_main_exits_at_once_if_interrupted_while_it_prints_an_error(tmp_path: Path) -> None:
    script = """
import os, signal, sys, time
from kaggle_digits import cli, console

def press_ctrl_c(*words, **options):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
    print("The process was not interrupted.")

console.show_error = press_ctrl_c
sys.argv = ["kaggle-digits", "runs", "--no-such-option"]
cli.main()
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_main_reports_a_memory_error(
    call_cli: RunCli, monkeypatch: pytest.MonkeyPatch, debug: tuple[str, ...]
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("kaggle_digits.runs.summary.list_runs", fail)
    result = call_cli(*debug, "runs")
    assert (result.returncode, result.stdout) == (1, "")
    assert ("MemoryError" in result.stderr) == bool(debug)
    assert result.stderr.splitlines()[-2:] == [
        "Error: This machine ran out of memory.",
        "Close other programs, or train with fewer --workers, then run the same command again.",
    ]
