"""Noise on the embeddings in training: how much, when, and what it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from heedful.embeddings.table import ItemEmbeddings
from heedful.errors import ConfigError
from heedful.rankers.attention import AttentionRanker
from heedful.rankers.averaging import AveragingRanker
from heedful.rankers.log_size import recent_since
from ranking_worlds import random_log, table_of

SMALL: dict[str, Any] = {"steps": 4, "hidden": 8, "batch_users": 16}


@pytest.fixture(scope="module")
def ranker() -> AttentionRanker:
    log = random_log(users=60, items=40)
    return AttentionRanker(**SMALL, noise=2.0).fit(log, table_of(log.catalog.items.ids, width=16))


def numbers(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


def test_noise_is_as_large_as_an_embedding_of_so_many_users_is_uncertain(ranker: AttentionRanker) -> None:
    rows = np.repeat(np.arange(len(ranker.items)), 2000).reshape(-1, 2000)
    added = ranker.inputs(rows, numbers(1)) - ranker.inputs(rows)
    length = added.norm(dim=-1).square().mean(dim=-1).sqrt().numpy()
    expected = ranker.config.noise * ranker.config.scale / np.sqrt(np.maximum(ranker.users_of_item, 1))
    np.testing.assert_allclose(length, expected, rtol=0.05)
    assert abs(added.mean().item()) < 0.01


def test_the_same_batch_gets_the_same_noise_and_ranking_gets_none(ranker: AttentionRanker) -> None:
    rows = np.arange(10)
    first, second = (ranker.inputs(rows, numbers(7)) for _ in range(2))
    assert torch.equal(first, second)
    ids = ranker.items.ids.to_pylist()
    scores = [ranker.score(ids[:5], ids[5:20]) for _ in range(2)]
    assert np.array_equal(*scores)
    ranker.model.train()  # even where somebody left the module in training mode
    assert np.array_equal(ranker.score(ids[:5], ids[5:20]), scores[0])
    ranker.model.eval()


@pytest.mark.parametrize("model", [AttentionRanker, AveragingRanker])
def test_noise_changes_what_is_learnt(model: type[AttentionRanker]) -> None:
    log = random_log(users=60, items=40)
    table = table_of(log.catalog.items.ids, width=16)
    with_noise, without = (model(**SMALL, noise=noise).fit(log, table) for noise in (4.0, 0.0))
    ids = with_noise.items.ids.to_pylist()
    assert not np.array_equal(with_noise.score(ids[:5], ids[5:]), without.score(ids[:5], ids[5:]))


def test_noise_keeps_a_ranker_from_reading_its_own_future_off_the_table() -> None:
    """A table that knows who takes what, on a log where nothing else can be known: trust in it must stay small.

    Items of random users lie together in the table, as skip-gram lays the items that only one user has. A ranker learns
    to rank by nearness, which is worth nothing for anybody's future; noise takes much of that away.
    """
    log = random_log(users=150, items=600, events=6, skew=0.0)
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(600, 32)).astype(np.float32) * 0.1
    centre = rng.normal(size=(len(log.users), 32))
    rows = np.asarray(log.histories.items)
    for user in range(len(log.users)):
        vectors[rows[log.histories.offsets[user] : log.histories.offsets[user + 1]]] += centre[user]
    table = ItemEmbeddings.from_arrays(log.catalog.items.ids, vectors)
    trust = {}
    terms = ("attention", "item_interactions", "user_tower")
    for noise in (0.0, 4.0):
        ranker = AttentionRanker(noise=noise, steps=150, hidden=16, terms=terms).fit(log, table)
        logits = ranker.score_catalogue(log.histories.take(np.arange(20)), pool_gamma=None)
        trust[noise] = float(np.std(logits, axis=1).mean())
    assert trust[4.0] < 0.7 * trust[0.0]


def test_times_of_ranking_are_those_of_the_newer_half_of_the_events() -> None:
    times = np.concatenate([np.arange(4000), 10_000 + np.arange(4000)])
    assert recent_since(times) == pytest.approx(3999, abs=1)
    assert recent_since(np.concatenate([times, 30_000 + np.arange(8000)])) == pytest.approx(13_999, abs=1)
    assert recent_since(times[::5]) is None  # too few to choose among


def test_noise_is_not_negative() -> None:
    with pytest.raises(ConfigError, match=r"option 'noise' is out of range; got: -1\.0"):
        AttentionRanker(noise=-1.0)
