"""The external evaluation: cases tell nothing of the future, metrics are their definitions, the README has its table."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heedful.metrics import ndcg, ranks

CLONE = Path(__file__).parents[1]
DAY = 86_400


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"external_{name}", CLONE / "benchmarks" / "external" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users of 80 items over 20 days, the last five of them after the cut."""
    folder = tmp_path_factory.mktemp("external")
    randoms = np.random.default_rng(0)
    users, items = randoms.integers(0, 60, 2000), (80 * randoms.random(2000) ** 2).astype(int)
    events = {
        "user_id": [f"u{user}" for user in users],
        "item_id": [f"i{item}" for item in items],
        "timestamp": randoms.integers(0, 20 * DAY, 2000),
        "event": randoms.choice(["purchase", "return"], 2000, p=[0.9, 0.1]),
    }
    pq.write_table(pa.table(events), folder / "events.parquet")
    with pytest.MonkeyPatch.context() as patch:
        arguments = [str(folder / "events.parquet"), str(folder), "--cut", "1970-01-16", "--days", "5", "--pool", "20"]
        patch.setattr(sys, "argv", ["cases.py", *arguments])
        script("cases").main()
    return folder


def test_nothing_of_the_future_is_in_what_a_model_sees(case: Path) -> None:
    train = pq.read_table(case / "train.parquet")
    assert max(train["timestamp"].to_pylist()) < 15 * DAY and set(train["event"].to_pylist()) == {"purchase"}
    seen = {user: set() for user in train["user_id"].to_pylist()}
    for user, item in zip(train["user_id"].to_pylist(), train["item_id"].to_pylist(), strict=True):
        seen[user].add(item)
    truth = json.loads((case / "truth.json").read_text())["requests"]
    for number, request in enumerate(pq.read_table(case / "requests-full.parquet").to_pylist()):
        assert set(request["history"]) == seen[request["user_id"]] == set(truth[number]["seen"])
        assert not set(truth[number]["new"]) & seen[request["user_id"]] and truth[number]["new"]


@pytest.mark.parametrize("gamma", ["1.0", "0.75", "0.0"])
def test_pools_hold_the_new_items_and_negatives_that_are_not_seen(case: Path, gamma: str) -> None:
    truth = json.loads((case / "truth.json").read_text())["requests"]
    after = pq.read_table(case / "events.parquet").to_pylist()
    firsts = 0
    for number, request in enumerate(pq.read_table(case / f"requests-{gamma}.parquet").to_pylist()):
        candidates, new = request["candidates"], truth[number]["new"]
        touched = {e["item_id"] for e in after if e["user_id"] == request["user_id"] and e["event"] == "purchase"}
        assert len(set(candidates)) == len(candidates) and set(new) <= set(candidates)
        assert not (set(candidates) - set(new)) & touched
        firsts += candidates[0] in new
    assert 0 < firsts < number  # the place tells nothing


@pytest.mark.parametrize("seed", range(5))
def test_ndcg_is_that_of_the_package(seed: int) -> None:
    randoms = np.random.default_rng(seed)
    scores = randoms.integers(0, 6, 30).astype(np.float32)  # with ties
    positives = 3 + seed
    candidates, new = [f"i{n}" for n in range(30)], [f"i{n}" for n in range(positives)]
    expected = ndcg(ranks(scores, np.array([0, 30]), np.arange(30) < positives))
    assert script("grade").ndcg(new, candidates, scores.tolist()) == pytest.approx(float(expected[0]), rel=1e-5)


def test_the_catalogue_is_graded_by_its_first_ten_and_fifty() -> None:
    request = {"new": ["a", "b"], "seen": ["z"]}
    others = [f"x{n}" for n in range(60)]
    grade = script("grade")
    best = 1 + 1 / np.log2(3)
    assert grade.catalogue(request, ["a", "b", *others]) == pytest.approx((1, 1))
    assert grade.catalogue(request, ["x", "a", *others[:48], "b"]) == pytest.approx((1 / np.log2(3) / best, 0.5))
    for wrong in (["a", "a"], ["z"]):
        with pytest.raises(SystemExit, match="repeats an item or has one of the history"):
            grade.catalogue(request, wrong)


def test_the_readme_has_the_table_of_the_recorded_figures() -> None:
    figures = json.loads((CLONE / "docs" / "figures.json").read_text())
    assert script("grade").table(figures) in (CLONE / "README.md").read_text()
