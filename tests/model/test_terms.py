"""Item interactions and the user tower against loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from heedful.model.inputs import Inputs
from heedful.model.score import Term
from heedful.model.terms import ItemInteractions, UserTower

LENGTHS = [0, 1, 4, 30]


def batch() -> Inputs:
    draw = torch.Generator().manual_seed(1)
    used = (torch.arange(30)[None, :] < torch.tensor(LENGTHS)[:, None]).float()
    recency = used * torch.rand(used.shape, generator=draw)
    return Inputs(torch.randn(4, 30, 6, generator=draw), used, recency, torch.randn(4, 5, 6, generator=draw))


def interactions() -> ItemInteractions:
    torch.manual_seed(0)
    model = ItemInteractions(width=6, relations=3, scale=2.0)
    with torch.no_grad():
        model.a.normal_()
        model.c.normal_()
    return model


def test_interactions_are_their_formula() -> None:
    model, inputs = interactions(), batch()
    x, xq = inputs.x_BLD, inputs.xq_BCD
    got = model(inputs)
    counted = 0
    for b, length in enumerate(LENGTHS):
        for c in range(5):
            total = 0.0
            for r in range(3):
                v = [max(0.0, (xq[b, c] @ model.w[r] @ x[b, i] - model.threshold[r]).item()) for i in range(length)]
                counted += sum(one > 0 for one in v)
                total += model.a[r].item() * math.log(1 + sum(v)) + model.c[r].item() * max(v, default=0.0)
            assert got[b, c].item() == pytest.approx(total, rel=1e-4, abs=1e-4)
    assert counted > 20


def test_interactions_by_item_are_the_slow_ones_and_add_up() -> None:
    """A logarithm is divided in proportion to v, a maximum belongs to its item."""
    model, inputs = interactions(), batch()
    w, threshold, a, c_r = (parameter.detach().double() for parameter in (model.w, model.threshold, model.a, model.c))
    with torch.no_grad():
        value, parts = model(inputs), model.by_history_item(inputs)
    assert parts is not None and parts.shape == (4, 5, 30)
    shared = 0
    for b, length in enumerate(LENGTHS):
        x = inputs.x_BLD[b, :length].double()
        assert (parts[b, :, length:] == 0).all()
        for c in range(5):
            expected = torch.zeros(length, dtype=torch.float64)
            for r in range(3):
                v = [max(0.0, (inputs.xq_BCD[b, c].double() @ w[r] @ one - threshold[r]).item()) for one in x]
                shared += sum(one > 0 for one in v) > 1
                for i, one in enumerate(v):
                    if one > 0:
                        expected[i] += a[r] * math.log(1 + sum(v)) * one / sum(v)
                        expected[i] += c_r[r] * one if one == max(v) else 0
            assert parts[b, c, :length].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
            assert parts[b, c].sum().item() == pytest.approx(value[b, c].item(), abs=1e-4)
    assert shared > 5


def test_interactions_say_nothing_at_first_and_can_learn() -> None:
    model = ItemInteractions(width=6, relations=3, scale=2.0)
    out = model(batch())
    assert (out == 0).all()
    out.sum().backward()
    assert model.a.grad is not None and model.a.grad.abs().max() > 0


def tower() -> UserTower:
    torch.manual_seed(0)
    return UserTower(width=6)


def test_the_tower_is_its_formula() -> None:
    model, inputs = tower(), batch()
    got = model(inputs)
    for b, length in enumerate(LENGTHS):
        if length == 0:
            continue
        past, recency = inputs.x_BLD[b, :length], inputs.recency_BL[b, :length, None]
        newest = torch.exp(-torch.arange(length) / 10)
        means = [past.mean(0), (newest[:, None] * past).sum(0) / newest.sum(), (recency * past).sum(0) / recency.sum()]
        user = model.mu(torch.cat(means))
        for c in range(5):
            expected = model.query(inputs.xq_BCD[b, c]) @ user
            assert got[b, c].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("model", [interactions(), tower()], ids=["interactions", "tower"])
def test_padding_and_sharing_candidates_change_nothing(model: Term) -> None:
    inputs = batch()
    expected = model(inputs)
    assert expected.isfinite().all()
    filled = replace(inputs, x_BLD=torch.where(inputs.used_BL[..., None] > 0, inputs.x_BLD, 50.0))
    assert torch.allclose(expected, model(filled), atol=1e-5)
    same = inputs.xq_BCD[:1]
    shared, apart = (model(replace(inputs, xq_BCD=xq)) for xq in (same, same.expand(4, -1, -1)))
    assert torch.allclose(shared, apart, atol=1e-5)


def test_no_past_at_all() -> None:
    inputs = batch()
    nobody = Inputs(inputs.x_BLD[:, :0], inputs.used_BL[:, :0], inputs.recency_BL[:, :0], inputs.xq_BCD)
    assert (interactions()(nobody) == 0).all()
    parts = interactions().by_history_item(nobody)
    assert parts is not None and parts.shape == (4, 5, 0)
    assert tower()(nobody).isfinite().all()
