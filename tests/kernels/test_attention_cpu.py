"""Attention in score space: users and threads do not matter, and only what the kernels can read reaches them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from heedful.kernels import attention_cpu, openmp
from heedful.kernels.reference import PlainAttention

LENGTHS = [1, 2, 3, 5, 40]


class Parameters(nn.Module):
    """Random parameters of section 4.1."""

    def __init__(self, *, width: int, hidden: int, depth: int, null_tokens: int) -> None:
        super().__init__()
        torch.manual_seed(depth)
        self.h = nn.Linear(width, hidden)
        self.f = nn.ParameterList(nn.Parameter(torch.randn(hidden, width) / width) for _ in range(depth))
        self.g = nn.ModuleList(nn.Linear(width, hidden) for _ in range(depth))
        self.phi = nn.Parameter(torch.randn(1, hidden) / hidden**0.5)
        self.null = nn.ParameterList(
            nn.Parameter(torch.randn(null_tokens, width)) for _ in range(depth if null_tokens else 0)
        )


def batch(width: int, candidates: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Users of very different lengths in one padded batch; the padding holds numbers that must not matter."""
    draw = torch.Generator().manual_seed(0)
    x_BLD = torch.randn(len(LENGTHS), max(LENGTHS), width, generator=draw)
    used_BL = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return x_BLD, used_BL, torch.randn(len(LENGTHS), candidates, width, generator=draw)


@pytest.mark.parametrize(("depth", "null_tokens", "candidates"), [(1, 0, 7), (2, 4, 16), (5, 1, 30)])
def test_logits_and_gradients_are_those_of_the_plain_form(depth: int, null_tokens: int, candidates: int) -> None:
    parameters = Parameters(width=12, hidden=20, depth=depth, null_tokens=null_tokens)
    plain = PlainAttention.of(parameters).double()
    x_BLD, used_BL, xq_BCD = batch(12, candidates)
    logits = attention_cpu.logits(parameters, x_BLD, used_BL, xq_BCD)
    expected = plain(x_BLD.double(), used_BL, xq_BCD.double())
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)
    logits.square().sum().backward()
    expected.square().sum().backward()
    pairs = [(parameters.phi, plain.phi.weight)]
    pairs += [(f, layer.weight) for f, layer in zip(parameters.f, plain.f, strict=True)]
    for name in ("h", "g", "null"):
        pairs += zip(getattr(parameters, name).parameters(), getattr(plain, name).parameters(), strict=True)
    assert len(pairs) == len(list(parameters.parameters()))
    for got, want in pairs:
        torch.testing.assert_close(got.grad.double(), want.grad, rtol=1e-4, atol=1e-5 * want.grad.abs().max().item())


def test_a_user_s_logits_do_not_depend_on_the_batch() -> None:
    """Users are dealt to threads; memory of earlier batches is used again, whatever it holds."""
    parameters = Parameters(width=16, hidden=20, depth=3, null_tokens=2)
    x_BLD, used_BL, xq_BCD = batch(16, 9)
    together = attention_cpu.logits(parameters, x_BLD, used_BL, xq_BCD)
    together.sum().backward()  # gives its memory back
    shared = attention_cpu.logits(parameters, x_BLD, used_BL, xq_BCD[:1])
    for user, length in enumerate(LENGTHS):
        one = slice(user, user + 1)
        alone = attention_cpu.logits(parameters, x_BLD[one, :length], used_BL[one, :length], xq_BCD[one])
        assert torch.allclose(alone, together[one], atol=1e-5)
        same = attention_cpu.logits(parameters, x_BLD[one], used_BL[one], xq_BCD[:1])
        assert torch.allclose(shared[one], same, atol=1e-5)


def test_one_thread_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch may be built without the threads that compiled code joins."""
    parameters, inputs = Parameters(width=16, hidden=20, depth=3, null_tokens=0), batch(16, 9)
    together = attention_cpu.logits(parameters, *inputs)
    monkeypatch.setattr(openmp, "_PARALLEL", None)
    assert torch.equal(attention_cpu.logits(parameters, *inputs), together)


def test_a_second_backward_is_refused() -> None:
    parameters = Parameters(width=16, hidden=20, depth=2, null_tokens=1)
    loss = attention_cpu.logits(parameters, *batch(16, 9)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"backward was called twice.*call forward again"):
        loss.backward()


def test_short_histories_are_faster_in_score_space_and_long_ones_are_not() -> None:
    parameters = Parameters(width=64, hidden=128, depth=10, null_tokens=0)

    def chosen(length: int, **options: bool) -> bool:
        x_BLD, xq_BCD = torch.zeros(64, length, 64, **options), torch.zeros(64, 110, 64)
        return attention_cpu.is_faster(parameters, x_BLD, torch.ones(x_BLD.shape[:2], dtype=torch.bool), xq_BCD)

    assert [chosen(length) for length in (0, 1, 30, 60, 500)] == [False, True, True, False, False]
    assert not chosen(1, requires_grad=True)
    with torch.no_grad():
        assert not chosen(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("what", ["parameters", "past items", "candidates"])
def test_other_precisions_do_not_reach_the_kernels(what: str, dtype: torch.dtype) -> None:
    parameters = Parameters(width=16, hidden=20, depth=3, null_tokens=2).train()
    x_BLD, used_BL, xq_BCD = batch(16, 110)
    assert attention_cpu.is_faster(parameters, x_BLD, used_BL, xq_BCD)
    if what == "parameters":
        parameters.to(dtype)
    elif what == "past items":
        x_BLD = x_BLD.to(dtype)
    else:
        xq_BCD = xq_BCD.to(dtype)
    assert not attention_cpu.is_faster(parameters, x_BLD, used_BL, xq_BCD)


def test_one_parameter_of_another_precision_is_enough() -> None:
    for name, _ in Parameters(width=16, hidden=20, depth=2, null_tokens=2).named_parameters():
        parameters = Parameters(width=16, hidden=20, depth=2, null_tokens=2)
        owner = parameters.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], nn.Parameter(parameters.get_parameter(name).detach().double()))
        assert not attention_cpu.is_faster(parameters, *batch(16, 110)), name


def test_inputs_on_another_device_do_not_reach_the_kernels() -> None:
    parameters = Parameters(width=16, hidden=20, depth=2, null_tokens=2)
    x_BLD, used_BL, xq_BCD = batch(16, 110)
    for device in ("meta", *(["cuda"] if torch.cuda.is_available() else [])):
        assert not attention_cpu.is_faster(parameters.to(device), x_BLD.to(device), used_BL.to(device), xq_BCD.to(device))


def test_strided_inputs_give_the_same_logits() -> None:
    parameters, (x_BLD, used_BL, xq_BCD) = Parameters(width=16, hidden=20, depth=3, null_tokens=2), batch(16, 9)
    expected = attention_cpu.logits(parameters, x_BLD, used_BL, xq_BCD)
    strided = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (x_BLD, used_BL, xq_BCD)]
    every_other = torch.stack([strided[2], strided[2] + 1], dim=-1)[..., 0]
    assert not every_other.is_contiguous()
    assert torch.allclose(attention_cpu.logits(parameters, strided[0], strided[1], every_other), expected, atol=1e-6)
