"""Run notebooks/digit_recognizer.ipynb on the competition `rehearsal` and save it with its outputs.

    python scripts/run_notebook.py

The notebook runs in a temporary folder. Outputs larger than 40 kB, such as the page of the report, are replaced by
a sentence, so that the notebook stays small.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "digit_recognizer.ipynb"
LARGEST_OUTPUT = 40_000


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run a notebook on `rehearsal` in a folder; its outputs are added to it."""
    environment = os.environ | {"KAGGLE_DIGITS_COMPETITION": "rehearsal"}
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)


def shorten(notebook: nbformat.NotebookNode) -> None:
    """Replace large outputs, and remove what differs from run to run without being of interest."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of the cell
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            output.get("metadata", {}).clear()
            if len(str(data)) > LARGEST_OUTPUT:
                text = "The page of the report is shown here when you run the notebook."
                output["data"] = {"text/plain": text}
            elif "text/html" in data and "image/png" not in data:
                # Viewers that show HTML do not need both.
                data.pop("text/plain", None)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def main() -> None:
    """Run the notebook and save it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        run(notebook, Path(folder))
    shorten(notebook)
    nbformat.write(notebook, NOTEBOOK)  # type: ignore[no-untyped-call]
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
