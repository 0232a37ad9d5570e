"""The report: what counts, what is set aside, what is compared, and the figure."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.colors import to_hex

from heedful.errors import ConfigError, InputError
from heedful.serving.clicks import ClickConfig, report
from heedful.serving.figures import colour_of, draw_figure5, figure5
from heedful.serving.rates import rate

DAY = 86_400


def outcomes(rows: list[dict[str, Any]]) -> pa.Table:
    usual = {
        "slot": "books",
        "treatment": "popularity",
        "user_id": "u",
        "time": 0,
        "clicks": 0,
        "repeated_clicks": 0,
        "model": "m",
    }
    names = [*usual, "items_shown"]
    full = [{**usual, "items_shown": 10, **row} for row in rows]
    kinds = {"time": pa.int64(), "clicks": pa.int64(), "repeated_clicks": pa.int64(), "items_shown": pa.int64()}
    return pa.table({name: pa.array([row[name] for row in full], kinds.get(name, pa.string())) for name in names})


def simulated(rows: list[dict[str, Any]]) -> pa.Table:
    return outcomes([{**row, "model": "simulated:attention"} for row in rows])


def arm(treatment: str, users: int, clickers: int, **row: Any) -> list[dict[str, Any]]:
    """Users with two impressions each; the first `clickers` clicked one of them."""
    return [
        {"treatment": treatment, "user_id": f"{treatment} {n}", "clicks": int(n < clickers and second), **row}
        for n in range(users)
        for second in (0, 1)
    ]


WORLD = [
    *arm("attention", 300, 90),
    *arm("popularity", 200, 30),
    *arm("last_item", 100, 12, slot="music"),
    *arm("editorial", 100, 15, slot="music"),
]


def test_rates_by_slot_and_treatment() -> None:
    found = report(outcomes(WORLD))
    assert [slot.slot for slot in found.slots] == ["books", "music"]
    books, music = found.slots
    assert [one.treatment for one in books.treatments] == ["attention", "popularity"]
    attention, popularity = books.treatments
    assert (attention.rate.impressions, attention.rate.clicks, attention.rate.users) == (600, 90, 300)
    assert attention.rate == rate(np.full(300, 2), (np.arange(300) < 90).astype(int))
    assert attention.relative == 1.0 and popularity.relative == pytest.approx(0.5)
    assert [one.relative for one in music.treatments] == pytest.approx([0.5, 0.4])
    assert not found.simulated and set(found.set_aside.values()) == {0}


def test_lifts_are_against_the_plainest_treatment_or_the_one_named() -> None:
    found = report(outcomes(WORLD))
    assert [[(one.treatment, one.against) for one in slot.lifts] for slot in found.slots] == [
        [("attention", "popularity")],
        [("last_item", "editorial")],
    ]
    lift = found.slots[0].lifts[0].lift
    assert lift.lift == pytest.approx(1.0) and lift.decided and lift.low == pytest.approx(0.0763, abs=1e-3) and lift.p < 0.02
    named = report(outcomes(WORLD), ClickConfig(reference="last_item"))
    assert [one.against for slot in named.slots for one in slot.lifts] == ["popularity", "last_item"]


def test_the_lifts_of_a_slot_share_the_error() -> None:
    two = report(outcomes([*arm("a", 300, 90), *arm("popularity", 200, 30)])).slots[0].lifts[0].lift
    # As many users who clicked among all as before, so that the verdict has to hold without the same part of them.
    rows = [*arm("a", 300, 90), *arm("popularity", 200, 30), *arm("b", 300, 90), *arm("c", 200, 30)]
    shared = report(outcomes(rows)).slots[0].lifts[0].lift
    assert shared.p == pytest.approx(3 * two.p) and shared.low < two.low and shared.high > two.high


def test_an_impression_counts_as_clicked_once() -> None:
    rows = [{"user_id": f"u{n}", "clicks": n % 4, "repeated_clicks": n % 3} for n in range(40)]
    found = report(outcomes(rows))
    assert found.slots[0].treatments[0].rate.clicks == 30
    assert found.set_aside["further_clicks"] == 10 * 1 + 10 * 2
    assert found.set_aside["repeated_clicks"] == sum(n % 3 for n in range(40))


def test_bots_are_set_aside_and_counted() -> None:
    people = arm("popularity", 50, 10)
    eager = [{"user_id": "eager", "time": n * DAY, "clicks": 2} for n in range(60)]
    tireless = [{"user_id": "tireless", "time": n, "clicks": 0} for n in range(201)]
    keen = [{"user_id": "keen", "time": n * DAY, "clicks": int(n < 45)} for n in range(60)]  # a lot, but a person may
    often = [{"user_id": "often", "time": (n % 2) * DAY + n} for n in range(300)]
    several = [{"user_id": "several", "slot": f"slot {n % 3}", "time": n} for n in range(300)]
    few = [{"user_id": "few", "clicks": 1} for _ in range(19)]
    clean = report(outcomes([*people, *keen, *often, *several, *few]))
    found = report(outcomes([*people, *eager, *keen, *tireless, *often, *several, *few]))
    assert found.set_aside == {
        "simulated_impressions": 0, "bots": 2, "impressions_of_bots": 261, "clicks_of_bots": 120, "further_clicks": 0,
        "repeated_clicks": 0,
    }  # fmt: skip
    assert found.slots == clean.slots and set(clean.set_aside.values()) == {0}
    strict = report(outcomes([*people, *keen]), ClickConfig(bot_click_share=0.5))
    assert strict.set_aside["bots"] == 1
    # A bot is one in every slot.
    elsewhere = report(outcomes([*people, *eager, {"user_id": "eager", "slot": "music"}]))
    assert [slot.slot for slot in elsewhere.slots] == ["books"] and elsewhere.set_aside["impressions_of_bots"] == 61


def test_advice_on_sample_sizes() -> None:
    found = report(
        outcomes([*arm("attention", 300, 90), *arm("popularity", 200, 30), *arm("popularity", 5, 3, slot="music")])
    )
    assert found.slots[0].guidance.startswith(
        "impressions that each treatment needs to be told from popularity with probability 80%: "
    )
    assert found.slots[0].guidance.endswith("for a lift of 20%; one has seen 400")
    assert found.slots[1].guidance == "too early for advice: users who clicked in popularity: 3, needed: 10"
    often = report(outcomes([{"user_id": f"u{n}", "clicks": int(n < 98)} for n in range(100)]))
    assert often.slots[0].guidance == "popularity is clicked too often for a higher rate to be told from it"


def test_simulated_impressions_are_told() -> None:
    found = report(simulated(WORLD))
    assert found.simulated and str(found).startswith("Simulated: nobody saw these slots.")
    assert found.slots == report(outcomes(WORLD)).slots
    assert not report(outcomes(WORLD).drop_columns(["model", "repeated_clicks"])).simulated


def test_simulated_and_real_impressions_are_never_counted_together() -> None:
    both = pa.concat_tables([outcomes(arm("attention", 20, 4)), simulated(arm("attention", 50, 30))])
    for which, n_shown, aside in (
        (None, 40, {"simulated_impressions": 100}),
        (False, 40, {"simulated_impressions": 100}),
        (True, 100, {"real_impressions": 40}),
    ):
        found = report(both, simulated=which)
        assert found.simulated is bool(which) and found.set_aside.items() >= aside.items()
        assert [one.rate.impressions for one in found.slots[0].treatments] == [n_shown]
    assert str(report(outcomes(WORLD), simulated=True)).startswith("Nothing simulated was shown yet.")


def test_nothing_yet() -> None:
    empty = report(outcomes([]))
    assert empty.slots == () and str(empty) == "Nothing was shown yet." and empty.to_dict()["slots"] == []
    unclicked = report(outcomes(arm("popularity", 5, 0)))
    assert unclicked.slots[0].treatments[0].relative is None
    for nothing in (empty, unclicked):
        with pytest.raises(ConfigError, match="there is nothing to draw; got: no click yet"):
            draw_figure5(nothing)
    with pytest.raises(
        InputError, match="the outcomes lack a column; got: slot; expected: slot, treatment, user_id, time, clicks"
    ):
        report(pa.table({"slot": ["a"]}))


@pytest.mark.parametrize(
    "option",
    [
        {"confidence": 1.0},
        {"confidence": 0.2},
        {"typical_lift": 0.0},
        {"power": 1.0},
        {"bot_daily_impressions": 0},
        {"bot_impressions": 0},
        {"bot_click_share": 1.1},
    ],
)
def test_options_out_of_range(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}' is out of range"):
        ClickConfig(**option)


def test_words_and_json() -> None:
    found = report(outcomes([*WORLD, *arm("new", 10, 1, slot="music")]))
    text = str(found)
    assert (
        "attention         90 of      600 impressions,    300 users (90 clicked): 15.00% (12." in text
        and "relative 100.0%" in text
    )
    assert "attention against popularity: +100.0% (+" in text and ", decided: ahead" in text
    assert "new against editorial: too early, too few clicks to compare" in text and text.endswith("Set aside: nothing.")
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    music = told["slots"][1]
    assert music["lifts"][1]["high"] is None and music["lifts"][1]["low"] == -1.0 and not music["lifts"][1]["decided"]
    assert music["lifts"][1]["verdict"] == "too early"
    facts = {"treatment", "impressions", "clicks", "users", "users_who_clicked", "ctr", "low", "high", "relative"}
    assert set(music["treatments"][0]) == facts and music["treatments"][0]["users_who_clicked"] == 15


def test_figure_5(tmp_path: Path) -> None:
    found = report(simulated(WORLD))
    axes = draw_figure5(found).axes[0]
    bars = sorted((bar.get_y(), bar.get_width(), bar.get_facecolor()) for bar in axes.patches)
    # By slot, and in each the highest first.
    assert [width for _, width, _ in bars] == pytest.approx([1.0, 0.5, 0.5, 0.4], abs=1e-9)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "",
        "attention",
        "popularity",
        "",
        "editorial",
        "last item",
    ]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["books", "15.00% of 600", "7.50% of 400", "music", "7.50% of 200", "6.00% of 200"]
    assert axes.get_xlabel().startswith("click-through rate, relative to the highest")
    colours = [to_hex(colour) for _, _, colour in bars]
    assert colours == [colour_of(name) for name in ("attention", "popularity", "editorial", "last_item")]
    assert axes.get_title().startswith("Simulated clicks: nobody saw this content")
    figure5(found, tmp_path / "figure.svg")
    assert ElementTree.parse(tmp_path / "figure.svg").getroot().tag.endswith("svg")
    first = (tmp_path / "figure.svg").read_bytes()
    figure5(found, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_bytes() == first
    figure5(found, tmp_path / "figure.PNG")
    assert (tmp_path / "figure.PNG").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ConfigError, match=r"a figure is written as PNG or SVG; got: .*figure\.gif"):
        figure5(found, tmp_path / "figure.gif")


def test_a_treatment_has_one_colour_on_the_page_and_in_the_figure() -> None:
    style = (resources.files("heedful.serving") / "web" / "style.css").read_text()
    of_page = {name: re.search(rf"--{name}: (#\w+);", style) for name in ("model", "popularity", "last-item", "editorial")}
    found = {name: match[1] for name, match in of_page.items() if match}
    assert found == {name: colour_of(name.replace("-", "_")) for name in of_page} and len(set(found.values())) == 4
    for name in ("model", "popularity", "last_item", "editorial"):
        assert f".hue-{name} {{ --hue: var(--{name.replace('_', '-')}); }}" in style
    assert colour_of("attention") == colour_of("averaging") == colour_of("model")


def crowd(
    treatment: str, users: int, clickers: int, *, salt: str = "s", shares: str = "", **row: Any
) -> list[dict[str, Any]]:
    return [{**one, "salt": salt, "shares": shares} for one in arm(treatment, users, clickers, **row)]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    salted = pa.table({name: [row.get(name, "") for row in rows] for name in ("salt", "shares")})
    made = outcomes([{name: value for name, value in row.items() if name not in ("salt", "shares")} for row in rows])
    return made.append_column("salt", salted["salt"]).append_column("shares", salted["shares"])


HALVES = json.dumps({"attention": 0.5, "popularity": 0.5})


def test_a_split_that_was_not_declared_withholds_the_verdict() -> None:
    right = report(table([*crowd("attention", 300, 150, shares=HALVES), *crowd("popularity", 310, 40, shares=HALVES)]))
    (lift,) = right.slots[0].lifts
    split = right.slots[0].split
    assert lift.verdict == "ahead" and split is not None and not split.mismatch and "as declared" in str(right)
    wrong = report(table([*crowd("attention", 190, 95, shares=HALVES), *crowd("popularity", 310, 40, shares=HALVES)]))
    (lift,) = wrong.slots[0].lifts
    split = wrong.slots[0].split
    assert split is not None and split.mismatch and split.p < 0.001
    assert (split.users, split.expected) == ({"attention": 190, "popularity": 310}, {"attention": 250, "popularity": 250})
    assert lift.verdict == "withheld" and not lift.lift.decided
    assert "Not to be trusted: users are not split by the declared shares" in str(wrong) and "MISMATCH" in str(wrong)
    assert json.loads(json.dumps(wrong.to_dict()))["slots"][0]["split"]["mismatch"]
    # A treatment of which nobody saw anything is part of the split; one that was never declared is no treatment of it.
    lost = report(table(crowd("popularity", 40, 5, shares=HALVES)))
    assert lost.slots[0].split is not None and lost.slots[0].split.mismatch
    strange = report(table([*crowd("attention", 20, 5, shares=HALVES), *crowd("popularity", 20, 5, shares=HALVES),
                            *crowd("editorial", 1, 0, shares=HALVES)]))  # fmt: skip
    assert strange.slots[0].split is not None and strange.slots[0].split.p == 0.0
    assert report(table(WORLD)).slots[0].split is None


def test_a_few_users_decide_nothing_however_much_they_click() -> None:
    """Bots below every bound, all in one treatment: the verdict stays open; a lift of all users is decided."""
    people = [*arm("attention", 400, 40), *arm("popularity", 400, 40)]
    keen = [*arm("attention", 400, 120), *arm("popularity", 400, 120)]
    tried = [(people, 10, seen, seen) for seen in (5, 12, 19)] + [(keen, 20, 12, 12), (keen, 20, 19, 19), (keen, 20, 49, 42)]
    for others, number, seen, clicked in tried:
        bots = [{"treatment": "attention", "user_id": f"bot {n}", "clicks": int(shown < clicked)}
                for n in range(number) for shown in range(seen)]  # fmt: skip
        found = report(outcomes([*others, *bots]))
        (lift,) = found.slots[0].lifts
        assert found.set_aside["bots"] == 0 and lift.verdict == "not decided yet", (number, seen)
        assert lift.lift.low < 0 < lift.lift.high and lift.lift.p > 0.05
    for seen in (20, 49):
        bots = [{"treatment": "attention", "user_id": f"bot {n}", "clicks": 1} for n in range(12) for _ in range(seen)]
        assert report(outcomes([*people, *bots])).set_aside["bots"] == 12
    eager = report(outcomes([*arm("attention", 400, 120), *arm("popularity", 400, 40)]))
    assert eager.slots[0].lifts[0].verdict == "ahead"


def test_experiments_are_told_apart() -> None:
    spring = [*crowd("attention", 90, 54, salt="spring"), *crowd("popularity", 10, 6, salt="spring")]
    autumn = [*crowd("attention", 10, 1, salt="autumn", time=9), *crowd("popularity", 90, 6, salt="autumn", time=9)]
    found = report(table([*spring, *autumn]))
    assert [(one.salt, one.latest) for one in found.slots + found.earlier] == [("autumn", 9), ("spring", 0)]
    assert found.slots[0].treatments == report(table(autumn)).slots[0].treatments
    assert report(table([*autumn, *spring])).slots[0].salt == "autumn"


def test_the_summary_says_the_result() -> None:
    def said(*rows: dict[str, Any]) -> str:
        return report(outcomes(list(rows))).slots[0].summary

    assert said(*arm("attention", 300, 90), *arm("popularity", 300, 30)).startswith(
        "attention is clicked more than popularity by 200%, by at least "
    )
    assert said(*arm("last_item", 300, 30), *arm("popularity", 300, 90)).startswith(
        "last item is clicked less than popularity by 67%, by at least "
    )
    assert (
        said(*arm("attention", 300, 31), *arm("popularity", 300, 30)) == "No difference between treatments can be told yet"
    )
    assert said(*arm("attention", 30, 3), *arm("popularity", 30, 12)) == (
        "Too early: 3 of the 10 users that each treatment needs have clicked"
    )
    assert said(*arm("attention", 30, 3)) == "attention alone: 5.00% of 60 impressions were clicked"
