"""Rankers, functions and files of scores are one to the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_worlds import CUT, ShiftedRanker, noise, popularity, taste, taste_log

from heedful.errors import ConfigError, InputError
from heedful.evaluation import sources
from heedful.evaluation.pools import Pools, make_pools
from heedful.evaluation.sources import FileSource, RankerSource, source_of
from heedful.events.candidates import Candidates
from heedful.events.histories import Histories
from heedful.events.log import EventLog


@pytest.fixture(scope="module")
def world() -> tuple[EventLog, EventLog, Pools]:
    past, future = taste_log(events=8000).split(CUT)
    return past, future, make_pools(past, future, gammas=(1.0, 0.0), size=60)


def test_a_ranker_in_its_own_rows_scores_like_a_function_in_those_of_the_pools(
    world: tuple[EventLog, EventLog, Pools],
) -> None:
    past, _, pools = world
    function, ranker = (source_of("m", model, pools, past) for model in (taste(past), ShiftedRanker(past, taste(past))))
    users = np.array([5, 3, 24, 17])
    for gamma, scores in function.pools(users).items():
        assert ranker.pools(users)[gamma] == pytest.approx(scores, rel=1e-5)
    table = function.catalogue(users)
    assert ranker.catalogue(users) == pytest.approx(table, rel=1e-5)
    drawn = pools.drawn(0.0, users)
    assert table[drawn.owners, drawn.rows] == pytest.approx(ranker.pools(users)[0.0], rel=1e-5)


def test_the_prior_that_is_added_is_the_one_that_the_ranker_would_add(world: tuple[EventLog, EventLog, Pools]) -> None:
    past, _, pools = world
    ranker = ShiftedRanker(past, taste(past), missing=30)
    source = RankerSource("m", ranker, pools, past)
    users = np.arange(len(pools))
    known = ranker.items.rows(pools.items.ids)
    candidates = pools.drawn(0.0, users)
    histories = pools.histories(past, users).with_rows(ranker.items.rows(past.catalog.items.ids))
    prior = source.prior(0.0)
    assert prior is not None
    direct = ranker.score_rows(histories, candidates.with_rows(known), pool_gamma=0.0)
    assert source.pools(users)[0.0] + prior[candidates.rows] == pytest.approx(direct, rel=1e-5)
    whole = source.catalogue(users)
    assert np.isneginf(whole[:, known < 0]).all()
    direct = ranker.score_catalogue(histories, pool_gamma=0.0)[:, known[known >= 0]]
    assert (whole + prior)[:, known >= 0] == pytest.approx(direct, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_each_item_is_scored_once_for_all_pools(
    world: tuple[EventLog, EventLog, Pools], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Whether the pools' items or the whole catalogue is scored, a ranker's scores are the same."""
    past, _, pools = world
    asked: list[int] = []

    class Counted(ShiftedRanker):
        def score_rows(self, histories: Histories, candidates: Candidates, **options: Any) -> np.ndarray:
            pairs = candidates.owners * 10_000 + candidates.rows
            assert len(np.unique(pairs)) == len(pairs)
            asked.append(len(pairs))
            return super().score_rows(histories, candidates, **options)

    monkeypatch.setattr(sources, "_MOST_OF_IT", share)
    users = np.array([4, 9, 2])
    found = RankerSource("m", Counted(past, taste(past)), pools, past).pools(users)
    for gamma, scores in source_of("f", taste(past), pools, past).pools(users).items():
        assert found[gamma] == pytest.approx(scores, rel=1e-5)
    distinct = [np.union1d(*(pools.drawn(g, users[n : n + 1]).rows for g in pools.gammas)) for n in range(3)]
    assert asked == [sum(map(len, distinct)) if share else 3 * len(past.catalog)]


def test_a_file_of_scores_is_as_good_as_the_function_that_made_it(
    tmp_path: Path, world: tuple[EventLog, EventLog, Pools]
) -> None:
    past, _, pools = world
    pools.save_requests(tmp_path / "requests.parquet", past)
    score, everybody = popularity(past), np.arange(len(pools))
    wanted, lists = {}, []
    for gamma in pools.gammas:
        candidates = pools.candidates(gamma, everybody)
        wanted[gamma] = score(pools.histories(past, everybody), candidates)
        lists += np.split(wanted[gamma], candidates.offsets[1:-1])
    ids = np.random.default_rng(0).permutation(len(lists))
    answer = pa.table({"request_id": pools.first_request + ids, "scores": [lists[i].tolist() for i in ids]})
    pq.write_table(answer, tmp_path / "scores.parquet")
    source = source_of("file", tmp_path / "scores.parquet", pools, past)
    function = source_of("function", score, pools, past)
    for users in (everybody, np.array([9, 10, 30])):
        for gamma, scores in function.pools(users).items():
            assert source.pools(users)[gamma].tolist() == scores.tolist()
    assert source.prior(1.0) is None and function.prior(1.0) is None
    with pytest.raises(ConfigError, match="cannot rank the whole catalogue"):
        source.catalogue(np.array([0]))


def test_wrong_files_are_refused(tmp_path: Path, world: tuple[EventLog, EventLog, Pools]) -> None:
    pools = world[2]
    path = tmp_path / "scores.parquet"
    with pytest.raises(InputError, match="cannot be read"):
        FileSource("m", path, pools)
    pq.write_table(pa.table({"request_id": [0, 1], "scores": [[1.0], [2.0]]}), path)
    with pytest.raises(InputError, match="does not answer the requests of these pools"):
        FileSource("m", path, pools)
    first, n = pools.first_request, len(pools) * 2
    pq.write_table(pa.table({"request_id": range(n), "scores": [[1.0]] * n}), path)
    with pytest.raises(InputError, match=f"request_id 0 to {n - 1}; expected: one row for each request_id from {first} to"):
        FileSource("m", path, pools)
    pq.write_table(pa.table({"request_id": range(first, first + n), "scores": [[1.0]] * n}), path)
    with pytest.raises(InputError, match=f"answers request {first} with another number of scores; got: 1"):
        FileSource("m", path, pools).pools(np.array([0, 1]))


def test_wrong_scores_and_models_are_refused(world: tuple[EventLog, EventLog, Pools]) -> None:
    past, _, pools = world
    users = np.arange(3)
    with pytest.raises(InputError, match="'short' gave scores of another shape"):
        source_of("short", lambda histories, candidates: np.zeros(3), pools, past).pools(users)
    with pytest.raises(InputError, match="'nan' gave scores that are not finite"):
        source_of("nan", lambda histories, candidates: np.full(len(candidates.rows), np.nan), pools, past).pools(users)
    with pytest.raises(ConfigError, match="'number' is not a model; got: int"):
        source_of("number", 3, pools, past)
    assert source_of("noise", noise(0), pools, past).ranks_catalogue
