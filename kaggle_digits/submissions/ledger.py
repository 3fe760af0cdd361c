"""The ledger of submissions, ``submissions/<competition>/ledger.csv``."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from kaggle_digits.errors import DataError
from kaggle_digits.files import lock, regular_file, write_bytes, write_errors
from kaggle_digits.hosts import Status


@dataclass(frozen=True)
class Entry:
    """A line of the ledger. Unknown values are None, or an empty string for text."""

    time: str  # when the file was sent, in ISO 8601 and UTC
    run: str  # that the file belongs to
    sha256: str  # of the file
    ref: str  # the host's reference
    status: Status
    score: float | None = None  # the public score, 0 to 1, with five decimals
    cv: float | None = None  # the out-of-fold accuracy, 0 to 1, with five decimals
    rank: int | None = None  # on the leaderboard, when it was last read

    def is_same_submission(self, other: Entry) -> bool:
        """Return whether two entries are of the same submission, of which one may have no reference yet."""
        if self.ref and other.ref:
            return self.ref == other.ref
        return (self.time, self.sha256) == (other.time, other.sha256)

    @property
    def gap(self) -> float | None:
        """The public score minus the out-of-fold accuracy, or None if one is unknown."""
        return None if self.score is None or self.cv is None else self.score - self.cv

    def as_json(self) -> dict[str, Any]:
        """Return the entry as a dict for JSON, with None for unknown values."""
        return {name: None if value == "" else value for name, value in asdict(self).items()}

    def as_cells(self) -> list[str]:
        """Return the cells of the CSV file, with scores to five decimals, as Kaggle writes them."""
        values = (self.time, self.run, self.sha256, self.ref, self.status, self.score, self.cv, self.rank)
        return ["" if v is None else _number(v) if isinstance(v, float) else str(v) for v in values]


COLUMNS = tuple(field.name for field in fields(Entry))
_ACCURACY = r"(\d{1,9}(\.\d{0,20})?)?"
_PATTERNS = {
    "time": r"(\d{4}-\d\d-\d\d[\dT:.+Z -]{0,30})?",
    "sha256": r"([0-9a-f]{64})?",
    "ref": r"\w{0,64}",
    "status": "|".join(get_args(Status)),
    "score": _ACCURACY,
    "cv": _ACCURACY,
    "rank": r"\d{0,9}",
}
"""What each cell looks like; a name may be anything. A submission known by another digest would be sent again."""


@dataclass(frozen=True)
class Ledger:
    """The ledger file at `path`, which need not exist yet."""

    path: Path

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first; none if there is no file."""
        try:
            content = regular_file(self.path).read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._error(f"it cannot be read: {error.strerror or error}") from error
        return self._parse(content)

    def _parse(self, content: bytes) -> list[Entry]:
        import csv

        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self._damaged("it is not UTF-8 text") from error
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            # Also in an empty file: it had entries once, and without them a file could be submitted again.
            if tuple(next(reader, ())) != COLUMNS:
                raise self._damaged(f"line 1: the header is not {','.join(COLUMNS)}")
            return [self._entry(row, reader.line_num) for row in reader if row]
        except csv.Error as error:
            raise self._error(f"line {reader.line_num}: {error}") from error

    def record(self, entry: Entry) -> None:
        """Write an entry: replace the entry of the same submission, or append it."""
        with self._changed() as entries:
            for i, old in enumerate(entries):
                if old.is_same_submission(entry):
                    entries[i] = entry
                    return
            entries.append(entry)

    def forget(self, entry: Entry) -> None:
        """Remove the entry of a submission that was not made."""
        with self._changed() as entries:
            entries[:] = [old for old in entries if not old.is_same_submission(entry)]

    @contextmanager
    def _changed(self) -> Iterator[list[Entry]]:
        """Yield the entries to be changed, and write them afterwards, while holding the lock."""
        with lock(
            self.path.resolve().with_name(".ledger.lock"), f"{self.path} is in use by another process.", timeout=10
        ):
            entries = self.entries()
            yield entries
            content = self._format(entries)
            if self.path.exists() and self.path.read_bytes().startswith(content):
                # Only the end is cut off, as by `forget`. Unlike a new file, this needs no space on the disk.
                with write_errors(self.path):
                    os.truncate(self.path, len(content))
            else:
                write_bytes(self.path, content)

    def _format(self, entries: list[Entry]) -> bytes:
        """Return the content of the ledger file; raise a `DataError` if reading it would give other entries."""
        import pandas as pd

        try:
            table = pd.DataFrame([entry.as_cells() for entry in entries], columns=list(COLUMNS), dtype=str)
            content = table.to_csv(index=False).encode()
            if self._parse(content) == entries:
                return content
            why = f"{self.path}, its values cannot be saved as CSV."
        except UnicodeEncodeError as error:
            why = f"{self.path}, {error.reason}."
        except DataError as error:
            why = error.problem
        raise DataError(f"The submission cannot be saved in the ledger: {why}", "The ledger is unchanged.")

    def _entry(self, row: list[str], line: int) -> Entry:
        if len(row) != len(COLUMNS):
            raise self._error(f"line {line}: expected {len(COLUMNS)} values, got {len(row)}")
        cells = dict(zip(COLUMNS, row, strict=True))
        cells["sha256"] = cells["sha256"].lower()
        for name, pattern in _PATTERNS.items():
            if not re.fullmatch(pattern, cells[name], re.ASCII):
                raise self._error(f"line {line}: {cells[name][:40]!r} is not a valid {name}")
        if not cells["sha256"] and not cells["ref"]:
            raise self._error(f"line {line}: sha256 and ref are both empty")
        numbers = {name: float(cells[name]) if cells[name] else None for name in ("score", "cv")}
        rank = int(cells["rank"]) if cells["rank"] else None
        return Entry(**{**cells, **numbers, "rank": rank})  # type: ignore[arg-type]

    def _error(self, detail: str) -> DataError:
        return DataError(f"{self.path}, {detail}.", "Fix the file by hand; nothing was changed.")

    def _damaged(self, detail: str) -> DataError:
        remedy = "Move it away, then write it again from the host's list of submissions with the command: score."
        return DataError(f"{self.path}, {detail}.", remedy)


def _number(value: float) -> str:
    """Return a score with five decimals, or with all its decimals if the user has typed more into the ledger."""
    text = f"{value:.5f}"
    return text if float(text) == value else f"{Decimal(repr(value)):f}"


def updated(entry: Entry, status: Status, score: float | None, rank: int | None = None) -> Entry:
    """Return an entry updated with the host's status, score and rank; a rank of None keeps the old one.

    An entry that is scored is not changed back to PENDING or UNKNOWN, because the host's list may be outdated. A
    score that is not from 0 to 1, such as NaN, becomes None.
    """
    if status in ("PENDING", "UNKNOWN") and entry.status in ("COMPLETE", "ERROR"):
        return entry
    return replace(
        entry,
        status=status,
        score=round(score, 5) if score is not None and 0 <= score <= 1 else None,
        rank=entry.rank if rank is None else rank,
    )
