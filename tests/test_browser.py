"""The HTML report in a real browser: no errors, sortable tables, and a layout that fits small screens."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from kaggle_digits import Workspace, compare, overview, report, submit
from kaggle_digits.reports import Report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

NAMES = ("report", "comparison", "overview")


@pytest.fixture(scope="module")
def pages(trained_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of the report of a submitted run, and of a comparison."""
    root = tmp_path_factory.mktemp("browser") / "copy"
    shutil.copytree(trained_workspace.root, root)
    workspace = Workspace.at(root, "rehearsal")
    submit(workspace)
    second = "default-k4-s0..2-epochs=20-batch_size=64-learning_rate=0.004-weight_decay=0.02-label_smoothing=0.1"
    shutil.copytree(workspace.runs / "first", workspace.runs / second)
    return {
        "report": report(workspace, "first").page,
        "comparison": compare(workspace, ["first", second]).page,
        "overview": overview(workspace),
    }


@pytest.fixture
def report_page(browser: Chrome, pages: dict[str, Path]) -> Chrome:
    """The browser with the page of the report."""
    browser.get(pages["report"].as_uri())
    return browser


@pytest.fixture(scope="module")
def document(pages: dict[str, Path]) -> dict[str, Any]:
    """The content of ``report.json``."""
    content: dict[str, Any] = json.loads(pages["report"].with_name("report.json").read_text(encoding="utf-8"))
    return content


def all_of(browser: Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements("css selector", selector)


@pytest.mark.parametrize("name", NAMES)
def test_page_opens_without_console_messages(browser: Chrome, pages: dict[str, Path], name: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(pages[name].as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return [...document.images].every(i => !i.complete || i.naturalWidth > 0)")
    browser.execute_script("setTimeout(() => undefinedThing())")
    WebDriverWait(browser, 5).until(lambda browser: browser.get_log("browser"))  # which has errors of scripts


def test_page_links_have_existing_targets(report_page: Chrome, pages: dict[str, Path]) -> None:
    links = [link.get_attribute("hash") for link in all_of(report_page, "nav a")]
    assert len(links) == 9
    assert all(len(all_of(report_page, link or "")) == 1 for link in links)
    address = all_of(report_page, "a[download='errors.csv']")[0].get_attribute("href") or ""
    content = unquote(address.removeprefix("data:text/csv,"))
    assert content == pages["report"].with_name("errors.csv").read_text()


def test_overview_links_to_reports_and_submissions(browser: Chrome, pages: dict[str, Path]) -> None:
    browser.get(pages["overview"].as_uri())
    row = next(row for row in all_of(browser, "tbody tr") if row.text.startswith("first "))
    links = {link.text: link.get_attribute("href") or "" for link in row.find_elements("css selector", "a")}
    assert list(links) == ["first", "submission.csv"]
    assert all(Path(unquote(urlsplit(address).path)).is_file() for address in links.values())


def test_page_tables_sort_by_mouse_and_keyboard(report_page: Chrome) -> None:
    table = next(t for t in all_of(report_page, "table.sortable") if "recall" in t.text.split("\n")[0])

    def column() -> list[int]:
        return [int(cell.text) for cell in table.find_elements("css selector", "tbody td:nth-child(2)")]

    head = table.find_element("css selector", "thead th:nth-child(2)")
    button = head.find_element("css selector", "button")
    button.click()
    assert column() == sorted(column(), reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    button.send_keys("\ue007")  # Enter
    assert column() == sorted(column())


def test_learning_curves_show_the_value_under_the_pointer_or_finger(
    report_page: Chrome, document: dict[str, Any]
) -> None:
    from selenium.webdriver import ActionChains

    (chart, *_), (reading, *_) = (all_of(report_page, f".chart {part}") for part in (".u-over", ".reading"))
    assert reading.text == ""
    history = {fold["fold"]: fold["history"] for fold in document["folds"]}
    seen = set()
    report_page.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    for y in range(-chart.size["height"] // 2 + 2, chart.size["height"] // 2 - 2, 6):
        ActionChains(report_page, duration=0).move_to_element_with_offset(
            chart, chart.size["width"] // 2 - 2, y
        ).perform()
        if found := re.fullmatch(r"epoch (\d+), fold (\d), (training|validation) rows: ([\d.]+)", reading.text):
            name = "accuracy" if found[3] == "training" else "val_accuracy"
            assert float(found[4]) == pytest.approx(history[int(found[2])][int(found[1]) - 1][name], rel=1e-4)
            seen.add((found[2], found[3]))
    assert len(seen) > 1
    touch = (
        "const chart = charts[0], box = chart.over.getBoundingClientRect();"
        "const y = box.top + chart.valToPos(chart.data[1][1], 'y');"
        "const at = {clientX: box.right - 1, clientY: y, pointerType: 'touch'};"
        "chart.over.dispatchEvent(new PointerEvent('pointerdown', at));"
        "const read = () => document.querySelector('.reading').textContent;"
        "return new Promise(done => requestAnimationFrame(() => done(read())))"
    )
    report_page.refresh()
    assert re.match(r"epoch 2, fold \d, (training|validation) rows: 0\.\d+", report_page.execute_script(touch))


def test_learning_curves_of_folds_can_be_switched_off(report_page: Chrome) -> None:
    def shown() -> Any:
        """Return which lines each chart shows: two folds, training rows first."""
        return report_page.execute_script("return charts.map(c => c.series.slice(1).map(s => s.show))")

    assert [label.text for label in all_of(report_page, "#fold-switches label")] == ["0", "1"]
    boxes = all_of(report_page, "#fold-switches input")
    every, none = all_of(report_page, "#fold-switches button")
    boxes[0].click()
    assert shown() == [[False, True, False, True]] * 2
    none.click()
    assert (shown(), boxes[1].is_selected()) == ([[False] * 4] * 2, False)
    every.click()
    assert shown() == [[True] * 4] * 2


def test_confusion_matrix_shows_the_digits_of_a_cell(report_page: Chrome, document: dict[str, Any]) -> None:
    errors = document["out_of_fold"]["misclassified"]
    label, predicted = errors[0]["label"], errors[0]["predicted"]
    expected = [e["row"] for e in errors if (e["label"], e["predicted"]) == (label, predicted)]
    cells = all_of(report_page, f"td[data-cell='{label},{predicted}'] button")
    assert [cell.text for cell in cells] == [f"{len(expected):,}"]
    cells[0].click()
    (panel,) = all_of(report_page, "#cell")
    assert panel.text.startswith(f"{label} predicted as {predicted}: {len(expected)} row")
    assert re.findall(r"row (\d+)", panel.text.split("\n", 1)[1]) == [str(row) for row in expected[:12]]
    sources = {picture.get_attribute("src") for picture in all_of(report_page, "#cell img")}
    assert len(sources) == min(12, len(expected))
    cells[0].click()
    assert panel.text == ""


def test_pictures_of_the_article_are_loaded_when_they_are_opened(report_page: Chrome) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    (summary,) = all_of(report_page, "#article + details summary")
    # Not the digits: some of them are shown before, too.
    sheets = "[alt^='The kernels'], [alt^='Feature maps']"
    loaded = f"return [...document.querySelectorAll(`{sheets}`)].map(image => image.naturalWidth > 0)"
    report_page.execute_script("arguments[0].scrollIntoView()", summary)
    assert report_page.execute_script(loaded) == [False] * 3
    summary.click()
    WebDriverWait(report_page, 5).until(lambda browser: all(browser.execute_script(loaded)))


@pytest.mark.parametrize("name", NAMES)
def test_page_fits_the_width_of_a_phone(browser: Chrome, pages: dict[str, Path], name: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        browser.get(pages[name].as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        # What is cut says that it scrolls.
        cut, said = browser.execute_script(
            "const parts = [...document.querySelectorAll('.scroll')];"
            "const says = part => getComputedStyle(part, '::before').content.startsWith('\"Scroll');"
            "return [parts.filter(p => p.scrollWidth > p.clientWidth + 1).length, parts.filter(says).length]"
        )
        assert cut == said > 0
        # All of a chart of intervals is shown, in a size that can be read.
        ends, heights = browser.execute_script(
            "const boxes = name => [...document.querySelectorAll(name)].map(p => p.getBoundingClientRect());"
            "const ends = boxes('.intervals *').flatMap(box => [box.left, box.right]);"
            "return [ends, boxes('.labels text').map(box => box.height)]"
        )
        assert 0 <= min(ends) < max(ends) <= 360
        assert min(heights) > 11
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_page_has_no_links_to_other_pages_in_a_notebook(
    browser: Chrome, pages: dict[str, Path], tmp_path: Path
) -> None:
    output = Report({}, tmp_path, pages["report"])._repr_html_()
    (tmp_path / "notebook.html").write_text(output, encoding="utf-8")
    browser.get((tmp_path / "notebook.html").as_uri())
    browser.switch_to.frame(0)
    links = [link.get_dom_attribute("href") for link in all_of(browser, "a[href]")]
    assert len(links) == 10
    assert all(link.startswith(("#", "data:text/csv")) for link in links)


@pytest.mark.parametrize("name", NAMES)
def test_page_cuts_nothing_on_a_laptop(browser: Chrome, pages: dict[str, Path], name: str) -> None:
    browser.set_window_size(1280, 900)
    browser.get(pages[name].as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    widths = browser.execute_script(
        "return [...document.querySelectorAll('html, .scroll')].map(part => [part.scrollWidth, part.clientWidth])"
    )
    assert all(content <= shown + 1 for content, shown in widths)


def test_page_is_readable_in_dark_and_light_mode(browser: Chrome, pages: dict[str, Path]) -> None:
    for scheme, sign, digits in (("light", 1, "none"), ("dark", -1, "invert(1)"), ("", 1, "none")):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(pages["report"].as_uri())
        body, digit = (all_of(browser, selector)[0] for selector in ("body", ".digits img"))
        # Digits are drawn dark on white, and are inverted in dark mode.
        assert digit.value_of_css_property("filter") == digits
        text, paper = (
            sum(map(int, re.findall(r"\d+", body.value_of_css_property(name))[:3]))
            for name in ("color", "background-color")
        )
        assert sign * (paper - text) > 450
