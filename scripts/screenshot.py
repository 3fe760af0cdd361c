"""Write the report of a run and take the screenshot of it that the README shows.

    python scripts/screenshot.py --root DIR --competition NAME [--run NAME]

It needs Chromium and its driver, like the browser tests.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from selenium import webdriver

import kaggle_digits as kd

SCREENSHOT = Path(__file__).parents[1] / "docs" / "report.png"
WIDTH, HEIGHT = 1180, 1500


def main() -> None:
    """Take the screenshot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--competition", required=True)
    parser.add_argument("--run")
    arguments = parser.parse_args()
    page = kd.report(kd.Workspace.at(arguments.root, arguments.competition), arguments.run).page
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get(page.resolve().as_uri())
        browser.save_screenshot(str(SCREENSHOT))
    finally:
        browser.quit()
    _shrink(SCREENSHOT)
    print(SCREENSHOT)


def _shrink(path: Path) -> None:
    """Reduce an image to 200 colours, to keep the repository small."""
    from PIL import Image

    Image.open(path).convert("RGB").quantize(200).save(path, optimize=True)


if __name__ == "__main__":
    main()
