"""Tests that constraints.txt pins a valid version of each dependency in pyproject.toml."""

from __future__ import annotations

import re
import tomllib
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
        if name == PROJECT["name"]:
            # From pyproject.toml, because the installed metadata may be older.
            requirements = applicable(EXTRAS[part] if part else PROJECT["dependencies"], part)
        else:
            requirements = applicable(metadata.requires(name) or [], part)
        for requirement in requirements:
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


def test_constraints_have_names_and_versions() -> None:
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in PINS)
    assert len(pinned()) == len(PINS)


def test_tests_use_oldest_supported_kaggle_client() -> None:
    (kaggle,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "kaggle")
    assert sorted(map(str, kaggle.specifier)) == ["<3", f">={pinned()['kaggle']}"]
