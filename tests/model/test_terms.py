"""Direct relevance and the user tower against loops."""

from __future__ import annotations

import math

import pytest
import torch

from heedful.model.terms import ItemInteractions, UserTower

LENGTHS = [0, 1, 4, 30]


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    used = (torch.arange(30)[None, :] < torch.tensor(LENGTHS)[:, None]).float()
    recency = used * torch.rand(used.shape, generator=draw)
    return torch.randn(4, 30, 6, generator=draw), used, recency, torch.randn(4, 5, 6, generator=draw)


def relevance() -> ItemInteractions:
    torch.manual_seed(0)
    model = ItemInteractions(width=6, relations=3, scale=2.0)
    with torch.no_grad():
        model.a.normal_()
        model.c.normal_()
    return model


def test_relevance_is_its_formula() -> None:
    model = relevance()
    x, used, _, xq = batch()
    got = model(x, used, xq)
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


def test_relevance_says_nothing_at_first_and_can_learn() -> None:
    model = ItemInteractions(width=6, relations=3, scale=2.0)
    x, used, _, xq = batch()
    out = model(x, used, xq)
    assert (out == 0).all()
    out.sum().backward()
    assert model.a.grad is not None and model.a.grad.abs().max() > 0


def tower() -> UserTower:
    torch.manual_seed(0)
    return UserTower(width=6)


def test_the_tower_is_its_formula() -> None:
    model = tower()
    x, used, recency, xq = batch()
    got = model(x, used, recency, xq)
    for b, length in enumerate(LENGTHS):
        if length == 0:
            continue
        past = x[b, :length]
        newest = torch.exp(-torch.arange(length) / 10)
        means = [
            past.mean(0),
            (newest[:, None] * past).sum(0) / newest.sum(),
            (recency[b, :length, None] * past).sum(0) / recency[b, :length].sum(),
        ]
        user = model.mu(torch.cat(means))
        for c in range(5):
            assert got[b, c].item() == pytest.approx((model.query(xq[b, c]) @ user).item(), rel=1e-4, abs=1e-5)


def test_padding_and_sharing_candidates_change_nothing() -> None:
    x, used, recency, xq = batch()
    filled = torch.where(used[..., None] > 0, x, 50.0)
    for run in (
        lambda x, q: relevance()(x, used, q),
        lambda x, q: tower()(x, used, recency, q),
    ):
        expected = run(x, xq)
        assert expected.isfinite().all()
        assert torch.allclose(expected, run(filled, xq), atol=1e-5)
        assert torch.allclose(run(x, xq[:1]), run(x, xq[:1].expand(4, -1, -1)), atol=1e-5)


def test_no_past_at_all() -> None:
    x, used, recency, xq = (tensor[:, :0] if tensor.shape[1] == 30 else tensor for tensor in batch())
    assert (relevance()(x, used, xq) == 0).all()
    assert tower()(x, used, recency, xq).isfinite().all()
