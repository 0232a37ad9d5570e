"""Click-through rates of users who see several impressions: intervals, lifts that may be watched, sample sizes.

A user's impressions are alike, so the user, who is also what treatments are dealt to, is the unit of all of this, never the
impression: an interval that takes impressions for independent covers the truth far too rarely.

Intervals are Wilson's, with the number of impressions replaced by the effective one, R (1 - R) / v, where v is the jackknife
variance of the ratio over users, and with Student's quantile (Korn and Graubard 1998; Franco, Little, Louis and Slud 2019).
Its degrees of freedom are those of an effective number of users (Carter, Schnepel and Steigerwald 2017), or of how surely v
itself is known (Satterthwaite 1946), if these are fewer: where a few users make most clicks, v is known from these few. Only
the part of v beyond that of independent impressions counts there, since the rate itself gives the other part.

Lifts are compared on the logarithm of the ratio of two rates, by the asymptotic confidence sequence of Waudby-Smith, Arbour,
Sinha, Kennedy and Ramdas (Annals of Statistics 2024), Robbins' normal mixture: with probability 1 - alpha it holds the truth
at every look at once, so one may look each day and stop at will. Their intrinsic time is here the information 1 / v. Users
who come back make later errors more alike than those of a Brownian motion of the same variance; by Slepian's inequality that
makes crossing the boundary rarer, not more frequent.

The split of users is held against the declared shares by a test that may be looked at as often, too: the multinomial
likelihood against a Dirichlet mixture of others (Lindon and Malek, NeurIPS 2022), a nonnegative martingale while the shares
hold. A sample ratio mismatch means that users were lost on the way, and no lift can be trusted (Fabijan et al., KDD 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

__all__ = ["MIN_CLICKERS", "Lift", "Rate", "impressions_needed", "lift", "rate", "split_p", "student_quantile"]

MIN_CLICKERS = 10
"""Users who clicked in each treatment before a lift is decided: below that the sequence is not yet near its limit."""
_SPLIT_USERS = 30.0
"""How many users the mixture of other splits is worth: it is most sensitive to splits that are off by its spread."""


@dataclass(frozen=True)
class Rate:
    """A click-through rate: the share of impressions that were clicked.

    Attributes:
        impressions: impressions shown, N.
        clicks: impressions of these that were clicked, however often.
        users: distinct users.
        clickers: users who clicked.
        ctr: clicks / impressions; 0 without impressions.
        low: lower end of the interval.
        high: upper end of the interval.
        variance: of `ctr`, by the jackknife over users; nan for a single user.
    """

    impressions: int
    clicks: int
    users: int
    clickers: int
    ctr: float
    low: float
    high: float
    variance: float

    @property
    def design_effect(self) -> float:
        """How many times the variance is that of independent impressions; at least 1, and 1 where it cannot be told."""
        independent = self.ctr * (1 - self.ctr) / self.impressions if self.impressions else 0.0
        return max(1.0, self.variance / independent) if independent > 0 and self.variance > 0 else 1.0


@dataclass(frozen=True)
class Lift:
    """How much higher one rate is than another, as a share of the other: 0.2 is a fifth more.

    Attributes:
        lift: the estimate; None while one of the rates is 0.
        low: lower end of the confidence sequence, -1 where nothing is known.
        high: its upper end, infinite where nothing is known.
        p: always-valid p-value of "no lift".
        decided: whether the sequence leaves out 0.
    """

    lift: float | None
    low: float
    high: float
    p: float
    decided: bool


def rate(shown: np.ndarray, clicked: np.ndarray, users: np.ndarray | None = None, *, confidence: float = 0.95) -> Rate:
    """The rate of one treatment.

    Args:
        shown: impressions of each user, or of each user of a group of users alike, int [G], all 1 or more.
        clicked: how many of these the user clicked, int [G].
        users: how many users are in each group, int [G]; None: one.
        confidence: of the interval.
    """
    shown, clicked, sizes = _grouped(shown, clicked, users)
    n_users, total, clicks = int(sizes.sum()), int(sizes @ shown), int(sizes @ clicked)
    if not total:
        return Rate(0, 0, 0, 0, 0.0, 0.0, 1.0, math.nan)
    ctr = clicks / total
    groups = total**2 / float(sizes @ np.square(shown, dtype=np.float64))
    variance = _jackknife(shown, clicked, sizes)
    if clicks in (0, total) or n_users == 1:
        effective = groups  # the users' rates do not differ yet: as if each user always did the same
        freedom = groups - 1
    else:
        effective = min(ctr * (1 - ctr) / variance, total) if variance > 0 else total
        excess = 1 - effective / total
        freedom = min(groups - 1, _freedom(clicked - ctr * shown, sizes) / excess) if excess > 0 else groups - 1
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    student = student_quantile((1 + confidence) / 2, max(freedom, 1.0))
    low, high = _wilson(ctr, effective * (normal / student) ** 2, normal)
    return Rate(total, clicks, n_users, int(sizes[clicked > 0].sum()), ctr, low, high, variance)


def lift(of: Rate, against: Rate, *, alpha: float = 0.05, typical: float = 0.5) -> Lift:
    """The lift of one treatment against another, dealt to other users.

    Args:
        of: the treatment.
        against: what it is compared with.
        alpha: the chance that the sequence ever leaves out the truth.
        typical: the lift that the sequence is narrowest for; must not be chosen after seeing the data.
    """
    if not (of.clicks and against.clicks):
        return Lift(None, -1.0, math.inf, 1.0, decided=False)
    logarithm = math.log(of.ctr / against.ctr)
    variance = of.variance / of.ctr**2 + against.variance / against.ctr**2
    if min(of.clickers, against.clickers) < MIN_CLICKERS or not variance > 0:
        return Lift(math.expm1(logarithm), -1.0, math.inf, 1.0, decided=False)
    information, scale = 1 / variance, math.log1p(typical) ** 2
    half = math.sqrt(variance) * _boundary(information, alpha, scale)
    evidence = scale * (information * logarithm) ** 2 / (2 * (1 + scale * information)) - math.log1p(scale * information) / 2
    return Lift(
        math.expm1(logarithm),
        math.expm1(logarithm - half),
        math.expm1(min(logarithm + half, 700.0)),
        math.exp(min(0.0, -evidence)),
        decided=abs(logarithm) > half,
    )


def impressions_needed(
    ctr: float,
    wanted: float,
    *,
    design_effect: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
    typical: float = 0.5,
) -> int | None:
    """Impressions of each of two treatments after which a lift is decided with probability `power`, at the latest.

    Args:
        ctr: rate of what is compared with.
        wanted: the lift to be told from none, 0.1 for a tenth more.
        design_effect: as `Rate.design_effect`; with more impressions from the same users it grows.
        alpha: as in `lift`.
        power: chance of deciding by then.
        typical: as in `lift`.

    Returns:
        The number, None where the rate is 0 or the lift would take it to 1.
    """
    higher = ctr * (1 + wanted)
    if not 0 < ctr < 1 or not 0 < higher < 1:
        return None
    one = design_effect * ((1 - ctr) / ctr + (1 - higher) / higher)  # variance of the log ratio after one impression each
    distance, margin = abs(math.log1p(wanted)), NormalDist().inv_cdf(power)
    scale = math.log1p(typical) ** 2
    low, high = 1e-6, 1e12
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        enough = math.sqrt(middle) * distance >= _boundary(middle, alpha, scale) + margin
        low, high = (low, middle) if enough else (middle, high)
    return math.ceil(high * one)


def split_p(users: Sequence[int], shares: Sequence[float]) -> float:
    """Always-valid p-value of "users were dealt by these shares": while they were, the chance that it is ever below p is p.

    Args:
        users: distinct users of each treatment.
        shares: declared shares of the same treatments; they sum to 1.
    """
    if any(number and not share for number, share in zip(users, shares, strict=True)):
        return 0.0
    pairs = [(number, share) for number, share in zip(users, shares, strict=True) if share]
    total = sum(number for number, _ in pairs)
    evidence = math.lgamma(_SPLIT_USERS) - math.lgamma(_SPLIT_USERS + total)
    for number, share in pairs:
        prior = _SPLIT_USERS * share
        evidence += math.lgamma(prior + number) - math.lgamma(prior) - number * math.log(share)
    return math.exp(min(0.0, -evidence))


def _boundary(information: float, alpha: float, scale: float) -> float:
    """Robbins' mixture boundary, in standard errors, where the mixture's variance is `scale`."""
    mixed = scale * information
    return math.sqrt((1 + mixed) / mixed * (math.log1p(mixed) - 2 * math.log(alpha)))


def _grouped(shown: np.ndarray, clicked: np.ndarray, users: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users alike put together and in order, so that their sums are the same to the last bit however they came."""
    pairs, group = np.unique(np.stack([shown, clicked]), axis=1, return_inverse=True)
    sizes = np.bincount(group.ravel(), users, pairs.shape[1]).astype(np.int64)
    return pairs[0].astype(np.int64), pairs[1].astype(np.int64), sizes


def _jackknife(shown: np.ndarray, clicked: np.ndarray, sizes: np.ndarray) -> float:
    """Variance of the rate when users are drawn at random."""
    users, total, clicks = int(sizes.sum()), int(sizes @ shown), int(sizes @ clicked)
    if users < 2:
        return math.nan
    without = (clicks - clicked) / (total - shown)
    return float((users - 1) / users * (sizes @ np.square(without - clicks / total)))


def _freedom(residuals: np.ndarray, sizes: np.ndarray) -> float:
    """Degrees of freedom of the variance v of a mean, 2 v^2 / Var(v), from the fourth moment; as many as users if normal."""
    squares = np.square(residuals, dtype=np.float64)
    total = float(sizes @ squares)
    spread = float(sizes @ np.square(squares)) - total**2 / int(sizes.sum())
    return 2 * total**2 / spread if spread > 0 else math.inf


def _wilson(share: float, trials: float, normal: float) -> tuple[float, float]:
    spread = normal**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return (max(0.0, middle - half) if share > 0 else 0.0), (min(1.0, middle + half) if share < 1 else 1.0)


def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t above the median, for 1 or more degrees of freedom.

    Hill's expansion (CACM Algorithm 396, 1970), good to 4 digits or more; between the closed forms of 1 and 2 degrees it is
    interpolated, good to 4 %.
    """
    tails, n = 2 * (1 - probability), freedom
    if n <= 2:
        one, two = 1 / math.tan(tails * math.pi / 2), math.sqrt(2 / (tails * (2 - tails)) - 2)
        return float(one ** (2 / n - 1) * two ** (2 - 2 / n))
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * tails) ** (2 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tails / 2)
        y = x * x
        c += 0.3 * (n - 4.5) * (x + 0.6) if n < 5 else 0
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (
            n + 2
        ) + 1 / y
    return math.sqrt(n * y)
