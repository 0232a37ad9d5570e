"""Declaring slots: what is read, what is refused, and that writing gives back the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.errors import ConfigError
from heedful.serving.slots import Slot, Slots, parse_slots, read_slots, to_toml, write_slots

FULL = """
[[slot]]
name = "books"
title = "Books for you"
where = "department = 'BOOKS' AND rating >= 3.5"
rule = "best_rated"
column = "rating"
max_candidates = 200
shown = 6
at_most = { brand = 2, category = 3 }
pinned = ["b1", 17]
blocked = ["b9"]
editorial = ["b3", "b4"]
exclude_history = false
pool_gamma = 0.5
treatments = { attention = 0.5, popularity = 0.25, last_item = 0.15, editorial = 0.1 }
salt = "spring"

[[slot]]
name = "music"
"""


def test_what_a_file_says() -> None:
    slots = parse_slots(FULL)
    assert [slot.name for slot in slots] == ["books", "music"] and len(slots) == 2
    books = slots["books"]
    assert (books.title, books.rule, books.column, books.max_candidates, books.shown) == (
        "Books for you",
        "best_rated",
        "rating",
        200,
        6,
    )
    assert books.at_most == {"brand": 2, "category": 3} and books.pinned == ("b1", 17) and books.editorial == ("b3", "b4")
    assert list(books.treatments) == ["attention", "popularity", "last_item", "editorial"] and books.salt == "spring"
    assert not books.exclude_history and books.pool_gamma == 0.5
    music = slots["music"]
    assert (music.title, music.salt, music.where, music.rule, music.treatments) == (
        "music",
        "music",
        "",
        "popular",
        {"model": 1.0},
    )
    assert music.exclude_history and music.pinned == ()
    assert len(parse_slots("")) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[slot]\n", "the slots are not TOML; got: .*line 1"),
        ("[[slot]]\nname = 'a'\nname = 'b'", "the slots are not TOML"),
        ("slot = 3", "hold something else; got: 3"),
        ("[slot]\nname = 'a'", "hold something else"),
        ("[[slots]]\nname = 'a'", "hold something else; got: 'slots'"),
        ("x = " + "[" * 5000, "the slots are not TOML"),
        ("[[slot]]\nname = 'a'\n" * 201, "too many slots; got: 201"),
        ("#" * 1_000_001, "too long"),
        ("[[slot]]\ntitle = 'a'", "slot number 1 has no name"),
        ("[[slot]]\nname = 'a b'", "a slot has no proper name; got: 'a b'"),
        ("[[slot]]\nname = 3", "a slot has no proper name; got: 3"),
        ("[[slot]]\nname = 'a'\n[[slot]]\nname = 'a'", "two slots have the same name; got: a"),
        ("[[slot]]\nname = 'a'\nwhen = 'x'", "unknown option for Slot; got: when; expected: one of name, title, where"),
        ("[[slot]]\nname = 'a'\ntitle = 3", "slot 'a': title is wrong; got: 3; expected: text"),
        ("[[slot]]\nname = 'a'\nwhere = true", "slot 'a': where is wrong"),
        (
            "[[slot]]\nname = 'a'\nrule = 'best'",
            "rule is wrong; got: 'best'; expected: popular or newest or best_rated or editorial",
        ),
        (
            "[[slot]]\nname = 'a'\nrule = 'newest'",
            "column is wrong; got: ''; expected: an attribute for rule newest or best_rated",
        ),
        ("[[slot]]\nname = 'a'\ncolumn = 'x'", "column is wrong; got: 'x'"),
        ("[[slot]]\nname = 'a'\nshown = 0", "slot 'a': shown is out of range; got: 0; expected: 1 to 500"),
        ("[[slot]]\nname = 'a'\nshown = true", "shown is out of range; got: True"),
        ("[[slot]]\nname = 'a'\nshown = 1.5", r"shown is out of range; got: 1\.5"),
        ("[[slot]]\nname = 'a'\nshown = 1" + "0" * 60, "shown is out of range; got: 1000"),
        (
            "[[slot]]\nname = 'a'\nshown = 10\nmax_candidates = 9",
            "max_candidates is wrong; got: 9; expected: at least shown = 10",
        ),
        ("[[slot]]\nname = 'a'\nat_most = 3", "at_most is wrong; got: 3"),
        ("[[slot]]\nname = 'a'\nat_most = { brand = 0 }", "at_most.brand is out of range; got: 0"),
        ("[[slot]]\nname = 'a'\npinned = 'b'", "pinned is wrong; got: 'b'; expected: a list of at most 10,000 item ids"),
        ("[[slot]]\nname = 'a'\nblocked = [1.5]", r"blocked is wrong; got: \[1\.5\]"),
        ("[[slot]]\nname = 'a'\npinned = [2017-01-01]", "pinned is wrong"),
        ("[[slot]]\nname = 'a'\nexclude_history = 'no'", "exclude_history is wrong; got: 'no'; expected: true or false"),
        ("[[slot]]\nname = 'a'\npool_gamma = nan", "pool_gamma is wrong; got: nan"),
        ("[[slot]]\nname = 'a'\ntreatments = ['model']", "treatments is wrong"),
        (
            "[[slot]]\nname = 'a'\ntreatments = { model = 0.6, popularity = 0.5 }",
            r"shares of slot 'a' do not add up; got: 0\.6 \+ 0\.5 = 1\.1",
        ),
        (
            "[[slot]]\nname = 'a'\ntreatments = { editorial = 1 }",
            r"editorial is wrong; got: \[\]; expected: a list of item ids",
        ),
        ("[[slot]]\nname = 'a'\nrule = 'editorial'", "editorial is wrong"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_slots(text)


def test_an_unknown_slot_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="there is no such slot; got: 'game'; expected: books, music"):
        parse_slots(FULL)["game"]
    with pytest.raises(ConfigError, match="there is no such slot; got: 'game'; expected: none is declared"):
        Slots()["game"]


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the slots at .*none\.toml cannot be read"):
        read_slots(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_slots(tmp_path / "latin.toml")
    write_slots(parse_slots(FULL), tmp_path / "slots.toml")
    assert read_slots(tmp_path / "slots.toml") == parse_slots(FULL)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["latin.toml", "slots.toml"]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ids = st.lists(st.integers(-(2**63), 2**63 - 1) | text, max_size=4).map(tuple)


@st.composite
def declared(draw: st.DrawFn) -> dict[str, Any]:
    parts = draw(st.lists(st.integers(0, 100), min_size=1, max_size=4).filter(sum))
    rule = draw(st.sampled_from(["popular", "newest", "best_rated", "editorial"]))
    return {
        "name": draw(st.from_regex(r"[A-Za-z0-9_-]{1,10}", fullmatch=True)),
        "title": draw(text),
        "where": draw(text),
        "rule": rule,
        "column": draw(text.filter(bool)) if rule in ("newest", "best_rated") else "",
        "shown": draw(st.integers(1, 50)),
        "max_candidates": draw(st.integers(50, 20_000)),
        "at_most": draw(st.dictionaries(text, st.integers(1, 9), max_size=3)),
        "pinned": draw(ids),
        "blocked": draw(ids),
        "editorial": draw(ids.filter(bool)),
        "exclude_history": draw(st.booleans()),
        "pool_gamma": draw(st.floats(-1, 2)),
        "treatments": {f"{n}{draw(text)}": part / sum(parts) for n, part in enumerate(parts)},
        "salt": draw(text),
    }


@settings(max_examples=150, deadline=None)
@given(st.lists(declared(), max_size=3, unique_by=lambda keys: keys["name"]))
def test_what_is_written_is_read_back(tables: list[dict[str, Any]]) -> None:
    slots = Slots(tuple(Slot(**keys) for keys in tables))
    again = parse_slots(to_toml(slots))
    assert again == slots
    assert [list(slot.treatments) for slot in again] == [list(slot.treatments) for slot in slots]  # their order is kept


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(FULL.split()), max_size=30).map("\n".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_slots(text)
    except ConfigError as error:
        assert "slot" in str(error).lower()
