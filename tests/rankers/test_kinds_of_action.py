"""What is learnt of kinds: a purchase counts more than a view, and a return speaks against what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError
from heedful.evaluation.pools import make_pools
from heedful.events.candidates import Candidates
from heedful.events.log import EventLog
from heedful.events.targets import TargetConfig
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.external.two_stage import TwoStage
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.mixing.kind_features import Kinds
from heedful.rankers.mixing.snapshot import Snapshot
from heedful.rankers.refreshing import refreshed
from heedful.rankers.registry import load_ranker
from ranking_worlds import DAY, QUICK, START, log_of, random_log, table_of

KINDS = ("return", "view", "purchase")  # the most frequent kind first
NEGATIVE = {"negative_kinds": ("return",)}


def returns_log(seed: int = 0, **options: Any) -> EventLog:
    return random_log(seed, users=120, items=40, kind_names=KINDS, **options)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return returns_log()


def table(log: EventLog):
    return table_of(log.catalog.items.ids)


def test_an_unknown_kind_is_never_read_as_one_that_speaks_against_an_item(log: EventLog) -> None:
    plain = AttentionRanker(**QUICK["attention"]).fit(log, table(log))
    assert plain.kind_codes([None, "gift", "purchase"]).tolist() == [0, 0, 2]
    ranker = AttentionRanker(**QUICK["attention"], **NEGATIVE).fit(log, table(log))
    assert ranker.kind_codes([None, "gift", "purchase", "return"]).tolist() == [1, 1, 2, 0]
    assert ranker.histories_of([["item1"]]).kinds.tolist() == [1]


def test_a_kind_that_speaks_against_an_item_makes_no_target_and_no_popularity(log: EventLog) -> None:
    histories = log.histories
    kept = histories.where(histories.kinds != 0)
    for ranker in (AttentionRanker(**QUICK["attention"], **NEGATIVE), TwoStage(**QUICK["two-stage"], **NEGATIVE)):
        ranker.fit(log, table(log))
        owner = np.repeat(np.arange(len(kept)), kept.lengths)
        users = [len(set(owner[kept.items == row].tolist())) for row in range(40)]
        np.testing.assert_array_equal(ranker.users_of_item, users)
        assert ranker.targets.is_target(np.array([0, 1, 2])).tolist() == [False, True, True]
        assert ranker.targets.is_seen(np.array([0, 1, 2])).all()
    stage = ranker.stage
    expected = Snapshot.of(kept, 40, stage.snapshot.now, stage.snapshot.window)
    np.testing.assert_array_equal(stage.snapshot.items.values, expected.items.values)


def test_pools_have_no_positives_of_such_a_kind(log: EventLog) -> None:
    past, future = log.split(START + 80 * DAY, days=20)
    config = TargetConfig(**NEGATIVE)
    pools = make_pools(past, future, gammas=(0.0,), size=5, targets=config)
    only = future.select(["view", "purchase"])
    for place, user in enumerate(pools.user_rows):
        own = only.histories.items[only.histories.offsets[user] : only.histories.offsets[user + 1]]
        ids = set(only.catalog.items.take(own).to_pylist())
        assert set(pools.items.take(pools.positives.part(slice(place, place + 1)).rows).to_pylist()) <= ids
    with pytest.raises(ConfigError, match="no events of that kind; got: dislike"):
        make_pools(past, future, gammas=(0.0,), size=5, targets=TargetConfig(negative_kinds=("dislike",)))
    with pytest.raises(ConfigError, match=r"'negative_kinds' is out of range.*none of target_kinds"):
        TargetConfig(target_kinds=("return",), **NEGATIVE)


def test_columns_of_kinds_against_a_slow_reference() -> None:
    log = returns_log(3)
    now = START + 100 * DAY
    kinds = Kinds.of(log.histories, 40, now, 3)
    snapshot = Snapshot.of(log.histories, 40, now, 7 * DAY)
    cosine = snapshot.partners["cosine"]
    candidates = Candidates.of([np.arange(40)] * 120)
    columns = kinds.columns(log.histories, candidates, cosine).reshape(120, 40, 4, 3)
    for user in (0, 11, 57):
        part = slice(log.histories.offsets[user], log.histories.offsets[user + 1])
        items, codes = log.histories.items[part], log.histories.kinds[part]
        last = dict(zip(items.tolist(), codes.tolist(), strict=True))
        for kind in range(3):
            assert columns[user, :, 2, kind] == pytest.approx(np.log1p((codes == kind).sum()))
            for row in range(40):
                own = ((items == row) & (codes == kind)).sum()
                assert columns[user, row, 0, kind] == pytest.approx(np.log1p(own))
                together = sum(
                    float(cosine.weights[past][cosine.items[past] == row].sum()) for past, of in last.items() if of == kind
                )
                assert columns[user, row, 3, kind] == pytest.approx(together, abs=1e-4)
    assert np.exp(kinds.shares).sum(axis=1) == pytest.approx(np.ones(40), rel=1e-5)
    longer = kinds.extended(45)
    np.testing.assert_array_equal(longer.shares[:40], kinds.shares)
    assert longer.shares.shape == (45, 3)


def test_one_kind_has_no_term_and_no_columns_and_two_have(tmp_path: Path) -> None:
    for names, several in ((("view",), False), (("view", "purchase"), True)):
        log = random_log(users=120, items=40, kind_names=names)
        ranker = MixedRanker(**QUICK["mixed"]).fit(log, table(log))
        assert ("kinds" in ranker.ranker.model.terms) == several
        assert ranker.stage is not None
        assert any(name.startswith("kind.") for name in ranker.stage.mixture.names) == several
        ranker.save(tmp_path / names[-1])
        loaded = load_ranker(tmp_path / names[-1])
        some = log.histories.take(np.arange(10))
        np.testing.assert_array_equal(loaded.score_catalogue(some), ranker.score_catalogue(some))
        parts = ranker.contributions(some.take(np.array([1])), np.arange(5))
        assert ("kind" in parts) == several
    bought = AttentionRanker(**QUICK["attention"], history_kinds=("purchase",)).fit(log, table(log))
    assert "kinds" not in bought.model.terms


def meaning_log(users: int = 600, items: int = 40, seed: int = 0) -> EventLog:
    """A user buys what is near past items: a purchase pulls with weight 1, a view with a half, a return pushes."""
    randoms = np.random.default_rng(seed)
    pull = np.array([1.0, 0.5, -1.0])
    sequences, times, kinds = [], [], []
    for _ in range(users):
        past, codes = randoms.choice(items, 6, replace=False), randoms.integers(0, 3, 6)
        near = np.cos(2 * np.pi * (np.arange(items)[:, None] - past) / items)
        scores = 2.0 * near @ pull[codes]
        scores[past] = -np.inf
        weights = np.exp(scores - scores.max())
        bought = randoms.choice(items, 3, replace=False, p=weights / weights.sum())
        start = START + int(randoms.integers(0, 90 * DAY))
        sequences.append([*past, *bought])
        times.append([*(start + 3600 * np.arange(6)), *(start + DAY // 2 + 3600 * np.arange(1, 4))])
        kinds.append([*codes, 0, 0, 0])
    return log_of(sequences, times, kinds, n_items=items, kind_names=("purchase", "view", "return"))


def test_the_weights_say_that_a_view_is_half_a_purchase_and_a_return_the_opposite() -> None:
    log = meaning_log()
    angle = 2 * np.pi * np.arange(40) / 40
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    vectors = np.concatenate([ring, np.zeros((40, 2), np.float32)], axis=1)
    items = ItemEmbeddings.from_arrays(log.catalog.items.ids, vectors)
    options: dict[str, Any] = {"terms": ("kinds", "popularity_over_time"), "steps": 400, "batch_users": 32, "negatives": 16}
    options |= {"noise": 0.0, "learning_rate": 0.02, "target_kinds": ("purchase",), **NEGATIVE}
    ranker = AttentionRanker(**options).fit(log, items)
    w = ranker.model.named_terms()["kinds"].w.detach().numpy()
    # All items were acted on once, some hours ago: what counts is the first weight and that of an age of some hours.
    purchase, view, returned = w[:, 0] + 0.5 * w[:, 2]
    assert purchase > 0.5
    assert 0.25 < view / purchase < 0.75
    assert returned / purchase < -0.5


@pytest.mark.parametrize("options", [NEGATIVE, {"target": "all"}, {"history_kinds": ("purchase",)}])
def test_counts_renewed_from_the_same_log_change_no_score(log: EventLog, options: dict[str, Any]) -> None:
    ranker = MixedRanker(**QUICK["mixed"], **options).fit(log, table(log))
    newer, _ = refreshed(ranker, log)
    some = log.histories.take(np.arange(10))
    np.testing.assert_array_equal(newer.score_catalogue(some), ranker.score_catalogue(some))


def test_an_item_that_was_only_returned_is_not_put_first() -> None:
    """Users take what is new, so that an item without past actions looks like one that is about to be taken."""
    randoms = np.random.default_rng(0)
    days = [np.sort(randoms.integers(0, 100, 20)) for _ in range(200)]
    sequences = [np.minimum(day // 3 + randoms.integers(0, 4, 20), 36) for day in days]
    for sequence in sequences[::20]:
        sequence[-1] = randoms.integers(37, 40)
    kinds = [np.where(sequence > 36, 0, 2) for sequence in sequences]
    log = log_of(sequences, [START + DAY * day for day in days], kinds, n_items=40, kind_names=KINDS)
    options = {**QUICK["attention"], "steps": 300, "learning_rate": 0.02, **NEGATIVE}
    ranker = AttentionRanker(**options).fit(log, table(log))
    assert (ranker.users_of_item[37:] == 0).all() and (ranker.users_of_item[:37] > 0).all()
    ranks = (-ranker.score_catalogue(log.histories)).argsort(axis=1).argsort(axis=1)
    assert ranks[:, 37:].mean() > 20
