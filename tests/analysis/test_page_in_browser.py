"""The results page as a person meets it: in a window, on a telephone, by keyboard, and through axe-core."""

from pathlib import Path

import pytest

from analysis.items import context_of
from analysis.make_all import items_of, make, write_page
from analysis.results import parse_arguments
from tests.fixtures.browser import axe_violations, browser_page, is_on_first_screen

ITEMS = ("tables.ablation_table", "figures.frame_errors", "tables.significance_table", "tables.search_table")
"""Of all kinds: answer, picture, table, missing."""


@pytest.fixture(scope="module")
def page_link(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of the page of the recorded sweep on the embedded sample."""
    results, folder = root / "results" / "ablation_sample", tmp_path_factory.mktemp("page")
    context = context_of(parse_arguments(None, ["--results", str(results), "--output", str(folder)]))
    return write_page(context, make(context, items_of(ITEMS))).as_uri()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1300, 800), (800, 900), (400, 800)])
def test_it_fits_and_nothing_keeps_anyone_out(page_link: str, width: int, height: int) -> None:
    with browser_page(width, height) as page:
        page.goto(page_link)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for place in ("h1", "p.answer", *(["#ablation table", "#frame_errors img"] if width == 1300 else [])):
            assert is_on_first_screen(page, place), place
        assert axe_violations(page) == []


@pytest.mark.slow
def test_it_is_read_by_keyboard(page_link: str) -> None:
    with browser_page(1300, 800) as page:
        page.goto(page_link)
        links = page.locator("nav a")
        for number in range(links.count()):
            page.keyboard.press("Tab")
            assert links.nth(number).evaluate("link => link === document.activeElement")
            assert links.nth(number).evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert page.url.endswith("#missing")
        page.locator("#answer summary").focus()
        page.keyboard.press("Enter")
        assert page.locator("#answer details").get_attribute("open") is not None
