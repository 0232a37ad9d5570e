"""The page for everybody: names and roles, contrast, focus, little motion, and every width from a phone's on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from page_worlds import PATIENCE_MS, chromium, served, tab, train
from playwright.sync_api import Browser, BrowserContext, Page, expect

expect.set_options(timeout=PATIENCE_MS)
# Each view, and what is there once all of it is.
VIEWS = {
    "/": "#welcome .served",
    "/#/user/visitor-1": "#slots .slot-clicks:not(:empty)",
    "/#/history/sku-1,sku-99": "#slots .slot-clicks:not(:empty)",
    "/#/clicks": ".figure5",
    "/#/slots": "#declaration-help:not(:empty)",
    "/#/model": "#model-body .facts",
}
PROBES = Path(__file__).with_name("page_probes.js")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    with served(train(folder), folder) as url:
        yield url


def settled(context: BrowserContext, view: str) -> Page:
    """A view with everything in it."""
    page = context.new_page()
    page.add_init_script(path=PROBES)
    page.goto(view)
    expect(page.locator(VIEWS[view]).first).to_be_visible()
    expect(page.locator(".skeleton, [aria-busy=true]")).to_have_count(0)
    return page


@pytest.fixture(scope="module", autouse=True)
def some_clicks(browser: Browser, address: str) -> None:
    """Something was shown and clicked, so that the figures have something to show."""
    with tab(browser, address, height=2000) as context:
        page = settled(context, "/#/user/visitor-1")
        expect(page.locator('.slot[data-shown="true"]')).to_have_count(2)
        page.get_by_role("button", name="Click ").first.click()
        expect(page.locator(".click").first).to_have_text("Clicked")


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_nothing_is_cut_off_and_nothing_scrolls_sideways(browser: Browser, address: str, width: int) -> None:
    with tab(browser, address, width=width, height=844, has_touch=width < 500) as context:
        for view in VIEWS:
            page = settled(context, view)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert page.evaluate("probes.cutOff()") == [], view
            assert page.evaluate("probes.uneven()") == [], view
            page.close()


def test_a_tap_opens_the_explanation_as_a_sheet_on_a_phone(browser: Browser, address: str) -> None:
    with tab(browser, address, width=390, height=844, has_touch=True, is_mobile=True) as context:
        page = settled(context, "/#/user/visitor-1")
        expect(page.locator("#why")).to_be_hidden()
        page.locator(".item-why").first.tap()
        expect(page.locator("#why .falls li").first).to_be_visible()
        expect(page.locator("#why .heat")).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("probes.cutOff()") == []
        box = page.locator("#why").bounding_box()
        assert box is not None and (box["x"], box["width"], box["y"] + box["height"]) == (0, 390, 844)
        page.get_by_role("button", name="Close").tap()
        expect(page.locator("#why")).to_be_hidden()


def test_fingers_find_their_targets(browser: Browser, address: str) -> None:
    with tab(browser, address, width=390, height=844, has_touch=True) as context:
        for view in VIEWS:
            page = settled(context, view)
            assert page.evaluate("probes.small()") == [], view
            page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(browser: Browser, address: str, scheme: str) -> None:
    with tab(browser, address, color_scheme=scheme) as context:
        for view in VIEWS:
            page = settled(context, view)
            if "user" in view:
                expect(page.locator("#why .heat")).to_be_visible()
            found = page.evaluate("probes.unnamed()")
            assert found.pop("titles") == 1, view
            assert not any(found.values()), (view, found)
            assert page.evaluate("probes.faint()") == [], view
            for landmark in ("banner", "navigation", "main"):
                expect(page.get_by_role(landmark)).to_have_count(1)
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(250, 249, 246)") == (scheme == "light")
            page.close()


def test_the_keyboard_reaches_everything_and_its_place_is_seen(browser: Browser, address: str) -> None:
    with tab(browser, address) as context:
        page = settled(context, "/#/user/visitor-1")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            place = page.evaluate("probes.ringless()")
            assert place["seen"], f"no ring around {place['name']}"
            reached.add(place["name"])
        assert {"user-search", "paste-open", "item-search", "item-why", "click", "act", "counting"} <= reached


def test_motion_stops_for_those_who_ask(browser: Browser, address: str) -> None:
    with tab(browser, address) as context:
        assert settled(context, "/#/user/visitor-1").evaluate("probes.moving()") != []
    with tab(browser, address, reduced_motion="reduce") as context:
        assert settled(context, "/#/user/visitor-1").evaluate("probes.moving()") == []


def test_a_screen_reader_hears_what_changes(browser: Browser, address: str) -> None:
    with tab(browser, address) as context:
        page = settled(context, "/#/user/visitor-1")
        heard, line = page.locator("#live"), page.locator("#toast")
        assert heard.get_attribute("role") == "status" and line.get_attribute("role") == "status"
        page.locator(".item-why").first.click()
        expect(heard).to_contain_text(re.compile(r"\+\d+\.\d|Nothing raises"))
        page.get_by_role("button", name="Click ").first.click()
        expect(line).to_contain_text("recorded")
        page.get_by_role("combobox", name="Find a visitor").fill("zzz")
        expect(heard).to_contain_text("Nobody begins with zzz")


def test_no_script_and_no_style_stands_in_the_page_and_nothing_names_another_host() -> None:
    web = resources.files("heedful.serving") / "web"
    page = (web / "index.html").read_text()
    assert re.findall(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", page) == []
    for file in web.iterdir():
        # The name of SVG's language is an address that nobody asks.
        named = re.findall(r"https?://[^\s\"')]+", file.read_text())
        assert [address for address in named if address != "http://www.w3.org/2000/svg"] == [], file.name
