"""The study of depth: what its tests say in words, and that the words are those of the numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from evaluation_worlds import CUT, Score, ShiftedRanker, noise, popularity, taste, taste_log

from heedful.errors import ConfigError
from heedful.evaluation.comparison import EvaluationConfig, compare
from heedful.evaluation.depths import DepthStudy, study_depths
from heedful.evaluation.measures import Measure
from heedful.events.log import EventLog


@pytest.fixture(scope="module")
def past() -> EventLog:
    return taste_log().split(CUT)[0]


def study(past: EventLog, scores: dict[int, Score]) -> DepthStudy:
    past, future = taste_log().split(CUT)
    config = EvaluationConfig(pool=100, resamples=300, catalogue_users=20, gammas=(1.0, 0.0), alpha=0.05)
    found = compare({"popularity": popularity(past)}, future, past=past, config=config)
    return study_depths({depth: ShiftedRanker(past, score) for depth, score in scores.items()}, found, past)


@pytest.fixture(scope="module")
def found(past: EventLog) -> DepthStudy:
    return study(past, {8: noise(4), 1: noise(3), 4: taste(past), 2: taste(past, weight=2.9)})


def test_depths_stand_in_order_on_the_pools_of_the_comparison(found: DepthStudy) -> None:
    assert found.depths == (1, 2, 4, 8) and list(found.results) == [1, 2, 4, 8]
    assert found.comparison.config.pool_sizes == (100,) and found.comparison.pools.largest == 100
    measures = {measure for result in found.results.values() for measure in result.best.by_user}
    assert not any(measure.pool == "catalogue" for measure in measures)
    assert len(found.comparison.verdicts) == 6 * 2 * 3


def test_the_words_are_those_of_the_tests(found: DepthStudy) -> None:
    said = found.sentences(1.0)
    measure = Measure("gamma 1", 100, "NDCG")
    means = {depth: result.best.by_user[measure].mean() for depth, result in found.results.items()}
    best = max(means, key=lambda depth: means[depth])
    assert best in (2, 4) and said[0] == f"NDCG is highest at depth {best} ({means[best]:.4f})."
    verdict = next(
        v for v in found.comparison.verdicts if v.measure == measure and v.first == "depth 1" and v.second == f"depth {best}"
    )
    assert said[3] == (
        f"Depth {best} is above depth 1 by {means[best] - means[1]:.4f} (95 % interval {-verdict.test.high:.4f} to "
        f"{-verdict.test.low:.4f})."
    )
    assert said[1:3] == ["No gain after 2 is shown.", f"Loss after {best} is shown at depth 8."]


def test_where_nothing_differs_nothing_is_claimed(past: EventLog) -> None:
    same = taste(past)
    found = study(past, {1: same, 3: same})
    assert found.sentences(0.0)[1:] == ["No gain after 1 is shown.", "No loss after 1 is shown."]
    better = study(past, {1: noise(1), 3: same})
    assert better.sentences(1.0)[1] == "The deepest, 3, is shown to be better than the one before it."


def test_numbers_for_files(found: DepthStudy) -> None:
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert facts["depths"] == [1, 2, 4, 8] and facts["sentences"]["gamma 0"] == found.sentences(0.0)
    table = found.per_user()
    assert set(table["depth"].to_pylist()) == {1, 2, 4, 8} and "model" not in table.column_names
    chosen = table.filter((np.asarray(table["depth"]) == 4) & np.asarray(table["prior"]))
    measure = Measure("gamma 0", 100, "NDCG")
    assert chosen[str(measure)].to_pylist() == found.results[4].best.by_user[measure].tolist()
    assert "Depth of attention, gamma 1: among 100 sampled negatives" in str(found)


def test_clear_errors(past: EventLog) -> None:
    for depths, got in (((4,), "4"), ((0, 2), "0, 2")):
        with pytest.raises(ConfigError, match=f"these depths cannot be compared; got: {got}; expected: two or more"):
            study(past, {depth: noise(depth) for depth in depths})
