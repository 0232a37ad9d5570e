"""Rankers, functions and files of scores are one to the evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_worlds import CUT, ShiftedRanker, noise, popularity, taste, taste_log

from heedful.errors import ConfigError, InputError
from heedful.evaluation.pools import Pools, make_pools
from heedful.evaluation.sources import FileSource, RankerSource, source_of
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
    users = slice(5, 25)
    assert ranker.pool(1.0, users).plain == pytest.approx(function.pool(1.0, users).plain, rel=1e-5)
    some = np.array([3, 17])
    assert ranker.catalogue(some).plain == pytest.approx(function.catalogue(some).plain, rel=1e-5)


def test_the_prior_that_is_added_is_the_one_that_the_ranker_would_add(world: tuple[EventLog, EventLog, Pools]) -> None:
    past, _, pools = world
    ranker = ShiftedRanker(past, taste(past), missing=30)
    source = RankerSource("m", ranker, pools, past)
    users = slice(0, len(pools))
    candidates = pools.candidates(0.0, users).with_rows(ranker.items.rows(pools.items.ids))
    histories = pools.histories(past, users).with_rows(ranker.items.rows(past.catalog.items.ids))
    direct = ranker.score_rows(histories, candidates, pool_gamma=0.0)
    assert source.pool(0.0, users).corrected == pytest.approx(direct, rel=1e-5)
    whole = source.catalogue(np.arange(len(pools)))
    known = ranker.items.rows(pools.items.ids)
    assert np.isneginf(whole.plain[:, known < 0]).all()
    direct = ranker.score_catalogue(histories, pool_gamma=0.0)[:, known[known >= 0]]
    assert whole.corrected is not None
    assert whole.corrected[:, known >= 0] == pytest.approx(direct, rel=1e-5)


def test_a_file_of_scores_is_as_good_as_the_function_that_made_it(
    tmp_path: Path, world: tuple[EventLog, EventLog, Pools]
) -> None:
    past, _, pools = world
    pools.save_requests(tmp_path / "requests.parquet", past)
    score, everybody = popularity(past), slice(0, len(pools))
    wanted, lists = {}, []
    for gamma in pools.gammas:
        candidates = pools.candidates(gamma, everybody)
        wanted[gamma] = score(pools.histories(past, everybody), candidates)
        lists += np.split(wanted[gamma], candidates.offsets[1:-1])
    ids = np.random.default_rng(0).permutation(len(lists))
    answer = pa.table({"request_id": ids, "scores": [lists[i].tolist() for i in ids]})
    pq.write_table(answer, tmp_path / "scores.parquet")
    source = source_of("file", tmp_path / "scores.parquet", pools, past)
    assert source.pool(0.0, everybody).plain.tolist() == wanted[0.0].tolist()
    start = pools.candidates(1.0, everybody).offsets[9]
    assert source.pool(1.0, slice(9, 11)).plain[0] == wanted[1.0][start]
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
    n = len(pools) * 2
    pq.write_table(pa.table({"request_id": range(n), "scores": [[1.0]] * n}), path)
    with pytest.raises(InputError, match="answers request 0 with another number of scores; got: 1"):
        FileSource("m", path, pools).pool(1.0, slice(0, 2))


def test_wrong_scores_and_models_are_refused(world: tuple[EventLog, EventLog, Pools]) -> None:
    past, _, pools = world
    users = slice(0, 3)
    with pytest.raises(InputError, match="'short' gave scores of another shape"):
        source_of("short", lambda histories, candidates: np.zeros(3), pools, past).pool(1.0, users)
    with pytest.raises(InputError, match="'nan' gave scores that are not finite"):
        source_of("nan", lambda histories, candidates: np.full(len(candidates.rows), np.nan), pools, past).pool(1.0, users)
    with pytest.raises(ConfigError, match="'number' is no model; got: int"):
        source_of("number", 3, pools, past)
    assert source_of("noise", noise(0), pools, past).ranks_catalogue
