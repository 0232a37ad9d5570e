"""Training instances: how events are split, what negatives are, and that they can be made again."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heedful.errors import TrainingError
from heedful.events.histories import Histories
from heedful.events.log import count_items
from heedful.events.targets import Targets
from heedful.model.popularity import PopularityIndex
from heedful.training.batch import Batch
from heedful.training.loader import batches_ahead
from heedful.training.negatives import smoothed_popularity
from heedful.training.sampler import InstanceSampler, Position, SamplingConfig
from ranking_worlds import DAY, START, histories_of, random_log

WAYS = ["last_items", "random_time"]
N_ITEMS = 60
OPTIONS: dict[str, Any] = {
    "batch_users": 16, "split": "last_items", "positives": 10, "negatives": 20, "gamma": 0.75, "avoid_history": True,
    "max_history": 100, "validation_users": 10, "seed": 3,
}  # fmt: skip


def sampler_of(histories: Histories, n_items: int = N_ITEMS, **options: Any) -> InstanceSampler:
    options = {**OPTIONS, **options}
    targets = options.pop("targets", Targets())
    outside = {name: options.pop(name) for name in ("popularity", "worker") if name in options}
    users = count_items(histories, n_items)[1]
    return InstanceSampler(histories, targets, users, SamplingConfig(**options), **outside)


def epoch_of(sampler: InstanceSampler, epoch: int = 0) -> list[Batch]:
    """The batches of one epoch."""
    start = Position(epoch)
    return [batch for batch, _ in itertools.takewhile(lambda made: made[1].epoch == epoch, sampler.batches(start))]


def instances_of(batches: list[Batch]) -> list[tuple[list[int], list[int], list[int], int]]:
    """(observed items newest first, positives, negatives, time of ranking) of each instance."""
    found = []
    for batch in batches:
        for b in range(len(batch.now)):
            used = batch.weights[b] > 0
            candidates, positive = batch.candidates[b], batch.positive[b]
            past = batch.history.rows[b, : batch.history.lengths[b]].tolist()
            negatives = candidates[used & ~positive].tolist()
            found.append((past, candidates[positive].tolist(), negatives, int(batch.now[b])))
    return found


def users_by_sequence(histories: Histories) -> list[list[int]]:
    return [histories.items[a:b].tolist() for a, b in itertools.pairwise(histories.offsets)]


def distinct(items: list[int]) -> list[int]:
    return list(dict.fromkeys(items))


def walks(users: int = 40, seed: int = 0, longest: int = 30, n_items: int = N_ITEMS) -> Histories:
    """Histories whose first item names the user (item u), so that an instance tells whose it is."""
    randoms = np.random.default_rng(seed)
    sequences = [[u, *randoms.integers(users, n_items, randoms.integers(1, longest)).tolist()] for u in range(users)]
    # Baskets: several actions share a time.
    times = [START + DAY * np.sort(randoms.integers(0, max(len(s) // 2, 1), len(s))) for s in sequences]
    return histories_of(sequences, times)


def owner_of(past: list[int], users: int = 40) -> int:
    return next(item for item in past if item < users)


# How events are split


def test_last_items_are_the_last_distinct_ones() -> None:
    histories = walks()
    sequences = users_by_sequence(histories)
    found = instances_of(epoch_of(sampler_of(histories, validation_users=0)))
    assert len(found) == sum(len(set(s)) > 1 for s in sequences)
    for past, positives, _, _ in found:
        items = distinct(sequences[owner_of(past)])
        last = min(10, len(items) // 2)
        assert sorted(positives) == sorted(items[len(items) - last :])
        assert not set(positives) & set(past)
        assert sorted(past + positives) == sorted(items)
    assert {len(positives) for _, positives, _, _ in found} >= {1, 10}
    # always the same ones
    again = instances_of(epoch_of(sampler_of(histories, validation_users=0), 7))
    assert sorted((sorted(p), sorted(s)) for p, s, _, _ in found) == sorted((sorted(p), sorted(s)) for p, s, _, _ in again)


def test_random_times_split_anywhere_but_never_a_basket() -> None:
    histories = walks()
    cuts: dict[int, set[int]] = {}
    for epoch in range(12):
        sampler = sampler_of(histories, split="random_time", validation_users=0)
        for past, positives, _, now in instances_of(epoch_of(sampler, epoch)):
            user = owner_of(past)
            own = slice(histories.offsets[user], histories.offsets[user + 1])
            items, times = histories.items[own], histories.times[own]
            assert positives and not set(positives) & set(past)
            if times[0] < times[-1]:
                assert set(past) == set(items[times < now].tolist())
                assert set(positives) <= set(items[times >= now].tolist())
            cuts.setdefault(user, set()).add(len(past))
    assert max(len(lengths) for lengths in cuts.values()) >= 5


def test_one_basket_is_split_anywhere() -> None:
    histories = histories_of([[0, 1, 2, 3], [4, 5, 6]], [[START] * 4, [START] * 3])
    sizes = set()
    for epoch in range(20):
        sampler = sampler_of(histories, 7, split="random_time", validation_users=0)
        found = instances_of(epoch_of(sampler, epoch))
        assert len(found) == 2
        for past, positives, _, now in found:
            assert set(past) | set(positives) in ({0, 1, 2, 3}, {4, 5, 6}) and now == START
            sizes.add(len(past))
    assert sizes == {1, 2, 3}


def test_random_times_see_only_what_was_before_and_ask_only_for_the_days_after() -> None:
    histories = random_log(users=60, items=N_ITEMS).histories
    horizon = 5 * DAY
    pairs = [
        (set(histories.items[a:b].tolist()), histories.items[a:b], histories.times[a:b])
        for a, b in itertools.pairwise(histories.offsets)
    ]
    made = 0
    for epoch in range(6):
        sampler = sampler_of(histories, split="random_time", horizon=horizon, validation_users=0)
        for past, positives, _, now in instances_of(epoch_of(sampler, epoch)):
            fitting = 0
            for _, items, times in pairs:
                before = set(items[times < now].tolist())
                after = set(items[(times >= now) & (times < now + horizon)].tolist())
                fitting += before == set(past) and set(positives) <= after - before
            assert positives and fitting >= 1
            made += 1
    assert made > 100


def test_an_event_at_the_horizon_is_no_target() -> None:
    """Events a second apart and a horizon of a second: each time has the event of that second alone."""
    histories = histories_of([[0, 1, 2]], [[START, START + 1, START + 2]])
    targets = set()
    for epoch in range(20):
        sampler = sampler_of(histories, 3, split="random_time", horizon=1, validation_users=0, negatives=1)
        targets |= {(now - START, *positives) for _, positives, _, now in instances_of(epoch_of(sampler, epoch))}
    assert targets == {(1, 1), (2, 2)}


def test_users_alike_are_split_at_different_times() -> None:
    histories = histories_of([[0, 1]] * 30, [[START, START + 30 * DAY]] * 30)
    sampler = sampler_of(histories, 2, split="random_time", horizon=30 * DAY, validation_users=0, negatives=1)
    assert len({now for *_, now in instances_of(epoch_of(sampler, 0))}) > 20


def test_random_times_are_even_over_the_time_in_which_they_make_sense() -> None:
    """One user, events on days 0, 1 and 11, the future two days: times in (0, 1] and (9, 11]."""
    day = np.array([0, 1, 11])
    histories = histories_of([[0, 1, 2], [3, 4]], [START + day * DAY, [START, START]])
    drawn = []
    for epoch in range(600):
        sampler = sampler_of(histories, 5, split="random_time", horizon=2 * DAY, validation_users=0, negatives=1)
        found = instances_of(epoch_of(sampler, epoch))
        drawn += [(now - START) / DAY for past, _, _, now in found if past[-1] == 0]
    days = np.array(drawn)
    assert len(days) == 600
    assert (((days > 0) & (days <= 1)) | ((days > 9) & (days <= 11))).all()
    even = np.where(days <= 1, days, days - 8) / 3  # the two stretches laid end to end
    distance = np.abs(np.sort(even) - (np.arange(600) + 0.5) / 600).max()
    assert distance < 1.95 / math.sqrt(600)  # Kolmogorov-Smirnov, one in a thousand


def test_no_random_time_is_earlier_than_since() -> None:
    """One user with events on days 0, 1 and 11, another whose days are over before: only (10, 11] is left."""
    day = np.array([0, 1, 11])
    histories = histories_of([[0, 1, 2], [3, 4]], [START + day * DAY, [START, START + DAY]])
    drawn = []
    for epoch in range(100):
        sampler = sampler_of(
            histories, 5, split="random_time", horizon=2 * DAY, validation_users=0, negatives=1, since=START + 10 * DAY
        )
        drawn += [(now - START) / DAY for _, _, _, now in instances_of(epoch_of(sampler, epoch))]
    assert len(drawn) == 100  # none of the second user
    assert 10 < min(drawn) < 10.1 and 10.9 < max(drawn) <= 11


def test_random_times_to_the_second() -> None:
    """The first time is the second after an event, the last that of the next event itself."""
    histories = histories_of([[0, 1], [2, 3]], [[START, START + 1], [START, START + 3]])
    drawn: dict[int, set[int]] = {0: set(), 2: set()}
    for epoch in range(60):
        sampler = sampler_of(histories, 4, split="random_time", horizon=2, validation_users=0, negatives=1)
        for past, positives, _, now in instances_of(epoch_of(sampler, epoch)):
            assert positives == [past[0] + 1]
            drawn[past[0]].add(now - START)
    assert drawn == {0: {1}, 2: {2, 3}}


@pytest.mark.parametrize("way", WAYS)
def test_only_target_kinds_are_positives(way: str) -> None:
    histories = walks()
    targets = np.random.default_rng(0).random(len(histories.items)) < 0.4
    histories = replace(histories, kinds=targets.astype(np.uint8))
    sequences = users_by_sequence(histories)
    sampler = sampler_of(histories, targets=Targets(wanted=(1,)), split=way, horizon=20 * DAY, validation_users=0)
    found = instances_of(epoch_of(sampler))
    assert len(found) > 5
    for past, positives, _, _ in found:
        user = owner_of(past)
        own = slice(histories.offsets[user], histories.offsets[user + 1])
        assert set(positives) <= {item for item, wanted in zip(sequences[user], targets[own], strict=True) if wanted}
        assert positives and not set(positives) & set(past)


def test_too_many_new_items_are_sampled_evenly() -> None:
    histories = histories_of([[0, *range(1, 21)], [21, 22]], [[START, *[START + DAY] * 20], [START, START + DAY]])
    counts = np.zeros(23)
    for epoch in range(400):
        sampler = sampler_of(
            histories, 23, split="random_time", horizon=2 * DAY, positives=5, negatives=1, validation_users=0
        )
        for past, positives, _, _ in instances_of(epoch_of(sampler, epoch)):
            if past == [0]:
                assert len(set(positives)) == 5
                counts[positives] += 1
    expected = 400 * 5 / 20
    assert counts[1:21].sum() == 2000
    chi_square = ((counts[1:21] - expected) ** 2 / expected).sum()
    assert chi_square < 19 + 5 * math.sqrt(2 * 19)


# Negatives and weights


@pytest.mark.parametrize("avoid_history", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_negatives_are_never_positives_and_weights_are_halves(way: str, avoid_history: bool) -> None:
    sampler = sampler_of(walks(), split=way, avoid_history=avoid_history, horizon=20 * DAY)
    touched = False
    for batch in epoch_of(sampler):
        halves = [np.where(mask, batch.weights, 0).sum(1) for mask in (batch.positive, ~batch.positive)]
        assert np.allclose(halves, 0.5, atol=1e-6)
        assert batch.candidates.min() >= 0 and batch.candidates.max() < N_ITEMS
        for past, positives, negatives, _ in instances_of([batch]):
            assert not set(negatives) & set(positives)
            assert len(negatives) == 20
            touched |= bool(set(negatives) & set(past))
    assert touched == (not avoid_history)


@pytest.mark.parametrize("gamma", [1.0, 0.75, 0.0, -0.5])
def test_negatives_have_the_distribution_of_equation_5(gamma: float) -> None:
    randoms = np.random.default_rng(0)
    # Two items that everyone has, at the ends; the rest with different numbers of users.
    sequences = [[0, *(i for i in range(2, 30) if randoms.random() < i / 40), 1] for _ in range(200)]
    histories = histories_of(sequences)
    users = count_items(histories, 30)[1]
    sampler = sampler_of(histories, 30, gamma=gamma, avoid_history=False, negatives=100, positives=1, validation_users=0)
    counts, draws = np.zeros(30), 0
    for epoch in range(3):
        for _, positives, negatives, _ in instances_of(epoch_of(sampler, epoch)):
            assert positives == [1]
            counts += np.bincount(negatives, minlength=30)
            draws += len(negatives)
    expected = np.where(np.arange(30) == 1, 0.0, users.astype(float) ** gamma)
    expected *= draws / expected.sum()
    assert counts[1] == 0 and draws == 60_000
    rest = np.arange(30) != 1
    chi_square = ((counts - expected)[rest] ** 2 / expected[rest]).sum()
    assert chi_square < 28 + 5 * math.sqrt(2 * 28)


def test_smoothed_popularity() -> None:
    assert smoothed_popularity(np.array([16, 1, 0, 81]), 0.5) == pytest.approx([4 / 14, 1 / 14, 0, 9 / 14])
    assert smoothed_popularity(np.array([5, 1, 0]), 0.0) == pytest.approx([0.5, 0.5, 0])
    assert smoothed_popularity(np.array([5, 1]), 1.0).sum() == pytest.approx(1)


@pytest.mark.parametrize("way", WAYS)
def test_a_user_who_has_nearly_the_whole_catalogue(way: str) -> None:
    histories = histories_of([list(range(12)), [0, 1], [1, 0]])
    for avoid_history in (False, True):
        sampler = sampler_of(
            histories, 12, split=way, avoid_history=avoid_history, validation_users=0, positives=5, negatives=8
        )
        for past, positives, negatives, _ in instances_of(epoch_of(sampler)):
            assert positives and not set(positives) & (set(past) | set(negatives))


def test_a_user_who_has_all_of_it_gets_no_negative_that_is_a_positive() -> None:
    """Two items, both users have both: the only item that is not a positive is in the history."""
    histories = histories_of([[0, 1], [1, 0]])
    for batch in epoch_of(sampler_of(histories, 2, split="random_time", validation_users=0, negatives=3)):
        for past, positives, negatives, _ in instances_of([batch]):
            assert len(past) == 1 and len(positives) == 1 and set(negatives) <= set(past)


@pytest.mark.parametrize("way", WAYS)
def test_negatives_as_known_at_the_time(way: str) -> None:
    histories = random_log(users=60, items=N_ITEMS).histories
    births = np.full(N_ITEMS, 2**62)
    np.minimum.at(births, histories.items, histories.times)
    sampler = sampler_of(histories, split=way, horizon=10 * DAY, popularity=PopularityIndex(histories, N_ITEMS))
    lengths = []
    for batch in epoch_of(sampler):
        assert np.allclose(np.where(batch.positive, batch.weights, 0).sum(1), 0.5, atol=1e-6)
        for past, positives, negatives, now in instances_of([batch]):
            assert not set(negatives) & (set(positives) | set(past))
            assert (births[negatives] < now).all()
            lengths.append(len(negatives))
    assert np.mean(lengths) > 10


# Order, seeds, validation


def same(one: Batch, other: Batch) -> bool:
    names = ("lengths", "rows", "ages", "counts", "kinds")
    pairs = [(getattr(one.history, n), getattr(other.history, n)) for n in names]
    pairs += [(getattr(one, n), getattr(other, n)) for n in ("candidates", "positive", "weights", "now")]
    assert (one.popularity is None) == (other.popularity is None)
    if one.popularity is not None and other.popularity is not None:
        pairs += [(getattr(one.popularity, n), getattr(other.popularity, n)) for n in ("features", "offset")]
    return one.seed == other.seed and all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("with_popularity", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_and_position_make_the_same_batches(way: str, with_popularity: bool) -> None:
    histories = random_log(users=90, items=N_ITEMS).histories

    def new(seed: int = 3) -> InstanceSampler:
        index = PopularityIndex(histories, N_ITEMS) if with_popularity else None
        return sampler_of(histories, split=way, horizon=10 * DAY, seed=seed, popularity=index)

    batches = list(itertools.islice(new().batches(Position()), 14))
    assert {position.epoch for _, position in batches} >= {0, 1, 2}
    for start in (0, 3, 7, 12):
        used = new()
        list(itertools.islice(used.batches(Position()), 5))  # what a sampler did before must not matter
        for sampler in (new(), used):
            resumed = list(itertools.islice(sampler.batches(batches[start][1]), 13 - start))
            assert len(resumed) == 13 - start
            for (one, after), (other, expected) in zip(resumed, batches[start + 1 :], strict=True):
                assert same(one, other) and after == expected
    assert not all(same(a, b) for (a, _), (b, _) in zip(batches, new(seed=4).batches(Position()), strict=False))


def test_threads_that_make_batches_at_once_make_the_same_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = random_log(users=90, items=N_ITEMS).histories
    sampler = sampler_of(histories, popularity=PopularityIndex(histories, N_ITEMS), batch_users=4)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    alone, together = sampler.batches(Position()), batches_ahead(sampler.recipes(Position()), on_cpu=False)
    for (one, after), (other, expected) in itertools.islice(zip(alone, together, strict=True), 100):
        assert same(one, other) and after == expected
    together.close()  # type: ignore[attr-defined]


def test_each_user_once_an_epoch_and_validation_users_never() -> None:
    histories = walks(users=40)
    eligible = {u for u, s in enumerate(users_by_sequence(histories)) if len(set(s)) > 1}
    sampler = sampler_of(histories, validation_users=12)
    validation = {owner_of(past) for past, *_ in instances_of(sampler.validation())}
    trained = [owner_of(past) for past, *_ in instances_of(epoch_of(sampler) + epoch_of(sampler, 1))]
    assert validation and not validation & set(trained)
    assert validation | set(trained) == eligible
    assert all(trained.count(user) == 2 for user in set(trained))
    assert len(set(trained)) == 40 - 12
    for one, other in zip(sampler.validation(), sampler.validation(), strict=True):
        assert same(one, other)


def test_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.training.sampler._SHARD_USERS", 10)
    histories = walks(users=40)
    sampler = sampler_of(histories, batch_users=4, validation_users=0)
    made = list(itertools.islice(sampler.batches(Position()), 25))
    assert {position.shard for _, position in made if position.epoch == 0} >= {0, 1, 2, 3}
    owners = [owner_of(past) for batch, position in made if position.epoch == 0 for past, *_ in instances_of([batch])]
    assert len(owners) == len(set(owners)) == 40
    for start in (2, 6, 13):
        resumed = itertools.islice(sampler_of(histories, batch_users=4, validation_users=0).batches(made[start][1]), 5)
        for (one, _), (other, _) in zip(resumed, made[start + 1 :], strict=False):
            assert same(one, other)


def test_batches_are_of_like_length() -> None:
    histories = histories_of([[u, *range(40, 40 + 1 + 50 * (u % 2))] for u in range(40)])
    batches = epoch_of(sampler_of(histories, 200, batch_users=10, validation_users=0))
    assert len(batches) == 4
    assert sorted(batch.history.rows.shape[1] for batch in batches)[:2] == [1, 1]


def test_max_history_keeps_the_newest() -> None:
    histories = histories_of([list(range(30)), [1, 2]])
    for past, *_ in instances_of(epoch_of(sampler_of(histories, 30, max_history=4, validation_users=0))):
        assert past in ([19, 18, 17, 16], [1])


# What cannot be learnt from


def test_logs_with_nothing_to_learn_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"nothing to learn from; got: no user with two or more events"):
        sampler_of(histories_of([[0], [1]]), 2)
    with pytest.raises(TrainingError, match="nothing to rank; got: 1 item; expected: two or more"):
        sampler_of(histories_of([[0, 0, 0]]), 1)
    with pytest.raises(TrainingError, match=r"nothing to rank; got: 0 item|nothing to learn from"):
        sampler_of(histories_of([]), 3)


@pytest.mark.parametrize("way", WAYS)
def test_users_who_only_repeat_themselves_end_with_an_error_and_not_in_a_loop(way: str) -> None:
    sampler = sampler_of(histories_of([[0, 0, 0], [1, 1]]), 2, split=way, validation_users=0)
    with pytest.raises(TrainingError, match="no user with anything new after a history"):
        next(sampler.batches(Position()))


@pytest.mark.parametrize("target", ["repeat", "all"])
def test_repeats_are_positives_and_own_items_negatives(target: str) -> None:
    log = random_log(users=60, items=40, events=30)
    histories = log.histories
    options = {"split": "random_time", "horizon": 10 * DAY, "validation_users": 0, "targets": Targets(target)}
    index = PopularityIndex(histories, 40)
    batches = epoch_of(sampler_of(histories, 40, popularity=index, **options))
    repeated, own_negatives = [], []
    for past, positives, negatives, _ in instances_of(batches):
        assert not set(positives) & set(negatives)
        repeated += [item in past for item in positives]
        own_negatives += [item in past for item in negatives]
    assert np.mean(repeated) == 1 if target == "repeat" else 0.2 < np.mean(repeated) < 0.95
    assert 0.5 < np.mean(own_negatives) < 1


def test_negatives_of_the_own_items_are_drawn_as_often_as_the_loss_believes() -> None:
    """The offset is the log share less the log of the probability of a draw: both parts of the draws count."""
    log = random_log(users=200, items=30, events=20)
    index = PopularityIndex(log.histories, 30)
    options = {"split": "random_time", "horizon": 10 * DAY, "validation_users": 0, "negatives": 40}
    plain = epoch_of(sampler_of(log.histories, 30, popularity=index, **options))[0]
    both = epoch_of(sampler_of(log.histories, 30, popularity=index, targets=Targets("all"), **options))[0]
    assert plain.popularity is not None and both.popularity is not None
    known = {}
    for history, now, rows, offset in zip(both.history.rows, both.now, both.candidates, both.popularity.offset, strict=True):
        own = set(history[: np.count_nonzero(history)].tolist())
        for row, value in zip(rows.tolist(), offset.tolist(), strict=True):
            _, log_share = index.features(np.array([row]), np.array([now]))
            drawn = math.exp(float(log_share[0]) - value)
            known.setdefault(row in own, []).append(drawn)
    # An own item is drawn at least by its share of half of the draws; another one by popularity in the other half.
    longest = max(both.history.lengths)
    assert min(known[True]) >= 0.5 / longest * 0.999 and max(known[False]) < 0.5


def test_viewed_items_can_be_positives_where_only_purchases_are_seen() -> None:
    """Users view an item and buy it ten days later."""
    n = 40
    histories = histories_of(
        [[u, (u + 1) % n, u] for u in range(n)],
        [[START, START + 5 * DAY, START + 10 * DAY]] * n,
        [[0, 0, 1]] * n,
    )
    options = {"split": "random_time", "horizon": 6 * DAY, "validation_users": 0}
    found = instances_of(epoch_of(sampler_of(histories, n, **options)))
    assert all(positives == [(past[-1] + 1) % n] for past, positives, _, _ in found)
    bought = Targets(wanted=(1,), seen=(1,))
    found = instances_of(epoch_of(sampler_of(histories, n, targets=bought, **options)))
    assert len(found) > 10 and all(positives == [past[-1]] for past, positives, _, _ in found)
