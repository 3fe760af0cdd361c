"""The command line `kaggle-digits`: parse the arguments, call the library, print the result."""

import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import click

import kaggle_digits as kd  # imports what is used of it, so that --help is fast
from kaggle_digits import console
from kaggle_digits.errors import KaggleDigitsError, UsageError, WriteError
from kaggle_digits.hosts.credentials import scrub
from kaggle_digits.prediction import MODEL_FORMATS
from kaggle_digits.submissions import TIMEOUT
from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.workspace import DEFAULT_COMPETITION, Workspace

INTERRUPTED = 130
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
PATH = click.Path(path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


class _Command(click.Command):
    """A command with ``--json``, which also accepts the options of the group, and passes on the workspace."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The options of the group are hidden, because its help explains them.
        common: dict[str, Any] = {"expose_value": False, "callback": _take_precedence}
        self.params += [
            click.Option(["--json"], is_flag=True, help="Print one JSON document on stdout instead.", **common),
            click.Option(["--competition"], hidden=True, **common),
            click.Option(["--root"], hidden=True, type=FOLDER, **common),
            click.Option(["--debug"], hidden=True, is_flag=True, **common),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        ctx.params["workspace"] = _workspace(ctx)
        return super().invoke(ctx)


class _Group(click.Group):
    """A group that lists its commands in the order of the work, which is that of this file."""

    command_class = _Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _take_precedence(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Store an option that was given after the name of a command instead of the one given before it."""
    if value:
        context.find_root().params[str(option.name)] = value


def _workspace(context: click.Context) -> Workspace:
    options = context.find_root().params
    return Workspace.at(options.get("root") or Path(), options.get("competition") or DEFAULT_COMPETITION)


def _show(document: Any, show: Callable[..., None], *arguments: Any) -> None:
    """Print a document with ``--json``, or show the same for a person."""
    context = click.get_current_context()
    documents = context.find_root().params.get("documents")
    if documents is not None:  # the command is part of `go`
        documents[context.command.name] = document
    if not _is_json():
        show(*arguments)
    elif documents is None:
        click.echo(json.dumps(document, indent=2, default=str))


def _is_json() -> bool:
    return "json" in click.get_current_context().find_root().params


def _runs(context: click.Context, parameter: click.Parameter, start: str) -> list[str]:
    """Return the names of the runs that begin with `start`, for the completion of the shell."""
    with suppress(KaggleDigitsError):  # an error would be printed into the line that is being edited
        return [run.name for run in kd.list_runs(_workspace(context)) if run.name.startswith(start)]
    return []


def _presets(context: click.Context, parameter: click.Parameter, start: str) -> list[str]:
    """Return the names of the presets that begin with `start`."""
    from kaggle_digits.training.presets import PRESETS

    return [name for name in PRESETS if name.startswith(start)]


def _parse_settings(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise UsageError(f"--set {wrong[0]!r} is not of the form KEY=VALUE.", "For example: --set epochs=3.")
    return dict(pair.split("=", 1) for pair in pairs)


run_name = partial(click.option, "--run", metavar="NAME", shell_complete=_runs)
run_option = run_name(
    help="The run, or the beginning of its name if no other begins like it. Default: the finished one with the "
    "best out-of-fold accuracy on the present data."
)
network_option = click.option(
    "--network", metavar="FILE.py:FUNCTION", help="The source of a run's network, if it has layers of its own."
)
output_option = click.option(
    "--output", type=PATH, help="Write submission.csv here, too: a file, or a folder such as /kaggle/working."
)


def main() -> None:
    """Run the command line; errors become two sentences on stderr and an exit code, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows question marks
    try:
        sys.exit(cli.main(prog_name="kaggle-digits", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except Exception as error:
        problem, remedy, exit_code = _explain(error)
        if "--debug" in sys.argv:
            sys.stderr.write(scrub("".join(traceback.format_exception(error))))
        problem, remedy = (" ".join(scrub(text).split()) for text in (problem, remedy))
        problem += "" if problem.endswith((".", "?", "!")) else "."
        console.show_error(problem, remedy, is_error=exit_code != INTERRUPTED)
        sys.exit(exit_code)


def _explain(error: Exception) -> tuple[str, str, int]:
    """Return what is wrong, how to fix it, and the exit code."""
    if isinstance(error, KaggleDigitsError):
        return error.problem, error.remedy, error.exit_code
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "kaggle-digits"
        return error.format_message(), f"See: {command} --help.", UsageError.exit_code
    if isinstance(error, click.Abort):  # after Ctrl-C
        return "Interrupted.", "Run the same command again to continue; finished work is kept.", INTERRUPTED
    if isinstance(error, MemoryError):
        remedy = "Close other programs, or train with fewer --workers, then run the same command again."
        return "This machine ran out of memory.", remedy, 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        # All files raise a WriteError, so this is stdout. Its rest would be written again at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        problem = f"Cannot write the output: {error.strerror}."
        return problem, "Free some space, then run the same command again.", WriteError.exit_code
    problem = f"Internal error in kaggle-digits: {type(error).__name__}: {error}"
    return problem, "Run it again with --debug to see the traceback, and report it.", 1


@click.group(cls=_Group, context_settings=SETTINGS)
@click.option(
    "--competition",
    metavar="NAME",
    envvar="KAGGLE_DIGITS_COMPETITION",
    show_envvar=True,
    default=DEFAULT_COMPETITION,
    help="A competition at Kaggle with files like those of digit-recognizer, by the last part of its address; or, "
    "without an account, rehearsal (4,200 / 2,800 digits of MNIST) or rehearsal-full (all of MNIST).",
)
@click.option(
    "--root", envvar="KAGGLE_DIGITS_ROOT", show_envvar=True, type=FOLDER, default=".", help="Folder of all files."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(kd.__version__, "-V", "--version", message="%(prog)s %(version)s")
def cli(**options: Any) -> None:
    """Kaggle's Digit Recognizer from download to score.

    Download the data, train a CNN with stratified k-fold cross-validation, average the softmaxes of the folds on
    the test set, write submission.csv, submit it, read its score, and write a validation report.

    The options below can also be given after the command.

    \b
    Without an account:   kaggle-digits --competition rehearsal download
                          kaggle-digits --competition rehearsal train
                          kaggle-digits --competition rehearsal submit

    Exit codes: 0 success, 1 internal error, 2 wrong usage, 3 credentials, 4 refused by Kaggle, 5 network error or
    still pending, 6 invalid data, 7 the submission was scored as an error, 8 cannot write or in use by another
    command, 130 interrupted.
    """  # noqa: D301 - in click, \b means: do not rewrap the next paragraph


@cli.command(short_help="Download the competition's files.")
@click.option("--force", is_flag=True, help="Download the files again, even if they are already there.")
@click.option("--from", "source", type=PATH, help="Take the files from a zip or a folder such as /kaggle/input.")
@click.option(
    "--mnist-dir",
    envvar="KAGGLE_DIGITS_MNIST_DIR",
    type=PATH,
    help="For rehearsal-full: the folder with the four IDX files of MNIST; also set by KAGGLE_DIGITS_MNIST_DIR. "
    "Default: download them from a public mirror.",
)
def download(workspace: Workspace, **options: Any) -> None:
    """Download the competition's files into data/<competition>/ and check that they are complete.

    If complete files are already there, nothing is downloaded and no network is used.
    """
    name = workspace.competition.name
    with console.spinner(f"Downloading {name}"):
        files = kd.download(workspace, **options)
    _show({"competition": name} | asdict(files), console.show_download, name, files)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of ``train`` to a command, except those that train nothing."""
    options = (
        click.option(
            "--preset", metavar="NAME", default=DEFAULT_PRESET, shell_complete=_presets, help="See: presets."
        ),
        click.option("--folds", metavar="K", type=int, help="The number of folds. Default: that of the preset."),
        click.option("--seed", metavar="N", default=0, help="The random seed of the split and of training."),
        click.option(
            "--seeds", metavar="N", default=1, help="Train N runs from --seed on, and average them in one more."
        ),
        click.option(
            "--network",
            metavar="FILE.py:FUNCTION",
            help="Train your own network instead of the preset's: a function that returns an untrained Keras "
            "model, from grey values, 0 to 255, [b, 28, 28, 1], to 10 logits.",
        ),
        click.option(
            "--run",
            metavar="NAME",
            help="The run's name. Default: from network, preset, folds, seed and settings.",
        ),
        click.option(
            "--workers",
            metavar="N",
            type=int,
            help="Train N folds in parallel. Default: by the cores, memory and GPUs.",
        ),
        click.option(
            "--on",
            metavar="WHERE",
            help="Where to train the folds: kaggle (in a kernel with two GPUs at Kaggle, from your weekly quota), "
            "kaggle-cpu (in a kernel without GPUs), or the address of a Dask scheduler, such as "
            "tcp://10.0.0.1:8786. Default: on this machine.",
        ),
        click.option(
            "--no-wait", is_flag=True, help="With --on kaggle: send the folds, and end with exit code 5."
        ),
        click.option(
            "--set",
            "settings",
            metavar="KEY=VALUE",
            multiple=True,
            callback=_parse_settings,
            help="Change a setting of the preset, such as epochs=3; can be repeated.",
        ),
        output_option,
        click.option(
            "--retrain", is_flag=True, help="Train damaged folds again, or all folds if none is damaged."
        ),
        click.option(
            "--tensorboard", is_flag=True, help="Write events for TensorBoard into the folders of the folds."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(short_help="Train the missing folds of a run and ensemble them.")
@training_options
@click.option("--dry-run", is_flag=True, help="With --on kaggle: show what would be sent, but send nothing.")
@click.option("--cancel", is_flag=True, help="With --on kaggle: delete the kernel that trains the run.")
def train(workspace: Workspace, dry_run: bool, cancel: bool, **options: Any) -> None:
    """Train the missing folds of a run, ensemble all folds and write the submission.

    If it is interrupted, run the same command again to continue.
    """
    if dry_run + options["no_wait"] + cancel > 1:
        raise UsageError("--dry-run, --no-wait and --cancel exclude each other.", "Choose one of them.")
    unused = ("workers", "tensorboard", "output", "retrain") if cancel else ("workers", "tensorboard", "output")
    if (dry_run or cancel) and any(options[name] for name in unused):
        raise UsageError("--dry-run and --cancel train nothing.", f"Leave out --{', --'.join(unused)}.")
    names = ("preset", "folds", "seed", "seeds", "settings", "network", "run")
    recipe = {name: options[name] for name in names}
    if dry_run:
        preview = kd.preview_kernel(workspace, kd.Recipe(**recipe), options["on"], retrain=options["retrain"])
        return _show(preview, console.show_preview, preview)
    if cancel:
        deleted = kd.cancel_kernels(workspace, kd.Recipe(**recipe), options["on"])
        text = "\n".join(f"Deleted: {kernel}" for kernel in deleted) or "No kernel of this run is known."
        return _show({"deleted": deleted}, console.say, text)
    if options["network"]:
        _import_keras_quickly()
    wait = not options.pop("no_wait")
    with console.TrainingView() as view:
        trained = kd.train(workspace, wait=wait, observer=view, **options)
    return _show_run(workspace, trained)


@cli.command(short_help="Average the predictions of one or more runs.")
@run_name("runs", multiple=True, help="A run; can be repeated.")
@click.option("--name", metavar="NEW", help="The new run's name. Default: the names of the runs joined by +.")
@output_option
def ensemble(workspace: Workspace, runs: tuple[str, ...], name: str | None, output: Path | None) -> None:
    """Average the predictions of one or more runs and write the submission.

    An ensemble of several runs is saved as a new run. Without --run, it is the finished one with the best
    out-of-fold accuracy.
    """
    _show_run(workspace, kd.ensemble(workspace, runs or [_chosen(workspace)], name, output))


@cli.command(short_help="Submit a run and wait for its score.")
@run_option
@click.option("--file", metavar="CSV", type=PATH, help="Submit this file instead of a run's submission.")
@click.option("--message", metavar="M", help="The description at the host. Default: preset, folds, seed, CV.")
@click.option("--dry-run", is_flag=True, help="Check everything and show what would be sent, but send nothing.")
@click.option("--again", is_flag=True, help="Send the file even if it was submitted before.")
@click.option("--yes", is_flag=True, help="Do not ask before sending a run worse than the best one so far.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the score.")
@click.option("--timeout", metavar="S", default=TIMEOUT, help="How many seconds to wait for the score.")
def submit(workspace: Workspace, dry_run: bool, no_wait: bool, **options: Any) -> None:
    """Check a submission file, send it once, wait for its score, and record it in the ledger."""
    with console.spinner(f"Submitting to {workspace.competition.name}") as status:
        observer = console.SubmissionView(status)
        sent = kd.submit(workspace, dry_run=dry_run, wait=not no_wait, observer=observer, **options)
    facts = {"description": sent.description, "sent": not (dry_run or sent.was_known), "dry_run": dry_run}
    _show(sent.entry.as_json() | facts, console.show_sent, sent, dry_run, workspace.competition)


@cli.command(short_help="Show your scores and your rank on the leaderboard.")
def score(workspace: Workspace) -> None:
    """Show all submissions with status, score and CV, and your rank on the leaderboard."""
    with console.spinner(f"Reading the scores of {workspace.competition.name}"):
        board = kd.score(workspace)
    submissions = [
        asdict(submission) | {"run": entry.run or None, "cv": entry.cv, "gap": entry.gap}
        for submission, entry in board.submissions
    ]
    standing = {name: getattr(board.standing, name, None) for name in ("rank", "teams", "percentile")}
    document = {"competition": workspace.competition.name, **standing, "submissions": submissions}
    _show(document, console.show_scores, board, workspace.competition)


@cli.command(short_help="Write and show the validation report of a run.")
@run_option
@network_option
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
def report(workspace: Workspace, run: str | None, network: str | None, open_page: bool) -> None:
    """Write the validation report of a run, fold by fold, and show it."""
    _import_keras_quickly()
    name = _chosen(workspace, run)
    with console.spinner("Writing the report"):
        written = kd.report(workspace, name, network)
    _show(written.document, console.show_report, written.document, str(written.page))
    if open_page:
        click.launch(str(written.page))


@cli.command(short_help="Download, train, submit, score and report.")
@training_options
@click.option("--yes", is_flag=True, help="Submit without asking.")
def go(workspace: Workspace, yes: bool, **options: Any) -> None:
    """Do all of it: download, train, submit, score and report, with the options of train.

    Like each of these commands, it can be run again: what is done is not done again. It asks before it submits.
    """
    if not yes and not console.can_ask():
        raise UsageError("Here nobody can be asked whether to submit.", "Add --yes to submit the run.")
    context, documents = click.get_current_context(), dict[str, Any]()
    context.find_root().params["documents"] = documents
    context.invoke(download, workspace=workspace)
    context.invoke(train, workspace=workspace, **options)
    run = documents["train"]["run"]
    if yes or click.confirm(f"Submit {run}?", default=True, err=True):
        context.invoke(submit, workspace=workspace, run=run, yes=yes)
        context.invoke(score, workspace=workspace)
    context.invoke(report, workspace=workspace, run=run, network=options["network"])
    if _is_json():
        click.echo(json.dumps(documents, indent=2, default=str))


@cli.command(short_help="Compare runs.")
@click.argument("names", metavar="RUN RUN ...", nargs=-1, shell_complete=_runs)
def compare(workspace: Workspace, names: tuple[str, ...]) -> None:
    """Compare two or more finished runs, with McNemar's test on their out-of-fold predictions."""
    with console.spinner("Comparing the runs"):
        written = kd.compare(workspace, names)
    _show(written.document, console.show_comparison, written.document, str(written.page))


@cli.command(short_help="Classify your own pictures.")
@click.argument("images", metavar="IMAGE ...", nargs=-1, required=True, type=PATH)
@run_option
@network_option
def predict(workspace: Workspace, images: tuple[Path, ...], run: str | None, network: str | None) -> None:
    """Classify pictures with all networks of a run. Each picture shows one digit.

    A picture is a photograph or a drawing of any size, dark on light or light on dark, as PNG, JPEG, WebP, GIF,
    BMP or TIFF. For one picture, all probabilities are shown; for several, one line each.
    """
    _import_keras_quickly()
    name = _chosen(workspace, run)
    failure: kd.UnreadablePicturesError | None = None
    with console.spinner(f"Predicting with the networks of {name}"):
        try:
            predictions = kd.predict(workspace, images, name, network)
        except kd.UnreadablePicturesError as error:
            predictions, failure = error.predictions, error
    if predictions:
        documents = [prediction.as_document() for prediction in predictions]
        failed = [{"file": path, "problem": why.problem} for path, why in (failure.failures if failure else [])]
        show = console.show_prediction if len(images) == 1 else console.show_predictions
        _show({"run": name, "pictures": documents, "failed": failed}, show, predictions)
    if failure:
        raise failure


@cli.command(short_help="Draw a digit in the browser.")
@run_option
@network_option
@click.option(
    "--port", metavar="N", type=int, help="The port of the page. Default: the first free one from 7860 on."
)
def draw(workspace: Workspace, run: str | None, network: str | None, port: int | None) -> None:
    """Serve a page to this machine on which one draws a digit and sees what the networks of a run say.

    A picture can be dropped into it, too. It shows the same as predict. Ctrl-C ends it. It needs the extra draw.
    """
    _import_keras_quickly()
    name = _chosen(workspace, run)
    with console.spinner(f"Reading the networks of {name}"):
        address = kd.draw(workspace, name, network, port)
    _show({"run": name, "address": address}, console.say, f"Draw a digit at {address} (Ctrl-C ends it)")
    if console.can_ask():
        click.launch(address)
    try:
        Event().wait()
    finally:
        import gradio

        gradio.close_all(verbose=False)  # which deletes the drawings


@cli.command(short_help="Write a run's ensemble as one model.")
@click.argument("file", type=PATH)
@run_option
@click.option(
    "--format", type=click.Choice(MODEL_FORMATS), help="onnx needs the extra onnx. Default: by the name of FILE."
)
@network_option
def export(workspace: Workspace, file: Path, run: str | None, format: str | None, network: str | None) -> None:
    """Write the ensemble of a run as one model, FILE, for other programs.

    The input is uint8 [n, 28, 28], grey values with ink as 255, as in test.csv; the output is float32 [n, 10],
    the probabilities of the digits, the same as from predict. Predict many images in batches of a few hundred. The
    name of FILE ends with .onnx or .keras.
    """
    _import_keras_quickly()
    name = _chosen(workspace, run)
    with console.spinner(f"Exporting {name}"):
        path = kd.export(workspace, file, name, format, network)
    size = path.stat().st_size
    text = f"Model of {name}: {path} ({size / 1e6:.1f} MB)"
    _show({"run": name, "file": path, "bytes": size}, console.say, text)


@cli.command(short_help="List all runs.")
@click.option("--open", "open_page", is_flag=True, help="Write them as a page, too, and open it in the browser.")
def runs(workspace: Workspace, open_page: bool) -> None:
    """List all runs with their status, errors, accuracy and score."""
    from kaggle_digits.runs.summary import summarise_runs

    rows = summarise_runs(workspace)
    page = kd.overview(workspace) if open_page else None
    _show({"competition": workspace.competition.name, "runs": rows}, console.show_runs, rows, page)
    if page:
        click.launch(str(page))


@cli.command(short_help="List the presets with their scores, and how long each takes here.")
@click.option("--settings", is_flag=True, help="Explain the settings instead, which train --set changes.")
def presets(workspace: Workspace, settings: bool) -> None:
    """List the presets with their score, their compute, and about how long each takes on this machine.

    The score of fast and default is the mean over three splits of MNIST into 42,000 training rows and 28,000 test
    rows, that of lenet is of one split. Compute and time are for 42,000 training rows. The time follows
    from a few training steps of each preset on all cores of this machine, which takes about 20 seconds.
    """
    from kaggle_digits.execution.estimate import summarise_presets
    from kaggle_digits.training.presets import describe_settings

    if settings and not _is_json():
        return console.show_settings(describe_settings())
    with console.spinner("Measuring this machine"):
        rows = summarise_presets()
    return _show({"presets": rows, "settings": describe_settings()}, console.show_presets, rows)


@cli.command(short_help="Check this machine, the credentials and the files.")
def doctor(workspace: Workspace) -> None:
    """Check that everything is ready for the competition, and show how to fix what is not.

    It changes nothing. The exit code is 0 even if there are problems.
    """
    from kaggle_digits.doctor import examine, next_command

    with console.spinner("Checking this machine"):
        checks = examine(workspace)
    command, findings = next_command(workspace, checks), [check.as_check() for check in checks]
    document = {"competition": workspace.competition.name, "ready": command != "", "findings": findings}
    _show(document, console.show_checks, checks, command)


def _import_keras_quickly() -> None:
    from kaggle_digits.training import models

    models.hidden_from_keras = models.UNUSED_BY_KERAS


def _chosen(workspace: Workspace, name: str | None = None) -> str:
    """Return the complete name of a run; without a name, choose the run, and name it on stderr."""
    from kaggle_digits.runs.summary import explain_choice

    run = kd.find_run(workspace, name)
    if name is None:
        console.out(stderr=True).print(explain_choice(workspace, run))
    return run.name


def _show_run(workspace: Workspace, run: Any) -> None:
    from kaggle_digits.submissions.submit import submission_file

    facts = {"competition": workspace.competition.name, "run": run.name, "folder": run.path}
    facts |= {"submission": submission_file(workspace, run.name)} | run.ensemble_metrics().as_json()
    _show(facts, console.show_run, facts, workspace.command("submit", "--run", run.name))
