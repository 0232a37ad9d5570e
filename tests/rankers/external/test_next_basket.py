"""Rivals on next baskets against slow references."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.rankers.external.base import PublicRanker
from heedful.rankers.external.next_basket import OwnFrequent, TifuKnn, UpCf
from ranking_worlds import DAY, random_log

ITEMS = 25


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=40, items=ITEMS, events=20)


def baskets_of(histories: Histories, user: int) -> list[set[int]]:
    """The items of each day, oldest first."""
    part = slice(histories.offsets[user], histories.offsets[user + 1])
    days: dict[int, set[int]] = {}
    for item, time in zip(histories.items[part].tolist(), histories.times[part].tolist(), strict=True):
        days.setdefault(time // DAY, set()).add(item)
    return [days[day] for day in sorted(days)]


def test_own_most_frequent_items_come_first_and_then_the_popular_ones(log: EventLog) -> None:
    ranker = OwnFrequent().fit(log)
    scores = ranker.score_catalogue(log.histories)
    users = np.asarray(log.catalog.users)
    for user in range(40):
        counts = Counter(item for basket in baskets_of(log.histories, user) for item in basket)
        expected = sorted(range(ITEMS), key=lambda item: (-counts[item], -users[item]))
        values = [(counts[item], users[item]) for item in expected]
        ranked = sorted(range(ITEMS), key=lambda item: -scores[user, item])
        assert [(counts[item], users[item]) for item in ranked] == values


@pytest.mark.parametrize("recent", [0, 3])
def test_up_cf_adds_up_recent_shares_of_similar_users(log: EventLog, recent: int) -> None:
    q, a = 2.0, 0.25
    ranker = UpCf(recent_baskets=recent, locality=q, asymmetry=a).fit(log)
    scores = ranker.score_catalogue(log.histories)
    popularity, sets = np.zeros((40, ITEMS)), []
    for user in range(40):
        baskets = baskets_of(log.histories, user)
        sets.append(set().union(*baskets))
        latest = baskets[-recent:] if recent else baskets
        for basket in latest:
            popularity[user, list(basket)] += 1 / len(latest)
    for user in range(40):
        expected = np.zeros(ITEMS)
        for other in range(40):
            similar = len(sets[user] & sets[other]) / (len(sets[user]) ** a * len(sets[other]) ** (1 - a))
            if other == user or sets[user] != sets[other]:
                expected += similar**q * popularity[other]
        np.testing.assert_allclose(scores[user], expected, rtol=1e-4, atol=1e-6)


def tifu_vector(baskets: list[set[int]], m: int, r_b: float, r_g: float) -> np.ndarray:
    """As written in section 4.1 of the paper: groups are filled from the latest basket on."""
    groups = []
    while baskets:
        baskets, group = baskets[:-m], baskets[-m:]
        vector = np.zeros(ITEMS)
        for place, basket in enumerate(reversed(group)):
            vector[list(basket)] += r_b**place / len(group)
        groups.append(vector)
    return np.sum([r_g**place * vector for place, vector in enumerate(groups)], axis=0) / len(groups)


def test_tifu_knn_mixes_own_frequencies_with_those_of_the_nearest(log: EventLog) -> None:
    m, r_b, r_g, k, own = 3, 0.9, 0.7, 5, 0.6
    ranker = TifuKnn(group=m, decay=r_b, group_decay=r_g, neighbours=k, own_weight=own).fit(log)
    scores = ranker.score_catalogue(log.histories)
    vectors = np.array([tifu_vector(baskets_of(log.histories, user), m, r_b, r_g) for user in range(40)])
    for user in range(40):
        nearest = np.argsort(((vectors - vectors[user]) ** 2).sum(axis=1), kind="stable")[:k]
        expected = own * vectors[user] + (1 - own) * vectors[nearest].mean(axis=0)
        np.testing.assert_allclose(scores[user], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [(UpCf, "asymmetry", 2.0), (UpCf, "locality", -1.0), (TifuKnn, "group", 0), (TifuKnn, "decay", 2.0)],
)
def test_options_out_of_range_are_refused(model: type[PublicRanker], name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is out of range"):
        model(**{name: value})


def test_they_are_asked_for_all_items(log: EventLog) -> None:
    assert OwnFrequent().fit(log).targets.target == "all"
