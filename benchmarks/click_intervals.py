"""What the intervals and lifts of click-through keep of their promises, by simulation with known rates.

    python benchmarks/click_intervals.py --repeats 1000

Users have their own rates, beta-distributed with the given intra-class correlation, and a geometric or, over days, Poisson
number of impressions. Prints, for each world: how often the 95 % interval covers the truth, and how often Wilson's interval
for independent impressions does; then how often an experiment without any effect is called decided by who looks each day for
60 days, by the confidence sequence and by 1.96 standard errors; then the share of experiments with a lift that are decided.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from heedful.serving.rates import MIN_CLICKERS, Rate, lift, rate

RATES = [
    # users, CTR, intra-class correlation, mean impressions of a user
    (400, 0.05, 0.0, 1),
    (400, 0.05, 0.05, 5),
    (400, 0.2, 0.1, 10),
    (100, 0.1, 0.05, 5),
    (30, 0.1, 0.05, 5),
    (10, 0.3, 0.1, 3),
    (400, 0.02, 0.3, 5),
    (400, 0.02, 0.3, 20),
    (2000, 0.02, 0.3, 5),
    (1000, 0.01, 0.1, 3),
    (5000, 0.005, 0.2, 10),
    (100, 0.05, 0.2, 10),
    (200, 0.03, 0.1, 2),
    (50, 0.3, 0.5, 20),
    (300, 0.5, 0.3, 5),
]
LIFTS = [
    # users, CTR, intra-class correlation, share of the treatment, its factor
    (300, 0.1, 0.1, 0.5, 1.0),
    (300, 0.2, 0.02, 0.2, 1.0),
    (1000, 0.03, 0.02, 0.5, 1.0),
    (1000, 0.03, 0.02, 0.1, 1.0),
    (1500, 0.1, 0.05, 0.5, 1.2),
    (1500, 0.1, 0.05, 0.5, 1.5),
]
DAYS = 60


def own_rates(randoms: np.random.Generator, users: int, ctr: float, likeness: float) -> np.ndarray:
    if likeness == 0:
        return np.full(users, ctr)
    weight = 1 / likeness - 1
    return randoms.beta(ctr * weight, (1 - ctr) * weight, users)


def independent(found: Rate) -> tuple[float, float]:
    """Wilson's interval for independent impressions."""
    spread = 1.96**2 / found.impressions
    middle = (found.ctr + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (found.ctr * (1 - found.ctr) + spread / 4)) / (1 + spread)
    return middle - half, middle + half


def coverage(randoms: np.random.Generator, repeats: int) -> None:
    print("users   CTR  likeness  impressions   covered  (independent impressions)")
    for users, ctr, likeness, impressions in RATES:
        covered = plain = 0
        for _ in range(repeats):
            shown = randoms.geometric(1 / impressions, users)
            found = rate(shown, randoms.binomial(shown, own_rates(randoms, users, ctr, likeness)))
            covered += found.low <= ctr <= found.high
            low, high = independent(found)
            plain += low <= ctr <= high
        print(
            f"{users:5d} {ctr:5.3f} {likeness:9.2f} {impressions:12d} {covered / repeats:9.1%}  {plain / repeats:8.1%}",
            flush=True,
        )


def watch(
    randoms: np.random.Generator, users: int, ctr: float, likeness: float, share: float, factor: float
) -> tuple[bool, bool]:
    """Whether an experiment that is looked at each day is ever decided: by the sequence, by 1.96 standard errors."""
    treated = randoms.random(users) < share
    own = np.minimum(own_rates(randoms, users, ctr, likeness) * np.where(treated, factor, 1.0), 1)
    activity = randoms.gamma(1.0, 0.3, users)
    shown, clicked = np.zeros(users, int), np.zeros(users, int)
    decided = naive = False
    for _ in range(DAYS):
        today = randoms.poisson(activity)
        shown += today
        clicked += randoms.binomial(today, own)
        a, b = (rate(shown[arm & (shown > 0)], clicked[arm & (shown > 0)]) for arm in (treated, ~treated))
        if min(a.clickers, b.clickers) >= MIN_CLICKERS:
            decided |= lift(a, b).decided
            error = math.sqrt(a.variance / a.ctr**2 + b.variance / b.ctr**2)
            naive |= abs(math.log(a.ctr / b.ctr)) > 1.96 * error
    return decided, naive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    randoms = np.random.default_rng(options.seed)
    coverage(randoms, options.repeats)
    print(f"\nusers   CTR  likeness  share   lift   decided within {DAYS} daily looks  (1.96 standard errors)")
    for users, ctr, likeness, share, factor in LIFTS:
        ends = np.array([watch(randoms, users, ctr, likeness, share, factor) for _ in range(options.repeats)])
        sequence, naive = ends.mean(axis=0)
        print(
            f"{users:5d} {ctr:5.2f} {likeness:9.2f} {share:6.1f} {factor - 1:6.0%} {sequence:27.1%} {naive:24.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
