"""Tests of the local host, which runs a competition on this machine."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from conftest import small_digits
from make_rehearsal import format_idx

from kaggle_digits import Workspace, download
from kaggle_digits.data.csv import load_test, load_train
from kaggle_digits.errors import DataError, NetworkError, RefusedError
from kaggle_digits.hosts import Host, Standing, idx, open_host
from kaggle_digits.hosts.idx import read_mnist
from kaggle_digits.hosts.local import DAILY_LIMIT, LocalHost, baselines, shuffled
from kaggle_digits.workspace import FILES

MNIST = Path(os.environ.get("KAGGLE_DIGITS_MNIST_DIR", "mnist"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path, "rehearsal")


def send(host: Host, path: Path, description: str) -> str:
    return host.create(host.upload(path), description)


def write_answer(path: Path, labels: np.ndarray) -> Path:
    lines = [f"{i},{label}\n" for i, label in enumerate(labels, 1)]
    path.write_text("ImageId,Label\n" + "".join(lines))
    return path


def test_download_rehearsal_has_a_tenth_of_the_rows(workspace: Workspace) -> None:
    download(workspace)
    train_set, test_set = load_train(workspace.data), load_test(workspace.data)
    assert train_set.images.shape == (4200, 28, 28)
    assert test_set.images.shape == (2800, 28, 28)
    assert np.bincount(train_set.labels).min() > 350
    assert 25 < train_set.images.mean() < 40  # MNIST's mean is 33
    train_rows = {image.tobytes() for image in train_set.images}
    assert not any(image.tobytes() in train_rows for image in test_set.images)
    # The bytes never change, because runs remember them.
    digest = hashlib.sha256(b"".join((workspace.data / name).read_bytes() for name in FILES)).hexdigest()
    assert digest == "550ad9647b427bda0570b4dfe8281c7e434853f3ec4971db4cc6858247182655"


def test_create_scores_and_ranks_submissions(workspace: Workspace, tmp_path: Path) -> None:
    host, board = open_host(workspace), baselines("rehearsal")
    truth = LocalHost(workspace)._arrays()[-1]
    assert len(board) >= 3
    assert all(0.8 < score < 1 for score in board.values())
    assert host.standing() == Standing(None, len(board))
    half_right = np.where(np.arange(len(truth)) % 2, truth, (truth + 1) % 10)
    first = send(host, write_answer(tmp_path / "a.csv", half_right), "half")
    assert host.standing() == Standing(len(board) + 1, len(board) + 1)
    second = send(host, write_answer(tmp_path / "b.csv", truth), "all")
    newest, oldest = host.submissions()
    assert (newest.ref, newest.score, newest.status, newest.description) == (second, 1.0, "COMPLETE", "all")
    assert (oldest.ref, oldest.score) == (first, 0.5)
    assert host.standing() == Standing(1, len(board) + 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Id,Label\n1,1\n", "columns must be ImageId,Label"),
        ("ImageId,Label\n" + "1,1\n" * 2800, "ImageId must contain each id from 1 to 2800 once"),
        ("", "No columns"),
    ],
)
def test_create_counts_submission_that_cannot_be_scored(workspace: Workspace, text: str, reason: str) -> None:
    host = open_host(workspace)
    path = workspace.root / "invalid.csv"
    path.write_text(text)
    send(host, path, "")
    (submission,) = host.submissions()
    assert (submission.status, submission.score) == ("ERROR", None)
    assert reason in submission.reason
    assert host.allowance() == DAILY_LIMIT - 1


def test_create_allows_ten_submissions_per_day(workspace: Workspace) -> None:
    host = open_host(workspace)
    answer = write_answer(workspace.root / "a.csv", np.zeros(2800, int))
    for left in range(DAILY_LIMIT, 0, -1):
        assert host.allowance() == left
        send(host, answer, "")
    with pytest.raises(RefusedError, match="has been reached"):
        send(host, answer, "")
    assert len(list(host.submissions())) == DAILY_LIMIT


def test_submissions_reads_history_of_earlier_versions_and_names_a_damaged_one(workspace: Workspace) -> None:
    host, path = LocalHost(workspace), workspace.data / "host" / "submissions.json"
    entry = {"ref": "1", "time": "2026-11-24T10:00:00+00:00", "description": "", "status": "COMPLETE"}
    entry |= {"score": 0.5, "reason": "", "team": "you"}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"submissions": [entry]}))
    assert [submission.score for submission in host.submissions()] == [0.5]
    for damaged in ({}, {"submissions": [{}]}, {"submissions": [entry | {"status": "DONE"}]}):
        path.write_text(json.dumps(damaged))
        with pytest.raises(DataError, match=r"submissions\.json is damaged"):
            host.allowance()


def test_shuffled_returns_fixed_order() -> None:
    assert shuffled(8, "rehearsal") == [2, 3, 6, 4, 5, 1, 7, 0]
    assert sorted(shuffled(1000, "x")) == list(range(1000))


def test_read_mnist_rejects_other_content(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is missing\. .*--mnist-dir"):
        read_mnist(tmp_path)
    for content in (gzip.compress(format_idx(small_digits(3)[0])), b"\x1f\x8bno gzip"):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged"):
            read_mnist(tmp_path)


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small IDX files, two plain and two gzipped, that is accepted as MNIST."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    hashes = {}
    for i, name in enumerate(idx.MNIST_SHA256):
        content = format_idx(small_digits(60 if "train" in name else 10, seed=i // 2)[i % 2])
        hashes[name] = hashlib.sha256(content).hexdigest()
        path = folder / (f"{name}.gz" if i % 2 else name)
        path.write_bytes(gzip.compress(content) if i % 2 else content)
    monkeypatch.setattr(idx, "MNIST_SHA256", hashes)
    return folder


def test_download_rehearsal_full_reads_plain_and_gzipped_files(
    tmp_path: Path, small_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = download(Workspace.at(tmp_path / "work", "rehearsal-full"), mnist_dir=small_mnist)
    assert (result.train_rows, result.test_rows) == (42, 28)
    monkeypatch.setenv("KAGGLE_DIGITS_MNIST_DIR", str(small_mnist))
    assert download(Workspace.at(tmp_path / "other", "rehearsal-full")).train_rows == 42


def test_fetch_mnist_rejects_other_content(
    tmp_path: Path, small_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next mirror is tried, and no invalid file is kept."""
    workspace = Workspace.at(tmp_path / "work", "rehearsal-full")
    monkeypatch.setattr(idx, "MIRRORS", ("http://127.0.0.1:9/", "http://html/"))
    get = requests.get

    def fake_get(url: str, timeout: float) -> object:
        mirror, name = url.removeprefix("http://").split("/")
        if mirror not in ("html", "right"):
            return get(url, timeout=timeout)
        plain, gzipped = small_mnist / name.removesuffix(".gz"), small_mnist / name
        content = gzip.compress(plain.read_bytes()) if plain.exists() else gzipped.read_bytes()
        return SimpleNamespace(content=content if mirror == "right" else b"<html>Sorry</html>")

    monkeypatch.setattr(requests, "get", fake_get)
    with pytest.raises(NetworkError, match=r"could not be downloaded from any mirror\. .*--mnist-dir"):
        download(workspace)
    monkeypatch.setattr(idx, "MIRRORS", (*idx.MIRRORS, "http://right/"))
    assert download(workspace).train_rows == 42


@pytest.mark.slow
@pytest.mark.skipif(not (MNIST / "train-images-idx3-ubyte.gz").exists(), reason="MNIST is not on this machine")
def test_read_mnist_reads_all_digits(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "rehearsal-full")
    result = download(workspace, mnist_dir=MNIST)
    assert (result.train_rows, result.test_rows) == (42_000, 28_000)
    assert isinstance(open_host(workspace), LocalHost)
