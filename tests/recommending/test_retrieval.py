"""Retrieval: exact search as the oracle, the closest inner product of a logit, and what a recommender makes of both."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from heedful.errors import ConfigError, FolderError, MismatchError, MissingExtraError
from heedful.events.candidates import Candidates
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.averaging import AveragingRanker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.popularity import Popularity
from heedful.recommending.index import ExactIndex, InvertedLists
from heedful.recommending.recommend import Query, Recommender
from heedful.recommending.retrieval import Retriever, default_retriever
from ranking_worlds import QUICK, random_log, table_of

RANKERS = {"attention": AttentionRanker, "averaging": AveragingRanker}


@pytest.fixture(scope="module", params=list(RANKERS))
def ranker(request: pytest.FixtureRequest) -> NeuralRanker:
    log = random_log()
    return RANKERS[request.param](**QUICK[request.param]).fit(log, table_of(log.catalog.items.ids))


def vectors(items: int, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((items, width)).astype(np.float32)


def test_exact_search_is_a_full_sort() -> None:
    table, queries = vectors(100), vectors(3)
    found = ExactIndex(lambda rows: table[rows], 100).search(queries, 7)
    assert found.tolist() == np.argsort(-(queries @ table.T), axis=1)[:, :7].tolist()
    more = ExactIndex(lambda rows: table[rows], 100).search(queries, 102)
    assert sorted(more[0, :100]) == list(range(100)) and more[0, 100:].tolist() == [-1, -1]


def test_inverted_lists_find_what_exact_search_finds() -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((50, 8)).astype(np.float32)
    table = np.repeat(centres, 400, axis=0) + 0.05 * rng.standard_normal((20_000, 8)).astype(np.float32)
    queries = centres[:20]
    lists = InvertedLists.build(lambda rows: table[rows], len(table))
    exact = ExactIndex(lambda rows: table[rows], len(table))
    pairs = zip(lists.search(queries, 50), exact.search(queries, 50), strict=True)
    assert len(lists) == 20_000
    assert np.mean([len(set(a) & set(b)) / 50 for a, b in pairs]) > 0.8


def test_as_many_candidates_as_items_is_the_exact_ranking(ranker: NeuralRanker) -> None:
    histories = ranker.histories_of([["item1", "item4", "item1"], [], ["item7"]])
    everything = Recommender(ranker, retrieve=len(ranker.items))
    for exclude in (True, False):
        rows, scores = everything.top_rows(histories, Query(k=6, exclude_history=exclude))
        expected, best = Recommender(ranker, exact=True).top_rows(histories, Query(k=6, exclude_history=exclude))
        np.testing.assert_allclose(scores, best, atol=1e-4)
        assert rows[1].tolist() == expected[1].tolist()


def test_all_that_is_seen_is_left_out_and_as_many_are_found(ranker: NeuralRanker) -> None:
    """The histories may be the latest of the past items alone."""
    histories = ranker.histories_of([["item1"], ["item7"]])
    first, _ = Recommender(ranker, retrieve=8).top_rows(histories, Query(k=4))
    seen = Candidates.of([np.concatenate([histories.items[:1], first[0]]), histories.items[1:]])
    found = Retriever(ranker, candidates=8).retrieve(histories, seen=seen)
    assert found.lengths.tolist() == [8, 8]
    rows, _ = Recommender(ranker, retrieve=8).top_rows(histories, Query(k=4), seen=seen)
    assert not set(rows[0].tolist()) & set(seen.rows[:5].tolist()) and (rows >= 0).all()
    assert rows[1].tolist() == first[1].tolist()


def test_the_inner_form_is_its_own_inner_product() -> None:
    log = random_log()
    table = table_of(log.catalog.items.ids)
    ranker = AveragingRanker(**QUICK["averaging"], form="inner").fit(log, table)
    histories = ranker.histories_of([["item1", "item4"], ["item9"]])
    found = Retriever(ranker).logit_vectors(histories) @ ranker.input_vectors(np.arange(60)).T
    scores = ranker.score_catalogue(histories) - ranker.item_bias - ranker.prior(0.0)
    np.testing.assert_allclose(
        found - found.mean(axis=1, keepdims=True), scores - scores.mean(axis=1, keepdims=True), atol=0.02
    )


def test_candidates_are_distinct_enough_and_never_of_the_past(ranker: NeuralRanker) -> None:
    past = ["item1", "item4", "item9"]
    histories = ranker.histories_of([past, ["item2"], []])
    found = Retriever(ranker, candidates=10).retrieve(histories)
    assert found.lengths.tolist() == [10, 10, 10]
    for user in range(3):
        rows = found.part(slice(user, user + 1)).rows
        assert len(set(rows)) == 10
        assert not set(rows) & set(histories.part(slice(user, user + 1)).items)
    alone = Retriever(ranker, candidates=10).retrieve(histories.part(slice(0, 1)))
    assert alone.rows.tolist() == found.part(slice(0, 1)).rows.tolist()
    popular = np.argsort(-ranker.log_shares[:], kind="stable")[:10]
    assert sorted(ranker.log_shares[found.part(slice(2, 3)).rows]) == sorted(ranker.log_shares[popular])


def test_more_recommendations_than_candidates(ranker: NeuralRanker) -> None:
    top = Recommender(ranker, retrieve=3).recommend(["item1", "item2"], k=12)
    assert len(set(top.items)) == 12 and not {"item1", "item2"} & set(top.items)


def test_every_item_is_scored_unless_there_are_many(ranker: NeuralRanker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_retriever(ranker) is None
    monkeypatch.setattr("heedful.recommending.retrieval.RETRIEVED", 10)
    found = default_retriever(ranker)
    assert found is not None and isinstance(found.index, ExactIndex)
    assert default_retriever(Popularity().fit(random_log())) is None
    monkeypatch.setattr("heedful.recommending.retrieval.EXACT_ITEMS", 10)
    assert isinstance(Retriever(ranker).index, InvertedLists)
    assert isinstance(Retriever(ranker, index="exact").index, ExactIndex)


def test_a_saved_index_answers_the_same_and_fits_its_model_only(ranker: NeuralRanker, tmp_path: Path) -> None:
    retriever = Retriever(ranker, candidates=8, index="lists")
    retriever.save(tmp_path / "index")
    histories = ranker.histories_of([["item1", "item4"]])
    again = Retriever.open(tmp_path / "index", ranker, candidates=8)
    assert again.retrieve(histories).rows.tolist() == retriever.retrieve(histories).rows.tolist()
    log = random_log()
    other = AveragingRanker(**{**QUICK["averaging"], "scale": 1.0}).fit(log, table_of(log.catalog.items.ids))
    with pytest.raises(MismatchError, match="was made for another model"):
        Retriever.open(tmp_path / "index", other)
    with pytest.raises(FolderError, match="exists already"):
        retriever.save(tmp_path / "index")


def test_what_cannot_be(ranker: NeuralRanker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="option 'retrieve' is out of range; got: 'popularity'"):
        Recommender(Popularity().fit(random_log()), retrieve=10)
    with pytest.raises(ConfigError, match="option 'retrieve' is out of range; got: -1"):
        Retriever(ranker, candidates=-1)
    with pytest.raises(ConfigError, match="expected: auto, exact or lists"):
        Retriever(ranker, index="tree")
    with pytest.raises(ConfigError, match="got: 'exact search'"):
        Retriever(ranker, index="exact").save(tmp_path / "index")
    (tmp_path / "broken").write_bytes(b"no index")
    with pytest.raises(FolderError, match="is not an index"):
        InvertedLists.read(tmp_path / "broken")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"heedful\[retrieval\]"):
        Retriever(ranker, index="lists")
