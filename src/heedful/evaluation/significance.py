"""Paired tests over users: sign-flip permutation, bootstrap interval, Holm's correction, effect size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PairedTest", "holm", "paired_tests"]

# Floats that one block of resamples may fill.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class PairedTest:
    """The mean over users of a difference between two models.

    Attributes:
        difference: mean of the per-user differences.
        low, high: bootstrap percentile interval of that mean, at the confidence asked for.
        p: two-sided probability, if each user's difference were as likely with the other sign, of a mean as far from 0.
        effect: Cohen's d_z, the mean difference over its standard deviation; 0 where nothing varies and nothing differs.
        users: how many users.
    """

    difference: float
    low: float
    high: float
    p: float
    effect: float
    users: int


def paired_tests(
    differences: np.ndarray, *, confidence: float, resamples: int, seed: int, flips: int | None = None
) -> list[PairedTest]:
    """Test T per-user differences at once, with the same flips and resamples for all.

    Args:
        differences: float64 [B, T].
        confidence: of the interval, such as 0.99.
        resamples: of the bootstrap.
        seed: for flips and resamples.
        flips: random sign assignments; as many as `resamples` unless given. No p is below 1 / (flips + 1).
    """
    p = _sign_flip(differences, flips or resamples, np.random.default_rng([seed, 0]))
    low, high = _bootstrap(differences, confidence, resamples, np.random.default_rng([seed, 1]))
    means = differences.mean(0)
    spread = differences.std(0, ddof=1) if len(differences) > 1 else np.zeros(len(means))
    effect = np.divide(means, spread, out=np.zeros_like(means), where=spread > 0)
    columns = (values.tolist() for values in (means, low, high, p, effect))
    return [PairedTest(m, lo, hi, chance, d, len(differences)) for m, lo, hi, chance, d in zip(*columns, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of the p-values of one family of tests, in the order given."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def _sign_flip(differences: np.ndarray, flips: int, rng: np.random.Generator) -> np.ndarray:
    """The observed assignment counts among the flips, so that p is valid and never 0 (Phipson and Smyth 2010)."""
    users = len(differences)
    observed = np.abs(differences.sum(0))
    # Sums in another order differ in the last digits; a tie must count as one.
    threshold = observed - 1e-9 * np.abs(differences).sum(0)
    as_far = np.zeros(differences.shape[1])
    for start, stop in _blocks(flips, users):
        bits = np.unpackbits(rng.integers(0, 256, (stop - start, -(-users // 8)), np.uint8), axis=1, count=users)
        signs = 1.0 - 2.0 * bits
        as_far += (np.abs(signs @ differences) >= threshold).sum(0)
    return np.asarray((1 + as_far) / (1 + flips))


def _bootstrap(
    differences: np.ndarray, confidence: float, resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    users = len(differences)
    means = np.empty((resamples, differences.shape[1]))
    for start, stop in _blocks(resamples, users):
        drawn = rng.integers(0, users, (stop - start, users)) + users * np.arange(stop - start)[:, None]
        times = np.bincount(drawn.ravel(), minlength=users * (stop - start)).reshape(-1, users)
        means[start:stop] = times.astype(np.float64) @ differences / users
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def _blocks(total: int, width: int) -> list[tuple[int, int]]:
    step = max(1, _BLOCK // max(width, 1))
    return [(start, min(start + step, total)) for start in range(0, total, step)]
