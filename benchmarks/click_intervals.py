"""What the intervals and lifts of click-through keep of their promises, by simulation with known rates.

    python benchmarks/click_intervals.py --repeats 1000

Users have their own rates, beta-distributed with the given intra-class correlation, and a geometric or, over days, Poisson
number of impressions. Prints, for each world: how often the 95 % interval covers the truth, and how often Wilson's interval
for independent impressions does; then how often an experiment without any effect is called decided by who looks each day for
60 days, by the confidence sequence, by 1.96 standard errors, and by the report at the last look, whose verdicts hold without
the users who clicked most; then the share of experiments with a lift that are decided.
Then how often bots in one treatment decide an experiment without any effect: by the report, which sets aside whoever clicks
nearly everything, too, and by the lift of all users alone. Then how
often the check of the split by the declared shares calls it wrong, looking each day: a right one, and one that loses users.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from heedful.serving.bots import DEFAULT_BOT_RULES
from heedful.serving.click_counts import ClickCounts, Experiment, UserGroups
from heedful.serving.clicks import ClickConfig, report_counts
from heedful.serving.rates import MIN_CLICKERS, Rate, lift, rate, split_p

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
PEOPLE, PEOPLES_CTR = 800, 0.1
BOTS = [
    # bots among 800 people, impressions of each, share of them that it clicks
    (20, 49, 1.0),
    (20, 49, 0.85),
    (20, 19, 1.0),
    (20, 19, 0.5),
    (8, 49, 0.85),
    (40, 49, 0.85),
    (40, 19, 1.0),
    (80, 19, 1.0),
]
SPLITS = [
    # users a day, share of the treatment, share of its users that are lost
    (20, 0.5, 0.0),
    (200, 0.1, 0.0),
    (200, 0.5, 0.01),
    (200, 0.5, 0.05),
    (200, 0.5, 0.1),
]


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


def decided(seen: dict[str, np.ndarray], clicked: dict[str, np.ndarray]) -> bool:
    """Whether the report decides an experiment of two treatments with these users."""
    groups = {name: UserGroups.of(seen[name], clicked[name]) for name in seen}
    found = report_counts(ClickCounts((Experiment("slot", "salt", {}, 0, 0, groups),), False, {}))
    return found.slots[0].lifts[0].lift.decided


def watch(
    randoms: np.random.Generator, users: int, ctr: float, likeness: float, share: float, factor: float
) -> tuple[bool, bool, bool]:
    """Whether an experiment that is looked at each day is ever decided, by the sequence and by 1.96 standard errors, and
    whether the report decides it at the last look.
    """
    treated = randoms.random(users) < share
    own = np.minimum(own_rates(randoms, users, ctr, likeness) * np.where(treated, factor, 1.0), 1)
    activity = randoms.gamma(1.0, 0.3, users)
    shown, clicked = np.zeros(users, int), np.zeros(users, int)
    ever = naive = False
    for _ in range(DAYS):
        today = randoms.poisson(activity)
        shown += today
        clicked += randoms.binomial(today, own)
        a, b = (rate(shown[arm & (shown > 0)], clicked[arm & (shown > 0)]) for arm in (treated, ~treated))
        if min(a.clickers, b.clickers) >= MIN_CLICKERS:
            ever |= lift(a, b).decided
            error = math.sqrt(a.variance / a.ctr**2 + b.variance / b.ctr**2)
            naive |= abs(math.log(a.ctr / b.ctr)) > 1.96 * error
    arms = {"model": treated & (shown > 0), "popularity": ~treated & (shown > 0)}
    told = ({name: numbers[arm] for name, arm in arms.items()} for numbers in (shown, clicked))
    return ever, naive, decided(*told)


def invaded(randoms: np.random.Generator, bots: int, shown: int, share: float) -> tuple[bool, bool]:
    """Whether bots in one treatment decide an experiment without an effect: by the report, by the lift of all users."""
    people = randoms.geometric(1 / 5, PEOPLE)
    clicked = randoms.binomial(people, own_rates(randoms, PEOPLE, PEOPLES_CTR, 0.05))
    treated = randoms.random(PEOPLE) < 0.5
    seen = {"model": np.append(people[treated], np.full(bots, shown)), "popularity": people[~treated]}
    of_bots = randoms.binomial(shown, share, bots)
    clicks = {"model": np.append(clicked[treated], of_bots), "popularity": clicked[~treated]}
    a, b = (rate(seen[name], clicks[name]) for name in seen)
    alone = min(a.clickers, b.clickers) >= MIN_CLICKERS and lift(a, b).decided
    kept = {name: ~DEFAULT_BOT_RULES.is_eager(seen[name], clicks[name]) for name in seen}
    of_people = ({name: numbers[name][kept[name]] for name in kept} for numbers in (seen, clicks))
    return decided(*of_people), alone


def misdealt(randoms: np.random.Generator, daily: int, share: float, lost: float) -> bool:
    """Whether the split of the users is ever called wrong in 60 daily looks."""
    treated, others = np.cumsum(randoms.binomial(daily, [share * (1 - lost), 1 - share], (DAYS, 2)), axis=0).T
    level = ClickConfig().split_level
    return any(split_p([a, b], [share, 1 - share]) < level for a, b in zip(treated.tolist(), others.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    randoms = np.random.default_rng(options.seed)
    coverage(randoms, options.repeats)
    print(
        f"\nusers   CTR  likeness  share   lift   decided within {DAYS} daily looks  (1.96 standard errors)  (by the report)"
    )
    for users, ctr, likeness, share, factor in LIFTS:
        ends = np.array([watch(randoms, users, ctr, likeness, share, factor) for _ in range(options.repeats)])
        sequence, naive, by_report = ends.mean(axis=0)
        world = f"{users:5d} {ctr:5.2f} {likeness:9.2f} {share:6.1f} {factor - 1:6.0%}"
        print(f"{world} {sequence:27.1%} {naive:24.1%} {by_report:16.1%}", flush=True)
    print(f"\nbots among {PEOPLE} users   impressions   clicked   decided by the report  (by all users alone)")
    for bots, shown, share in BOTS:
        ends = np.array([invaded(randoms, bots, shown, share) for _ in range(options.repeats)])
        guarded, alone = ends.mean(axis=0)
        print(f"{bots:20d} {shown:13d} {share:9.0%} {guarded:23.1%} {alone:21.1%}", flush=True)
    print(f"\nusers a day   share   lost   split called wrong within {DAYS} daily looks")
    for daily, share, lost in SPLITS:
        wrong = np.mean([misdealt(randoms, daily, share, lost) for _ in range(options.repeats)])
        print(f"{daily:11d} {share:7.1f} {lost:6.0%} {wrong:29.1%}", flush=True)


if __name__ == "__main__":
    main()
