"""A small shop behind a real server, and a real Chromium before it, for the tests of the page."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from heedful.events.catalog import Catalog
from heedful.events.histories import Histories
from heedful.events.log import EventLog, count_items
from heedful.events.vocabulary import Vocabulary
from heedful.rankers.attention import AttentionRanker
from heedful.serving.app import create_app
from heedful.serving.models import Choice, Serving
from heedful.serving.options import ServeConfig
from heedful.serving.store import Store
from ranking_worlds import DAY, QUICK, START, table_of

# Two cores shared with everything else: a page may take its time.
PATIENCE_MS = 180_000
FRUIT = [
    "APPLES GALA",
    "BANANAS",
    "CHERRIES",
    "GRAPES RED",
    "LEMONS",
    "MANGOES",
    "ORANGES NAVEL",
    "PEARS",
    "PLUMS",
    "STRAWBERRIES",
]
BREAD = [
    "BAGELS",
    "BAGUETTE",
    "BRIOCHE",
    "BUNS",
    "CIABATTA",
    "CROISSANTS",
    "FLAT BREAD",
    "RYE BREAD",
    "TOAST",
    "WHITE BREAD",
]
TITLES = [*FRUIT, *BREAD]

SLOTS = """
[[slot]]
name = "fruit"
title = "Fresh fruit"
where = "department = 'FRUIT'"
shown = 4
treatments = { model = 1.0 }

[[slot]]
name = "bread"
title = "From the bakery"
where = "department = 'BREAD'"
shown = 4
treatments = { popularity = 1.0 }
"""


def shop_log() -> EventLog:
    """Visitors who like fruit and visitors who like bread; item ids are sku-0 to sku-19, in the order of `TITLES`."""
    randoms = np.random.default_rng(3)
    sequences = []
    for user in range(60):
        liked = np.where((np.arange(20) < 10) == (user % 2 == 0), 6.0, 1.0)
        sequences.append(randoms.choice(20, randoms.integers(5, 15), p=liked / liked.sum()))
    lengths = [len(one) for one in sequences]
    times = [START + DAY * np.arange(n) for n in lengths]
    histories = Histories(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.concatenate(sequences).astype(np.int32),
        np.concatenate(times).astype(np.int64), np.zeros(sum(lengths), np.uint8),
    )  # fmt: skip
    attributes = pa.table({"title": TITLES, "department": ["FRUIT"] * 10 + ["BREAD"] * 10})
    catalog = Catalog(Vocabulary([f"sku-{n}" for n in range(20)]), *count_items(histories, 20), attributes)
    return EventLog(catalog, Vocabulary([f"visitor-{u}" for u in range(60)]), histories, ("purchase",))


def train(folder: Path) -> Path:
    """A model of the shop, in a second."""
    log = shop_log()
    ranker = AttentionRanker(**QUICK["attention"]).fit(log, table_of(log.catalog.items.ids))
    ranker.save(folder / "model")
    return folder / "model"


@contextmanager
def served(model: Path, folder: Path, *, slots: str = SLOTS, keys: str | None = None) -> Iterator[str]:
    """The address of a server of the model, over a database with the shop's log, as long as the block lasts."""
    (folder / "slots.toml").write_text(slots)
    config = ServeConfig(
        database=str(folder / "shop.sqlite"), slots=str(folder / "slots.toml"), keys=keys, threads=1, port=0, rate=0.0
    )
    store = Store.open(config.database)
    store.load_log(shop_log())
    store.close()
    app = create_app(Serving(Choice(str(model)), config))
    # A page that is left open keeps its connection: the server does not wait for it.
    settings = uvicorn.Config(app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + PATIENCE_MS / 1000
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until, "the server does not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server does not stop"


def written(folder: Path) -> dict[str, int]:
    """What the database of `served` holds: the rows of each table that a visit can change, and impressions that count."""
    counted = {
        "events": "heedful_events",
        "impressions": "heedful_impressions",
        "shown": "heedful_impressions WHERE shown_time IS NOT NULL",
        "clicks": "heedful_clicks",
    }
    with closing(sqlite3.connect(folder / "shop.sqlite")) as database:
        return {name: database.execute(f"SELECT count(*) FROM {rows}").fetchone()[0] for name, rows in counted.items()}


def start_test(page: Page) -> None:
    """Turn the test mode on, in which the page writes."""
    page.get_by_role("checkbox", name="Test mode").click()
    expect(page.locator(".mode.testing")).to_be_visible()
    expect(page.locator("#slots:not([aria-busy])")).to_be_visible()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "the tests of the page need Chromium: apt-get install chromium"
    arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments, timeout=PATIENCE_MS)
        yield browser
        browser.close()


@contextmanager
def tab(
    browser: Browser, address: str, *, width: int = 1200, height: int = 900, **options: object
) -> Iterator[BrowserContext]:
    """A fresh window. At its end there must have been no error in the console and no request to any other host."""
    context = browser.new_context(viewport={"width": width, "height": height}, base_url=address, **options)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
    context.on("request", lambda request: None if request.url.startswith(address) else wrong.append(f"asked {request.url}"))
    yield context
    context.close()
    assert not wrong, wrong
