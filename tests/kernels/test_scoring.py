"""Scoring without gradients on a CPU against the plain forms: long and short histories, shared and own candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from heedful.kernels import attention_scoring, interactions_scoring, openmp, reference
from heedful.kernels.attention_cpu import AttentionParameters
from heedful.kernels.reference import PlainAttention

LENGTHS = [0, 1, 2, 3, 5, 40]
TWO_FORMS = pytest.mark.parametrize("in_score_space", [True, False])


class Parameters(nn.Module):
    """Random parameters of section 4.1."""

    def __init__(self, *, width: int, hidden: int, depth: int, null_tokens: int) -> None:
        super().__init__()
        torch.manual_seed(depth)
        self.h = nn.Linear(width, hidden)
        self.f = nn.ParameterList(nn.Parameter(torch.randn(hidden, width) / width) for _ in range(depth))
        self.g = nn.ModuleList(nn.Linear(width, hidden) for _ in range(depth))
        self.phi = nn.Parameter(torch.randn(1, hidden) / hidden**0.5)
        tokens = (torch.randn(null_tokens, width) for _ in range(depth if null_tokens else 0))
        self.null = nn.ParameterList(map(nn.Parameter, tokens))


def batch(width: int, candidates: int, *, first: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Users of very different lengths in one padded batch; the padding holds numbers that must not matter."""
    draw, lengths = torch.Generator().manual_seed(0), LENGTHS[first:]
    x_BLD = torch.randn(len(lengths), max(lengths), width, generator=draw)
    used_BL = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return x_BLD, used_BL, torch.randn(len(lengths), candidates, width, generator=draw)


@pytest.fixture
def form(in_score_space: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_scoring, "_costs", lambda *_: (0, 1) if in_score_space else (1, 0))


def logits(
    parameters: AttentionParameters, x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor
) -> torch.Tensor:
    return attention_scoring.logits(parameters, x_BLD, used_BL, attention_scoring.queries(parameters, xq_BCD))


@TWO_FORMS
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("depth", "null_tokens", "candidates"), [(1, 0, 7), (2, 4, 64), (5, 1, 33)])
def test_logits_are_those_of_the_plain_form(depth: int, null_tokens: int, candidates: int) -> None:
    parameters = Parameters(width=13, hidden=20, depth=depth, null_tokens=null_tokens)
    plain = PlainAttention.of(parameters).double()
    x_BLD, used_BL, xq_BCD = batch(13, candidates, first=0 if null_tokens else 1)
    with torch.no_grad():
        for given in (xq_BCD, xq_BCD[:1]):
            found = logits(parameters, x_BLD, used_BL, given)
            expected = plain(x_BLD.double(), used_BL, given.double().expand(len(x_BLD), -1, -1))
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@TWO_FORMS
@pytest.mark.usefixtures("form")
def test_nobody_without_past_items_gets_more_than_what_the_candidate_has() -> None:
    parameters = Parameters(width=16, hidden=20, depth=3, null_tokens=0)
    x_BLD, used_BL, xq_BCD = batch(16, 9)
    with torch.no_grad():
        found = logits(parameters, x_BLD, used_BL, xq_BCD)[0]
        bias = parameters.h(xq_BCD[0]) + sum(g.bias for g in parameters.g)
    torch.testing.assert_close(found, bias @ parameters.phi[0])


@TWO_FORMS
@pytest.mark.usefixtures("form")
def test_a_user_s_logits_do_not_depend_on_batch_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, (x_BLD, used_BL, xq_BCD) = Parameters(width=16, hidden=20, depth=3, null_tokens=2), batch(16, 200)
    with torch.no_grad():
        together = logits(parameters, x_BLD, used_BL, xq_BCD)
        for user, length in enumerate(LENGTHS):
            one = slice(user, user + 1)
            alone = logits(parameters, x_BLD[one, :length], used_BL[one, :length], xq_BCD[one])
            torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-5)
        monkeypatch.setattr(openmp, "_PARALLEL", None)
        assert torch.equal(logits(parameters, x_BLD, used_BL, xq_BCD), together)


def test_few_candidates_and_what_the_kernels_cannot_read_take_the_other_form() -> None:
    parameters = Parameters(width=16, hidden=20, depth=3, null_tokens=2)
    x_BLD, used_BL, xq_BCD = batch(16, 300)

    def taken(parameters: AttentionParameters, *inputs: torch.Tensor) -> bool:
        return attention_scoring.is_faster(parameters, *inputs)

    with torch.no_grad():
        assert taken(parameters, x_BLD, used_BL, xq_BCD)
        assert not taken(parameters, x_BLD[:1], used_BL[:1], xq_BCD[:1, :1])
        assert not taken(parameters, x_BLD, used_BL.flip(1), xq_BCD)
        for one in range(2):
            given = [x_BLD, xq_BCD]
            given[one] = given[one].double()
            assert not taken(parameters, given[0], used_BL, given[1])
        no_layers = Parameters(width=16, hidden=20, depth=0, null_tokens=0)
        assert not taken(no_layers, x_BLD, used_BL, xq_BCD)
        for name, _ in parameters.named_parameters():
            other = Parameters(width=16, hidden=20, depth=3, null_tokens=2)
            owner, _, leaf = name.rpartition(".")
            setattr(other.get_submodule(owner), leaf, nn.Parameter(other.get_parameter(name).detach().double()))
            assert not taken(other, x_BLD, used_BL, xq_BCD), name
    assert not taken(parameters, x_BLD, used_BL, xq_BCD)  # a training step


@pytest.mark.parametrize("own", [True, False])
def test_sums_and_maxima_are_those_of_the_plain_form(own: bool) -> None:
    x_BLD, used_BL, xq_BCD = batch(13, 70)
    xq_BCD = xq_BCD if own else xq_BCD[:1]
    w_RDD, threshold_R = torch.randn(3, 13, 13) / 4, torch.tensor([0.0, 0.7, 2.0])
    assert interactions_scoring.is_possible(x_BLD, used_BL, xq_BCD, w_RDD, threshold_R)
    queries = interactions_scoring.queries(xq_BCD, w_RDD)
    total, largest = interactions_scoring.sums_and_maxima(x_BLD, used_BL, queries, threshold_R)
    assert total.shape == largest.shape == (3, len(LENGTHS), 70)
    for user, length in enumerate(LENGTHS):
        x, xq = x_BLD[user, :length].double().numpy(), xq_BCD[user if own else 0].double().numpy()
        for r, (w, threshold) in enumerate(zip(w_RDD.double().numpy(), threshold_R.tolist(), strict=True)):
            expected = reference.positive_part(x @ (xq @ w).T, threshold)
            np.testing.assert_allclose(np.stack([total[r, user], largest[r, user]]), expected, rtol=1e-5, atol=1e-5)
            assert (length == 0) == (not expected.any())


def test_interactions_that_need_a_gradient_or_lie_elsewhere_are_not_possible() -> None:
    x_BLD, used_BL, xq_BCD = batch(8, 5)
    w_RDD = torch.randn(2, 8, 8)
    assert interactions_scoring.is_possible(x_BLD, used_BL, xq_BCD, w_RDD)
    assert not interactions_scoring.is_possible(x_BLD, used_BL, xq_BCD, w_RDD.requires_grad_())
    assert not interactions_scoring.is_possible(x_BLD.double(), used_BL, xq_BCD)
    assert not interactions_scoring.is_possible(x_BLD, used_BL.flip(1), xq_BCD)
    assert not interactions_scoring.is_possible(x_BLD.to("meta"), used_BL, xq_BCD)
