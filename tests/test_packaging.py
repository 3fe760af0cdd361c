"""The pinned versions cover all dependencies, and the wheel works in a fresh environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def pinned() -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in PINS)}


def applicable(requirements: list[str], extra: str) -> list[Requirement]:
    """Return the requirements that apply to this machine, for an extra or (if it is empty) for none."""
    parsed = [Requirement(text) for text in requirements]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": extra})]


def required(extra: str) -> list[tuple[str, Requirement]]:
    """Return all direct and indirect requirements of the package with an extra, and the package of each."""
    found: list[tuple[str, Requirement]] = []
    seen: set[tuple[str, str]] = set()
    queue = [(PROJECT["name"], part) for part in {"", extra}]
    while queue:
        name, part = queue.pop()
        if (name, part) in seen:
            continue
        seen.add((name, part))
        requirements = metadata.requires(name) or []
        if name == PROJECT["name"]:  # from pyproject.toml, because the installed metadata may be older
            requirements = EXTRAS[part] if part else PROJECT["dependencies"]
        for requirement in applicable(requirements, part):
            dependency = canonicalize_name(requirement.name)
            queue += [(dependency, extra_name) for extra_name in {"", *requirement.extras}]
            if dependency != PROJECT["name"]:
                found.append((name, requirement))
    return found


# The extra `cuda` is left out: gigabytes of NVIDIA's libraries, whose versions TensorFlow chooses.
@pytest.mark.parametrize("extra", ["", *(extra for extra in EXTRAS if extra != "cuda")])
def test_constraints_pin_all_dependencies(extra: str) -> None:
    pins, needed = pinned(), required(extra)
    assert len(needed) > len(PROJECT["dependencies"])
    for name, requirement in needed:
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{name} requires {requirement}, which has no pin"
        assert requirement.specifier.contains(pin, prereleases=True), f"{name} requires {requirement}, not {pin}"


def test_constraints_have_names_and_versions_and_the_oldest_supported_kaggle_client() -> None:
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in PINS)
    assert len(pinned()) == len(PINS)
    (kaggle,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "kaggle")
    assert sorted(map(str, kaggle.specifier)) == ["<3", f">={pinned()['kaggle']}"]


@pytest.mark.slow
def test_wheel_works_in_a_fresh_environment(tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        # Without PYTHONPATH, outside the checkout, so that only what is in the wheel can be imported.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=1200
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("kaggle_digits-*.whl")
    assert wheel.stat().st_size < 2_000_000
    with zipfile.ZipFile(wheel) as files:
        (metadata_file,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        links = re.findall(r"\]\(([^)]+)\)", files.read(metadata_file).decode())
    # A package index shows the README without the files of the repository.
    assert links
    assert all(link.startswith(("https://", "#")) for link in links)
    run(sys.executable, "-m", "venv", tmp_path / "fresh")
    python = tmp_path / "fresh" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    digits = (python.with_name("kaggle-digits"), "--competition", "rehearsal")
    assert "4,200 training rows" in run(*digits, "download")
    run(*digits, "train", "--preset", "lenet", "--folds", "2", "--set", "epochs=1")
    assert "Score 0." in run(*digits, "submit")
    run(*digits, "report")
    assert (tmp_path / "runs" / "rehearsal" / "lenet-k2-s0-epochs=1" / "report" / "index.html").is_file()
    assert json.loads(run(*digits, "doctor", "--json"))["ready"]
    where = run(python, "-c", "import kaggle_digits; print(kaggle_digits.__file__)")
    assert str(ROOT) not in where


@pytest.mark.parametrize("found", ["Python 3.9.2", ""])
def test_make_names_the_versions_of_python_that_it_needs(tmp_path: Path, found: str) -> None:
    for program in ("make", "sh"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    if found:
        (tmp_path / "python3").write_text(f'#!{tmp_path}/sh\n[ "$1" = -c ] && exit 1\necho {found}\n')
        (tmp_path / "python3").chmod(0o755)
    environment = {"PATH": str(tmp_path)}
    ended = subprocess.run(
        [tmp_path / "make", "install", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert (
        f"Error: kaggle-digits needs Python 3.11, 3.12 or 3.13, but python3 is {found or 'not installed'}."
        in lines
    )
    assert "Install one of them, or give its path: make PYTHON=/path/to/python3.12 install." in lines
    assert not (tmp_path / "venv").exists()
