"""The HTML report in a real browser: no errors, sortable tables, and a layout that fits small screens."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from kaggle_digits import Workspace, compare, overview, report, submit

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not (DRIVER and BROWSER), reason="needs Chromium and its driver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(trained_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of the report of a submitted run, and of a comparison."""
    root = tmp_path_factory.mktemp("browser") / "copy"
    shutil.copytree(trained_workspace.root, root)
    workspace = Workspace.at(root, "rehearsal")
    submit(workspace)
    shutil.copytree(workspace.runs / "first", workspace.runs / "second")
    return {
        "report": report(workspace, "first").page,
        "comparison": compare(workspace, ["first", "second"]).page,
        "overview": overview(workspace),
    }


@pytest.mark.parametrize("name", ["report", "comparison", "overview"])
def test_page_opens_without_console_messages(browser: Chrome, pages: dict[str, Path], name: str) -> None:
    browser.get(pages[name].as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return [...document.images].every(i => !i.complete || i.naturalWidth > 0)")


def test_browser_log_contains_script_errors(browser: Chrome, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>undefinedThing()</script>")
    browser.get((tmp_path / "bad.html").as_uri())
    assert browser.get_log("browser") != []


def test_page_links_have_existing_targets(browser: Chrome, pages: dict[str, Path]) -> None:
    browser.get(pages["report"].as_uri())
    links = browser.execute_script("return [...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))")
    assert len(links) == 9
    for link in links:
        assert browser.execute_script("return document.getElementById(arguments[0]) !== null", link)


def test_overview_links_to_reports_and_submissions(browser: Chrome, pages: dict[str, Path]) -> None:
    browser.get(pages["overview"].as_uri())
    links = browser.execute_script(
        "const row = [...document.querySelectorAll('tbody tr')].find(r => r.cells[0].textContent === 'first');"
        "return [...row.querySelectorAll('a')].map(a => [a.text, a.href])"
    )
    assert [name for name, _ in links] == ["report", "submission.csv"]
    for _, address in links:
        assert Path(unquote(urlsplit(address).path)).is_file()


def test_page_tables_sort_by_mouse_and_keyboard(browser: Chrome, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(pages["report"].as_uri())
    table = next(
        t for t in browser.find_elements(By.CSS_SELECTOR, "table.sortable") if "recall" in t.text.split("\n")[0]
    )

    def column() -> list[str]:
        return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tbody td:nth-child(2)")]

    before = column()
    button = table.find_element(By.CSS_SELECTOR, "thead th:nth-child(2) button")
    button.click()
    numbers = [int(text) for text in column()]
    assert numbers == sorted((int(text) for text in before), reverse=True)
    assert table.find_element(By.CSS_SELECTOR, "thead th:nth-child(2)").get_attribute("aria-sort") == "descending"
    button.send_keys(Keys.ENTER)
    assert [int(text) for text in column()] == sorted(numbers)


def test_learning_curves_show_the_value_under_the_pointer(browser: Chrome, pages: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    browser.get(pages["report"].as_uri())
    chart = browser.find_element(By.CSS_SELECTOR, ".chart .u-over")
    reading = browser.find_element(By.CSS_SELECTOR, ".chart .reading")
    assert reading.text == ""
    history = {fold["fold"]: fold["history"] for fold in json.loads(report_json(pages))["folds"]}
    seen = set()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    for y in range(-chart.size["height"] // 2 + 2, chart.size["height"] // 2 - 2, 6):
        ActionChains(browser).move_to_element_with_offset(chart, chart.size["width"] // 2 - 2, y).perform()
        if found := re.fullmatch(r"epoch (\d+), fold (\d), (training|validation) rows: ([\d.]+)", reading.text):
            name = "accuracy" if found[3] == "training" else "val_accuracy"
            assert float(found[4]) == pytest.approx(history[int(found[2])][int(found[1]) - 1][name], rel=1e-4)
            seen.add((found[2], found[3]))
    assert len(seen) > 1


def test_learning_curves_show_a_value_on_a_touch_screen(browser: Chrome, pages: dict[str, Path]) -> None:
    browser.get(pages["report"].as_uri())
    reading = browser.execute_script(
        "const chart = charts[0], box = chart.over.getBoundingClientRect();"
        "const y = chart.valToPos(chart.data[1][1], 'y');"
        "const at = {clientX: box.right - 1, clientY: box.top + y, pointerType: 'touch'};"
        "chart.over.dispatchEvent(new PointerEvent('pointerdown', at));"
        "const read = () => document.querySelector('.reading').textContent;"
        "return new Promise(done => requestAnimationFrame(() => done(read())))"
    )
    assert re.match(r"epoch 2, fold \d, (training|validation) rows: 0\.\d+", reading)


def test_learning_curves_of_folds_can_be_switched_off(browser: Chrome, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By

    browser.get(pages["report"].as_uri())

    def shown() -> list[list[bool]]:
        """Return which lines each chart shows: two folds, training rows first."""
        lines: list[list[bool]] = browser.execute_script(
            "return charts.map(c => c.series.slice(1).map(s => s.show))"
        )
        return lines

    boxes = browser.find_elements(By.CSS_SELECTOR, "#fold-switches input")
    assert [box.find_element(By.XPATH, "..").text for box in boxes] == ["0", "1"]
    assert shown() == [[True, True, True, True]] * 2
    boxes[0].click()
    assert shown() == [[False, True, False, True]] * 2
    every, none = browser.find_elements(By.CSS_SELECTOR, "#fold-switches button")
    none.click()
    assert shown() == [[False] * 4] * 2
    assert not boxes[1].is_selected()
    every.click()
    assert shown() == [[True] * 4] * 2


def test_confusion_matrix_shows_the_digits_of_a_cell(browser: Chrome, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By

    browser.get(pages["report"].as_uri())
    errors = json.loads(report_json(pages))["out_of_fold"]["misclassified"]
    label, predicted = errors[0]["label"], errors[0]["predicted"]
    expected = [e["row"] for e in errors if (e["label"], e["predicted"]) == (label, predicted)]
    cells = browser.find_elements(By.CSS_SELECTOR, f"td[data-cell='{label},{predicted}'] button")
    assert [cell.text for cell in cells] == [f"{len(expected):,}"] * 2  # in both matrices
    cells[1].click()
    panel = browser.find_element(By.ID, "cell")
    assert panel.text.startswith(f"{label} predicted as {predicted}: {len(expected)} row")
    assert re.findall(r"row (\d+)", panel.text.split("\n", 1)[1]) == [str(row) for row in expected[:12]]
    # Each picture is cut out of one sheet at another place.
    places = browser.execute_script(
        "return [...document.querySelectorAll('#cell .cut-out')].map(p => p.style.backgroundPosition)"
    )
    assert len(set(places)) == min(12, len(expected))
    cells[1].click()
    assert panel.text == ""


def test_report_page_offers_the_errors_as_csv(browser: Chrome, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By

    browser.get(pages["report"].as_uri())
    address = browser.find_element(By.CSS_SELECTOR, "a[download='errors.csv']").get_attribute("href")
    assert address is not None
    content = base64.b64decode(address.removeprefix("data:text/csv;base64,"))
    assert content == pages["report"].with_name("errors.csv").read_bytes()


def report_json(pages: dict[str, Path]) -> str:
    return pages["report"].with_name("report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["report", "comparison", "overview"])
def test_page_fits_the_width_of_a_phone(browser: Chrome, pages: dict[str, Path], name: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        browser.get(pages[name].as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        # What is cut says that it scrolls.
        cut, said = browser.execute_script(
            "const parts = [...document.querySelectorAll('.scroll, .plot.wide')];"
            "const says = part => getComputedStyle(part, '::before').content.startsWith('\"Scroll');"
            "return [parts.filter(p => p.scrollWidth > p.clientWidth + 1).length, parts.filter(says).length]"
        )
        assert cut == said > 0
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_page_is_readable_in_dark_and_light_mode(browser: Chrome, pages: dict[str, Path]) -> None:
    colors = {}
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        browser.get(pages["report"].as_uri())
        # Digits are drawn dark on white, and are inverted in dark mode.
        inverted = browser.execute_script("return getComputedStyle(document.querySelector('.digits img')).filter")
        assert inverted == ("invert(1)" if scheme == "dark" else "none")
        colors[scheme] = browser.execute_script(
            "const style = getComputedStyle(document.body);"
            "return [style.color, style.backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3).map(Number))"
        )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    for scheme, lighter in (("light", 1), ("dark", 0)):
        brightness = [sum(color) / 3 for color in colors[scheme]]
        assert brightness[lighter] - brightness[1 - lighter] > 150
