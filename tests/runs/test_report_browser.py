"""The report in a browser: no errors, no network, sorting, a phone's width, dark mode."""

import shutil

import pytest

from kcifar.report import main as report
from tests.conftest import NO_CHROMIUM
from tests.report_runs import make_runs

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [pytest.mark.once, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=NO_CHROMIUM)]

OPTIONS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of one run and that of three."""
    runs = make_runs(tmp_path_factory.mktemp("report"))
    assert report([str(runs / "honest")]) == 0
    assert report([str(runs / name) for name in ("honest", "chosen", "going")] + ["--out", str(runs / "all.html")]) == 0
    return {"one": runs / "honest" / "report.html", "several": runs / "all.html"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in [*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(params=["one", "several"])
def page(request, pages, browser):
    """The browser, with one of the pages open, on a wide and light screen."""
    return opened(browser, pages[request.param])


@pytest.fixture
def several(pages, browser):
    return opened(browser, pages["several"])


def opened(browser, path, width=1280, scheme="light"):
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    show(browser, scheme)
    browser.get("about:blank")  # so that a page that is open already is opened anew
    browser.get(path.as_uri())
    return browser


def show(browser, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def column(browser, title):
    """What a column of the sortable table is sorted by, from top to bottom; of the runs their names."""
    return browser.execute_script(
        """
        const table = document.querySelector("table.sortable");
        const at = [...table.tHead.rows[0].cells].findIndex((head) => head.innerText.startsWith(arguments[0]));
        return [...table.tBodies[0].rows].map((row) => row.cells[at])
          .map((cell) => cell.querySelector("a")?.innerText ?? cell.dataset.value);
        """,
        title,
    )


def sort_by(browser, title, key=None):
    """Clicks the title, or presses a key on it; returns the column's aria-sort."""
    button = next(b for b in browser.find_elements("css selector", ".sortable button") if b.text.startswith(title))
    button.send_keys(key) if key else button.click()
    return browser.execute_script("return arguments[0].closest('th').getAttribute('aria-sort')", button)


def test_it_opens_without_errors_and_without_a_request(page):
    assert page.get_log("browser") == []
    requests = [entry["message"] for entry in page.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert requests  # of the page itself
    assert not [message for message in requests if '"url":"http' in message]
    broken = "return [...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert page.execute_script(broken) == 0


def test_a_title_sorts_by_its_column_and_then_the_other_way(several):
    before = column(several, "Test accuracy")
    assert sort_by(several, "Test accuracy") == "ascending"
    assert column(several, "Test accuracy") == sorted(before, key=float)
    assert sort_by(several, "Test accuracy") == "descending"
    assert column(several, "Test accuracy") == sorted(before, key=float, reverse=True)
    assert len(several.find_elements("css selector", "[aria-sort]")) == 1


def test_the_keyboard_sorts_too_and_numbers_are_no_words(several):
    assert column(several, "Seed") == ["42", "7", "42"]
    assert sort_by(several, "Seed", "\n") == "ascending"
    assert column(several, "Seed") == ["7", "42", "42"]
    assert sort_by(several, "Run", " ") == "ascending"
    assert column(several, "Run") == ["chosen", "going", "honest"]


def test_what_is_not_known_comes_last_either_way(several):
    for order in ("ascending", "descending"):
        assert sort_by(several, "Images/s") == order
        assert column(several, "Images/s")[-1] == ""


def test_a_link_to_a_run_opens_its_section(several):
    assert not several.find_element("id", "run-2").is_displayed()
    several.find_element("link text", "chosen").click()
    assert several.find_element("id", "run-2").is_displayed()
    assert not several.find_element("id", "run-1").is_displayed()


@pytest.mark.parametrize("name", ["one", "several"])
def test_a_phone_shows_it_without_scrolling_sideways(pages, browser, name):
    opened(browser, pages[name], width=360)
    browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.execute_script("return innerWidth") == 360
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    sizes = "return [...document.querySelectorAll('.images img')].map((image) => image.getBoundingClientRect().width)"
    assert set(browser.execute_script(sizes)) == {96}


def contrast(browser, selector):
    """WCAG's contrast of an element's text with the page's background."""
    colours = browser.execute_script(
        "return [document.querySelector(arguments[0]), document.body].map((each, at) =>"
        " getComputedStyle(each)[at ? 'backgroundColor' : 'color'].match(/[\\d.]+/g).slice(0, 3).map(Number))",
        selector,
    )
    linear = [[c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb] for rgb in colours]
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)


def test_a_dark_screen_gets_a_dark_page_and_both_have_contrast(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert page.execute_script(ground) == "rgb(255, 255, 255)"
    for scheme in ("light", "dark"):
        show(page, scheme)
        for selector in ("p", "caption", "a, h1", ".images .wrong", ".images .truth"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)
    assert page.execute_script(ground) == "rgb(20, 23, 27)"
