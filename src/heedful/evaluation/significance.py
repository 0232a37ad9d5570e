"""Paired tests over users: sign-flip permutation, bootstrap interval, Holm's correction, effect size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

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

    def reversed(self) -> Self:
        """The test of the second model minus the first."""
        return replace(self, difference=-self.difference, low=-self.high, high=-self.low, effect=-self.effect)


def paired_tests(
    differences: np.ndarray, *, confidence: float, resamples: int, seed: int, flips: int | None = None
) -> list[PairedTest]:
    """Test T per-user differences at once, with the same flips and resamples for all.

    With several cuts the difference is the mean over cuts of the means over users. Signs are flipped and users are drawn
    for all cuts of a user together, since what somebody does in one cut is like what they do in another.

    Args:
        differences: float64 [B, T], or [C, B, T] with NaN (for all tests) where a user is not measured in a cut.
        confidence: of the interval, such as 0.99.
        resamples: of the bootstrap.
        seed: for flips and resamples.
        flips: random sign assignments; as many as `resamples` unless given. No p is below 1 / (flips + 1).
    """
    by_cut = differences[None] if differences.ndim == 2 else differences
    measured = np.isfinite(by_cut[:, :, 0])
    values = np.where(measured[:, :, None], by_cut, 0.0)
    # What each user adds to the mean.
    shares = (values / measured.sum(1)[:, None, None]).mean(0)
    p = _sign_flip(shares, flips or resamples, np.random.default_rng([seed, 0]))
    low, high = _bootstrap(values, measured, confidence, resamples, np.random.default_rng([seed, 1]))
    means, single = shares.sum(0), by_cut[measured]
    spread = single.std(0, ddof=1) if len(single) > 1 else np.zeros(len(means))
    effect = np.divide(means, spread, out=np.zeros_like(means), where=spread > 0)
    columns = (found.tolist() for found in (means, low, high, p, effect))
    return [PairedTest(m, lo, hi, chance, d, len(shares)) for m, lo, hi, chance, d in zip(*columns, strict=True)]


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
    values: np.ndarray, measured: np.ndarray, confidence: float, resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of the mean over cuts; `values` float64 [C, B, T] are 0 where `measured`, bool [C, B], is not."""
    users = measured.shape[1]
    means = np.empty((resamples, values.shape[2]))
    for start, stop in _blocks(resamples, users):
        drawn = rng.integers(0, users, (stop - start, users)) + users * np.arange(stop - start)[:, None]
        times = np.bincount(drawn.ravel(), minlength=users * (stop - start)).reshape(-1, users).astype(np.float64)
        # A cut without any of the users drawn counts as one without a difference.
        cuts = [times @ of / np.maximum(times @ who, 1)[:, None] for of, who in zip(values, measured, strict=True)]
        means[start:stop] = np.mean(cuts, axis=0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def _blocks(total: int, width: int) -> list[tuple[int, int]]:
    step = max(1, _BLOCK // max(width, 1))
    return [(start, min(start + step, total)) for start in range(0, total, step)]
