"""The page, as a person uses it in a real browser: find a visitor, read, ask why, click, see the figures change."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from page_worlds import PATIENCE_MS, SLOTS, TITLES, chromium, served, start_test, tab, train, written
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("page"))


@pytest.fixture
def address(model: Path, tmp_path: Path) -> Iterator[str]:
    with served(model, tmp_path) as url:
        yield url


@pytest.fixture
def window(browser: Browser, address: str) -> Iterator[BrowserContext]:
    with tab(browser, address) as context:
        yield context


@pytest.fixture
def page(window: BrowserContext) -> Page:
    page = window.new_page()
    page.goto("/")
    return page


@pytest.fixture
def refused(browser: Browser, address: str) -> Iterator[Page]:
    """A page of which the server refuses something, so that the console tells of errors."""
    context = browser.new_context(base_url=address, viewport={"width": 1200, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


def open_visitor(page: Page, who: str) -> None:
    page.goto(f"/#/user/{who}")
    expect(page.locator("#slots .slot-clicks").first).not_to_be_empty()


def ask(page: Page, method: str, path: str, **body: Any) -> Any:
    """The server's own answer, by which the page is judged."""
    answer = page.request.fetch(path, method=method, **({"data": body} if body else {}))
    assert answer.ok, answer.text()
    return answer.json()


def slot(page: Page, title: str) -> Locator:
    return page.get_by_role("region", name=title)


def name_of(tile: Locator) -> str:
    """The name as it is written, before the style sheet puts it into sentence case."""
    return tile.locator(".title").text_content() or ""


def treatments(page: Page, name: str) -> dict[str, Any]:
    found = [one for one in ask(page, "GET", "/clicks/report")["slots"] if one["slot"] == name]
    return found[0]["treatments"][0] if found else {"impressions": 0, "clicks": 0}


def test_search_read_click_and_see_the_click_through_change(page: Page) -> None:
    search = page.get_by_role("combobox", name="Find a visitor")
    search.fill("visitor-1")
    expect(page.get_by_role("option").first).to_be_visible()
    assert page.get_by_role("option").all_inner_texts()[0].startswith("visitor-1")
    search.press("ArrowDown")
    search.press("Enter")
    who = page.get_by_role("heading", level=1)
    expect(who).to_have_text("Visitor visitor-1")
    expect(who).to_be_focused()

    fruit = slot(page, "Fresh fruit")
    expect(fruit.get_by_role("listitem")).to_have_count(4)
    shown = ask(page, "GET", "/slots/fruit?user=visitor-1")["items"]
    titles = fruit.locator(".item .title").all_text_contents()
    assert titles == [item["attributes"]["title"] for item in shown]
    expect(fruit).to_contain_text("chosen by model")
    expect(fruit.locator(".slot-clicks")).to_have_text("Not shown to anybody yet")

    start_test(page)
    expect(fruit.locator(".slot-clicks")).to_contain_text("0.0 % click-through of model: 0 clicks, shown 1 time")
    fruit.get_by_role("button", name="Click ").nth(1).click()
    expect(fruit.locator(".slot-clicks")).to_contain_text("100.0 % click-through of model: 1 click, shown 1 time")
    expect(fruit.get_by_role("button", name="Click ").nth(1)).to_have_text("Clicked")
    assert treatments(page, "fruit")["clicks"] == 1

    page.get_by_role("link", name="Click-through").click()
    expect(page.get_by_role("heading", level=1, name="Click-through")).to_be_focused()
    rows = page.locator(".figure5 tbody", has_text="Fresh fruit").locator("tr")
    expect(rows.nth(1).get_by_role("rowheader")).to_have_text("model")
    expect(rows.nth(1).locator(".number")).to_have_text("100 %")
    expect(rows.nth(1).locator(".counts")).to_have_text("100.0 % of 1")
    report = page.locator(".report", has=page.get_by_role("heading", name="Fresh fruit"))
    expect(report.locator(".rates tbody td")).to_have_text(["100.0 %", "1 of 1", "1 of 1"])
    short = page.get_by_role("region", name="Results in short").get_by_role("listitem")
    expect(short.filter(has_text="Fresh fruit")).to_contain_text("No comparison")


def test_a_second_click_on_the_same_item_is_not_sent(page: Page) -> None:
    open_visitor(page, "visitor-2")
    start_test(page)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/clicks") else None)
    button = slot(page, "Fresh fruit").get_by_role("button", name="Click ").first
    button.click()
    expect(button).to_have_text("Clicked")
    button.click(force=True)
    assert len(sent) == 1
    assert treatments(page, "fruit")["clicks"] == 1


def test_an_explanation_by_keyboard_says_what_the_server_says(page: Page) -> None:
    open_visitor(page, "visitor-3")
    first = slot(page, "From the bakery").locator(".item-why").first
    first.focus()
    why = page.get_by_role("region", name="Why this item?")
    name = name_of(first)
    expect(why.locator(".why-item .title")).to_have_text(name)
    expect(first).to_have_attribute("aria-expanded", "true")

    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Why this item?")).to_be_focused()
    # The slot is ordered by popularity, which has a reason of its own; that of the model is one step behind it.
    expect(why.locator(".why-text").first).to_contain_text("Popularity: popular with everyone")
    expect(why.locator(".falls")).to_be_hidden()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(why.locator("summary")).to_be_focused()
    page.keyboard.press("Enter")
    item = first.get_attribute("data-item")
    [told] = ask(page, "POST", "/explain", user_id="visitor-3", items=[item])["explanations"]
    reasons = sorted(told["because"], key=lambda reason: -abs(reason["fall"]))[:8]
    expect(why.locator(".falls li")).to_have_count(len(reasons))
    falls = [float(text.replace("−", "-")) for text in why.locator(".falls .value").all_inner_texts()]
    assert falls == pytest.approx([reason["fall"] for reason in reasons], abs=0.00501)

    # The bars are as long as the falls: the longest fills the line.
    widths = why.locator(".falls .bar").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    longest = max(abs(reason["fall"]) for reason in reasons)
    for width, reason in zip(widths, reasons, strict=True):
        assert width == pytest.approx(max(2, max(widths) * abs(reason["fall"]) / longest), abs=1)

    # The heat map: layers across, past items down, and in each layer everything together is all of the attention.
    layers = len(told["null_attention"])
    rows = why.locator(".heat tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].slice(1).map(cell => parseFloat(cell.title)))"
    )
    assert {len(row) for row in rows} == {layers}
    most = max(told["because"], key=lambda reason: sum(reason["attention"]))
    assert rows[0] == pytest.approx([100 * weight for weight in most["attention"]], abs=0.0501)
    assert [sum(column) for column in zip(*rows, strict=True)] == pytest.approx([100] * layers, abs=0.5)

    page.keyboard.press("Escape")
    expect(first).to_be_focused()


def test_hovering_explains_and_a_pinned_item_stays(page: Page) -> None:
    open_visitor(page, "visitor-3")
    tiles = slot(page, "Fresh fruit").locator(".item-why")
    told = page.locator("#why .why-item .title")
    tiles.nth(2).hover()
    expect(told).to_have_text(name_of(tiles.nth(2)))
    tiles.nth(1).click()
    expect(told).to_have_text(name_of(tiles.nth(1)))
    tiles.nth(3).hover()
    page.wait_for_timeout(400)
    expect(told).to_have_text(name_of(tiles.nth(1)))
    page.get_by_role("button", name="Close").click()
    expect(tiles.nth(1)).to_be_focused()


def items_of(slot: Locator) -> list[str]:
    found: list[str] = slot.locator(".item-why").evaluate_all("tiles => tiles.map(tile => tile.dataset.item)")
    return found


def test_looking_and_asking_what_if_writes_nothing(page: Page, tmp_path: Path) -> None:
    untouched = written(tmp_path)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url.partition('//')[2]}"))
    open_visitor(page, "visitor-4")
    fruit = slot(page, "Fresh fruit")
    before = items_of(fruit)
    expect(fruit.get_by_role("button", name="Click ")).to_have_count(0)
    fruit.get_by_role("button", name="What if they bought ").first.click()
    supposed = page.locator(".past-list li", has_text="what if")
    expect(supposed).to_have_count(1)
    expect(supposed.locator(".title")).to_have_text(TITLES[int(before[0].removeprefix("sku-"))])
    expect(fruit.locator(".moved").first).to_be_visible()
    after = items_of(fruit)
    # The slot is what the server would fill it with after such a purchase.
    known = ask(page, "GET", "/users/visitor-4/history")["history"][::-1]
    past = {
        "history": [*(action["item_id"] for action in known), before[0]],
        "history_times": [*(action["timestamp"] for action in known), int(time.time())],
        "history_kinds": [*(action["event"] for action in known), None],
    }
    expected = ask(page, "POST", "/slots/fruit", **past, visitor="visitor-4", preview=True)["items"]
    assert after == [item["item_id"] for item in expected] and before[0] not in after
    # Whoever works by keyboard goes on where they were.
    expect(fruit.locator(".item-why").first).to_be_focused()
    page.get_by_role("combobox", name="What if they had").fill("rye")
    page.get_by_role("option", name="RYE BREAD").click()
    expect(supposed).to_have_count(2)
    page.get_by_role("button", name="Leave out Rye bread").click()
    expect(supposed).to_have_count(1)
    page.get_by_role("button", name="Leave out ").click()
    expect(supposed).to_have_count(0)
    expect(fruit.locator(".item-why").first).to_have_attribute("data-item", before[0])
    assert items_of(fruit) == before
    # Longer in view than an impression takes to count.
    page.wait_for_timeout(2500)
    assert written(tmp_path) == untouched
    assert not [one for one in asked if one.endswith(("/impressions", "/clicks", "/events"))]


def test_a_test_is_written_and_undo_takes_all_of_it_back(page: Page, tmp_path: Path) -> None:
    untouched, known = written(tmp_path), ask(page, "GET", "/users/visitor-4/history")
    open_visitor(page, "visitor-4")
    assert written(tmp_path) == untouched
    start_test(page)
    expect(page.locator("#slots .mode")).to_contain_text("clicks and purchases are stored")
    expect(page.locator('#slots .slot[data-shown="true"]')).to_have_count(2)
    fruit = slot(page, "Fresh fruit")
    fruit.get_by_role("button", name="Click ").nth(1).click()
    expect(fruit.get_by_role("button", name="Click ").nth(1)).to_have_text("Clicked")
    before = items_of(fruit)
    fruit.get_by_role("button", name="Store a purchase of ").first.click()
    expect(page.locator("#toast")).to_contain_text("the slots are ranked anew")
    stored = ask(page, "GET", "/users/visitor-4/history")["history"]
    assert stored[0]["item_id"] == before[0]
    expect(page.locator(".past-list li").first).to_contain_text(stored[0]["title"].split(" · ")[0], ignore_case=True)
    assert before[0] not in items_of(fruit)
    expect(fruit.locator(".moved").first).to_be_visible()
    # Another visitor is part of the same test.
    open_visitor(page, "visitor-6")
    expect(page.locator('#slots .slot[data-shown="true"]')).to_have_count(2)
    now = written(tmp_path)
    assert (now["events"], now["clicks"]) == (untouched["events"] + 1, 1)
    assert now["impressions"] == 6 and now["shown"] >= 4
    assert treatments(page, "fruit")["clicks"] == 1

    undo = page.get_by_role("button", name="Undo the test")
    undo.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#toast")).to_contain_text("Taken back")
    expect(page.get_by_role("checkbox", name="Test mode")).not_to_be_checked()
    expect(page.get_by_role("checkbox", name="Test mode")).to_be_focused()
    assert written(tmp_path) == untouched
    assert ask(page, "GET", "/users/visitor-4/history") == known
    assert treatments(page, "fruit") == treatments(page, "bread") == {"impressions": 0, "clicks": 0}
    expect(fruit.get_by_role("button", name="Click ")).to_have_count(0)
    page.wait_for_timeout(2500)
    assert written(tmp_path) == untouched


def test_undo_waits_for_what_is_under_way(page: Page, tmp_path: Path) -> None:
    """Slots that are still being filled, and a purchase without an answer so far, are taken back, too."""
    untouched = written(tmp_path)
    open_visitor(page, "visitor-4")
    start_test(page)
    held: list[Route] = []
    slow = True
    for address in ("**/slots/fruit", "**/events"):
        page.route(address, lambda route: held.append(route) if slow else route.continue_())
    slot(page, "From the bakery").get_by_role("button", name="Store a purchase of ").first.click()
    page.evaluate("location.hash = '#/user/visitor-6'")
    expect(page.get_by_role("heading", level=1)).to_have_text("Visitor visitor-6")
    page.get_by_role("button", name="Undo the test").click()
    expect(page.locator("#toast")).to_contain_text("Taking the test back")
    assert len(held) > 1
    slow = False
    for route in held:
        route.continue_()
    expect(page.locator("#toast")).to_contain_text("Taken back")
    expect(page.get_by_role("checkbox", name="Test mode")).not_to_be_checked()
    assert written(tmp_path) == untouched


def test_an_undo_that_fails_can_be_tried_again(refused: Page, tmp_path: Path) -> None:
    page, untouched = refused, written(tmp_path)
    open_visitor(page, "visitor-4")
    start_test(page)
    expect(page.locator('#slots .slot[data-shown="true"]')).to_have_count(2)
    page.route("**/impressions/*", lambda route: route.fulfill(status=500, json={}))
    page.get_by_role("button", name="Undo the test").click()
    expect(page.locator("#toast .failed")).to_be_visible()
    expect(page.get_by_role("checkbox", name="Test mode")).to_be_checked()
    assert written(tmp_path)["shown"] == 2
    page.unroute("**/impressions/*")
    page.get_by_role("button", name="Undo the test").click()
    expect(page.locator("#toast")).to_contain_text("Taken back")
    assert written(tmp_path) == untouched


@pytest.mark.parametrize("wrote", [True, False])
def test_leaving_a_test_that_wrote_something_asks_first(page: Page, address: str, wrote: bool) -> None:
    open_visitor(page, "visitor-1")
    if wrote:
        start_test(page)
        expect(slot(page, "Fresh fruit").get_by_role("button", name="Click ")).to_have_count(4)
    else:
        # Browsers ask nobody who has not touched the page.
        slot(page, "Fresh fruit").get_by_role("button", name="What if they bought ").first.click()
        expect(page.locator(".past-list li", has_text="what if")).to_have_count(1)
    questions: list[str] = []
    page.on("dialog", lambda dialog: (questions.append(dialog.type), dialog.dismiss()))
    if wrote:
        with page.expect_event("dialog"):
            page.evaluate("location.assign('about:blank')")
        assert page.url.startswith(f"{address}/#")
        page.get_by_role("button", name="Undo the test").click()
        expect(page.locator("#toast")).to_contain_text("Taken back")
    page.evaluate("location.assign('about:blank')")
    page.wait_for_url("about:blank")
    assert questions == ["beforeunload"] * wrote


def test_a_slot_whose_impression_cannot_be_written_says_so(refused: Page, tmp_path: Path) -> None:
    page = refused
    open_visitor(page, "visitor-1")
    untouched = written(tmp_path)
    with closing(sqlite3.connect(tmp_path / "shop.sqlite", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")  # whoever holds this lets others read, and nobody write
        start_test(page)
        fruit = slot(page, "Fresh fruit")
        expect(fruit.locator(".item")).to_have_count(4)
        expect(fruit.get_by_role("alert")).to_contain_text("This impression is not counted")
        expect(fruit.get_by_role("button", name=re.compile("Click |Store "))).to_have_count(0)
        database.execute("ROLLBACK")
    fruit.get_by_role("button", name="Try again").click()
    expect(fruit.get_by_role("button", name="Click ")).to_have_count(4)
    expect(page.locator("#slots [role=alert]")).to_have_count(0)
    expect(fruit.get_by_role("button", name="Store a purchase of ")).to_have_count(4)
    assert written(tmp_path)["impressions"] > untouched["impressions"]


def test_each_treatment_can_be_looked_at(browser: Browser, model: Path, tmp_path: Path) -> None:
    shared = SLOTS.replace("{ model = 1.0 }", "{ model = 0.5, popularity = 0.5 }")
    with served(model, tmp_path, slots=shared) as address, tab(browser, address) as context:
        page = context.new_page()
        open_visitor(page, "visitor-1")
        fruit, bread = slot(page, "Fresh fruit"), slot(page, "From the bakery")
        own = ask(page, "GET", "/slots/fruit?user=visitor-1&preview=true")["treatment"]
        for treatment in ("model", "popularity"):
            page.get_by_label("Treatment").focus()
            page.get_by_label("Treatment").select_option(treatment)
            expect(fruit).to_contain_text(f"chosen by {treatment}")
            expect(page.get_by_label("Treatment")).to_be_focused()
            expected = ask(page, "GET", f"/slots/fruit?user=visitor-1&treatment={treatment}")["items"]
            assert items_of(fruit) == [item["item_id"] for item in expected]
            told = "chosen by popularity" + (" (no model here)" if treatment == "model" else "")
            expect(bread.locator(".chosen")).to_have_text(told)
        # Popularity has its own reason; the model's comes behind it.
        fruit.locator(".item-why").first.click()
        expect(page.locator("#why .why-text").first).to_contain_text("Popularity: popular with everyone")
        page.get_by_label("Treatment").select_option("the visitor's own")
        expect(fruit).to_contain_text(f"chosen by {own}")
        assert written(tmp_path)["impressions"] == 0


def test_a_new_visitor_begins_with_nothing_and_gets_a_history(page: Page) -> None:
    search = page.get_by_role("combobox", name="Find a visitor")
    search.fill("somebody/new & odd")
    expect(page.locator("#user-options .none")).to_contain_text("Enter opens a new visitor")
    search.press("Enter")
    expect(page.locator("#visitor-facts")).to_contain_text("A new visitor: no actions yet")
    expect(page.locator("#past-items")).to_contain_text("Nothing yet")
    start_test(page)
    item = page.get_by_role("combobox", name="Store an action")
    item.fill("rye")
    expect(page.get_by_role("option", name="RYE BREAD")).to_be_visible()
    item.press("ArrowDown")
    item.press("Enter")
    expect(page.locator(".past-list li")).to_have_count(1)
    expect(page.locator("#visitor-facts")).to_contain_text("1 action")
    history = "/users/somebody%2Fnew%20%26%20odd/history"
    assert ask(page, "GET", history)["history"][0]["item_id"] == "sku-17"
    page.get_by_role("button", name="Undo the test").click()
    expect(page.locator("#visitor-facts")).to_contain_text("A new visitor: no actions yet")
    assert ask(page, "GET", history)["history"] == []


def test_a_pasted_history_ranks_and_names_what_is_unknown(page: Page) -> None:
    page.get_by_role("button", name="or paste a history").click()
    field = page.get_by_role("textbox", name="Item ids, oldest first")
    expect(field).to_be_focused()
    page.get_by_role("button", name="Rank for this history").click()
    expect(page.get_by_text("Paste at least one item id.")).to_be_visible()
    field.fill('["sku-1", "sku-2"]\nsku-999; sku-3')
    page.get_by_role("button", name="Rank for this history").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("A pasted history")
    expect(page.locator("#visitor-facts")).to_have_text("4 items, 1 unknown to the model and left out")
    expect(page.locator(".past-list li")).to_contain_text(["GRAPES RED", "sku-999", "CHERRIES", "BANANAS"], ignore_case=True)
    expected = ask(page, "POST", "/slots/fruit", history=["sku-1", "sku-2", "sku-999", "sku-3"])["items"]
    assert items_of(slot(page, "Fresh fruit")) == [item["item_id"] for item in expected]
    page.get_by_role("button", name="Leave out sku-999").click()
    expect(page.locator("#visitor-facts")).to_have_text("3 items")


def test_a_slot_counts_as_shown_only_when_it_is_in_view(browser: Browser, address: str) -> None:
    with tab(browser, address, width=900, height=420) as context:
        page = context.new_page()
        open_visitor(page, "visitor-5")
        start_test(page)
        expect(page.locator("#slots .slot")).to_have_count(2)
        page.wait_for_timeout(2500)
        assert treatments(page, "bread")["impressions"] == 0
        slot(page, "From the bakery").scroll_into_view_if_needed()
        expect(page.locator('#slots .slot[data-shown="true"]', has_text="From the bakery")).to_have_count(1)
        assert treatments(page, "bread")["impressions"] == 1


def test_the_slots_file_is_edited_checked_and_kept(refused: Page, tmp_path: Path) -> None:
    page = refused
    page.goto("/#/slots")
    page.locator("#tab-file").click()
    field = page.get_by_role("textbox", name="Slots file (TOML)")
    expect(field).to_have_value((tmp_path / "slots.toml").read_text())
    expect(page.locator("#declaration-help")).to_contain_text("department")
    good = field.input_value()

    field.fill(good.replace("department = 'BREAD'", "departmant = 'BREAD'"))
    page.get_by_role("button", name="Check and save").click()
    expect(page.locator("#declaration-state .failure")).to_contain_text("departmant")
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("[[slot]\n")
    page.get_by_role("button", name="Check and save").click()
    expect(page.locator("#declaration-lines .wrong")).to_have_text("1")
    assert (tmp_path / "slots.toml").read_text() == good

    page.get_by_role("button", name="Undo my changes").click()
    expect(field).to_have_value(good)
    field.fill(good.replace("From the bakery", "Bread, baked today"))
    page.get_by_role("button", name="Check and save").click()
    expect(page.locator("#declaration-state")).to_contain_text("Saved: 2 slots.")
    assert "Bread, baked today" in (tmp_path / "slots.toml").read_text()
    page.goto("/#/user/visitor-8")
    expect(slot(page, "Bread, baked today").get_by_role("listitem")).to_have_count(4)


def test_the_form_of_the_slots_is_previewed_saved_and_kept_in_the_history(refused: Page, tmp_path: Path) -> None:
    page = refused
    file, untouched = tmp_path / "slots.toml", written(tmp_path)
    before = file.read_text()
    page.goto("/#/slots")
    form = page.locator(".slot-form", has_text="Fresh fruit")
    form.locator("summary").click()
    expect(form.get_by_label("Which items are eligible")).to_have_value("department = 'FRUIT'")
    form.get_by_label("Title").fill("Ripe fruit")
    form.get_by_label("Items shown").fill("3")
    form.get_by_label("model", exact=True).fill("60")
    expect(form.get_by_role("status")).to_contain_text("add up to 60.0 %")
    form.get_by_label("popularity", exact=True).fill("40")
    expect(form.get_by_role("status")).to_contain_text("begin a new experiment")

    page.get_by_label("for visitor").fill("visitor-1")
    page.get_by_role("button", name="Preview").click()
    shown = page.get_by_role("region", name="Preview of Ripe fruit")
    expect(shown.locator(".treatment")).to_have_text(["model", "popularity"])
    declared = {
        "name": "fruit",
        "where": "department = 'FRUIT'",
        "shown": 3,
        "treatments": {"model": 0.6, "popularity": 0.4},
    }
    told = ask(page, "POST", "/slots.toml/preview?user=visitor-1", slot=[declared])["shown"]
    for column, one in zip(shown.locator(".preview-columns > div").all(), told, strict=True):
        titles = [item["title"].split(" · ")[0] for item in one["items"]]
        assert column.locator(".title").all_text_contents() == titles and len(titles) == 3
    assert file.read_text() == before and written(tmp_path) == untouched

    # A mistake opens and marks the slot that it is in.
    form.get_by_label("Which items are eligible").fill("departmant = 'FRUIT'")
    form.locator("summary").click()
    page.get_by_role("button", name="Check and save").click()
    expect(page.locator("#declaration-state .failure")).to_contain_text("departmant")
    expect(page.locator(".slot-form.wrong")).to_have_count(1)
    expect(form.get_by_label("Which items are eligible")).to_be_visible()
    assert file.read_text() == before
    form.get_by_label("Which items are eligible").fill("department = 'FRUIT'")
    page.get_by_role("button", name="Check and save").click()
    expect(page.locator("#declaration-state")).to_contain_text("Saved: 2 slots.")
    saved = ask(page, "GET", "/slots")["slots"][0]
    assert (saved["title"], saved["shown"], saved["treatments"]) == ("Ripe fruit", 3, declared["treatments"])

    page.get_by_role("button", name="History").click()
    versions = page.locator(".versions li")
    expect(versions).to_have_count(2)
    expect(versions.first).to_contain_text("the latest")
    versions.nth(1).get_by_role("button", name="Open in the editor").click()
    expect(page.get_by_role("textbox", name="Slots file (TOML)")).to_have_value(before)
    page.get_by_role("button", name="Check and save").click()
    expect(page.locator("#declaration-state")).to_contain_text("Saved: 2 slots.")
    assert file.read_text() == before and len(ask(page, "GET", "/slots.toml/versions")["versions"]) == 3


def test_slots_that_somebody_else_changed_are_not_overwritten(refused: Page, tmp_path: Path) -> None:
    page = refused
    page.goto("/#/slots")
    form = page.locator(".slot-form", has_text="Fresh fruit")
    form.locator("summary").click()
    form.get_by_label("Items shown").fill("2")
    theirs = SLOTS.replace("Fresh fruit", "Their fruit")
    answer = page.request.put("/slots", data=theirs, headers={"content-type": "application/toml"})
    assert answer.ok, answer.text()
    page.get_by_role("button", name="Check and save").click()
    expect(page.locator("#declaration-state .failure")).to_contain_text("changed")
    assert (tmp_path / "slots.toml").read_text() == theirs
    expect(form.get_by_label("Items shown")).to_have_value("2")  # what was typed stays


def test_without_slots_the_page_shows_the_best_of_the_catalogue(browser: Browser, model: Path, tmp_path: Path) -> None:
    with served(model, tmp_path, slots="") as address, tab(browser, address) as context:
        page = context.new_page()
        page.goto("/#/user/visitor-9")
        expect(page.get_by_text("No content slots are declared yet.")).to_be_visible()
        expect(slot(page, "The best of the catalogue").locator(".item")).to_have_count(
            len(ask(page, "POST", "/recommend", user_id="visitor-9", k=12)["items"])
        )
        page.goto("/#/clicks")
        expect(page.get_by_role("heading", name="Nothing shown yet")).to_be_visible()


def test_the_page_outlives_its_server_and_its_database(refused: Page) -> None:
    page = refused
    page.goto("/")
    expect(page.locator("#welcome .people").first).to_be_visible()
    gone = {"error": {"code": "database_unavailable", "message": "the database cannot be reached", "fix": "start it again"}}
    page.route("**/*", lambda route: route.fulfill(status=503, json=gone))
    page.evaluate("location.hash = '#/user/visitor-1'")
    expect(page.get_by_role("alert").first).to_contain_text("The database cannot be reached. Start it again.")
    expect(page.locator("#past-items .failure")).to_be_visible()
    page.unroute("**/*")
    page.route("**/*", lambda route: route.abort())
    page.wait_for_timeout(300)
    page.unroute("**/*")
    # Nobody has to reload anything.
    expect(page.locator("#banner")).to_be_hidden()
    expect(slot(page, "Fresh fruit").locator(".item")).to_have_count(4)
    page.route("**/*", lambda route: route.abort())
    page.evaluate("location.hash = '#/model'")
    expect(page.locator("#banner")).to_contain_text("The server does not answer.")


def test_a_server_with_keys_asks_for_one(browser: Browser, model: Path, tmp_path: Path) -> None:
    from heedful.serving.security import add_key

    key = add_key(tmp_path / "keys.toml", "tester", ["rank", "events"])
    with served(model, tmp_path, keys=str(tmp_path / "keys.toml")) as address:
        context = browser.new_context(base_url=address)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto("/")
        asking = page.get_by_role("dialog", name="This server asks for a key")
        expect(asking).to_be_visible()
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use this key").click()
        expect(asking).to_be_hidden()
        expect(page.locator("#welcome .people").first).to_be_visible()
        assert key not in page.url
        context.close()


def test_the_facts_of_the_model(page: Page) -> None:
    told = ask(page, "GET", "/model")
    page.goto("/#/model")
    facts = page.locator("#model-body")
    expect(facts).to_contain_text(told["version"])
    expect(facts).to_contain_text("attention")
    expect(page.get_by_role("region", name="Database")).to_contain_text(f"{told['store']['events']:,}")
