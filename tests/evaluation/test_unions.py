"""Each user's distinct items, in row order, and the way back to the lists they came from."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.evaluation.unions import union
from heedful.events.candidates import Candidates


@pytest.mark.parametrize("n_items", [40, 5000])  # gone through, and sorted
def test_every_item_once_and_every_list_found_again(n_items: int) -> None:
    randoms = np.random.default_rng(0)
    lists = [
        Candidates.of([randoms.choice(n_items, n, replace=False) for n in randoms.integers(0, 12, 20)]) for _ in range(3)
    ]
    found = union(lists, n_items)
    for user in range(20):
        one = slice(user, user + 1)
        expected = sorted(set(np.concatenate([part.part(one).rows for part in lists]).tolist()))
        assert found.candidates.part(one).rows.tolist() == expected
    for part, places in zip(lists, found.places, strict=True):
        assert found.candidates.rows[places].tolist() == part.rows.tolist()
        assert found.candidates.owners[places].tolist() == part.owners.tolist()
