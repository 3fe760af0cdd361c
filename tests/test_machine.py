"""What the machine has, and the expected time of a training."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from kaggle_digits.execution import machine
from kaggle_digits.training.presets import PRESETS


def set_limits(folder: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str]) -> None:
    """Replace the control groups of this process by files, on a machine with 4 cores and 8 GB."""
    for name, content in ({"self": groups} | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.setattr(machine, "CGROUPS", folder)
    monkeypatch.setattr(machine, "CGROUPS_OF_PROCESS", folder / "self")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 2_000_000)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {}, 4),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/batch/job\n", {"batch/job/cpu.max": "5000 100000\n"}, 1),
        ("0::/batch/job\n", {"batch/job/cpu.max": "max 100000\n", "batch/cpu.max": "200000 100000\n"}, 2),
        ("4:cpu,cpuacct:/job\n", {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "50000"}, 2),
        ("4:cpu,cpuacct:/job\n", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "50000"}, 4),
        # In a container, the files of its group are at the root.
        ("4:cpu:/docker/1f\n", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
    ],
)
def test_cpu_cores_is_limited_by_the_quota_of_the_control_group_and_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], cores: int
) -> None:
    set_limits(tmp_path, monkeypatch, groups, files)
    assert machine.cpu_cores() == cores


@pytest.mark.parametrize(
    ("groups", "files", "workers"),
    [
        ("0::/\n", {"memory.max": "2500000000\n"}, 2),
        ("0::/\n", {}, 4),
        ("9:memory:/job\n", {"memory/job/memory.limit_in_bytes": "2500000000\n"}, 2),
        ("9:memory:/job\n", {"memory/job/memory.limit_in_bytes": str(2**63 - 4096)}, 4),
    ],
)
def test_default_workers_depends_on_the_memory_of_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], workers: int
) -> None:
    set_limits(tmp_path, monkeypatch, groups, files)
    assert machine.default_workers(10) == workers


def test_cpu_cores_and_memory_need_no_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(tmp_path, monkeypatch, "", {})
    (tmp_path / "self").unlink()  # as on macOS
    assert (machine.cpu_cores(), machine.memory()) == (4, 4096 * 2_000_000)


def test_measure_speed_is_that_of_matrix_products() -> None:
    a = np.ones((512, 512), np.float32)
    started = time.perf_counter()
    a @ a
    once = 2 * 512**3 / (time.perf_counter() - started)
    # At least a tenth of a single product, which may have used all cores, or may have been disturbed.
    assert machine.measure_speed(0.1) > once / 10


def test_summarise_presets_has_score_compute_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_cores", lambda: 2)
    monkeypatch.setattr(machine, "measure_speed", lambda: 400e9)
    rows = {row["name"]: row for row in machine.summarise_presets()}
    assert list(rows) == list(PRESETS)
    assert rows["fast"]["score"] == PRESETS["fast"].result.score
    assert rows["fast"]["tflop"] == 29.2
    for name, rounds in (("lenet", 3), ("fast", 2), ("default", 4)):  # five, four and eight folds on two workers
        fold = PRESETS[name].result.tflop * 1e12 / PRESETS[name].folds / (machine.SHARE_OF_SPEED * 200e9)
        assert rows[name]["seconds"] == round(rounds * (fold + machine.SECONDS_PER_FOLD))


def test_about_rounds_to_what_an_estimate_can_say() -> None:
    assert [machine.about(seconds) for seconds in (3, 99, 3599, 9000)] == ["10 s", "100 s", "60 min", "2 h 30 min"]
