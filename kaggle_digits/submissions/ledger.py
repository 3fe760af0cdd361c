"""The ledger of submissions, ``submissions/<competition>/ledger.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from kaggle_digits.files import lock, read_errors, write_bytes
from kaggle_digits.hosts import Status

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Entry:
    """A line of the ledger. Unknown values are None, or an empty string for text."""

    # When the file was sent, in ISO 8601 and UTC.
    time: Annotated[str, Field(pattern=r"^(\d{4}-\d\d-\d\d.*)?$")]
    run: str  # that the file belongs to
    # Of the file. With another digest, the file would be sent again.
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-fA-F]{64})?$", to_lower=True)]
    ref: Annotated[str, Field(pattern=r"^\w*$")]  # the host's reference
    status: Status
    score: Share | None = None  # the public score
    cv: Share | None = None  # the out-of-fold accuracy
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


COLUMNS = tuple(field.name for field in fields(Entry))
_VALIDATOR = TypeAdapter(Entry)


@dataclass(frozen=True)
class Ledger:
    """The ledger file at `path`, which need not exist yet."""

    path: Path

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first; none if there is no file."""
        if not self.path.exists():
            return []
        remedy = "Fix it by hand, or move it away and write it again from the host's list with the command: score."
        with read_errors(self.path, remedy), open(self.path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            # Also in an empty file: it had entries once, and without them a file could be submitted again.
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(f"line 1: the header is not {','.join(COLUMNS)}")
            return [_parse(row, reader.line_num) for row in reader]

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
        import pandas as pd

        busy = f"{self.path} is in use by another process."
        # Beside the file itself, if the path is a link to it.
        with lock(self.path.resolve().with_name(".ledger.lock"), busy, timeout=10):
            entries = self.entries()
            yield entries
            rows = [[_cell(value) for value in asdict(entry).values()] for entry in entries]
            content = pd.DataFrame(rows, columns=list(COLUMNS), dtype=str).to_csv(index=False).encode()
            write_bytes(self.path, content)


def _parse(row: dict[str, Any], line: int) -> Entry:
    cells = row | {name: row[name] or None for name in ("score", "cv", "rank")}
    try:
        return _VALIDATOR.validate_python(cells)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"line {line}: {first['loc'][0]}: {first['msg']}") from error


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.5f}" if isinstance(value, float) else str(value)


def updated(entry: Entry, status: Status, score: float | None, rank: int | None = None) -> Entry:
    """Return an entry updated with the host's status, score and rank; a rank of None keeps the old one."""
    if status in ("PENDING", "UNKNOWN") and entry.status in ("COMPLETE", "ERROR"):
        return entry  # the host's list may be outdated
    score = round(score, 5) if score is not None and 0 <= score <= 1 else None
    return replace(entry, status=status, score=score, rank=entry.rank if rank is None else rank)
