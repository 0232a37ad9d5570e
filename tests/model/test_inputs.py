"""Vectors as modules see them: centred and scaled, read from the table or from a device's own copy of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heedful.ranking import vectors

from heedful.model import inputs
from heedful.model.inputs import ItemVectors, mean_vector
from heedful.rankers.attention import AttentionRanker
from ranking_worlds import random_log, table_of

CPU = torch.device("cpu")


@pytest.fixture(params=[np.float32, np.float16])
def table(request: pytest.FixtureRequest) -> np.ndarray:
    return np.random.default_rng(0).normal(1, 2, (50, 8)).astype(request.param)


def copied(patch: pytest.MonkeyPatch) -> None:
    """Let this machine's memory be that of a device which keeps a copy of the table, made in parts of seven items."""
    patch.setattr(inputs, "_fits", lambda size, device: True)
    patch.setattr(inputs, "_CHUNK_ITEMS", 7)


def test_vectors_are_centred_and_of_one_length(table: np.ndarray) -> None:
    mean = mean_vector(table)
    np.testing.assert_allclose(mean, table.astype(float).mean(axis=0), rtol=1e-6)
    rows = np.array([[3, 49], [0, 3]])
    wanted = table[rows].astype(float) - mean
    wanted *= 3 / np.linalg.norm(wanted, axis=-1, keepdims=True)
    np.testing.assert_allclose(ItemVectors(table, mean, 3.0, CPU)(rows).numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_a_copy_on_the_device_gives_the_same_vectors(table: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only = table.copy()
    read_only.flags.writeable = False  # as a memory-mapped table is
    mean, rows = mean_vector(table), np.arange(50).reshape(5, 10)
    wanted = ItemVectors(read_only, mean, 3.0, CPU)(rows)
    with monkeypatch.context() as patch:
        copied(patch)
        copy = ItemVectors(read_only, mean, 3.0, CPU)
    assert copy._resident is not None and torch.equal(copy(rows), wanted)
    assert torch.equal(copy(np.int32([4])), wanted.view(50, 8)[[4]])


def test_a_ranker_with_a_copy_on_the_device_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    log = random_log(users=60, items=40)
    table = table_of(log.catalog.items.ids, width=16)

    def scores() -> np.ndarray:
        ranker = AttentionRanker(steps=8, hidden=8, batch_users=16).fit(log, table)
        return ranker.score([1, 2, 3], list(range(40)))

    wanted = scores()
    copied(monkeypatch)
    assert np.array_equal(scores(), wanted)
