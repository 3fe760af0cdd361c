"""Tests of the ledger: writing, reading, and files that were edited by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaggle_digits.errors import DataError
from kaggle_digits.submissions.ledger import COLUMNS, Entry, Ledger, updated

ENTRY = Entry("2026-11-24T10:00:00+00:00", "fast-k5-s0", "ab" * 32, "17", "PENDING", cv=0.995)
HEADER = "time,run,sha256,ref,status,score,cv,rank"
LINE = f"2026-11-24T10:00:00+00:00,fast-k5-s0,{'ab' * 32},17,PENDING,,0.99500,"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.csv")


def test_record_adds_and_replaces_entries(ledger: Ledger) -> None:
    other = Entry("2026-11-24T11:00:00+00:00", "lenet", "cd" * 32, "18", "PENDING")
    assert ledger.entries() == []
    ledger.record(ENTRY)
    assert ledger.path.read_text() == f"{HEADER}\n{LINE}\n"
    ledger.record(other)
    scored = updated(ENTRY, "COMPLETE", 0.99757, 12)
    ledger.record(scored)
    assert ledger.entries() == [scored, other]
    assert (scored.score, scored.rank) == (0.99757, 12)
    assert scored.gap == pytest.approx(0.00257)
    assert ",".join(COLUMNS) == HEADER


@settings(max_examples=10)
@given(st.lists(st.text(max_size=20).filter(str.isprintable), max_size=3))
def test_record_keeps_any_run_name(tmp_path: Path, runs: list[str]) -> None:
    ledger = Ledger(tmp_path / "ledger.csv")
    ledger.path.unlink(missing_ok=True)
    entries = [replace(ENTRY, run=run, ref=str(i)) for i, run in enumerate(runs)]
    for entry in entries:
        ledger.record(entry)
    assert ledger.entries() == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header"),
        (f"{LINE}\n", "line 1: the header"),
        (HEADER + ",mine\n", "line 1: the header"),
        (f"{HEADER}\n,r,,1\n", "line 2: status"),
        (f"{HEADER}\n{LINE},more\n", "line 2"),
        (f"{HEADER}\n{LINE.replace('2026-11-24', '24.11.2026')}\n", "line 2: time"),
        (f"{HEADER}\n{LINE.replace('ab', 'g', 1)}\n", "line 2: sha256"),
        (f"{HEADER}\n{LINE.replace(',17,', ',1.7E+01,')}\n", "line 2: ref"),
        (f"{HEADER}\n,r,,1,DONE,,,\n", "line 2: status"),
        (f"{HEADER}\n,r,,1,PENDING,,,\n\n,r,,2,COMPLETE,high,,\n", "line 4: score"),
        (f"{HEADER}\n,r,,1,COMPLETE,nan,,\n", "line 2: score"),
        (f'{HEADER}\n,"r\n",,1,PENDING,,,\n,r,,2,COMPLETE,,-0.5,\n', "line 4: cv"),
        (f"{HEADER}\n,r,,1,COMPLETE,1,1,third\n", "line 2: rank"),
        (f'{HEADER}\n,"r,,1,PENDING,,,\n', "unexpected end of data"),
    ],
)
def test_record_names_invalid_line_and_keeps_file(ledger: Ledger, text: str, message: str) -> None:
    ledger.path.write_text(text)
    with pytest.raises(DataError, match=rf"ledger\.csv is damaged: {message}"):
        ledger.record(ENTRY)
    assert ledger.path.read_text() == text


def test_entries_accepts_crlf_and_bom_and_upper_case(ledger: Ledger) -> None:
    ledger.path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{LINE.replace('ab', 'AB')}\r\n".encode())
    assert ledger.entries() == [ENTRY]


def test_updated_keeps_scored_status() -> None:
    scored = updated(ENTRY, "COMPLETE", 0.9)
    assert updated(scored, "PENDING", None) == scored


@pytest.mark.parametrize("score", [float("nan"), -0.5, 99.7])
def test_updated_ignores_invalid_score(score: float) -> None:
    assert updated(ENTRY, "COMPLETE", score) == replace(ENTRY, status="COMPLETE")


def test_record_completes_and_forget_removes_entry_without_reference(ledger: Ledger) -> None:
    first, second = (replace(ENTRY, time=f"2026-11-24T1{i}:00", ref="", status="UNKNOWN") for i in range(2))
    ledger.record(first)
    ledger.record(second)
    ledger.record(replace(first, ref="17", status="PENDING"))
    assert [entry.ref for entry in ledger.entries()] == ["17", ""]
    ledger.forget(second)
    assert [entry.ref for entry in ledger.entries()] == ["17"]
    ledger.record(second)
    ledger.forget(replace(first, ref="17"))
    assert ledger.entries() == [second]
