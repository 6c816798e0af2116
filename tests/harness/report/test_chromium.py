"""The report in a real browser: what a reader does with it works, nothing is logged, nothing is asked of a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.meters.growth import Cost
from harness.report import costs, render
from harness.store import Store
from harness.tables import published
from tests.harness.report.chromium import CHROMIUM, DRIVER, MISSING, Browser
from tests.harness.report.hostile import HOSTILE, hostile_folder
from tests.harness.report.records import fill, fill_questions

if TYPE_CHECKING:
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING),
    pytest.mark.slow,
]

METHODS = ("ademvl", "lora", "memvp", "frozen")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks, four methods, up to three seeds, with the pictures of ScienceQA and the papers' figures."""
    root, data = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("data")
    fill(root, methods=METHODS, steps=2000)
    fill_questions(root, data, methods=METHODS)
    papers = published.read(Path(published.__file__).parents[2] / "results" / "published")
    (root / "report.html").write_text(
        render(Store(root).read(), root, data_roots=[data], published=papers), encoding="utf-8"
    )
    return root / "report.html"


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Fails a test after which the page has said something on the console or asked for something."""
    yield chromium
    console, asked = chromium.logs()
    assert console == []
    assert [address for address in asked if not address.startswith(("file:", "data:", "about:"))] == []


def until(condition: Callable[[], Any]) -> Any:
    """What a condition gives once it is true, within ten seconds."""
    end = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)
    return found


def texts(elements: list[WebElement]) -> list[str]:
    return [element.text for element in elements]


def names(browser: Browser) -> list[str]:
    """The methods of the visible table, from top to bottom."""
    return texts(browser.all("table.grid tbody tr[data-method] th.name"))


def task(browser: Browser, name: str) -> None:
    browser.one(f'button[data-task="{name}"]').click()


def drawn_plot(browser: Browser) -> WebElement:
    browser.run("arguments[0].scrollIntoView({block: 'center'})", browser.one(".plot"))
    return until(lambda: [place for place in browser.all(".plot") if place.find_elements("css selector", ".point")])[0]  # type: ignore[no-any-return]


def test_a_column_sorts_both_ways_and_baselines_stay_below(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert names(browser) == ["memvp", "lora", "ademvl", "frozen"]
    header = browser.all("table.grid thead th.score")[0]
    assert header.text.split() == ["↕", "BLEU-4", "points"] or "BLEU-4" in header.text
    button = header.find_element("css selector", "button")
    button.click()
    assert header.get_attribute("aria-sort") == "descending"
    assert names(browser) == ["memvp", "lora", "ademvl", "frozen"]
    button.send_keys("\n")
    assert header.get_attribute("aria-sort") == "ascending"
    assert names(browser) == ["ademvl", "lora", "memvp", "frozen"]
    browser.one("table.grid thead th.name button").click()
    assert header.get_attribute("aria-sort") == "none"
    assert names(browser) == ["ademvl", "lora", "memvp", "frozen"]


def test_columns_are_chosen(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert not browser.all("table.grid td.cost")
    browser.one('button[data-columns="cost"]').click()
    assert browser.all("table.grid td.cost")
    assert not browser.all("table.grid td.score")
    assert len(browser.all("table.grid td.primary")) == 4
    browser.one('button[data-columns="efficiency"]').click()
    assert not browser.all("table.grid td.cost")
    assert "per M params" in " ".join(texts(browser.all("table.grid th.efficiency")))
    assert len(browser.all("table.grid td.efficiency")) == 4 * 5


def test_a_method_is_filtered_from_tables_bars_and_plots(browser: Browser, report: Path) -> None:
    browser.open(report)
    plot = drawn_plot(browser)
    before = len(plot.find_elements("css selector", ".point"))
    browser.run("scrollTo(0, 0)")
    browser.one("label.chip:has([data-method='lora'])").click()
    assert names(browser) == ["memvp", "ademvl", "frozen"]
    assert "lora" not in texts(browser.all(".bar-name"))
    until(lambda: len(plot.find_elements("css selector", ".point")) == before - 1)
    browser.one("#search").send_keys("MEM")
    assert names(browser) == ["memvp"]
    assert "rows shown" in str(browser.run("return document.getElementById('shown').textContent"))


def test_the_task_is_switched(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert texts(browser.all("section.comparison h2")) == ["coco_caption · mini"]
    task(browser, "retrieval")
    assert texts(browser.all("section.comparison h2")) == ["retrieval · mini"]
    assert browser.one('button[data-task="retrieval"]').get_attribute("aria-pressed") == "true"
    browser.one("button[data-all]").click()
    assert len(browser.all("section.comparison h2")) == 3
    browser.open(report, hash="#table-2")
    assert texts(browser.all("section.comparison h2")) == ["retrieval · mini"]


def test_hovering_over_a_point_tells_its_settings(browser: Browser, report: Path) -> None:
    from selenium.webdriver import ActionChains

    browser.open(report)
    point = drawn_plot(browser).find_elements("css selector", ".point")[-1]
    ActionChains(browser.driver).move_to_element(point).perform()
    [hover] = until(lambda: browser.all(".hoverlayer .hovertext"))
    assert "slots = 80" in hover.text
    assert "CIDEr" in hover.text


def test_an_example_is_found_and_opened(browser: Browser, report: Path) -> None:
    from selenium.webdriver.support.select import Select

    browser.open(report)
    task(browser, "scienceqa")
    a, b, show = (Select(element) for element in browser.all(".examples select"))
    a.select_by_visible_text("ademvl (seed 0)")
    b.select_by_visible_text("frozen (seed 0)")
    show.select_by_visible_text("A right, B wrong")
    found = browser.all("details.example")
    assert found
    for example in found:
        marks = example.find_elements("css selector", "summary .verdict")
        assert [mark.get_attribute("aria-label") for mark in marks] == ["right", "wrong"]
    found[0].find_element("css selector", "summary").click()
    body = found[0].find_element("css selector", ".example-body")
    assert "Question:" in body.text
    assert "Right answer: The answer is" in body.text
    assert len(body.find_elements("css selector", ".answers li")) == 4
    pictures = browser.driver.find_elements("css selector", "details.example img")
    assert pictures
    assert browser.run("return arguments[0].decode().then(() => arguments[0].naturalWidth)", pictures[0]) > 50


def test_the_page_of_a_run_opens_from_the_table_and_by_its_address(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.one("td.links a").click()
    until(lambda: browser.all("dialog[open]"))
    assert "vltune run --methods memvp" in browser.one("dialog .command").text
    assert "method.slots" in browser.one("dialog").text
    assert "energy_joules" in browser.one("dialog").text
    address = browser.run("return location.hash")
    browser.one("dialog button").click()
    assert not browser.all("dialog[open]")
    assert browser.run("return location.hash") == ""
    browser.open(report, hash=str(address))
    assert browser.all("dialog[open]")


def test_learning_curves_are_drawn_filtered_and_told(browser: Browser, report: Path) -> None:
    from selenium.webdriver import ActionChains

    browser.open(report)
    place = browser.one(".plot[data-learning]")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", place)
    until(lambda: len(place.find_elements("css selector", ".js-line")) == len(METHODS))
    colours = browser.run(
        "return [...arguments[0].querySelectorAll('.js-line')].map((line) => getComputedStyle(line).stroke)", place
    )
    assert len(set(colours)) == len(METHODS)
    assert len(browser.all(".legend li")) == len(METHODS)
    assert "at the end of 2,000 steps" in browser.all(".legend li")[0].text
    ActionChains(browser.driver).move_to_element(place.find_elements("css selector", ".point")[0]).perform()
    [hover] = until(lambda: browser.all(".hoverlayer .hovertext"))
    assert "step 1 of 2,000" in hover.text
    browser.run("scrollTo(0, 0)")
    browser.one("label.chip:has([data-method='lora'])").click()
    until(lambda: len(place.find_elements("css selector", ".js-line")) == len(METHODS) - 1)
    assert len(browser.all(".legend li")) == len(METHODS) - 1


def test_the_page_of_a_run_draws_its_loss_as_it_was_and_smoothed(browser: Browser, report: Path) -> None:
    browser.open(report, theme="light", hash="#run-2026-00000001")
    [place] = until(lambda: browser.all("dialog[open] .plot"))
    browser.run("arguments[0].scrollIntoView({block: 'center'})", place)
    until(lambda: len(place.find_elements("css selector", ".js-line")) == 2)
    assert "running mean over 101 steps (fewer at both ends)" in str(place.get_attribute("aria-label"))
    assert "running mean over 101 steps" in browser.one("dialog figcaption").text
    stroke = "return getComputedStyle(arguments[0].querySelectorAll('.js-line')[1]).stroke"
    light = browser.run(stroke, place)
    browser.run("document.getElementById('theme').click()")
    until(lambda: browser.run(stroke, place) != light)
    browser.run("localStorage.clear()")


def test_a_run_without_a_curve_says_why(browser: Browser, tmp_path: Path) -> None:
    records = fill(tmp_path, methods=["a"], seeds=(0,))
    (tmp_path / "report.html").write_text(render(records, tmp_path), encoding="utf-8")
    browser.open(tmp_path / "report.html", hash=f"#run-{records[0].run_id}")
    until(lambda: browser.all("dialog[open]"))
    assert "No learning curve: no loss of each step was saved" in browser.one("dialog").text
    assert "No learning curves: a: no loss of each step was saved" in browser.run("return document.body.textContent")


def test_the_theme_follows_the_system_and_the_reader(browser: Browser, report: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    browser.open(report, theme="light")
    light = browser.run(paper)
    browser.open(report, theme="dark")
    dark = browser.run(paper)
    assert light != dark
    browser.one("#theme").click()
    assert browser.run(paper) == light
    browser.run("localStorage.clear()")


OUTSIDE = """
const shown = (e) => e.checkVisibility({visibilityProperty: true}) && !e.closest('.hidden, .skip, .scroll > *');
const wide = [...document.querySelectorAll('body *')].filter((e) => shown(e) && !e.closest('svg')
  && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1));
const cut = [...document.querySelectorAll('h1, h2, h3, h4, p, button, label, summary, dt, dd, li, figcaption, td, th')]
  .filter((e) => e.checkVisibility() && !e.closest('.hidden') && e.scrollWidth > e.clientWidth + 1 && e.clientWidth);
const texts = [...document.querySelectorAll('.plot svg text')].filter((e) => {
  const [own, box] = [e.getBoundingClientRect(), e.closest('.plot').getBoundingClientRect()];
  const beside = own.left < box.left - 1 || own.right > box.right + 1;
  return own.width && (beside || own.top < box.top - 1 || own.bottom > box.bottom + 1);
});
const name = (e) => e.tagName + '.' + (e.getAttribute('class') || '') + ': ' + e.textContent.slice(0, 40);
return [document.documentElement.scrollWidth - innerWidth, [...wide, ...cut, ...texts].map(name)];
"""


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_cut_off(browser: Browser, report: Path, width: int) -> None:
    browser.open(report, width=width)
    browser.one("button[data-all]").click()
    browser.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    browser.size(width, int(browser.run("return document.documentElement.scrollHeight")))
    until(lambda: all(place.find_elements("css selector", ".point") for place in browser.all(".plot")))
    assert browser.run(OUTSIDE) == [0, []]
    browser.size(width, 900)
    browser.run("document.querySelector('td.links a').click()")
    until(lambda: browser.all("dialog[open]"))
    assert browser.run(OUTSIDE) == [0, []]


def test_hostile_text_is_shown_and_does_nothing(browser: Browser, tmp_path: Path) -> None:
    root = hostile_folder(tmp_path, hostile=True)
    (tmp_path / "report.html").write_text(render(Store(root).read(), root), encoding="utf-8")
    browser.open(tmp_path / "report.html")
    browser.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    drawn_plot(browser)
    assert browser.all("section.comparison h2")[0].text.startswith("task </script></title><script>")
    assert len(names(browser)) == 2
    browser.run("location.hash = '#run-2026-00000002'")
    until(lambda: browser.all("dialog[open]"))
    assert browser.run("return document.querySelector('dialog').lastChild.textContent") == HOSTILE
    time.sleep(0.2)
    assert browser.run("return [window.pwned ?? null, document.images.length, document.title]") == [
        None,
        0,
        "VLTune report",
    ]


@pytest.mark.parametrize("width", [360, 1280])
def test_the_plots_of_costs_are_drawn(browser: Browser, tmp_path: Path, width: int) -> None:
    found = [
        Cost(method, tokens, images, k * tokens * 10**12, tokens * 10**6, 10**6)
        for k, method in enumerate(("memvp", "lora"), start=1)
        for tokens in (64, 128, 256)
        for images in (0, 1)
    ]
    (tmp_path / "costs.html").write_text(costs.render(found, {}, backbone="llama-7b"), encoding="utf-8")
    browser.open(tmp_path / "costs.html", width=width)
    places = browser.all(".plot")
    assert len(places) == 3
    for place in places:
        browser.run("arguments[0].scrollIntoView({block: 'center'})", place)
        points = until(lambda place=place: place.find_elements("css selector", ".point"))
        assert len(points) == 2 * 2 * 3
        ticks = texts(place.find_elements("css selector", ".xtick text"))
        assert ticks == ["64", "128", "256"]
        assert len(texts(place.find_elements("css selector", ".ytick text"))) >= 2
    assert browser.run("return document.documentElement.scrollWidth") <= width
    before = browser.run("return document.documentElement.dataset.theme")
    browser.one("#theme").click()
    assert {before, browser.run("return document.documentElement.dataset.theme")} == {"light", "dark"}
