"""The attention against a slow, obvious transcription of section 4.1 in float64, with nothing absorbed."""

from __future__ import annotations

import pytest
import torch

from heedful.model import attention
from heedful.model.attention import Attention
from heedful.model.inputs import Inputs
from heedful.ranking import team

LENGTHS = [1, 2, 3, 5, 40]


class Transcription:
    """Section 4.1 with the full f, g, h and phi, one user and one candidate at a time.

    The matrices are those of an `Attention`; the bias of f, which that does not keep, is drawn at random.
    """

    def __init__(self, model: Attention, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.leaves = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
        self.depth, hidden = len(model.f), model.phi.shape[1]
        self.c_f = [torch.randn(hidden, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(self.depth)]

    def h(self, x: torch.Tensor) -> torch.Tensor:
        return self.leaves["h.weight"] @ x + self.leaves["h.bias"]

    def f(self, k: int, x: torch.Tensor) -> torch.Tensor:
        return self.leaves[f"f.{k}"] @ x + self.c_f[k]

    def g(self, k: int, x: torch.Tensor) -> torch.Tensor:
        return self.leaves[f"g.{k}.weight"] @ x + self.leaves[f"g.{k}.bias"]

    def logit(self, past: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
        z = self.h(candidate)
        for k in range(self.depth):
            rows = [*past, *self.leaves.get(f"null.{k}", [])]
            weights = torch.softmax(torch.stack([self.f(k, x) @ z for x in rows]), 0)
            z = z + sum(weight * self.g(k, x) for weight, x in zip(weights, rows, strict=True))
        return self.leaves["phi"][0] @ z


def batch(width: int, candidates: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Users of very different lengths in one padded batch; the padding holds numbers that must not matter."""
    draw = torch.Generator().manual_seed(seed)
    x_BLD = torch.randn(len(LENGTHS), max(LENGTHS), width, generator=draw)
    used_BL = (torch.arange(max(LENGTHS))[None, :] < torch.tensor(LENGTHS)[:, None]).float()
    return x_BLD, used_BL, torch.randn(len(LENGTHS), candidates, width, generator=draw)


def inputs_of(x_BLD: torch.Tensor, used_BL: torch.Tensor, xq_BCD: torch.Tensor) -> Inputs:
    return Inputs(x_BLD, used_BL, used_BL, xq_BCD)


def choose(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    """The compiled form whatever the sizes, or never."""
    monkeypatch.setattr(attention.attention_cpu, "is_faster", lambda *_: fast)


def one_of(inputs: Inputs, user: int, length: int) -> Inputs:
    """The same user alone, without padding."""
    one = slice(user, user + 1)
    candidates = inputs.xq_BCD if len(inputs.xq_BCD) == 1 else inputs.xq_BCD[one]
    return inputs_of(inputs.x_BLD[one, :length], inputs.used_BL[one, :length], candidates)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("null_tokens", [0, 3])
@pytest.mark.parametrize("depth", [1, 4])
def test_output_and_gradients_are_those_of_section_4_1(
    depth: int, null_tokens: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, compiled)
    torch.manual_seed(depth)
    model = Attention(width=6, hidden=10, depth=depth, null_tokens=null_tokens, scale=2.0).train()
    with torch.no_grad():  # biases start at zero, where a wrong one would not be noticed
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    x_BLD, used_BL, xq_BCD = batch(6, 4)
    # The compiled form has no gradients for the inputs, and is not chosen where these are wanted.
    inputs = [tensor.clone().requires_grad_(not compiled) for tensor in (x_BLD, xq_BCD)]
    logits_BC = model(inputs_of(inputs[0], used_BL, inputs[1]))
    cotangent = torch.randn(logits_BC.shape)
    (logits_BC * cotangent).sum().backward()

    slow = Transcription(model)
    slow_x, slow_xq = x_BLD.double().requires_grad_(), xq_BCD.double().requires_grad_()
    expected = torch.stack(
        [torch.stack([slow.logit(slow_x[b, :length], q) for q in slow_xq[b]]) for b, length in enumerate(LENGTHS)]
    )
    (expected * cotangent).sum().backward()

    def close(got: torch.Tensor | None, want: torch.Tensor | None) -> None:
        assert got is not None and want is not None
        assert torch.allclose(got.double(), want, rtol=1e-5, atol=1e-5 * max(1.0, want.abs().max().item()))

    close(logits_BC, expected)
    for name, parameter in model.named_parameters():
        assert slow.leaves[name].grad is not None and slow.leaves[name].grad.abs().max() > 0, name
        close(parameter.grad, slow.leaves[name].grad)
    if not compiled:
        close(inputs[0].grad, slow_x.grad)
        close(inputs[1].grad, slow_xq.grad)
    for c_f in slow.c_f:  # inert: it moves all scores of a candidate alike
        assert c_f.grad is not None and c_f.grad.abs().max() < 1e-12


def test_it_has_the_paper_s_parameters() -> None:
    model = Attention(width=64, hidden=128, depth=10, null_tokens=0, scale=1.0)
    kept = sum(p.numel() for p in model.parameters())
    assert kept == 173_568
    inert = 10 * 128  # the biases of f
    assert kept + inert == 174_848


def test_initialisation_is_orthogonal() -> None:
    model = Attention(width=8, hidden=16, depth=2, null_tokens=0, scale=1.0)
    for matrix in (model.h.weight, *model.f, *(layer.weight for layer in model.g)):
        assert torch.allclose(matrix.T @ matrix, torch.eye(8), atol=1e-5)
    assert model.phi.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert all((layer.bias == 0).all() for layer in (model.h, *model.g))


def test_padding_changes_nothing() -> None:
    model = Attention(width=6, hidden=10, depth=3, null_tokens=2, scale=1.0)
    x_BLD, used_BL, xq_BCD = batch(6, 4)
    inputs = inputs_of(x_BLD, used_BL, xq_BCD)
    padded = model(inputs)
    other = model(inputs_of(torch.where(used_BL[..., None] > 0, x_BLD, 100.0), used_BL, xq_BCD))
    assert torch.equal(padded, other)
    for user, length in enumerate(LENGTHS):
        assert torch.allclose(padded[user], model(one_of(inputs, user, length))[0], atol=1e-5)


def test_the_same_candidates_for_every_user() -> None:
    model = Attention(width=6, hidden=10, depth=3, null_tokens=2, scale=1.0)
    x_BLD, used_BL, xq_BCD = batch(6, 4)
    shared = model(inputs_of(x_BLD, used_BL, xq_BCD[:1]))
    apart = model(inputs_of(x_BLD, used_BL, xq_BCD[:1].expand(len(LENGTHS), -1, -1)))
    assert torch.allclose(shared, apart, atol=1e-6)


def test_with_one_past_item_only_null_rows_let_it_interact_with_the_candidate() -> None:
    """Without them the weight of a lone item is always 1: the logit is a sum of a term of each, never of both."""
    for null_tokens, interacts in ((0, False), (2, True)):
        torch.manual_seed(0)
        model = Attention(width=6, hidden=10, depth=2, null_tokens=null_tokens, scale=2.0)
        x_2D, q_2D = 3 * torch.randn(2, 6), 3 * torch.randn(2, 6)
        logits = model(inputs_of(x_2D[:, None], torch.ones(2, 1), q_2D[None]))
        mixed = logits[0, 0] - logits[0, 1] - logits[1, 0] + logits[1, 1]
        assert (abs(mixed.item()) > 1e-3) == interacts


def randomly_biased(**options: int) -> Attention:
    """Biases start at zero, where a wrong one would not be noticed."""
    model = Attention(scale=2.0, **options).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


@pytest.mark.parametrize("null_tokens", [0, 3])
@pytest.mark.parametrize(("width", "hidden", "depth", "candidates"), [(6, 10, 4, 7), (16, 20, 1, 16), (64, 128, 10, 110)])
def test_both_forms_are_the_same_function(
    null_tokens: int, width: int, hidden: int, depth: int, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a training step, whatever the widths, with padding in every place where compiled code could read it."""
    torch.manual_seed(0)
    model = randomly_biased(width=width, hidden=hidden, depth=depth, null_tokens=null_tokens)
    x_BLD, used_BL, xq_BCD = batch(width, candidates)
    x_BLD, xq_BCD = (2 * tensor / width**0.5 for tensor in (x_BLD, xq_BCD))
    cotangent = torch.randn(len(LENGTHS), candidates)
    found = []
    for compiled in (True, False):
        choose(monkeypatch, compiled)
        model.zero_grad()
        logits = model(inputs_of(x_BLD, used_BL, xq_BCD))
        (logits * cotangent).sum().backward()
        found.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert other.abs().max() > 0
        assert torch.allclose(one, other, atol=2e-5 * max(1.0, other.abs().max().item()))


def test_the_compiled_form_is_the_same_for_a_user_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users are dealt to threads; memory of earlier batches is used again, whatever it holds."""
    choose(monkeypatch, True)
    model = randomly_biased(width=16, hidden=20, depth=3, null_tokens=2)
    x_BLD, used_BL, xq_BCD = batch(16, 9)
    own, same = inputs_of(x_BLD, used_BL, xq_BCD), inputs_of(x_BLD, used_BL, xq_BCD[:1])
    together = model(own)
    together.sum().backward()  # gives its memory back
    shared = model(same)
    for user, length in enumerate(LENGTHS):
        assert torch.allclose(model(one_of(own, user, length))[0], together[user], atol=1e-5)
        assert torch.allclose(model(one_of(same, user, max(LENGTHS)))[0], shared[user], atol=1e-5)


def test_the_compiled_form_without_a_team_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch may be built without the threads that compiled code joins."""
    choose(monkeypatch, True)
    model = randomly_biased(width=16, hidden=20, depth=3, null_tokens=0)
    inputs = inputs_of(*batch(16, 9))
    together = model(inputs)
    monkeypatch.setattr(team, "_PARALLEL", None)
    assert torch.equal(model(inputs), together)


def test_short_histories_are_trained_in_the_compiled_form_and_long_ones_absorbed() -> None:
    model = Attention(width=64, hidden=128, depth=10, null_tokens=0, scale=1.0)

    def chosen(past: int, **options: bool) -> bool:
        x_BLD, xq_BCD = torch.zeros(64, past, 64, **options), torch.zeros(64, 110, 64)
        used_BL = torch.ones(x_BLD.shape[:2], dtype=torch.bool)
        return attention.attention_cpu.is_faster(model, x_BLD, used_BL, xq_BCD)

    assert [chosen(past) for past in (0, 1, 30, 60, 500)] == [False, True, True, False, False]
    assert not chosen(1, requires_grad=True)
    with torch.no_grad():
        assert not chosen(1)


# What is due to each item of the history


@pytest.mark.parametrize("null_tokens", [0, 3])
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_weights_and_parts_by_item_are_those_of_slow_loops(depth: int, null_tokens: int) -> None:
    """phi^T h(x_q), what is due to each item, and what is due to the null tokens are the logit."""
    torch.manual_seed(depth)
    model = randomly_biased(width=6, hidden=10, depth=depth, null_tokens=null_tokens)
    inputs = inputs_of(*batch(6, 4))
    with torch.no_grad():
        logits_BC, by_item_BCL, weights_KBCN = model(inputs), model.by_history_item(inputs), model.attention(inputs)
    assert by_item_BCL is not None and by_item_BCL.shape == (len(LENGTHS), 4, max(LENGTHS))
    memory = max(LENGTHS) + (null_tokens if depth else 0)
    assert weights_KBCN is not None and weights_KBCN.shape == (depth, len(LENGTHS), 4, memory)
    slow, longest = Transcription(model), max(LENGTHS)
    phi = slow.leaves["phi"][0]
    for b, length in enumerate(LENGTHS):
        places = [*range(length), *range(longest, memory)]  # of the items and of the null tokens
        for c in range(4):
            z = slow.h(inputs.xq_BCD[b, c].double())
            parts, of_candidate = torch.zeros(memory, dtype=torch.float64), phi @ z
            for k in range(depth):
                rows = [*inputs.x_BLD[b, :length].double(), *slow.leaves.get(f"null.{k}", [])]
                p = torch.softmax(torch.stack([slow.f(k, x) @ z for x in rows]), 0)
                assert weights_KBCN[k, b, c, places].double().tolist() == pytest.approx(p.tolist(), abs=1e-5)
                assert (weights_KBCN[k, b, c, length:longest] == 0).all()
                worth = torch.stack([phi @ slow.g(k, x) for x in rows])
                parts[places] += p * worth
                z = z + sum(one * slow.g(k, x) for one, x in zip(p, rows, strict=True))
            got = by_item_BCL[b, c].double()
            assert got.tolist() == pytest.approx(parts[:longest].tolist(), abs=1e-4)
            null_part = parts[longest:].sum()
            assert (of_candidate + got.sum() + null_part).item() == pytest.approx(logits_BC[b, c].item(), abs=1e-4)
