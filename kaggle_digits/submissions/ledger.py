"""The ledger of submissions, ``submissions/<competition>/ledger.csv``."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from kaggle_digits.errors import DataError
from kaggle_digits.files import lock, read_json, write_bytes, write_json
from kaggle_digits.hosts import Status


@dataclass(frozen=True)
class Entry:
    """A line of the ledger. Unknown values are None, or an empty string for text.

    Attributes
    ----------
    time : str
        When the file was sent, in ISO 8601 and UTC.
    run : str
        The run that the file belongs to.
    sha256 : str
        SHA-256 of the file.
    ref : str
        The host's reference.
    status : {"PENDING", "COMPLETE", "ERROR", "UNKNOWN"}
        The host's status of the scoring.
    score, cv : float or None
        The public score and the out-of-fold accuracy, from 0 to 1, with five decimals.
    rank : int or None
        The rank on the leaderboard when it was last read.
    """

    time: str
    run: str
    sha256: str
    ref: str
    status: Status
    score: float | None = None
    cv: float | None = None
    rank: int | None = None

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
_RANK = r"\d{0,9}"


@dataclass(frozen=True)
class Ledger:
    """The ledger file at `path`, which need not exist yet."""

    path: Path

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first.

        Raises
        ------
        DataError
            If the file is not a valid ledger; the message has the number of the line.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._error("the file cannot be read as UTF-8 text") from error
        return self._parse(content)

    def _parse(self, content: bytes) -> list[Entry]:
        import csv

        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self._error("the file cannot be read as UTF-8 text") from error
        entries = []
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            for row in reader:
                if reader.line_num == 1:
                    if tuple(row) != COLUMNS:
                        raise self._error(f"line 1: the header is not {','.join(COLUMNS)}")
                elif row:
                    entries.append(self._entry(row, reader.line_num))
        except csv.Error as error:
            raise self._error(f"line {reader.line_num}: {error}") from error
        return entries

    def record(self, entry: Entry) -> None:
        """Write an entry: replace the entry of the same submission, or append it."""
        with self._changed() as entries:
            for i, old in enumerate(entries):
                if old.is_same_submission(entry):
                    entries[i] = entry
                    return
            entries.append(entry)

    def record_attempt(self, entry: Entry, allowance: int | None) -> None:
        """Write the entry of a submission that will be made next.

        Parameters
        ----------
        entry : Entry
            The entry, without a reference.
        allowance : int or None
            How many submissions are left before this one. `was_counted` compares it with a later value, also in
            another process. It is saved in a separate file, because the ledger's columns are fixed.
        """
        unresolved = [old for old in self.entries() if not old.ref]
        known = self._allowances()
        kept = {key: known[key] for key in map(_key, unresolved) if key in known}
        # Before the entry: an entry without its allowance could never be recognized as counted.
        write_json(self._allowance_file, kept | {_key(entry): allowance})
        self.record(entry)

    def was_counted(self, entry: Entry, allowance: int | None) -> bool:
        """Return whether the host has counted a submission whose response was lost, given the current allowance.

        True means that the host has counted more submissions since then than the ledger has. False proves
        nothing: the host may count later, or a new day may have started.
        """
        known = self._allowances()
        if allowance is None or _key(entry) not in known:
            return False
        others = sum(1 for other in self.entries() if other.ref and other.time > entry.time)
        # None before this submission means that it was the first one: the host reports no limit until then.
        before = known[_key(entry)]
        return not others if before is None else allowance + others < before

    def mark_counted(self, entry: Entry) -> None:
        """Set the status of an entry to PENDING, unless another process has added its reference."""
        with self._changed() as entries:
            for i, old in enumerate(entries):
                if old.is_same_submission(entry) and not old.ref:
                    entries[i] = replace(old, status="PENDING")

    def forget(self, entry: Entry) -> None:
        """Remove the entry of a submission that was not made."""
        with self._changed() as entries:
            entries[:] = [old for old in entries if not old.is_same_submission(entry)]

    @property
    def _allowance_file(self) -> Path:
        return self.path.with_name(".allowance.json")

    def _allowances(self) -> dict[str, int | None]:
        """Return the saved allowance before each attempt; without those that cannot be read."""
        try:
            document = read_json(self._allowance_file)
        except DataError:
            return {}
        return {key: left for key, left in document.items() if left is None or type(left) is int}

    @contextmanager
    def _changed(self) -> Iterator[list[Entry]]:
        """Yield the entries to be changed, and write them afterwards, while holding the lock."""
        with lock(self.path.with_name(".ledger.lock"), f"{self.path} is in use by another process.", timeout=10):
            entries = self.entries()
            yield entries
            write_bytes(self.path, self._format(entries))

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
        if cells["status"] not in get_args(Status):
            raise self._error(f"line {line}: {cells['status'][:40]!r} is not a valid status")
        for name, pattern in (("score", _ACCURACY), ("cv", _ACCURACY), ("rank", _RANK)):
            if not re.fullmatch(pattern, cells[name], re.ASCII):
                raise self._error(f"line {line}: {name} is {cells[name][:40]!r}, not a number")
        numbers = {name: float(cells[name]) if cells[name] else None for name in ("score", "cv")}
        rank = int(cells["rank"]) if cells["rank"] else None
        return Entry(**{**cells, **numbers, "rank": rank})  # type: ignore[arg-type]

    def _error(self, detail: str) -> DataError:
        return DataError(f"{self.path}, {detail}.", "Fix the file by hand; nothing was changed.")


def _number(value: float) -> str:
    """Return a score with five decimals, or with all its decimals if the user has typed more into the ledger."""
    text = f"{value:.5f}"
    return text if float(text) == value else f"{Decimal(repr(value)):f}"


def _key(entry: Entry) -> str:
    return f"{entry.time} {entry.sha256}"


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
