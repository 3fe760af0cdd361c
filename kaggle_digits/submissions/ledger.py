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
    """A line of the ledger. What is not known is None, or empty where it is text.

    Attributes
    ----------
    time : str
        When the file was sent, ISO 8601 in UTC.
    run : str
        The run it came from.
    sha256 : str
        Of the file.
    ref : str
        The host's reference.
    status : {"PENDING", "COMPLETE", "ERROR", "UNKNOWN"}
        How far the host's scoring is.
    score, cv : float or None
        Public score and out-of-fold accuracy, from 0 to 1, with five decimals.
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

    def is_same_sending(self, other: Entry) -> bool:
        """Tell whether two entries are about the same submission; the reference may not have been known yet."""
        if self.ref and other.ref:
            return self.ref == other.ref
        return (self.time, self.sha256) == (other.time, other.sha256)

    @property
    def gap(self) -> float | None:
        """Public score less out-of-fold accuracy, or None if one is not known."""
        return None if self.score is None or self.cv is None else self.score - self.cv

    def as_json(self) -> dict[str, Any]:
        """Return the line for JSON, with None for all that is not known."""
        return {name: None if value == "" else value for name, value in asdict(self).items()}

    def as_cells(self) -> list[str]:
        """Return the line as the CSV file has it: scores with five decimals, as Kaggle writes them."""
        values = (self.time, self.run, self.sha256, self.ref, self.status, self.score, self.cv, self.rank)
        return ["" if v is None else _number(v) if isinstance(v, float) else str(v) for v in values]


COLUMNS = tuple(field.name for field in fields(Entry))
_SHARE = r"(\d{1,9}(\.\d{0,20})?)?"
_RANK = r"\d{0,9}"


@dataclass(frozen=True)
class Ledger:
    """The ledger file at `path`, which need not exist yet."""

    path: Path

    def entries(self) -> list[Entry]:
        """Return all lines, the oldest first.

        Raises
        ------
        DataError
            If the file is not a ledger; the error names the line.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._error("which cannot be read as text") from error
        return self._parse(content)

    def _parse(self, content: bytes) -> list[Entry]:
        import csv

        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self._error("which cannot be read as text") from error
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
        """Write an entry: in the place of the one of the same sending, or as a new last line."""
        with self._changed() as entries:
            for i, old in enumerate(entries):
                if old.is_same_sending(entry):
                    entries[i] = entry
                    return
            entries.append(entry)

    def record_attempt(self, entry: Entry, allowance: int | None) -> None:
        """Write the entry of a submission that is about to be made.

        Parameters
        ----------
        entry : Entry
            Without a reference.
        allowance : int or None
            How many submissions are left before it, by which `was_counted` can tell later whether it was made, in
            another process too. It goes into a file of its own, since the ledger's columns are fixed.
        """
        unresolved = [old for old in self.entries() if not old.ref]
        known = self._allowances()
        kept = {key: known[key] for key in map(_key, unresolved) if key in known}
        write_json(self._allowance_file, kept | {_key(entry): allowance})
        self.record(entry)

    def was_counted(self, entry: Entry, allowance: int | None) -> bool:
        """Tell whether the host has counted a submission whose answer was lost, given the allowance now.

        True means that more has been counted than is in the ledger since then. False means nothing: a host counts
        late, or a new day has begun.
        """
        known = self._allowances()
        if allowance is None or _key(entry) not in known:
            return False
        others = sum(1 for other in self.entries() if other.ref and other.time > entry.time)
        # None before: the host begins to count with the first submission.
        before = known[_key(entry)]
        return not others if before is None else allowance + others < before

    def mark_counted(self, entry: Entry) -> None:
        """Note that a submission without a reference has been counted, unless its reference is known by now."""
        with self._changed() as entries:
            for i, old in enumerate(entries):
                if old.is_same_sending(entry) and not old.ref:
                    entries[i] = replace(old, status="PENDING")

    def forget(self, entry: Entry) -> None:
        """Remove the entry of a submission that the host refused to make."""
        with self._changed() as entries:
            entries[:] = [old for old in entries if not old.is_same_sending(entry)]

    @property
    def _allowance_file(self) -> Path:
        return self.path.with_name(".allowance.json")

    def _allowances(self) -> dict[str, int | None]:
        """Return the allowance before each attempt; nothing for what cannot be read."""
        try:
            document = read_json(self._allowance_file)
        except DataError:
            return {}
        return {key: left for key, left in document.items() if left is None or type(left) is int}

    @contextmanager
    def _changed(self) -> Iterator[list[Entry]]:
        """Yield the entries for changing, and write them, while nobody else does."""
        with lock(self.path.with_name(".ledger.lock"), f"{self.path} is in use by another process.", timeout=10):
            entries = self.entries()
            yield entries
            write_bytes(self.path, self._format(entries))

    def _format(self, entries: list[Entry]) -> bytes:
        """Return the content of a file that will be read as these entries again, or raise a `DataError`."""
        import pandas as pd

        try:
            table = pd.DataFrame([entry.as_cells() for entry in entries], columns=list(COLUMNS), dtype=str)
            content = table.to_csv(index=False).encode()
            if self._parse(content) == entries:
                return content
            why = f"{self.path}, it would be read as something else."
        except UnicodeEncodeError as error:
            why = f"{self.path}, {error.reason}."
        except DataError as error:
            why = error.problem
        raise DataError(f"The ledger cannot hold this submission: {why}", "Nothing was changed.")

    def _entry(self, row: list[str], line: int) -> Entry:
        if len(row) != len(COLUMNS):
            raise self._error(f"line {line}: {len(row)} values, not {len(COLUMNS)}")
        cells = dict(zip(COLUMNS, row, strict=True))
        if cells["status"] not in get_args(Status):
            raise self._error(f"line {line}: {cells['status'][:40]!r} is no status")
        for name, pattern in (("score", _SHARE), ("cv", _SHARE), ("rank", _RANK)):
            if not re.fullmatch(pattern, cells[name], re.ASCII):
                raise self._error(f"line {line}: {name} is {cells[name][:40]!r}, no number")
        numbers = {name: float(cells[name]) if cells[name] else None for name in ("score", "cv")}
        rank = int(cells["rank"]) if cells["rank"] else None
        return Entry(**{**cells, **numbers, "rank": rank})  # type: ignore[arg-type]

    def _error(self, detail: str) -> DataError:
        return DataError(f"{self.path}, {detail}.", "Mend that line by hand; nothing was changed.")


def _number(value: float) -> str:
    """Return a score with five decimals, or with all it has where somebody has typed more into the ledger."""
    text = f"{value:.5f}"
    return text if float(text) == value else f"{Decimal(repr(value)):f}"


def _key(entry: Entry) -> str:
    return f"{entry.time} {entry.sha256}"


def updated(entry: Entry, status: Status, score: float | None, rank: int | None = None) -> Entry:
    """Return an entry with what its host says now; a rank that is not known now stays what it was.

    What is scored stays scored, should the news be older than what is known. A score that is no accuracy, such as
    nan, is not known.
    """
    if status in ("PENDING", "UNKNOWN") and entry.status in ("COMPLETE", "ERROR"):
        return entry
    return replace(
        entry,
        status=status,
        score=round(score, 5) if score is not None and 0 <= score <= 1 else None,
        rank=entry.rank if rank is None else rank,
    )
