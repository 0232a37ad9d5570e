"""Side features: what an item is can be learnt from, saved, and known of new items too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from heedful.embeddings.onboarding import extend_table
from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.model.side_features import FeatureCodes, FeatureVectors
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.averaging import AveragingRanker
from heedful.rankers.base import Ranker
from heedful.rankers.cold_items import extended
from heedful.rankers.registry import load_ranker
from ranking_worlds import log_of, table_of

USERS, ITEMS, KINDS = 150, 60, 3
SHELVES = [f"shelf {row % KINDS}" for row in range(ITEMS)]


@pytest.fixture(scope="module")
def log() -> EventLog:
    """Each user buys from one shelf alone."""
    randoms = np.random.default_rng(3)
    return log_of([randoms.permutation(np.arange(user % KINDS, ITEMS, KINDS))[:12] for user in range(USERS)], n_items=ITEMS)


@pytest.fixture(scope="module")
def table(log: EventLog) -> ItemEmbeddings:
    """One vector for all but the last item: only the shelf tells what goes with what.

    Were it that of the last item, too, nothing would be left of it after centring.
    """
    vectors = np.repeat(np.random.default_rng(0).normal(size=(1, 8)), ITEMS, axis=0).astype(np.float32)
    vectors[-1] *= -1
    attributes = pa.table({"shelf": SHELVES, "number": list(range(ITEMS))})
    return ItemEmbeddings.from_arrays(log.catalog.items.ids, vectors, attributes=attributes)


def fit(model: type[Ranker], log: EventLog, table: ItemEmbeddings, *features: str) -> Ranker:
    terms = tuple(name for name in model(preset="default").config.terms if name != "popularity_over_time")
    options = {"steps": 150, "learning_rate": 0.01, "terms": terms, "noise": 0.0, "split": "last_items"}
    return model(features=features, **options).fit(log, table)


@pytest.fixture(scope="module", params=[AttentionRanker, AveragingRanker])
def with_shelves(request: pytest.FixtureRequest, log: EventLog, table: ItemEmbeddings) -> Ranker:
    return fit(request.param, log, table, "shelf")


def share_of_right_pairs(ranker: Ranker) -> float:
    """How often an item of the history's own shelf stands above one of another, over new histories of three items."""
    right = []
    for shelf in range(KINDS):
        history = [f"item{row}" for row in range(shelf, 9, KINDS)]
        scores = ranker.score(history, [f"item{row}" for row in range(9, ITEMS)], pool_gamma=None)
        own = np.array([row % KINDS == shelf for row in range(9, ITEMS)])
        right.append((scores[own][:, None] > scores[~own]).mean())
    return float(np.mean(right))


def test_what_items_are_is_learnt(with_shelves: Ranker, log: EventLog, table: ItemEmbeddings) -> None:
    assert share_of_right_pairs(with_shelves) > 0.95
    assert share_of_right_pairs(fit(type(with_shelves), log, table)) < 0.8


def test_embeddings_are_adapted_by_the_id_of_the_item(log: EventLog) -> None:
    """Vectors that mean nothing become such as tell the shelf."""
    meaningless = table_of(log.catalog.items.ids)
    fixed, adapted = fit(AveragingRanker, log, meaningless), fit(AveragingRanker, log, meaningless, "item_id")
    assert share_of_right_pairs(adapted) > share_of_right_pairs(fixed) + 0.1


def test_a_saved_model_knows_its_features(with_shelves: Ranker, tmp_path: Path) -> None:
    with_shelves.save(tmp_path / "model")
    loaded = load_ranker(tmp_path / "model")
    history, candidates = ["item0", "item3"], [f"item{row}" for row in range(9, 30)]
    np.testing.assert_array_equal(loaded.score(history, candidates), with_shelves.score(history, candidates))


def test_new_items_have_the_features_of_their_kind(with_shelves: Ranker, table: ItemEmbeddings) -> None:
    new = pa.table({"item_id": ["same", "other", "strange"], "shelf": ["shelf 0", "shelf 1", "a new one"]})
    longer = extended(with_shelves, extend_table(table, attributes=new).table)
    # Only the shelf may tell them apart.
    longer.embeddings = ItemEmbeddings.from_arrays(
        longer.items.ids,
        np.concatenate([table.vectors, np.repeat(table.vectors[:1], 3, axis=0)]),
        attributes=longer.attributes,
    )
    same, other, strange = longer.score(["item0", "item3", "item6"], ["same", "other", "strange"], pool_gamma=None)
    assert same > other and np.isfinite(strange)


def test_codes_are_by_frequency_and_unknown_values_are_none() -> None:
    attributes = pa.table({"colour": ["red", "blue", None, "red"], "size": [3, 3, 4, None]})
    known = FeatureCodes.learn(pa.array(["a", "b", "c", "d"]), attributes, ["colour", "size"])
    assert known.values == {"colour": ["red", "blue"], "size": ["3", "4"]}
    assert known.codes.tolist() == [[1, 2, 0, 1], [1, 1, 2, 0]]
    later = FeatureCodes.of(pa.array(["e", "f"]), pa.table({"size": ["4", "9"]}), known.values)
    assert later.codes.tolist() == [[0, 0], [2, 0]]


def test_items_of_which_nothing_is_known_have_their_ids() -> None:
    assert FeatureCodes.learn(pa.array(["a", "b"]), pa.table({}), ["item_id"]).codes.tolist() == [[1, 2]]


def test_values_that_are_not_known_add_nothing() -> None:
    vectors = FeatureVectors(counts=[2, 3], width=4)
    assert not vectors(torch.tensor([[0, 1, 2], [3, 0, 1]])).any()
    with torch.no_grad():
        for features in vectors.tables:
            features.weight += 1  # type: ignore[operator]
    vectors.tables[0].weight.data[0], vectors.tables[1].weight.data[0] = 0, 0  # type: ignore[index]
    assert vectors(torch.tensor([[0, 1, 2], [0, 0, 3]])).tolist() == [[0.0] * 4, [1.0] * 4, [2.0] * 4]


def test_an_attribute_that_items_do_not_have(log: EventLog, table: ItemEmbeddings) -> None:
    with pytest.raises(ConfigError, match=r"no such attribute; got: colour; expected: shelf, number, item_id; .*--features"):
        fit(AttentionRanker, log, table, "colour")
    with pytest.raises(ConfigError, match="'features' is out of range"):
        AttentionRanker(features=("shelf", "shelf"))
