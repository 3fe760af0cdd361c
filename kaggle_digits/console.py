"""Terminal output: tables, live progress, and errors in two sentences."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kaggle_digits.hosts.credentials import CONTROL
from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.time_left import TimeLeft

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, JustifyMethod, RenderableType

    from kaggle_digits.arrays import UInt8
    from kaggle_digits.prediction.predict import Prediction
    from kaggle_digits.reports.facts import Finding, FoldFacts
    from kaggle_digits.runs.directory import Run
    from kaggle_digits.submissions.submit import ScoreBoard, Sent
    from kaggle_digits.training.fold import FoldTask, Progress

SPARKS = "▁▂▃▄▅▆▇█"
SHADES = " .:-=+*#%@"
SIGNS = {"problem": ("✗", "bold red"), "warning": ("!", "bold yellow"), "ok": ("✓", "green")}
"""Sign and style of each severity of a finding."""
SUSPECTS_SHOWN = 8
ROWS_AROUND_TABLE = 4
"""Terminal lines reserved for the text above and below the table of folds."""
SPARKLINE_WIDTH = 16
"""Maximum number of characters in a sparkline."""
WIDTH_OF_PREDICTION = 72
"""How many characters a picture and the probabilities next to it need."""
GAP = 2
"""Spaces between two columns of a table."""
WIDTH_OF_TEXT = 20
"""Minimum width of a column of longer text that is broken into several lines."""
NO_LINE_BREAKS = 10_000
"""A width in which every line fits."""


def out() -> Console:
    """Return the console for results, on stdout; plain text without line breaks if stdout is not a terminal."""
    return _console(stderr=False)


def err() -> Console:
    """Return the console for progress and errors, on stderr."""
    return _console(stderr=True)


class _CleanConsole(Console):
    """A console for texts of files and servers: their control characters do not reach the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(CONTROL.sub("", segment.text), segment.style)


def _console(stderr: bool) -> Console:
    # Without emoji, because names, which may contain colons, would be changed.
    make: Callable[..., Console] = partial(_CleanConsole, stderr=stderr, highlight=False, emoji=False)
    console = make()
    if console.is_terminal and not console.file.isatty():
        # FORCE_COLOR is set, as in many CI systems: colours, but nothing that moves the cursor.
        console = make(force_terminal=False, color_system=console.color_system)
    if not console.is_terminal and not console.is_jupyter:
        console.width = NO_LINE_BREAKS  # for grep and for log files
    return console


def say(text: str) -> None:
    """Print a line of plain text on stdout."""
    out().print(text, markup=False, soft_wrap=True)


class Display(Protocol):
    """What shows a table that changes."""

    def start(self) -> None:
        """Show the table, and draw it again from time to time."""

    def stop(self) -> None:
        """Draw the table for the last time."""


class SubmissionView(Observer):
    """Shows the progress of a submission: notices, and the status next to a spinner."""

    def __init__(self, spinner: Spinner) -> None:
        self._spinner = spinner

    def notice(self, sentence: str) -> None:
        """Print a notice on stderr."""
        self._spinner.say(sentence)

    def confirm(self, question: str) -> bool:
        """Ask the question on stderr, if there is a person to answer it."""
        return self._spinner.confirm(question)

    def waiting(self, status: str) -> None:
        """Show the status next to the spinner."""
        self._spinner.update(f"Waiting for the score: {status}")


class TrainingView(Observer):
    """Live progress of training on stderr: one row per fold in a terminal, otherwise one line per epoch."""

    def __init__(self) -> None:
        self._console = err()
        self._live: Display | None = None
        self._folds: dict[tuple[int, int], Progress | None] = {}
        self._done: set[tuple[int, int]] = set()
        self._active: dict[tuple[int, int], str] = {}
        self._time_left = TimeLeft([])
        self._started = time.monotonic()
        self._name = ""
        # The table is also made in a thread of rich, four times a second.
        self._lock = threading.RLock()

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, run: str, tasks: Sequence[FoldTask], missing: Sequence[FoldTask]) -> None:
        """Show the finished folds and the folds to train."""
        self._name = run
        self._active.clear()
        self._started = time.monotonic()
        self._folds = {(task.seed, task.fold): None for task in tasks}
        to_train = [(task.seed, task.fold) for task in missing]
        self._time_left = TimeLeft(to_train)
        self._done = self._folds.keys() - set(to_train)
        if not missing:
            self._console.print(f"The run {run} is already trained.", markup=False)
        elif (display := self._display()) is not None:
            self._live = display
            self._live.start()
        else:
            names = ", ".join(map(self._title, to_train))
            self._console.print(
                f"Training {run}: fold{'s' * (len(missing) > 1)} {names}.", markup=False, soft_wrap=True
            )

    def started(self, task: FoldTask) -> None:
        """Show that a fold is starting."""
        with self._lock:
            self._active[task.seed, task.fold] = "starting"
            self._time_left.start((task.seed, task.fold), time.monotonic())

    def progress(self, progress: Progress) -> None:
        """Update the progress of a fold."""
        fold = progress.seed, progress.fold
        is_trained = progress.is_epoch_end and progress.epoch == progress.epochs
        with self._lock:
            self._folds[fold] = progress
            self._active[fold] = "predicting" if is_trained else f"{progress.epoch}/{progress.epochs}"
            self._time_left.update(progress, time.monotonic())
        if self._live is None and progress.is_epoch_end:
            self._console.print(
                f"fold {self._title(fold)}  epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}  "
                f"val accuracy {progress.val_accuracy:.4f}  {progress.images_per_second:,.0f} images/s  "
                f"{self._left()} left",
                soft_wrap=True,
            )

    def finished(self, task: FoldTask) -> None:
        """Mark a fold as finished."""
        with self._lock:
            self._done.add((task.seed, task.fold))
            self._active.pop((task.seed, task.fold), None)
            self._time_left.finish((task.seed, task.fold), time.monotonic())

    def notice(self, sentence: str) -> None:
        """Print a notice."""
        self._console.print(sentence, markup=False)

    def _display(self) -> Display | None:
        """Return the display of the table of folds; None if stderr is no terminal that can draw it again."""
        if not self._console.is_interactive:
            return None
        # The table is made for each refresh, so that the clock runs between two reports.
        return Live(get_renderable=self._table, console=self._console, refresh_per_second=4)

    def _title(self, fold: tuple[int, int]) -> str:
        """Return a fold's label: its number, or ``seed/fold`` if there are several seeds."""
        seeds = {seed for seed, _ in self._folds}
        return str(fold[1]) if len(seeds) == 1 else f"{fold[0]}/{fold[1]}"

    def _left(self) -> str:
        """Return the estimated time that is left, or a dash if it cannot be estimated yet."""
        seconds = self._time_left.seconds(time.monotonic())
        return "–" if seconds is None else duration(seconds)

    def _table(self) -> Group:
        """Return the table of folds; if it does not fit on the screen, only the folds that are being trained."""
        with self._lock:
            return self._make_table()

    def _make_table(self) -> Group:
        fits = len(self._folds) <= self._console.height - ROWS_AROUND_TABLE
        rows = []
        for fold, progress in self._folds.items():
            if not fits and fold not in self._active:
                continue
            done = 1.0 if fold in self._done else progress.done if progress else 0.0
            state = "done" if fold in self._done else self._active.get(fold, "waiting")
            bar = ProgressBar(total=1.0, completed=done, width=20)
            figures = ["", "", ""]
            if progress is not None:
                accuracy = "" if progress.val_accuracy is None else f"{progress.val_accuracy:.5f}"
                figures = [f"{progress.loss:.4f}", accuracy, f"{progress.images_per_second:,.0f}"]
            rows.append([self._title(fold), bar, Text(state, style="" if progress else "dim"), *figures])
        names = ("fold", "", "epoch", "loss", "val acc", "images/s")
        table = _table(self._console, names, rows, dispensable=("images/s", "loss", ""))
        footer = f"{duration(time.monotonic() - self._started)} elapsed"
        if len(self._done) < len(self._folds):
            footer += f", {self._left()} left"
        if not fits:
            footer = f"{len(self._done)} of {len(self._folds)} folds done, {footer}"
        title = Text(f"Training {self._name}", style="bold", overflow="fold")
        return Group(title, table, Text(footer, style="dim"))


class Spinner:
    """A spinner with a text on stderr, only in a terminal."""

    def __init__(self, text: str) -> None:
        self._console = err()
        self._status = self._console.status(Text(text)) if self._console.is_interactive else None

    def __enter__(self) -> Spinner:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, text: str) -> None:
        """Change the text."""
        if self._status is not None:
            self._status.update(Text(text))

    def say(self, sentence: str) -> None:
        """Print a sentence above the spinner."""
        # Another console would print it into the line of the spinner.
        self._console.print(sentence, markup=False)

    def confirm(self, question: str) -> bool:
        """Ask a question in place of the spinner; without a terminal, the answer is no."""
        if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
            return False
        self.__exit__()
        answer = click.confirm(question, err=True)
        self.__enter__()
        return answer


def show_run(run: Run, submission: str) -> None:
    """Show the out-of-fold accuracy of a run and the path of its submission."""
    metrics = run.ensemble_metrics()
    console = out()
    console.print(
        f"{run.name}: out-of-fold accuracy {metrics.accuracy:.5f}, {metrics.errors:,} errors in "
        f"{metrics.rows:,} rows",
        markup=False,
    )
    console.print(f"Submission: {submission}", markup=False, soft_wrap=True)


def show_preview(preview: dict[str, Any]) -> None:
    """Show what would be sent to Kaggle for the training of a run."""
    console, folds = out(), preview["folds"]
    if not folds:
        say(f"Dry run: nothing would be sent, because all folds of {preview['run']} are trained.")
        return
    if preview["kernel"]:
        say(f"Dry run: the kernel {preview['kernel']} would be continued, and after it, if folds are missing:")
    else:
        console.print("Dry run: nothing was sent. The kernel would be:", markup=False)
    seeds = {seed for seed, _ in folds}
    names = ", ".join(str(fold) if len(seeds) == 1 else f"{seed}/{fold}" for seed, fold in folds)
    say(f"  run      {preview['run']}")
    say(f"  folds    {names}")
    say(f"  compute  {preview['tflop']:.0f} TFLOP")
    say(f"  size     {preview['bytes']:,} bytes")
    if hours := preview["gpu_hours"]:
        reset = f", until {_minute(hours['reset'])} UTC" if hours["reset"] else ""
        say(f"  quota    {hours['left']:.1f} of {hours['total']:.0f} GPU hours left{reset}")


def show_deleted(addresses: list[str]) -> None:
    """Show the addresses of deleted kernels."""
    for address in addresses:
        say(f"Deleted: {address}")
    if not addresses:
        say("No kernel of this run is known.")


def show_runs(rows: list[dict[str, Any]]) -> None:
    """Show all runs in a table."""
    console = out()
    if not rows:
        console.print("No runs yet. Create one with the command: train")
        return
    cells = [
        [
            row["name"],
            row["status"],
            "" if row["folds"] is None else f"{row['trained']}/{row['folds']}",
            "" if row["errors"] is None else f"{row['errors']:,}",
            "" if row["accuracy"] is None else f"{row['accuracy']:.5f}",
            "" if row["score"] is None else f"{row['score']:.5f}",
        ]
        for row in rows
    ]
    names = ("run", "status", "folds", "errors", "accuracy", "score")
    _print_table(console, _table(console, names, cells, dispensable=("errors", "folds", "status", "score")))


def show_presets(rows: list[dict[str, Any]]) -> None:
    """Show the presets."""
    from kaggle_digits.execution.machine import about

    console = out()
    cells = [
        [
            row["name"],
            str(row["folds"]),
            f"{row['score']:.5f}",
            f"{row['tflop']:.0f}",
            about(row["seconds"]),
            row["summary"] + (" (the default)" if row["name"] == DEFAULT_PRESET else ""),
        ]
        for row in rows
    ]
    names = ("preset", "folds", "score", "TFLOP", "about", "")
    _print_table(console, _table(console, names, cells, dispensable=("TFLOP", "folds", "")))
    console.print("\npresets --settings explains what train --set can change.", style="dim")


def show_settings(settings: list[dict[str, Any]]) -> None:
    """Show what each setting means."""
    console = out()
    cells = [
        [setting["name"], f"{setting['text']} In {DEFAULT_PRESET}: {setting['values'][DEFAULT_PRESET]}"]
        for setting in settings
    ]
    _print_table(console, _table(console, ("setting", ""), cells))


def show_sent(sent: Sent, dry_run: bool) -> None:
    """Show the outcome of a submission."""
    console, entry = out(), sent.entry
    if dry_run and not sent.was_known:
        console.print("Dry run: nothing was sent. The submission would be:", markup=False)
        console.print(
            f"  description  {sent.description}\n  SHA-256      {entry.sha256}", markup=False, soft_wrap=True
        )
        return
    if sent.was_known:
        console.print(
            f"This file was submitted before, at {_minute(entry.time)} UTC; nothing was sent. "
            "To send it again, add --again.",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"Submission {entry.ref}: {entry.status}", markup=False)
    if entry.score is not None:
        rank = f", rank {entry.rank}" if entry.rank else ""
        gap = f" (CV {entry.cv:.5f}, {entry.gap:+.5f})" if entry.gap is not None else ""
        console.print(f"Score {entry.score:.5f}{gap}{rank}", style="bold", markup=False)


def show_scores(board: ScoreBoard) -> None:
    """Show the submissions with their scores, and your rank on the leaderboard."""
    console = out()
    if not board.submissions:
        console.print("No submissions yet. Create one with the command: submit")
        return
    cells = [
        [
            _minute(submission.time),
            submission.ref,
            entry.run,
            submission.status + (f": {submission.reason}" if submission.reason else ""),
            "" if submission.score is None else f"{submission.score:.5f}",
            "" if entry.cv is None else f"{entry.cv:.5f}",
            "" if entry.gap is None else f"{entry.gap:+.5f}",
        ]
        for submission, entry in board.submissions
    ]
    names = ("time (UTC)", "ref", "run", "status", "score", "CV", "gap")
    _print_table(console, _table(console, names, cells, dispensable=("gap", "ref", "time (UTC)", "CV", "status")))
    standing = board.standing
    if standing is None:
        console.print("The leaderboard is not available at the moment.")
    elif standing.rank is None:
        console.print(f"You are not on the leaderboard ({standing.teams:,} teams).")
    else:
        console.print(
            f"Rank {standing.rank:,} of {standing.teams:,} (top {standing.percentile:.1f} %).",
            style="bold",
        )


def show_report(document: dict[str, Any], page: str) -> None:
    """Show the content of a report, and the path of its HTML page."""
    from kaggle_digits.reports.facts import ReportFacts

    console, report = out(), ReportFacts.model_validate(document)
    if report.fold_accuracy:
        _print_table(console, _fold_table(console, report.folds))
        mean, sd = report.fold_accuracy["mean"], report.fold_accuracy["sd"]
        console.print(f"Mean over folds: {mean:.5f}" + ("" if sd is None else f" ± {sd:.5f}"))
    if report.out_of_fold:
        total = report.out_of_fold
        low, high = total.interval
        calibrated = f" ({total.calibration.log_loss_after:.4f} calibrated)" if total.calibration else ""
        console.print(
            f"Out-of-fold: accuracy {total.accuracy:.5f} (95 % interval {low:.5f} to {high:.5f}),\n"
            f"{total.errors:,} errors in {total.rows:,} rows, log-loss {total.log_loss:.4f}{calibrated}",
        )
        cells = [
            [
                Text(str(digit), style="dim"),
                *(Text(str(n), style="dim" if n == 0 or i == digit else "bold red") for i, n in enumerate(row)),
            ]
            for digit, row in enumerate(total.confusion)
        ]
        matrix = _table(console, ("", *map(str, range(10))), cells)
        if _width(console, matrix) <= console.width:
            console.print("\nConfusion matrix: one row per label, one column per prediction", style="dim")
            console.print(matrix)
        else:
            text = "\nThe page has the confusion matrix, for which this terminal is too narrow."
            console.print(text, style="dim")
        if total.suspects:
            shown = [f"{s.row} ({s.label} → {s.predicted}?)" for s in total.suspects[:SUSPECTS_SHOWN]]
            more = len(total.suspects) - len(shown)
            text = f"Rows with a label that may be wrong (label → prediction): {', '.join(shown)}"
            console.print(text + (f" and {more} more" if more else ""), markup=False)
    if report.leaderboard:
        gap = report.leaderboard.gap
        compared = "" if gap is None else f" ({gap:+.5f} compared with out-of-fold)"
        console.print(f"Leaderboard: {report.leaderboard.score:.5f}{compared}", style="bold")
    console.print()
    table = Table.grid(padding=(0, 1, 0, 0))
    for finding in report.findings:
        title = (f"{finding.title}. ", SIGNS[finding.severity][1])
        table.add_row(_sign(console, finding), Text.assemble(title, finding.text, overflow="fold"))
    _print_lines(console, table)
    console.print(f"\nPage: {page}", markup=False, soft_wrap=True)


def _sign(console: Console, finding: Finding) -> Text:
    """Return the sign of a finding's severity, or its name where signs and colours may not be seen."""
    if not console.is_terminal or console.options.ascii_only:
        return Text(finding.severity)
    return Text(*SIGNS[finding.severity])


def show_comparison(comparison: dict[str, Any], page: str) -> None:
    """Show a comparison of runs, and the path of its HTML page."""
    console = out()
    cells = [
        [
            run["name"],
            f"{run['errors']:,}",
            f"{run['accuracy']:.5f}",
            f"{run['log_loss_after']:.4f}",
            "" if run["train_seconds"] is None else duration(run["train_seconds"]),
            "" if run["score"] is None else f"{run['score']:.5f}",
        ]
        for run in comparison["runs"]
    ]
    names = ("run", "errors", "accuracy", "calibrated log-loss", "time", "score")
    dispensable = ("calibrated log-loss", "time", "score", "errors")
    for pair in comparison["pairs"]:
        console.print(pair["verdict"], style="bold" if pair["differ"] else "", markup=False)
    console.print()
    _print_table(console, _table(console, names, cells, dispensable))
    corrected = " with Holm's correction" if len(comparison["pairs"]) > 1 else ""
    console.print(f"\nMcNemar's exact test on out-of-fold rows{corrected}.", style="dim")
    console.print(f"Page: {page}", markup=False, soft_wrap=True)


def _fold_table(console: Console, folds: list[FoldFacts]) -> Table:
    cells = [
        [
            Text(str(fold.fold), style="bold yellow" if fold.out_of_line else ""),
            fold.preprocessing,
            f"{fold.rows:,}",
            f"{fold.accuracy:.5f}",
            str(fold.errors),
            f"{fold.log_loss:.4f}",
            sparkline([row["val_accuracy"] for row in fold.history]),
            f"{fold.seconds:.0f}",
        ]
        for fold in folds
    ]
    names = ("fold", "preprocessing", "rows", "accuracy", "errors", "log-loss", "val accuracy", "seconds")
    dispensable = ("val accuracy", "log-loss", "rows", "seconds", "preprocessing")
    return _table(console, names, cells, dispensable)


def show_predictions(predictions: list[Prediction]) -> None:
    """Show the predictions for pictures, one line each."""
    console = out()
    cells = [
        [str(prediction.path), str(prediction.digit), f"{prediction.confidence:.4f}", prediction.doubts]
        for prediction in predictions
    ]
    _print_table(console, _table(console, ("file", "digit", "probability", ""), cells))


def show_prediction(prediction: Prediction) -> None:
    """Show the prediction for a picture, next to the picture in MNIST's format."""
    console = out()
    bars = Table.grid(padding=(0, 1, 0, 0))
    for digit, probability in enumerate(prediction.softmax.tolist()):
        style = "bold" if digit == prediction.digit else ""
        bars.add_row(str(digit), ("█" * round(30 * probability)).ljust(30), f"{probability:.4f}", style=style)
    agree = Text(f"{prediction.agreement:.0%} of the networks predict {prediction.digit}", "dim")
    picture = _picture(prediction.image, plain=console.color_system is None or console.no_color)
    figures = Group("", bars, "", agree)
    row: Table | Group = Group(picture, figures)
    if console.width >= WIDTH_OF_PREDICTION:
        row = Table.grid(padding=(0, 3, 0, 0))
        row.add_row(picture, figures)
    doubts = f" ({prediction.doubts})" if prediction.doubts else ""
    title = Text.assemble(f"{prediction.path}: ", (str(prediction.digit), "bold"), doubts, overflow="fold")
    console.print(title, row, sep="\n")


def show_checks(checks: list[Finding], next_command: str) -> None:
    """Show the checks of `doctor` and how to fix what fails; `next_command` is shown if there is no problem."""
    console = out()
    table = Table.grid(padding=(0, 2, 0, 0))
    for check in checks:
        text = Text(check.text, overflow="fold")
        if check.remedy:
            text.append(f"\n{check.remedy}", "bold")
        table.add_row(_sign(console, check), check.title, text)
    _print_lines(console, table)
    severities = [check.severity for check in checks]
    problems, warnings = severities.count("problem"), severities.count("warning")
    if problems:
        summary = f"{problems} problem{'s' * (problems > 1)} found. Fix what is marked, then run doctor again."
    else:
        ready = f"Ready, with {warnings} warning{'s' * (warnings > 1)}" if warnings else "Everything is ready"
        summary = f"{ready}. Next: {next_command}"
    console.print(summary, style="bold", markup=False, soft_wrap=True)


def show_error(problem: str, remedy: str, is_error: bool = True) -> None:
    """Show an error: what is wrong, and how to fix it. An interruption by the user is not an error."""
    console = err()
    console.print(Text.assemble(("Error: " if is_error else "", "bold red"), problem))
    console.print(remedy, markup=False)


def sparkline(values: list[float]) -> str:
    """Return a sparkline of at most `SPARKLINE_WIDTH` values, scaled from their minimum to their maximum."""
    step = max(1, -(-len(values) // SPARKLINE_WIDTH))
    # Sampled from the end, so that the last value is always shown.
    shown = values[::-1][::step][::-1]
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in shown)


def duration(seconds: float) -> str:
    """Return a time as ``m:ss``, or as ``h:mm:ss`` from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _minute(time: str) -> str:
    """Return a time in ISO 8601 to the minute, such as ``2026-01-31 12:05``."""
    return time[:16].replace("T", " ")


def _picture(image: UInt8, plain: bool) -> Text:
    """Return an image [28, 28] as 14 lines of text; one character shows two pixels, one above the other.

    In colour it is a half block with two colours; in plain text, the character of `SHADES` for their mean.
    """
    text = Text(no_wrap=True)
    for top, bottom in zip(image[::2].tolist(), image[1::2].tolist(), strict=True):
        for upper, lower in zip(top, bottom, strict=True):
            if plain:
                text.append(SHADES[(upper + lower) * len(SHADES) // 512])
            else:
                text.append("▀", f"rgb({upper},{upper},{upper}) on rgb({lower},{lower},{lower})")
        text.append("\n")
    text.rstrip()
    return text


def _table(
    console: Console, names: Sequence[str], rows: Sequence[Sequence[Any]], dispensable: Sequence[str] = ()
) -> Table:
    """Return a table without borders and, if it is too wide, without the first columns of `dispensable`.

    Only the cells of a last column without a name are broken into several lines.
    """
    text_columns = ("file", "run", "preset", "setting", "", "status", "val accuracy", "preprocessing")
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for i, name in enumerate(names):
        wraps = not name and i == len(names) - 1
        justify: JustifyMethod = "left" if name in text_columns else "right"
        table.add_column(name, justify=justify, header_style="dim", no_wrap=not wraps, overflow="fold")
    for row in rows:
        # Text is not markup, since names may contain brackets.
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    if not dispensable or _width(console, table) <= console.width:
        return table
    kept = [i for i, name in enumerate(names) if name != dispensable[0]]
    return _table(console, [names[i] for i in kept], [[row[i] for i in kept] for row in rows], dispensable[1:])


def _width(console: Console, table: Table) -> int:
    """Return the minimum width of a table that `_table` returned."""
    # Measured with a width in which everything fits, because rich limits what it measures to the console's width.
    options = console.options.update_width(NO_LINE_BREAKS)
    texts = [column for column in table.columns if not column.no_wrap]
    for column in texts:
        column.max_width = WIDTH_OF_TEXT
    width = Measurement.get(console, options, table).maximum
    for column in texts:
        column.max_width = None
    return width


def _print_table(console: Console, table: Table) -> None:
    """Print a table. If it is wider than the terminal, its lines are not cut, so that names can be copied."""
    # Not the argument `width` of `print`, which cannot exceed the width of the console.
    console.width = max(console.width, _width(console, table))
    _print_lines(console, table)


def _print_lines(console: Console, content: Table) -> None:
    if console.is_terminal:
        console.print(content, crop=False, no_wrap=True)
        return
    with console.capture() as capture:
        console.print(content, crop=False, no_wrap=True)
    for line in capture.get().splitlines():
        console.print(line.rstrip(), markup=False)  # without the spaces up to the width of the table
