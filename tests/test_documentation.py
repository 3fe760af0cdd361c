"""The documentation: its examples, commands, make targets, links, scores and names of tests are right."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kaggle_digits as kd
from kaggle_digits.cli import cli
from kaggle_digits.training.presets import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
FUNCTIONS = ("download", "train", "ensemble", "submit", "score", "report", "compare", "predict")


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process")
def test_docstring_examples_give_the_documented_output(tmp_path: Path) -> None:
    names = {"folder": tmp_path}
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for function in FUNCTIONS:
        (examples,) = finder.find(getattr(kd, function), function, globs=names)
        assert examples.examples, f"{function} has no example"
        runner.run(examples, clear_globs=False)
        names = examples.globs  # the next examples use the variables of this one
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.usefixtures("train_in_process")
def test_network_of_readme_is_trained(
    workspace: kd.Workspace, tmp_path: Path, call_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "cnn.py").write_text(PYTHON[0])
    options = ("--preset", "fast", "--folds", "2", "--set", "epochs=2", "--set", "batch_size=20")
    (words,) = re.findall(r"^kaggle-digits (train .*cnn)$", README, re.MULTILINE)
    trained = call_cli("--root", workspace.root, *words.split(), *options)
    assert trained.returncode == 0, trained.stderr
    assert re.search(r"^The softmax at the end of cnn, in its layer dense\w*, is left out", trained.stderr)
    run = kd.find_run(workspace, "cnn-fast-k2")
    assert run.ensemble_metrics().accuracy > 0.3
    assert kd.report(workspace, run).document["layers"][-1]["receptive_field"] == 28


@pytest.mark.slow
def test_readme_python_example_works(tmp_path: Path) -> None:
    _, code = PYTHON
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


def test_readme_names_all_commands_and_only_existing_make_targets_and_files() -> None:
    assert [name for name in cli.commands if not re.search(rf"`{name}[ `]", README)] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = " ".join(re.findall(r"(?m)(?:`|^\$ )make ([a-z-]+(?: [a-z-]+)*)", README)).split()
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    paths = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_faults_page_names_existing_tests() -> None:
    named = re.findall(r"\b(\w+)::(test_\w+)", (ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))
    assert len(named) > 50
    for file, name in named:
        source = (ROOT / "tests" / f"test_{file}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in source, f"{file}::{name}"


def test_pages_have_the_results_of_presets() -> None:
    (table,) = (block for block in README.split("\n\n") if block.startswith("| preset |"))
    for row, preset in zip(table.splitlines()[2:], PRESETS.values(), strict=True):
        name, _, folds, compute, out_of_fold, score, time = (cell.strip() for cell in row.split("|")[1:8])
        assert (name, int(folds)) == (f"`{preset.name}`", preset.folds)
        assert compute == f"{preset.result.tflop:.0f} TFLOP"
        assert (float(out_of_fold), float(score)) == (preset.result.out_of_fold, preset.result.score)
        assert time == f"{preset.result.seconds / 60:.0f} min"
    # Also elsewhere, for example in a caption: `default` .99720 with 109 TFLOP.
    text = README + (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    found = re.findall(rf"\b({'|'.join(PRESETS)})`? (0?\.99\d+) with ", text)
    assert all(float(score) == PRESETS[name].result.score for name, score in found)
    assert {name for name, _ in found} >= {"fast", "default"}
