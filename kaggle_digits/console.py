"""Terminal output: tables, live progress, and errors in two sentences."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.status import Status
from rich.table import Table
from rich.text import Text

from kaggle_digits.hosts.credentials import CONTROL
from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.time_left import Course, seconds_left
from kaggle_digits.workspace import Competition, Workspace

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import ConsoleOptions, RenderableType

    from kaggle_digits.arrays import UInt8
    from kaggle_digits.data.download import Download
    from kaggle_digits.prediction.predict import Prediction
    from kaggle_digits.reports.facts import Finding, Leaderboard
    from kaggle_digits.submissions.ledger import Entry
    from kaggle_digits.submissions.submit import ScoreBoard, Sent
    from kaggle_digits.training.fold import FoldTask, Progress

SPARKS = "▁▂▃▄▅▆▇█"
SHADES = " .:-=+*#%@"
SIGNS = {"problem": ("✗", "bold red"), "warning": ("!", "bold yellow"), "ok": ("✓", "green")}
"""Sign and style of each severity of a finding."""
SUSPECTS_SHOWN = 8
WIDTH_OF_MATRIX = 66
SPARKLINE_WIDTH = 16
ROWS_AROUND_TABLE = 4
"""Terminal lines reserved for the text above and below the table of folds."""
FORMATS = {"errors": ",", "rows": ",", "images/s": ",.0f", "seconds": ".0f", "TFLOP": ".0f", "gap": "+.5f"}
FORMATS |= dict.fromkeys(("accuracy", "val acc", "score", "CV"), ".5f")
FORMATS |= dict.fromkeys(("loss", "log-loss", "calibrated log-loss", "probability"), ".4f")
FORMATS |= dict.fromkeys(("digit", "epoch", "fold", "folds", "ref", "time", *"0123456789"), "")
"""The columns with numbers, which are aligned to the right, and their formats."""


class _Console(Console):
    """A console for texts of files and servers: their control characters do not reach the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(CONTROL.sub("", segment.text), segment.style)


def out(stderr: bool = False) -> Console:
    """Return the console for results, on stdout, or for progress and errors, on stderr."""
    # Names of runs and files may contain brackets and colons, which are neither markup nor emoji.
    make: Callable[..., Console] = partial(_Console, stderr=stderr, highlight=False, emoji=False, markup=False)
    console = make()
    if console.file.isatty():
        return console
    # Lines are not broken, so that grep finds their words. With FORCE_COLOR, as in many CI systems, they have
    # colours, but nothing moves the cursor.
    return make(force_terminal=False, color_system=console.color_system, width=10_000)


def say(text: str, style: str = "") -> None:
    """Print a line on stdout. The terminal breaks it, so that a path in it can be copied."""
    out().print(text, style=style, soft_wrap=True)


def spinner(text: str) -> Status:
    """Return a spinner with a text on stderr; nothing is shown if stderr is not a terminal."""
    return out(stderr=True).status(Text(text))


def can_ask() -> bool:
    """Tell whether somebody at a terminal can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class SubmissionView(Observer):
    """Shows the progress of a submission: notices, and the status next to a spinner."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def notice(self, sentence: str) -> None:
        """Print a notice above the spinner."""
        self._status.console.print(sentence)

    def confirm(self, question: str) -> bool:
        """Ask a question in place of the spinner; without a person to answer it, the answer is no."""
        if not can_ask():
            return False
        self._status.stop()
        answer = click.confirm(question, err=True)
        self._status.start()
        return answer

    def waiting(self, status: str) -> None:
        """Show the status next to the spinner."""
        self._status.update(Text(f"Waiting for the score: {status}"))


@dataclass
class _Fold:
    """A fold in the table of `TrainingView`."""

    title: str
    state: str
    course: Course = field(default_factory=Course)
    report: Progress | None = None

    def row(self) -> tuple[Any, ...]:
        done = 1.0 if self.state == "done" else getattr(self.report, "done", 0.0)
        numbers = [getattr(self.report, name, None) for name in ("loss", "val_accuracy", "images_per_second")]
        return self.title, ProgressBar(1.0, done, width=20), self.state, *numbers


class TrainingView(Observer):
    """Live progress of training on stderr: one row per fold in a terminal, otherwise one line per epoch."""

    def __init__(self) -> None:
        self._console = out(stderr=True)
        self._live: Live | None = None
        # The table is also made in a thread of rich.
        self._lock = threading.Lock()

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, run: str, tasks: Sequence[FoldTask], missing: Sequence[FoldTask]) -> None:
        """Show the finished folds and the folds to train."""
        self._run, self._started = run, time.monotonic()
        folds, to_train = ([(task.seed, task.fold) for task in some] for some in (tasks, missing))
        titled = zip(folds, _fold_titles(folds), strict=True)
        self._folds = {fold: _Fold(title, "waiting" if fold in to_train else "done") for fold, title in titled}
        if not missing:
            self.notice(f"The run {run} is already trained.")
            return
        self._live = self._make_live()
        if self._live is not None:
            self._live.start(refresh=True)
        else:
            titles = ", ".join(self._folds[fold].title for fold in to_train)
            self.notice(f"Training {run}: fold{'s' * (len(missing) > 1)} {titles}.")

    def started(self, task: FoldTask) -> None:
        """Show that a fold is starting."""
        with self._lock:
            fold = self._folds[task.seed, task.fold]
            fold.state, fold.course = "starting", Course(time.monotonic())

    def preparing(self, task: FoldTask, step: str) -> None:
        """Show what the process of a fold does before it trains."""
        with self._lock:
            self._folds[task.seed, task.fold].state = step

    def progress(self, progress: Progress) -> None:
        """Update the progress of a fold."""
        fold = self._folds[progress.seed, progress.fold]
        is_trained = progress.is_epoch_end and progress.epoch == progress.epochs
        with self._lock:
            fold.report = progress
            fold.state = "predicting" if is_trained else f"{progress.epoch}/{progress.epochs}"
            fold.course.started = fold.course.started or time.monotonic()  # not known of a fold at Kaggle
            fold.course.reports.append((time.monotonic(), progress.done))
        if self._live is None and progress.is_epoch_end:
            self.notice(
                f"fold {fold.title}  epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}  "
                f"val accuracy {progress.val_accuracy:.5f}  {progress.images_per_second:,.0f} images/s  "
                f"{self._left()} left"
            )

    def finished(self, task: FoldTask) -> None:
        """Mark a fold as finished."""
        with self._lock:
            fold = self._folds[task.seed, task.fold]
            fold.state, fold.course.finished = "done", time.monotonic()

    def notice(self, sentence: str) -> None:
        """Print a notice."""
        self._console.print(sentence)

    def _make_live(self) -> Live | None:
        """Return what draws the table of folds again and again; None if stderr is no terminal that can do it."""
        if not self._console.is_interactive:
            return None
        # The table is made for each refresh, so that the clock runs between two reports.
        return Live(get_renderable=self._table, console=self._console, refresh_per_second=4)

    def _left(self) -> str:
        """Return the estimated time that is left, or a dash if it cannot be estimated yet."""
        courses = [fold.course for fold in self._folds.values() if fold.course.started or fold.state != "done"]
        seconds = seconds_left(courses, time.monotonic())
        return "–" if seconds is None else duration(seconds)

    def _table(self) -> Group:
        """Return the table of folds; if it does not fit on the screen, only the folds that are being trained."""
        with self._lock:
            folds = list(self._folds.values())
            fits = len(folds) <= self._console.height - ROWS_AROUND_TABLE
            shown = [fold.row() for fold in folds if fits or fold.state not in ("done", "waiting")]
            done = sum(fold.state == "done" for fold in folds)
            footer = "" if fits else f"{done} of {len(folds)} folds done, "
            footer += f"{duration(time.monotonic() - self._started)} elapsed"
            footer += f", {self._left()} left" if done < len(folds) else ""
        table = _table(("fold", "", "epoch", "loss", "val acc", "images/s"), shown)
        title = Text(f"Training {self._run}", style="bold", overflow="fold")
        return Group(title, table, Text(footer, style="dim"))


def show_download(competition: str, files: Download) -> None:
    """Show the files of a competition."""
    state = "downloaded" if files.fetched else "already complete"
    say(f"{competition} {state}: {files.train_rows:,} training rows, {files.test_rows:,} test rows")
    say(f"Folder: {files.folder}")
    for name in files.changed:
        say(f"{name} differs from the previous file, which existing runs were trained on.")
        say(f"The previous file was kept as {name}.<first digits of its SHA-256>.bak.")


def show_run(facts: dict[str, Any], next_command: str) -> None:
    """Show the out-of-fold accuracy of a run and the path of its submission."""
    say("{run}: out-of-fold accuracy {accuracy:.5f}, {errors:,} errors in {rows:,} rows".format_map(facts))
    say(f"Submission: {facts['submission']}\nNext: {next_command}")


def show_preview(preview: dict[str, Any]) -> None:
    """Show what would be sent to Kaggle for the training of a run."""
    folds = preview["folds"]
    if not folds:
        say(f"Dry run: nothing would be sent, because all folds of {preview['run']} are trained.")
        return
    if preview["kernel"]:
        say(f"The kernel {preview['kernel']} would be continued. If folds are missing after it:")
    say("Dry run: nothing was sent. The kernel would be:")
    say(f"  run      {preview['run']}\n  folds    {', '.join(_fold_titles(folds))}")
    say(f"  compute  {preview['tflop']:.0f} TFLOP\n  size     {preview['bytes']:,} bytes")
    if hours := preview["gpu_hours"]:
        reset = f", until {_minute(hours['reset'])} UTC" if hours["reset"] else ""
        say(f"  quota    {hours['left']:.1f} of {hours['total']:.0f} GPU hours left{reset}")


def show_runs(rows: list[dict[str, Any]], page: Path | None = None) -> None:
    """Show all runs in a table, and the path of the HTML page with the same."""
    if rows:
        cells = []
        for row in rows:
            folds = row["folds"] and f"{row['trained']}/{row['folds']}"
            cells.append((row["name"], row["status"], folds, row["errors"], row["accuracy"], row["score"]))
        _print_table(("run", "status", "folds", "errors", "accuracy", "score"), cells)
    else:
        say("No runs yet. Create one with the command: train")
    if page:
        say(f"Page: {page}")


def show_presets(rows: list[dict[str, Any]]) -> None:
    """Show the presets."""
    cells = []
    for row in rows:
        time = duration(round(row["seconds"], -1))
        cells.append((row["name"], row["folds"], row["score"], row["tflop"], time, row["summary"]))
    _print_table(("preset", "folds", "score", "TFLOP", "time", ""), cells)
    say(f"\nThe default is {DEFAULT_PRESET}. presets --settings explains what train --set changes.", style="dim")


def show_settings(settings: list[dict[str, Any]]) -> None:
    """Show what each setting means."""
    cells = [(s["name"], f"{s['text']} In {DEFAULT_PRESET}: {s['values'][DEFAULT_PRESET]}") for s in settings]
    _print_table(("setting", ""), cells)


def show_sent(sent: Sent, dry_run: bool, competition: Competition) -> None:
    """Show the outcome of a submission."""
    entry = sent.entry
    if dry_run and not sent.was_known:
        say("Dry run: nothing was sent. The submission would be:")
        say(f"  description  {sent.description}\n  SHA-256      {entry.sha256}")
        return
    if sent.was_known:
        say(f"This file was submitted before, at {_minute(entry.time)} UTC; nothing was sent.")
        say("To send it again, add --again.")
    say(f"Submission {entry.ref}: {entry.status}")
    if entry.score is not None:
        say(_score(entry, competition), style="bold")


def show_scores(board: ScoreBoard, competition: Competition) -> None:
    """Show the submissions with their scores, and your rank on the leaderboard."""
    if not board.submissions:
        say("No submissions yet. Create one with the command: submit")
        return
    cells = []
    for sent, entry in board.submissions:
        status = f"{sent.status}: {sent.reason}" if sent.reason else sent.status
        cells.append((_minute(sent.time), sent.ref, entry.run, status, sent.score, entry.cv, entry.gap))
    _print_table(("time (UTC)", "ref", "run", "status", "score", "CV", "gap"), cells)
    standing = board.standing
    if standing is None:
        say("The leaderboard is not available at the moment.")
    elif standing.rank is None:
        say(f"You are not on the leaderboard ({standing.teams:,} teams).")
    else:
        among, top = competition.among, f"top {standing.percentile:.1f} %"
        say(f"Rank {standing.rank:,} of {standing.teams:,}{among} ({top}).", style="bold")


def show_report(document: dict[str, Any], page: str) -> None:
    """Show the content of a report, and the path of its HTML page."""
    from kaggle_digits.reports.facts import ReportFacts

    console, report = out(), ReportFacts.model_validate(document)
    if report.fold_accuracy:
        names = ("fold", "preprocessing", "rows", "accuracy", "errors", "log-loss", "val accuracy", "seconds")
        folds = []
        for fold in report.folds:
            number = Text(str(fold.fold), style="bold yellow" if fold.out_of_line else "")
            curve = sparkline([epoch["val_accuracy"] for epoch in fold.history])
            metrics = (fold.preprocessing, fold.rows, fold.accuracy, fold.errors, fold.log_loss)
            folds.append((number, *metrics, curve, fold.seconds))
        _print_table(names, folds)
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
        if console.width >= WIDTH_OF_MATRIX:
            console.print("\nConfusion matrix: one row per label, one column per prediction", style="dim")
            matrix = []
            for label, row in enumerate(total.confusion):
                styles = ["dim" if n == 0 or i == label else "bold red" for i, n in enumerate(row)]
                matrix.append((Text(str(label), "dim"), *map(Text, map(str, row), styles)))
            _print_table(("", *map(str, range(10))), matrix)
        else:
            text = "\nThe page has the confusion matrix, for which this terminal is too narrow."
            console.print(text, style="dim")
        if total.suspects:
            shown = [f"{s.row} ({s.label} → {s.predicted}?)" for s in total.suspects[:SUSPECTS_SHOWN]]
            more = len(total.suspects) - len(shown)
            text = f"Rows with a label that may be wrong (label → prediction): {', '.join(shown)}"
            console.print(text + (f" and {more} more" if more else ""))
    if board := report.leaderboard:
        competition = Workspace.at(competition=report.run.competition).competition
        console.print(f"\n{_score(board, competition)}")
    elif report.test and report.test.expected_accuracy:
        unsent = "" if report.submission else "; not submitted yet"
        console.print(
            f"\nExpected score: {report.test.expected_accuracy:.5f}, from the calibrated probabilities{unsent}"
        )
    console.print()
    findings = [
        [_sign(console, f), Text.assemble((f"{f.title}. ", SIGNS[f.severity][1]), f.text)] for f in report.findings
    ]
    _print_table(("", ""), findings or [("", "Nothing stands out.")])
    console.print(f"\nPage: {page}", soft_wrap=True)


def _score(found: Entry | Leaderboard, competition: Competition) -> str:
    """Return a score with the CV, their gap and the rank, as far as they are known."""
    gap = "" if found.gap is None else f" (CV {found.cv:.5f}, {found.gap:+.5f})"
    return f"Score {found.score:.5f}{gap}" + (f", rank {found.rank:,}{competition.among}" if found.rank else "")


def _sign(console: Console, finding: Finding) -> Text:
    """Return the sign of a finding's severity, or its name where signs and colours may not be seen."""
    if not console.is_terminal or console.options.ascii_only:
        return Text(finding.severity)
    return Text(*SIGNS[finding.severity])


def show_comparison(comparison: dict[str, Any], page: str) -> None:
    """Show a comparison of runs, and the path of its HTML page."""
    console, pairs = out(), comparison["pairs"]
    for pair in pairs:
        console.print(pair["verdict"], style="bold" if pair["differ"] else "")
    console.print()
    cells = []
    for run in comparison["runs"]:
        time = None if run["train_seconds"] is None else duration(run["train_seconds"])
        cells.append((run["name"], run["errors"], run["accuracy"], run["log_loss_after"], time, run["score"]))
    _print_table(("run", "errors", "accuracy", "calibrated log-loss", "time", "score"), cells)
    corrected = " with Holm's correction" if len(pairs) > 1 else ""
    console.print(f"\nMcNemar's exact test on out-of-fold rows{corrected}.", style="dim")
    say(f"Page: {page}")


def show_predictions(predictions: list[Prediction]) -> None:
    """Show the predictions for pictures, one line each."""
    cells = [(str(p.path), p.digit, p.confidence, p.doubts) for p in predictions]
    _print_table(("file", "digit", "probability", ""), cells)


def show_prediction(predictions: list[Prediction]) -> None:
    """Show the prediction for one picture, next to the picture in MNIST's format."""
    (prediction,), console = predictions, out()
    bars = []
    for digit, probability in enumerate(prediction.softmax.tolist()):
        bar = f"{digit} {'█' * round(30 * probability):30} {probability:.4f}"
        bars.append(Text(bar, "bold" if digit == prediction.digit else ""))
    agree = Text(f"{prediction.agreement:.0%} of the networks predict {prediction.digit}", "dim")
    doubts = f" ({prediction.doubts})" if prediction.doubts else ""
    say(f"{prediction.path}: {prediction.digit}{doubts}", style="bold")
    # In a narrow terminal, one below the other.
    console.print(Columns([_picture(prediction.image), Group("", *bars, "", agree)], padding=(0, 3)))


def show_checks(checks: list[Finding], next_command: str) -> None:
    """Show the checks of `doctor` and how to fix what fails; `next_command` is shown if there is no problem."""
    console = out()
    rows = []
    for check in checks:
        remedy = f"\n{check.remedy}" if check.remedy else ""
        rows.append([_sign(console, check), check.title, Text.assemble(check.text, (remedy, "bold"))])
    _print_table(("", "", ""), rows)
    severities = [check.severity for check in checks]
    problems, warnings = severities.count("problem"), severities.count("warning")
    if problems:
        summary = f"{problems} problem{'s' * (problems > 1)} found. Fix what is marked, then run doctor again."
    else:
        ready = f"Ready, with {warnings} warning{'s' * (warnings > 1)}" if warnings else "Everything is ready"
        summary = f"{ready}. Next: {next_command}"
    console.print(summary, style="bold", soft_wrap=True)


def show_error(problem: str, remedy: str, is_error: bool = True) -> None:
    """Show an error: what is wrong, and how to fix it. An interruption by the user is not an error."""
    console = out(stderr=True)
    console.print(Text.assemble(("Error: " if is_error else "", "bold red"), problem))
    console.print(remedy)


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


def _fold_titles(folds: Sequence[Sequence[int]]) -> list[str]:
    """Return the labels of folds, each a seed and a number: the number, or ``seed/fold`` with several seeds."""
    is_one_seed = len({seed for seed, _ in folds}) == 1
    return [str(fold) if is_one_seed else f"{seed}/{fold}" for seed, fold in folds]


def _picture(image: UInt8) -> str:
    """Return an image [28, 28] as 14 lines of text; a character shows two pixels, one above the other."""
    shades = (image.reshape(14, 2, 28).mean(1) * (len(SHADES) / 256)).astype(int)
    return "\n".join("".join(SHADES[shade] for shade in row) for row in shades)


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table without borders; None is an empty cell, and a cell that is too long has several lines."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=any(names))
    for name in names:
        table.add_column(name, justify="right" if name in FORMATS else "left", overflow="fold")
    for row in rows:
        cells = zip(names, row, strict=True)
        table.add_row(*(format(v, FORMATS[name]) if isinstance(v, int | float) else v for name, v in cells))
    return table


def _print_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout, without spaces at the ends of its lines, which would be copied with the text."""
    console = out()
    with console.capture() as capture:
        console.print(_table(names, rows))
    lines = (line.rstrip() for line in capture.get().splitlines())
    click.echo("\n".join(lines), file=console.file, color=True)
