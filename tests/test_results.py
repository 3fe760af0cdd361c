"""The scores in the documentation are those in the table of presets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kaggle_digits.training.presets import PRESETS, Preset

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_readme_table_has_the_results_of_presets(preset: Preset) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"(?m)^\| `{preset.name}` \|.*$", readme)
    folds, compute, out_of_fold, score, time = (cell.strip() for cell in row.split("|")[3:8])
    assert int(folds) == preset.folds
    assert compute == f"{preset.result.tflop:.0f} TFLOP"
    assert (float(out_of_fold), float(score)) == (preset.result.out_of_fold, preset.result.score)
    assert time == f"{preset.result.seconds / 60:.0f} min"


def test_readme_table_lists_all_presets() -> None:
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n")
    (table,) = (block for block in blocks if block.startswith("| preset |"))
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(PRESETS)


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md"])
def test_pages_contain_no_other_scores_of_presets(page: str) -> None:
    """For example in a caption: `default` .99720 with 109 TFLOP."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(rf"\b({'|'.join(PRESETS)})`? (0?\.99\d+) with ", text)
    assert all(float(score) == PRESETS[name].result.score for name, score in found)
    if page == "docs/recipes.md":
        assert {name for name, _ in found} >= {"fast", "default"}
