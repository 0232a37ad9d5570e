"""The page for everybody: names and roles, contrast, focus, little motion, and every width from a phone's on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pytest
from page_worlds import PATIENCE_MS, SLOTS, chromium, served, tab, train
from playwright.sync_api import Browser, BrowserContext, Page, expect

from heedful.rankers.registry import MODELS
from heedful.serving.store import Click, Impression, Store

expect.set_options(timeout=PATIENCE_MS)


class View(NamedTuple):
    """An address, what to press there, and what is there once all of it is."""

    address: str
    ready: str
    pressed: str | None = None


VISITOR = View("/#/user/visitor-1", "#slots .slot-clicks:not(:empty)")
TEST = View("/#/user/visitor-1", ".mode.testing", "#test-mode")
VIEWS = {
    "start": View("/", "#welcome .served"),
    "visitor": VISITOR,
    "test": TEST,
    "history": View("/#/history/sku-1,sku-99", "#slots .slot-clicks:not(:empty)"),
    "clicks": View("/#/clicks", ".figure5"),
    "slots": View("/#/slots", ".slot-form[open] .shares", "#slot-forms summary"),
    "slots file": View("/#/slots", "#declaration-help:not(:empty)", "#tab-file"),
    "slots before": View("/#/slots", ".versions", "#tab-versions"),
    "slots preview": View("/#/slots", "#slot-preview .previewed", "#declaration-preview"),
    "model": View("/#/model", "#model-body .facts"),
}
PROBES = Path(__file__).with_name("page_probes.js")
SHARED = SLOTS.replace("{ popularity = 1.0 }", "{ model = 0.5, popularity = 0.25, last_item = 0.25 }")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A shop whose figures have something to show: a result, one that is too early, and a version of the slots."""
    folder = tmp_path_factory.mktemp("page")
    with served(train(folder), folder, slots=SHARED) as url:
        store = Store.open(str(folder / "shop.sqlite"))
        store.add_slot_version(SHARED, "tester", 1_500_000_000)
        shares = {"model": 0.5, "popularity": 0.25, "last_item": 0.25}
        for treatment, users, clicked in (("model", 200, 120), ("popularity", 100, 15), ("last_item", 100, 4)):
            names = [f"{treatment}-{n}" for n in range(users)]
            told = ("bread", treatment), (("sku-11",), 1_500_000_000, "m", "bread", shares)
            store.add_impressions([Impression(name, *told[0], name, *told[1]) for name in names], shown=True)
            store.add_clicks([Click(f"click on {name}", name, "sku-11", 1_500_000_001) for name in names[:clicked]])
        store.close()
        yield url


def settled(context: BrowserContext, view: View) -> Page:
    """A view with everything in it."""
    page = context.new_page()
    page.add_init_script(path=PROBES)
    page.goto(view.address)
    if view.pressed:
        page.locator(view.pressed).first.click()
    expect(page.locator(view.ready).first).to_be_visible()
    expect(page.locator(".skeleton, [aria-busy=true]")).to_have_count(0)
    return page


@pytest.fixture(scope="module", autouse=True)
def some_clicks(browser: Browser, address: str) -> None:
    """Something was shown and clicked, so that the figures have something to show."""
    with tab(browser, address, height=2000) as context:
        page = settled(context, TEST)
        expect(page.locator('.slot[data-shown="true"]')).to_have_count(2)
        page.get_by_role("button", name="Click ").first.click()
        expect(page.locator(".click").first).to_have_text("Clicked")


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_nothing_is_cut_off_nothing_scrolls_sideways_and_fingers_find_their_targets(
    browser: Browser, address: str, width: int
) -> None:
    touched = width < 500
    with tab(browser, address, width=width, height=844, has_touch=touched) as context:
        for view, opened in VIEWS.items():
            page = settled(context, opened)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert page.evaluate("probes.cutOff()") == [], view
            assert page.evaluate("probes.uneven()") == [], view
            assert not touched or page.evaluate("probes.small()") == [], view
            page.close()


def test_a_tap_opens_the_explanation_as_a_sheet_on_a_phone(browser: Browser, address: str) -> None:
    with tab(browser, address, width=390, height=844, has_touch=True, is_mobile=True) as context:
        page = settled(context, VISITOR)
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(browser: Browser, address: str, scheme: str) -> None:
    with tab(browser, address, color_scheme=scheme) as context:
        for view, opened in VIEWS.items():
            page = settled(context, opened)
            if opened.address == VISITOR.address:
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
        page = settled(context, VISITOR)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        assert {"user-search", "paste-open", "item-search", "treatment", "item-why", "act", "test-mode"} <= reached(page, 40)
        page.get_by_role("checkbox", name="Test mode").focus()
        page.keyboard.press("Space")
        expect(page.get_by_role("checkbox", name="Test mode")).to_be_focused()
        expect(page.get_by_role("checkbox", name="Test mode")).to_be_checked()
        expect(page.get_by_role("button", name="Click ").first).to_be_visible()
        assert {"undo", "item-why", "click", "act"} <= reached(page, 40)


def reached(page: Page, steps: int) -> set[str]:
    """Where so many presses of Tab lead, each with a ring around it."""
    places = set()
    for _ in range(steps):
        page.keyboard.press("Tab")
        place = page.evaluate("probes.ringless()")
        assert place["seen"], f"no ring around {place['name']}"
        places.add(place["name"])
    return places


def test_motion_stops_for_those_who_ask(browser: Browser, address: str) -> None:
    with tab(browser, address) as context:
        assert settled(context, VISITOR).evaluate("probes.moving()") != []
    with tab(browser, address, reduced_motion="reduce") as context:
        assert settled(context, VISITOR).evaluate("probes.moving()") == []


def test_a_screen_reader_hears_what_changes(browser: Browser, address: str) -> None:
    with tab(browser, address) as context:
        page = settled(context, TEST)
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


def test_each_term_of_a_score_has_words() -> None:
    script = (resources.files("heedful.serving") / "web" / "explanation.js").read_text()
    listed = re.search(r"const PARTS = \{(.*?)\}", script, re.DOTALL)
    assert listed is not None
    terms = {term for ranker in MODELS.values() for term in getattr(ranker.config_class, "known_terms", ())}
    of_mixed = {"ranker", "cooccurrence", "user", "kind", "repeat"}
    named = set(re.findall(r"(\w+): \"", listed[1]))
    assert named == terms | of_mixed | {"prior", "match", "popularity"} and len(terms) > 4
