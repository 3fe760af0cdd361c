"""Terminal output: tables, live progress, and errors in two sentences."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kaggle_digits.training import DEFAULT_PRESET
from kaggle_digits.training.observer import Observer
from kaggle_digits.training.time_left import TimeLeft

if TYPE_CHECKING:
    from kaggle_digits.arrays import UInt8
    from kaggle_digits.doctor import Check
    from kaggle_digits.prediction.predict import Prediction
    from kaggle_digits.runs.directory import Run
    from kaggle_digits.submissions.submit import ScoreBoard, Sent
    from kaggle_digits.training.fold import FoldTask, Progress

SPARKS = "▁▂▃▄▅▆▇█"
SHADES = " .:-=+*#%@"
SEVERITY_MARKS = {"problem": ("!", "bold red"), "warning": ("?", "bold yellow"), "ok": ("✓", "bold green")}
"""Mark and style of each severity of a report's findings."""
SUSPECTS_SHOWN = 8
ROWS_AROUND_TABLE = 4
"""Terminal lines reserved for the text above and below the table of folds."""
SPARKLINE_WIDTH = 16
"""Maximum number of characters in a sparkline."""


def out() -> Console:
    """Return the console for results, on stdout; plain text if stdout is not a terminal."""
    return Console(highlight=False, soft_wrap=False)


def err() -> Console:
    """Return the console for progress and errors, on stderr."""
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print a line of plain text on stdout."""
    out().print(text, markup=False, soft_wrap=True)


class SubmissionView(Observer):
    """Shows the progress of a submission: notices on stderr, and the status next to a spinner.

    Parameters
    ----------
    update : callable
        Sets the text next to the spinner.
    """

    def __init__(self, update: Callable[[str], None]) -> None:
        self._update = update

    def notice(self, sentence: str) -> None:
        """Print a notice on stderr."""
        err().print(sentence, markup=False, soft_wrap=True)

    def waiting(self, status: str) -> None:
        """Show the status next to the spinner."""
        self._update(f"Waiting for the score: {status}")


class TrainingView(Observer):
    """Live progress of training on stderr: one row per fold in a terminal, otherwise one line per epoch."""

    def __init__(self) -> None:
        self._console = err()
        self._live: Live | None = None
        self._folds: dict[tuple[int, int], Progress | None] = {}
        self._done: set[tuple[int, int]] = set()
        self._time_left = TimeLeft([], 0.0)
        self._started = time.monotonic()
        self._name = ""

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def start(self, run: str, tasks: Sequence[FoldTask], missing: Sequence[FoldTask]) -> None:
        """Show the finished folds and the folds to train."""
        self._name = run
        self._started = time.monotonic()
        self._folds = {(task.seed, task.fold): None for task in tasks}
        to_train = [(task.seed, task.fold) for task in missing]
        self._time_left = TimeLeft(to_train, self._started)
        self._done = self._folds.keys() - set(to_train)
        if not missing:
            self._console.print(f"The run {run} is already trained.", markup=False)
        elif self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, refresh_per_second=4)
            self._live.start()
        else:
            names = ", ".join(map(self._title, to_train))
            self._console.print(
                f"Training {run}: fold{'s' * (len(missing) > 1)} {names}.", markup=False, soft_wrap=True
            )

    def progress(self, progress: Progress) -> None:
        """Update the progress of a fold."""
        fold = progress.seed, progress.fold
        self._folds[fold] = progress
        self._time_left.update(progress, time.monotonic())
        if self._live is not None:
            self._live.update(self._table())
        elif progress.is_epoch_end:
            self._console.print(
                f"fold {self._title(fold)}  epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}  "
                f"val accuracy {progress.val_accuracy:.4f}  {progress.images_per_second:,.0f} images/s  "
                f"{self._left()} left",
                soft_wrap=True,
            )

    def finished(self, task: FoldTask) -> None:
        """Mark a fold as finished."""
        self._done.add((task.seed, task.fold))
        self._time_left.finish((task.seed, task.fold), time.monotonic())
        if self._live is not None:
            self._live.update(self._table())

    def notice(self, sentence: str) -> None:
        """Print a notice."""
        self._console.print(sentence, markup=False, soft_wrap=True)

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
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("fold", "", "epoch", "loss", "val acc", "images/s"):
            table.add_column(name, justify="left" if not name else "right", header_style="dim")
        fits = len(self._folds) <= self._console.height - ROWS_AROUND_TABLE
        for fold, progress in self._folds.items():
            if not fits and (fold in self._done or progress is None):
                continue
            done = 1.0 if fold in self._done else progress.done if progress else 0.0
            bar = ProgressBar(total=1.0, completed=done, width=20)
            if progress is None:
                state = Text("done" if fold in self._done else "waiting", style="dim")
                table.add_row(self._title(fold), bar, state, "", "", "")
                continue
            accuracy = "" if progress.val_accuracy is None else f"{progress.val_accuracy:.4f}"
            table.add_row(
                self._title(fold),
                bar,
                f"{progress.epoch}/{progress.epochs}",
                f"{progress.loss:.4f}",
                accuracy,
                f"{progress.images_per_second:,.0f}",
            )
        footer = f"{duration(time.monotonic() - self._started)} elapsed"
        if len(self._done) < len(self._folds):
            footer += f", {self._left()} left"
        if not fits:
            footer = f"{len(self._done)} of {len(self._folds)} folds done, {footer}"
        return Group(Text(f"Training {self._name}", style="bold"), table, Text(footer, style="dim"))


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with a text on stderr; yield a function that changes the text."""
    console = err()
    if console.is_terminal:
        with console.status(Text(what)) as status:
            yield lambda text: status.update(Text(text))
    else:
        yield lambda text: None


def show_run(run: Run, submission: str) -> None:
    """Show the out-of-fold accuracy of a run and the path of its submission."""
    metrics = run.ensemble_metrics()
    console = out()
    console.print(
        f"{run.name}: out-of-fold accuracy {metrics.accuracy:.5f}, {metrics.errors:,} errors in "
        f"{metrics.rows:,} rows",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"Submission: {submission}", markup=False, soft_wrap=True)


def show_preview(preview: dict[str, Any]) -> None:
    """Show what would be sent to Kaggle for the training of a run."""
    console, folds = out(), preview["folds"]
    if preview["kernel"]:
        say(f"Dry run: the kernel {preview['kernel']} would be continued, and after it, if folds are missing:")
    else:
        console.print("Dry run: nothing was sent. The kernel would be:", markup=False)
    seeds = {seed for seed, _ in folds}
    names = ", ".join(str(fold) if len(seeds) == 1 else f"{seed}/{fold}" for seed, fold in folds) or "none"
    say(f"  run      {preview['run']}")
    say(f"  folds    {names}")
    say(f"  compute  {preview['tflop']:.0f} TFLOP")
    say(f"  size     {preview['bytes']:,} bytes")
    if hours := preview["gpu_hours"]:
        reset = f", until {hours['reset'][:16].replace('T', ' ')} UTC" if hours["reset"] else ""
        say(f"  quota    {hours['left']:.1f} of {hours['total']:.0f} GPU hours left{reset}")


def show_deleted(addresses: list[str]) -> None:
    """Show the addresses of deleted kernels."""
    for address in addresses:
        say(f"Deleted: {address}")
    if not addresses:
        say("No kernel of this run is known.")


def show_runs(rows: list[dict[str, Any]]) -> None:
    """Show all runs in a table."""
    table = _table("run", "status", "folds", "errors", "accuracy", "score")
    for row in rows:
        table.add_row(
            Text(row["name"], overflow="fold"),
            row["status"],
            "" if row["folds"] is None else f"{row['trained']}/{row['folds']}",
            "" if row["errors"] is None else f"{row['errors']:,}",
            "" if row["accuracy"] is None else f"{row['accuracy']:.5f}",
            "" if row["score"] is None else f"{row['score']:.5f}",
        )
    out().print(table if rows else "No runs yet. Create one with the command: train")


def show_presets(rows: list[dict[str, Any]]) -> None:
    """Show the presets in a table."""
    from kaggle_digits.execution.machine import about

    table = _table("preset", "folds", "score", "TFLOP", "about", "")
    for row in rows:
        is_default = row["name"] == DEFAULT_PRESET
        table.add_row(
            row["name"],
            str(row["folds"]),
            f"{row['score']:.5f}",
            f"{row['tflop']:.0f}",
            about(row["seconds"]),
            Text(row["summary"] + (" (the default)" if is_default else ""), overflow="fold"),
        )
    out().print(table)


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
            f"This file was submitted before, at {entry.time}; nothing was sent. To send it again, add --again.",
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
    table = _table("time (UTC)", "ref", "run", "status", "score", "CV", "gap")
    for submission, entry in board.submissions:
        table.add_row(
            submission.time[:16].replace("T", " "),
            submission.ref,
            Text(entry.run if entry else "", overflow="fold"),
            Text(submission.status + (f": {submission.reason}" if submission.reason else ""), overflow="fold"),
            "" if submission.score is None else f"{submission.score:.5f}",
            f"{entry.cv:.5f}" if entry and entry.cv is not None else "",
            f"{entry.gap:+.5f}" if entry and entry.gap is not None else "",
        )
    console = out()
    if not board.submissions:
        console.print("No submissions yet. Create one with the command: submit")
        return
    console.print(table)
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
    console = out()
    if document["folds"]:
        console.print(_fold_table(document["folds"]))
        spread = document["fold_accuracy"]
        sd = "" if spread["sd"] is None else f" ± {spread['sd']:.5f}"
        console.print(f"Mean over folds: {spread['mean']:.5f}{sd}")
    if document["out_of_fold"]:
        total = document["out_of_fold"]
        low, high = total["interval"]
        calibration = total["calibration"]
        calibrated = f" ({calibration['log_loss_after']:.4f} calibrated)" if calibration else ""
        console.print(
            f"Out-of-fold: accuracy {total['accuracy']:.5f} (95 % interval {low:.5f} to {high:.5f}),\n"
            f"{total['errors']:,} errors in {total['rows']:,} rows, log-loss {total['log_loss']:.4f}{calibrated}",
        )
        matrix = _table("", *map(str, range(10)))
        for digit, row in enumerate(total["confusion"]):
            cells = [Text(str(n), style="dim" if n == 0 or i == digit else "bold red") for i, n in enumerate(row)]
            matrix.add_row(Text(str(digit), style="dim"), *cells)
        console.print("\nConfusion matrix: one row per label, one column per prediction", style="dim")
        console.print(matrix)
        if total["suspects"]:
            shown = [f"{s['row']} ({s['label']} → {s['predicted']}?)" for s in total["suspects"][:SUSPECTS_SHOWN]]
            more = len(total["suspects"]) - len(shown)
            console.print(
                "Rows with a label that may be wrong (label → prediction): "
                + ", ".join(shown)
                + (f" and {more} more" if more else ""),
                markup=False,
            )
    board = document["leaderboard"]
    if board:
        gap = "" if board["gap"] is None else f" ({board['gap']:+.5f} compared with out-of-fold)"
        console.print(f"Leaderboard: {board['score']:.5f}{gap}", style="bold")
    console.print()
    for finding in document["findings"]:
        mark, style = SEVERITY_MARKS[finding["severity"]]
        console.print(Text.assemble((f"{mark} {finding['title']}. ", style), finding["text"]))
    console.print(f"\nPage: {page}", markup=False, soft_wrap=True)


def show_comparison(comparison: dict[str, Any], page: str) -> None:
    """Show a comparison of runs, and the path of its HTML page."""
    console = out()
    runs = _table("run", "errors", "accuracy", "calibrated log-loss", "time", "score")
    for run in comparison["runs"]:
        runs.add_row(
            Text(run["name"], overflow="fold"),
            f"{run['errors']:,}",
            f"{run['accuracy']:.5f}",
            f"{run['log_loss_after']:.4f}",
            "" if run["train_seconds"] is None else duration(run["train_seconds"]),
            "" if run["score"] is None else f"{run['score']:.5f}",
        )
    console.print(runs)
    console.print()
    for pair in comparison["pairs"]:
        if pair["differ"]:
            first_is_better = pair["only_first_wrong"] < pair["only_second_wrong"]
            verdict, style = f"{pair['first' if first_is_better else 'second']} is better", "bold"
        else:
            verdict, style = "the difference is not significant", ""
        console.print(
            Text.assemble(
                f"Errors made only by {pair['first']}: {pair['only_first_wrong']:,}, only by {pair['second']}: "
                f"{pair['only_second_wrong']:,}, by both: {pair['both_wrong']:,}; ",
                (f"{verdict} (p = {pair['mcnemar_p_holm']:.2g}).", style),
            )
        )
    corrected = " with Holm's correction" if len(comparison["pairs"]) > 1 else ""
    console.print(f"\nMcNemar's exact test on out-of-fold rows{corrected}.", style="dim")
    console.print(f"Page: {page}", markup=False, soft_wrap=True)


def _fold_table(folds: list[dict[str, Any]]) -> Table:
    table = _table("fold", "preprocessing", "rows", "accuracy", "errors", "log-loss", "val accuracy", "seconds")
    for fold in folds:
        table.add_row(
            Text(str(fold["fold"]), style="bold yellow" if fold["out_of_line"] else ""),
            fold["preprocessing"],
            f"{fold['rows']:,}",
            f"{fold['accuracy']:.5f}",
            str(fold["errors"]),
            f"{fold['log_loss']:.4f}",
            sparkline([row["val_accuracy"] for row in fold["history"]]),
            f"{fold['seconds']:.0f}",
        )
    return table


def show_predictions(predictions: list[Prediction]) -> None:
    """Show the predictions for pictures, next to the pictures in MNIST's format."""
    console = out()
    plain = console.color_system is None or console.no_color
    for i, prediction in enumerate(predictions):
        bars = Table.grid(padding=(0, 1, 0, 0))
        for digit, probability in enumerate(prediction.softmax.tolist()):
            style = "bold" if digit == prediction.digit else ""
            bars.add_row(str(digit), ("█" * round(30 * probability)).ljust(30), f"{probability:.4f}", style=style)
        agree = Text(f"{prediction.agreement:.0%} of the networks predict {prediction.digit}", "dim")
        row = Table.grid(padding=(0, 3, 0, 0))
        row.add_row(_picture(prediction.image, plain), Group("", bars, "", agree))
        title = Text.assemble((f"{prediction.path}: ", ""), (str(prediction.digit), "bold"), overflow="fold")
        console.print(*([""] if i else []), title, row, sep="\n")


def show_checks(checks: list[Check], next_command: str) -> None:
    """Show the checks of `doctor` and how to fix what fails; `next_command` is shown if there is no problem."""
    console = out()
    marks = {"ok": Text("✓", "green"), "warning": Text("!", "bold yellow"), "problem": Text("✗", "bold red")}
    if not console.is_terminal or console.options.ascii_only:
        marks = {state: Text(state) for state in marks}
    table = Table.grid(padding=(0, 2, 0, 0))
    for check in checks:
        text = Text(check.words, overflow="fold")
        if check.remedy:
            text.append(f"\n{check.remedy}", "bold")
        table.add_row(marks[check.state], check.name, text)
    console.print(table)
    problems, warnings = (sum(check.state == state for check in checks) for state in ("problem", "warning"))
    if problems:
        summary = f"{problems} problem{'s' * (problems > 1)} found. Fix what is marked, then run doctor again."
    else:
        ready = f"Ready, with {warnings} warning{'s' * (warnings > 1)}" if warnings else "Everything is ready"
        summary = f"{ready}. Next: {next_command}"
    console.print(summary, style="bold", markup=False, soft_wrap=True)


def show_error(problem: str, remedy: str) -> None:
    """Show an error: what is wrong, and how to fix it."""
    console = err()
    console.print(Text("Error: ", style="bold red"), Text(problem), sep="", end="\n", soft_wrap=True)
    console.print(remedy, markup=False, soft_wrap=True)


def sparkline(values: list[float]) -> str:
    """Return a sparkline of at most `SPARKLINE_WIDTH` values, scaled from their minimum to their maximum."""
    step = max(1, -(-len(values) // SPARKLINE_WIDTH))
    # Sampled from the end, so that the last value is always shown.
    shown = values[::-1][::step][::-1]
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in shown)


def duration(seconds: float) -> str:
    """Return a time as ``m:ss``, or as ``h:mm h`` from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h" if hours else f"{minutes}:{rest:02d}"


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


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    text_columns = ("run", "preset", "", "status", "time (UTC)", "val accuracy", "preprocessing")
    for name in columns:
        is_text = name in text_columns
        table.add_column(name, justify="left" if is_text else "right", header_style="dim", no_wrap=not is_text)
    return table
