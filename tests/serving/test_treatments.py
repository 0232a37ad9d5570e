"""Users stay in their treatment, and the shares hold."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.serving.treatments import assign, check_shares, place

SHARES = {"model": 0.5, "popularity": 0.25, "last_item": 0.15, "editorial": 0.1}
USERS = [f"user {n}" for n in range(20_000)]


def test_a_user_stays_for_ever() -> None:
    """Answers worked out once; another one would move the users of a running experiment."""
    known = {"1": 0.899705, "2": 0.675836, "été": 0.041568}
    assert {user: round(place(user, "spring"), 6) for user in known} == known
    assert [assign(user, "spring", SHARES) for user in known] == ["last_item", "popularity", "model"]
    for user in ("", "𝄞", "x" * 500, "\ud800"):
        assert assign(user, "spring", SHARES) == assign(user, "spring", dict(SHARES)) in SHARES


def test_shares_hold_in_the_long_run_and_places_are_uniform() -> None:
    counts = Counter(assign(user, "a", SHARES) for user in USERS)
    assert list(counts) and sum(counts.values()) == len(USERS)
    for name, share in SHARES.items():
        assert abs(counts[name] - share * len(USERS)) < 4 * np.sqrt(share * (1 - share) * len(USERS)), name
    deciles = np.bincount([int(10 * place(user, "a")) for user in USERS], minlength=10)
    assert ((deciles - 2000) ** 2 / 2000).sum() < 27.9  # chi-square with 9 degrees of freedom, p = 0.001


def test_salts_deal_independently() -> None:
    table = Counter((assign(user, "a", SHARES), assign(user, "b", SHARES)) for user in USERS)
    expected = {(a, b): SHARES[a] * SHARES[b] * len(USERS) for a in SHARES for b in SHARES}
    assert sum((table[pair] - n) ** 2 / n for pair, n in expected.items()) < 37.7  # 15 degrees of freedom, p = 0.001
    # A salt is no prefix that runs into the user.
    assert place("bc", "a") != place("c", "ab")


def test_an_appended_treatment_moves_only_users_of_the_last_one() -> None:
    before = {"model": 0.6, "popularity": 0.4}
    after = {"model": 0.6, "popularity": 0.3, "new": 0.1}
    moved = Counter((assign(u, "s", before), assign(u, "s", after)) for u in USERS)
    assert set(moved) == {("model", "model"), ("popularity", "popularity"), ("popularity", "new")}
    assert abs(moved["popularity", "new"] - 2000) < 4 * np.sqrt(0.1 * 0.9 * len(USERS))


def test_a_share_of_zero_gets_nobody_and_rounding_leaves_nobody_out() -> None:
    assert {assign(u, "s", {"off": 0, "model": 1.0, "out": 0.0}) for u in USERS[:2000]} == {"model"}
    thirds = {"a": 1 / 3, "b": 1 / 3, "c": 1 - 2 / 3 - 1e-9, "off": 0}
    check_shares(thirds, owner="slot 'x'")
    assert set(Counter(assign(u, "s", thirds) for u in USERS)) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, r"slot 'x' has no treatments"),
        ({"a": 0.5, "b": 0.4}, r"the shares of slot 'x' do not add up; got: 0\.5 \+ 0\.4 = 0\.9; expected: 1"),
        ({"a": 1.5, "b": -0.5}, r"share of treatment 'a' is out of range; got: 1\.5"),
        ({"a": True}, r"share of treatment 'a' is out of range; got: True"),
        ({"a": "1"}, r"share of treatment 'a' is out of range; got: 1"),
        ({"a": float("nan")}, r"share of treatment 'a' is out of range; got: nan"),
    ],
)
def test_shares_that_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_shares(shares, owner="slot 'x'")
