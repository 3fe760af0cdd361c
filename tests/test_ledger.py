"""Tests of the ledger: writing, reading, and files that were edited by hand."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaggle_digits.errors import DataError
from kaggle_digits.submissions.ledger import COLUMNS, Entry, Ledger, updated

ENTRY = Entry("2026-11-24T10:00:00+00:00", "fast-k5-s0", "ab" * 32, "17", "PENDING", cv=0.995)
HEADER = "time,run,sha256,ref,status,score,cv,rank"
LINE = ",".join(ENTRY.as_cells())


def test_ledger_columns_are_fixed() -> None:
    assert ",".join(COLUMNS) == HEADER


def test_entries_is_empty_without_file(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger.csv").entries() == []


def test_record_adds_and_replaces_entries(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.csv")
    other = Entry("2026-11-24T11:00:00+00:00", "lenet", "cd" * 32, "18", "PENDING")
    ledger.record(ENTRY)
    ledger.record(other)
    scored = updated(ENTRY, "COMPLETE", 0.99757, 12)
    ledger.record(scored)
    assert ledger.entries() == [scored, other]
    assert (scored.score, scored.rank) == (0.99757, 12)
    assert scored.gap == pytest.approx(0.00257)
    assert ledger.path.read_text().splitlines()[0] == HEADER


def test_record_keeps_one_ledger_for_two_folders_with_a_link(tmp_path: Path) -> None:
    ledger, linked = Ledger(tmp_path / "ledger.csv"), Ledger(tmp_path / "other" / "ledger.csv")
    ledger.record(ENTRY)
    linked.path.parent.mkdir()
    linked.path.symlink_to(ledger.path)
    other = replace(ENTRY, ref="18")
    linked.record(other)
    assert linked.path.is_symlink()
    assert ledger.entries() == linked.entries() == [ENTRY, other]
    assert not list(linked.path.parent.glob("*.lock"))  # both folders use the lock of the file


def test_entries_does_not_block_on_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ledger.csv")
    with pytest.raises(DataError, match=r"ledger\.csv is a pipe or a device, not a regular file"):
        Ledger(tmp_path / "ledger.csv").entries()


names = st.text(max_size=20).filter(str.isprintable)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, max_size=5))
def test_record_keeps_any_run_name(tmp_path: Path, runs: list[str]) -> None:
    path = tmp_path / "ledger.csv"
    path.unlink(missing_ok=True)
    ledger = Ledger(path)
    entries = [replace(ENTRY, run=run, ref=str(i)) for i, run in enumerate(runs)]
    for entry in entries:
        ledger.record(entry)
    assert ledger.entries() == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header"),
        ("\n", "line 1: the header"),
        (f"{LINE}\n", "line 1: the header"),
        ("time,run\n", "line 1: the header"),
        (HEADER + ",mine\n", "line 1: the header"),
        (f"{HEADER}\n,r,,1,PENDING\n", "line 2: expected 8 values, got 5"),
        (f"{HEADER}\n24.11.2026,r,,1,PENDING,,,\n", "line 2: '24.11.2026' is not a valid time"),
        (f"{HEADER}\n{LINE.replace('ab', 'g', 1)}\n", "line 2: 'gab.*' is not a valid sha256"),
        (f"{HEADER}\n{LINE.replace('ab', '', 1)}\n", "line 2: 'ab.*' is not a valid sha256"),
        (f"{HEADER}\n{LINE.replace(',17,', ',1.7E+01,')}\n", r"line 2: '1.7E\+01' is not a valid ref"),
        (f"{HEADER}\n,r,,,UNKNOWN,,,\n", "line 2: sha256 and ref are both empty"),
        (f"{HEADER}\n,r,,1,DONE,,,\n", "line 2: 'DONE' is not a valid status"),
        (f"{HEADER}\n,r,,1,PENDING,,,\n\n,r,,2,COMPLETE,high,,\n", "line 4: 'high' is not a valid score"),
        (f"{HEADER}\n,r,,1,COMPLETE,nan,,\n", "line 2: 'nan' is not a valid score"),
        (f"{HEADER}\n,r,,1,COMPLETE,1,1,3.0\n", "line 2: '3.0' is not a valid rank"),
        (f"{HEADER}\n,r,,1,COMPLETE,1,1,{'9' * 5000}\n", "line 2: '9999.*' is not a valid rank"),
        (f"{HEADER}\n,r,,1,COMPLETE,{'9' * 400},,\n", "line 2: '9999.*' is not a valid score"),
        (f'{HEADER}\n,"r\n",,1,PENDING,,,\n,r,,2,COMPLETE,,-0.5,\n', "line 4: '-0.5' is not a valid cv"),
        (f'{HEADER}\n,"r,,1,PENDING,,,\n', "line 2|line 3"),
    ],
)
def test_record_names_invalid_line_and_keeps_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ledger.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Ledger(path).record(ENTRY)
    assert path.read_text() == text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans())
def test_entries_raises_only_data_errors_for_any_bytes(tmp_path: Path, content: bytes, with_header: bool) -> None:
    path = tmp_path / "ledger.csv"
    path.write_bytes((HEADER.encode() + b"\n" if with_header else b"") + content)
    with suppress(DataError):
        Ledger(path).entries()


def test_entries_accepts_crlf_and_bom_and_upper_case(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{LINE.replace('ab', 'AB')}\r\n".encode())
    assert Ledger(path).entries() == [ENTRY]


def test_updated_keeps_scored_status() -> None:
    scored = updated(ENTRY, "COMPLETE", 0.9)
    assert updated(scored, "PENDING", None) == scored


def test_record_completes_and_forget_removes_entry_without_reference(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.csv")
    first, second = (replace(ENTRY, time=f"2026-11-24T1{i}:00", ref="", status="UNKNOWN") for i in range(2))
    ledger.record(first)
    ledger.record(second)
    ledger.record(replace(first, ref="17", status="PENDING"))
    assert [entry.ref for entry in ledger.entries()] == ["17", ""]
    content = ledger.path.read_bytes()
    ledger.forget(second)
    assert [entry.ref for entry in ledger.entries()] == ["17"]
    ledger.record(second)
    assert ledger.path.read_bytes() == content
    ledger.forget(replace(first, ref="17"))
    assert ledger.entries() == [second]


cells = st.text(max_size=8) | st.text(st.sampled_from('\r\n",\0 0a.'), max_size=8)
shares, ranks = st.none() | st.floats(0, 1) | st.floats(), st.none() | st.integers(0, 10**10) | st.integers()
kinds = st.sampled_from(["PENDING", "COMPLETE", "ERROR", "UNKNOWN"]) | st.text(max_size=4)
any_entries = st.builds(Entry, cells, cells, cells, cells, kinds, shares, shares, ranks)  # type: ignore[arg-type]


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_entries | st.builds(replace, st.just(ENTRY), run=cells, ref=cells, rank=ranks, score=shares))
def test_record_writes_only_what_can_be_read_again(tmp_path: Path, entry: Entry) -> None:
    ledger = Ledger(tmp_path / "ledger.csv")
    ledger.path.write_text(f"{HEADER}\n")
    other = replace(ENTRY, ref="another")
    ledger.record(other)
    before = ledger.path.read_bytes()
    try:
        ledger.record(entry)
    except DataError:
        assert ledger.path.read_bytes() == before
    else:
        assert entry in ledger.entries()
        json.dumps([entry.as_json() for entry in ledger.entries()], allow_nan=False)


@pytest.mark.parametrize(
    "changes", [{"score": float("nan")}, {"cv": -0.1}, {"rank": 10**12}, {"status": "DONE"}, {"run": "\ud800"}]
)
def test_record_rejects_entry_that_cannot_be_read_again(tmp_path: Path, changes: dict[str, object]) -> None:
    ledger = Ledger(tmp_path / "ledger.csv")
    ledger.record(ENTRY)
    with pytest.raises(DataError, match=r"ledger\.csv") as caught:
        ledger.record(replace(ENTRY, ref="18", **changes))  # type: ignore[arg-type]
    assert caught.value.remedy == "The ledger is unchanged."
    assert ledger.entries() == [ENTRY]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.5, 99.7])
def test_updated_ignores_invalid_score(tmp_path: Path, score: float) -> None:
    ledger = Ledger(tmp_path / "ledger.csv")
    ledger.record(updated(ENTRY, "COMPLETE", score))
    (entry,) = ledger.entries()
    assert (entry.status, entry.score) == ("COMPLETE", None)
