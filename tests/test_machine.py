"""What the machine has, and the expected time of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaggle_digits.execution import estimate, machine
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


@pytest.mark.slow
def test_measure_speeds_is_faster_for_networks_with_less_compute() -> None:
    speeds = estimate.measure_speeds()
    assert list(speeds) == list(PRESETS)
    assert 0 < speeds["default"] < 1.1 * speeds["fast"]


def test_summarise_presets_has_score_compute_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "default_workers", lambda folds: 2)
    monkeypatch.setattr(estimate, "measure_speeds", lambda: dict.fromkeys(PRESETS, 1_000.0))
    rows = {row["name"]: row for row in estimate.summarise_presets()}
    assert list(rows) == list(PRESETS)
    assert rows["fast"]["score"] == PRESETS["fast"].result.score
    assert rows["fast"]["tflop"] == PRESETS["fast"].result.tflop
    # Five folds on two workers: three rounds of 20 epochs of 262 batches of 128 rows, and 36,400 predictions.
    assert rows["lenet"]["seconds"] == round(estimate.START_SECONDS + 3 * (20 * 262 * 128 + 36_400 / 3) / 1_000)
