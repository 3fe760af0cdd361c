"""Write the report of a run and take the picture of it that the README shows.

    python scripts/screenshot.py --root DIR --competition NAME [--run NAME]

It needs Chromium with its driver, as the tests in a browser do.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from selenium import webdriver

import kaggle_digits as kd

PICTURE = Path(__file__).parents[1] / "docs" / "report.png"
WIDTH, HEIGHT = 1180, 1500


def main() -> None:
    """Take the picture."""
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
        browser.save_screenshot(str(PICTURE))
    finally:
        browser.quit()
    _shrink(PICTURE)
    print(PICTURE)


def _shrink(path: Path) -> None:
    """Write a picture again in 200 colours: a page has few, and a repository keeps every version."""
    from PIL import Image

    Image.open(path).convert("RGB").quantize(200).save(path, optimize=True)


if __name__ == "__main__":
    main()
