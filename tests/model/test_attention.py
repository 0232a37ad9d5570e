"""The attention against the plain form of section 4.1 in float64, which projects every past item in every layer."""

from __future__ import annotations

import pytest
import torch

from heedful.kernels import attention_cpu
from heedful.kernels.reference import PlainAttention
from heedful.model.attention import Attention
from heedful.model.inputs import Inputs

LENGTHS = [1, 2, 3, 5, 40]


def batch(width: int, candidates: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Users of very different lengths in one padded batch; the padding holds numbers that must not matter."""
    draw = torch.Generator().manual_seed(seed)
    x_BLD = torch.randn(len(LENGTHS), max(LENGTHS), width, generator=draw)
    log_weight_BL = torch.zeros(x_BLD.shape[:2])
    for user, length in enumerate(LENGTHS):
        log_weight_BL[user, length:] = -torch.inf
    return x_BLD, log_weight_BL, torch.randn(len(LENGTHS), candidates, width, generator=draw)


def logits_of(model: Attention, x: torch.Tensor, log_weight: torch.Tensor, xq: torch.Tensor) -> torch.Tensor:
    used = (log_weight == 0).to(x.dtype)
    return model(Inputs(x, used, used, xq))


def randomly_biased(**options: int) -> Attention:
    """Biases start at zero, where a wrong one would not be noticed."""
    model = Attention(scale=2.0, **options).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


@pytest.mark.parametrize("on_cpu_kernels", [False, True])
@pytest.mark.parametrize("null_tokens", [0, 3])
@pytest.mark.parametrize("depth", [1, 4])
def test_output_and_gradients_are_those_of_section_4_1(
    depth: int, null_tokens: int, on_cpu_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_cpu, "is_faster", lambda *_: on_cpu_kernels)
    torch.manual_seed(depth)
    model = randomly_biased(width=6, hidden=10, depth=depth, null_tokens=null_tokens)
    x_BLD, log_weight_BL, xq_BCD = batch(6, 4)
    # The kernels have no gradients for the inputs, and are not chosen where these are wanted.
    inputs = [tensor.clone().requires_grad_(not on_cpu_kernels) for tensor in (x_BLD, xq_BCD)]
    logits_BC = logits_of(model, inputs[0], log_weight_BL, inputs[1])
    cotangent = torch.randn(logits_BC.shape)
    (logits_BC * cotangent).sum().backward()

    slow = PlainAttention.of(model).double()
    for layer in slow.f:  # the model does not keep the bias of f
        layer.bias.data.normal_()
    slow_x, slow_xq = x_BLD.double().requires_grad_(), xq_BCD.double().requires_grad_()
    expected = torch.cat([slow(slow_x[b : b + 1, :n], no_padding(n), slow_xq[b : b + 1]) for b, n in enumerate(LENGTHS)])
    (expected * cotangent).sum().backward()

    close(logits_BC, expected)
    for got, want in zip(parameters_of(model), parameters_of(slow), strict=True):
        assert want.grad is not None and want.grad.abs().max() > 0
        close(got.grad, want.grad)
    if not on_cpu_kernels:
        close(inputs[0].grad, slow_x.grad)
        close(inputs[1].grad, slow_xq.grad)
    for layer in slow.f:  # inert: it moves all scores of a candidate alike
        assert layer.bias.grad.abs().max() < 1e-12


def no_padding(length: int) -> torch.Tensor:
    return torch.ones(1, length, dtype=torch.bool)


def parameters_of(module: Attention | PlainAttention) -> list[torch.Tensor]:
    """Those that both have, in one order."""
    f = [getattr(f, "weight", f) for f in module.f]
    phi = getattr(module.phi, "weight", module.phi)
    return [*module.h.parameters(), *f, *module.g.parameters(), phi, *module.null]


def close(got: torch.Tensor | None, want: torch.Tensor | None) -> None:
    assert got is not None and want is not None
    assert torch.allclose(got.double(), want, rtol=1e-5, atol=1e-5 * max(1.0, want.abs().max().item()))


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
    x_BLD, log_weight_BL, xq_BCD = batch(6, 4)
    padded = logits_of(model, x_BLD, log_weight_BL, xq_BCD)
    other = logits_of(model, torch.where(log_weight_BL[..., None] == 0, x_BLD, 100.0), log_weight_BL, xq_BCD)
    assert torch.equal(padded, other)
    for user, length in enumerate(LENGTHS):
        one = slice(user, user + 1)
        alone = logits_of(model, x_BLD[one, :length], log_weight_BL[one, :length], xq_BCD[one])
        assert torch.allclose(padded[one], alone, atol=1e-5)


def test_the_same_candidates_for_every_user() -> None:
    model = Attention(width=6, hidden=10, depth=3, null_tokens=2, scale=1.0)
    x_BLD, log_weight_BL, xq_BCD = batch(6, 4)
    shared = logits_of(model, x_BLD, log_weight_BL, xq_BCD[:1])
    assert torch.allclose(shared, logits_of(model, x_BLD, log_weight_BL, xq_BCD[:1].expand(len(LENGTHS), -1, -1)), atol=1e-6)


def test_with_one_past_item_only_null_tokens_let_it_interact_with_the_candidate() -> None:
    """Without them the weight of a lone item is always 1: the logit is a sum of a term of each, never of both."""
    for null_tokens, interacts in ((0, False), (2, True)):
        torch.manual_seed(0)
        model = Attention(width=6, hidden=10, depth=2, null_tokens=null_tokens, scale=2.0)
        x_2D, q_2D = 3 * torch.randn(2, 6), 3 * torch.randn(2, 6)
        logits = logits_of(model, x_2D[:, None], torch.zeros(2, 1), q_2D[None])
        mixed = logits[0, 0] - logits[0, 1] - logits[1, 0] + logits[1, 1]
        assert (abs(mixed.item()) > 1e-3) == interacts


@pytest.mark.parametrize("null_tokens", [0, 3])
@pytest.mark.parametrize(("width", "hidden", "depth", "candidates"), [(6, 10, 4, 7), (16, 20, 1, 16), (64, 128, 10, 110)])
def test_both_forms_are_the_same_function(
    null_tokens: int, width: int, hidden: int, depth: int, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a training step, whatever the widths, with padding in every place where compiled code could read it."""
    torch.manual_seed(0)
    model = randomly_biased(width=width, hidden=hidden, depth=depth, null_tokens=null_tokens)
    x_BLD, log_weight_BL, xq_BCD = batch(width, candidates)
    x_BLD, xq_BCD = (2 * tensor / width**0.5 for tensor in (x_BLD, xq_BCD))
    cotangent = torch.randn(len(LENGTHS), candidates)
    found = []
    for on_cpu_kernels in (True, False):
        monkeypatch.setattr(attention_cpu, "is_faster", lambda *_, chosen=on_cpu_kernels: chosen)
        model.zero_grad()
        logits = logits_of(model, x_BLD, log_weight_BL, xq_BCD)
        (logits * cotangent).sum().backward()
        found.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert other.abs().max() > 0
        assert torch.allclose(one, other, atol=2e-5 * max(1.0, other.abs().max().item()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_trained_without_kernels(dtype: torch.dtype) -> None:
    """The kernels would read and write beyond the ends of such tensors, or half of them."""
    torch.manual_seed(0)
    model = randomly_biased(width=16, hidden=20, depth=3, null_tokens=2)
    x_BLD, log_weight_BL, xq_BCD = batch(16, 110)
    assert attention_cpu.is_faster(model, x_BLD, log_weight_BL == 0, xq_BCD)
    expected = logits_of(model, x_BLD, log_weight_BL, xq_BCD)
    logits = logits_of(model.to(dtype), x_BLD.to(dtype), log_weight_BL.to(dtype), xq_BCD.to(dtype))
    assert logits.dtype == dtype
    assert (logits.float() - expected).abs().mean() < 0.05  # they are some 2 each
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# What is due to each item of the history


@pytest.mark.parametrize("null_tokens", [0, 3])
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_weights_and_parts_by_item_are_those_of_slow_loops(depth: int, null_tokens: int) -> None:
    """phi^T h(x_q), what is due to each item, and what is due to the null tokens are the logit."""
    torch.manual_seed(depth)
    model = randomly_biased(width=6, hidden=10, depth=depth, null_tokens=null_tokens)
    x_BLD, log_weight_BL, xq_BCD = batch(6, 4)
    used_BL = (log_weight_BL == 0).float()
    inputs = Inputs(x_BLD, used_BL, used_BL, xq_BCD)
    with torch.no_grad():
        logits_BC, by_item_BCL, weights_KBCN = model(inputs), model.by_history_item(inputs), model.attention(inputs)
    longest = max(LENGTHS)
    memory = longest + (null_tokens if depth else 0)
    assert by_item_BCL is not None and by_item_BCL.shape == (len(LENGTHS), 4, longest)
    assert weights_KBCN is not None and weights_KBCN.shape == (depth, len(LENGTHS), 4, memory)
    slow = PlainAttention.of(model).double().requires_grad_(False)
    phi = slow.phi.weight[0]
    for b, length in enumerate(LENGTHS):
        places = [*range(length), *range(longest, memory)]  # of the items and of the null tokens
        for c in range(4):
            z = slow.h(xq_BCD[b, c].double())
            parts, of_candidate = torch.zeros(memory, dtype=torch.float64), phi @ z
            for k in range(depth):
                rows = [*x_BLD[b, :length].double(), *(slow.null[k] if null_tokens else [])]
                p = torch.softmax(torch.stack([slow.f[k](x) @ z for x in rows]), 0)
                assert weights_KBCN[k, b, c, places].tolist() == pytest.approx(p.tolist(), abs=1e-5)
                assert (weights_KBCN[k, b, c, length:longest] == 0).all()
                parts[places] += p * torch.stack([phi @ slow.g[k](x) for x in rows])
                z = z + sum(one * slow.g[k](x) for one, x in zip(p, rows, strict=True))
            got = by_item_BCL[b, c].double()
            assert got.tolist() == pytest.approx(parts[:longest].tolist(), abs=1e-4)
            null_part = parts[longest:].sum()
            assert (of_candidate + got.sum() + null_part).item() == pytest.approx(logits_BC[b, c].item(), abs=1e-4)
