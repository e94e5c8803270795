"""The report in a real browser: what a person sees, points at, clicks and types, and that nothing leaves the page.

Needs Debian's chromium and chromium-driver, and selenium; skipped where they are not.
"""

import json
import os
import shutil
from itertools import pairwise

import pytest
from made_run import EVIL, write_whole_run

from dynackd.report.html import write_report

os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}  # selenium looks for no driver and tells nobody
selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'dynackd[clients]'")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.client,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"),
]
# Without these a root's Chromium does not start, or asks for updates at its start.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
DESKTOP, PHONE = {"width": 1100, "height": 900, "mobile": False}, {"width": 360, "height": 740, "mobile": True}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a whole run; its name, a class and a model in it are markup."""
    return write_report(write_whole_run(tmp_path_factory.mktemp("page") / "<b>run & co"))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def opened(driver, page, screen=DESKTOP, scheme="light"):
    """The page on a screen of this size, its charts drawn; nothing is left of what was done to it before."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"deviceScaleFactor": 1, **screen})
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(page.as_uri())
    until(driver, lambda: driver.execute_script("return document.documentElement.dataset.drawn === 'true'"))
    return driver


def until(driver, is_so):
    return WebDriverWait(driver, 20).until(lambda _: is_so())


def one(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def texts(driver, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map((own) => own.textContent)"
    return driver.execute_script(script, selector)


def button(driver, within, text):
    return next(own for own in driver.find_elements(By.CSS_SELECTOR, f"{within} button") if own.text == text)


def click(driver, element):
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def tooltip(driver, figure):
    """What stands in a chart's tooltip."""
    return until(driver, lambda: " | ".join(texts(driver, f"{figure} .hoverlayer text")))


def background(driver):
    return driver.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_the_page_opens_without_a_request_or_an_error(chromium, page):
    opened(chromium, page)
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert chromium.get_log("browser") == []
    assert len(chromium.find_elements(By.CSS_SELECTOR, "figure.chart:not([hidden]) .main-svg")) >= 5


def test_the_pages_policy_forbids_the_network_and_scripts_of_others(chromium, page):
    opened(chromium, page)
    broken = chromium.execute_async_script("""
        const done = arguments[0], broken = [];
        addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective));
        const script = document.createElement("script"), image = new Image();
        script.textContent = "window.ran = true";
        document.head.append(script);
        image.src = "http://127.0.0.1:9/picture.png";
        fetch("http://127.0.0.1:9/").catch(() => setTimeout(() => done(broken), 100));
    """)
    assert set(broken) == {"script-src-elem", "img-src", "connect-src"}
    assert chromium.execute_script("return window.ran") is None


def test_a_name_that_is_markup_stays_a_name(chromium, page):
    opened(chromium, page)
    assert one(chromium, "h1").text == "<b>run & co"
    for summary in chromium.find_elements(By.CSS_SELECTOR, "details summary"):
        click(chromium, summary)
    assert EVIL in texts(chromium, "td")
    assert any(EVIL in text for text in texts(chromium, "pre"))
    assert not chromium.find_elements(By.CSS_SELECTOR, "main b")


def test_pointing_at_a_size_tells_what_it_is(chromium, page):
    opened(chromium, page)
    points = chromium.find_elements(By.CSS_SELECTOR, "#figure-tradeoff .scatterlayer .points path")
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[0])
    ActionChains(chromium).move_to_element(points[0]).perform()
    told = tooltip(chromium, "#figure-tradeoff")
    for words in ("students/half: 0.5 × 0.5", "torch", "accuracy 0.7000, 87.5% of the teacher's", "5 ms, p90 10"):
        assert words in told
    assert "4.0 times as fast as the teacher in torch" in told


def test_a_tap_on_a_phone_tells_it_too(chromium, page):
    opened(chromium, page, PHONE)
    point = chromium.find_elements(By.CSS_SELECTOR, "#figure-tradeoff .scatterlayer .points path")[0]
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    place = chromium.execute_script("""
        const box = arguments[0].getBoundingClientRect();
        return {x: box.x + box.width / 2, y: box.y + box.height / 2};
    """, point)
    for kind, touches in (("touchStart", [place]), ("touchEnd", [])):
        chromium.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    assert "students/half: 0.5 × 0.5" in tooltip(chromium, "#figure-tradeoff")


def test_another_cost_can_be_chosen(chromium, page):
    opened(chromium, page)
    assert "latency" in one(chromium, "#figure-tradeoff figcaption").text
    assert one(chromium, "#figure-tradeoff button[aria-pressed=true]").text == "latency at 16 tokens, batch 1, 1 thread"
    click(chromium, button(chromium, "#figure-tradeoff", "FLOPs"))
    assert "MFLOPs of a row of 16 tokens" in one(chromium, "#figure-tradeoff figcaption").text
    assert texts(chromium, "#figure-tradeoff button[aria-pressed=true]") == ["FLOPs"]
    assert texts(chromium, "#figure-tradeoff .legendtext") == ["depth 1", "depth 0.5", "teacher"]


def test_the_heat_map_shows_what_is_chosen(chromium, page):
    opened(chromium, page)
    cells = "#figure-heat .annotation-text"
    assert texts(chromium, cells) == ["0.7000", "0.7800", "0.7960", "0.8000"]
    click(chromium, button(chromium, "#figure-heat", "share of the teacher's accuracy"))
    assert texts(chromium, cells) == ["87.5%", "97.5%", "99.5%", "100.0%"]
    assert "yellow is more, which is better" in one(chromium, "#figure-heat figcaption").text
    click(chromium, button(chromium, "#figure-heat", "fidelity: KL"))
    assert "yellow is less, which is better" in one(chromium, "#figure-heat figcaption").text


def test_the_losses_of_every_stage_can_be_shown_on_both_scales(chromium, page):
    opened(chromium, page)
    assert texts(chromium, "#figure-losses .legendtext") == ["loss", "logits", "wr pair"]
    click(chromium, button(chromium, "#figure-losses", "linear"))
    ticks = texts(chromium, "#figure-losses .ytick text")
    assert "0" in ticks
    click(chromium, button(chromium, "#figure-losses", "logarithmic"))
    assert "0" not in texts(chromium, "#figure-losses .ytick text")
    click(chromium, button(chromium, "#figure-losses", "teacher"))
    assert "The teacher stage." in one(chromium, "#figure-losses figcaption").text


def test_heads_stand_in_either_order_with_the_widths_cuts(chromium, page):
    opened(chromium, page)
    assert "width 0.5" in texts(chromium, "#figure-heads .annotation-text")
    click(chromium, button(chromium, "#figure-heads", "before rewiring"))
    assert texts(chromium, "#figure-heads .annotation-text") == []


def test_a_click_on_a_column_sorts_by_it_and_a_second_one_the_other_way(chromium, page):
    opened(chromium, page)
    table = one(chromium, "#grid ~ div table")
    head = next(own for own in table.find_elements(By.TAG_NAME, "th") if own.text.startswith("accuracy"))
    place = table.find_elements(By.TAG_NAME, "th").index(head)

    def values():
        script = "return [...arguments[0].tBodies[0].rows].map((row) => row.cells[arguments[1]].textContent)"
        return chromium.execute_script(script, table, place)

    assert head.get_attribute("aria-sort") == "none"
    click(chromium, head.find_element(By.TAG_NAME, "button"))
    assert (values(), head.get_attribute("aria-sort")) == (sorted(values()), "ascending")
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert (values(), head.get_attribute("aria-sort")) == (sorted(values(), reverse=True), "descending")
    width = table.find_elements(By.CSS_SELECTOR, "th button")[0]
    click(chromium, width)  # of which the teacher has none: last, whichever way
    click(chromium, width)
    assert table.find_elements(By.CSS_SELECTOR, "tbody tr")[-1].text.startswith("teacher")
    assert head.get_attribute("aria-sort") == "none"


def test_dark_follows_the_system_and_the_switch(chromium, page):
    light = background(opened(chromium, page))
    dark = background(opened(chromium, page, scheme="dark"))
    assert light != dark
    click(chromium, one(chromium, "#theme"))
    assert background(chromium) == light
    click(chromium, one(chromium, "#theme"))
    assert background(chromium) == dark
    assert one(chromium, "#theme").get_attribute("aria-pressed") == "true"
    ink = chromium.execute_script("return getComputedStyle(document.querySelector('#figure-heat .xtick text')).fill")
    assert sum(map(int, ink.removeprefix("rgb(").rstrip(")").split(","))) > 600  # the charts' letters are light too


def test_on_a_phone_nothing_sticks_out_and_tables_scroll_in_their_box(chromium, page):
    opened(chromium, page, PHONE)
    for summary in chromium.find_elements(By.CSS_SELECTOR, "details summary"):
        click(chromium, summary)
    assert chromium.execute_script("return document.documentElement.scrollWidth") == 360
    wide = chromium.execute_script("""
        return [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth).length
    """)
    assert wide >= 2
    out = chromium.execute_script("""
        return [...document.querySelectorAll("main *")].filter((own) => !own.closest(".scroll, pre, .plot") &&
            own.getBoundingClientRect().right > 360.5).map((own) => own.outerHTML.slice(0, 80))
    """)
    assert out == []


def test_the_keyboard_reaches_everything_and_headings_are_in_order(chromium, page):
    opened(chromium, page)
    levels = chromium.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3')].map((own) => Number(own.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - level <= 1 for level, below in pairwise(levels))
    one(chromium, "body").send_keys(Keys.TAB)
    assert chromium.switch_to.active_element.text == "Skip to the result"
    reached = []
    for _ in range(30):
        ActionChains(chromium).send_keys(Keys.TAB).perform()
        reached.append(chromium.execute_script("""
            const own = document.activeElement;
            return own.className || own.textContent;
        """))
    for name in ("Dark", "Sizes", "FLOPs", "MFLOPs", "scroll"):
        assert name in reached
    lit = chromium.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert lit == "solid"  # where the keyboard is, is seen


def test_a_browser_that_cannot_unpack_the_charts_says_so_and_shows_the_tables(chromium, page):
    source = {"source": "delete window.DecompressionStream"}
    added = chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    try:
        chromium.get(page.as_uri())
        until(chromium, lambda: one(chromium, "#too-old").is_displayed())
        assert "0.7960" in texts(chromium, "td")
    finally:
        chromium.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
