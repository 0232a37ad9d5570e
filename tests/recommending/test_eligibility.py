"""Conditions over attributes: what they answer, and that nothing else can be asked."""

from __future__ import annotations

import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heedful.errors import InputError
from heedful.rankers.popularity import Popularity
from heedful.recommending import eligibility
from heedful.recommending.eligibility import Eligibility
from ranking_worlds import random_log

ITEMS = pa.table(
    {
        "title": ["soup", "Bread", None, "it's 100 % rye", "soup à l'oignon"],
        "price": [1.5, 2.0, 3.25, None, 9.0],
        "listed": pa.array([date(2017, 1, day) for day in (1, 2, 3, 4)] + [None]),
        "stock": [0, 5, 5, 7, 1],
        "In Season": [True, False, True, None, True],
        "tags": [["a"], ["a", "b"], None, [], ["c"]],
    }
)


@pytest.fixture(scope="module", params=["alone", "beside another table"])
def items(request: pytest.FixtureRequest) -> Eligibility:
    other = Eligibility(ITEMS.select(["title", "stock"]).slice(0, 2)) if request.param != "alone" else None
    return Eligibility(ITEMS, other)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("  \n", [0, 1, 2, 3, 4]),
        ("price < 3", [0, 1]),
        ("price < 3 OR title IS NULL", [0, 1, 2]),
        ("NOT price < 3", [2, 4]),  # NULL stays NULL
        ("price IS NULL", [3]),
        ("title LIKE 'soup%' AND stock > 0", [4]),
        ("title ILIKE 'BREAD'", [1]),
        ("title = 'it''s 100 % rye'", [3]),
        ("title = 'soup à l''oignon'", [4]),
        ("lower(title) IN ('soup', 'bread')", [0, 1]),
        ("listed >= DATE '2017-01-03'", [2, 3]),
        ("listed > DATE '2017-01-05' - INTERVAL 3 DAY", [2, 3]),
        ('"In Season"', [0, 2, 4]),
        ('"in season" AND STOCK = 5', [2]),
        ("stock BETWEEN 1 AND 5", [1, 2, 4]),
        ("CASE WHEN price > 2 THEN stock = 5 ELSE stock = 0 END", [0, 2]),
        ("coalesce(price, 0) * 2 + 1 <= 4", [0, 3]),
        ("price::INTEGER = 2", [0, 1]),
        ("list_contains(tags, 'a')", [0, 1]),
        ("regexp_matches(title, '^[a-z]+$')", [0]),
        ("title = 'soup' -- the plain one", [0]),
        ("title = '; DROP TABLE items; --'", []),
        ("stock % 0 = 1", []),
        ("true", [0, 1, 2, 3, 4]),
    ],
)
def test_what_conditions_answer(items: Eligibility, condition: str, expected: list[int]) -> None:
    assert np.flatnonzero(items.mask(condition)).tolist() == expected
    assert items.mask(condition).shape == (5,) and items.mask(condition).dtype == bool


def test_an_unknown_column_is_answered_with_those_there_are(items: Eligibility) -> None:
    with pytest.raises(
        InputError, match=r"unknown column; got: 'prize'; expected: title, price, listed, stock, In Season, tags"
    ):
        items.mask("prize < 3")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("(SELECT true)", "uses a subquery"),
        ("price IN (SELECT price FROM items)", "uses a subquery"),
        ("EXISTS (FROM read_csv('/etc/passwd'))", "uses a subquery"),
        ("(FROM glob('/*')) IS NULL", "uses a subquery"),
        ("price > 1; DROP TABLE items", "not valid SQL"),
        ("true) FROM items; ATTACH '/tmp/x.db'; SELECT (true", "not valid SQL|more than one"),
        ("true) UNION ALL SELECT (true", "more than one expression"),
        ("true), (false", "more than one expression"),
        ("true) FROM range(9) AS x --", "not valid SQL"),
        ("true) FROM items WHERE (true", "not valid SQL"),
        ("true) FROM items ORDER BY (price", "not valid SQL"),
        ("price > 1) --", "not valid SQL"),
        ("price > 1 /*", "not valid SQL"),
        ("price >", "not valid SQL"),
        ("title = 'open", "not valid SQL"),
        ("PRAGMA database_list", "not valid SQL"),
        ("COPY items TO '/tmp/x'", "not valid SQL"),
        ("INSTALL httpfs", "not valid SQL"),
        ("getenv('HOME') = 'x'", "function that is not allowed; got: getenv"),
        ("read_text('/etc/passwd') = 'x'", "function that is not allowed; got: read_text"),
        ("current_setting('temp_directory') = ''", "function that is not allowed; got: current_setting"),
        ("query('SELECT 1') = 1", "function that is not allowed; got: query"),
        ("repeat(title, 1000000000) = 'x'", "function that is not allowed; got: repeat"),
        ("sum(price) > 1", "function that is not allowed; got: sum"),
        ("main.lower(title) = 'x'", "function that is not allowed|unknown column"),
        ("sum(price) OVER () > 1", "uses a window function"),
        ("price > ?", "uses a parameter"),
        ("price > $1", "uses a parameter"),
        ("COLUMNS('p.*') > 1", r"uses \*"),
        ("*", r"uses \*"),
        ("#1 > 1", "uses positional reference"),
        ("list_contains(list_transform(tags, lambda t: t || 'x'), 'ax')", "uses lambda|not allowed"),
        ("items.price > 1", "unknown column; got: 'items.price'"),
        ("rowid = 1", "unknown column; got: 'rowid'"),
        ("current_user = 'x'", "unknown column; got: 'current_user'"),
        ("title::regclass = 'x'", "not allowed|not valid"),
        ("price", "neither true nor false; got: a value of type DOUBLE"),
        ("NULL", "neither true nor false"),
        ("'true'", "neither true nor false"),
        ("title > 3", "Cannot compare values of type VARCHAR"),
        ("title::INTEGER > 3", "Could not convert string 'soup'"),
        ("regexp_matches(title, '(')", "missing"),
        ("lower(title, title) = 'x'", "No function matches"),
        ("(" * 101 + "true" + ")" * 101, "too many brackets"),
        ("+".join(["price"] * 333) + "> 1", "nested too deeply"),
        ("price > 1" + " " * 10 + "OR price > 1" * 200, "too long; got: 2,419 characters"),
        ("price > 1\x00", "not text"),
        ("title = '\ud800'", "not text"),
    ],
)
def test_what_is_refused(items: Eligibility, condition: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        items.mask(condition)


def test_the_sandbox_holds_by_itself(items: Eligibility, tmp_path: Path) -> None:
    """Whatever might get past the check of the tree finds no file, no network and no setting to change."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    local = pa.table({"a": [1]})  # DuckDB would find it by its name
    assert local.num_rows == 1
    for query in (
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"SELECT * FROM read_text('{secret}')",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/x.duckdb'",
        f"EXPORT DATABASE '{tmp_path}/out'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT getenv('HOME')",
        "SELECT * FROM local",
        "SET enable_external_access = true",
        "SET memory_limit = '1TB'",
    ):
        with pytest.raises(eligibility.duckdb.Error, match=r"disabled|locked|not exist|not found"):
            items._connection.sql(query).fetchall()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.csv"]


def test_a_condition_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eligibility, "_SECONDS", 0.05)
    many = Eligibility(pa.table({"t": ["a" * 200] * 100_000}))
    slow = " OR ".join(f"t ~ 'a+a+{'b' * n}$'" for n in range(1, 40))
    with pytest.raises(InputError, match=r"takes longer than 0\.05 seconds; to fix: write a simpler condition"):
        many.mask(slow)
    monkeypatch.setattr(eligibility, "_SECONDS", 10.0)
    assert many.mask("t = 'b'").sum() == 0  # the session goes on


def test_an_interrupt_before_the_query_begins_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eligibility, "_SECONDS", 0.0)
    many = Eligibility(pa.table({"t": ["a" * 200] * 100_000}))
    parse = many._parse

    def slowly(query: str) -> object:
        time.sleep(0.2)
        return parse(query)

    monkeypatch.setattr(many, "_parse", slowly)
    slow = " OR ".join(f"t ~ 'a+a+{'b' * n}$'" for n in range(1, 40))
    with pytest.raises(InputError, match="takes longer than"):
        many.mask(slow)


def test_answers_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eligibility, "_CACHED", 3)
    items = Eligibility(ITEMS)
    first = items.mask("stock > 0")
    assert items.mask(" stock > 0 ") is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = True
    for bound in range(1, 4):
        items.mask(f"stock > {bound}")
    assert items.mask("stock > 0") is not first and len(items._masks) == 3
    with pytest.raises(InputError):
        items.mask("nothing")
    assert "nothing" not in items._masks


def test_tables_beside_each_other_are_apart() -> None:
    before = Eligibility(ITEMS)
    after = Eligibility(ITEMS.set_column(3, "stock", pa.array([9, 9, 9, 0, 0])), before)
    for condition, first, second in (("stock > 6", [3], [0, 1, 2]), ("stock > 8", [], [0, 1, 2])):
        assert np.flatnonzero(after.mask(condition)).tolist() == second
        assert np.flatnonzero(before.mask(condition)).tolist() == first


def test_threads_share_one_table(items: Eligibility) -> None:
    wrong: list[str] = []

    def ask(limit: int) -> None:
        for number in range(20):
            bound = (limit * 7 + number) % 11
            if items.mask(f"stock < {bound} AND {limit} = {limit}").sum() != sum(s < bound for s in (0, 5, 5, 7, 1)):
                wrong.append(f"{limit}: {bound}")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_rankers_items_with_id_and_popularity() -> None:
    log = random_log()
    ranker = Popularity().fit(log)
    items = Eligibility.of(ranker)
    assert items.columns == ("title", "item_id", "users")
    assert np.flatnonzero(items.mask("item_id IN ('item3', 'item5')")).tolist() == [3, 5]
    assert (items.mask("users >= 20") == (ranker.users_of_item >= 20)).all()
    ranker.attributes = pa.table({})
    assert np.flatnonzero(Eligibility.of(ranker).mask("item_id = 'item3'")).tolist() == [3]


WORDS = [
    "price", "title", "stock", "listed", "tags", '"In Season"', "rowid", "items", "1", "-1.5", "'soup'", "NULL", "true",
    "DATE '2017-01-02'", "=", "<", ">=", "<>", "+", "-", "*", "/", "%", "||", "AND", "OR", "NOT", "IN", "IS", "NULL",
    "LIKE", "BETWEEN", "(", ")", "[", "]", "{", "}", ",", ";", ".", "::", ":", "--", "/*", "*/", "$1", "?", "#1", "'", '"',
    "\\", "@", "$$", "\n", "SELECT", "FROM", "WHERE", "UNION", "EXISTS", "CASE", "WHEN", "THEN", "END",
    "read_csv('/etc/passwd')", "read_text('/etc/passwd')", "glob('/*')", "getenv('HOME')", "query('SELECT 1')", "PRAGMA",
    "ATTACH 'x'", "COPY", "TO 'x'", "INSTALL", "httpfs", "LOAD", "SET", "lower(", "sum(", "range(9)", "lambda x:", "->",
    "INTEGER", "OVER ()", "FILTER", "COLLATE", "COLUMNS(*)", "unnest(", "\x00", "é", "𝄞", "\ud800", "\u202e",
]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=40))
def test_any_text_is_answered_or_refused(items: Eligibility, condition: str) -> None:
    try:
        mask = items.mask(condition)
    except InputError as error:
        assert str(error).startswith("the condition ")
    else:
        assert mask.shape == (5,) and mask.dtype == bool
    assert items.mask("stock = 5").sum() == 2  # the table is as it was
