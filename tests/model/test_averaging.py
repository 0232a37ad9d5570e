"""The deep averaging network against section 5.2, one user and one candidate at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from heedful.model.averaging import DeepAveraging
from heedful.model.inputs import Inputs

LENGTHS = [1, 3, 17]


def world(form: str) -> tuple[DeepAveraging, Inputs]:
    torch.manual_seed(0)
    model = DeepAveraging(width=6, hidden=10, form=form).train()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_()
    used = (torch.arange(17)[None, :] < torch.tensor(LENGTHS)[:, None]).float()
    return model, Inputs(torch.randn(3, 17, 6), used, used, torch.randn(3, 5, 6))


def mu(model: DeepAveraging, x: torch.Tensor) -> torch.Tensor:
    """Two layers of rectified linear units, then a linear one."""
    weights = [p.detach().double() for p in model.parameters()]
    assert len(weights) == 6
    x = (weights[0] @ x + weights[1]).clamp(min=0)
    x = (weights[2] @ x + weights[3]).clamp(min=0)
    return weights[4] @ x + weights[5]


@pytest.mark.parametrize("form", ["inner", "sum"])
def test_it_is_that_of_section_5_2(form: str) -> None:
    model, inputs = world(form)
    got = model(inputs)
    for b, length in enumerate(LENGTHS):
        mean = inputs.x_BLD[b, :length].double().mean(0)
        for c in range(5):
            q = inputs.xq_BCD[b, c].double()
            expected = mu(model, mean) @ q if form == "inner" else mu(model, mean + q)[0]
            assert got[b, c].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("form", ["inner", "sum"])
def test_padding_and_sharing_candidates_change_nothing(form: str) -> None:
    model, inputs = world(form)
    filled_BLD = torch.where(inputs.used_BL[..., None] > 0, inputs.x_BLD, 9.0)
    assert torch.allclose(model(inputs), model(replace(inputs, x_BLD=filled_BLD)), atol=1e-6)
    same_1CD = inputs.xq_BCD[:1]
    shared, apart = (model(replace(inputs, xq_BCD=xq)) for xq in (same_1CD, same_1CD.expand(3, -1, -1)))
    assert torch.allclose(shared, apart, atol=1e-6)


@pytest.mark.parametrize(("form", "last"), [("inner", 128 * 64 + 64), ("sum", 128 + 1)])
def test_it_has_two_layers_of_128_units(form: str, last: int) -> None:
    model = DeepAveraging(width=64, hidden=128, form=form)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == (64 * 128 + 128) + (128 * 128 + 128) + last
