"""A page in the browser on which one draws a digit and sees how the ensemble of a run classifies it."""

import html
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from kaggle_digits.arrays import UInt8
from kaggle_digits.errors import DataError, UsageError
from kaggle_digits.prediction.pictures import find_digit, grey_values, read_picture
from kaggle_digits.prediction.predict import Classifier
from kaggle_digits.reports.figures import digit_url
from kaggle_digits.runs.directory import Run, find_run
from kaggle_digits.runs.ensemble import check_ensemble
from kaggle_digits.workspace import Workspace


def draw(
    workspace: Workspace,
    run: str | Run | None = None,
    network: str | Callable[[], Any] | None = None,
    port: int | None = None,
) -> str:
    """Serve a page to this machine on which one draws a digit, or drops a picture, and sees the prediction.

    It shows the same as `predict`, and what each network says. A notebook shows the page. It is served in the
    background, until the process ends, or until ``gradio.close_all()``. This needs the extra ``draw``.

    Parameters
    ----------
    workspace : Workspace
        The competition and the folder of its runs.
    run : str or Run, optional
        The run, or its name. Default: as in `find_run`.
    network : str or callable, optional
        As in `predict`.
    port : int, optional
        The port of the page. Default: the first free one from 7860 on.

    Returns
    -------
    str
        The address of the page.

    Raises
    ------
    UsageError
        If there is no such run, Gradio is not installed, or the port cannot be used.
    DataError
        If the run is not finished, or a network is missing or damaged.
    """
    if find_spec("gradio") is None:
        raise UsageError("Gradio is not installed.", "Install it with: pip install 'kaggle-digits[draw]'.")
    import gradio as gr

    source = find_run(workspace, run)
    check_ensemble(source)
    page = _page(source, Classifier(source, network))
    theme = gr.themes.Default(font="system-ui", font_mono="monospace")  # needs no fonts from elsewhere
    looks: dict[str, Any] = {"theme": theme, "css_paths": Path(__file__).with_name("draw.css"), "height": 700}
    quiet: dict[str, Any] = {"quiet": True, "share": False, "run_history": False, "footer_links": []}
    try:
        page.launch(prevent_thread_lock=True, server_name="127.0.0.1", server_port=port, **quiet, **looks)
    except (OSError, OverflowError):
        raise UsageError(f"Port {port} cannot be used.", "Choose another --port, or leave it out.") from None
    return str(page.local_url)


def _page(source: Run, classifier: Classifier) -> Any:
    import gradio as gr

    def classify(digit: UInt8) -> tuple[dict[str, float] | None, str]:
        """Return the probabilities; and, as HTML, the doubts, the digit, and what each network says."""
        (prediction,) = classifier([(None, digit)])
        rows = ["<tr><th></th><th>digit</th><th>probability</th></tr>"]
        for (_, fold, _), softmax in zip(source.weighted_networks(), prediction.networks, strict=True):
            name = html.escape(os.path.relpath(fold.path, source.path).removeprefix("../"))
            rows.append(f"<tr><td>{name}</td><td>{softmax.argmax()}</td><td>{softmax.max():.4f}</td></tr>")
        details = f"<p>{prediction.doubts.capitalize()}</p>" if prediction.doubts else ""
        details += f'<div><h3>What the network sees</h3><img src="{digit_url(digit)}" alt="28x28 pixels"></div>'
        details += f"<div><h3>What each fold says, uncalibrated</h3><table>{''.join(rows)}</table></div>"
        return {str(n): p for n, p in enumerate(prediction.softmax.tolist())}, details

    def classify_drawing(drawing: dict[str, Image.Image | None]) -> tuple[dict[str, float] | None, str]:
        image = drawing["composite"]
        digit = None if image is None else find_digit(grey_values(image))
        return (None, "") if digit is None else classify(digit)

    def classify_picture(path: str | None) -> tuple[dict[str, float] | None, str]:
        try:
            return classify(read_picture(path)) if path else (None, "")
        except DataError as error:
            return None, f"<p>{html.escape(error.problem.replace(str(path), Path(str(path)).name))}</p>"

    # Gradio's editor selects the brush only if it has a background, and ignores its first change: that to a layer.
    paper = Image.new("RGB", (400, 400), "white")
    empty = {"background": paper, "layers": [Image.new("RGBA", paper.size)], "composite": None}
    brush = gr.Brush(18, colors=["#000000"], color_mode="fixed")  # strokes are 2 to 3 pixels wide after conversion
    plain: dict[str, Any] = {"show_label": False, "layers": False, "transforms": [], "buttons": []}
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(analytics_enabled=False, delete_cache=(60, 60), title="Draw a digit", fill_width=True) as page:
        gr.HTML(f"<h2>Draw a digit</h2>and see what {html.escape(source.name)} says")
        with gr.Row():  # of columns, because the editor does not follow when its own width changes
            with gr.Column(scale=5, min_width=320):
                pad = gr.Sketchpad(empty, type="pil", canvas_size=paper.size, height=430, brush=brush, **plain)
                picture = gr.File(label="Or a picture of one", file_types=["image"], height=110)
            with gr.Column(scale=3, min_width=240):
                probabilities = gr.Label(label="Probabilities")
            with gr.Column(scale=3, min_width=240):
                details = gr.HTML(elem_classes="details")
        pad.change(classify_drawing, pad, [probabilities, details], **quiet)
        pad.clear(lambda: empty, None, pad, **quiet)
        picture.change(classify_picture, picture, [probabilities, details], **quiet)
    return page
