"""The command line `kaggle-digits`: parse the arguments, call the library, print the result.

Slow imports (numpy, pandas, kaggle, rich) are inside the commands, so that ``--help`` is fast.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kaggle_digits import __version__
from kaggle_digits.encoding import replace_unknown_characters
from kaggle_digits.errors import KaggleDigitsError, UsageError, WriteError
from kaggle_digits.prediction import MODEL_FORMATS
from kaggle_digits.submissions import TIMEOUT
from kaggle_digits.training import DEFAULT_PRESET, PRESET_NAMES
from kaggle_digits.workspace import COMPETITIONS, DEFAULT_COMPETITION

if TYPE_CHECKING:
    from kaggle_digits.errors import DataError
    from kaggle_digits.runs.directory import Run
    from kaggle_digits.workspace import Workspace

INTERRUPTED = 130


class _Group(click.Group):
    """A group that lists its commands in the order of the work, which is that of this file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class _Command(click.Command):
    """A command that also accepts the options of the group, such as ``--competition``, after its name."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Hidden, because the help of the group explains them.
        words = "As before the command."
        self.params += [
            click.Option(["--competition"], hidden=True, help=words),
            click.Option(["--root"], hidden=True, help=words, type=click.Path(file_okay=False, path_type=Path)),
            click.Option(["--debug"], hidden=True, help=words, is_flag=True),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        ctx.obj = _workspace(ctx)
        for name in ("competition", "root", "debug"):
            del ctx.params[name]  # the function of the command does not have them
        return super().invoke(ctx)


_Group.command_class = _Command


def _workspace(context: click.Context) -> Workspace:
    """Return the workspace of a command, whose options after its name take precedence over those before it."""
    from kaggle_digits.workspace import Workspace

    options = (context.parent.params if context.parent else {}) | {k: v for k, v in context.params.items() if v}
    return Workspace.at(options.get("root") or Path(), options.get("competition") or DEFAULT_COMPETITION)


def _complete_run(context: click.Context, parameter: click.Parameter, start: str) -> list[str]:
    """Return the names of the runs that begin with `start`, for the completion of the shell."""
    from kaggle_digits.runs.directory import list_runs

    with suppress(KaggleDigitsError):  # an error would be printed into the line that is being edited
        return [run.name for run in list_runs(_workspace(context)) if run.name.startswith(start)]
    return []


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout instead.")
run_option = click.option(
    "--run",
    metavar="NAME",
    shell_complete=_complete_run,
    help="The run, or the beginning of its name if no other begins like it. Default: the finished "
    "one with the best out-of-fold accuracy on the present data.",
)

output_option = click.option(
    "--output",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Write a copy of submission.csv here, too: a file, or a folder such as /kaggle/working.",
)


def main() -> None:
    """Run the command line; errors become two sentences on stderr and an exit code, without a traceback."""
    replace_unknown_characters()
    debug = "--debug" in sys.argv
    try:
        sys.exit(cli.main(prog_name="kaggle-digits", standalone_mode=False))
    except KaggleDigitsError as error:
        _fail(error, error.problem, error.remedy, error.exit_code, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except click.UsageError as error:
        _fail(error, _sentence(error.format_message()), _usage_remedy(error), UsageError.exit_code, debug)
    except (KeyboardInterrupt, click.Abort) as error:
        remedy = "Run the same command again to continue; finished work is kept."
        _fail(error, "Interrupted.", remedy, INTERRUPTED, debug)
    except MemoryError as error:
        # Free the memory that the frames hold, so that the message can be printed.
        traceback.clear_frames(error.__traceback__)
        remedy = "Close other programs, or train with fewer --workers, then run the same command again."
        _fail(error, "This machine ran out of memory.", remedy, 1, debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            # All other writes raise a WriteError that names the file; only stdout gets here.
            problem = f"Cannot write {error.filename or 'the output'}: {error.strerror}."
            _fail(error, problem, "Free some space, then run the same command again.", WriteError.exit_code, debug)
        problem = f"Internal error in kaggle-digits: {type(error).__name__}: {error}"
        remedy = "Run it again with --debug to see the traceback, and report it."
        _fail(error, _sentence(problem), remedy, 1, debug)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--competition",
    metavar="NAME",
    envvar="KAGGLE_DIGITS_COMPETITION",
    default=DEFAULT_COMPETITION,
    help="The competition; also set by KAGGLE_DIGITS_COMPETITION. One of: "
    + "; ".join(f"{c.name} ({c.summary})" for c in COMPETITIONS.values())
    + f". Default: {DEFAULT_COMPETITION}.",
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="KAGGLE_DIGITS_ROOT",
    default=Path(),
    help="The folder that contains data/, runs/ and submissions/; also set by KAGGLE_DIGITS_ROOT. "
    "Default: the current folder.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def cli(competition: str, root: Path, debug: bool) -> None:
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
@click.option(
    "--from",
    "source",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Take the files from a zip downloaded with the browser, or from a folder; in a Kaggle "
    "notebook: /kaggle/input.",
)
@click.option(
    "--mnist-dir",
    metavar="DIR",
    envvar="KAGGLE_DIGITS_MNIST_DIR",
    type=click.Path(path_type=Path),
    help="For rehearsal-full: the folder with the four IDX files of MNIST; also set by KAGGLE_DIGITS_MNIST_DIR. "
    "Default: download them from a public mirror.",
)
@json_option
@click.pass_obj
def download(
    workspace: Workspace, force: bool, source: Path | None, mnist_dir: Path | None, as_json: bool
) -> None:
    """Download the competition's files into data/<competition>/ and check that they are complete.

    If complete files are already there, nothing is downloaded and no network is used.
    """
    from kaggle_digits import console
    from kaggle_digits.data.download import download as fetch

    with console.Spinner(f"Downloading {workspace.competition.name}"):
        files = fetch(workspace, force=force, source=source, mnist_dir=mnist_dir)
    if as_json:
        return _print_json(
            {
                "competition": workspace.competition.name,
                "folder": str(files.folder),
                "train_rows": files.train_rows,
                "test_rows": files.test_rows,
                "fetched": files.fetched,
                "changed": files.changed,
            }
        )
    state = "downloaded" if files.fetched else "already complete"
    console.say(
        f"{workspace.competition.name} {state}: {files.train_rows:,} training rows, {files.test_rows:,} test rows"
    )
    console.say(f"Folder: {files.folder}")
    for name in files.changed:
        console.say(
            f"{name} differs from the previous file, which existing runs were trained on. "
            f"The previous file was kept as {name}.bak."
        )
    return None


@cli.command(short_help="Train the missing folds of a run and ensemble them.")
@click.option(
    "--preset",
    metavar="NAME",
    default=DEFAULT_PRESET,
    shell_complete=lambda _context, _option, start: [name for name in PRESET_NAMES if name.startswith(start)],
    help=f"{', '.join(PRESET_NAMES)}; the command presets explains them. Default: {DEFAULT_PRESET}.",
)
@click.option("--folds", metavar="K", type=int, help="The number of folds. Default: that of the preset.")
@click.option(
    "--seed", metavar="N", type=int, default=0, help="The random seed of the split and of training. Default: 0."
)
@click.option(
    "--seeds",
    metavar="N",
    type=int,
    default=1,
    help="Train N runs with consecutive seeds from --seed on, and average them into one more run. Default: 1.",
)
@click.option(
    "--run", metavar="NAME", help="The name of the run. Default: built from preset, folds, seed and settings."
)
@click.option(
    "--workers",
    metavar="N",
    type=int,
    help="How many folds to train in parallel on this machine. Default: depends on cores, memory and GPUs.",
)
@click.option(
    "--on",
    metavar="WHERE",
    help="Where to train the folds: kaggle (in a kernel with two GPUs at Kaggle, from your weekly quota), "
    "kaggle-cpu (in a kernel without GPUs), or the address of a Dask scheduler, such as tcp://10.0.0.1:8786. "
    "Default: on this machine.",
)
@click.option("--dry-run", is_flag=True, help="With --on kaggle: show what would be sent, but send nothing.")
@click.option("--no-wait", is_flag=True, help="With --on kaggle: send the folds, and end with exit code 5.")
@click.option("--cancel", is_flag=True, help="With --on kaggle: delete the kernel that trains the run.")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a setting of the preset, such as epochs=3; can be repeated.",
)
@output_option
@click.option("--retrain", is_flag=True, help="Train damaged folds again, or all folds if none is damaged.")
@click.option(
    "--tensorboard", is_flag=True, help="Write event files for TensorBoard into the folders of the folds."
)
@json_option
@click.pass_obj
def train(
    workspace: Workspace,
    preset: str,
    folds: int | None,
    seed: int,
    seeds: int,
    run: str | None,
    workers: int | None,
    on: str | None,
    dry_run: bool,
    no_wait: bool,
    cancel: bool,
    settings: tuple[str, ...],
    output: Path | None,
    retrain: bool,
    tensorboard: bool,
    as_json: bool,
) -> None:
    """Train the missing folds of a run, ensemble all folds and write the submission.

    If it is interrupted, run the same command again to continue.
    """
    from kaggle_digits import console, pipeline
    from kaggle_digits.training.recipe import Recipe

    wanted: dict[str, Any] = {
        "preset": preset,
        "folds": folds,
        "seed": seed,
        "seeds": seeds,
        "settings": _parse_settings(settings),
        "run": run,
    }
    if dry_run or no_wait or cancel:
        if dry_run + no_wait + cancel > 1:
            raise UsageError("--dry-run, --no-wait and --cancel exclude each other.", "Choose one of them.")
        if (dry_run or cancel) and (workers is not None or tensorboard or output is not None):
            raise UsageError(
                "--dry-run and --cancel train nothing.", "Leave out --workers, --tensorboard and --output."
            )
        if cancel and retrain:
            raise UsageError("--cancel trains nothing.", "Leave out --retrain.")
    if dry_run:
        preview = pipeline.preview_kernel(workspace, Recipe(**wanted), on, retrain=retrain)
        return _print_json(preview) if as_json else console.show_preview(preview)
    if cancel:
        deleted = pipeline.cancel_kernels(workspace, Recipe(**wanted), on)
        return _print_json({"deleted": deleted}) if as_json else console.show_deleted(deleted)
    with console.TrainingView() as view:
        trained = pipeline.train(
            workspace,
            workers=workers,
            on=on,
            wait=not no_wait,
            retrain=retrain,
            tensorboard=tensorboard,
            output=output,
            observer=view,
            **wanted,
        )
    return _show_run(workspace, trained, as_json, is_new=True)


@cli.command(short_help="Average the predictions of one or more runs.")
@click.option(
    "--run",
    "runs",
    metavar="NAME",
    multiple=True,
    shell_complete=_complete_run,
    help="A run; can be repeated. Default: the finished one with the best out-of-fold accuracy.",
)
@click.option(
    "--name", metavar="NEW", help="The name of an ensemble of several runs. Default: their names joined by +."
)
@output_option
@json_option
@click.pass_obj
def ensemble(
    workspace: Workspace, runs: tuple[str, ...], name: str | None, output: Path | None, as_json: bool
) -> None:
    """Average the predictions of one or more runs and write the submission.

    An ensemble of several runs is saved as a new run.
    """
    from kaggle_digits import pipeline

    averaged = pipeline.ensemble(workspace, runs or [_chosen(workspace)], name, output)
    _show_run(workspace, averaged, as_json)


@cli.command(short_help="Submit a run and wait for its score.")
@click.option(
    "--run",
    metavar="NAME",
    shell_complete=_complete_run,
    help="The run. Default: the finished one with the best out-of-fold accuracy on the present data.",
)
@click.option(
    "--file",
    metavar="CSV",
    type=click.Path(path_type=Path),
    help="Submit this file instead of a run's submission.",
)
@click.option(
    "--message", metavar="M", help="The description of the submission. Default: preset, folds, seed and CV."
)
@click.option("--dry-run", is_flag=True, help="Check everything and show what would be sent, but send nothing.")
@click.option("--again", is_flag=True, help="Send the file even if it was submitted before.")
@click.option(
    "--yes", is_flag=True, help="Do not ask before a run is sent that is worse than the best one so far."
)
@click.option("--no-wait", is_flag=True, help="Do not wait for the score.")
@click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0),
    default=TIMEOUT,
    help=f"How many seconds to wait for the score. Default: {TIMEOUT:.0f}.",
)
@json_option
@click.pass_obj
def submit(
    workspace: Workspace,
    run: str | None,
    file: Path | None,
    message: str | None,
    dry_run: bool,
    again: bool,
    yes: bool,
    no_wait: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Check a submission file, send it once, wait for its score, and record it in the ledger."""
    from kaggle_digits import console, pipeline

    with console.Spinner(f"Submitting to {workspace.competition.name}") as spinner:
        sent = pipeline.submit(
            workspace,
            run=run,
            file=file,
            message=message,
            dry_run=dry_run,
            again=again,
            yes=yes,
            wait=not no_wait,
            timeout=timeout,
            observer=console.SubmissionView(spinner),
        )
    if as_json:
        return _print_json(
            sent.entry.as_json()
            | {"description": sent.description, "sent": not (dry_run or sent.was_known), "dry_run": dry_run}
        )
    return console.show_sent(sent, dry_run)


@cli.command(short_help="Show your scores and your rank on the leaderboard.")
@json_option
@click.pass_obj
def score(workspace: Workspace, as_json: bool) -> None:
    """Show all submissions with status, score and CV, and your rank on the leaderboard."""
    from dataclasses import asdict

    from kaggle_digits import console, pipeline

    with console.Spinner(f"Reading the scores of {workspace.competition.name}"):
        board = pipeline.score(workspace)
    if as_json:
        standing = board.standing
        return _print_json(
            {
                "competition": workspace.competition.name,
                "rank": standing.rank if standing else None,
                "teams": standing.teams if standing else None,
                "percentile": standing.percentile if standing else None,
                "submissions": [
                    asdict(submission) | {"run": entry.run or None, "cv": entry.cv, "gap": entry.gap}
                    for submission, entry in board.submissions
                ],
            }
        )
    return console.show_scores(board)


@cli.command(short_help="Write and show the validation report of a run.")
@run_option
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@json_option
@click.pass_obj
def report(workspace: Workspace, run: str | None, open_page: bool, as_json: bool) -> None:
    """Write the validation report of a run, fold by fold, and show it."""
    from kaggle_digits import console
    from kaggle_digits.reports import report as write_report

    name = _chosen(workspace, run)
    with console.Spinner("Writing the report"):
        written = write_report(workspace, name)
    if as_json:
        _print_json(written.document)
    else:
        console.show_report(written.document, str(written.page))
    if open_page:
        click.launch(str(written.page))


@cli.command(short_help="Compare runs.")
@click.argument("names", metavar="RUN RUN ...", nargs=-1, shell_complete=_complete_run)
@json_option
@click.pass_obj
def compare(workspace: Workspace, names: tuple[str, ...], as_json: bool) -> None:
    """Compare two or more finished runs, with McNemar's test on their out-of-fold predictions."""
    from kaggle_digits import console
    from kaggle_digits.reports import compare as write_comparison

    with console.Spinner("Comparing the runs"):
        written = write_comparison(workspace, names)
    if as_json:
        return _print_json(written.document)
    return console.show_comparison(written.document, str(written.page))


@cli.command(short_help="Classify your own pictures.")
@click.argument("images", metavar="IMAGE ...", nargs=-1, required=True, type=click.Path(path_type=Path))
@run_option
@json_option
@click.pass_obj
def predict(workspace: Workspace, images: tuple[Path, ...], run: str | None, as_json: bool) -> None:
    """Classify pictures with all networks of a run. Each picture shows one digit.

    A picture is a photograph or a drawing of any size, dark on light or light on dark, as PNG, JPEG, WebP, GIF,
    BMP or TIFF. For one picture, all probabilities are shown; for several, one line each.
    """
    from kaggle_digits import console
    from kaggle_digits.prediction.predict import UnreadablePicturesError
    from kaggle_digits.prediction.predict import predict as classify

    name = _chosen(workspace, run)
    failures: list[tuple[Path, DataError]] = []
    with console.Spinner(f"Predicting with the networks of {name}"):
        try:
            predictions = classify(workspace, images, name)
        except UnreadablePicturesError as error:
            predictions, failures = error.predictions, error.failures
    if predictions and as_json:
        documents = [prediction.as_document() for prediction in predictions]
        failed = [{"file": str(path), "problem": why.problem} for path, why in failures]
        _print_json({"run": name, "pictures": documents, "failed": failed})
    elif len(images) == 1 and predictions:
        console.show_prediction(predictions[0])
    elif predictions:
        console.show_predictions(predictions)
    for _, why in failures[:-1]:
        console.show_error(why.problem, why.remedy)
    if failures:
        raise failures[-1][1]


@cli.command(short_help="Write a run's ensemble as one model.")
@click.argument("file", type=click.Path(path_type=Path))
@run_option
@click.option(
    "--format",
    type=click.Choice(list(MODEL_FORMATS)),
    help="onnx (needs the extra onnx) or keras. Default: by the name of the file.",
)
@json_option
@click.pass_obj
def export(workspace: Workspace, file: Path, run: str | None, format: str | None, as_json: bool) -> None:
    """Write the ensemble of a run as one model, FILE, for other programs.

    The input is uint8 [n, 28, 28], grey values with ink as 255, as in test.csv; the output is float32 [n, 10],
    the probabilities of the digits, the same as from predict. Predict many images in batches of a few hundred. The
    name of FILE ends with .onnx or .keras.
    """
    from kaggle_digits import console
    from kaggle_digits.prediction.export import export as write_model

    name = _chosen(workspace, run)
    with console.Spinner(f"Exporting {name}"):
        path = write_model(workspace, file, name, format)
    if as_json:
        return _print_json({"run": name, "file": str(path), "bytes": path.stat().st_size})
    return console.say(f"Model of {name}: {path} ({path.stat().st_size / 1e6:.1f} MB)")


@cli.command(short_help="List all runs.")
@click.option("--open", "open_page", is_flag=True, help="Write them as a page, too, and open it in the browser.")
@json_option
@click.pass_obj
def runs(workspace: Workspace, open_page: bool, as_json: bool) -> None:
    """List all runs with their status, errors, accuracy and score."""
    from kaggle_digits import console
    from kaggle_digits.reports import overview
    from kaggle_digits.runs.summary import summarise_runs

    rows = summarise_runs(workspace)
    page = overview(workspace) if open_page else None
    if as_json:
        _print_json({"competition": workspace.competition.name, "runs": rows})
    else:
        console.show_runs(rows)
    if page is not None:
        if not as_json:
            console.say(f"Page: {page}")
        click.launch(str(page))


@cli.command(short_help="List the presets with their scores, and how long each takes here.")
@click.option("--settings", is_flag=True, help="Explain the settings instead, which train --set changes.")
@json_option
def presets(settings: bool, as_json: bool) -> None:
    """List the presets with their score, their compute, and about how long each takes on this machine.

    The score of fast and default is the mean over three splits of MNIST into 42,000 training rows and 28,000 test
    rows, that of lenet is of one split. Compute and time are for 42,000 training rows. The time follows
    from the compute and a measurement of this machine, which takes two seconds.
    """
    from kaggle_digits import console
    from kaggle_digits.execution.machine import summarise_presets
    from kaggle_digits.training.presets import describe_settings

    if as_json:
        return _print_json({"presets": summarise_presets(), "settings": describe_settings()})
    return console.show_settings(describe_settings()) if settings else console.show_presets(summarise_presets())


@cli.command(short_help="Check this machine, the credentials and the files.")
@json_option
@click.pass_obj
def doctor(workspace: Workspace, as_json: bool) -> None:
    """Check that everything is ready for the competition, and show how to fix what is not.

    It changes nothing. The exit code is 0 even if there are problems.
    """
    from kaggle_digits import console
    from kaggle_digits.doctor import examine, is_ready, next_command

    with console.Spinner("Checking this machine"):
        checks = examine(workspace)
    ready = is_ready(checks)
    if as_json:
        return _print_json(
            {
                "competition": workspace.competition.name,
                "ready": ready,
                "findings": [check.as_check() for check in checks],
            }
        )
    return console.show_checks(checks, next_command(workspace, checks) if ready else "")


def _chosen(workspace: Workspace, name: str | None = None) -> str:
    """Return the complete name of a run; without a name, choose the run, and name it on stderr."""
    from kaggle_digits import console
    from kaggle_digits.runs.advice import explain_choice
    from kaggle_digits.runs.directory import find_run

    run = find_run(workspace, name)
    if name is None:
        console.err().print(explain_choice(workspace, run), markup=False)
    return run.name


def _parse_settings(pairs: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(
                f"--set {pair!r} is not of the form KEY=VALUE.", "Write, for example: --set epochs=3."
            )
        settings[key.strip()] = value.strip()
    return settings


def _show_run(workspace: Workspace, run: Run, as_json: bool, is_new: bool = False) -> None:
    from kaggle_digits import console
    from kaggle_digits.submissions.submit import submission_file

    submission = str(submission_file(workspace, run.name))
    if as_json:
        facts = {"competition": workspace.competition.name, "run": run.name, "folder": str(run.path)}
        _print_json(facts | {"submission": submission, **run.ensemble_metrics().as_json()})
    else:
        console.show_run(run, submission)
        if is_new:
            console.say(f"Next: {workspace.command('submit', '--run', run.name)}")


def _print_json(document: Any) -> None:
    text = json.dumps(document, indent=2)
    # A list of numbers, such as a row of an image, in one line. Line breaks are never part of a string in JSON.
    number = r"-?[\d.eE+-]+"
    rows = rf"\[\n\s+((?:{number},\n\s+)*{number})\n\s*\]"
    click.echo(re.sub(rows, lambda found: "[" + re.sub(r",\s+", ", ", found[1]) + "]", text))


def _fail(error: BaseException, problem: str, remedy: str, exit_code: int, debug: bool) -> NoReturn:
    # Only the message is left to print: a second Ctrl-C from here on may cut it short, but changes nothing else.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from kaggle_digits import console
    from kaggle_digits.hosts.credentials import scrub

    # The device of stderr may be full, too.
    with suppress(OSError):
        if debug:
            sys.stderr.write(scrub("".join(traceback.format_exception(error))))
        problem, remedy = (" ".join(scrub(text).splitlines()) for text in (problem, remedy))
        console.show_error(problem, remedy, is_error=exit_code != INTERRUPTED)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            # Its buffer is still full. Python would write it once more at exit, fail, and change the exit code.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    # Python restores the default handler while it exits; a Ctrl-C then would change the exit code.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(exit_code)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _usage_remedy(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "kaggle-digits"
    if isinstance(error, click.NoSuchOption) and path.endswith(" train"):
        from kaggle_digits.training.presets import Settings

        option = error.option_name
        if (setting := option.strip("-").replace("-", "_")) in Settings.model_fields:
            value = re.search(rf"{option}[ =]([^ -]\S*)", " ".join(sys.argv))
            return f"Use --set {setting}={value[1] if value else 'VALUE'}."
    return f"See: {path} --help."
