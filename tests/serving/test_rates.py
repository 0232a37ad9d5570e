"""Rates, intervals and lifts: known answers, and what they promise, held against simulations with known rates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heedful.serving.rates import MIN_CLICKERS, Lift, Rate, impressions_needed, lift, rate, split_p, student_quantile


def visits(
    randoms: np.random.Generator, users: int, ctr: float, likeness: float, impressions: float
) -> tuple[np.ndarray, np.ndarray]:
    """Impressions (geometric) and clicks of users whose own rates are beta with intra-class correlation `likeness`."""
    shown = randoms.geometric(1 / impressions, users)
    if likeness == 0:
        return shown, randoms.binomial(shown, ctr)
    weight = 1 / likeness - 1
    return shown, randoms.binomial(shown, randoms.beta(ctr * weight, (1 - ctr) * weight, users))


def test_known_answers() -> None:
    alone = rate(np.ones(100, int), np.repeat([1, 0], [10, 90]))
    assert (alone.impressions, alone.clicks, alone.users, alone.clickers, alone.ctr) == (100, 10, 100, 10, 0.1)
    # One impression for each user: the jackknife is the usual p (1 - p) / (n - 1), the interval Wilson's, a little wider.
    assert alone.variance == pytest.approx(0.1 * 0.9 / 99)
    assert (alone.low, alone.high) == pytest.approx((0.0552, 0.1744), abs=0.002)
    assert alone.design_effect == pytest.approx(100 / 99)
    # Users who always do the same: a hundred impressions of each tell no more than one.
    same = rate(np.full(100, 100), np.repeat([100, 0], [10, 90]))
    assert same.design_effect == pytest.approx(101, rel=0.01)
    # That they do is seen in the ten who clicked alone, so the interval is a little wider: freedom 2 (u p (1 - p))^2 over
    # u p (1 - p) ((1 - p)^3 + p^3 - p (1 - p)) = 18 / 0.64, and Student's quantile 2.048 in place of 1.984.
    assert same.low < alone.low and same.high > alone.high
    assert (same.low, same.high) == pytest.approx((0.0536, 0.1788), abs=1e-4)


def test_few_users_who_click_make_the_interval_wider() -> None:
    shown = np.full(400, 10)
    few, many = np.zeros(400, int), np.zeros(400, int)
    few[:8], many[:80] = 10, 1
    of_few, of_many = rate(shown, few), rate(shown, many)
    assert of_few.ctr == of_many.ctr == 0.02
    assert of_few.high - of_few.low > 1.5 * (of_many.high - of_many.low)
    # Wilson's interval for 400 users who always do the same, of whom 8 click, is 0.0102 to 0.0389.
    assert of_few.low < 0.0102 and of_few.high > 0.0389


def test_the_edges() -> None:
    nothing = rate(np.zeros(0, int), np.zeros(0, int))
    assert (nothing.impressions, nothing.low, nothing.high) == (0, 0.0, 1.0)
    one = rate(np.array([50]), np.array([5]))
    assert one.ctr == 0.1 and one.low < 0.01 and one.high > 0.9 and math.isnan(one.variance)
    never = rate(np.full(400, 3), np.zeros(400, int))
    assert never.low == 0.0 and never.high == pytest.approx(1 - 0.025 ** (1 / 400), abs=0.003)
    always = rate(np.full(400, 3), np.full(400, 3))
    assert always.high == 1.0 and always.low == pytest.approx(1 - never.high)
    alike = rate(np.full(10, 10), np.full(10, 5))  # less different than chance allows: no credit is given for it
    assert alike.high - alike.low > 0.15

    nearly = rate(np.full(10, 10), np.array([4, 6, *[5] * 8]))
    assert nearly.high - nearly.low > 0.19  # Wilson's interval for 100 independent impressions
    three = rate(np.full(3, 10), np.zeros(3, int))  # three users count as three trials, with two degrees of freedom
    assert three.high == pytest.approx(0.8606, abs=1e-3)


def test_rates_alike_are_no_evidence() -> None:
    one = rate(np.full(200, 10), np.tile([0, 1, 2, 3], 50))
    found = lift(one, one)
    assert found.lift == 0 and found.p == 1.0 and not found.decided


def test_students_quantile() -> None:
    known = {
        (0.975, 1): 12.7062,
        (0.975, 2): 4.3027,
        (0.975, 3): 3.1824,
        (0.975, 4): 2.7764,
        (0.95, 7): 1.8946,
        (0.995, 10): 3.1693,
    }
    known |= {(0.975, 30): 2.0423, (0.975, 1e6): 1.96}
    for (probability, freedom), value in known.items():
        assert student_quantile(probability, freedom) == pytest.approx(value, rel=1e-4)
    between = [student_quantile(0.975, freedom) for freedom in np.linspace(1, 3, 30)]
    assert (np.diff(between) < 0).all()


@pytest.mark.parametrize(
    ("users", "ctr", "likeness", "impressions"),
    [
        (400, 0.05, 0.0, 1),
        (400, 0.05, 0.05, 5),
        (400, 0.2, 0.1, 10),
        (100, 0.1, 0.05, 5),
        (30, 0.1, 0.05, 5),
        (30, 0.02, 0.0, 5),
        (10, 0.3, 0.1, 3),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(users: int, ctr: float, likeness: float, impressions: float) -> None:
    randoms = np.random.default_rng(7)
    repeats = 1500
    found = [rate(*visits(randoms, users, ctr, likeness, impressions)) for _ in range(repeats)]
    covered = sum(one.low <= ctr <= one.high for one in found)
    allowed = 3 * math.sqrt(0.95 * 0.05 * repeats)
    assert covered >= 0.95 * repeats - allowed
    if users >= 100:  # with few users and few clicks they err on the wide side
        assert covered <= 0.95 * repeats + allowed


def test_intervals_for_independent_impressions_would_not() -> None:
    randoms = np.random.default_rng(8)
    covered = 0
    for _ in range(400):
        shown, clicked = visits(randoms, 400, 0.2, 0.1, 10)
        plain = rate(np.ones(shown.sum(), int), np.repeat([1, 0], [clicked.sum(), (shown - clicked).sum()]))
        covered += plain.low <= 0.2 <= plain.high
    assert covered < 0.85 * 400


def follow(
    randoms: np.random.Generator, *, users: int, ctr: float, likeness: float, share: float, days: int, factor: float = 1.0
) -> list[Lift]:
    """The lift as seen at the end of each day by who looks each day, users coming back."""
    treated = randoms.random(users) < share
    weight = 1 / likeness - 1
    own = randoms.beta(ctr * weight, (1 - ctr) * weight, users) * np.where(treated, factor, 1.0)
    activity = randoms.gamma(1.0, 0.4, users)
    shown, clicked = np.zeros(users, int), np.zeros(users, int)
    looks = []
    for _ in range(days):
        today = randoms.poisson(activity)
        shown += today
        clicked += randoms.binomial(today, np.minimum(own, 1))
        a, b = (rate(shown[arm & (shown > 0)], clicked[arm & (shown > 0)]) for arm in (treated, ~treated))
        looks.append(lift(a, b))
    return looks


@pytest.mark.parametrize(("users", "ctr", "likeness", "share"), [(300, 0.1, 0.1, 0.5), (300, 0.2, 0.02, 0.2)])
def test_looking_each_day_seldom_finds_what_is_not_there(users: int, ctr: float, likeness: float, share: float) -> None:
    randoms = np.random.default_rng(9)
    repeats = 200
    wrong = fixed = 0
    for _ in range(repeats):
        looks = follow(randoms, users=users, ctr=ctr, likeness=likeness, share=share, days=40)
        wrong += any(look.decided for look in looks)
        for look in looks:
            assert look.decided == (look.p < 0.05) == (not look.low <= 0 <= look.high)
        # What a test for a single look would find: the same estimate against 1.96 standard errors.
        fixed += any(1.96 * _error(look) < abs(math.log1p(look.lift or 0.0)) for look in looks if math.isfinite(look.high))
    assert wrong <= 0.05 * repeats
    assert fixed > 0.1 * repeats  # so that the test above could fail


def _error(look: Lift) -> float:
    """A standard error, from the width of the sequence; solved for because the boundary depends on it."""
    half = (math.log1p(look.high) - math.log1p(look.low)) / 2
    low, high = 1e-9, half
    scale = math.log(1.5) ** 2
    for _ in range(60):
        middle = (low + high) / 2
        mixed = scale / middle**2
        width = middle * math.sqrt((1 + mixed) / mixed * (math.log1p(mixed) - 2 * math.log(0.05)))
        low, high = (middle, high) if width < half else (low, middle)
    return low


def test_a_lift_that_is_there_is_found_and_covered_at_every_look() -> None:
    randoms = np.random.default_rng(10)
    repeats = 100
    found = covered = 0
    for _ in range(repeats):
        looks = follow(randoms, users=1500, ctr=0.1, likeness=0.05, share=0.5, days=40, factor=1.5)
        found += looks[-1].decided and looks[-1].low > 0
        covered += all(look.low <= 0.5 <= look.high for look in looks)
    assert found >= 0.9 * repeats and covered >= 0.95 * repeats


def test_the_number_of_impressions_advised_is_enough() -> None:
    randoms = np.random.default_rng(11)
    needed = impressions_needed(0.1, 0.3)
    assert needed is not None
    decided = 0
    for _ in range(400):
        a, b = (rate(np.ones(needed, int), randoms.permutation(needed) < randoms.binomial(needed, p)) for p in (0.13, 0.1))
        decided += lift(a, b).decided
    assert 0.74 <= decided / 400 <= 0.88
    smaller, clustered = impressions_needed(0.1, 0.1), impressions_needed(0.1, 0.3, design_effect=4)
    assert (
        smaller is not None
        and smaller > 5 * needed
        and clustered is not None
        and clustered == pytest.approx(4 * needed, rel=1e-3)
    )
    assert (
        impressions_needed(0.0, 0.1) is None
        and impressions_needed(0.8, 0.3) is None
        and impressions_needed(1.0, 0.1) is None
    )


def test_lifts_that_cannot_be_judged_yet() -> None:
    def of(users: int, clickers: int) -> Rate:
        return rate(np.ones(users, int), (np.arange(users) < clickers).astype(int))

    assert lift(of(100, 0), of(100, 50)) == Lift(None, -1.0, math.inf, 1.0, decided=False)
    early = lift(of(100, 90), of(100, MIN_CLICKERS - 1))
    assert early.lift == pytest.approx(9.0) and (early.low, early.high, early.p, early.decided) == (
        -1.0,
        math.inf,
        1.0,
        False,
    )
    clear = lift(of(100, 90), of(100, 20))
    assert clear.decided and clear.low > 0.5 and clear.lift == pytest.approx(3.5) and clear.p < 1e-6
    other = lift(of(100, 20), of(100, 90))
    assert 1 + other.low == pytest.approx(1 / (1 + clear.high)) and other.p == pytest.approx(clear.p)


def test_users_in_groups_are_users_one_by_one() -> None:
    randoms = np.random.default_rng(12)
    shown, clicked = visits(randoms, 500, 0.1, 0.1, 4)
    pairs, users = np.unique(np.stack([shown, clicked]), axis=1, return_counts=True)
    assert rate(pairs[0], pairs[1], users) == rate(shown, clicked)


def test_a_split_is_seldom_called_wrong_however_often_one_looks_and_lost_users_are_found() -> None:
    randoms = np.random.default_rng(13)
    shares = [0.5, 0.3, 0.2]
    looks = range(10, 3000, 25)
    called = found = 0
    for _ in range(300):
        dealt = randoms.choice(3, 3000, p=shares)
        kept = dealt[(dealt > 0) | (randoms.random(3000) < 0.8)]  # of one treatment a fifth are lost
        called += any(split_p(np.bincount(dealt[:n], minlength=3).tolist(), shares) < 0.01 for n in looks)
        found += split_p(np.bincount(kept, minlength=3).tolist(), shares) < 0.01
    assert called <= 0.01 * 300 + 3
    assert found > 0.8 * 300
    assert split_p([119, 191], [0.5, 0.5]) < 0.01 < split_p([140, 170], [0.5, 0.5])
    assert split_p([0, 0], [0.5, 0.5]) == 1.0 and split_p([5, 1], [1.0, 0.0]) == 0.0
