"""Run the tests that use Kaggle's client with its newest version that pyproject.toml allows.

    python scripts/newest_kaggle.py

The environment has the oldest allowed version, which constraints.txt pins. The newest version, and the version of
kagglesdk that it requires, are installed into build/newest-kaggle, which comes first on the import path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "newest-kaggle"
TESTS = ("test_kaggle_host.py", "test_doctor.py", "test_cli.py", "test_submission.py", "test_downloads.py")


def install(name: str, requirements: Iterable[str]) -> metadata.Distribution:
    """Install the newest version of a package that the requirements allow into the folder, and return it."""
    requirement = next(text for text in requirements if Requirement(text).name == name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Without its other requirements: the tests must not mix two versions of protobuf or requests in one process.
    subprocess.run([*pip, "--no-deps", "--upgrade", "--target", FOLDER, requirement], check=True)
    (found,) = metadata.distributions(name=name, path=[str(FOLDER)])
    return found


class ClientTests:
    """A pytest plugin that selects the tests that use the client, and records which version they import."""

    def __init__(self) -> None:
        self.imported: set[tuple[str, str]] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Deselect the tests that do not use the fake Kaggle server."""
        items[:] = [item for item in items if "kaggle" in getattr(item, "fixturenames", ())]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        """Record the version that a test has imported, before its modules are restored."""
        if client := sys.modules.get("kagglesdk"):
            self.imported.add((client.__version__, str(Path(str(client.__file__)).parent)))


def main() -> None:
    """Install the client and run the tests. Exit with an error if they fail or run with another version."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    kaggle = install("kaggle", project["dependencies"])
    sdk = install("kagglesdk", kaggle.requires or [])
    print(f"Testing with kaggle {kaggle.version} and kagglesdk {sdk.version}.", flush=True)
    # For this process, and for the processes that tests start.
    sys.path.insert(0, str(FOLDER))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
    tests = ClientTests()
    code = pytest.main(["-q", *(str(ROOT / "tests" / name) for name in TESTS)], plugins=[tests])
    if tests.imported != {(sdk.version, str(FOLDER / "kagglesdk"))}:
        sys.exit(f"The tests did not run with kagglesdk {sdk.version}, but with {sorted(tests.imported)}.")
    sys.exit(code)


if __name__ == "__main__":
    main()
