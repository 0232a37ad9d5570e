"""The term of kinds, numbers and ages of past actions."""

from __future__ import annotations

import numpy as np
import torch

from heedful.model.encode import encode, properties_of
from heedful.model.inputs import Inputs
from heedful.model.kinds import KindWeights
from ranking_worlds import DAY, START, histories_of


def inputs_for(actions: np.ndarray, used: np.ndarray, candidates: int = 5, width: int = 4) -> Inputs:
    torch.manual_seed(0)
    users, longest = used.shape
    x_BLD, xq_BCD = torch.randn(users, longest, width), torch.randn(users, candidates, width)
    return Inputs(x_BLD, torch.from_numpy(used), torch.ones(users, longest), xq_BCD, actions_BLA=torch.from_numpy(actions))


def test_properties_stand_at_the_place_of_the_last_kind() -> None:
    times = [[START, START + DAY, START + 2 * DAY], [START]]
    histories = histories_of([[5, 3, 3], [7]], times, [[0, 0, 2], [1]])
    batch = encode(histories, np.array([START + 3 * DAY] * 2), max_items=9)
    recency = np.array([[0.5, 0.25], [0.125, 0.0]], np.float32)
    found = properties_of(batch, recency, 3).reshape(2, 2, 3, 3)
    expected = np.zeros((2, 2, 3, 3), np.float32)
    expected[0, 0, 2] = [1, np.log(2), 0.5]  # item 3: twice, last of kind 2
    expected[0, 1, 0] = [1, 0, 0.25]
    expected[1, 0, 1] = [1, 0, 0.125]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_zero_at_first_and_a_weighted_sum_of_products_then() -> None:
    randoms = np.random.default_rng(1)
    used = np.array([[1, 1, 1], [1, 0, 0]], np.float32)
    actions = (randoms.random((2, 3, 6)) * used[:, :, None]).astype(np.float32)
    inputs, term = inputs_for(actions, used), KindWeights(n_kinds=2, scale=3.0)
    assert not term(inputs).any()
    with torch.no_grad():
        term.w += torch.randn(2, 3)
    weights = actions @ term.w.detach().numpy().ravel()
    for user, n in enumerate([3, 1]):
        products = inputs.xq_BCD[user].numpy() @ inputs.x_BLD[user].numpy().T
        parts = products * weights[user] / (9.0 * np.sqrt(n))
        np.testing.assert_allclose(term(inputs)[user].detach(), parts.sum(axis=1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(term.by_history_item(inputs)[user].detach(), parts, rtol=1e-4, atol=1e-6)
    shared = Inputs(inputs.x_BLD, inputs.used_BL, inputs.recency_BL, inputs.xq_BCD[:1], actions_BLA=inputs.actions_BLA)
    np.testing.assert_allclose(term(shared)[0].detach(), term(inputs)[0].detach(), rtol=1e-5)


def test_an_empty_history_adds_nothing() -> None:
    term = KindWeights(n_kinds=2, scale=3.0)
    with torch.no_grad():
        term.w += 1
    batch = encode(histories_of([[]]), np.array([START]), max_items=5)
    actions = properties_of(batch, batch.ages, 2)
    assert actions.shape == (1, 0, 6)
    assert not term(inputs_for(actions, np.zeros((1, 0), np.float32))).any()
