"""Explanations: exact falls, weights that sum to one, parts that add up, and words that claim no more than is so."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import InputError
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.model.attention import Attention
from heedful.model.popularity import PopularityIndex, PopularityOverTime
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.averaging import AveragingRanker
from heedful.rankers.base import Ranker
from heedful.rankers.heuristics import LastItem, WeightedSum
from heedful.rankers.mixed import MixedRanker
from heedful.rankers.popularity import Popularity
from heedful.rankers.registry import ALL_MODELS
from heedful.recommending.explanation import Explanation, explain, explain_items
from heedful.recommending.recommend import Recommender
from ranking_worlds import DAY, QUICK, START, log_of, random_log, table_of

HISTORY = ["item4", "item9", "item4", "item30", "item1", "item17"]
TIMES = [START + DAY * day for day in (3, 9, 40, 80, 99, 130)]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, QUICK[name]) for name in ALL_MODELS} | {
    "attention-paper": ("attention", {**QUICK["attention"], "preset": "paper", "depth": 3}),
    "attention-short": ("attention", {**QUICK["attention"], "max_history": 3}),
    "attention-shallow": ("attention", {**QUICK["attention"], "depth": 0}),
}
VARIANTS["attention-paper"][1].update(null_tokens=0)


@pytest.fixture(scope="module", params=list(VARIANTS))
def ranker(request: pytest.FixtureRequest) -> Ranker:
    log = random_log(kind_names=("view", "purchase"))
    name, options = VARIANTS[request.param]
    return ALL_MODELS[name](**options).fit(log, table_of(log.catalog.items.ids, attributes=log.catalog.attributes))


@pytest.fixture(scope="module")
def attention() -> AttentionRanker:
    log = random_log()
    return AttentionRanker(**QUICK["attention"]).fit(log, table_of(log.catalog.items.ids))


def past_of(ranker: Ranker, items: list[str] | None = None) -> Histories:
    history = HISTORY if items is None else items
    return ranker.histories_of([history], [TIMES[: len(history)]])


def scores_of(ranker: Ranker, history: Histories, rows: list[int], gamma: float | None) -> np.ndarray:
    return ranker.score_rows(history, Candidates.of([np.array(rows)]), pool_gamma=gamma)


@pytest.mark.parametrize("gamma", [0.0, 1.0, None])
def test_falls_equal_rescoring(ranker: Ranker, gamma: float | None) -> None:
    rows, history = [8, 0, 33, 4], past_of(ranker)
    found = explain_items(ranker, history, rows, pool_gamma=gamma)
    assert [e.row for e in found] == rows and [e.item for e in found] == [f"item{row}" for row in rows]
    for explanation, score in zip(found, scores_of(ranker, history, rows, gamma), strict=True):
        assert explanation.score == pytest.approx(score, abs=1e-5)
        assert ranker.items.take(explanation.past).to_pylist() == ["item17", "item1", "item30", "item4", "item9"]
    for place, past in enumerate(found[0].past):
        without = scores_of(ranker, history.where(history.items != past), rows, gamma)
        for explanation, score in zip(found, without, strict=True):
            assert explanation.falls[place] == pytest.approx(explanation.score - score, abs=1e-5)


def test_long_histories_are_done_in_parts(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = explain_items(ranker, past_of(ranker), [8, 9])
    monkeypatch.setattr("heedful.recommending.explanation._BATCH_ACTIONS", 13)
    for one, other in zip(explain_items(ranker, past_of(ranker), [8, 9]), expected, strict=True):
        np.testing.assert_allclose(one.falls, other.falls, atol=1e-5)


def test_reasons_are_the_past_items_by_their_fall(ranker: Ranker) -> None:
    explanation = explain_items(ranker, past_of(ranker), [8])[0]
    falls = {f"item{row}": fall for row, fall in zip(explanation.past, explanation.falls, strict=True)}
    assert {reason.item: reason.fall for reason in explanation.reasons} == pytest.approx(falls)
    in_order = [reason.fall for reason in explanation.reasons]
    assert in_order == sorted(in_order, reverse=True)
    assert [reason.item for reason in explain(ranker, past_of(ranker), 8, pool_gamma=0.0)] == [
        reason.item for reason in explanation.reasons
    ]
    assert all(reason.title == ranker.describe_item(reason.item) for reason in explanation.reasons)


def test_weights_of_each_layer_sum_to_one(ranker: Ranker) -> None:
    explanation = explain_items(ranker, past_of(ranker), [8, 9])[1]
    if not isinstance(ranker, AttentionRanker | MixedRanker):
        assert explanation.attention is None and explanation.null_attention is None
        assert all(reason.attention is None for reason in explanation.reasons)
        return
    config = ranker.config
    null_tokens = config.null_tokens if config.depth else 0
    assert explanation.attention is not None and explanation.null_attention is not None
    assert explanation.attention.shape == (config.depth, 5 + null_tokens)
    assert (explanation.attention >= 0).all()
    np.testing.assert_allclose(explanation.attention.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(explanation.null_attention, explanation.attention[:, 5:].sum(axis=1))
    columns = {f"item{row}": explanation.attention[:, place] for place, row in enumerate(explanation.past)}
    for reason in explanation.reasons:
        np.testing.assert_array_equal(reason.attention, columns[reason.item])


def test_parts_add_up_to_the_score(ranker: Ranker) -> None:
    for gamma in (0.0, 1.0, None):
        for explanation in explain_items(ranker, past_of(ranker), [8, 0, 33], pool_gamma=gamma):
            assert sum(explanation.parts.values()) == pytest.approx(explanation.score, abs=1e-5)
    nothing = explain_items(ranker, past_of(ranker, []), [8])[0]
    assert nothing.parts == {"popularity": pytest.approx(nothing.score)}


def test_items_older_than_the_memory_do_nothing() -> None:
    log = random_log()
    ranker = AttentionRanker(**{**QUICK["attention"], "max_history": 3}).fit(log, table_of(log.catalog.items.ids))
    explanation = explain_items(ranker, past_of(ranker), [8])[0]
    assert explanation.falls[3:].tolist() == [0, 0] and np.abs(explanation.falls[:3]).min() > 0
    assert explanation.attention is not None
    assert (explanation.attention[:, 3:5] == 0).all() and (explanation.attention[:, :3] > 0).all()


def test_attention_is_that_of_section_4_1(attention: AttentionRanker) -> None:
    """Against a float64 reference with keys and values projected for each past item, as the paper writes them."""
    history, rows = past_of(attention), np.array([8, 33])
    found, by_item = attention.attention_weights(history, rows), attention.by_history_item(history, rows)["attention"]
    assert found is not None and found.shape == (2, 2, 5 + 2) and by_item.shape == (2, 5)
    module = copy.deepcopy(attention.model.named_terms()["attention"]).double()
    assert isinstance(module, Attention)
    past = [17, 1, 30, 4, 9]
    with torch.no_grad():
        x = attention.inputs(np.array(past)).double()
        z = module.h(attention.inputs(rows).double())
        parts, rest = torch.zeros(2, 5, dtype=torch.float64), (z @ module.phi.T)[:, 0]
        for k in range(2):
            memory = torch.cat([x, module.null[k]])
            p = ((memory @ module.f[k].T) @ z.T).T.softmax(-1)
            z = z + torch.einsum("qn,nh->qh", p, module.g[k](memory))
            worth = (module.g[k](memory) @ module.phi.T)[:, 0]
            parts, rest = parts + p[:, :5] * worth[:5], rest + p[:, 5:] @ worth[5:]
            np.testing.assert_allclose(found[:, k], p.numpy(), atol=1e-6)
        logits = (z @ module.phi.T)[:, 0].numpy()
    value = attention.contributions(history, rows)["attention"]
    np.testing.assert_allclose(value, logits, atol=1e-5)
    np.testing.assert_allclose(by_item, parts.numpy(), atol=1e-5)
    # What is due to the items, to the candidate alone and to the null tokens is all.
    np.testing.assert_allclose(by_item.sum(axis=1) + rest.numpy(), value, atol=1e-5)


def test_interactions_are_divided_among_the_items(attention: AttentionRanker) -> None:
    history, rows = past_of(attention), np.array([8, 33])
    by_item = attention.by_history_item(history, rows)
    assert list(by_item) == ["attention", "item_interactions"]
    value = attention.contributions(history, rows)["item_interactions"]
    np.testing.assert_allclose(by_item["item_interactions"].sum(axis=1), value, atol=1e-5)
    assert np.abs(value).max() > 1e-4


def test_an_explanation_divides_the_terms_among_the_past_items(ranker: Ranker) -> None:
    explanation = explain_items(ranker, past_of(ranker), [8, 9])[1]
    expected = ranker.by_history_item(past_of(ranker), np.array([8, 9]))
    by_item = {reason.item: reason.by_term for reason in explanation.reasons}
    past = [by_item[item] for item in ranker.items.take(explanation.past).to_pylist()]
    assert len(past) == 5 and all(set(terms) == set(expected) for terms in past)
    for name, part in expected.items():
        seen = part.shape[1]
        assert [terms[name] for terms in past[seen:]] == [0] * (5 - seen)
        np.testing.assert_allclose([terms[name] for terms in past[:seen]], part[1], atol=1e-6)
    if not isinstance(ranker, AttentionRanker | MixedRanker):
        assert expected == {}


def test_names_of_the_contributions(attention: AttentionRanker) -> None:
    rows = np.array([3])
    assert list(attention.contributions(past_of(attention), rows)) == [
        "attention", "item_interactions", "user_tower", "popularity_over_time", "prior",
    ]  # fmt: skip
    log = random_log()
    table = table_of(log.catalog.items.ids)
    averaging = AveragingRanker(**QUICK["averaging"]).fit(log, table)
    assert list(averaging.contributions(past_of(averaging), rows)) == ["averaging", "popularity_over_time", "prior"]
    plain = LastItem().fit(log, table)
    assert list(plain.contributions(past_of(plain), rows)) == ["match"]


@pytest.mark.parametrize("gamma", [0.0, 1.0, None])
def test_contributions_add_up_to_the_score(ranker: Ranker, gamma: float | None) -> None:
    rows = np.arange(40)
    for history in (past_of(ranker), past_of(ranker, ["item7"]), past_of(ranker, [])):
        found = ranker.contributions(history, rows, pool_gamma=gamma)
        assert all(part.shape == (40,) and np.isfinite(part).all() for part in found.values())
        np.testing.assert_allclose(sum(found.values()), scores_of(ranker, history, rows.tolist(), gamma), atol=1e-5)


def test_popularity_now_is_that_of_the_end_of_the_log(attention: AttentionRanker) -> None:
    """What was learnt is what is beside the log share; without a term of a time there is nothing."""
    log = random_log()
    ranker = AttentionRanker(**QUICK["attention"]).fit(log, table_of(log.catalog.items.ids))
    learnt = ranker.popularity_now - ranker.log_shares[:]
    rows = np.arange(len(log.catalog))
    index = PopularityIndex(log.histories, len(rows))
    features, _ = index.features(rows, np.full(len(rows), index.end))
    term = ranker.model.named_terms()["popularity_over_time"]
    assert isinstance(term, PopularityOverTime)
    with torch.no_grad():
        expected = term.learnt(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(learnt, expected, atol=1e-5)
    assert np.abs(learnt).max() > 1e-3
    np.testing.assert_array_equal(ranker.popularity_now, attention.popularity_now)
    unseen = Popularity().fit(log)
    np.testing.assert_array_equal(unseen.popularity_now, unseen.log_shares[:])
    paper = AttentionRanker(**VARIANTS["attention-paper"][1]).fit(log, table_of(log.catalog.items.ids))
    np.testing.assert_array_equal(paper.popularity_now, paper.log_shares[:])


def line_world(model: type[Ranker] = LastItem, **options: Any) -> Ranker:
    """Known vectors: item 0 and 1 point one way, item 2 the other, item 3 across, item 4 as item 0 with its title."""
    log = log_of([[0, 1, 2, 3, 4], [0, 1], [0]])
    vectors = np.array([[1, 0], [0.9, 0.1], [-1, 0], [0, 1], [1, 0.05]], np.float32)
    titles = pa.table({"title": ["Gala", "Bananas", "Soap", "Rope", "Gala"], "category": ["fruit"] * 5})
    return model(**options).fit(log, ItemEmbeddings.from_arrays(log.catalog.items, vectors, attributes=titles))


def words(ranker: Ranker, history: list[str], row: int) -> str:
    return explain_items(ranker, past_of(ranker, history), [row])[0].text


def test_words_name_what_raises_the_score() -> None:
    ranker = line_world()
    assert words(ranker, ["item2", "item0"], 1) == "goes with Gala, +2.0"
    assert words(ranker, ["item2", "item0"], 0) == "used before, +2.0"


def test_what_lowers_the_score_is_not_a_cause() -> None:
    ranker = line_world()
    found = explain_items(ranker, past_of(ranker, ["item0", "item2"]), [1, 3])
    assert [(reason.item, reason.fall > 0) for reason in found[0].reasons] == [("item0", False), ("item2", False)]
    assert found[0].text == "nothing raises its score by much"


def test_words_of_what_is_popular_or_trending_with_everyone() -> None:
    log = random_log()
    popularity = Popularity().fit(log)
    most = int(np.argmax(popularity.users_of_item))
    shares = popularity.log_shares[:]
    assert words(popularity, ["item9", "item30"], most) == f"popular with everyone, {shares[most] - np.median(shares):+.1f}"
    assert words(popularity, [], most) == "popular with everyone; the user has no history"
    silent = AttentionRanker(**QUICK["attention"]).fit(log, table_of(log.catalog.items.ids))
    for parameter in silent.model.parameters():
        parameter.data.zero_()
    rare = int(np.argmin(silent.users_of_item))
    silent.at_time["popularity_over_time"][:] = -silent.prior(0.0)
    assert words(silent, ["item9", "item30"], rare) == "nothing raises its score by much"
    silent.at_time["popularity_over_time"][rare] += 100
    assert words(silent, ["item9", "item30"], rare) == "popular now, +100.0"


def test_equal_titles_are_named_once_and_small_causes_not_at_all() -> None:
    ranker = line_world(WeightedSum, evaluations=4)
    assert isinstance(ranker, WeightedSum)
    ranker.parameters = np.array([-20.0, 0.0, 0.0])  # all past items weigh the same
    assert words(ranker, ["item2", "item0", "item4"], 1) == "goes with Gala, +1.0"
    reasons = explain(ranker, past_of(ranker, ["item2", "item0", "item4"]), 1, pool_gamma=0.0)
    assert [reason.item for reason in reasons] == ["item4", "item0", "item2"]
    assert reasons[1].fall > 0.5 and 0 < reasons[2].fall < 0.01


def test_recommendations_are_explained_together(ranker: Ranker) -> None:
    top = Recommender(ranker).recommend(HISTORY, k=3, history_times=TIMES, pool_gamma=1.0)
    found = top.explanations()
    assert [e.item for e in found] == top.items and all(isinstance(e, Explanation) for e in found)
    np.testing.assert_allclose([e.score for e in found], top.scores, atol=1e-4)
    for place, explanation in enumerate(found):
        assert [(r.item, pytest.approx(r.fall, abs=1e-5)) for r in explanation.reasons] == [
            (r.item, r.fall) for r in top.explain(place)
        ]


def test_nothing_to_explain_and_what_cannot_be(ranker: Ranker) -> None:
    assert explain_items(ranker, past_of(ranker), []) == []
    empty = explain_items(ranker, past_of(ranker, []), [8])[0]
    assert empty.reasons == [] and empty.attention is None and len(empty.past) == 0
    with pytest.raises(InputError, match="an item that the ranker does not know cannot be explained; got: row -1"):
        explain_items(ranker, past_of(ranker), [3, -1])
    with pytest.raises(InputError, match="one user's scores are explained at a time; got: 2 histories; expected: one"):
        explain_items(ranker, ranker.histories_of([HISTORY, HISTORY]), [3])
