"""Trained rankers that take new items: the old scores stay, the new ones are sound, and no foreign table gets in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from heedful.embeddings.onboarding import extend_table
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError, MismatchError
from heedful.events.histories import Histories
from heedful.events.log import EventLog
from heedful.model.popularity import PopularityIndex, new_item_features
from heedful.rankers.base import Ranker
from heedful.rankers.cold_items import extended
from heedful.rankers.external.ease import EASE
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.registry import MODELS, load_ranker
from ranking_worlds import DAY, QUICK, START, histories_of, random_log, table_of

NEW = ["new1", "new2"]


def base_table(log: EventLog) -> ItemEmbeddings:
    return table_of(log.catalog.items.ids, attributes=log.catalog.attributes)


def extension_of(table: ItemEmbeddings) -> ItemEmbeddings:
    return extend_table(table, attributes=pa.table({"item_id": NEW, "title": ["title 3", "something else"]})).table


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log()


@pytest.fixture(scope="module", params=list(MODELS))
def ranker(request: pytest.FixtureRequest, log: EventLog) -> Ranker:
    return MODELS[request.param](**QUICK[request.param]).fit(log, base_table(log))


def past_of(ranker: Ranker) -> Histories:
    return ranker.histories_of([["item4", "item9", "item4", "item30"], [], ["item1"]])


@pytest.mark.parametrize("gamma", [0.0, 1.0, None])
def test_old_scores_stay_and_new_ones_are_finite(ranker: Ranker, log: EventLog, gamma: float | None) -> None:
    longer = extended(ranker, extension_of(base_table(log)))
    before = ranker.score_catalogue(past_of(ranker), pool_gamma=gamma)
    after = longer.score_catalogue(past_of(longer), pool_gamma=gamma)
    np.testing.assert_array_equal(after[:, :-2], before)
    assert after.shape[1] == before.shape[1] + 2 and np.isfinite(after).all()
    assert len(ranker.items) == len(before[0]) == len(ranker.users_of_item)  # the old one knows nothing of it
    assert longer.describe_item("new2") == "something else"
    assert longer.newcomers_from == len(ranker.items) and ranker.newcomers_from is None


def test_new_items_count_in_histories_and_among_candidates(ranker: Ranker, log: EventLog) -> None:
    longer = extended(ranker, extension_of(base_table(log)))
    assert longer.histories_of([["new1", "item4"]]).items.tolist() == [60, 4]
    scores = longer.score(["new1", "item4"], ["new2", "item9", "new1"])
    assert np.isfinite(scores).all() and scores.min() > -1e6
    np.testing.assert_allclose(
        longer.score_catalogue(longer.histories_of([["new1", "item4"]]))[0, [61, 9, 60]], scores, atol=1e-4
    )


def test_an_item_without_users_is_not_put_at_the_top(log: EventLog) -> None:
    """In training an item without actions is always one that somebody is about to use, which must not show."""
    ranker = MODELS["attention"](**{**QUICK["attention"], "steps": 200}).fit(log, base_table(log))
    longer = extended(ranker, extension_of(base_table(log)))
    assert isinstance(longer, NeuralRanker)
    standing = longer.item_bias + longer.prior(0.0)
    assert standing[-2:].max() < np.quantile(standing[:-2], 0.5)


def test_a_model_folder_takes_an_extension_and_no_other_table(ranker: Ranker, log: EventLog, tmp_path: Path) -> None:
    table = base_table(log)
    if not ranker.needs_embeddings:
        return
    table.save(tmp_path / "embeddings")
    ranker.fit(log, ItemEmbeddings.load(tmp_path / "embeddings")).save(tmp_path / "model")
    extension_of(table).save(tmp_path / "extended")
    loaded = load_ranker(tmp_path / "model", embeddings=ItemEmbeddings.load(tmp_path / "extended"))
    assert loaded.items.ids.to_pylist()[-2:] == NEW and loaded.users_of_item[-2:].tolist() == [0, 0]
    np.testing.assert_array_equal(
        loaded.score_catalogue(past_of(loaded))[:, :-2], load_ranker(tmp_path / "model").score_catalogue(past_of(loaded))
    )
    vectors = np.array(extension_of(table).vectors)
    vectors[7] += 1
    foreign = ItemEmbeddings.from_arrays(extension_of(table).items, vectors)
    with pytest.raises(MismatchError, match="was trained on another embedding table"):
        load_ranker(tmp_path / "model", embeddings=foreign)
    with pytest.raises(MismatchError, match="was trained on another embedding table"):
        load_ranker(tmp_path / "model", embeddings=table.head(50))
    loaded.save(tmp_path / "longer")
    again = load_ranker(tmp_path / "longer")
    assert len(again.items) == len(loaded.items)
    assert (
        np.argsort(-again.score_catalogue(past_of(again))[0])[:5].tolist()
        == np.argsort(-loaded.score_catalogue(past_of(loaded))[0])[:5].tolist()
    )


def test_what_is_not_an_extension(ranker: Ranker, log: EventLog) -> None:
    other = table_of([f"other{n}" for n in range(70)], seed=3)
    with pytest.raises(MismatchError, match="is not an extension of the one that the ranker was trained on"):
        extended(ranker, other)


def test_a_ranker_that_knows_the_log_alone(log: EventLog) -> None:
    ease = EASE(**QUICK["ease"]).fit(log)
    with pytest.raises(ConfigError, match="ease cannot take new items"):
        extended(ease, extension_of(base_table(log)))


def test_users_of_new_items_are_taken_over(log: EventLog) -> None:
    table = base_table(log)
    contexts = np.random.default_rng(2).normal(size=table.vectors.shape)
    table = ItemEmbeddings.from_arrays(table.items, table.vectors, contexts, attributes=table.attributes)
    ranker = MODELS["attention"](**QUICK["attention"]).fit(log, table)
    late = random_log(seed=4, items=62, ids=[*(f"item{n}" for n in range(60)), *NEW], users=30)
    extension = extend_table(table, late)
    longer = extended(ranker, extension.table)
    assert longer.users_of_item[-2:].tolist() == extension.users.tolist() and extension.users.min() > 0
    assert isinstance(longer, NeuralRanker)
    # More users, more popular: to everyone alike.
    nobody = extended(ranker, extension_of(table))
    assert isinstance(nobody, NeuralRanker)
    assert (longer.item_bias + longer.prior(0.0))[-1] > (nobody.item_bias + nobody.prior(0.0))[-1]


def test_features_of_new_items_are_those_of_an_even_log() -> None:
    """A log of even flow: item 0 all along, item 1 once in each of the last 8 of 256 days, item 2 once on the last."""
    times = [START + np.arange(256) * DAY, START + (248 + np.arange(8)) * DAY, START + np.array([255]) * DAY]
    histories = histories_of([[0] * 256, [1] * 8, [2]], times)
    alone = [histories.where(histories.items != other) for other in (2, 1)]
    for row, log, users in ((1, alone[0], 8), (2, alone[1], 1)):
        owners = [[item] for item in log.items]  # each action by a user of its own, so that first actions are all actions
        single = histories_of(owners, [[time] for time in log.times])
        index = PopularityIndex(single, 3)
        expected, _ = index.features(np.array([row]), np.array([index.end]))
        age = float(index.end - log.times[log.items == row][0])
        found = new_item_features(np.array([users]), np.array([age]), index.span)
        np.testing.assert_allclose(found, expected, atol=0.35)
        assert np.abs(found - expected).mean() < 0.1
