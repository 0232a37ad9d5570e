"""The comparison as a whole: fairness, leaks, chance, verdicts, and clear ends."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_worlds import CUT, DAY, ShiftedRanker, log_of, noise, popularity, random_log, taste, taste_log

from heedful.errors import ConfigError, InputError
from heedful.evaluation.comparison import Comparison, EvaluationConfig, compare
from heedful.evaluation.measures import Measure, frequent_items
from heedful.evaluation.pools import make_pools
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.events.targets import TargetConfig
from heedful.metrics import ndcg, ranks
from ranking_worlds import chance_ndcg

CONFIG = EvaluationConfig(pool=100, resamples=500, catalogue_users=50)


@pytest.fixture(scope="module")
def logs() -> tuple[EventLog, EventLog]:
    return taste_log().split(CUT)


@pytest.fixture(scope="module")
def comparison(logs: tuple[EventLog, EventLog]) -> Comparison:
    past, future = logs
    models = {
        "taste": taste(past),
        "ranker": ShiftedRanker(past, taste(past, weight=2.0), missing=20),
        "popularity": popularity(past),
        "noise": noise(3),
    }
    return compare(models, future, past=past, config=CONFIG)


def test_every_value_by_the_slow_way(logs: tuple[EventLog, EventLog], comparison: Comparison) -> None:
    past, _ = logs
    pools, score = comparison.pools, taste(past)
    for gamma, name in ((1.0, "gamma 1"), (0.0, "gamma 0")):
        for number in range(0, len(pools), 40):
            one = slice(number, number + 1)
            positives, negatives = pools.positives.part(one).rows, pools.negatives[gamma].part(one).rows[:100]
            rows = np.concatenate([positives, negatives])
            scores = score(pools.histories(past, one), Candidates.of([rows]))
            found = ndcg(ranks(scores, np.array([0, len(rows)]), np.arange(len(rows)) < len(positives)))[0]
            assert comparison.results["taste"].plain.by_user[Measure(name, 100, "NDCG")][number] == pytest.approx(found)


def test_the_catalogue_by_the_slow_way(logs: tuple[EventLog, EventLog], comparison: Comparison) -> None:
    past, _ = logs
    pools, score = comparison.pools, taste(past)
    measured = np.flatnonzero(np.isfinite(comparison.results["taste"].plain.by_user[Measure("catalogue", 0, "NDCG@10")]))
    assert measured.tolist() == pools.sample(50).tolist()
    for number in measured[:10]:
        one = slice(int(number), int(number) + 1)
        seen = set(pools.histories(past, one).items.tolist())
        rows = np.array([row for row in range(len(pools.items)) if row not in seen])
        scores = score(pools.histories(past, one), Candidates.of([rows]))
        found = ranks(scores, np.array([0, len(rows)]), np.isin(rows, pools.positives.part(one).rows))
        values = comparison.results["taste"].plain.by_user
        assert values[Measure("catalogue", 0, "NDCG@10")][number] == pytest.approx(ndcg(found, 10)[0])
        assert values[Measure("catalogue", 0, "Recall@50")][number] == pytest.approx((found.values < 50).mean())


def test_a_scorer_by_chance_gets_what_chance_gives() -> None:
    """With p positives among n each rank is uniform: NDCG is p mean discounts over the ideal, Recall@10 is 10 / n."""
    past, future = random_log(events=8000, n_users=400).split(CUT)

    def by_chance(histories: Histories, candidates: Candidates) -> np.ndarray:
        return np.random.default_rng(len(candidates.rows)).random(len(candidates.rows))

    found = compare({"chance": by_chance}, future, past=past, config=CONFIG)
    positives = found.pools.positives.lengths
    expected = chance_ndcg(positives, 100)
    for gamma in ("gamma 1", "gamma 0.75", "gamma 0"):
        got = found.estimate("chance", Measure(gamma, 100, "NDCG"))
        assert got is not None and abs(got.mean - expected) < 4 * got.error
        got = found.estimate("chance", Measure(gamma, 100, "Recall@10"))
        assert got is not None and abs(got.mean - (10 / (100 + positives)).mean()) < 4 * got.error


def test_a_constant_scorer_gets_the_middle_rank(logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs
    found = compare({"constant": lambda h, c: np.zeros(len(c.rows))}, future, past=past, config=CONFIG)
    values = found.results["constant"].plain.by_user
    p = found.pools.positives.lengths
    expected = p / np.log2((100 + p - 1) / 2 + 2) / np.array([(1 / np.log2(np.arange(n) + 2)).sum() for n in p])
    assert values[Measure("gamma 1", 100, "NDCG")] == pytest.approx(expected)
    assert (values[Measure("gamma 1", 100, "Recall@10")] == 0).all()


def test_nothing_at_or_after_the_cut_reaches_a_model(logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs
    seen: list[int] = []

    def spy(histories: Histories, candidates: Candidates) -> np.ndarray:
        seen.append(int(histories.times.max()))
        touched = np.repeat(np.arange(len(histories)), histories.lengths)
        if len(candidates.rows) < len(candidates) * 300:  # a pool, not the catalogue: nothing of the history in it
            pairs = candidates.owners * 10_000 + candidates.rows
            assert not np.isin(pairs, touched * 10_000 + histories.items).any()
        return np.zeros(len(candidates.rows))

    compare({"spy": spy}, future, past=past, config=CONFIG)
    assert seen and max(seen) < CUT


def test_a_place_in_the_list_tells_nothing(logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs

    def first_is_best(histories: Histories, candidates: Candidates) -> np.ndarray:
        return -(np.arange(len(candidates.rows)) - candidates.offsets[candidates.owners]).astype(float)

    found = compare({"first": first_is_best, "noise": noise(5)}, future, past=past, config=CONFIG)
    measure = Measure("gamma 0", 100, "NDCG")
    first, other = found.estimate("first", measure), found.estimate("noise", measure)
    assert first is not None and other is not None
    assert abs(first.mean - other.mean) < 5 * (first.error + other.error)


def test_a_model_trained_on_the_future_is_refused(logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs
    with pytest.raises(InputError, match="'leaky' was trained on events of the test period"):
        compare({"leaky": ShiftedRanker(future, popularity(future))}, future, past=past, config=CONFIG)
    with pytest.raises(InputError, match="the past reaches into the future"):
        compare({"x": noise(0)}, past, past=future, config=CONFIG)


def test_verdicts_order_the_models(comparison: Comparison) -> None:
    found = {(v.measure, v.first, v.second): v for v in comparison.verdicts}
    assert len(found) == 6 * len(comparison.measures())
    for gamma in ("gamma 1", "gamma 0.75"):
        assert found[Measure(gamma, 100, "NDCG"), "taste", "popularity"].better == "taste"
    # Among negatives drawn by popularity, popularity is hardly better than noise; among all items alike it is.
    assert found[Measure("gamma 0", 100, "NDCG"), "popularity", "noise"].better == "popularity"
    assert all(v.p_holm >= v.test.p for v in comparison.verdicts)


def test_equal_models_are_not_told_apart(logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs
    found = compare({"one": noise(0), "two": noise(1)}, future, past=past, config=CONFIG)
    assert not any(verdict.better for verdict in found.verdicts)


def test_the_prior_has_a_row_of_its_own_and_the_plain_model_stands_beside(comparison: Comparison) -> None:
    labels = [label for label, _ in comparison.results["ranker"].ways()]
    assert labels == ["ranker", "ranker, no prior"]
    measure = Measure("gamma 0.75", 100, "NDCG")
    assert comparison.estimate("ranker", measure) == comparison.estimate("ranker", measure, prior=False)
    measure = Measure("gamma 0", 100, "NDCG")
    assert comparison.estimate("ranker", measure) != comparison.estimate("ranker", measure, prior=False)


def test_the_same_seed_gives_the_same_numbers_whichever_models_are_compared(
    logs: tuple[EventLog, EventLog], comparison: Comparison
) -> None:
    past, future = logs
    alone = compare({"taste": taste(past)}, future, past=past, config=CONFIG)
    assert alone.pools.hash == comparison.pools.hash
    assert alone.to_dict()["models"]["taste"] == comparison.to_dict()["models"]["taste"]
    other = compare({"taste": taste(past)}, future, past=past, config=replace(CONFIG, seed=1))
    assert other.pools.hash != comparison.pools.hash


def test_given_pools_are_used(logs: tuple[EventLog, EventLog], comparison: Comparison) -> None:
    past, future = logs
    again = compare({"taste": taste(past)}, future, past=past, pools=comparison.pools, config=CONFIG)
    assert again.to_dict()["models"]["taste"] == comparison.to_dict()["models"]["taste"]
    with pytest.raises(
        ConfigError, match="the pools that were given are too small; got: 100 negatives; expected: at least 200"
    ):
        compare({"x": noise(0)}, future, past=past, pools=comparison.pools, config=EvaluationConfig(pool=200))


def test_the_past_may_come_from_the_split(logs: tuple[EventLog, EventLog], comparison: Comparison) -> None:
    past, future = logs
    ranker = ShiftedRanker(past, popularity(past))
    with pytest.raises(ConfigError, match="not clear what the test users did before"):
        compare({"ranker": ranker}, replace(future, past=None), config=CONFIG)
    assert compare({"ranker": ranker}, replace(future, past=past), config=CONFIG).pools.hash == comparison.pools.hash


def test_the_print_is_a_table(comparison: Comparison) -> None:
    text = str(comparison)
    for part in ("gamma 0.75: among 100 sampled negatives", "whole catalogue:", "Recall@50", "ranker, no prior", "Krichene"):
        assert part in text
    assert comparison.pools.hash[:16] in text
    assert max(len(line) for line in text.splitlines() if "±" in line and "pools" not in line) < 80


def test_json_and_rows_by_user(comparison: Comparison) -> None:
    facts = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    found = comparison.estimate("taste", Measure("gamma 1", 100, "NDCG"))
    assert found is not None
    assert facts["models"]["taste"]["taste"]["gamma 1, 100 negatives, NDCG"]["mean"] == found.mean
    table = comparison.per_user()
    assert len(table) == 5 * len(comparison.pools)  # four models, one of them in two ways
    chosen = table.filter((np.asarray(table["model"]) == "taste") & ~np.asarray(table["prior"]))
    assert np.mean(chosen["gamma 1, 100 negatives, NDCG"].to_numpy()) == pytest.approx(found.mean)
    assert chosen["catalogue, NDCG@10"].null_count == len(comparison.pools) - 50


def test_classes_of_users_and_items(comparison: Comparison) -> None:
    classes = comparison.user_classes()
    assert list(classes) == ["light", "medium", "heavy"]
    assert (sum(users.astype(int) for users in classes.values()) == 1).all()
    lengths = comparison.history_lengths
    assert lengths[classes["light"]].max() <= lengths[classes["medium"]].min()
    assert frequent_items(np.array([1, 10, 4, 5])).tolist() == [False, True, False, False]
    beyond = comparison.beyond_table()
    assert beyond is not None and [row[0] for row in beyond.rows] == [
        "taste",
        "ranker",
        "ranker, no prior",
        "popularity",
        "noise",
    ]
    coverage = {name: comparison.results[name].plain.coverage for name in ("taste", "popularity")}
    assert coverage["taste"] > coverage["popularity"]


def test_small_catalogues_get_smaller_pools_unless_the_size_was_asked_for() -> None:
    past, future = random_log(n_items=60, events=1500).split(CUT)
    found = compare({"noise": noise(0)}, future, past=past, config=EvaluationConfig(resamples=100))
    assert found.size == len(past.catalog) - 1 and found.config.pool_sizes == (10, 30, found.size)
    with pytest.raises(ConfigError, match="larger than the catalogue"):
        compare({"noise": noise(0)}, future, past=past, config=EvaluationConfig(pool=1000))


def test_larger_pools_are_measured_on_the_users_of_the_catalogue(
    logs: tuple[EventLog, EventLog], comparison: Comparison
) -> None:
    """Their values are those of a run in which everybody has the largest pools."""
    past, future = logs
    assert comparison.config.pool_sizes == (10, 30, 100, 300, len(past.catalog) - 1)
    every = compare({"ranker": ShiftedRanker(past, taste(past, weight=2.0), missing=20)}, future, past=past,
                    config=replace(CONFIG, catalogue_users=0))  # fmt: skip
    sample = comparison.figure_users
    assert sample is not None and sample.sum() == 50 and every.figure_users is None
    for size in comparison.config.pool_sizes:
        measure = Measure("gamma 0.75", size, "NDCG")
        some = comparison.results["ranker"].best.by_user[measure]
        measured = np.isfinite(some)
        assert (measured | ~sample).all() and measured.sum() == (50 if size > 100 else len(some))
        assert some[measured] == pytest.approx(every.results["ranker"].best.by_user[measure][measured])


def test_kinds_choose_the_positives(logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs
    with pytest.raises(ConfigError, match="no events of that kind"):
        compare({"x": noise(0)}, future, past=past, config=EvaluationConfig(target_kinds=("stream",)))
    two_kinds = replace(
        future,
        kinds=("purchase", "view"),
        histories=replace(future.histories, kinds=(np.arange(future.n_events) % 2).astype(np.uint8)),
    )
    every, some = (
        make_pools(past, two_kinds, gammas=(0.0,), size=50, targets=TargetConfig(target_kinds=kinds))
        for kinds in ((), ("view",))
    )
    assert 0 < some.positives.offsets[-1] < every.positives.offsets[-1]


def test_clear_ends(logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare({}, future, past=past)
    for option, value in (("gammas", ()), ("gammas", (1.0, 1.0)), ("pool", 0), ("ks", ()), ("alpha", 1.0), ("days", 0.0)):
        with pytest.raises(ConfigError, match=f"option '{option}' is out of range"):
            EvaluationConfig(**{option: value})
    with pytest.raises(InputError, match="no event"):
        EvaluationConfig(cut="1999-01-01").split(taste_log())
    short = log_of(np.array([0]), np.array([0]), np.array([CUT]), n_users=1, n_items=1)
    with pytest.raises(InputError, match="no event before the cut"):
        EvaluationConfig().split(short)


def test_without_a_cut_the_last_days_are_the_test() -> None:
    log = taste_log()
    past, future = EvaluationConfig(days=3).split(log)
    assert future.histories.times.max() == log.histories.times.max()
    assert future.histories.times.max() - future.histories.times.min() < 3 * DAY
    assert past.n_events + future.n_events == log.n_events


def test_the_configuration_survives_json() -> None:
    config = EvaluationConfig(cut="2017-12-24", pool=50)
    values = json.loads(json.dumps(config.to_dict()))
    assert EvaluationConfig.from_dict({k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}) == config


def test_new_items_and_repeats_are_reported_apart() -> None:
    """A model that ranks a user's own items first is perfect for repeats, and the better the fewer new items are above."""
    n = 40
    users, step = np.repeat(np.arange(n), 5), np.tile([0, 1, 1, 2, 3], n)
    times = CUT + DAY * np.tile([-3, -2, 1, 2, 3], n)
    past, future = log_of(users, (users + step) % n, times, n_users=n, n_items=n).split(CUT)

    def own_first(histories: Histories, candidates: Candidates) -> np.ndarray:
        own = histories.items.reshape(-1, 2)
        return (candidates.rows[:, None] == own[candidates.owners]).any(axis=1) * 1.0

    config = EvaluationConfig(target="all", gammas=(0.0,), pool=20, ks=(2,))
    found = compare({"own": own_first, "noise": noise(0)}, future, past=past, config=config)
    best = found.results["own"].best.by_user
    catalogue = {m.metric: values for m, values in best.items() if m.pool == "catalogue"}
    assert (catalogue["Recall@2 of repeats"] == 1).all() and (catalogue["Recall@2 of new items"] == 0).all()
    # Of the three targets one is among the first two; both own items share the first places.
    assert catalogue["Recall@2"] == pytest.approx(np.full(n, catalogue["Recall@2"][0]))
    shown = str(found)
    assert "NDCG@10 of repeats" in shown and "Recall@2 of new items" in shown
    again = compare({"own": own_first}, future, past=past, config=replace(config, target="repeat"))
    assert again.config.gammas == (0.0,) and "of repeats" not in str(again)
    (ranked,) = (v for m, v in again.results["own"].best.by_user.items() if m[0] == "catalogue" and m.metric == "Recall@2")
    assert (ranked == 1).all()  # only the two seen items take part
