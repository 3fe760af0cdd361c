"""The documentation: its commands, make targets, Python example, links and names of tests exist and work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kaggle_digits.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_readme_python_example_works(tmp_path: Path) -> None:
    (code,) = code_blocks("python")
    # Fewer epochs and folds, so that it takes only seconds.
    original = 'folds=4, settings={"epochs": 12, "batch_size": 32}'
    assert original in code
    code = code.replace(original, 'folds=2, settings={"epochs": 1}')
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"^0\.\d+ COMPLETE$", result.stdout, re.MULTILINE)
    assert (tmp_path / "digits" / "runs" / "rehearsal").is_dir()


def test_readme_mentions_every_command() -> None:
    for name in cli.commands:
        assert re.search(rf"`{name}[ `]", README), name


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?m)(?:`|^\$ )make ([a-z-]+(?: [a-z-]+)*)", README))))
def test_readme_make_targets_exist(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in target.split():
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_readme_links_to_files_exist() -> None:
    for path in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / path).exists(), path


def test_constraints_have_no_urls() -> None:
    assert "://" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_faults_page_names_existing_tests() -> None:
    named = re.findall(r"\b(\w+)::(test_\w+)", (ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))
    assert len(named) > 50
    for file, name in named:
        source = (ROOT / "tests" / f"test_{file}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in source, f"{file}::{name}"
