"""The command `kaggle-digits`: parse, call, print.

What is heavy (numpy, pandas, kaggle, rich) is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from kaggle_digits.errors import KaggleDigitsError, UsageError, WriteError
from kaggle_digits.submissions import TIMEOUT
from kaggle_digits.training import DEFAULT_PRESET, PRESET_NAMES
from kaggle_digits.workspace import COMPETITIONS, DEFAULT_COMPETITION

if TYPE_CHECKING:
    from kaggle_digits.runs.directory import Run
    from kaggle_digits.workspace import Workspace

INTERRUPTED = 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout instead.")
run_option = click.option("--run", metavar="NAME", help="The run. Default: the latest finished one.")


def main() -> None:
    """Run the command line: errors end in two sentences on stderr and an exit code, without a traceback."""
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
        _fail(
            error,
            "Interrupted.",
            "Run the same command again to go on; what is finished stays.",
            INTERRUPTED,
            debug,
        )
    except MemoryError as error:
        # What the frames hold would be in the way of the words.
        traceback.clear_frames(error.__traceback__)
        remedy = "Close other programs, or train with fewer --workers, then run the same command again."
        _fail(error, "This machine ran out of memory.", remedy, 1, debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            # Of all that is written, stdout alone has nobody who would explain it.
            problem = f"Cannot write {error.filename or 'the output'}: {error.strerror}."
            _fail(error, problem, "Free some space, then run the same command again.", WriteError.exit_code, debug)
        problem = f"Something went wrong that is no fault of yours: {type(error).__name__}: {error}"
        _fail(error, _sentence(problem), "Run it again with --debug before the command to see where.", 1, debug)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--competition",
    metavar="NAME",
    envvar="KAGGLE_DIGITS_COMPETITION",
    default=DEFAULT_COMPETITION,
    help="The competition, also as KAGGLE_DIGITS_COMPETITION: "
    + "; ".join(f"{c.name} ({c.summary})" for c in COMPETITIONS.values())
    + f". Default: {DEFAULT_COMPETITION}.",
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="KAGGLE_DIGITS_ROOT",
    default=Path(),
    help="The folder of data/, runs/ and submissions/, also as KAGGLE_DIGITS_ROOT. Default: the current one.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="kaggle-digits", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, competition: str, root: Path, debug: bool) -> None:
    """From nothing to a scored submission in Kaggle's Digit Recognizer.

    Download the data, train a CNN by stratified k-fold, average the folds' softmaxes over the test set, write
    submission.csv, submit it, read its score, and see what the folds say.

    \b
    Without an account:   kaggle-digits --competition rehearsal download
                          kaggle-digits --competition rehearsal train
                          kaggle-digits --competition rehearsal submit

    Exit codes: 0 done, 1 a fault of ours, 2 wrong usage, 3 credentials, 4 Kaggle refuses, 5 network or still
    pending, 6 bad data, 7 the submission was scored as an error, 8 cannot write or in use, 130 interrupted.
    """  # noqa: D301 - click takes \b for "do not wrap what follows"
    from kaggle_digits.workspace import Workspace

    context.obj = Workspace.at(root, competition)


@cli.command(short_help="Get the competition's files.")
@click.option("--force", is_flag=True, help="Get the files again, whatever is there.")
@click.option(
    "--from",
    "source",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Take them from a zip that the browser saved, or from a folder such as /kaggle/input/digit-recognizer.",
)
@click.option(
    "--mnist-dir",
    metavar="DIR",
    envvar="KAGGLE_DIGITS_MNIST_DIR",
    type=click.Path(path_type=Path),
    help="For rehearsal-full: the folder of MNIST's four IDX files, also as KAGGLE_DIGITS_MNIST_DIR. "
    "Default: they are downloaded from a public mirror.",
)
@json_option
@click.pass_obj
def download(
    workspace: Workspace, force: bool, source: Path | None, mnist_dir: Path | None, as_json: bool
) -> None:
    """Get the competition's files into data/<competition>/, checked and whole.

    Whole files that are there already stay, and nothing is asked of anybody.
    """
    from kaggle_digits import console
    from kaggle_digits.data.download import download as fetch

    with console.waiting(f"Getting {workspace.competition.name}"):
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
    state = "is here now" if files.fetched else "was here already"
    console.say(
        f"{workspace.competition.name} {state}: {files.train_rows:,} training rows, {files.test_rows:,} test rows"
    )
    console.say(f"Folder: {files.folder}")
    for name in files.changed:
        console.say(
            f"{name} is another one than before. The former one, which runs were made from, ends in .bak now."
        )
    return None


@cli.command(short_help="Train what is missing of a run, and ensemble it.")
@click.option(
    "--preset",
    metavar="NAME",
    default=DEFAULT_PRESET,
    help=f"The preset: {', '.join(PRESET_NAMES)}. Default: {DEFAULT_PRESET}.",
)
@click.option("--folds", metavar="K", type=int, help="How many folds. Default: the preset's.")
@click.option("--seed", metavar="N", type=int, default=0, help="Of the split and of training. Default: 0.")
@click.option(
    "--seeds",
    metavar="N",
    type=int,
    default=1,
    help="Train N runs, of this seed and those after it, and average them into one more. Default: 1.",
)
@click.option("--run", metavar="NAME", help="The run's name. Default: made of preset, folds, seed and settings.")
@click.option(
    "--workers", metavar="N", type=int, help="Folds at a time on this machine. Default: by cores, memory and GPUs."
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Train on the workers of the Dask scheduler at this address, such as tcp://10.0.0.1:8786.",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a setting, such as epochs=3; may be repeated.",
)
@click.option("--retrain", is_flag=True, help="Train damaged folds again; all of them where none is damaged.")
@click.option("--tensorboard", is_flag=True, help="Write events for TensorBoard into the run's folds.")
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
    dask: str | None,
    settings: tuple[str, ...],
    retrain: bool,
    tensorboard: bool,
    as_json: bool,
) -> None:
    """Train what is missing of a run, ensemble its folds and write its submission.

    The same command again goes on where the first one ended.
    """
    from kaggle_digits import console, pipeline

    with console.TrainingView() as view:
        trained = pipeline.train(
            workspace,
            preset=preset,
            folds=folds,
            seed=seed,
            seeds=seeds,
            settings=_parse_settings(settings),
            run=run,
            workers=workers,
            dask=dask,
            retrain=retrain,
            tensorboard=tensorboard,
            observer=view,
        )
    _show_run(workspace, trained, as_json)


@cli.command(short_help="Average one or more runs again.")
@click.option(
    "--run",
    "runs",
    metavar="NAME",
    multiple=True,
    help="A run; may be repeated. Default: the latest finished one.",
)
@click.option(
    "--name", metavar="NEW", help="The name of the ensemble of several runs. Default: theirs, joined by +."
)
@json_option
@click.pass_obj
def ensemble(workspace: Workspace, runs: tuple[str, ...], name: str | None, as_json: bool) -> None:
    """Average one or more runs again and write the submission.

    Several runs become a run of their own.
    """
    from kaggle_digits import pipeline

    _show_run(workspace, pipeline.ensemble(workspace, runs, name), as_json)


@cli.command(short_help="Submit once, and wait for the score.")
@click.option("--run", metavar="NAME", help="The run. Default: the finished one with the best CV.")
@click.option(
    "--file", metavar="CSV", type=click.Path(path_type=Path), help="Submit this file instead of a run's."
)
@click.option("--message", metavar="M", help="The description. Default: preset, folds, seed and CV.")
@click.option("--dry-run", is_flag=True, help="Check everything, show what would be sent, and send nothing.")
@click.option("--again", is_flag=True, help="Send a file that was submitted before.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the score.")
@click.option(
    "--timeout",
    metavar="S",
    type=click.FloatRange(min=0),
    default=TIMEOUT,
    help=f"Seconds to wait for it. Default: {TIMEOUT:.0f}.",
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
    no_wait: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Check a submission, send it once, wait for its score, and write it in the ledger."""
    from kaggle_digits import console, pipeline

    with console.waiting(f"Submitting to {workspace.competition.name}") as update:
        sent = pipeline.submit(
            workspace,
            run=run,
            file=file,
            message=message,
            dry_run=dry_run,
            again=again,
            wait=not no_wait,
            timeout=timeout,
            observer=console.SubmissionView(update),
        )
    if as_json:
        return _print_json(
            sent.entry.as_json()
            | {"description": sent.description, "sent": not (dry_run or sent.was_known), "dry_run": dry_run}
        )
    return console.show_sent(sent, dry_run)


@cli.command(short_help="Show scores and the rank on the leaderboard.")
@json_option
@click.pass_obj
def score(workspace: Workspace, as_json: bool) -> None:
    """Show the submissions with status and score, the rank on the leaderboard, and CV against LB."""
    from dataclasses import asdict

    from kaggle_digits import console, pipeline

    with console.waiting(f"Asking {workspace.competition.name}"):
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
                    asdict(submission)
                    | {
                        "run": entry.run if entry else None,
                        "cv": entry.cv if entry else None,
                        "gap": entry.gap if entry else None,
                    }
                    for submission, entry in board.submissions
                ],
            }
        )
    return console.show_scores(board)


@cli.command(short_help="Write and show a run's validation report.")
@run_option
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@json_option
@click.pass_obj
def report(workspace: Workspace, run: str | None, open_page: bool, as_json: bool) -> None:
    """Write the fold-level validation report of a run, and show it."""
    from kaggle_digits import console
    from kaggle_digits.reports import report as write_report

    _import_tensorflow()
    written = write_report(workspace, run)
    if as_json:
        _print_json(written.document)
    else:
        console.show_report(written.document, str(written.page))
    if open_page:
        click.launch(str(written.page))


@cli.command(short_help="Show runs side by side.")
@click.argument("names", metavar="RUN RUN ...", nargs=-1)
@json_option
@click.pass_obj
def compare(workspace: Workspace, names: tuple[str, ...], as_json: bool) -> None:
    """Show two or more finished runs side by side, with a paired test on their out-of-fold rows."""
    from kaggle_digits import console
    from kaggle_digits.reports import compare as write_comparison

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
    """Classify pictures of a digit each, with all networks of a run.

    A photograph or a drawing, dark on light or light on dark, of any size: PNG, JPEG, WebP, GIF, BMP, TIFF.
    """
    from kaggle_digits import console
    from kaggle_digits.prediction.predict import predict as classify
    from kaggle_digits.runs.directory import find_run

    name = find_run(workspace, run).name
    _import_tensorflow()
    with console.waiting(f"Asking the networks of {name}"):
        predictions = classify(workspace, images, name)
    if as_json:
        return _print_json({"run": name, "pictures": [prediction.as_document() for prediction in predictions]})
    return console.show_predictions(predictions)


@cli.command(short_help="List the runs there are.")
@json_option
@click.pass_obj
def runs(workspace: Workspace, as_json: bool) -> None:
    """List the runs there are, how far they are and how good."""
    from kaggle_digits import console
    from kaggle_digits.runs.summary import summarise_runs

    rows = summarise_runs(workspace)
    if as_json:
        return _print_json({"competition": workspace.competition.name, "runs": rows})
    return console.show_runs(rows)


@cli.command(short_help="Show what is ready, and how to mend what is not.")
@json_option
@click.pass_obj
def doctor(workspace: Workspace, as_json: bool) -> None:
    """Show what is ready for the competition, and how to mend what is not.

    It changes nothing, and ends with 0 whatever it finds.
    """
    from dataclasses import asdict

    from kaggle_digits import console
    from kaggle_digits.doctor import examine, is_ready, next_command

    with console.waiting("Looking at this machine"):
        findings = examine(workspace)
    ready = is_ready(findings)
    if as_json:
        return _print_json(
            {
                "competition": workspace.competition.name,
                "ready": ready,
                "findings": [asdict(finding) for finding in findings],
            }
        )
    return console.show_findings(findings, next_command(workspace, findings) if ready else "")


def _parse_settings(pairs: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(
                f"--set {pair!r} is not of the form KEY=VALUE.", "Write, for instance: --set epochs=3."
            )
        settings[key.strip()] = value.strip()
    return settings


def _show_run(workspace: Workspace, run: Run, as_json: bool) -> None:
    from kaggle_digits import console
    from kaggle_digits.submissions.submit import submission_file

    submission = str(submission_file(workspace, run.name))
    if as_json:
        facts = {"competition": workspace.competition.name, "run": run.name, "folder": str(run.path)}
        _print_json(facts | {"submission": submission, **run.ensemble_metrics().as_json()})
    else:
        console.show_run(run, submission)


def _import_tensorflow() -> None:
    """Import TensorFlow without what it says of itself, which no setting keeps from stderr."""
    from kaggle_digits.training.models import tensorflow_keras

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        tensorflow_keras()
        import tensorflow

        # That every fold's network is traced anew, for one.
        tensorflow.get_logger().setLevel("ERROR")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2))


def _fail(error: BaseException, problem: str, remedy: str, exit_code: int, debug: bool) -> NoReturn:
    # All is over but for the words: another Ctrl-C takes nothing but them.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from kaggle_digits import console
    from kaggle_digits.hosts.credentials import scrub

    # stderr may be as full as stdout.
    with suppress(OSError):
        if debug:
            sys.stderr.write(scrub("".join(traceback.format_exception(error))))
        console.show_error(*(" ".join(scrub(text).splitlines()) for text in (problem, remedy)))
    # Or else Python's own end resets it, and Ctrl-C then would end in another exit code.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(exit_code)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _usage_remedy(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "kaggle-digits"
    option = getattr(error, "option_name", "")
    if option in ("--competition", "--root", "--debug"):
        return f"{option} goes before the command: kaggle-digits {option} … {path.split()[-1]}."
    return f"See: {path} --help."
