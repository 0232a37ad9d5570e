"""Columns of repeats against a slow reference, and what the last stage makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from heedful.evaluation.comparison import EvaluationConfig, compare
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.rankers.external.two_stage import TwoStage
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.mixing.pair_features import REPEAT_FEATURES, Repeats
from heedful.rankers.registry import load_ranker
from heedful.recommending.explanation import explain_items
from ranking_worlds import DAY, QUICK, START, histories_of, log_of, random_log, table_of

WINDOW = 7 * DAY
NOON = START - START % DAY + DAY // 2


def column(name: str, histories: Histories, rows: list[int], repeats: Repeats) -> list[float]:
    candidates = Candidates.of([np.array(rows)] * len(histories))
    values = repeats.columns(histories, candidates)[:, REPEAT_FEATURES.index(name)]
    return np.round(values.astype(float), 5).tolist()


def test_how_often_and_how_lately() -> None:
    """Days 0, 3, 3, 6 and 10 of one user with item 1 on three of four baskets; another user never took it."""
    days = np.array([0, 3, 3, 6, 6, 10])
    times = [NOON + DAY * days, [NOON]]
    histories = histories_of([[1, 1, 0, 1, 1, 2], [0]], times)
    now = NOON + 12 * DAY
    repeats = Repeats.of(histories, 3, now, WINDOW)

    def of(name: str) -> list[float]:
        return column(name, histories, [0, 1, 2], repeats)

    log = np.log1p
    assert of("baskets") == np.round([log(1), log(3), log(1), log(1), 0, 0], 5).tolist()
    least = 1e-3

    def logs(*shares: float) -> list[float]:
        return np.round(np.log(np.array(shares) + least), 5).tolist()

    assert of("share") == logs(0.25, 0.75, 0.25, 1, 0, 0)
    assert of("share_since_first") == logs(1 / 3, 3 / 4, 1, 1, 0, 0)
    assert of("share_1") == logs(0, 0.5, 0.5, 0, 0, 0)  # of the baskets of days 6 and 10
    every = 1 + 0.4 + 0.4**2 + 0.4**3
    assert of("decayed_0.4") == logs(0.4**2 / every, (every - 1) / every, 1 / every, 1, 0, 0)
    never, nothing = -log(1000.0), -log(3650.0)
    assert of("baskets_since") == np.round([-log(2), -log(1), 0, 0, never, never], 5).tolist()
    assert of("days_since") == np.round([-log(9), -log(6), -log(2), -log(12), nothing, nothing], 5).tolist()
    assert of("against_gap") == np.round([0, np.log(6.5 / 3.5), 0, 0, 0, 0], 5).tolist()
    assert of("user_again") == np.round([1 - 3 / 5] * 3 + [0] * 3, 5).tolist()
    again, gap = of("item_again"), of("item_gap")
    assert again[1] > again[2] > again[0] and again[:3] == again[3:]
    assert of("item_baskets")[:3] == np.round(np.log(np.array([2.5, 3.5, 1.5]) / 6), 5).tolist()
    assert gap[1] == np.round(log((6 + 3) / (2 + 1)), 5)  # two gaps of three days, and one of the mean of all items


def test_what_comes_later_is_not_known() -> None:
    log = random_log(users=30, items=20)
    now = START + 60 * DAY
    before = log.histories.where(log.histories.times < now)
    some, every = Repeats.of(before, 20, now, WINDOW), Repeats.of(log.histories, 20, now, WINDOW)
    np.testing.assert_array_equal(some.again, every.again)
    np.testing.assert_array_equal(some.gap, every.gap)


def test_a_user_is_the_same_alone_and_among_others() -> None:
    log = random_log(users=30, items=20)
    repeats = Repeats.of(log.histories, 20, START + 100 * DAY, WINDOW)
    candidates = Candidates.of([np.arange(20)] * 30)
    together = repeats.columns(log.histories, candidates).reshape(30, 20, -1)
    for user in (0, 7, 29):
        alone = repeats.columns(log.histories.take(np.array([user])), Candidates.of([np.arange(20)]))
        np.testing.assert_array_equal(alone, together[user])
    assert repeats.columns(histories_of([[]]), Candidates.of([np.arange(20)])).shape == (20, len(REPEAT_FEATURES))
    assert np.isfinite(together).all()


def test_kept_in_a_file_and_for_more_items(tmp_path: Path) -> None:
    log = random_log(users=30, items=20)
    repeats = Repeats.of(log.histories, 20, START + 100 * DAY, WINDOW)
    repeats.save(tmp_path / "r.npz")
    candidates = Candidates.of([np.arange(20)] * 30)
    expected = repeats.columns(log.histories, candidates)
    np.testing.assert_array_equal(Repeats.load(tmp_path / "r.npz").columns(log.histories, candidates), expected)
    longer = repeats.extended(25)
    np.testing.assert_array_equal(longer.columns(log.histories, candidates), expected)
    assert np.isfinite(longer.columns(log.histories, Candidates.of([np.arange(25)] * 30))).all()


def weekly_log(users: int = 150, items: int = 60, weeks: int = 30, seed: int = 0):
    """Users have five items that they take every other week, and take a new one each week."""
    randoms = np.random.default_rng(seed)
    sequences, times = [], []
    for _ in range(users):
        staples, phase = randoms.choice(items, 5, replace=False), randoms.integers(0, 2)
        taken, when = [], []
        for week in range(weeks):
            basket = [*(staples if week % 2 == phase else []), randoms.integers(items)]
            taken += basket
            when += [NOON + 7 * DAY * week + int(randoms.integers(0, 3600))] * len(basket)
        sequences.append(taken)
        times.append(when)
    return log_of(sequences, times, n_items=items)


def test_repeats_are_learnt_against_the_users_own_rhythm() -> None:
    log = weekly_log()
    past, future = log.split(NOON + 7 * DAY * 28 - DAY, days=7)
    config = EvaluationConfig(target="all", gammas=(0.0,), pool=40, ks=(5,), catalogue_users=0)
    found = {}
    for target in ("new", "all"):
        ranker = TwoStage(target=target, windows=3, users=300).fit(past)
        comparison = compare({"model": ranker}, future, past=past, config=config)
        values = comparison.results["model"].best.by_user
        # Half of the users take their staples in this week.
        due = comparison.pools.positives.lengths >= 5
        (ndcg,) = (v for m, v in values.items() if m.pool == "catalogue" and m.metric == "NDCG@10")
        found[target] = ndcg[due].mean()
    assert 50 < due.sum() < 100
    assert found["all"] > 0.8 > found["new"] + 0.2


def test_the_explanation_shows_repeats(tmp_path: Path) -> None:
    log = random_log(users=120, items=40, events=30)
    ranker = MixedRanker(**QUICK["mixed"], target="all").fit(log, table_of(log.catalog.items.ids))
    ranker.save(tmp_path / "model")
    loaded = load_ranker(tmp_path / "model")
    history = log.histories.take(np.array([3]))
    rows = np.arange(10)
    parts = loaded.contributions(history, rows)
    assert np.abs(parts["repeat"]).max() > 0
    np.testing.assert_allclose(sum(parts.values()), loaded.score_rows(history, Candidates.of([rows])), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(ranker.score_catalogue(history), loaded.score_catalogue(history))
    assert len(explain_items(loaded, history, rows[:2])) == 2
    new = MixedRanker(**QUICK["mixed"]).fit(log, table_of(log.catalog.items.ids))
    assert "repeat" not in new.contributions(history, rows)
