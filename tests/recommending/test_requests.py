"""Requests in a file: one answer for each, in order, whatever is in them; or a clear error and no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from heedful.errors import InputError
from heedful.rankers.base import UNKNOWN_SCORE, Ranker
from heedful.rankers.registry import MODELS
from heedful.recommending.recommend import Query, Recommender
from heedful.recommending.requests import RankingReport, recommend_requests, score_requests
from ranking_worlds import DAY, QUICK, START, random_log, table_of

KINDS = ("view", "purchase")


@cache
def ranker_of(ids: str = "text", name: str = "attention") -> Ranker:
    names = [f"sku-{n}" if ids == "text" else 100 + n for n in range(60)]
    log = random_log(ids=names, kind_names=KINDS)
    return MODELS[name](**QUICK[name]).fit(log, table_of(log.catalog.items.ids))


def name_of(ranker: Ranker, number: int) -> Any:
    return ranker.items.ids[number].as_py()


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def some_requests(ranker: Ranker, count: int = 40, seed: int = 0) -> dict[str, list[Any]]:
    randoms = np.random.default_rng(seed)

    def items(longest: int) -> list[Any]:
        return [name_of(ranker, int(n)) for n in randoms.integers(0, 60, randoms.integers(0, longest))]

    histories = [items(20) for _ in range(count)]
    return {
        "request_id": [f"r{count - n}" for n in range(count)],
        "history": histories,
        "candidates": [items(12) for _ in range(count)],
        "history_times": [np.sort(START + randoms.integers(0, 120 * DAY, len(h))).tolist() for h in histories],
        "history_kinds": [[KINDS[code] for code in randoms.integers(0, 2, len(h))] for h in histories],
    }


def no_file(out: Path) -> bool:
    """Neither the file nor any part of it."""
    return [path.name for path in out.parent.iterdir() if out.name in path.name] == []


@pytest.fixture(params=["text", "integer"])
def ranker(request: pytest.FixtureRequest) -> Ranker:
    return ranker_of(request.param)


@pytest.mark.parametrize("pool_gamma", [0.0, 1.0, None])
def test_scores_are_those_of_one_request_at_a_time(ranker: Ranker, tmp_path: Path, pool_gamma: float | None) -> None:
    requests = some_requests(ranker)
    report = score_requests(
        ranker, write(tmp_path / "in.parquet", requests), tmp_path / "out.parquet", pool_gamma=pool_gamma
    )
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.schema.names == ["request_id", "scores"] and out["scores"].type == pa.list_(pa.float32())
    assert out["request_id"].to_pylist() == requests["request_id"]
    for n, scores in enumerate(out["scores"].to_pylist()):
        expected = ranker.score(
            requests["history"][n],
            requests["candidates"][n],
            history_times=requests["history_times"][n],
            history_kinds=requests["history_kinds"][n],
            pool_gamma=pool_gamma,
        )
        assert scores == pytest.approx(expected.tolist(), abs=1e-4)
    assert report.requests == 40 and report.candidates == sum(map(len, requests["candidates"]))
    assert report.unknown_history == report.unknown_candidates == 0
    assert report.empty == sum(not history for history in requests["history"]) > 0


@pytest.mark.parametrize("exclude", [True, False])
def test_recommendations_are_those_of_one_request_at_a_time(ranker: Ranker, tmp_path: Path, exclude: bool) -> None:
    requests = some_requests(ranker)
    del requests["candidates"]
    source = write(tmp_path / "in.parquet", requests)
    report = recommend_requests(
        Recommender(ranker),
        source,
        tmp_path / "out.parquet",
        query=Query(k=7, exclude_history=exclude, pool_gamma=1.0),
    )
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.schema.names == ["request_id", "items", "scores"] and out["items"].type.value_type == ranker.items.ids.type
    assert out["request_id"].to_pylist() == requests["request_id"]
    for n, row in enumerate(out.to_pylist()):
        assert len(set(row["items"])) == 7 and row["scores"] == sorted(row["scores"], reverse=True)
        assert not exclude or not set(row["items"]) & set(requests["history"][n])
        expected = ranker.score(
            requests["history"][n],
            row["items"],
            history_times=requests["history_times"][n],
            history_kinds=requests["history_kinds"][n],
            pool_gamma=1.0,
        )
        assert row["scores"] == pytest.approx(expected.tolist(), abs=1e-4)
    assert report.requests == 40 and report.candidates == 40 * 7


def test_more_requests_than_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = ranker_of()
    source = write(tmp_path / "in.parquet", some_requests(ranker), row_group_size=11)
    score_requests(ranker, source, tmp_path / "whole.parquet")
    monkeypatch.setattr("heedful.recommending.requests.BATCH_REQUESTS", 7)
    score_requests(ranker, source, tmp_path / "parts.parquet")
    whole, parts = (pq.read_table(tmp_path / name) for name in ("whole.parquet", "parts.parquet"))
    assert whole["request_id"].equals(parts["request_id"])
    for one, other in zip(whole["scores"].to_pylist(), parts["scores"].to_pylist(), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def recommend_by(ranker: Ranker, *places: Path) -> RankingReport:
    return recommend_requests(Recommender(ranker), *places)


@pytest.mark.parametrize("function", [score_requests, recommend_by])
def test_the_number_of_threads_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[..., RankingReport]
) -> None:
    monkeypatch.setattr("heedful.recommending.requests.BATCH_REQUESTS", 3)
    monkeypatch.setattr("heedful.recommending.requests.ROW_GROUP_REQUESTS", 6)
    ranker, before = ranker_of(), torch.get_num_threads()
    source = write(tmp_path / "in.parquet", some_requests(ranker))
    reports = {}
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            reports[threads] = function(ranker, source, tmp_path / f"{threads}.parquet")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert reports[1] == reports[2] == reports[5]
    one, two, five = ((tmp_path / f"{threads}.parquet").read_bytes() for threads in (1, 2, 5))
    assert one == two == five


def test_a_batch_that_fails_ends_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.recommending.requests.BATCH_REQUESTS", 2)
    times = [[START]] * 7 + [[START, START], [START]]
    columns = {"request_id": list(range(9)), "history": [["sku-1"]] * 9, "history_times": times}
    threads = torch.get_num_threads()
    with pytest.raises(InputError, match="request 7 does not fit its history"):
        recommend_by(ranker_of(), write(tmp_path / "in.parquet", columns), tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists() and torch.get_num_threads() == threads


def test_unknown_ids_are_counted(tmp_path: Path) -> None:
    ranker = ranker_of()
    source = write(
        tmp_path / "in.parquet",
        {
            "request_id": [1, 2, 3],
            "history": [["sku-1", "no such"], ["neither"], []],
            "candidates": [["sku-1", "what", None], ["sku-2"], ["who"]],
        },
    )
    report = score_requests(ranker, source, tmp_path / "out.parquet")
    assert (report.unknown_history, report.unknown_candidates, report.empty, report.requests) == (2, 3, 2, 3)
    scores = pq.read_table(tmp_path / "out.parquet")["scores"].to_pylist()
    assert scores[0][1:] == [UNKNOWN_SCORE] * 2 and scores[2] == [UNKNOWN_SCORE]
    assert scores[0][0] > UNKNOWN_SCORE < scores[1][0]


def test_null_lists_are_empty_ones(tmp_path: Path) -> None:
    ranker = ranker_of()
    columns = {
        "request_id": ["a", "b", "c"],
        "history": [None, ["sku-1"], ["sku-1"]],
        "candidates": [["sku-2"], None, ["sku-2"]],
        "history_kinds": [None, [None], ["view"]],
    }
    report = score_requests(ranker, write(tmp_path / "in.parquet", columns), tmp_path / "out.parquet")
    scores = pq.read_table(tmp_path / "out.parquet")["scores"].to_pylist()
    assert [len(row) for row in scores] == [1, 0, 1] and report.empty == 1
    query = Query(k=2)
    recommend_requests(Recommender(ranker), tmp_path / "in.parquet", tmp_path / "top.parquet", query=query)
    assert [len(row) for row in pq.read_table(tmp_path / "top.parquet")["items"].to_pylist()] == [2, 2, 2]


def test_null_columns_of_times_and_kinds_are_as_if_missing(tmp_path: Path) -> None:
    ranker = ranker_of()
    requests = some_requests(ranker)
    plain = {name: requests[name] for name in ("request_id", "history", "candidates")}
    nulls = {"history_times": pa.nulls(40, pa.list_(pa.int64())), "history_kinds": pa.nulls(40, pa.list_(pa.string()))}
    score_requests(ranker, write(tmp_path / "a.parquet", plain), tmp_path / "1.parquet")
    score_requests(ranker, write(tmp_path / "b.parquet", {**plain, **nulls}), tmp_path / "2.parquet")
    assert pq.read_table(tmp_path / "1.parquet").equals(pq.read_table(tmp_path / "2.parquet"))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_may_be_timestamps(tmp_path: Path, unit: str) -> None:
    ranker = ranker_of()
    requests = some_requests(ranker)
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    scaled = [[time * factor for time in times] for times in requests["history_times"]]
    stamps = pa.array(scaled, pa.list_(pa.int64())).cast(pa.list_(pa.timestamp(unit, "UTC")))
    score_requests(ranker, write(tmp_path / "a.parquet", requests), tmp_path / "1.parquet")
    score_requests(ranker, write(tmp_path / "b.parquet", {**requests, "history_times": stamps}), tmp_path / "2.parquet")
    assert pq.read_table(tmp_path / "1.parquet").equals(pq.read_table(tmp_path / "2.parquet"))


def test_integers_for_a_model_of_strings_and_the_other_way_round(tmp_path: Path) -> None:
    integer = ranker_of("integer")
    history, candidates = [[101, 105]], [[103, 104, 999_999]]
    as_text = [[str(n) for n in row] for row in history], [[*map(str, candidates[0][:2]), "no number"]]
    found = []
    for name, (past, asked) in {"integers": (history, candidates), "text": as_text}.items():
        columns = {"request_id": [1], "history": past, "candidates": asked}
        report = score_requests(integer, write(tmp_path / name, columns), tmp_path / "out.parquet")
        assert report.unknown_candidates == 1 and report.unknown_history == 0
        found.append(pq.read_table(tmp_path / "out.parquet")["scores"].to_pylist())
    assert found[0] == found[1]


def test_large_lists_and_other_request_ids(tmp_path: Path) -> None:
    ranker = ranker_of()
    columns = {
        "request_id": pa.array([7, 7, None], pa.int16()),
        "history": pa.array([["sku-1"]] * 3, pa.large_list(pa.large_string())),
        "candidates": pa.array([["sku-2"]] * 3, pa.large_list(pa.dictionary(pa.int32(), pa.string()))),
    }
    score_requests(ranker, write(tmp_path / "in.parquet", columns), tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out["request_id"].type == pa.int16() and out["request_id"].to_pylist() == [7, 7, None]
    assert len({tuple(row) for row in out["scores"].to_pylist()}) == 1


def test_no_requests(tmp_path: Path) -> None:
    ranker = ranker_of()
    lists = pa.array([], pa.list_(pa.string()))
    source = write(tmp_path / "in.parquet", {"request_id": pa.array([], pa.string()), "history": lists, "candidates": lists})
    assert score_requests(ranker, source, tmp_path / "scores.parquet").requests == 0
    assert recommend_by(ranker, source, tmp_path / "top.parquet").requests == 0
    assert pq.read_table(tmp_path / "scores.parquet").num_rows == pq.read_table(tmp_path / "top.parquet").num_rows == 0
    assert pq.read_table(tmp_path / "top.parquet").schema.names == ["request_id", "items", "scores"]


def test_only_empty_histories(tmp_path: Path) -> None:
    ranker = ranker_of()
    columns = {"request_id": [1, 2], "history": [[], []], "history_times": [[], []]}
    source = write(tmp_path / "in.parquet", columns)
    report = recommend_requests(Recommender(ranker), source, tmp_path / "out.parquet", query=Query(k=3))
    assert report.empty == 2
    best = np.argsort(-ranker.users_of_item, kind="stable")[:3]
    expected = [name_of(ranker, int(row)) for row in best]
    assert pq.read_table(tmp_path / "out.parquet")["items"].to_pylist() == [expected, expected]


BAD: list[tuple[dict[str, Sequence[Any]], str]] = [
    (
        {"request_id": ["a"], "history": [["sku-1"]]},
        "lacks a column; got: request_id, history; expected: .*fix: add candidates",
    ),
    ({"history": [["sku-1"]], "candidates": [["sku-1"]]}, "lacks a column; .*fix: add request_id"),
    ({"history": ["sku-1"]}, "column 'history' .* is not a list; got: string; expected: a list of item ids"),
    ({"candidates": [5]}, "column 'candidates' .* is not a list; got: int64"),
    ({"history": [[True]]}, "ids of a type that cannot name anything; got: bool; expected: strings or integers"),
    ({"history_times": [[1, 2]]}, "history_times of request 'a' does not fit its history; got: 2 values; expected: 1, one"),
    (
        {"history_times": [[True]]},
        "column 'history_times' .* wrong type; got: list<.*bool>; expected: a list of unix times, ISO texts",
    ),
    ({"history_times": [["noon"]]}, "that is not a time; got: 'noon'; expected: unix times after March 1973"),
    ({"history_times": [[7]]}, "that is not a time; got: 7; .*to fix: convert it, or leave it empty"),
    ({"history_times": [7]}, "column 'history_times' .* wrong type; got: int64"),
    ({"history_kinds": [[3]]}, "column 'history_kinds' .* wrong type; got: list<.*int64>; expected: a list of strings"),
    ({"history_kinds": [[]]}, "history_kinds of request 'a' does not fit its history; got: 0 values; expected: 1"),
]


@pytest.mark.parametrize(("columns", "match"), BAD)
def test_bad_requests_give_an_error_and_no_file(tmp_path: Path, columns: dict[str, Any], match: str) -> None:
    sound = {"request_id": ["a"], "history": [["sku-1"]], "candidates": [["sku-2"]]}
    columns = {**sound, **columns} if len(columns) == 1 else columns
    with pytest.raises(InputError, match=match):
        score_requests(ranker_of(), write(tmp_path / "in.parquet", columns), tmp_path / "out.parquet")
    assert no_file(tmp_path / "out.parquet")


def test_files_that_are_no_requests(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(InputError, match=r"there is no file .*nowhere.parquet; to fix: check the path"):
        score_requests(ranker_of(), tmp_path / "nowhere.parquet", out)
    for content in (b"", b"request_id,history\n", b"PAR1 and then nothing PAR1"):
        (tmp_path / "in").write_bytes(content)
        with pytest.raises(InputError, match=r"in cannot be read; got: .*; expected: a Parquet file of requests"):
            score_requests(ranker_of(), tmp_path / "in", out)
    with pytest.raises(InputError, match="cannot be read; got: "):
        score_requests(ranker_of(), tmp_path, out)
    assert no_file(out)


def test_a_failure_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker, out = ranker_of(), tmp_path / "out.parquet"
    monkeypatch.setattr("heedful.recommending.requests.BATCH_REQUESTS", 7)
    requests = some_requests(ranker)
    score_requests(ranker, write(tmp_path / "in.parquet", requests), out)
    before = out.read_bytes()
    requests["history_times"][39] = [1] * 100
    with pytest.raises(InputError, match="history_times of request 'r1' does not fit"):
        score_requests(ranker, write(tmp_path / "in.parquet", requests), out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


@pytest.mark.parametrize("kind", [pa.list_(pa.string(), 2), pa.large_list(pa.string()), pa.list_view(pa.string())])
def test_any_type_of_list_is_a_list(tmp_path: Path, kind: pa.DataType) -> None:
    ranker, histories = ranker_of(), [["sku-1", "sku-2"], None, ["sku-3", "sku-4"]]
    answers = []
    for name, column in (("plain", pa.array(histories)), ("other", pa.array(histories, kind))):
        times = pa.array([[START, START], None, [START, START]])
        table = pa.table({"request_id": [1, 2, 3], "history": column, "history_times": times})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        recommend_requests(
            Recommender(ranker), tmp_path / f"{name}.parquet", tmp_path / f"{name}.out.parquet", query=Query(k=10**9)
        )
        answers.append(pq.read_table(tmp_path / f"{name}.out.parquet"))
    assert answers[0].equals(answers[1])
