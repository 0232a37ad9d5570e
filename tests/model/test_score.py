"""A score is a sum of named terms; one that is added is trained, saved, explained and scored like the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from heedful.embeddings.onboarding import extend_table
from heedful.embeddings.table import ItemEmbeddings
from heedful.events.log import EventLog
from heedful.model.inputs import Inputs
from heedful.model.popularity import N_POPULARITY_FEATURES, PopularityIndex, new_item_features
from heedful.model.score import ScoreModel, Term
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.cold_items import extended
from heedful.rankers.registry import ALL_MODELS, load_ranker
from heedful.recommending.explanation import explain_items
from ranking_worlds import QUICK, random_log, table_of


class Nearness(Term):
    """Ours, ten lines: w times the mean product of the candidate with the items of the history."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.1))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        parts = self.by_history_item(inputs)
        return parts.sum(-1)

    def by_history_item(self, inputs: Inputs) -> torch.Tensor:
        products_BCL = inputs.xq_BCD @ inputs.x_BLD.transpose(1, 2) * inputs.used_BL[:, None]
        return self.w * products_BCL / inputs.used_BL.sum(1)[:, None, None].clamp(min=1)


class OfItsTime(Term):
    """A term that does not depend on the user."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(N_POPULARITY_FEATURES, 1)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        assert inputs.popularity_BCF is not None
        return self.line(inputs.popularity_BCF).squeeze(-1)

    def at_time(self, popularity_IF: torch.Tensor) -> torch.Tensor:
        return self.line(popularity_IF).squeeze(-1)


class Mine(AttentionRanker):
    """Attention and the term of this file."""

    def _new_terms(self, width: int) -> dict[str, Term]:
        return {**super()._new_terms(width), "nearness": Nearness()}


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log()


@pytest.fixture(scope="module")
def table(log: EventLog) -> ItemEmbeddings:
    return table_of(log.catalog.items.ids, attributes=log.catalog.attributes)


@pytest.fixture(scope="module", params=["default", "paper"])
def mine(request: pytest.FixtureRequest, log: EventLog, table: ItemEmbeddings) -> Mine:
    return Mine(preset=request.param, **{**QUICK["attention"], "learning_rate": 0.01}).fit(log, table)


HISTORY, CANDIDATES = ["item3", "item9", "item20"], [f"item{row}" for row in range(25, 45)]


def test_an_added_term_is_trained(mine: Mine) -> None:
    term = mine.model.named_terms()["nearness"]
    assert isinstance(term, Nearness) and abs(term.w.item() - 0.1) > 1e-3


def test_an_added_term_is_scored_and_named(mine: Mine) -> None:
    history, rows = mine.histories_of([HISTORY]), mine.items.rows(CANDIDATES)
    found = mine.contributions(history, rows)
    term = mine.model.named_terms()["nearness"]
    assert isinstance(term, Nearness)
    x, xq = mine.input_vectors(mine.items.rows(HISTORY)), mine.input_vectors(rows)
    np.testing.assert_allclose(found["nearness"], term.w.item() * (xq @ x.T).mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(sum(found.values()), mine.score(HISTORY, CANDIDATES), atol=1e-5)
    everything = mine.score_catalogue(history)[0, rows]
    np.testing.assert_allclose(everything, mine.score(HISTORY, CANDIDATES), atol=1e-4)


def test_an_added_term_is_explained(mine: Mine) -> None:
    explanation = explain_items(mine, mine.histories_of([HISTORY]), [30])[0]
    assert explanation.parts["nearness"] != 0
    by_item = sum(reason.by_term["nearness"] for reason in explanation.reasons)
    assert by_item == pytest.approx(explanation.parts["nearness"], abs=1e-5)


def test_an_added_term_is_saved(mine: Mine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_MODELS, "attention", Mine)
    mine.save(tmp_path / "model")
    loaded = load_ranker(tmp_path / "model")
    assert list(loaded.model.named_terms()) == list(mine.model.named_terms())  # type: ignore[attr-defined]
    np.testing.assert_array_equal(loaded.score(HISTORY, CANDIDATES), mine.score(HISTORY, CANDIDATES))


def test_a_term_of_a_time_is_known_of_new_items(log: EventLog, table: ItemEmbeddings) -> None:
    class OfATime(AttentionRanker):
        def _new_terms(self, width: int) -> dict[str, Term]:
            return {"attention": super()._new_terms(width)["attention"], "of_its_time": OfItsTime()}

    ranker = OfATime(**{**QUICK["attention"], "learning_rate": 0.01}).fit(log, table)
    assert list(ranker.at_time) == ["of_its_time"] and np.ptp(ranker.item_bias) > 0.1
    history, rows = ranker.histories_of([HISTORY]), np.arange(40)
    found = ranker.contributions(history, rows)
    np.testing.assert_allclose(found["of_its_time"], ranker.item_bias[rows], atol=1e-6)
    np.testing.assert_allclose(sum(found.values()), ranker.score_catalogue(history)[0, rows], atol=1e-4)
    longer = extended(ranker, extend_table(table, attributes=pa.table({"item_id": ["new"], "title": ["title 3"]})).table)
    assert longer.item_bias.shape == (61,) and np.isfinite(longer.item_bias).all()
    np.testing.assert_array_equal(longer.item_bias[:60], ranker.item_bias)


def test_two_terms_of_a_time_have_the_share_and_the_prior_once(log: EventLog, table: ItemEmbeddings) -> None:
    class OfTwoTimes(AttentionRanker):
        def _new_terms(self, width: int) -> dict[str, Term]:
            return {**super()._new_terms(width), "of_its_time": OfItsTime()}

    ranker = OfTwoTimes(**{**QUICK["attention"], "learning_rate": 0.01}).fit(log, table)
    assert list(ranker.at_time) == ["popularity_over_time", "of_its_time"]
    popularity, rows = PopularityIndex(log.histories.with_rows(ranker.items.rows(log.catalog.items.ids)), 60), np.arange(60)
    features, shares = popularity.features(rows, np.full(60, popularity.end))
    with torch.no_grad():
        learnt = sum(
            ranker.model.get_submodule(f"terms.{name}").at_time(torch.from_numpy(features)) for name in ranker.at_time
        )
    expected = learnt.numpy() + shares - ranker.gamma * ranker.log_shares[:]
    np.testing.assert_allclose(ranker.item_bias, expected, atol=1e-5)
    parts = ranker.contributions(ranker.histories_of([HISTORY]), rows)
    np.testing.assert_allclose(parts["of_its_time"], learnt_of(ranker, features), atol=1e-5)
    longer = extended(ranker, extend_table(table, attributes=pa.table({"item_id": ["new"], "title": ["title 3"]})).table)
    new = new_item_features(np.array([1]), np.array([0.0]), ranker.inputs.span)
    alone = longer.at_time["of_its_time"][60]
    assert alone == pytest.approx(learnt_of(ranker, new).item(), abs=1e-5)


def learnt_of(ranker: AttentionRanker, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return ranker.model.get_submodule("terms.of_its_time").at_time(torch.from_numpy(features)).numpy()


def test_the_logit_is_the_sum_of_its_terms_in_their_order() -> None:
    inputs = Inputs(torch.randn(2, 3, 4), torch.ones(2, 3), torch.ones(2, 3), torch.randn(2, 5, 4))

    class Constant(Term):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, inputs: Inputs) -> torch.Tensor:
            return torch.full(inputs.xq_BCD.shape[:2], self.value)

    model = ScoreModel({"one": Constant(1.0), "two": Constant(2.5), "near": Nearness()})
    parts = model.contributions(inputs)
    assert list(parts) == ["one", "two", "near"]
    assert torch.allclose(model(inputs), 3.5 + parts["near"])
    assert list(model.by_history_item(inputs)) == ["near"]
    assert model.attention(inputs) is None
    known = torch.arange(5.0)
    given = Inputs(inputs.x_BLD, inputs.used_BL, inputs.recency_BL, inputs.xq_BCD, at_time={"two": known})
    assert torch.allclose(model(given), 1.0 + known + parts["near"])  # a value that is known is not computed
