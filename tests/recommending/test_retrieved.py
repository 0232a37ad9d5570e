"""Recommending by retrieval gives what scoring every item gives: filtered, limited, extended, kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import MismatchError
from heedful.events.log import EventLog
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.neural import NeuralRanker
from heedful.recommending.index import ExactIndex, InvertedLists
from heedful.recommending.limits import Limit, take_within
from heedful.recommending.recommend import Query, Recommender
from heedful.recommending.retrieval import Retriever, kept_retriever
from ranking_worlds import QUICK, random_log

ITEMS, CANDIDATES = 2000, 150


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(items=ITEMS)


@pytest.fixture(scope="module")
def ranker(log: EventLog) -> NeuralRanker:
    vectors = np.random.default_rng(3).standard_normal((ITEMS, 16), dtype=np.float32)
    shelf = pa.table({"shelf": [f"s{row % 20}" for row in range(ITEMS)]})
    table = ItemEmbeddings.from_arrays(log.catalog.items, vectors, attributes=shelf)
    return AttentionRanker(**QUICK["attention"]).fit(log, table)


@pytest.mark.parametrize("index", ["exact", "lists"])
@pytest.mark.parametrize(
    "query",
    [
        Query(),
        Query(exclude_history=False),
        Query(where="shelf < 's5'"),
        Query(where="shelf = 's3'"),
        Query(at_most={"shelf": 1}),
    ],
    ids=str,
)
def test_retrieved_answers_are_the_exhaustive_ones(log: EventLog, ranker: NeuralRanker, index: str, query: Query) -> None:
    histories = log.histories.take(np.arange(60))
    retriever = Retriever(ranker, candidates=CANDIDATES, index=index)
    found, scores = Recommender(ranker, retriever=retriever).top_rows(histories, query)
    exact, best = Recommender(ranker, exact=True).top_rows(histories, query)
    assert found.shape == exact.shape and (scores <= best + 1e-4).all()
    kept = [len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]
    assert np.mean(kept) >= 0.99


def test_few_eligible_items_are_all_scored(ranker: NeuralRanker) -> None:
    recommender = Recommender(ranker, retrieve=CANDIDATES)
    found = recommender.recommend(["item1"], k=300, where="shelf = 's3'")
    assert len(found) == ITEMS // 20
    assert {int(item[4:]) % 20 for item in found.items} == {3}


def test_a_limit_that_retrieved_items_cannot_meet_is_met_by_the_catalogue(log: EventLog, ranker: NeuralRanker) -> None:
    found = Recommender(ranker, retrieve=5).recommend(["item1"], k=18, at_most={"shelf": 1})
    assert len(found) == 18 and len({int(item[4:]) % 20 for item in found.items}) == 18


def test_pages_do_not_overlap(ranker: NeuralRanker) -> None:
    recommender = Recommender(ranker, retrieve=CANDIDATES)
    pages = [recommender.recommend(["item1"], k=10, offset=offset).items for offset in (0, 10, 20)]
    whole = recommender.recommend(["item1"], k=30).items
    assert [item for page in pages for item in page] == whole


def test_similar_items_among_retrieved_ones(ranker: NeuralRanker) -> None:
    retriever = Retriever(ranker, candidates=CANDIDATES)
    for where in ("", "shelf < 's5'"):
        rows, cosines = Recommender(ranker, retriever=retriever).similar(7, k=10, where=where)
        expected, best = Recommender(ranker, exact=True).similar(7, k=10, where=where)
        assert rows.tolist() == expected.tolist()
        np.testing.assert_allclose(cosines, best, rtol=1e-5)
        assert 7 not in rows


def test_the_index_of_a_large_catalogue_is_kept_in_the_model_folder(
    ranker: NeuralRanker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = kept_retriever(ranker, tmp_path)
    assert small is not None and isinstance(small.index, ExactIndex)
    assert not (tmp_path / "index").exists()
    monkeypatch.setattr("heedful.recommending.retrieval.EXACT_ITEMS", 1000)
    made = kept_retriever(ranker, tmp_path)
    assert made is not None and isinstance(made.index, InvertedLists)
    written = (tmp_path / "index" / "manifest.json").read_bytes()
    again = kept_retriever(ranker, tmp_path)
    histories = ranker.histories_of([["item1", "item5"]])
    assert again is not None
    assert again.retrieve(histories).rows.tolist() == made.retrieve(histories).rows.tolist()
    assert (tmp_path / "index" / "manifest.json").read_bytes() == written


def test_the_index_of_another_model_is_made_again(
    log: EventLog, ranker: NeuralRanker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heedful.recommending.retrieval.EXACT_ITEMS", 1000)
    vectors = np.random.default_rng(4).standard_normal((ITEMS, 16), dtype=np.float32)
    other = AttentionRanker(**QUICK["attention"]).fit(log, ItemEmbeddings.from_arrays(log.catalog.items, vectors))
    kept_retriever(other, tmp_path)
    with pytest.raises(MismatchError, match="was made for another model"):
        Retriever.open(tmp_path / "index", ranker)
    kept_retriever(ranker, tmp_path)
    Retriever.open(tmp_path / "index", ranker)


def test_a_limit_counts_what_comes_first() -> None:
    limits = [Limit(1, np.array([0, 0, 1, -1, -1, 1]))]
    assert take_within([0, 1, 2, 3, 4, 5], limits, 6) == [0, 2, 3, 4]
    assert take_within([0, 1, 2, 3, 4, 5], limits, 3, first=[1]) == [1, 2, 3]
