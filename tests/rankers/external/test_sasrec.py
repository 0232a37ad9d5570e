"""SASRec, gSASRec, eSASRec and HSTU: the losses against their formulas, and sequences that can be learnt."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from heedful.errors import ConfigError
from heedful.events.log import EventLog
from heedful.rankers.external.sasrec import HSTU, ESASRec, GSASRec, SASRec, _gbce, _positive_weight, _sampled_softmax
from heedful.recommending.recommend import Query, Recommender
from ranking_worlds import START, log_of

TINY: dict[str, Any] = {"factors": 16, "blocks": 1, "heads": 1, "session_length": 8, "batch_sessions": 16, "dropout": 0.0}

MODELS = [SASRec, GSASRec, ESASRec, HSTU]


def circle(users: int = 60, items: int = 20, length: int = 12) -> EventLog:
    """After item n comes item n + 1."""
    starts = np.random.default_rng(0).integers(0, items, users)
    return log_of([[(int(start) + n) % items for n in range(length)] for start in starts], n_items=items)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_is_its_formula(calibration: float) -> None:
    positive, negative = torch.randn(5, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    beta = _positive_weight(7 / 50, calibration)
    assert beta == pytest.approx({0.0: 1.0, 0.75: 1 - 0.75 * 43 / 50, 1.0: 7 / 50}[calibration])
    expected = [
        -np.log(1 / (1 + np.exp(-s)) ** beta) - sum(np.log(1 - 1 / (1 + np.exp(-n))) for n in ns)
        for s, ns in zip(positive.numpy(), negative.numpy(), strict=True)
    ]
    assert float(_gbce(positive, negative, beta)) == pytest.approx(np.mean(expected))


def test_softmax_leaves_out_what_is_masked() -> None:
    positive = torch.tensor([0.5, 1.0])
    negative = torch.tensor([[0.1, -torch.inf], [2.0, -1.0]])
    expected = [-0.5 + np.log(np.exp(0.5) + np.exp(0.1)), -1.0 + np.log(np.exp(1.0) + np.exp(2.0) + np.exp(-1.0))]
    assert float(_sampled_softmax(positive, negative)) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("negatives", [500, 8])
def test_it_learns_what_comes_next(model: type[SASRec], negatives: int) -> None:
    log = circle()
    ranker = model(**TINY, negatives=negatives, learning_rate=0.01, epochs=60, patience=60).fit(log)
    names = log.catalog.items.ids.to_pylist()
    rows = log.catalog.items.rows([f"item{n}" for n in range(20)])
    right = 0
    for start in range(20):
        history = [names[rows[(start + n) % 20]] for n in range(5)]
        top = Recommender(ranker, exact=True).top_rows(ranker.histories_of([history]), Query(k=3))[0]
        right += int(rows[(start + 5) % 20] in top)
    assert right >= 18


@pytest.mark.parametrize("model", MODELS)
def test_a_longer_session_than_it_sees_is_cut(model: type[SASRec]) -> None:
    ranker = model(**TINY, epochs=1).fit(circle())
    names = ranker.items.ids.to_pylist()
    np.testing.assert_allclose(ranker.score(names, names), ranker.score(names[-8:], names), atol=1e-5)


def test_it_keeps_the_best_pass_and_stops() -> None:
    found = iter([0.3, 0.5, 0.4, 0.2, 0.9])
    weights: list[np.ndarray] = []
    ranker = GSASRec(**TINY, epochs=9, patience=2)

    def quality(_: object) -> float:
        weights.append(next(iter(ranker.network.parameters())).detach().numpy().copy())
        return next(found)

    ranker._quality = quality  # type: ignore[method-assign]
    ranker.fit(circle())
    assert len(weights) == 4
    np.testing.assert_array_equal(next(iter(ranker.network.parameters())).detach().numpy(), weights[1])


HOUR, YEAR = 3_600, 365 * 86_400


def soon_or_late() -> EventLog:
    """Two of the items 0 to 7, and then item 8 where the first was within the hour, item 9 where it was a year ago."""
    users = range(320)
    sequences = [[user % 4, 4 + user // 4 % 4, 8 + user // 16 % 2] for user in users]
    times = [[START - (HOUR, YEAR)[user // 16 % 2], START - HOUR // 2, START] for user in users]
    return log_of(sequences, times, n_items=10)


def test_hstu_knows_how_long_ago_an_action_was() -> None:
    ranker = HSTU(**TINY, learning_rate=0.01, epochs=40, patience=40).fit(soon_or_late())
    right = 0
    for first, second in product(range(4), range(4, 8)):
        for gap, wanted, other in ((HOUR, "item8", "item9"), (YEAR, "item9", "item8")):
            times = [ranker.last_time - gap, ranker.last_time - HOUR // 2]
            history = ranker.histories_of([[f"item{first}", f"item{second}"]], [times])
            scores = ranker._catalogue_logits(history)[0]
            right += int(scores[ranker.items.rows([wanted])[0]] > scores[ranker.items.rows([other])[0]])
    assert right >= 30


def test_the_random_state_of_torch_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    SASRec(**TINY, epochs=1).fit(circle())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "options",
    [{"factors": 0}, {"heads": 3}, {"dropout": 1.0}, {"learning_rate": 0.0}, {"calibration": 1.5}, {"epochs": 0}],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is out of range"):
        GSASRec(**options)
