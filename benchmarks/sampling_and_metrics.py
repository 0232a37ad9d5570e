"""Draws of negatives per second from 10 million items, and ranks of positives beside a full sort.

python benchmarks/sampling_and_metrics.py
"""

from __future__ import annotations

import numpy as np
from numba import njit
from side_by_side import in_turn, parser, ratio, report, seconds

from heedful.kernels.alias import alias_table, draw, smoothed_weights
from heedful.kernels.rng import first_state, next_random
from heedful.metrics import ndcg, ranks


@njit(nogil=True)
def draws(probability: np.ndarray, alias: np.ndarray, n: int, seed: int) -> int:
    state, total = first_state(seed, 0, 0), 0
    for _ in range(n):
        state, random = next_random(state)
        total += draw(probability, alias, random)
    return total


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--items", type=int, default=10_000_000)
    options.add_argument("--draws", type=int, default=20_000_000)
    options.add_argument("--users", type=int, default=200, help="users of the metric, ten positives each")
    options.add_argument("--pool", type=int, default=10_000, help="candidates of a user")
    chosen = options.parse_args()
    rng = np.random.default_rng(0)
    table = alias_table(smoothed_weights((1e6 / np.arange(1, chosen.items + 1)).astype(int) + 1, 0.75))
    drawn = in_turn(
        {
            "heedful, one thread": lambda: chosen.draws / seconds(lambda: draws(*table, chosen.draws, 1)),
            "numpy": lambda: chosen.draws / 10 / seconds(lambda: by_numpy(rng, table, chosen.draws // 10)),
        },
        chosen.rounds,
    )
    scores = rng.standard_normal((chosen.users, chosen.pool), dtype=np.float32)
    positive = np.zeros(scores.shape, bool)
    positive[:, :10] = True
    offsets = np.arange(chosen.users + 1) * chosen.pool
    flat, flags = scores.ravel(), positive.ravel()
    assert np.allclose(ndcg(ranks(flat, offsets, flags)), by_sorting(scores, positive))
    measured = in_turn(
        {
            "heedful": lambda: chosen.users / seconds(lambda: ndcg(ranks(flat, offsets, flags))),
            "full sort": lambda: chosen.users / seconds(lambda: by_sorting(scores, positive)),
        },
        chosen.rounds,
    )
    report(
        chosen,
        {
            "draws_per_second": drawn,
            "draws_ratio": ratio(drawn, "heedful, one thread", "numpy"),
            "metric_users_per_second": measured,
            "metric_ratio": ratio(measured, "heedful", "full sort"),
        },
    )


def by_numpy(rng: np.random.Generator, table: tuple[np.ndarray, np.ndarray], n: int) -> int:
    probability, alias = table
    rows = rng.integers(0, len(alias), n)
    return int(np.where(rng.random(n, np.float32) < probability[rows], rows, alias[rows]).sum())


def by_sorting(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """NDCG over the whole list by sorting it, one user at a time, as libraries of metrics do."""
    values = []
    for own, flags in zip(scores, positive, strict=True):
        places = np.flatnonzero(flags[np.argsort(-own, kind="stable")])
        values.append((1 / np.log2(places + 2)).sum() / (1 / np.log2(np.arange(flags.sum()) + 2)).sum())
    return np.array(values)


if __name__ == "__main__":
    main()
