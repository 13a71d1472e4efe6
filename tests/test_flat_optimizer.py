"""The flat optimizer against torch's optimizer on separate parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch.nn import Parameter

from pgzoo.backends.flat_optimizer import FlatOptimizer, addresses

SHAPES = ((2, 3), (3,), (1, 2), (1,))  # W₁, b₁, W₂, b₂: 12 numbers, of which W₁ and b₁ are the first 9
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Adam": (torch.optim.Adam, {"lr": 0.1, "eps": 1e-5}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.2}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.1, "alpha": 0.9, "momentum": 0.5, "centered": True}),
    "RMSpropTFLike": (RMSpropTFLike, {"lr": 0.1, "alpha": 0.9}),
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "plain SGD": (torch.optim.SGD, {"lr": 0.1}),
}


def parameters() -> list[Parameter]:
    torch.manual_seed(1)
    return [Parameter(torch.randn(shape)) for shape in SHAPES]


def flat_adam() -> tuple[FlatOptimizer, list[Parameter], torch.optim.Adam]:
    params = parameters()
    optimizer = torch.optim.Adam(params, lr=0.1)
    return FlatOptimizer([params[:2], params[2:]], optimizer), params, optimizer


def torch_step(
    optimizer: torch.optim.Optimizer, params: list[Parameter], gradients: np.ndarray, has_gradient: Sequence[bool]
) -> None:
    """Take one step of torch's optimizer with clipping at norm 1; W₁, b₁ and W₂, b₂ may have no gradient."""
    chunks = torch.split(torch.from_numpy(gradients), [p.numel() for p in params])
    for i, (p, chunk) in enumerate(zip(params, chunks, strict=True)):
        p.grad = chunk.view(p.shape).clone() if has_gradient[i // 2] else None
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_torchs_on_separate_parameters(name: str) -> None:
    """Finds options or states that are lost, a momentum that moves a group without gradient, a stale learning rate,
    clipping per group instead of over all parameters, and a state that does not survive being joined again."""
    cls, options = OPTIMIZERS[name]
    params, reference = parameters(), parameters()
    optimizer, reference_optimizer = cls(params, **options), cls(reference, **options)
    generator = np.random.default_rng(0)
    # Only the first group moves, then both, then only the second one.
    for t, has_gradient in enumerate([(True, False), (True, True), (False, True), (True, True)]):
        gradients = generator.normal(size=12).astype(np.float32) * 10.0 ** (1 - t)  # norms from about 30 to 0.03
        gradients *= np.repeat(has_gradient, (9, 3))
        if t in (0, 3):
            flat = FlatOptimizer([params[:2], params[2:]], optimizer)  # the last one takes over existing states
        for group in (*optimizer.param_groups, *reference_optimizer.param_groups):
            group["lr"] = 0.1 / (1 + t)
        torch_step(reference_optimizer, reference, gradients, has_gradient)
        before = [p.detach().clone() for p in params]
        flat.gradients[:] = gradients
        flat.clip(1.0)
        flat.step(has_gradient)
        for i, p in enumerate(params):
            torch.testing.assert_close(p.detach(), reference[i].detach(), rtol=1e-5, atol=1e-6)
            assert torch.equal(p, before[i]) != has_gradient[i // 2]
        assert not flat.is_stale(optimizer)
    saved, expected = optimizer.state_dict()["state"], reference_optimizer.state_dict()["state"]
    assert {i: set(entry) for i, entry in saved.items()} == {i: set(entry) for i, entry in expected.items()}
    for i, entry in expected.items():
        for key, value in entry.items():
            torch.testing.assert_close(saved[i][key], value, rtol=1e-5, atol=1e-6)


def test_clipping_by_hand() -> None:
    """Finds clipping by value, or a scale applied to small gradients: the gradient (3, 0, …, 4) has the norm 5."""
    params = parameters()
    flat = FlatOptimizer([params], torch.optim.SGD(params, lr=1.0))
    for max_grad_norm, scale in ((None, 1.0), (10.0, 1.0), (0.5, 0.1)):
        first, last = params[0][0, 0].item(), params[3].item()
        flat.gradients[[0, -1]] = 3, 4
        assert flat.clip(max_grad_norm) == pytest.approx(5)
        flat.step([True])
        assert first - params[0][0, 0].item() == pytest.approx(3 * scale, rel=1e-4)
        assert last - params[3].item() == pytest.approx(4 * scale, rel=1e-4)


def test_parameters_gradients_and_states_are_views() -> None:
    """Finds copies: a policy or a saved optimizer that shows old numbers."""
    flat, params, optimizer = flat_adam()
    flat.gradients[:] = np.arange(12)
    assert params[1].grad is not None
    assert params[1].grad.tolist() == [6.0, 7.0, 8.0]  # after the six gradients of W₁
    with torch.no_grad():
        params[2][0, 1] = 5.0
        assert flat.flats[1].tolist()[1] == 5.0
    flat.step([True, True])
    assert optimizer.state[params[3]]["exp_avg"].tolist() == pytest.approx([0.1 * 11])  # (1 − β₁) g
    assert optimizer.state[params[0]]["step"].item() == 1
    flat.step([True, False])
    assert [optimizer.state[p]["step"].item() for p in params] == [2, 2, 1, 1]


def test_is_stale() -> None:
    """Finds a replaced parameter, gradient, state or optimizer that goes unnoticed, and changes in place that do not
    matter but cause a rebuild."""
    flat, params, optimizer = flat_adam()
    before = addresses(params)
    assert flat.is_stale(torch.optim.Adam(params))
    flat.step([True, True])
    with torch.no_grad():
        params[0].add_(1)
    optimizer.param_groups[0]["lr"] = 0.5
    assert not flat.is_stale(optimizer)
    assert addresses(params) == before
    optimizer.load_state_dict(optimizer.state_dict())
    assert flat.is_stale(optimizer)
    params[3].data = params[3].data.clone()
    assert addresses(params) != before
    flat, params, optimizer = flat_adam()
    before = addresses(params)
    optimizer.zero_grad()
    assert addresses(params) != before
