"""Pools: who is tested, on what, and that nothing leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_worlds import CUT, DAY, log_of, random_log

from heedful.errors import ConfigError, InputError, MismatchError
from heedful.evaluation.pools import Pools, make_pools
from heedful.events.log import EventLog
from heedful.events.targets import TargetConfig
from heedful.events.vocabulary import Vocabulary

GAMMAS = (1.0, 0.75, 0.0)


@pytest.fixture(scope="module")
def logs() -> tuple[EventLog, EventLog]:
    return random_log(events=3000).split(CUT, days=7)


def touched_ids(log: EventLog, user: str) -> set[str]:
    row = int(log.users.rows([user])[0])
    if row < 0:
        return set()
    start, stop = log.histories.offsets[row : row + 2]
    return set(log.catalog.items.take(log.histories.items[start:stop]).to_pylist())


def test_positives_and_negatives_by_the_definition(logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs
    pools = make_pools(past, future, gammas=GAMMAS, size=50)
    known, tested = set(past.catalog.items.ids.to_pylist()), pools.users.to_pylist()
    expected = {
        user: (touched_ids(future, user) & known) - touched_ids(past, user)
        for user in future.users.ids.to_pylist()
        if touched_ids(past, user)
    }
    assert tested == [user for user, new in expected.items() if new]
    for number, user in enumerate(tested):
        part = slice(number, number + 1)
        assert set(pools.items.take(pools.positives.part(part).rows).to_pylist()) == expected[user]
        for gamma in GAMMAS:
            negatives = pools.items.take(pools.negatives[gamma].part(part).rows).to_pylist()
            assert len(negatives) == len(set(negatives)) == 50
            assert not set(negatives) & (touched_ids(past, user) | touched_ids(future, user))


def test_the_same_seed_gives_the_same_pools_and_another_seed_others(logs: tuple[EventLog, EventLog]) -> None:
    first, again, other = (make_pools(*logs, gammas=GAMMAS, size=20, seed=seed) for seed in (1, 1, 2))
    assert first.hash == again.hash != other.hash


def test_pools_are_nested_in_size_and_in_users(logs: tuple[EventLog, EventLog]) -> None:
    large = make_pools(*logs, gammas=GAMMAS, size=100, max_users=40)
    small = make_pools(*logs, gammas=GAMMAS, size=10, max_users=20)
    assert (len(large), len(small), large.size) == (40, 20, 100)
    places = {user: place for place, user in enumerate(large.users.to_pylist())}
    for gamma in GAMMAS:
        for number, user in enumerate(small.users.to_pylist()):
            start = large.negatives[gamma].offsets[places[user]]
            mine = small.negatives[gamma].rows[small.negatives[gamma].offsets[number] :][:10]
            assert (large.negatives[gamma].rows[start : start + 10] == mine).all()
    assert set(large.sample(5)) <= set(large.sample(10)) and len(large.sample(0)) == 40


def test_candidates_hide_the_positives_and_reveal_undoes_it(logs: tuple[EventLog, EventLog]) -> None:
    pools = make_pools(*logs, gammas=GAMMAS, size=30)
    users = slice(3, 17)
    hidden = pools.candidates(0.75, users)
    revealed = pools.reveal(hidden.rows, 0.75, users)
    for b in range(14):
        start, stop = hidden.offsets[b : b + 2]
        wanted = [
            pools.positives.part(users).take(np.array([b])).rows,
            pools.negatives[0.75].part(users).take(np.array([b])).rows,
        ]
        assert (revealed[start:stop] == np.concatenate(wanted)).all()
    whole = pools.candidates(0.75, slice(0, len(pools)))
    assert (whole.part(users).rows == hidden.rows).all()


def test_items_that_only_the_table_has_can_be_ranked() -> None:
    users, items = np.array([0, 0, 0, 1, 1, 1, 0, 1]), np.array([0, 1, 2, 1, 2, 3, 4, 5])
    times = CUT + np.array([1, 2, 3, 1, 2, 3, DAY * 10, DAY * 10])
    past, future = log_of(users, items, times, n_users=2, n_items=6).split(CUT + DAY * 9, days=7)
    with pytest.raises(InputError, match="nobody can be tested"):
        make_pools(past, future, gammas=(0.0,), size=1)
    table = Vocabulary([f"i{i}" for i in range(6)] + ["unseen"])
    pools = make_pools(past, future, gammas=(1.0, 0.0), size=1, items=table)
    assert pools.items.take(pools.positives.rows).to_pylist() == ["i4", "i5"]
    assert pools.counts.tolist() == [1, 2, 2, 1, 0, 0, 0]
    drawn = [make_pools(past, future, gammas=(1.0, 0.0), size=3, items=table, seed=s).negatives for s in range(30)]
    assert {int(r) for d in drawn for r in d[1.0].rows} <= {0, 1, 2, 3}
    assert 6 in {int(r) for d in drawn for r in d[0.0].rows}


def test_save_and_load(tmp_path: Path, logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs
    pools = make_pools(past, future, gammas=(0.0, 1.0), size=40, max_users=30, seed=4)
    pools.save(tmp_path / "pools.parquet")
    read = Pools.load(tmp_path / "pools.parquet", past, future)
    assert read.hash == pools.hash and read.gammas == (0.0, 1.0) and read.notes == pools.notes
    users = slice(0, 30)
    assert (read.candidates(0.0, users).rows == pools.candidates(0.0, users).rows).all()
    table = pq.read_table(tmp_path / "pools.parquet")
    assert table.column_names == ["gamma", "user_id", "positives", "negatives"] and len(table) == 60


def test_pools_of_other_logs_are_refused(tmp_path: Path, logs: tuple[EventLog, EventLog]) -> None:
    make_pools(*logs, gammas=(0.0,), size=10).save(tmp_path / "pools.parquet")
    with pytest.raises(MismatchError, match="does not belong to these logs"):
        Pools.load(tmp_path / "pools.parquet", *random_log(7, events=3000).split(CUT))
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(InputError, match="not a file of pools"):
        Pools.load(tmp_path / "text", *logs)


def test_requests_show_the_past_and_the_candidates_and_not_the_truth(
    tmp_path: Path, logs: tuple[EventLog, EventLog]
) -> None:
    past, future = logs
    pools = make_pools(past, future, gammas=(1.0, 0.0), size=25)
    pools.save_requests(tmp_path / "requests.parquet", past)
    table = pq.read_table(tmp_path / "requests.parquet")
    first = pools.first_request
    assert table["request_id"].to_pylist() == list(range(first, first + 2 * len(pools))) and first % 1_000_000_000 == 0
    assert make_pools(past, future, gammas=(1.0, 0.0), size=25, seed=1).first_request != first
    assert max(max(times) for times in table["history_times"].to_pylist()) < CUT
    request = table.slice(0, 1).to_pylist()[0]
    assert set(request["history"]) == touched_ids(past, request["user_id"])
    assert len(request["candidates"]) == 25 + pools.positives.lengths[0]


def test_clear_errors(logs: tuple[EventLog, EventLog]) -> None:
    past, future = logs
    with pytest.raises(ConfigError, match="a pool of 300 negatives is larger than the catalogue"):
        make_pools(past, future, gammas=GAMMAS, size=300)
    users, items, times = np.array([0, 0, 0, 1]), np.array([0, 1, 0, 1]), CUT + np.array([1, 2, DAY * 3, DAY * 3])
    loyal_and_new = log_of(users, items, times, n_users=2, n_items=2)
    with pytest.raises(
        InputError, match="no user with a past touches a new item after the cut; got: 2 users after the cut, 1 of"
    ):
        make_pools(*loyal_and_new.split(CUT + DAY * 2), gammas=(0.0,), size=1)


def test_short_pools_are_noted() -> None:
    log = random_log(n_items=30, n_users=40, events=700, skew=0.3)
    pools = make_pools(*log.split(CUT), gammas=(0.0,), size=25)
    assert pools.negatives[0.0].lengths.min() < 25
    assert "fewer than 25 negatives are left" in pools.notes[-1]


def test_some_users_have_larger_pools_that_begin_like_those_of_all(logs: tuple[EventLog, EventLog], tmp_path: Path) -> None:
    past, future = logs
    small = make_pools(past, future, gammas=GAMMAS, size=20)
    pools = make_pools(past, future, gammas=GAMMAS, size=20, largest=150, largest_users=30)
    assert (pools.size, pools.largest) == (20, 150)
    assert np.flatnonzero(pools.wide).tolist() == small.sample(30).tolist() and not small.wide.any()
    assert pools.lengths.tolist() == (3 * (pools.positives.lengths + np.where(pools.wide, 150, 20))).tolist()
    assert pools.narrowed(20).hash == small.hash and pools.narrowed(150) is pools
    assert any("more than 20 negatives are drawn for a random sample of 30" in note for note in pools.notes)
    pools.save(tmp_path / "pools.parquet")
    again = Pools.load(tmp_path / "pools.parquet", past, future)
    assert (again.size, again.largest, again.hash) == (20, 150, pools.hash)
    every = make_pools(past, future, gammas=GAMMAS, size=20, largest=150)
    assert (every.size, every.largest) == (150, 150) and not every.wide.any()
    with pytest.raises(ConfigError, match="a pool of 300 negatives is larger"):
        make_pools(past, future, gammas=GAMMAS, size=20, largest=300)


def ring_log(n: int = 40) -> EventLog:
    """User u touches items u and u + 1 before the cut and item u + 2 after it, so all items are equally popular."""
    users = np.repeat(np.arange(n), 3)
    items = (users + np.tile(np.arange(3), n)) % n
    times = CUT + DAY * np.tile([-2, -1, 1], n)
    return log_of(users, items, times, n_users=n, n_items=n)


def test_each_gamma_draws_by_itself() -> None:
    """Where all items are equally popular, the gammas mean the same and still draw different negatives."""
    pools = make_pools(*ring_log().split(CUT), gammas=(1.0, 0.0), size=10)
    one, other = (pools.negatives[gamma].rows.reshape(-1, 10) for gamma in (1.0, 0.0))
    assert np.mean([set(a) != set(b) for a, b in zip(one, other, strict=True)]) > 0.9


def test_the_largest_pool_leaves_one_item() -> None:
    past, future = ring_log().split(CUT)
    assert make_pools(past, future, gammas=(1.0,), size=39).size == 39
    with pytest.raises(ConfigError, match="a pool of 40 negatives is larger than the catalogue; got: 40 items"):
        make_pools(past, future, gammas=(1.0,), size=40)


def test_the_place_of_a_positive_tells_nothing() -> None:
    """Every user has one positive among ten; where it is differs from user to user, and from gamma to gamma."""
    pools = make_pools(*ring_log().split(CUT), gammas=(1.0, 0.0), size=9)
    users = slice(0, len(pools))
    places = []
    for gamma in pools.gammas:
        rows = pools.candidates(gamma, users).rows.reshape(-1, 10)
        places.append((rows == pools.positives.rows[:, None]).argmax(1))
    assert all(len(np.unique(one)) > 5 for one in places)
    assert (places[0] != places[1]).mean() > 0.5


def test_a_sample_of_users_is_random() -> None:
    logs = ring_log().split(CUT)
    samples = [make_pools(*logs, gammas=(1.0,), size=5, max_users=10, seed=seed).user_rows for seed in range(20)]
    assert all(len(sample) == 10 for sample in samples)
    assert len({tuple(sample) for sample in samples}) == 20
    assert 14 < np.mean(samples) < 25  # 19.5 but for chance


def test_kinds_choose_the_positives_and_any_kind_forbids_a_negative() -> None:
    """After the cut users with even numbers view item u + 2, the others buy it; all view item u + 3."""
    n = 40
    users = np.repeat(np.arange(n), 4)
    items, times = (users + np.tile(np.arange(4), n)) % n, CUT + DAY * np.tile([-2, -1, 1, 2], n)
    log = log_of(users, items, times, n_users=n, n_items=n)
    bought = ((users % 2 == 1) & (np.tile(np.arange(4), n) == 2)).astype(np.uint8)
    past, future = replace(log, histories=replace(log.histories, kinds=bought), kinds=("view", "purchase")).split(CUT)
    pools = make_pools(past, future, gammas=(0.0,), size=36, targets=TargetConfig(target_kinds=("purchase",)))
    assert pools.users.to_pylist() == [f"u{u}" for u in range(1, n, 2)]
    assert pools.items.take(pools.positives.rows).to_pylist() == [f"i{(u + 2) % n}" for u in range(1, n, 2)]
    for user, rows in zip(pools.users.to_pylist(), pools.negatives[0.0].rows.reshape(-1, 36), strict=True):
        assert not (touched_ids(past, user) | touched_ids(future, user)) & set(pools.items.take(rows).to_pylist())


def seen_again_log() -> tuple[EventLog, EventLog]:
    """User u views u, u + 1 and buys u + 2 before the cut; after it they buy u + 1, u + 2 and u + 3."""
    n = 40
    users, step = np.repeat(np.arange(n), 6), np.tile([0, 1, 2, 1, 2, 3], n)
    times = CUT + DAY * np.tile([-3, -2, -1, 1, 2, 3], n)
    log = log_of(users, (users + step) % n, times, n_users=n, n_items=n)
    bought = np.tile([0, 0, 1, 1, 1, 1], n).astype(np.uint8)
    return replace(log, histories=replace(log.histories, kinds=bought), kinds=("view", "purchase")).split(CUT)


BOUGHT = ("purchase",)


@pytest.mark.parametrize(
    ("targets", "steps"),
    [
        (TargetConfig(), {3}),
        (TargetConfig(seen_kinds=BOUGHT), {1, 3}),
        (TargetConfig(target="repeat"), {1, 2}),
        (TargetConfig(target="repeat", seen_kinds=BOUGHT), {2}),
        (TargetConfig(target="all", target_kinds=BOUGHT), {1, 2, 3}),
    ],
)
def test_new_items_repeats_and_both_by_what_counts_as_seen(targets: TargetConfig, steps: set[int]) -> None:
    past, future = seen_again_log()
    pools = make_pools(past, future, gammas=(0.0,), size=30, targets=targets)
    assert len(pools) == 40
    repeats = np.split(pools.repeats, pools.positives.offsets[1:-1])
    for b, user in enumerate(pools.users.to_pylist()):
        own = slice(b, b + 1)
        u = int(user[1:])
        ids = pools.items.take(pools.positives.part(own).rows).to_pylist()
        assert set(ids) == {f"i{(u + step) % 40}" for step in steps}
        seen = {f"i{(u + step) % 40}" for step in ({2} if targets.seen_kinds else {0, 1, 2})}
        assert set(pools.items.take(pools.seen.part(own).rows).to_pylist()) == seen
        assert [item in seen for item in ids] == repeats[b].tolist()


def test_negatives_of_repeats_are_seen_items_and_of_both_are_any() -> None:
    past, future = seen_again_log()
    again = make_pools(past, future, gammas=(0.0,), size=30, targets=TargetConfig(target="repeat"))
    both = make_pools(past, future, gammas=(0.0,), size=30, targets=TargetConfig(target="all"))
    own = set()
    for b, user in enumerate(again.users.to_pylist()):
        u = int(user[1:])
        assert again.items.take(again.negatives[0.0].part(slice(b, b + 1)).rows).to_pylist() == [f"i{u}"]
        drawn = both.items.take(both.negatives[0.0].part(slice(b, b + 1)).rows).to_pylist()
        assert not {f"i{(u + step) % 40}" for step in (1, 2, 3)} & set(drawn)
        own |= {u for item in drawn if item == f"i{u}"}
    assert len(own) > 20  # a seen item that is not touched again is drawn as any other


def test_pools_with_repeats_can_be_loaded_again(tmp_path: Path) -> None:
    past, future = seen_again_log()
    targets = TargetConfig(target="all", seen_kinds=BOUGHT)
    pools = make_pools(past, future, gammas=(0.0,), size=10, targets=targets)
    pools.save(tmp_path / "pools.parquet")
    loaded = Pools.load(tmp_path / "pools.parquet", past, future)
    assert loaded.targets == targets and loaded.repeats.tolist() == pools.repeats.tolist()
