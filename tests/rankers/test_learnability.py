"""Attention finds what averaging cannot, and no model finds anything where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.embeddings.table import ItemEmbeddings
from heedful.evaluation.comparison import compare
from heedful.evaluation.measures import Measure
from heedful.evaluation.options import EvaluationConfig
from heedful.events.candidates import Candidates
from heedful.events.log import EventLog
from heedful.rankers.base import Ranker
from heedful.rankers.neural import NeuralRanker
from heedful.rankers.registry import MODELS
from ranking_worlds import DAY, QUICK, START, chance_ndcg, log_of, table_of

# In each category there are first items, on which a user's verdict is good or bad, and later items.
CATEGORIES, VARIANTS = 8, 2
FIRST = np.arange(CATEGORIES * 2 * VARIANTS).reshape(CATEGORIES, 2, VARIANTS)
LATER = FIRST.size + np.arange(CATEGORIES * VARIANTS).reshape(CATEGORIES, VARIANTS)


def planted(users: int, seed: int) -> tuple[list[list[int]], np.ndarray]:
    """Histories and verdicts: a user takes one first item of every category, then all later items where it was good.

    Whether a later item follows depends on the one past item of its own category. The mean of the past says how many
    verdicts were good, but not where: the direction of good is the same in all categories.
    """
    randoms = np.random.default_rng(seed)
    verdicts = np.stack([randoms.permutation(CATEGORIES) < CATEGORIES // 2 for _ in range(users)])
    histories = []
    for good in verdicts:
        first = FIRST[np.arange(CATEGORIES), good.astype(int), randoms.integers(0, VARIANTS, CATEGORIES)]
        histories.append([*randoms.permutation(first).tolist(), *randoms.permutation(LATER[good].ravel()).tolist()])
    return histories, verdicts


def vectors() -> ItemEmbeddings:
    """Category, verdict, and first or later, each a direction of its own."""
    table = np.random.default_rng(0).normal(size=(LATER.max() + 1, CATEGORIES + 4)) * 0.003
    for category in range(CATEGORIES):
        table[FIRST[category].ravel(), category] += 1
        table[LATER[category], category] += 1
        table[FIRST[category, 0], CATEGORIES] -= 1
        table[FIRST[category, 1], CATEGORIES] += 1
    table[LATER.ravel(), CATEGORIES + 1] += 1
    return ItemEmbeddings.from_arrays([f"item{row}" for row in range(len(table))], table.astype(np.float32))


@pytest.fixture(scope="module")
def planted_log() -> EventLog:
    return log_of(planted(600, seed=1)[0])


def area_under_curve(ranker: Ranker) -> float:
    """Share of (right, wrong) pairs of later items in the right order, over users whom the log lacks."""
    histories, verdicts = planted(100, seed=2)
    past = [[f"item{row}" for row in history[:CATEGORIES]] for history in histories]
    candidates = Candidates.same_for_all(100, ranker.items.rows([f"item{row}" for row in LATER.ravel()]))
    scores = ranker.score_rows(ranker.histories_of(past), candidates).reshape(100, -1)
    right = np.repeat(verdicts, VARIANTS, axis=1)
    pairs = scores[:, :, None] - scores[:, None, :]
    wanted = right[:, :, None] & ~right[:, None, :]
    return float(((pairs > 0) + 0.5 * (pairs == 0))[wanted].mean())


SETTINGS = {"steps": 250, "validate_every": 125, "device": "cpu", "split": "last_items"}
WITHOUT_POPULARITY = ("attention", "item_interactions", "user_tower")
ATTENTION = {
    "default": {"preset": "default", "terms": WITHOUT_POPULARITY, "batch_users": 32, "negatives": 20, **SETTINGS},
    "paper": {"preset": "paper", **SETTINGS, "steps": 100, "validate_every": 50},
    "attention alone": {
        "depth": 2, "hidden": 32, "terms": ("attention",), "null_tokens": 0, "batch_users": 32, "negatives": 20, **SETTINGS,
    },
}  # fmt: skip


@pytest.mark.parametrize("which", list(ATTENTION))
def test_attention_finds_the_past_item_that_matters(which: str, planted_log: EventLog) -> None:
    ranker = MODELS["attention"](**ATTENTION[which]).fit(planted_log, vectors())
    assert area_under_curve(ranker) > 0.95


@pytest.mark.parametrize("form", ["inner", "sum"])
def test_averaging_cannot(form: str, planted_log: EventLog) -> None:
    options = {"form": form, "terms": ("averaging",), "batch_users": 32, "negatives": 20, **SETTINGS}
    ranker = MODELS["averaging"](**options).fit(planted_log, vectors())
    assert isinstance(ranker, NeuralRanker) and ranker.report is not None and ranker.report.best_loss < 3.0  # it did learn
    assert area_under_curve(ranker) < 0.65


def test_the_planted_log_is_not_a_matter_of_popularity(planted_log: EventLog) -> None:
    for name in ("popularity", "last-item"):
        assert area_under_curve(MODELS[name]().fit(planted_log, vectors())) < 0.65


def test_on_a_random_log_no_model_beats_chance() -> None:
    """Positives and negatives of a pool are alike, so NDCG with p positives is p mean discounts over the ideal."""
    randoms = np.random.default_rng(4)
    n_items = 250
    sequences = [randoms.integers(0, n_items, 40).tolist() for _ in range(300)]
    times = [np.sort(START + randoms.integers(0, 60 * DAY, 40)).tolist() for _ in sequences]
    past, future = log_of(sequences, times, n_items=n_items).split(START + 53 * DAY)
    table = table_of(past.catalog.items.ids)
    rankers = {name: MODELS[name](**QUICK[name]).fit(past, table) for name in MODELS}
    config = EvaluationConfig(pool=100, resamples=200, catalogue_users=1)
    found = compare(rankers, future, past=past, items=table.items, config=config)
    positives = found.pools.positives.lengths
    chance = chance_ndcg(positives, 100)
    for name in rankers:
        got = found.estimate(name, Measure("gamma 0", 100, "NDCG"))
        assert got is not None and abs(got.mean - chance) < 4 * got.error, name
