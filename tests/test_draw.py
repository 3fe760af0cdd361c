"""The page on which one draws a digit: in a real browser, it says the same as `predict`."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import requests
from PIL import Image

import kaggle_digits as kd
from kaggle_digits import Workspace
from kaggle_digits.arrays import UInt8
from kaggle_digits.data.csv import load_test
from kaggle_digits.errors import UsageError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@contextmanager
def served(workspace: Workspace, folder: Path) -> Iterator[str]:
    """Yield the address of the page of the command `draw`, which is then ended with Ctrl-C."""
    command = [
        sys.executable,
        "-m",
        "kaggle_digits",
        "--competition",
        "rehearsal",
        "--root",
        workspace.root,
        "draw",
    ]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder)}
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--json"], stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            assert process.stdout
            document = json.loads("".join(takewhile(lambda line: line != "}\n", process.stdout)) + "}")
            assert document == {"run": "first", "address": document["address"]}
            yield document["address"]
        finally:
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted." in error
    assert "Traceback" not in error


def draw_line(browser: Chrome, right: int) -> None:
    """Draw a vertical line with the mouse, some pixels to the right of the middle."""
    from selenium.webdriver import ActionChains

    canvas = browser.find_element("css selector", "canvas")
    mouse = ActionChains(browser).move_to_element_with_offset(canvas, right, -110).click_and_hold()
    mouse.move_by_offset(0, 110).move_by_offset(0, 110).release().perform()


def seen(browser: Chrome) -> UInt8 | None:
    """Return the picture that the network sees, [28, 28]."""
    found = browser.execute_script("return document.querySelector('.details img')?.src")
    if not found:
        return None
    with Image.open(io.BytesIO(base64.b64decode(found.split(",")[1]))) as picture:
        return 255 - np.asarray(picture.convert("L"))


@pytest.mark.slow
def test_draw_shows_in_the_browser_what_predict_says(
    browser: Chrome, trained_workspace: Workspace, tmp_path: Path
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    def text(selector: str) -> str:
        return str(browser.execute_script(f"return document.querySelector('{selector}')?.innerText ?? ''"))

    def brush_is_selected(_: Chrome) -> bool:
        return bool(browser.find_elements("css selector", "[aria-label='Brush Size']"))

    wait = WebDriverWait(browser, 60)
    with served(trained_workspace, tmp_path / "gradio") as address:
        browser.get(address)
        wait.until(brush_is_selected)
        assert text(".details") == ""
        draw_line(browser, 0)
        wait.until(lambda _: seen(browser) is not None)
        browser.find_element("css selector", "[aria-label='Clear canvas']").click()
        wait.until(lambda _: seen(browser) is None)
        wait.until(brush_is_selected)

        # A new page, because what follows would not wait until the answers for the cleared one have come.
        browser.get(address)
        wait.until(brush_is_selected)
        draw_line(browser, 0)
        wait.until(lambda _: seen(browser) is not None)
        (prediction,) = kd.predict(trained_workspace, np.asarray(seen(browser)))
        assert text("[data-testid=label-output-value]") == str(prediction.digit) == "1"
        values = [browser.find_element("css selector", f"meter[aria-label='{digit}']") for digit in range(10)]
        shown = [float(value.get_attribute("value") or "") for value in values]
        np.testing.assert_allclose(shown, prediction.softmax, atol=1e-5)
        assert text(".details p") == prediction.doubts.capitalize()
        rows = re.findall(r"fold-(\d)\s+(\d)\s+([\d.]+)", text(".details table"))
        assert rows == [(str(k), str(p.argmax()), f"{p.max():.4f}") for k, p in enumerate(prediction.networks)]

        draw_line(browser, 60)
        wait.until(lambda _: "the picture has more than one shape" in text(".details p"))

        row = load_test(trained_workspace.data).images[0]
        Image.fromarray(row).save(tmp_path / "row.png")
        (tmp_path / "text.png").write_text("no picture")
        for name, condition in (
            ("row.png", lambda _: np.array_equal(seen(browser), row)),
            ("text.png", lambda _: text(".details p").startswith("text.png cannot be read as a picture: ")),
        ):
            *_, file = browser.find_elements("css selector", "input[type=file]")
            file.send_keys(str(tmp_path / name))
            wait.until(condition)
            browser.find_element("css selector", "[aria-label='Clear']").click()
            wait.until(lambda _: text(".details") == "")

        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert loaded
        assert all(url.startswith((address, "data:", "blob:")) for url in loaded)
    assert {path.name for path in (tmp_path / "gradio").rglob("*.*")} == {"image.webp"}  # the empty page


def test_draw_shows_the_page_in_a_notebook_and_explains_a_port_in_use(
    trained_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gradio

    shown: list[str] = []
    monkeypatch.setattr("IPython.core.getipython.get_ipython", object)
    monkeypatch.setattr("IPython.display.display", lambda output: shown.append(output.data))
    try:
        address = kd.draw(trained_workspace)
        assert requests.get(address, timeout=60).status_code == 200
        assert f'<iframe src="{address}"' in shown[0]
        port = int(address.split(":")[2].strip("/"))
        with pytest.raises(UsageError, match=f"Port {port} cannot be used. Choose another --port"):
            kd.draw(trained_workspace, port=port)
    finally:
        gradio.close_all()


def test_draw_explains_a_missing_package(trained_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaggle_digits.prediction.draw.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"Install it with: pip install 'kaggle-digits\[draw\]'"):
        kd.draw(trained_workspace)
